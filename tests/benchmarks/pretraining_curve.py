"""Benefit of pretraining: starts compared by share of the labels, and by epochs.

    python -m tests.benchmarks.pretraining_curve WORK --photos … --ratings … --attributes … --unlabelled utkface \\
        --set weights=mobilenet_v2_imagenet.keras face_detector=… face_embedder=… face_layers=…

Options and folder are those of ``cross_validation``. MobileNetV2 at 64 pixels, small enough for two cores, starts from
random weights, from an autoencoder or denoising autoencoder on the unlabelled photos (`EPOCHS` epochs of the pipeline's
own pretraining), or from ImageNet (the weights that ``weights`` names). The face network is the one that
``face_embedder`` names, on the aligned face. ImageNet at the pipeline's own size shows the cost of the small size.

* By labels: each network stays frozen, and a ridge head is fitted to 10 to 100 % of the photos outside the fold, with
  pairs of features weighted like features.
* By epochs: head, then the whole network by gradient descent, as in the pipeline: LCC on one fold's photos after each
  epoch. Each start has the best learning rate of `TUNED` on another fold. Neither fold is trained on.

Pretraining uses the photos of the data set's training split without their ratings, including those of the folds. This
may favour the autoencoders, and none of the other starts. The case study says that pretraining gives a higher accuracy
from fewer labels in fewer epochs; a sentence at the end says what the results say about it. Writes
``pretraining_curve.json`` and ``.png``.
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
"""Epochs of pretraining; on 7,000 photos each takes some minutes of two cores."""

TUNED = {"shares": (0.25, 1.0), "epochs": 15, "rates": (3e-5, 1e-4, 3e-4)}
"""Fine-tuning; the pipeline's own rate is the smallest, and weaker starts may need larger ones."""

NOTHING, AUTOENCODER, DENOISING, IMAGENET, LARGE, FACES = (
    "nothing", "autoencoder", "denoising autoencoder", "ImageNet", "ImageNet at full size", "face network",
)  # fmt: skip
_SETTINGS = Pretraining(
    start="none", backbone="MobileNetV2", crop=64, scaling="torch", epochs=EPOCHS, learning_rate=1e-3
)
_SCALE = 72


def main() -> None:
    """Compute missing results, print the tables, and write the results."""
    parser = protocol.parser(__doc__)
    parser.add_argument("--unlabelled", required=True, help="photos to pretrain on")
    options = parser.parse_args()
    work = Path(options.work)
    parameters, training = protocol.settings(options)
    inputs, known = protocol.features(work, options, parameters)
    encoders = _encoders(work, options, parameters)
    small = replace(training, scale=_SCALE)
    frozen = {start: _pooled(work, start, encoder, small) for start, encoder in encoders.items()}
    if training.scale != _SCALE and parameters.get("start") == "imagenet":
        frozen[LARGE] = inputs["pooled"]
    if EMBEDDING in inputs:
        frozen[FACES] = inputs[EMBEDDING]
    shares = by_labels(work / "pretraining_curve", frozen, known, training, options.seeds)
    tuned, rates = _by_epochs(work, {name: encoders[name] for name in (NOTHING, AUTOENCODER, IMAGENET)}, known, small)
    results = {
        "photos": len(known.votes), "folds": protocol.FOLDS, "seeds": options.seeds,
        "pretraining": {"backbone": _SETTINGS.backbone, "crop": _SETTINGS.crop, "epochs": EPOCHS},
        "shares": shares, "epochs": {"rates": rates, "lcc": tuned}, "said": said(shares, tuned),
    }  # fmt: skip
    print(f"\n{results['said']}")
    protocol.write(work, "pretraining_curve", results, draw(shares, tuned, len(known.votes)))


