"""How well scorers that see more and less of the face agree with people: cross-validation of the head in closed form.

    python -m tests.benchmarks.cross_validation WORK --photos mebeauty/photos --ratings mebeauty/ratings.csv \\
        --attributes mebeauty/photos.csv --set start=imagenet weights=mobilenet_v2_imagenet.keras scaling=torch \\
        face_detector=yunet.onnx face_embedder=facenet_128.keras 'face_layers=["AvgPool", "Block17_10_Activation"]'

The photos go through ingestion (faces are found and read) and the pretrained network once; what is learnt from the
ratings (the components of embeddings and features, the penalty, the head) is learnt anew in each fold from the other
ones. Folds part groups of near duplicates as ingestion found them, never a group. All of it is kept in WORK: what is
there is not computed again, so a run that was cut short goes on. Prints a table, and writes ``results.json`` (means and
intervals, no photo) and ``results.png``.

Variants: what the scorer sees (the photo, the face's view, the embedding), the size of the embedding (table 2 of the
portrait paper), features weighed alone or in pairs, and how many of the photos are learnt from.
"""

import argparse
import itertools
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from matplotlib.figure import Figure

from components.ingestion.ingest import ingest
from components.pretraining.pretrain import pretrain
from components.scorer import bundle, metrics, photos, storage
from components.scorer.heads import Heads
from components.scorer.settings import (
    SCORES,
    Faces,
    Ingestion,
    Pretraining,
    Training,
    among,
    as_parameters,
    from_parameters,
)
from components.scorer.sight import Sight, principal_components
from components.scorer.stages import EMBEDDING, FOUND
from components.scorer.workspace import Workspace
from components.training import closed_form
from components.training.train import Reader
from pipeline.parameters import read

FOLDS, SEEDS = 5, 3
RESAMPLES = 1000
MEASURES = ("lcc", "srcc", "mae", "accuracy")


@dataclass(frozen=True)
class Variant:
    """One way to see photos and to learn from them.

    Attributes:
        name: for people.
        whole: whether it sees the whole photo.
        view: whether it sees the aligned face through the same network.
        embedding: principal components of the embedding that it reads; 0: none.
        pairs: whether pairs of features are weighed.
        share: of the photos outside the fold that it learns from.
    """

    name: str
    whole: bool = True
    view: bool = False
    embedding: int = 0
    pairs: bool = True
    share: float = 1.0


WHOLE = Variant("photo")
BEST = Variant("photo, face, embedding", view=True, embedding=512)
VARIANTS = (
    BEST,
    WHOLE,
    Variant("face", whole=False, view=True),
    Variant("photo, face", view=True),
    Variant("photo, embedding", embedding=512),
    *(Variant(f"photo, face, embedding of {size}", view=True, embedding=size) for size in (32, 64, 128, 256)),
    replace(BEST, name="… features alone, no pairs", pairs=False),
    *(replace(BEST, name=f"… {share:.0%} of the photos", share=share) for share in (0.1, 0.25, 0.5)),
)


