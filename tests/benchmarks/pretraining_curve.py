"""What pretraining is worth: starts by shares of the labels, and by epochs.

    python -m tests.benchmarks.pretraining_curve WORK --photos … --ratings … --attributes … --unlabelled utkface \\
        --set weights=mobilenet_v2_imagenet.keras face_detector=… face_embedder=… face_layers=…

As ``cross_validation``, of which it uses the options and the folder. MobileNetV2 at 64 pixels, small enough for two
cores, starts from nothing, as an autoencoder or denoising autoencoder on the unlabelled photos (`EPOCHS` epochs by the
pipeline's own pretraining), or from ImageNet (the weights that ``weights`` names). The face network is the one that
``face_embedder`` names, on the aligned face. Beside them, for what the small size costs, ImageNet at the pipeline's
own size.

* By labels: each network stays as it is, and the closed form learns the head from 10 to 100 % of the photos outside
  the fold, pairs of features counting as much as features.
* By epochs: head, then the whole network by the gradient, as the pipeline trains: LCC on one fold's photos after each
  epoch. Each start has the learning rate, of `TUNED`, with which it does best on another fold; from neither is learnt.

Pretraining sees the photos of the data set's training split without their ratings, folds or not: this may favour the
autoencoders, and none of the others. The case study says that pretraining gives a higher accuracy from fewer labels in
fewer epochs; what the figures say of that is a sentence at the end. Writes ``pretraining_curve.json`` and ``.png``.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import keras
import numpy as np
from matplotlib.figure import Figure

from components.scorer.artifacts import bundle
from components.scorer.data import photos
from components.scorer.faces.face_inputs import EMBEDDING
from components.scorer.metrics import regression
from components.scorer.model.inputs import PHOTO_ONLY as WHOLE_SIGHT
from components.scorer.model.losses import squared_emd
from components.scorer.model.network import build_head, build_scorer, copy_head_weights
from components.scorer.model.surgery import freeze_batch_norms
from components.scorer.settings import Pretraining, Training
from tests.benchmarks import protocol
from tests.benchmarks.protocol import WHOLE, Known

SHARES = (0.1, 0.25, 0.5, 1.0)
EPOCHS = 2
"""Of pretraining: on 7,000 photos some minutes of two cores each."""

TUNED = {"shares": (0.25, 1.0), "epochs": 15, "rates": (3e-5, 1e-4, 3e-4)}
"""By the gradient; the pipeline's own rate is the least of these: what starts from less may need larger steps."""

NOTHING, AUTOENCODER, DENOISING, IMAGENET, LARGE, FACES = (
    "nothing", "autoencoder", "denoising autoencoder", "ImageNet", "ImageNet at full size", "face network",
)  # fmt: skip
_SETTINGS = Pretraining(
    start="none", backbone="MobileNetV2", crop=64, scaling="torch", epochs=EPOCHS, learning_rate=1e-3
)
_SCALE = 72


def main() -> None:
    """Compute what is missing, print the tables, and write the results."""
    parser = protocol.parser(__doc__)
    parser.add_argument("--unlabelled", required=True, help="photos to pretrain on")
    given = parser.parse_args()
    work = Path(given.work)
    parameters, training = protocol.settings(given)
    seen, known = protocol.features(work, given, parameters)
    encoders = _encoders(work, given, parameters)
    small = replace(training, scale=_SCALE)
    frozen = {start: _pooled(work, start, encoder, small) for start, encoder in encoders.items()}
    if training.scale != _SCALE and parameters.get("start") == "imagenet":
        frozen[LARGE] = seen["pooled"]
    if EMBEDDING in seen:
        frozen[FACES] = seen[EMBEDDING]
    shares = by_labels(work / "pretraining_curve", frozen, known, training, given.seeds)
    tuned, rates = _by_epochs(work, {name: encoders[name] for name in (NOTHING, AUTOENCODER, IMAGENET)}, known, small)
    results = {
        "photos": len(known.votes), "folds": protocol.FOLDS, "seeds": given.seeds,
        "pretraining": {"backbone": _SETTINGS.backbone, "crop": _SETTINGS.crop, "epochs": EPOCHS},
        "shares": shares, "epochs": {"rates": rates, "lcc": tuned}, "said": said(shares, tuned),
    }  # fmt: skip
    print(f"\n{results['said']}")
    protocol.write(work, "pretraining_curve", results, draw(shares, tuned, len(known.votes)))


