"""Shared parts of the experiments on real portraits: features, folds, paired intervals, stored results.

Every experiment is one command, ``python -m tests.benchmarks.NAME WORK --photos … --ratings … --set …``. The photos
pass ingestion and the pretrained network once. All that is fitted to ratings is fitted anew for each fold, on the other
folds. Folds keep ingestion's groups of near duplicates together. All results are stored in WORK, which
experiments may share. Stored results are not computed again, so an interrupted run continues.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from matplotlib.figure import Figure

from components.ingestion.ingest import ingest
from components.pretraining.pretrain import pretrain
from components.scorer import storage
from components.scorer.artifacts import bundle
from components.scorer.data import photos
from components.scorer.faces.face_inputs import EMBEDDING, FOUND
from components.scorer.metrics import bootstrap, regression
from components.scorer.model.auxiliary_heads import HeadSpec
from components.scorer.model.inputs import ModelInputs
from components.scorer.parameters import from_parameters, select_parameters
from components.scorer.run.paths import RunPaths
from components.scorer.settings import SCORES, Faces, Ingestion, Pretraining, Training
from components.training.examples.label_noise import fit_label_noise
from components.training.features import FeatureExtractor
from components.training.heads import ridge
from components.training.heads.pca import principal_components
from pipeline.parameters import parse_assignments

FOLDS, SEEDS = 5, 3
RESAMPLES = 1000
MEASURES = ("lcc", "srcc", "mae", "accuracy")
RESULTS = Path(__file__).parent / "results"
"""Folder of the README's figures, by name of their command."""

_SPLITS = ("train", "validation", "test")
_PAIRED = ("lcc", "srcc", "mae")


@dataclass(frozen=True)
class Variant:
    """A variant of inputs and training.

    Attributes:
        name: Name for the tables.
        whole: Whether the whole photo is an input.
        view: Whether the aligned face is an input, through the same network.
        embedding: Number of principal components of the face embedding; 0 uses no embedding.
        ratio: Weight of pairs of features relative to features; 0 uses no pairs.
        share: Fraction of the photos outside the fold that the variant is fitted to.
    """

    name: str
    whole: bool = True
    view: bool = False
    embedding: int = 0
    ratio: float = ridge.QUADRATIC_RATIO
    share: float = 1.0


WHOLE = Variant("photo")
FACE = Variant("face", whole=False, view=True)
BEST = Variant("photo, face, embedding", view=True, embedding=512)

Seen = Mapping[str, np.ndarray]
"""Inputs of ``network.build_head`` for n photos, by name."""


@dataclass(frozen=True)
class Known:
    """Ratings, groups and slices of n photos.

    Attributes:
        votes: People's votes, ``[n, 10]``, each row summing to 1.
        groups: Group of near duplicates, int ``[n]``, from 0 without gaps.
        slices: Value of each attribute, texts ``[n]``.
    """

    votes: np.ndarray
    groups: np.ndarray
    slices: Mapping[str, np.ndarray]

    @property
    def truth(self) -> np.ndarray:
        """Return people's mean scores ``[n]``."""
        return regression.mean_scores(self.votes)