def _encoders(work: Path, given: Any, parameters: Mapping[str, Any]) -> dict[str, Path]:
    """Return the folder of each start's encoder."""
    without_faces = {name: value for name, value in parameters.items() if not name.startswith("face_")}
    dataset = protocol.data(work / "unlabelled", given, without_faces, given.unlabelled)
    starts = {
        NOTHING: _SETTINGS,
        AUTOENCODER: replace(_SETTINGS, start="autoencoder"),
        DENOISING: replace(_SETTINGS, start="denoising"),
        IMAGENET: replace(_SETTINGS, start="imagenet", weights=parameters["weights"]),
    }
    encoders = {}
    for start, pretraining in starts.items():
        began = time.process_time()
        encoders[start] = protocol.pretrained(dataset, work / "encoders" / start.replace(" ", "_"), pretraining, _SCALE)
        if (spent := time.process_time() - began) > 1:
            print(f"{start}: {spent / 60:.1f} minutes of a core", flush=True)
    return encoders


def _pooled(work: Path, start: str, encoder: Path, training: Training) -> np.ndarray:
    """Return an encoder's features of the rated photos, ``[n, c]``; stored in WORK."""
    file = work / "encoders" / f"{start.replace(' ', '_')}.npz"
    if not file.exists():
        inputs, _ = protocol.pooled(work / "dataset", encoder, training, WHOLE_SIGHT)
        protocol.save_arrays(file, pooled=inputs["pooled"])
    with np.load(file) as loaded:
        return loaded["pooled"]


def by_labels(
    place: Path, frozen: Mapping[str, np.ndarray], known: Known, training: Training, seeds: int
) -> dict[str, dict[str, Any]]:
    """Return the metrics of each start by share of the labels, and its gain over the first start at the same share."""
    results = {}
    for share in SHARES:
        label, predicted = f"{share:.0%}", {}
        for start, pooled in frozen.items():
            variant = replace(WHOLE, share=share)
            fit_and_predict = protocol.learning(variant, {"pooled": pooled}, known.votes, training)
            predicted[start] = protocol.held_out(place, f"{start}, {label}", known, seeds, fit_and_predict)
            figures = protocol.figures(known.votes, predicted[start])
            print(protocol.line(f"{start}, {label} of the labels", figures), flush=True)
        results[label] = protocol.compared(known, predicted, next(iter(frozen)))
        print(f"against {next(iter(frozen))}, paired\n{protocol.gains(results[label])}", flush=True)
    return results


def _by_epochs(
    work: Path, encoders: Mapping[str, Path], known: Known, training: Training
) -> tuple[dict[str, dict[str, list[float]]], dict[str, dict[str, float]]]:
    """Return LCC on the first fold's photos after the head and each epoch, by share and start; and the best rates."""
    pixels = cache(lambda: _pixels(work))
    lccs: dict[str, dict[str, list[float]]] = {}
    rates: dict[str, dict[str, float]] = {}
    for share in TUNED["shares"]:
        label = f"{share:.0%}"
        lccs[label], rates[label] = {}, {}
        for start, encoder in encoders.items():
            settings = [replace(training, learning_rate=rate) for rate in TUNED["rates"]]
            lccs_by_rate = {
                candidate.learning_rate: _kept(work, start, encoder, pixels, known, share, candidate)
                for candidate in settings
            }
            rates[label][start] = best = max(lccs_by_rate, key=lambda rate: lccs_by_rate[rate][1].max())
            lccs[label][start] = lccs_by_rate[best][0].tolist()
            lcc_text = " ".join(f"{lcc:.3f}" for lcc in lccs[label][start])
            print(f"{start}, {label} of the labels, by epochs at {best:g}: {lcc_text}", flush=True)
    return lccs, rates


def _kept(
    work: Path,
    start: str,
    encoder: Path,
    pixels: Callable[[], np.ndarray],
    known: Known,
    share: float,
    training: Training,
) -> np.ndarray:
    """Return the result of `tuned`; stored in WORK."""
    file = work / "pretraining_curve" / f"{start}-{share:.0%}-{training.learning_rate:g}.npz"
    if not file.exists():
        protocol.save_arrays(file, lccs=tuned(encoder, pixels(), known, share, training, start == NOTHING))
    return np.load(file)["lccs"]


