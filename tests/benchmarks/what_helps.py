"""Benefit of further changes: each change alone, with its gain over the same scorer without it.

    python -m tests.benchmarks.what_helps WORK --photos … --ratings … --attributes … --set …

Options and folder are those of ``cross_validation``. Two scorers are changed, both with photo, face and embedding. One
has a ridge head with pairs of features weighted like features, as the pipeline does if faces are read. The other has a
head trained by gradient descent on the same features, as in the pipeline's head phase, where the loss can be changed.

* One view: without the upright face through the same backbone. No pairs: features only.
* Test-time mirror: the mean of the votes for a photo and its face, and for their mirror images.
* Rater-count weighting: a photo has the weight ``n / (n + k)``, the reliability of its mean, with n raters; k is the
  variance of a photo's ratings over the variance of true means (both by analysis of variance of the training photos).
* Smoothing by rater noise: votes are ``(n · votes + k · all photos' votes) / (n + k)``, the same shrinkage.
* A correlation term: `TERM` times 1 minus the correlation of mean scores within a batch is added to the loss. A rank
  term: `TERM` times the logistic loss of every pair of photos of a batch, weighted by the difference of their ratings.
* Weight averaging: an exponential moving average of the weights over two epochs, the pipeline's default.

All but the pairs and the mirror are settings of the pipeline: ``face_view``, ``rater_weighting``, ``rater_smoothing``,
``correlation_term``, ``rank_term`` and ``ema``.

The results name changes that were not measured, with the reason. Prints a table, and writes ``what_helps.json`` and
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
"""Relative to the loss itself, .07 to .1: large enough to matter and too small to dominate."""

NOT_MEASURED = {
    "larger backbones": "there are no weights of any: a backbone without pretraining is no match for one with it",
    "progressive size": "it changes the training of the whole network, of which five folds take hours on two cores",
    "spoiled copies": "their faces have to be read anew; they cost .003 of SRCC (degraded_copies.FAULT_POINTS)",
}

_PLAIN = replace(BEST, name=CLOSED)


def main() -> None:
    """Compute missing results, print the table, and write the results."""
    options = protocol.parser(__doc__).parse_args()
    work = Path(options.work)
    parameters, training = protocol.settings(options)
    inputs, known = protocol.features(work, options, parameters)
    if EMBEDDING not in inputs or "pooled_face" not in inputs:
        raise SystemExit("the changed scorers read faces: give face_detector and face_embedder")
    raters = protocol.raters(work)
    groups = {
        GRADIENT: by_gradient(inputs, known, raters, training),
        CLOSED: closed(inputs, known, raters, training, lambda: _mirrored(work, training)),
    }
    variants: dict[str, Any] = {}
    for base, fit_functions in groups.items():
        predicted = {}
        for name, fit_and_predict in fit_functions.items():
            if options.kept and not protocol.is_kept(work / "what_helps", name, options.seeds):
                continue
            predicted[name] = protocol.held_out(work / "what_helps", name, known, options.seeds, fit_and_predict)
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
    """Return the fit functions of the ridge scorer and of its changes, by name."""

    def changed(variant: protocol.Variant = _PLAIN, *, smooth: bool = False, weigh: bool = False) -> protocol.Answer:
        inputs = protocol.visible(variant, seen)

        def fit_and_predict(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
            indices = np.flatnonzero(train)
            settings = replace(training, rater_smoothing=smooth, rater_weighting=weigh)
            votes, weights = fit_label_noise(known.votes[indices], raters[indices], settings).targets_and_weights(
                known.votes, raters
            )
            head = protocol.fitted(variant, inputs, votes, indices, replace(training, seed=seed), weights[indices])
            return protocol.said(head, inputs, test)

        return fit_and_predict

    def mirror(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
        head = protocol.fitted(_PLAIN, seen, known.votes, np.flatnonzero(train), replace(training, seed=seed))
        return (protocol.said(head, seen, test) + protocol.said(head, {**seen, **mirrored()}, test)) / 2

    return {
        CLOSED: changed(),
        f"{CLOSED}, one view": changed(replace(_PLAIN, view=False)),
        f"{CLOSED}, no pairs": changed(replace(_PLAIN, ratio=0.0)),
        f"{CLOSED}, rater-count weighting": changed(weigh=True),
        f"{CLOSED}, smoothing by rater noise": changed(smooth=True),
        f"{CLOSED}, test-time mirror": mirror,
    }


def by_gradient(seen: Seen, known: Known, raters: np.ndarray, training: Training) -> dict[str, protocol.Answer]:
    """Return the fit functions of the gradient-descent scorer and of its changes, by name."""
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

    @cache  # for all changes: the PCA takes longer than the training
    def components_of(indices: tuple[int, ...]) -> PCABasis:
        with_face = [index for index in indices if seen[FOUND][index] > 0]
        return principal_components(seen[EMBEDDING][with_face], BEST.embedding)

    def changed(settings: Training) -> protocol.Answer:
        def fit_and_predict(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
            indices = np.flatnonzero(train)
            head = stepped(
                {name: values[indices] for name, values in seen.items()}, known.votes[indices], raters[indices],
                components_of(tuple(indices.tolist())), replace(settings, seed=seed),
            )  # fmt: skip
            return protocol.said(head, seen, test)

        return fit_and_predict

    return {GRADIENT + name: changed(settings) for name, settings in changes.items()}


def stepped(
    learnt: Seen, votes: np.ndarray, raters: np.ndarray, components: PCABasis, training: Training
) -> keras.Model:
    """Train the head as in the pipeline's head phase, for ``training.head_epochs`` epochs."""
    keras.utils.set_random_seed(training.seed)
    head = build_head(learnt["pooled"].shape[-1], training.dropout, ModelInputs(True, *components.axes.shape))
    set_pca_weights(head, components)
    compile_for_votes(head, training.head_learning_rate, training, len(votes))
    votes, weights = fit_label_noise(votes, raters, training).targets_and_weights(votes, raters)
    head.fit(
        [learnt[tensor.name] for tensor in head.inputs], votes, sample_weight=weights,
        batch_size=training.batch_size, epochs=training.head_epochs, verbose=0,
    )  # fmt: skip
    ema.apply_ema(head)
    return head


