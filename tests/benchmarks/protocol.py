"""What the experiments on real portraits share: photos that are seen once, folds, paired intervals, and what is kept.

Every experiment is one command, ``python -m tests.benchmarks.NAME WORK --photos … --ratings … --set …``. The photos go
through ingestion and the pretrained network once; what is learnt from the ratings is learnt anew in each fold from the
other ones. Folds part groups of near duplicates as ingestion found them, never a group. All of it is kept in WORK,
which experiments may share: what is there is not computed again, so a run that was cut short goes on.
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
"""Figures of this folder's README, by the name of their command."""

_SPLITS = ("train", "validation", "test")
_PAIRED = ("lcc", "srcc", "mae")


@dataclass(frozen=True)
class Variant:
    """One way to see photos and to learn from them.

    Attributes:
        name: for people.
        whole: whether it sees the whole photo.
        view: whether it sees the aligned face through the same network.
        embedding: principal components of the embedding that it reads; 0: none.
        ratio: of pairs of features against features alone; 0: pairs are not weighed.
        share: of the photos outside the fold that it learns from.
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
"""What ``network.build_head`` takes of n photos, by name."""


@dataclass(frozen=True)
class Known:
    """What is known of n rated photos.

    Attributes:
        votes: of people, ``[n, 10]``, each row summing to 1.
        groups: of near duplicates, int ``[n]``, from 0 and without gaps.
        slices: texts ``[n]`` by attribute.
    """

    votes: np.ndarray
    groups: np.ndarray
    slices: Mapping[str, np.ndarray]

    @property
    def truth(self) -> np.ndarray:
        """People's mean scores ``[n]``."""
        return regression.mean_scores(self.votes)


def parser(about: str | None) -> argparse.ArgumentParser:
    """The options that every experiment has."""
    made = argparse.ArgumentParser(description=(about or "").partition("\n")[0])
    made.add_argument("work", help="folder in which everything is kept")
    for name in ("photos", "ratings"):
        made.add_argument(f"--{name}", required=True)
    made.add_argument("--attributes", default="")
    made.add_argument("--seeds", type=int, default=SEEDS)
    made.add_argument("--kept", action="store_true", help="tell what WORK has already, and learn nothing more")
    made.add_argument("--set", action="extend", nargs="+", default=[], metavar="PARAMETER=VALUE")
    return made


def settings(given: argparse.Namespace) -> tuple[dict[str, Any], Training]:
    """The pipeline's parameters that ``--set`` gave, and the training's settings."""
    parameters = parse_assignments(given.set)
    return parameters, from_parameters(Training, **select_parameters(parameters, Training))


def features(
    work: Path, given: argparse.Namespace, parameters: Mapping[str, Any]
) -> tuple[dict[str, np.ndarray], Known]:
    """What the network sees of every rated photo, and what is known of it; computed where WORK has it not."""
    kept = work / "features.npz"
    if not kept.exists():
        _make(work, given, parameters, kept)
    with np.load(kept, allow_pickle=False) as found:
        arrays = dict(found)
    seen = {name.removeprefix("seen_"): values for name, values in arrays.items() if name.startswith("seen_")}
    slices = {name.removeprefix("slice_"): values for name, values in arrays.items() if name.startswith("slice_")}
    return seen, Known(arrays["votes"], arrays["groups"], slices)


def raters(work: Path) -> np.ndarray:
    """How many people rated each photo, int ``[n]``."""
    return np.concatenate([photos.table(work / "dataset", split)["raters"].to_numpy() for split in _SPLITS])


def data(work: Path, given: argparse.Namespace, parameters: Mapping[str, Any], unlabelled: str = "") -> Path:
    """The data set in WORK, ingested where it is not there."""
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
    """The folder of an encoder, pretrained as the pipeline does where it is not there; goes on from checkpoints."""
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
    """What an encoder sees of all rated photos, by the names of the head's inputs, and their votes ``[n, 10]``."""
    network, pretraining = bundle.load_encoder(encoder)
    reader = FeatureExtractor(dataset, pretraining.crop, training, HeadSpec(), sight)
    encode = reader.encode_fn(network)
    parts = [reader.pooled_features(encode, split) for split in _SPLITS]
    return (
        {name: np.concatenate([each.inputs[name] for each in parts]) for name in parts[0].inputs},
        np.concatenate([each.votes for each in parts]),
    )


def _make(work: Path, given: argparse.Namespace, parameters: Mapping[str, Any], kept: Path) -> None:
    training = from_parameters(Training, **select_parameters(dict(parameters), Training))
    pretraining = from_parameters(
        Pretraining, **select_parameters(dict(parameters), Pretraining, prefix="pretraining_")
    )
    dataset = data(work, given, parameters)
    encoder = pretrained(dataset, work, pretraining, training.scale)
    reading = photos.face_features(dataset)
    began = time.monotonic()
    seen, votes = pooled(dataset, encoder, training, ModelInputs(reading.face, reading.embedding, reading.embedding))
    print(f"features of {len(votes):,} photos: {len(votes) / (time.monotonic() - began):.1f} a second", flush=True)
    groups, slices = labels(dataset)
    save_arrays(
        kept,
        votes=votes,
        groups=groups,
        **{f"seen_{name}": values for name, values in seen.items()},
        **{f"slice_{name}": values for name, values in slices.items()},
    )