def _pixels(work: Path) -> np.ndarray:
    """Return all rated photos at the scale from which crops are taken, uint8 ``[n, scale, scale, 3]``."""
    batches = [
        batch.numpy().round().astype("uint8")
        for split in ("train", "validation", "test")
        for batch, _ in photos.batches(work / "dataset", split, scale=_SCALE, crop=_SCALE, batch_size=64)
    ]
    return np.concatenate(batches)


def tuned(encoder: Path, pixels: np.ndarray, known: Known, share: float, training: Training, new: bool) -> np.ndarray:
    """Train the head, then head and network; evaluate after the head and after each epoch.

    Args:
        encoder: Folder of the encoder.
        pixels: All photos, uint8 ``[n, scale, scale, 3]``.
        known: Ratings of all photos.
        share: Fraction of the photos outside the first two folds to train on.
        training: Settings.
        new: Whether the network's batch norms are uncalibrated, so that they have to be trained.

    Returns:
        LCC on the photos of the first and of the second fold, ``[2, 1 + epochs]``.
    """
    keras.utils.set_random_seed(training.seed)
    network, pretraining = bundle.load_encoder(encoder)
    offset = (pixels.shape[1] - pretraining.crop) // 2
    centre = pixels[:, offset : offset + pretraining.crop, offset : offset + pretraining.crop]
    test_folds = list(islice(protocol.folds(known.groups, seed=0), 2))
    indices = protocol.drawn(~(test_folds[0] | test_folds[1]), share, seed=0)
    scorer = build_scorer(network, training.dropout)
    pooled = keras.Model(scorer.input, scorer.get_layer("pooled").output)
    head = build_head(network.output_shape[-1], training.dropout)
    head.compile(keras.optimizers.Adam(training.head_learning_rate), loss=squared_emd)
    train_data = pooled.predict(centre[indices].astype("float32"), verbose=0), known.votes[indices]
    head.fit(*train_data, batch_size=training.batch_size, epochs=training.head_epochs, verbose=0)
    copy_head_weights(head, scorer)
    if not new:
        freeze_batch_norms(scorer)
    scorer.compile(keras.optimizers.Adam(training.learning_rate), loss=squared_emd)

    def evaluate() -> list[float]:
        votes = [scorer.predict(centre[fold].astype("float32"), batch_size=64, verbose=0) for fold in test_folds]
        pairs = zip(test_folds, votes, strict=True)
        return [
            float(regression.lcc(known.truth[fold], regression.mean_scores(fold_votes))) for fold, fold_votes in pairs
        ]

    lccs, rng = [evaluate()], np.random.default_rng(training.seed)
    for _ in range(TUNED["epochs"]):
        crops = _cropped(pixels[indices], pretraining.crop, rng)
        scorer.fit(crops, known.votes[indices], batch_size=training.batch_size, verbose=0)
        lccs.append(evaluate())
    return np.array(lccs).T


