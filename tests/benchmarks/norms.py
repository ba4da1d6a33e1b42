"""Accuracy of the upload norms on drawn photos with known truth, and on real portraits, unedited and degraded.

    python -m tests.benchmarks.norms [photos]
    python -m tests.benchmarks.norms --fit

With ``PORTRAITS_DATA`` set, YuNet finds the faces, and real portraits are judged too: ``photos`` of them (200 by
default), spread over all, for the edits, and all of them unedited, by gender and ethnicity. Without it, the faces of
drawn photos are where they were drawn. ``--fit`` prints the weights of the detector of dark lenses, fitted to one half
of its photos, and its accuracy on the other half. Nothing is written, and no photo is named.
"""

import csv
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy.optimize import minimize

from components.scorer.faces import geometry
from components.scorer.faces.detector import FaceDetector
from components.scorer.imaging import decoding
from components.scorer.settings import Ingestion
from components.scorer.upload_norms import check, detectors, policy
from tests.builders import flaws

DRAWN, SEED = 600, 77  # a seed that was never used for tuning
REAL = 200
DARK = 0.2  # threshold of dark lenses in the built-in norms
NORMS = policy.load()
KEYS = [norm.key for norm in NORMS.norms]


class Portrait(NamedTuple):
    """A real, normalised portrait and the group of its person."""

    image: Image.Image
    size: tuple[int, int]
    group: str


Edit = Callable[[Image.Image, geometry.Face, np.random.Generator], Image.Image]

EDITS: dict[str, tuple[str, Edit]] = {
    **{f"darkened by {s} stops": ("too_dark", lambda i, f, r, s=s: flaws.darkened(i, s)) for s in (1, 1.5, 2)},
    **{f"blurred by {s}": ("blurred", lambda i, f, r, s=s: flaws.blurred(i, s)) for s in (0.3, 0.5, 0.7)},
    "blurred by 0.7, noise": ("blurred", lambda i, f, r: flaws.noisy(flaws.blurred(i, 0.7), 6, r)),
    **{
        f"eyes {s} stops darker": ("eyes_in_shadow", lambda i, f, r, s=s: flaws.eyes_shaded(i, f, s))
        for s in (1, 1.5, 2)
    },
    "sunglasses pasted": ("sunglasses", lambda i, f, r: flaws.in_sunglasses(i, f, r)),
    "far away": ("face_too_small", lambda i, f, r: flaws.far_away(i, 0.25 * min(i.size) / f.side(i.size))),
    **{
        f"15 % cut off, {side}": ("face_cut_off", lambda i, f, r, side=side: flaws.cut_off(i, f, 0.15, side))
        for side in ("left", "right", "top", "bottom")
    },
    **{
        f"screen: {kind}": ("screenshot", lambda i, f, r, kind=kind: flaws.screenshot(i, kind, r))
        for kind in flaws.SCREENS
    },
}
"""Edits of a real portrait, each with the norm that it breaks."""


def main(arguments: Sequence[str]) -> int:
    """Print the tables."""
    folder = os.environ.get("PORTRAITS_DATA")
    detector = FaceDetector(Path(folder, "weights", "yunet_n_640_640.onnx")) if folder else None
    if "--fit" in arguments:
        if not folder:
            print("set PORTRAITS_DATA to the folder that holds data/mebeauty and weights: the fit needs portraits")
            return 1
        print_fit(detector, Path(folder))
        return 0
    print_drawn(detector)
    if folder:
        print_real(detector, Path(folder), int(arguments[0]) if arguments else REAL)
        print_as_they_are(detector, Path(folder))
    return 0


def print_drawn(detector: FaceDetector | None) -> None:
    """Print precision and recall by norm, and recall by skin tone."""
    counts, tones = defaultdict(lambda: np.zeros(4, int)), defaultdict(lambda: np.zeros(4, int))
    for case in flaws.drawn_cases(DRAWN, SEED):
        detected = detector.find(case.image) if detector else case.faces
        for finding in check.apply_policy(NORMS, case.image, detected, {}, case.size, case.job):
            if finding.key in case.truth and not (detected is None and finding.kept is None):
                broken, reported = case.truth[finding.key], finding.kept is False
                row = np.array([broken, reported, broken and reported, 1])
                counts[finding.key] += row
                tones[finding.key, case.tone] += row
    print(f"{DRAWN} drawn photos, faces {'found' if detector else 'known'}")
    print(f"{'norm':16}{'photos':>8}{'broken':>8}{'told':>6}{'precision':>11}{'recall':>8}   recall by tone, 0 to 7")
    for key in KEYS:
        broken, reported, hits, photos = counts[key]
        by_tone = " ".join(share(tones[key, tone][2], tones[key, tone][0]) for tone in range(8))
        print(
            f"{key:16}{photos:8}{broken:8}{reported:6}{share(hits, reported):>11}{share(hits, broken):>8}   {by_tone}"
        )


def print_real(detector: FaceDetector, place: Path, number: int) -> None:
    """Print how many degraded portraits are reported by the right norm, and how often other norms are reported too."""
    reported, other_norms = defaultdict(list), defaultdict(list)
    portraits = list(real(place, number))
    for index, portrait in enumerate(portraits):
        rng = np.random.default_rng([SEED, index])
        face = detector.find(portrait.image)[0]
        edited = {name: (key, edit(portrait.image, face, rng)) for name, (key, edit) in EDITS.items()}
        edited["two side by side"] = ("several_faces", flaws.side_by_side(portrait.image, portraits[index - 1].image))
        for name, (key, image) in edited.items():
            broken = broken_norms(detector, image)
            reported[name].append(key in broken)
            other_norms[name].append(len(broken - {key}))
    print(f"\n{len(portraits)} real portraits, made bad")
    print(f"{'edit':26}{'norm':>16}{'recall':>8}{'others told':>13}")
    for name, values in reported.items():
        key = EDITS[name][0] if name in EDITS else "several_faces"
        print(f"{name:26}{key:>16}{np.mean(values):8.3f}{np.mean(other_norms[name]):13.2f}")