def _encoders(work: Path, given: Any, parameters: Mapping[str, Any]) -> dict[str, Path]:
    """The folder of the encoder of each start."""
    without = {name: value for name, value in parameters.items() if not name.startswith("face_")}
    dataset = protocol.data(work / "unlabelled", given, without, given.unlabelled)
    starts = {
        NOTHING: _SETTINGS,
        AUTOENCODER: replace(_SETTINGS, start="autoencoder"),
        DENOISING: replace(_SETTINGS, start="denoising"),
        IMAGENET: replace(_SETTINGS, start="imagenet", weights=parameters["weights"]),
    }
    found = {}
    for start, pretraining in starts.items():
        began = time.process_time()
        found[start] = protocol.pretrained(dataset, work / "encoders" / start.replace(" ", "_"), pretraining, _SCALE)
        if (spent := time.process_time() - began) > 1:
            print(f"{start}: {spent / 60:.1f} minutes of a core", flush=True)
    return found


def _pooled(work: Path, start: str, encoder: Path, training: Training) -> np.ndarray:
    """What an encoder sees of the rated photos, ``[n, c]``."""
    kept = work / "encoders" / f"{start.replace(' ', '_')}.npz"
    if not kept.exists():
        seen, _ = protocol.pooled(work / "dataset", encoder, training, WHOLE_SIGHT)
        protocol.save_arrays(kept, pooled=seen["pooled"])
    with np.load(kept) as found:
        return found["pooled"]


def by_labels(
    place: Path, frozen: Mapping[str, np.ndarray], known: Known, training: Training, seeds: int
) -> dict[str, dict[str, Any]]:
    """The figures of each start by share of the labels, and its gain over the first one at the same share."""
    found = {}
    for share in SHARES:
        label, predicted = f"{share:.0%}", {}
        for start, pooled in frozen.items():
            variant = replace(WHOLE, share=share)
            answer = protocol.learning(variant, {"pooled": pooled}, known.votes, training)
            predicted[start] = protocol.held_out(place, f"{start}, {label}", known, seeds, answer)
            figures = protocol.figures(known.votes, predicted[start])
            print(protocol.line(f"{start}, {label} of the labels", figures), flush=True)
        found[label] = protocol.compared(known, predicted, next(iter(frozen)))
        print(f"against {next(iter(frozen))}, paired\n{protocol.gains(found[label])}", flush=True)
    return found


def _by_epochs(
    work: Path, encoders: Mapping[str, Path], known: Known, training: Training
) -> tuple[dict[str, dict[str, list[float]]], dict[str, dict[str, float]]]:
    """LCC on the first fold's photos after each epoch, the head's first, by share and start; and the rates."""
    pixels = cache(lambda: _pixels(work))
    found: dict[str, dict[str, list[float]]] = {}
    rates: dict[str, dict[str, float]] = {}
    for share in TUNED["shares"]:
        label = f"{share:.0%}"
        found[label], rates[label] = {}, {}
        for start, encoder in encoders.items():
            settings = [replace(training, learning_rate=rate) for rate in TUNED["rates"]]
            tried = {each.learning_rate: _kept(work, start, encoder, pixels, known, share, each) for each in settings}
            rates[label][start] = best = max(tried, key=lambda rate: tried[rate][1].max())
            found[label][start] = tried[best][0].tolist()
            told = " ".join(f"{each:.3f}" for each in found[label][start])
            print(f"{start}, {label} of the labels, by epochs at {best:g}: {told}", flush=True)
    return found, rates


