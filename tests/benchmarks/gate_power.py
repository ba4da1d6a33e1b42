"""Error rates of the gates against the champion, by simulation: false publications and missed gains.

    python -m tests.benchmarks.gate_power

Photos have a latent quality. 23 people vote on each photo, as on the shared portraits. Two scorers predict the quality
with correlated errors. The size of the errors for a given SRCC is found on 400,000 photos. Then each simulation is one
test split, which the evaluation's own functions compare and judge. 100 bootstrap draws stand for the 1,000 of a real
run: the gates use only their standard error, and its noise of 7 % changes the rates below by less than their own error.
"""

import math
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache, partial
from multiprocessing import Pool

import numpy as np
from scipy.optimize import brentq

from components.evaluation.checks.champion_comparison import COMPARED_METRICS, compare, gates, photos_needed
from components.evaluation.checks.champion_predictions import ChampionPredictions
from components.scorer.metrics import regression
from components.scorer.settings import SCORES, Evaluation

RATERS, LATENT, RATER, SHRUNK = 23, 1.1, 1.5, 0.75  # people a photo; deviations in score points; slope of a scorer
CHAMPION = 0.70  # SRCC
LIKENESS = (0.6, 0.8, 0.9, 0.95)  # correlation of the two scorers; .8 to .95 for the same network trained twice
SETTINGS = Evaluation(bootstrap=100)
MARGIN = SETTINGS.champion_margin
POPULATION = 400_000


@dataclass(frozen=True)
class World:
    """A challenger whose true SRCC differs from the champion's by ``gain``."""

    gain: float
    likeness: float
    photos: int
    per_group: int = 1
    grouped: bool = False  # whether the comparison uses the groups


def main() -> None:
    """Print the tables: 410 seconds of processor time, about three and a half minutes on two idle cores."""
    began = time.perf_counter()
    with Pool() as pool:
        worse(pool)
        better(pool)
        equal(pool)
        clustered(pool)
    print(f"\n{time.perf_counter() - began:.0f} s")


def worse(pool: Pool) -> None:
    """Print false publications: each gate with its margin at the true loss."""
    print(f"A challenger that is truly worse by the margin, {MARGIN:g} SRCC: let through, wanted at most 5 %")
    print(f"(likeness 0.8; LCC and EMD held against their own true loss, {_losses(-MARGIN)})")
    print(f"{'photos':>8}{'SRCC':>16}{'LCC':>16}{'EMD':>16}{'all three':>12}")
    for photos, times in ((100, 1000), (324, 1500), (500, 1500), (2000, 700)):
        passed = run(pool, World(-MARGIN, 0.8, photos), times).at_true_loss
        rates = "".join(f"{_rate(passed[:, metric]):>16}" for metric in range(3))
        print(f"{photos:8,}{rates}{passed.all(axis=1).mean():12.1%}", flush=True)


def better(pool: Pool) -> None:
    """Print the power for a gain, and the number of photos that are needed."""
    gain, photos = 0.03, 500
    print(f"\nA true gain of {gain:g} SRCC on {photos} photos: recognised by the gate on SRCC, wanted 80 %")
    print(f"(asked: by the gate for superiority, whose aim is a gain of the margin, {MARGIN:g}; n: for this gain)")
    print(f"{'likeness':>10}{'no worse':>16}{'superior':>16}{'asked':>8}{'power there':>16}{'n':>8}{'power there':>16}")
    for likeness in LIKENESS:
        result = run(pool, World(gain, likeness, photos), 500)
        line = f"{likeness:10.2f}{_rate(result.passed[:, 0]):>16}{_rate(result.superior):>16}"
        if result.superior.mean() < 0.8:
            for aim in (MARGIN, gain):
                needed = int(photos_needed(float(np.median(result.error)), photos, aim, SETTINGS.significance))
                result_there = run(pool, World(aim, likeness, needed), 200)
                line += f"{needed:8,}{_rate(result_there.superior):>16}"
        print(line, flush=True)


def equal(pool: Pool) -> None:
    """Print how often an equally good challenger passes, by number of photos."""
    sizes = ((324, 200), (500, 200), (1000, 150), (2000, 100), (4500, 60))
    print("\nA challenger as good as the champion: let through by the gate on SRCC / by all three")
    print(f"{'likeness':>10}" + "".join(f"{photos:>14,}" for photos, _ in sizes) + f"{'asked':>9}{'power there':>16}")
    for likeness in (0.8, 0.9, 0.95):
        line, needed = f"{likeness:10.2f}", 0
        for photos, times in sizes:
            result = run(pool, World(0, likeness, photos), times)
            rates = f"{result.passed[:, 0].mean():.0%} / {result.passed.all(axis=1).mean():.0%}"
            line += f"{rates:>14}"
            needed = needed or int(photos_needed(float(np.median(result.error)), photos, MARGIN, SETTINGS.significance))
        result_there = run(pool, World(0, likeness, needed), 200)
        print(f"{line}{needed:9,}{_rate(result_there.passed[:, 0]):>16}", flush=True)


def clustered(pool: Pool) -> None:
    """Print false publications for groups of similar photos, with and without resampling whole groups."""
    print("\nThe same as the first table with 500 photos, five of each uploader, who share most of quality and errors")
    for grouped in (False, True):
        passed = run(pool, World(-MARGIN, 0.8, 500, per_group=5, grouped=grouped), 400).at_true_loss
        heading = "groups drawn together" if grouped else "groups passed over   "
        print(
            f"  {heading}  "
            + ", ".join(f"{name.upper()} {_rate(passed[:, index])}" for index, name in enumerate(COMPARED_METRICS))
        )