def _cropped(pixels: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """Return a random crop of each photo, half of them mirrored, float32."""
    rows, columns = rng.integers(0, pixels.shape[1] - side + 1, (2, len(pixels)))
    mirrored = rng.random(len(pixels)) < 0.5
    crops = [
        photo[row : row + side, column : column + side, :][:, :: -1 if mirror else 1]
        for photo, row, column, mirror in zip(pixels, rows, columns, mirrored, strict=True)
    ]
    return np.stack(crops).astype("float32")


def said(shares: Mapping[str, Mapping[str, Any]], epochs: Mapping[str, Mapping[str, list[float]]]) -> str:
    """Return sentences on whether pretraining gives a higher accuracy from fewer labels in fewer epochs."""
    starts_tried, starts = next(iter(shares.values())), (AUTOENCODER, DENOISING, IMAGENET, LARGE, FACES)
    sentences = [_by_share(start, shares) for start in starts if start in starts_tried]
    for share, lccs in epochs.items():
        best = max(lccs[NOTHING])
        sentences += [
            f"By the gradient with {share} of the labels, from {start}: {_epochs(lccs[start], best)}"
            for start in lccs
            if start != NOTHING
        ]
    for start in (AUTOENCODER, IMAGENET):
        verdict = "holds" if claimed(start, shares, epochs) else "does not hold"
        sentences.append(f"A higher accuracy from fewer labels in fewer epochs {verdict} for {start} here.")
    return " ".join(sentences)


def claimed(start: str, shares: Mapping[str, Any], epochs: Mapping[str, Mapping[str, list[float]]]) -> bool:
    """Return whether a start is surely better at every share, as good with fewer labels, and sooner by epochs."""
    *fewer, all_labels = shares.values()
    best = [(lccs, max(lccs[NOTHING])) for lccs in epochs.values()]
    is_sooner = [_first(lccs[start], target) < _first(lccs[NOTHING], target) for lccs, target in best]
    return (
        all(results[start]["gain"]["lcc"][1] > 0 for results in shares.values())
        and any(results[start]["lcc"] >= all_labels[NOTHING]["lcc"] for results in fewer)
        and all(is_sooner)
    )


def _first(lccs: list[float], wanted: float) -> float:
    """Return the first epoch with this LCC; infinite if it was never reached."""
    return next((epoch for epoch, lcc in enumerate(lccs) if lcc >= wanted), float("inf"))


def _by_share(start: str, shares: Mapping[str, Mapping[str, Any]]) -> str:
    gains = {share: results[start]["gain"]["lcc"] for share, results in shares.items()}
    sure_shares = [share for share, (_, low, _) in gains.items() if low > 0]
    gained = ", ".join(
        f"{gain:+.3f} ({low:+.3f} to {high:+.3f}) at {share}" for share, (gain, low, high) in gains.items()
    )
    nothing_lcc = shares[list(shares)[-1]][NOTHING]["lcc"]
    enough_share = next(
        (share for share, results in shares.items() if results[start]["lcc"] >= nothing_lcc), "no share"
    )
    if len(sure_shares) == len(gains):
        where = "at every share"
    else:
        where = f"surely at {', '.join(sure_shares)} alone" if sure_shares else "surely nowhere"
    return (
        f"From {start} frozen features are better than from nothing {where}: LCC {gained}; what nothing gives with all"
        f" labels, {nothing_lcc:.3f}, it gives with {enough_share} of them."
    )


def _epochs(lccs: list[float], best: float) -> str:
    first_epoch = _first(lccs, best)
    when = f"after {first_epoch:.0f} epochs" if first_epoch < len(lccs) else f"never in {len(lccs) - 1} epochs"
    return f"LCC {max(lccs):.3f} at best, the {best:.3f} that nothing reaches at best {when}."


def draw(shares: Mapping[str, Any], epochs: Mapping[str, Any], photos_: int) -> Figure:
    """Draw LCC by labels and by epochs."""
    figure = Figure(figsize=(15, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    percentages = [float(share.rstrip("%")) for share in shares]
    colours = {
        start: f"C{index}" for index, start in enumerate((NOTHING, AUTOENCODER, DENOISING, IMAGENET, LARGE, FACES))
    }
    for start in next(iter(shares.values())):
        results = [of_share[start] for of_share in shares.values()]
        left.plot(percentages, [result["lcc"] for result in results], "o-", color=colours[start], label=start)
        low, high = zip(*(result["interval"]["lcc"] for result in results), strict=True)
        left.fill_between(percentages, low, high, color=colours[start], alpha=0.15, linewidth=0)
    left.set_xscale("log")
    left.set_xticks(percentages, [*shares])
    left.minorticks_off()
    left.set_xlabel(f"labels learnt from (head on frozen features; {photos_:,} photos; bands: 95 %)")
    for index, (share, lccs) in enumerate(epochs.items()):
        for start, values in lccs.items():
            style = ("--", "-")[index % 2]
            right.plot(values, style, color=colours[start], label=f"{start}, {share} of the labels")
    right.set_xlabel("epochs of the whole network (one fold, one seed), each at its best rate; 0: the head alone")
    for axes in (left, right):
        axes.set_ylabel("LCC with people's mean scores")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


if __name__ == "__main__":
    main()