def _kept(
    work: Path,
    start: str,
    encoder: Path,
    pixels: Callable[[], np.ndarray],
    known: Known,
    share: float,
    training: Training,
) -> np.ndarray:
    """What `tuned` returns, kept."""
    file = work / "pretraining_curve" / f"{start}-{share:.0%}-{training.learning_rate:g}.npz"
    if not file.exists():
        protocol.save_arrays(file, lccs=tuned(encoder, pixels(), known, share, training, start == NOTHING))
    return np.load(file)["lccs"]


def _pixels(work: Path) -> np.ndarray:
    """All rated photos at the scale from which crops are taken, uint8 ``[n, scale, scale, 3]``."""
    batches = [
        batch.numpy().round().astype("uint8")
        for split in ("train", "validation", "test")
        for batch, _ in photos.batches(work / "dataset", split, scale=_SCALE, crop=_SCALE, batch_size=64)
    ]
    return np.concatenate(batches)


def tuned(encoder: Path, pixels: np.ndarray, known: Known, share: float, training: Training, new: bool) -> np.ndarray:
    """Train head, then head and network, and ask after the head and after each epoch.

    Args:
        encoder: folder of it.
        pixels: of all photos, uint8 ``[n, scale, scale, 3]``.
        known: of all photos.
        share: of the photos outside the first two folds that are learnt from.
        training: settings.
        new: whether the network's batch norms have still to learn what photos are like.

    Returns:
        LCC on the first and on the second fold's photos, ``[2, 1 + epochs]``.
    """
    keras.utils.set_random_seed(training.seed)
    network, pretraining = bundle.load_encoder(encoder)
    middle = (pixels.shape[1] - pretraining.crop) // 2
    centre = pixels[:, middle : middle + pretraining.crop, middle : middle + pretraining.crop]
    asked = list(islice(protocol.folds(known.groups, seed=0), 2))
    some = protocol.drawn(~(asked[0] | asked[1]), share, seed=0)
    scorer = build_scorer(network, training.dropout)
    pooled = keras.Model(scorer.input, scorer.get_layer("pooled").output)
    head = build_head(network.output_shape[-1], training.dropout)
    head.compile(keras.optimizers.Adam(training.head_learning_rate), loss=squared_emd)
    learnt = pooled.predict(centre[some].astype("float32"), verbose=0), known.votes[some]
    head.fit(*learnt, batch_size=training.batch_size, epochs=training.head_epochs, verbose=0)
    copy_head_weights(head, scorer)
    if not new:
        freeze_batch_norms(scorer)
    scorer.compile(keras.optimizers.Adam(training.learning_rate), loss=squared_emd)

    def reached() -> list[float]:
        votes = [scorer.predict(centre[fold].astype("float32"), batch_size=64, verbose=0) for fold in asked]
        told = zip(asked, votes, strict=True)
        return [float(regression.lcc(known.truth[fold], regression.mean_scores(each))) for fold, each in told]

    found, rng = [reached()], np.random.default_rng(training.seed)
    for _ in range(TUNED["epochs"]):
        seen = _cropped(pixels[some], pretraining.crop, rng)
        scorer.fit(seen, known.votes[some], batch_size=training.batch_size, verbose=0)
        found.append(reached())
    return np.array(found).T