def labels(dataset: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The group of each rated photo, int ``[n]``, and its attributes, texts ``[n]`` by column."""
    tables = [photos.table(dataset, split) for split in _SPLITS]
    groups = np.unique(np.concatenate([table["group"] for table in tables]), return_inverse=True)[1]
    columns = photos.attributes(dataset, "train").columns
    return groups, {name: np.concatenate([table[name].to_numpy(str) for table in tables]) for name in columns}


def save_arrays(file: Path, **arrays: np.ndarray) -> None:
    """Write arrays so that the file is there as a whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.stem}.partial.npz")
    np.savez(partial, **arrays)
    partial.rename(file)


def folds(groups: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    """The photos of each fold, bool ``[n]``: whole groups."""
    order = np.random.default_rng(seed).permutation(groups.max() + 1)
    fold_of = np.empty(len(order), int)
    fold_of[order] = np.arange(len(order)) % FOLDS
    yield from (fold_of[groups] == fold for fold in range(FOLDS))


Answer = Callable[[np.ndarray, np.ndarray, int], np.ndarray]
"""Votes ``[m, 10]`` for the m photos that are asked, learnt from others: both bool ``[n]``, and a seed."""


def held_out(place: Path, name: str, known: Known, seeds: int, answer: Answer) -> np.ndarray:
    """Votes for each photo by a scorer that did not learn from its fold, ``[seeds, n, 10]``; kept in ``place``."""
    every = []
    for seed in range(seeds):
        file = _file(place, name, seed)
        if not file.exists():
            found = np.zeros_like(known.votes)
            parts = [file.with_name(f"{file.stem}-{fold}.part.npy") for fold in range(FOLDS)]
            for part, fold in zip(parts, folds(known.groups, seed), strict=True):
                if not part.exists():
                    _save(part, answer(~fold, fold, seed))
                found[fold] = np.load(part)
            _save(file, found)
            for part in parts:
                part.unlink()
        every.append(np.load(file))
    return np.stack(every)


def is_kept(place: Path, name: str, seeds: int) -> bool:
    """Whether `held_out` has nothing left to learn."""
    return all(_file(place, name, seed).exists() for seed in range(seeds))


def _file(place: Path, name: str, seed: int) -> Path:
    return place / f"{name.replace(' ', '_')}-{seed}.npy"


def _save(file: Path, values: np.ndarray) -> None:
    """Write an array so that the file is there as a whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.stem}.partial.npy")
    np.save(partial, values)
    partial.rename(file)


def learning(
    variant: Variant, seen: Seen, votes: np.ndarray, training: Training, raters: np.ndarray | None = None
) -> Answer:
    """Learning a variant from some photos, by the closed form; with raters ``[n]`` each counts by how many it has."""
    seen = visible(variant, seen)

    def answer(learnt: np.ndarray, asked: np.ndarray, seed: int) -> np.ndarray:
        some = drawn(learnt, variant.share, seed)
        weights = None
        if raters is not None:
            weights = fit_label_noise(votes[some], raters[some], Training()).targets_and_weights(
                votes[some], raters[some]
            )[1]
        head = fitted(variant, seen, votes, some, replace(training, seed=seed), weights)
        return said(head, seen, asked)

    return answer


def visible(variant: Variant, seen: Seen) -> dict[str, np.ndarray]:
    """What a variant sees of what there is to see."""
    given = dict(seen)
    if not variant.whole:
        given["pooled"] = given["pooled_face"]
    if not variant.view or not variant.whole:
        given.pop("pooled_face", None)
    if not variant.embedding:
        given.pop(EMBEDDING, None), given.pop(FOUND, None)
    return given


def drawn(learnt: np.ndarray, share: float, seed: int) -> np.ndarray:
    """The places of some of the photos that may be learnt from; a smaller share is part of a larger one."""
    some = np.random.default_rng(seed).permutation(np.flatnonzero(learnt))
    return some[: round(share * len(some))]


def fitted(
    variant: Variant,
    seen: Seen,
    votes: np.ndarray,
    some: np.ndarray,
    training: Training,
    weights: np.ndarray | None = None,
) -> keras.Model:
    """The head that some photos teach; also their embeddings' components are of them alone.

    Args:
        variant: of which the size of the embedding and the ratio are read.
        seen: what is `visible` to it.
        votes: of people, ``[n, 10]``.
        some: places of the photos.
        training: settings.
        weights: how much each of these counts; None: all the same.
    """
    learnt = {name: values[some] for name, values in seen.items()}
    components = None
    if variant.embedding:
        components = principal_components(learnt[EMBEDDING][learnt[FOUND] > 0], variant.embedding)
    sight = ModelInputs("pooled_face" in seen, *(components.axes.shape if components else (0, 0)))
    return ridge.fit_ridge_head(learnt, votes[some], sight, components, training, variant.ratio, weights=weights)[0]


def said(head: keras.Model, seen: Seen, asked: np.ndarray) -> np.ndarray:
    """What a head says of some photos, ``[m, 10]``."""
    return head.predict([seen[each.name][asked] for each in head.inputs], batch_size=512, verbose=0)


def figures(votes: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Each measure of votes ``[seeds, n, 10]``, mean over the seeds."""
    each = [regression.all_metrics(votes, one) for one in predicted]
    return {name: float(np.mean([found[name] for found in each])) for name in (*MEASURES, "emd", "spread")}


def line(name: str, found: Mapping[str, float]) -> str:
    """A row of a table."""
    return f"{name:<52}" + "".join(f"{measure} {found[measure]:6.3f}   " for measure in (*MEASURES, "emd", "spread"))


def compared(known: Known, predicted: Mapping[str, np.ndarray], against: str) -> dict[str, dict[str, Any]]:
    """The figures of each variant with 95 % intervals, and its gain over one of them, paired.

    Groups of photos are redrawn, the same ones for all variants; what is learnt is not learnt anew. A draw's figure is
    the mean over seeds.

    Args:
        known: of n photos.
        predicted: ``[seeds, n, 10]`` by name.
        against: a name.

    Returns:
        By name: `figures`, ``interval`` with the lower and upper end of each of lcc, srcc and mae and, but for
        ``against``, ``gain`` with the median, the lower and the upper end.
    """
    truth = known.truth
    scores = {name: votes @ np.array(SCORES) for name, votes in predicted.items()}
    draws: dict[str, list] = {name: [] for name in scores}
    for weights in bootstrap.resample_counts(known.groups, RESAMPLES, seed=1):
        for name, every in scores.items():
            draws[name].append(_weighted(truth, every, weights))
    joined = {name: np.concatenate(parts, axis=-1) for name, parts in draws.items()}
    found = {}
    for name in scores:
        low, high = np.quantile(joined[name], [0.025, 0.975], axis=-1)
        found[name] = figures(known.votes, predicted[name]) | {"interval": _by_measure(low, high)}
        if name != against:
            low, middle, high = np.quantile(joined[name] - joined[against], [0.025, 0.5, 0.975], axis=-1)
            found[name]["gain"] = _by_measure(middle, low, high)
    return found


def _by_measure(*columns: np.ndarray) -> dict[str, list[float]]:
    return {name: [float(column[place]) for column in columns] for place, name in enumerate(_PAIRED)}


def _weighted(truth: np.ndarray, every: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """LCC, SRCC and MAE of photos taken several times ``[draws, n]``, mean over seeds: ``[3, draws]``."""
    share = weights / weights.sum(1, keepdims=True)
    told = share @ truth
    of_truth = share @ truth**2 - told**2
    found = []
    for scores in every:
        mean = share @ scores
        lcc = (share @ (truth * scores) - told * mean) / np.sqrt(of_truth * (share @ scores**2 - mean**2))
        found.append([lcc, bootstrap.weighted_srcc(truth, scores, weights), share @ np.abs(scores - truth)])
    return np.mean(found, axis=0)


def gains(variants: Mapping[str, Mapping[str, Any]]) -> str:
    """A line for each variant's gain."""

    def told(gain: Sequence[float]) -> str:
        return f"{gain[0]:+.3f} ({gain[1]:+.3f} to {gain[2]:+.3f})"

    having = {name: found["gain"] for name, found in variants.items() if "gain" in found}
    return "\n".join(
        f"{name:<52}" + "   ".join(f"{measure.upper()} {told(gain[measure])}" for measure in _PAIRED)
        for name, gain in having.items()
    )


def about(known: Known, predicted: Mapping[str, np.ndarray], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What a results file says of how it was made; of addresses the last part alone."""
    plain = {name: value if "/" not in str(value) else Path(str(value)).name for name, value in parameters.items()}
    seeds = min(len(votes) for votes in predicted.values())
    return {"photos": len(known.votes), "folds": FOLDS, "seeds": seeds, "settings": plain}


def write(work: Path, name: str, results: Mapping[str, Any], figure: Figure) -> None:
    """Write ``PROFILE_FILE.json``, numbers to four digits after the point, and ``PROFILE_FILE.png``."""
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
    """A dot and an interval for each variant."""
    names = list(variants)
    figure = Figure(figsize=(8, 0.4 * len(names) + 1), layout="constrained")
    axes = figure.subplots()
    for place, name in enumerate(reversed(names)):
        found = variants[name]
        axes.plot(found["interval"][measure], [place, place], color="tab:blue", linewidth=2)
        axes.plot(found[measure], place, "o", color="tab:blue")
    axes.set_yticks(range(len(names)), list(reversed(names)))
    axes.set_xlabel(f"{measure.upper()} with people's mean scores ({photos_:,} photos, {FOLDS} folds; 95 % intervals)")
    axes.grid(axis="x", alpha=0.3)
    return figure