def _mirrored(work: Path, training: Training) -> dict[str, np.ndarray]:
    """Return the encoder's features of mirrored photos and faces; embeddings already use both images."""
    file = work / "mirrored.npz"
    if not file.exists():
        network, pretraining = bundle.load_encoder(work / "encoder")
        available = photos.face_features(work / "dataset")
        model_inputs = ModelInputs(available.face, available.embedding, available.embedding)
        extractor = FeatureExtractor(work / "dataset", pretraining.crop, training, HeadSpec(), model_inputs)
        encode = extractor.encode_fn(network)
        parts = [
            encode({name: inputs[name][:, :, ::-1] for name in ("pixels", FACE)})
            for split in ("train", "validation", "test")
            for inputs, _ in extractor.eval_batches(split)
        ]
        protocol.save_arrays(file, **{name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    with np.load(file) as loaded:
        return dict(loaded)


def said(variants: Mapping[str, Mapping[str, Any]]) -> str:
    """Return which changes surely help, surely harm, or neither, by LCC."""
    gains = {name: results["gain"]["lcc"] for name, results in variants.items() if "gain" in results}
    names_by_verdict = {
        "Surely better": [name for name, (_, low, _) in gains.items() if low > 0],
        "surely worse": [name for name, (_, _, high) in gains.items() if high < 0],
        "neither": [name for name, (_, low, high) in gains.items() if low <= 0 <= high],
    }
    return "; ".join(f"{verdict}: {' / '.join(names) or 'none'}" for verdict, names in names_by_verdict.items()) + "."


def draw(variants: Mapping[str, Mapping[str, Any]], photos_: int) -> Figure:
    """Draw the gain of each change with its interval."""
    gains = {name: results["gain"]["lcc"] for name, results in variants.items() if "gain" in results}
    figure = Figure(figsize=(9, 0.4 * len(gains) + 1), layout="constrained")
    axes = figure.subplots()
    for position, (name, (gain, low, high)) in enumerate(reversed(gains.items())):
        colour = "tab:green" if low > 0 else "tab:red" if high < 0 else "tab:gray"
        axes.plot([low, high], [position, position], color=colour, linewidth=2)
        axes.plot(gain, position, "o", color=colour, label=name)
    axes.axvline(0, color="black", linewidth=1)
    axes.set_yticks(range(len(gains)), list(reversed(gains)))
    axes.set_ylim(-0.6, len(gains) - 0.4)
    axes.set_xlabel(f"gain in LCC over its own base ({photos_:,} photos, 95 %)")
    axes.grid(axis="x", alpha=0.3)
    return figure


if __name__ == "__main__":
    main()