def main() -> None:
    """Compute what is missing, print the table, and write the results."""
    given = _arguments()
    work = Path(given.work)
    parameters = read(given.set)
    seen, known = _features(work, given, parameters)
    votes, groups = known["votes"], known["groups"]
    training = from_parameters(Training, **among(parameters, Training))
    predicted = {}
    for variant in VARIANTS[: given.first]:
        if (variant.view and "pooled_face" not in seen) or (variant.embedding and EMBEDDING not in seen):
            continue
        predicted[variant.name] = _predicted(work, variant, seen, votes, groups, training, given.seeds)
        print(_line(variant.name, _figures(votes, predicted[variant.name])), flush=True)
    results = _results(votes, groups, predicted, known["slices"], parameters)
    storage.write_json(str(work / "results.json"), results)
    _draw(results).savefig(work / "results.png", dpi=120)
    print(f"\nagainst the whole photo alone, paired, 95 % by resampling groups\n{_gains(results)}")
    print(f"\nworst slice by signed mean error: {results['slices'][0]}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("work")
    for name in ("photos", "ratings"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--attributes", default="")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--first", type=int, default=len(VARIANTS), help="variants to run; the best is the first")
    parser.add_argument("--set", action="extend", nargs="+", default=[], metavar="PARAMETER=VALUE")
    return parser.parse_args()


def _features(work: Path, given: argparse.Namespace, parameters: dict[str, Any]) -> tuple[dict, dict]:
    """What ``model.build_head`` takes of every rated photo; and of each its votes, group and slices."""
    kept = work / "features.npz"
    if not kept.exists():
        _make(work, given, parameters, kept)
    with np.load(kept, allow_pickle=False) as found:
        arrays = dict(found)
    seen = {name.removeprefix("seen_"): values for name, values in arrays.items() if name.startswith("seen_")}
    slices = {name.removeprefix("slice_"): values for name, values in arrays.items() if name.startswith("slice_")}
    return seen, {"votes": arrays["votes"], "groups": arrays["groups"], "slices": slices}


def _make(work: Path, given: argparse.Namespace, parameters: dict[str, Any], kept: Path) -> None:
    dataset, encoder = work / "dataset", work / "encoder"
    place = Workspace(str(work / "workspace"), "run")
    if not dataset.exists():
        ingest(
            given.photos, given.ratings, str(dataset), str(work / "ingestion.html"), attributes=given.attributes,
            workspace=place, settings=from_parameters(Ingestion, **among(parameters, Ingestion)),
            faces=from_parameters(Faces, **among(parameters, Faces)),
        )  # fmt: skip
    training = from_parameters(Training, **among(parameters, Training))
    if not (encoder / "encoder.json").exists():
        settings = from_parameters(Pretraining, **among(parameters, Pretraining, prefix="pretraining_"))
        pretrain(
            dataset, encoder, work / "pretraining.html", settings=settings, scale=training.scale,
            checkpoints=str(work / "pretraining"), fingerprint=photos.fingerprint(dataset),
        )  # fmt: skip
    network, pretraining = bundle.load_encoder(encoder)
    reading = photos.reading(dataset)
    sight = Sight(reading.face, reading.embedding, reading.embedding)
    reader, splits = Reader(dataset, pretraining.crop, training, Heads(), sight), ("train", "validation", "test")
    began = time.monotonic()
    encode = reader.encoding(network)
    parts = [reader.pooled(encode, split) for split in splits]
    total = sum(len(votes) for _, votes in parts)
    print(f"features of {total:,} photos: {total / (time.monotonic() - began):.1f} photos a second", flush=True)
    arrays = {f"seen_{name}": np.concatenate([seen[name] for seen, _ in parts]) for name in parts[0][0]}
    tables = [photos.table(dataset, split) for split in splits]
    arrays["groups"] = np.unique(np.concatenate([table["group"] for table in tables]), return_inverse=True)[1]
    for column in photos.attributes(dataset, "train").columns:
        arrays[f"slice_{column}"] = np.concatenate([table[column].to_numpy(str) for table in tables])
    temporary = kept.with_name("features.partial.npz")
    np.savez(temporary, votes=np.concatenate([votes for _, votes in parts]), **arrays)
    temporary.rename(kept)


def _folds(groups: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    """The photos of each fold, bool ``[n]``: whole groups."""
    order = np.random.default_rng(seed).permutation(groups.max() + 1)
    fold_of = np.empty(len(order), int)
    fold_of[order] = np.arange(len(order)) % FOLDS
    yield from (fold_of[groups] == fold for fold in range(FOLDS))


def _predicted(
    work: Path, variant: Variant, seen: dict, votes: np.ndarray, groups: np.ndarray, training: Training, seeds: int
) -> np.ndarray:
    """Votes for each photo by a head that did not learn from its fold, ``[seeds, n, 10]``."""
    every = []
    for seed in range(seeds):
        file = work / "predicted" / f"{variant.name.replace(' ', '_')}-{seed}.npy"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            votes_of = np.zeros_like(votes)
            for fold in _folds(groups, seed):
                votes_of[fold] = _scored(variant, seen, votes, ~fold, fold, replace(training, seed=seed))
            np.save(file, votes_of)
        every.append(np.load(file))
    return np.stack(every)


def _scored(
    variant: Variant, seen: dict, votes: np.ndarray, learnt: np.ndarray, asked: np.ndarray, training: Training
) -> np.ndarray:
    given = dict(seen)
    if not variant.whole:
        given["pooled"] = given["pooled_face"]
    if not variant.view or not variant.whole:
        given.pop("pooled_face", None)
    components = None
    if variant.embedding:
        faces = given[EMBEDDING][learnt & (given[FOUND] > 0)]
        components = principal_components(faces, variant.embedding)
    else:
        given.pop(EMBEDDING, None), given.pop(FOUND, None)
    sight = Sight("pooled_face" in given, *(components.axes.shape if components else (0, 0)))
    some = np.flatnonzero(learnt)
    some = np.random.default_rng(training.seed).permutation(some)[: round(variant.share * len(some))]
    ratios = closed_form.RATIOS if variant.pairs else (0.0,)
    head, _ = closed_form.fit_closed(
        {name: values[some] for name, values in given.items()}, votes[some], sight, components, training, ratios
    )
    return head.predict([given[each.name][asked] for each in head.inputs], batch_size=512, verbose=0)


def _figures(votes: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Each measure, mean over the seeds."""
    each = [metrics.all(votes, one) for one in predicted]
    return {name: float(np.mean([found[name] for found in each])) for name in (*MEASURES, "emd", "spread")}


def _line(name: str, figures: dict[str, float]) -> str:
    return f"{name:<34}" + "".join(f"{measure} {value:6.3f}   " for measure, value in figures.items())


def _results(
    votes: np.ndarray, groups: np.ndarray, predicted: dict[str, np.ndarray], slices: dict, parameters: dict[str, Any]
) -> dict[str, Any]:
    truth = metrics.mean_scores(votes)
    scores = {name: votes_of @ np.array(SCORES) for name, votes_of in predicted.items()}
    draws = {name: [] for name in scores}
    for weights in itertools.chain.from_iterable(metrics.redraws(groups, RESAMPLES, seed=1)):
        for name, every in scores.items():
            draws[name].append(_weighted(truth, every, weights))
    draws = {name: np.array(values) for name, values in draws.items()}
    variants = {}
    for name in scores:
        low, high = np.quantile(draws[name], [0.025, 0.975], axis=0)
        variants[name] = _figures(votes, predicted[name]) | {
            "interval": {"lcc": [low[0], high[0]], "mae": [low[1], high[1]]},
        }
        if name != WHOLE.name:
            low, mean, high = np.quantile(draws[name] - draws[WHOLE.name], [0.025, 0.5, 0.975], axis=0)
            variants[name]["gain"] = {"lcc": [mean[0], low[0], high[0]], "mae": [mean[1], low[1], high[1]]}
    best = scores[BEST.name] if BEST.name in scores else scores[WHOLE.name]
    settings = {name: value if "/" not in str(value) else Path(str(value)).name for name, value in parameters.items()}
    return {
        "photos": len(votes), "folds": FOLDS, "seeds": len(best), "settings": settings,
        "closed_form": {"pairs": as_parameters(Training())["pairs"]},
        "variants": json.loads(json.dumps(variants, default=float)),
        "slices": _slices(truth, best.mean(0), slices),
    }  # fmt: skip


def _weighted(truth: np.ndarray, every: np.ndarray, weights: np.ndarray) -> list[float]:
    """LCC and MAE of redrawn photos, mean over seeds."""
    share = weights / weights.sum()
    centred, others = truth - share @ truth, every - (every @ share)[:, None]
    lcc = (others * centred) @ share / np.sqrt((centred**2 @ share) * (others**2 @ share))
    return [float(lcc.mean()), float((np.abs(every - truth) @ share).mean())]


def _slices(truth: np.ndarray, scores: np.ndarray, slices: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Signed mean error of every value of every attribute and of all attributes together, largest first."""
    columns = dict(slices)
    if len(slices) > 1:
        columns[" and ".join(slices)] = np.array([" ".join(each) for each in zip(*slices.values(), strict=True)])
    found = [
        {"slice": f"{column}: {value}", "photos": int((values == value).sum()),
         "error": float((scores - truth)[values == value].mean())}
        for column, values in columns.items() for value in sorted(set(values))
    ]  # fmt: skip
    return sorted(found, key=lambda each: -abs(each["error"]))


def _gains(results: dict[str, Any]) -> str:
    def told(gain: list[float]) -> str:
        return f"{gain[0]:+.3f} ({gain[1]:+.3f} to {gain[2]:+.3f})"

    gains = {name: found["gain"] for name, found in results["variants"].items() if "gain" in found}
    return "\n".join(f"{name:<34}LCC {told(gain['lcc'])}   MAE {told(gain['mae'])}" for name, gain in gains.items())


def _draw(results: dict[str, Any]) -> Figure:
    names: Sequence[str] = list(results["variants"])
    figure = Figure(figsize=(8, 0.4 * len(names) + 1), layout="constrained")
    axes = figure.subplots()
    for place, name in enumerate(reversed(names)):
        found = results["variants"][name]
        axes.plot(found["interval"]["lcc"], [place, place], color="tab:blue", linewidth=2)
        axes.plot(found["lcc"], place, "o", color="tab:blue")
    axes.set_yticks(range(len(names)), list(reversed(names)))
    axes.set_xlabel(f"LCC with people's mean scores ({results['photos']:,} photos, {FOLDS} folds; 95 % intervals)")
    axes.grid(axis="x", alpha=0.3)
    return figure


if __name__ == "__main__":
    main()
