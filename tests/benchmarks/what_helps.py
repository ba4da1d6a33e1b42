"""What else helps: each change alone, with its gain over the same scorer without it.

    python -m tests.benchmarks.what_helps WORK --photos … --ratings … --attributes … --set …

As ``cross_validation``, of which it uses the options and the folder. Two scorers are changed, both of which see photo,
face and embedding. One learns its head in closed form, pairs of features counting as much as features: that is what
the pipeline does where faces are read. The other learns it by the gradient, on the same features, as the pipeline's
head phase does: that is where a loss can be changed.

* One view: without the upright face through the same backbone. No pairs: features weighed alone.
* Test-time mirror: the mean of the votes for a photo, and its face, and for their mirror images.
* Rater-count weighting: a photo counts by ``n / (n + k)``, the reliability of its mean, with n raters and k the
  variance of ratings of a photo over the variance of true means (both by analysis of variance of what is learnt from).
* Smoothing by rater noise: votes are ``(n · votes + k · all photos' votes) / (n + k)``, the same shrinkage.
* A correlation term: plus `TERM` times 1 less the correlation of mean scores within a batch. A rank term: plus `TERM`
  times the logistic loss of every pair of photos of a batch, weighed by how far apart people put them.
* Weight averaging: an exponential moving average of the weights over two epochs, the pipeline's default.

All but the pairs and the mirror are settings of the pipeline: ``face_view``, ``rater_weighting``, ``rater_smoothing``,
``correlation_term``, ``rank_term`` and ``ema``.

What cannot be measured here stands in the results with its reason. Prints a table, and writes ``what_helps.json`` and
``what_helps.png``.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
from matplotlib.figure import Figure

from components.scorer.artifacts import bundle
from components.scorer.data import photos
from components.scorer.faces.face_inputs import EMBEDDING, FACE, FOUND
from components.scorer.fit import ema
from components.scorer.model.auxiliary_heads import HeadSpec
from components.scorer.model.inputs import ModelInputs, PCABasis, set_pca_weights
from components.scorer.model.network import build_head
from components.scorer.settings import Training
from components.training.examples.label_noise import fit_label_noise
from components.training.features import FeatureExtractor
from components.training.heads.pca import principal_components
from components.training.train import compile_for_votes
from tests.benchmarks import protocol
from tests.benchmarks.protocol import BEST, Known, Seen

CLOSED, GRADIENT = "closed form", "by the gradient"
TERM = 0.05
"""Of the size of the loss itself, .07 to .1: what is added is to be felt and not to rule."""

NOT_MEASURED = {
    "larger backbones": "there are no weights of any: a backbone without pretraining is no match for one with it",
    "progressive size": "it changes the training of the whole network, of which five folds take hours on two cores",
    "spoiled copies": "their faces have to be read anew; what they cost is told in closed_form.FAULT, .003 of SRCC",
}

_PLAIN = replace(BEST, name=CLOSED)


def main() -> None:
    """Compute what is missing, print the table, and write the results."""
    given = protocol.parser(__doc__).parse_args()
    work = Path(given.work)
    parameters, training = protocol.settings(given)
    seen, known = protocol.features(work, given, parameters)
    if EMBEDDING not in seen or "pooled_face" not in seen:
        raise SystemExit("the changed scorers read faces: give face_detector and face_embedder")
    raters = protocol.raters(work)
    groups = {
        GRADIENT: by_gradient(seen, known, raters, training),
        CLOSED: closed(seen, known, raters, training, lambda: _mirrored(work, training)),
    }
    variants: dict[str, Any] = {}
    for base, answers in groups.items():
        predicted = {}
        for name, answer in answers.items():
            if given.kept and not protocol.is_kept(work / "what_helps", name, given.seeds):
                continue
            predicted[name] = protocol.held_out(work / "what_helps", name, known, given.seeds, answer)
            print(protocol.line(name, protocol.figures(known.votes, predicted[name])), flush=True)
        variants |= protocol.compared(known, predicted, base)
        results = protocol.about(known, predicted, parameters)
        results |= {"variants": variants, "not_measured": NOT_MEASURED, "said": said(variants)}
        print(f"\neach against its own base, paired, 95 % by resampling groups\n{protocol.gains(variants)}")
        protocol.write(work, "what_helps", results, draw(variants, len(known.votes)))
    print("\n".join(f"not measured: {name}: {why}" for name, why in NOT_MEASURED.items()), f"\n{said(variants)}")


def closed(
    seen: Seen, known: Known, raters: np.ndarray, training: Training, mirrored: Callable[[], Seen]
) -> dict[str, protocol.Answer]:
    """The scorer in closed form and its changes, by name."""

    def changed(variant: protocol.Variant = _PLAIN, *, smooth: bool = False, weigh: bool = False) -> protocol.Answer:
        given = protocol.visible(variant, seen)

        def answer(learnt: np.ndarray, asked: np.ndarray, seed: int) -> np.ndarray:
            some = np.flatnonzero(learnt)
            settings = replace(training, rater_smoothing=smooth, rater_weighting=weigh)
            votes, weights = fit_label_noise(known.votes[some], raters[some], settings).targets_and_weights(
                known.votes, raters
            )
            head = protocol.fitted(variant, given, votes, some, replace(training, seed=seed), weights[some])
            return protocol.said(head, given, asked)

        return answer

    def mirror(learnt: np.ndarray, asked: np.ndarray, seed: int) -> np.ndarray:
        head = protocol.fitted(_PLAIN, seen, known.votes, np.flatnonzero(learnt), replace(training, seed=seed))
        return (protocol.said(head, seen, asked) + protocol.said(head, {**seen, **mirrored()}, asked)) / 2

    return {
        CLOSED: changed(),
        f"{CLOSED}, one view": changed(replace(_PLAIN, view=False)),
        f"{CLOSED}, no pairs": changed(replace(_PLAIN, ratio=0.0)),
        f"{CLOSED}, rater-count weighting": changed(weigh=True),
        f"{CLOSED}, smoothing by rater noise": changed(smooth=True),
        f"{CLOSED}, test-time mirror": mirror,
    }


def by_gradient(seen: Seen, known: Known, raters: np.ndarray, training: Training) -> dict[str, protocol.Answer]:
    """The scorer by the gradient and its changes, by name."""
    plain = replace(training, averaging=0.0, rater_weighting=False)
    changes = {
        "": plain,
        ", a correlation term": replace(plain, correlation_term=TERM),
        ", a rank term": replace(plain, rank_term=TERM),
        ", weight averaging": replace(plain, averaging=Training.averaging),
        ", rater-count weighting": replace(plain, rater_weighting=True),
        ", smoothing by rater noise": replace(plain, rater_smoothing=True),
        ", averaging and weighting": replace(plain, averaging=Training.averaging, rater_weighting=True),
        ", averaging, weighting, a rank term": replace(
            plain, averaging=Training.averaging, rater_weighting=True, rank_term=TERM
        ),
    }

    @cache  # of all changes: principal components take longer than the steps
    def components_of(some: tuple[int, ...]) -> PCABasis:
        learnt = [place for place in some if seen[FOUND][place] > 0]
        return principal_components(seen[EMBEDDING][learnt], BEST.embedding)

    def changed(settings: Training) -> protocol.Answer:
        def answer(learnt: np.ndarray, asked: np.ndarray, seed: int) -> np.ndarray:
            some = np.flatnonzero(learnt)
            head = stepped(
                {name: values[some] for name, values in seen.items()}, known.votes[some], raters[some],
                components_of(tuple(some.tolist())), replace(settings, seed=seed),
            )  # fmt: skip
            return protocol.said(head, seen, asked)

        return answer

    return {GRADIENT + name: changed(settings) for name, settings in changes.items()}


def stepped(
    learnt: Seen, votes: np.ndarray, raters: np.ndarray, components: PCABasis, training: Training
) -> keras.Model:
    """The head after the pipeline's head phase, ``training.head_epochs`` long."""
    keras.utils.set_random_seed(training.seed)
    head = build_head(learnt["pooled"].shape[-1], training.dropout, ModelInputs(True, *components.axes.shape))
    set_pca_weights(head, components)
    compile_for_votes(head, training.head_learning_rate, training, len(votes))
    votes, weights = fit_label_noise(votes, raters, training).targets_and_weights(votes, raters)
    head.fit(
        [learnt[each.name] for each in head.inputs], votes, sample_weight=weights,
        batch_size=training.batch_size, epochs=training.head_epochs, verbose=0,
    )  # fmt: skip
    ema.apply_ema(head)
    return head