def parser(about: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that every experiment has."""
    result = argparse.ArgumentParser(description=(about or "").partition("\n")[0])
    result.add_argument("work", help="folder in which everything is kept")
    for name in ("photos", "ratings"):
        result.add_argument(f"--{name}", required=True)
    result.add_argument("--attributes", default="")
    result.add_argument("--seeds", type=int, default=SEEDS)
    result.add_argument("--kept", action="store_true", help="tell what WORK has already, and learn nothing more")
    result.add_argument("--set", action="extend", nargs="+", default=[], metavar="PARAMETER=VALUE")
    return result


def settings(given: argparse.Namespace) -> tuple[dict[str, Any], Training]:
    """Return the pipeline's parameters from ``--set``, and the training's settings."""
    parameters = parse_assignments(given.set)
    return parameters, from_parameters(Training, **select_parameters(parameters, Training))


def features(
    work: Path, given: argparse.Namespace, parameters: Mapping[str, Any]
) -> tuple[dict[str, np.ndarray], Known]:
    """Return the features of every rated photo and its ratings; computed if WORK does not have them."""
    file = work / "features.npz"
    if not file.exists():
        _make(work, given, parameters, file)
    with np.load(file, allow_pickle=False) as loaded:
        arrays = dict(loaded)
    inputs = {name.removeprefix("seen_"): values for name, values in arrays.items() if name.startswith("seen_")}
    slices = {name.removeprefix("slice_"): values for name, values in arrays.items() if name.startswith("slice_")}
    return inputs, Known(arrays["votes"], arrays["groups"], slices)


def raters(work: Path) -> np.ndarray:
    """Return the number of people who rated each photo, int ``[n]``."""
    return np.concatenate([photos.table(work / "dataset", split)["raters"].to_numpy() for split in _SPLITS])


def data(work: Path, given: argparse.Namespace, parameters: Mapping[str, Any], unlabelled: str = "") -> Path:
    """Return the data set in WORK; ingested if it is missing."""
    dataset = work / "dataset"
    if not dataset.exists():
        work.mkdir(parents=True, exist_ok=True)
        ingest(
            given.photos, given.ratings, str(dataset), str(work / "ingestion.html"), unlabelled=unlabelled,
            attributes=given.attributes, workspace=RunPaths(str(work / "workspace"), "run"),
            settings=from_parameters(Ingestion, **select_parameters(dict(parameters), Ingestion)),
            faces=from_parameters(Faces, **select_parameters(dict(parameters), Faces)),
        )  # fmt: skip
    return dataset


def pretrained(dataset: Path, place: Path, pretraining: Pretraining, scale: int) -> Path:
    """Return the folder of an encoder; pretrained as in the pipeline if it is missing, resuming from checkpoints."""
    encoder = place / "encoder"
    if not (encoder / "encoder.json").exists():
        pretrain(
            dataset, encoder, place / "pretraining.html", settings=pretraining, scale=scale,
            checkpoints=str(place / "pretraining"), fingerprint=photos.fingerprint(dataset),
        )  # fmt: skip
    return encoder


def pooled(
    dataset: Path, encoder: Path, training: Training, sight: ModelInputs
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return an encoder's features of all rated photos, by the head's inputs, and the votes ``[n, 10]``."""
    network, pretraining = bundle.load_encoder(encoder)
    extractor = FeatureExtractor(dataset, pretraining.crop, training, HeadSpec(), sight)
    encode = extractor.encode_fn(network)
    parts = [extractor.pooled_features(encode, split) for split in _SPLITS]
    return (
        {name: np.concatenate([part.inputs[name] for part in parts]) for name in parts[0].inputs},
        np.concatenate([part.votes for part in parts]),
    )


def _make(work: Path, given: argparse.Namespace, parameters: Mapping[str, Any], kept: Path) -> None:
    training = from_parameters(Training, **select_parameters(dict(parameters), Training))
    pretraining = from_parameters(
        Pretraining, **select_parameters(dict(parameters), Pretraining, prefix="pretraining_")
    )
    dataset = data(work, given, parameters)
    encoder = pretrained(dataset, work, pretraining, training.scale)
    stored = photos.face_features(dataset)
    began = time.monotonic()
    inputs, votes = pooled(dataset, encoder, training, ModelInputs(stored.face, stored.embedding, stored.embedding))
    print(f"features of {len(votes):,} photos: {len(votes) / (time.monotonic() - began):.1f} a second", flush=True)
    groups, slices = labels(dataset)
    save_arrays(
        kept,
        votes=votes,
        groups=groups,
        **{f"seen_{name}": values for name, values in inputs.items()},
        **{f"slice_{name}": values for name, values in slices.items()},
    )


def labels(dataset: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the group of each rated photo, int ``[n]``, and its attributes, texts ``[n]`` by column."""
    tables = [photos.table(dataset, split) for split in _SPLITS]
    groups = np.unique(np.concatenate([table["group"] for table in tables]), return_inverse=True)[1]
    columns = photos.attributes(dataset, "train").columns
    return groups, {name: np.concatenate([table[name].to_numpy(str) for table in tables]) for name in columns}


def save_arrays(file: Path, **arrays: np.ndarray) -> None:
    """Write arrays to a file atomically."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial_file = file.with_name(f"{file.stem}.partial.npz")
    np.savez(partial_file, **arrays)
    partial_file.rename(file)


def folds(groups: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    """Yield the photos of each fold, bool ``[n]``; groups stay together."""
    order = np.random.default_rng(seed).permutation(groups.max() + 1)
    fold_of = np.empty(len(order), int)
    fold_of[order] = np.arange(len(order)) % FOLDS
    yield from (fold_of[groups] == fold for fold in range(FOLDS))


Answer = Callable[[np.ndarray, np.ndarray, int], np.ndarray]
"""Function from training and test photos, both bool ``[n]``, and a seed, to votes ``[m, 10]`` of the test photos."""


def held_out(place: Path, name: str, known: Known, seeds: int, answer: Answer) -> np.ndarray:
    """Return votes ``[seeds, n, 10]`` by scorers that are not fitted to the photo's fold; stored in ``place``."""
    votes_by_seed = []
    for seed in range(seeds):
        file = _file(place, name, seed)
        if not file.exists():
            predicted = np.zeros_like(known.votes)
            parts = [file.with_name(f"{file.stem}-{fold}.part.npy") for fold in range(FOLDS)]
            for part, fold in zip(parts, folds(known.groups, seed), strict=True):
                if not part.exists():
                    _save(part, answer(~fold, fold, seed))
                predicted[fold] = np.load(part)
            _save(file, predicted)
            for part in parts:
                part.unlink()
        votes_by_seed.append(np.load(file))
    return np.stack(votes_by_seed)


def is_kept(place: Path, name: str, seeds: int) -> bool:
    """Return whether `held_out` has all results stored."""
    return all(_file(place, name, seed).exists() for seed in range(seeds))


def _file(place: Path, name: str, seed: int) -> Path:
    return place / f"{name.replace(' ', '_')}-{seed}.npy"


def _save(file: Path, values: np.ndarray) -> None:
    """Write an array to a file atomically."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial_file = file.with_name(f"{file.stem}.partial.npy")
    np.save(partial_file, values)
    partial_file.rename(file)


def learning(
    variant: Variant, seen: Seen, votes: np.ndarray, training: Training, raters: np.ndarray | None = None
) -> Answer:
    """Return a function that fits a variant's ridge head; with raters ``[n]`` photos are weighted by rater count."""
    seen = visible(variant, seen)

    def fit_and_predict(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
        indices = drawn(train, variant.share, seed)
        weights = None
        if raters is not None:
            weights = fit_label_noise(votes[indices], raters[indices], Training()).targets_and_weights(
                votes[indices], raters[indices]
            )[1]
        head = fitted(variant, seen, votes, indices, replace(training, seed=seed), weights)
        return said(head, seen, test)

    return fit_and_predict


def visible(variant: Variant, seen: Seen) -> dict[str, np.ndarray]:
    """Return the inputs of a variant."""
    inputs = dict(seen)
    if not variant.whole:
        inputs["pooled"] = inputs["pooled_face"]
    if not variant.view or not variant.whole:
        inputs.pop("pooled_face", None)
    if not variant.embedding:
        inputs.pop(EMBEDDING, None), inputs.pop(FOUND, None)
    return inputs


def drawn(learnt: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Return the indices of a random share of the training photos; a smaller share is part of a larger one."""
    indices = np.random.default_rng(seed).permutation(np.flatnonzero(learnt))
    return indices[: round(share * len(indices))]


def fitted(
    variant: Variant,
    seen: Seen,
    votes: np.ndarray,
    some: np.ndarray,
    training: Training,
    weights: np.ndarray | None = None,
) -> keras.Model:
    """Return the ridge head fitted to some photos; the PCA of their embeddings is fitted to the same photos.

    Args:
        variant: Variant with the embedding's size and the ratio.
        seen: Inputs of the variant, from `visible`.
        votes: People's votes, ``[n, 10]``.
        some: Indices of the photos.
        training: Settings.
        weights: Weight of each of the photos; None weighs all alike.
    """
    train = {name: values[some] for name, values in seen.items()}
    components = None
    if variant.embedding:
        components = principal_components(train[EMBEDDING][train[FOUND] > 0], variant.embedding)
    spec = ModelInputs("pooled_face" in seen, *(components.axes.shape if components else (0, 0)))
    return ridge.fit_ridge_head(train, votes[some], spec, components, training, variant.ratio, weights=weights)[0]


def said(head: keras.Model, seen: Seen, asked: np.ndarray) -> np.ndarray:
    """Return a head's votes for some photos, ``[m, 10]``."""
    return head.predict([seen[tensor.name][asked] for tensor in head.inputs], batch_size=512, verbose=0)


def figures(votes: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Return each metric of votes ``[seeds, n, 10]``, mean over the seeds."""
    metrics = [regression.all_metrics(votes, seed_votes) for seed_votes in predicted]
    return {name: float(np.mean([values[name] for values in metrics])) for name in (*MEASURES, "emd", "spread")}


def line(name: str, found: Mapping[str, float]) -> str:
    """Return a row of a table."""
    return f"{name:<52}" + "".join(f"{measure} {found[measure]:6.3f}   " for measure in (*MEASURES, "emd", "spread"))


def compared(known: Known, predicted: Mapping[str, np.ndarray], against: str) -> dict[str, dict[str, Any]]:
    """Return the metrics of each variant with 95 % intervals, and its paired gain over one of them.

    The bootstrap resamples groups of photos, the same ones for all variants. Nothing is fitted again. A draw's metric
    is the mean over seeds.

    Args:
        known: Ratings and groups of n photos.
        predicted: Votes ``[seeds, n, 10]`` by name.
        against: Name of the baseline.

    Returns:
        By name: `figures`; ``interval`` with the lower and upper end of lcc, srcc and mae; except for ``against`` also
        ``gain`` with the median, the lower and the upper end.
    """
    truth = known.truth
    scores = {name: votes @ np.array(SCORES) for name, votes in predicted.items()}
    draws: dict[str, list] = {name: [] for name in scores}
    for weights in bootstrap.resample_counts(known.groups, RESAMPLES, seed=1):
        for name, variant_scores in scores.items():
            draws[name].append(_weighted(truth, variant_scores, weights))
    joined = {name: np.concatenate(parts, axis=-1) for name, parts in draws.items()}
    results = {}
    for name in scores:
        low, high = np.quantile(joined[name], [0.025, 0.975], axis=-1)
        results[name] = figures(known.votes, predicted[name]) | {"interval": _by_measure(low, high)}
        if name != against:
            low, median, high = np.quantile(joined[name] - joined[against], [0.025, 0.5, 0.975], axis=-1)
            results[name]["gain"] = _by_measure(median, low, high)
    return results


def _by_measure(*columns: np.ndarray) -> dict[str, list[float]]:
    return {name: [float(column[index]) for column in columns] for index, name in enumerate(_PAIRED)}


def _weighted(truth: np.ndarray, every: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return LCC, SRCC and MAE of photos with resampling counts ``[draws, n]``, mean over seeds: ``[3, draws]``."""
    weight = weights / weights.sum(1, keepdims=True)
    truth_mean = weight @ truth
    truth_var = weight @ truth**2 - truth_mean**2
    metrics = []
    for scores in every:
        mean = weight @ scores
        lcc = (weight @ (truth * scores) - truth_mean * mean) / np.sqrt(truth_var * (weight @ scores**2 - mean**2))
        metrics.append([lcc, bootstrap.weighted_srcc(truth, scores, weights), weight @ np.abs(scores - truth)])
    return np.mean(metrics, axis=0)


def gains(variants: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a line for each variant's gain."""

    def interval_text(gain: Sequence[float]) -> str:
        return f"{gain[0]:+.3f} ({gain[1]:+.3f} to {gain[2]:+.3f})"

    gain_by_name = {name: results["gain"] for name, results in variants.items() if "gain" in results}
    return "\n".join(
        f"{name:<52}" + "   ".join(f"{measure.upper()} {interval_text(gain[measure])}" for measure in _PAIRED)
        for name, gain in gain_by_name.items()
    )


def about(known: Known, predicted: Mapping[str, np.ndarray], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return how a results file was made; of addresses only the last part."""
    shown = {name: value if "/" not in str(value) else Path(str(value)).name for name, value in parameters.items()}
    seeds = min(len(votes) for votes in predicted.values())
    return {"photos": len(known.votes), "folds": FOLDS, "seeds": seeds, "settings": shown}


def write(work: Path, name: str, results: Mapping[str, Any], figure: Figure) -> None:
    """Write ``PROFILE_FILE.json``, numbers with four decimals, and ``PROFILE_FILE.png``."""
    storage.write_json(str(work / f"{name}.json"), _rounded(results))
    figure.savefig(work / f"{name}.png", dpi=120)
    print(f"\nwritten: {work / name}.json, {work / name}.png", flush=True)


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _rounded(item) for name, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_rounded(item) for item in value]
    if isinstance(value, float | np.floating):
        return round(float(value), 4)
    return json.loads(json.dumps(value, default=int))


def draw(variants: Mapping[str, Mapping[str, Any]], photos_: int, measure: str = "lcc") -> Figure:
    """Draw a dot and an interval for each variant."""
    names = list(variants)
    figure = Figure(figsize=(8, 0.4 * len(names) + 1), layout="constrained")
    axes = figure.subplots()
    for position, name in enumerate(reversed(names)):
        results = variants[name]
        axes.plot(results["interval"][measure], [position, position], color="tab:blue", linewidth=2)
        axes.plot(results[measure], position, "o", color="tab:blue")
    axes.set_yticks(range(len(names)), list(reversed(names)))
    axes.set_xlabel(f"{measure.upper()} with people's mean scores ({photos_:,} photos, {FOLDS} folds; 95 % intervals)")
    axes.grid(axis="x", alpha=0.3)
    return figure