@dataclass(frozen=True)
class Found:
    """Results by simulation: gates passed [times, 3] as set and at the true loss, superiority and error of SRCC."""

    passed: np.ndarray
    at_true_loss: np.ndarray
    superior: np.ndarray
    error: np.ndarray


def run(pool: Pool, world: World, times: int) -> Found:
    """Simulate test splits of a world."""
    spreads = (spread(CHAMPION), spread(round(CHAMPION + world.gain, 6)))
    rows = pool.map(partial(simulate, world, spreads, losses(world.gain)), range(times), chunksize=10)
    return Found(*(np.array(column) for column in zip(*rows, strict=True)))


def simulate(world: World, spreads: tuple[float, float], lost: tuple[float, ...], seed: int) -> tuple:
    """Simulate, compare and judge one test split."""
    rng = np.random.default_rng([seed, world.photos])
    truth, champion, challenger, groups = draw(rng, world, spreads)
    comparison = compare(truth, challenger, champion, SETTINGS, groups if world.grouped else None)
    judge = partial(_passed, comparison, ChampionPredictions("champion", 1, champion))
    # LCC has SRCC's margin: each of the two is judged with the margin at its own true loss.
    srcc, lcc = (judge(replace(SETTINGS, champion_margin=abs(loss))) for loss in lost[:2])
    emd = judge(replace(SETTINGS, champion_margin_emd=abs(lost[2])))
    superior = judge(replace(SETTINGS, champion_mode="superiority"))
    return judge(SETTINGS), [srcc[0], lcc[1], emd[2]], superior[0], comparison.srcc.error


def _passed(compared, champion: ChampionPredictions, settings: Evaluation) -> list[bool]:
    return [gate.verdict == "passed" for gate in gates(compared, champion, settings)]


def draw(
    rng: np.random.Generator, world: World, spreads: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Draw people's votes, the champion's, the challenger's and the groups of one test split."""
    group = np.arange(world.photos) // world.per_group

    def normal() -> np.ndarray:
        noise = rng.normal(size=world.photos)
        if world.per_group == 1:
            return noise
        return math.sqrt(0.7) * rng.normal(size=group[-1] + 1)[group] + math.sqrt(0.3) * noise

    quality, champion_error, challenger_error = LATENT * normal(), normal(), normal()
    champion_sd, challenger_sd = spreads
    correlation = world.likeness * math.sqrt((LATENT**2 + champion_sd**2) * (LATENT**2 + challenger_sd**2)) - LATENT**2
    correlation /= champion_sd * challenger_sd
    challenger_error = correlation * champion_error + math.sqrt(1 - correlation**2) * challenger_error
    return (
        people(rng, quality),
        scorer(quality + champion_sd * champion_error),
        scorer(quality + challenger_sd * challenger_error),
        group.astype(str).tolist(),
    )


def people(rng: np.random.Generator, quality: np.ndarray) -> np.ndarray:
    """Draw counts of votes: each vote is the quality with noise, rounded to a score."""
    votes = np.clip(np.rint(5.5 + quality[:, None] + rng.normal(0, RATER, (len(quality), RATERS))), 1, 10)
    counts = np.zeros((len(quality), len(SCORES)))
    np.add.at(counts, (np.arange(len(quality))[:, None], votes.astype(int) - 1), 1)
    return counts


def scorer(seen: np.ndarray) -> np.ndarray:
    """Return a scorer's votes: as wide as people's, around a mean that is shrunk to the middle."""
    densities = np.exp(-((np.array(SCORES) - (5.5 + SHRUNK * seen[:, None])) ** 2) / (2 * RATER**2))
    return densities / densities.sum(axis=1, keepdims=True)


@cache
def population() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw quality, people's votes and a scorer's errors of so many photos that noise is negligible."""
    rng = np.random.default_rng(0)
    quality = rng.normal(0, LATENT, POPULATION)
    return quality, people(rng, quality), rng.normal(size=POPULATION)


@cache
def spread(srcc: float) -> float:
    """Return the deviation of a scorer's errors for this SRCC."""
    quality, truth, errors = population()
    means = regression.mean_scores(truth)
    return brentq(lambda size: float(regression.srcc(means, quality + size * errors)) - srcc, 0.3, 3, xtol=1e-5)


@cache
def losses(gain: float) -> tuple[float, ...]:
    """Return the true difference, challenger minus champion, in SRCC, LCC and EMD."""
    quality, truth, errors = population()
    metrics_of_both = []
    for srcc in (round(CHAMPION + gain, 6), CHAMPION):
        votes = scorer(quality + spread(srcc) * errors)
        metrics_of_both.append(
            (srcc, float(regression.lcc(*map(regression.mean_scores, (truth, votes)))), regression.emd(truth, votes))
        )
    return tuple(challenger - champion for challenger, champion in zip(*metrics_of_both, strict=True))


def _losses(gain: float) -> str:
    return f"{losses(gain)[1]:+.3f} and {losses(gain)[2]:+.3f}"


def _rate(passed: Iterable[bool]) -> str:
    """Return a rate with the standard error of its simulation."""
    rate = np.mean(passed)
    return f"{rate:.1%} ± {math.sqrt(rate * (1 - rate) / len(passed)):.1%}"


if __name__ == "__main__":
    sys.exit(main())