def _mirrored(work: Path, training: Training) -> dict[str, np.ndarray]:
    """What the encoder sees of the mirror images of photos and faces; embeddings are of both images already."""
    kept = work / "mirrored.npz"
    if not kept.exists():
        network, pretraining = bundle.load_encoder(work / "encoder")
        reading = photos.face_features(work / "dataset")
        sight = ModelInputs(reading.face, reading.embedding, reading.embedding)
        reader = FeatureExtractor(work / "dataset", pretraining.crop, training, HeadSpec(), sight)
        encode = reader.encode_fn(network)
        parts = [
            encode({name: given[name][:, :, ::-1] for name in ("pixels", FACE)})
            for split in ("train", "validation", "test")
            for given, _ in reader.eval_batches(split)
        ]
        protocol.save_arrays(kept, **{name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    with np.load(kept) as found:
        return dict(found)


def said(variants: Mapping[str, Mapping[str, Any]]) -> str:
    """Which changes surely help, surely do harm, or neither, by LCC."""
    gains = {name: found["gain"]["lcc"] for name, found in variants.items() if "gain" in found}
    told = {
        "Surely better": [name for name, (_, low, _) in gains.items() if low > 0],
        "surely worse": [name for name, (_, _, high) in gains.items() if high < 0],
        "neither": [name for name, (_, low, high) in gains.items() if low <= 0 <= high],
    }
    return "; ".join(f"{word}: {' / '.join(names) or 'none'}" for word, names in told.items()) + "."


def draw(variants: Mapping[str, Mapping[str, Any]], photos_: int) -> Figure:
    """The gain of each change with its interval."""
    gains = {name: found["gain"]["lcc"] for name, found in variants.items() if "gain" in found}
    figure = Figure(figsize=(9, 0.4 * len(gains) + 1), layout="constrained")
    axes = figure.subplots()
    for place, (name, (gain, low, high)) in enumerate(reversed(gains.items())):
        colour = "tab:green" if low > 0 else "tab:red" if high < 0 else "tab:gray"
        axes.plot([low, high], [place, place], color=colour, linewidth=2)
        axes.plot(gain, place, "o", color=colour, label=name)
    axes.axvline(0, color="black", linewidth=1)
    axes.set_yticks(range(len(gains)), list(reversed(gains)))
    axes.set_ylim(-0.6, len(gains) - 0.4)
    axes.set_xlabel(f"gain in LCC over its own base ({photos_:,} photos, 95 %)")
    axes.grid(axis="x", alpha=0.3)
    return figure


if __name__ == "__main__":
    main()