def _cropped(pixels: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """A random crop of each photo, half of them mirrored, float32."""
    rows, columns = rng.integers(0, pixels.shape[1] - side + 1, (2, len(pixels)))
    mirrored = rng.random(len(pixels)) < 0.5
    crops = [
        photo[row : row + side, column : column + side, :][:, :: -1 if mirror else 1]
        for photo, row, column, mirror in zip(pixels, rows, columns, mirrored, strict=True)
    ]
    return np.stack(crops).astype("float32")


def said(shares: Mapping[str, Mapping[str, Any]], epochs: Mapping[str, Mapping[str, list[float]]]) -> str:
    """Whether pretraining gives a higher accuracy from fewer labels in fewer epochs, in plain sentences."""
    there, starts = next(iter(shares.values())), (AUTOENCODER, DENOISING, IMAGENET, LARGE, FACES)
    sentences = [_by_share(start, shares) for start in starts if start in there]
    for share, lccs in epochs.items():
        best = max(lccs[NOTHING])
        sentences += [
            f"By the gradient with {share} of the labels, from {start}: {_epochs(lccs[start], best)}"
            for start in lccs
            if start != NOTHING
        ]
    for start in (AUTOENCODER, IMAGENET):
        word = "holds" if claimed(start, shares, epochs) else "does not hold"
        sentences.append(f"A higher accuracy from fewer labels in fewer epochs {word} for {start} here.")
    return " ".join(sentences)


def claimed(start: str, shares: Mapping[str, Any], epochs: Mapping[str, Mapping[str, list[float]]]) -> bool:
    """Whether a start is surely better than nothing at every share, as good with fewer labels, and sooner by epochs."""
    *fewer, whole = shares.values()
    best = [(lccs, max(lccs[NOTHING])) for lccs in epochs.values()]
    sooner = [_first(lccs[start], wanted) < _first(lccs[NOTHING], wanted) for lccs, wanted in best]
    return (
        all(found[start]["gain"]["lcc"][1] > 0 for found in shares.values())
        and any(found[start]["lcc"] >= whole[NOTHING]["lcc"] for found in fewer)
        and all(sooner)
    )


def _first(lccs: list[float], wanted: float) -> float:
    """The epoch after which an LCC was reached; infinite where it never was."""
    return next((epoch for epoch, lcc in enumerate(lccs) if lcc >= wanted), float("inf"))


def _by_share(start: str, shares: Mapping[str, Mapping[str, Any]]) -> str:
    gains = {share: found[start]["gain"]["lcc"] for share, found in shares.items()}
    sure = [share for share, (_, low, _) in gains.items() if low > 0]
    told = ", ".join(f"{gain:+.3f} ({low:+.3f} to {high:+.3f}) at {at}" for at, (gain, low, high) in gains.items())
    whole = shares[list(shares)[-1]][NOTHING]["lcc"]
    enough = next((share for share, found in shares.items() if found[start]["lcc"] >= whole), "no share")
    if len(sure) == len(gains):
        where = "at every share"
    else:
        where = f"surely at {', '.join(sure)} alone" if sure else "surely nowhere"
    return (
        f"From {start} frozen features are better than from nothing {where}: LCC {told}; what nothing gives with all"
        f" labels, {whole:.3f}, it gives with {enough} of them."
    )


def _epochs(lccs: list[float], best: float) -> str:
    reached = _first(lccs, best)
    when = f"after {reached:.0f} epochs" if reached < len(lccs) else f"never in {len(lccs) - 1} epochs"
    return f"LCC {max(lccs):.3f} at best, the {best:.3f} that nothing reaches at best {when}."


def draw(shares: Mapping[str, Any], epochs: Mapping[str, Any], photos_: int) -> Figure:
    """LCC by labels, and by epochs."""
    figure = Figure(figsize=(15, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    at = [float(share.rstrip("%")) for share in shares]
    colours = {
        start: f"C{place}" for place, start in enumerate((NOTHING, AUTOENCODER, DENOISING, IMAGENET, LARGE, FACES))
    }
    for start in next(iter(shares.values())):
        found = [of_share[start] for of_share in shares.values()]
        left.plot(at, [each["lcc"] for each in found], "o-", color=colours[start], label=start)
        low, high = zip(*(each["interval"]["lcc"] for each in found), strict=True)
        left.fill_between(at, low, high, color=colours[start], alpha=0.15, linewidth=0)
    left.set_xscale("log")
    left.set_xticks(at, [*shares])
    left.minorticks_off()
    left.set_xlabel(f"labels learnt from (head on frozen features; {photos_:,} photos; bands: 95 %)")
    for place, (share, lccs) in enumerate(epochs.items()):
        for start, values in lccs.items():
            style = ("--", "-")[place % 2]
            right.plot(values, style, color=colours[start], label=f"{start}, {share} of the labels")
    right.set_xlabel("epochs of the whole network (one fold, one seed), each at its best rate; 0: the head alone")
    for axes in (left, right):
        axes.set_ylabel("LCC with people's mean scores")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


if __name__ == "__main__":
    main()