def print_as_they_are(detector: FaceDetector, place: Path) -> None:
    """Print how often each norm is reported on real portraits, and the processor time of the checks."""
    rows, detection_times, check_times = defaultdict(list), [], []
    for portrait in real(place):
        start = time.process_time()
        detected = detector.find(portrait.image)
        detected_at = time.process_time()
        findings = check.apply_policy(NORMS, portrait.image, detected, {}, portrait.size)
        detection_times.append(detected_at - start)
        check_times.append(time.process_time() - detected_at)
        rows[portrait.group].append([finding.kept is False for finding in findings])
    print(f"\n{sum(map(len, rows.values()))} real portraits as they are: share in % on which each norm speaks")
    print(f"{'group':20}{'photos':>7}" + "".join(f"{key:>16}" for key in KEYS))
    for group, values in (("all", [row for group_rows in rows.values() for row in group_rows]), *sorted(rows.items())):
        print(f"{group:20}{len(values):7}" + "".join(f"{100 * fraction:16.1f}" for fraction in np.mean(values, 0)))
    for task, seconds in (("finding the faces", detection_times), ("checking all norms", check_times)):
        detected_at, slow = np.percentile(seconds, (50, 95)) * 1000
        print(f"{task}: {detected_at:.1f} ms on one core, 95 % below {slow:.1f} ms")


def print_fit(detector: FaceDetector, place: Path) -> None:
    """Print the weights of `detectors.lens_features` in a logistic regression with a small ridge."""
    rows = list(lens_rows(detector, place))
    features, dark = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    kinds, half = np.array([row[2] for row in rows]), np.array([row[3] for row in rows])
    scale = features[half].std(0)

    def loss(weights: np.ndarray) -> float:
        score = features[half] @ weights[:-1] + weights[-1]
        return float(
            np.logaddexp(0, np.where(dark[half], -score, score)).mean() + 1e-3 * ((weights[:-1] * scale) ** 2).sum()
        )

    weights = minimize(loss, np.zeros(features.shape[1] + 1)).x.round(2)
    print(
        f"weights {weights[:-1].tolist()}, bias {weights[-1]}; by kind of photo, on the other half, share above {DARK}:"
    )
    predicted = 1 / (1 + np.exp(-(features @ weights[:-1] + weights[-1]))) > DARK
    for kind in dict.fromkeys(kinds):
        of_kind = (kinds == kind) & ~half
        print(f"  {kind:30}{of_kind.sum():6}{predicted[of_kind].mean():8.3f}")


def lens_rows(detector: FaceDetector, place: Path) -> Iterator[tuple[np.ndarray, bool, str, bool]]:
    """Yield features, whether the lenses are dark, the kind of photo, and whether it is in the fitted half."""
    drawn = ((case.image, case.truth["sunglasses"], "drawn") for case in portraits_drawn())
    people = ((portrait.image, False, "real") for portrait in real(place))
    for kind, photos in groupby((*drawn, *people), key=lambda photo: photo[2]):
        for number, (image, dark, _) in enumerate(photos):
            detected, rng, is_fitted = detector.find(image), np.random.default_rng([SEED, number]), number % 4 < 2
            if not detected:
                continue
            yield lens(image, detected[0]), dark, f"{kind}, sunglasses worn" if dark else f"{kind}, as it is", is_fitted
            if dark or number % 2:
                continue
            for stops in (1, 2):
                shaded = flaws.jpeg(flaws.eyes_shaded(image, detected[0], stops))
                yield lens(shaded, detected[0]), False, f"{kind}, shaded by {stops}", is_fitted
            yield (
                lens(flaws.jpeg(flaws.in_sunglasses(image, detected[0], rng)), detected[0]),
                True,
                f"{kind}, pasted",
                is_fitted,
            )


def portraits_drawn() -> Iterable[flaws.Case]:
    """Return drawn portraits of the sample."""
    return (case for case in flaws.drawn_cases(DRAWN, SEED + 1) if case.faces and not case.truth.get("eyes_in_shadow"))


def lens(image: Image.Image, face: geometry.Face) -> np.ndarray:
    """Return the features of the detector of dark lenses."""
    return detectors.lens_features(detectors.PhotoContext(image, [face], {}, image.size))


def broken_norms(detector: FaceDetector, image: Image.Image) -> set[str]:
    """Return the norms that a photo breaks, normalised as an upload is."""
    size, scale = image.size, min(1.0, flaws.SIDE / min(image.size))
    image = image.resize([round(side * scale) for side in size], Image.Resampling.LANCZOS) if scale < 1 else image
    image = flaws.jpeg(image)
    return {
        finding.key
        for finding in check.apply_policy(NORMS, image, detector.find(image), {}, size)
        if finding.kept is False
    }


def real(place: Path, number: int | None = None) -> Iterator[Portrait]:
    """Yield real portraits, normalised; ``number`` of them spread over all, or all."""
    folder = place / "data" / "mebeauty"
    with (folder / "photos.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows[:: max(1, len(rows) // number)][:number] if number else rows:
        photo = decoding.decode((folder / "photos" / row["photo"]).read_bytes(), Ingestion())
        yield Portrait(flaws.jpeg(photo.image), (photo.width, photo.height), f"{row['gender']}, {row['ethnicity']}")


def share(part: int, whole: int) -> str:
    """Return a fraction with two digits; a dash if the whole is 0."""
    return f"{part / whole:.2f}" if whole else "-"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
