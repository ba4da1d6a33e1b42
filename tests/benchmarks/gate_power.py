"""What the gates against the champion let through, and what they miss, by simulation.

    python -m tests.benchmarks.gate_power

Photos have a latent quality; 23 people vote on each, as on the shared portraits; two scorers see the quality with
errors of their own that are more or less alike. How large the errors have to be for the SRCC wanted is found on
400,000 photos; after that each simulation is one test split, compared and judged by the very functions of the
evaluation. 100 draws of the bootstrap stand for the 1,000 of a real run: the standard error is what is taken from
them, and 7 % of noise in it moves the rates below by less than they are sure to.
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
LIKENESS = (0.6, 0.8, 0.9, 0.95)  # correlation of the two scorers; the same network trained again reaches .8 to .95
SETTINGS = Evaluation(bootstrap=100)
MARGIN = SETTINGS.champion_margin
POPULATION = 400_000


@dataclass(frozen=True)
class World:
    """Where a challenger differs from the champion in its true SRCC by ``gain``."""

    gain: float
    likeness: float
    photos: int
    per_group: int = 1
    grouped: bool = False  # whether the comparison is told the groups


def main() -> None:
    """Print the tables: 410 seconds of processor time, some three and a half minutes on two idle cores."""
    began = time.perf_counter()
    with Pool() as pool:
        worse(pool)
        better(pool)
        equal(pool)
        clustered(pool)
    print(f"\n{time.perf_counter() - began:.0f} s")


def worse(pool: Pool) -> None:
    """False alarms of publishing: each gate with its margin at the true loss."""
    print(f"A challenger that is truly worse by the margin, {MARGIN:g} SRCC: let through, wanted at most 5 %")
    print(f"(likeness 0.8; LCC and EMD held against their own true loss, {_losses(-MARGIN)})")
    print(f"{'photos':>8}{'SRCC':>16}{'LCC':>16}{'EMD':>16}{'all three':>12}")
    for photos, times in ((100, 1000), (324, 1500), (500, 1500), (2000, 700)):
        passed = run(pool, World(-MARGIN, 0.8, photos), times).at_true_loss
        shown = "".join(f"{_rate(passed[:, place]):>16}" for place in range(3))
        print(f"{photos:8,}{shown}{passed.all(axis=1).mean():12.1%}", flush=True)


def better(pool: Pool) -> None:
    """Power for a gain, and the photos that are asked for."""
    gain, photos = 0.03, 500
    print(f"\nA true gain of {gain:g} SRCC on {photos} photos: recognised by the gate on SRCC, wanted 80 %")
    print(f"(asked: by the gate for superiority, whose aim is a gain of the margin, {MARGIN:g}; n: for this gain)")
    print(f"{'likeness':>10}{'no worse':>16}{'superior':>16}{'asked':>8}{'power there':>16}{'n':>8}{'power there':>16}")
    for likeness in LIKENESS:
        here = run(pool, World(gain, likeness, photos), 500)
        line = f"{likeness:10.2f}{_rate(here.passed[:, 0]):>16}{_rate(here.superior):>16}"
        if here.superior.mean() < 0.8:
            for aim in (MARGIN, gain):
                asked = int(photos_needed(float(np.median(here.error)), photos, aim, SETTINGS.significance))
                there = run(pool, World(aim, likeness, asked), 200)
                line += f"{asked:8,}{_rate(there.superior):>16}"
        print(line, flush=True)


def equal(pool: Pool) -> None:
    """How often a challenger as good as the champion takes its place, by the photos there are."""
    sizes = ((324, 200), (500, 200), (1000, 150), (2000, 100), (4500, 60))
    print("\nA challenger as good as the champion: let through by the gate on SRCC / by all three")
    print(f"{'likeness':>10}" + "".join(f"{photos:>14,}" for photos, _ in sizes) + f"{'asked':>9}{'power there':>16}")
    for likeness in (0.8, 0.9, 0.95):
        line, asked = f"{likeness:10.2f}", 0
        for photos, times in sizes:
            found = run(pool, World(0, likeness, photos), times)
            rates = f"{found.passed[:, 0].mean():.0%} / {found.passed.all(axis=1).mean():.0%}"
            line += f"{rates:>14}"
            asked = asked or int(photos_needed(float(np.median(found.error)), photos, MARGIN, SETTINGS.significance))
        there = run(pool, World(0, likeness, asked), 200)
        print(f"{line}{asked:9,}{_rate(there.passed[:, 0]):>16}", flush=True)


def clustered(pool: Pool) -> None:
    """Photos of one uploader resemble each other: false alarms with and without drawing them together."""
    print("\nThe same as the first table with 500 photos, five of each uploader, who share most of quality and errors")
    for grouped in (False, True):
        passed = run(pool, World(-MARGIN, 0.8, 500, per_group=5, grouped=grouped), 400).at_true_loss
        told = "groups drawn together" if grouped else "groups passed over   "
        print(
            f"  {told}  "
            + ", ".join(f"{name.upper()} {_rate(passed[:, i])}" for i, name in enumerate(COMPARED_METRICS))
        )


@dataclass(frozen=True)
class Found:
    """Of each simulation: gates passed [times, 3] as set and at the true loss, superiority in SRCC, its error."""

    passed: np.ndarray
    at_true_loss: np.ndarray
    superior: np.ndarray
    error: np.ndarray


def run(pool: Pool, world: World, times: int) -> Found:
    """Simulate a world's test split again and again."""
    spreads = (spread(CHAMPION), spread(round(CHAMPION + world.gain, 6)))
    rows = pool.map(partial(simulate, world, spreads, losses(world.gain)), range(times), chunksize=10)
    return Found(*(np.array(column) for column in zip(*rows, strict=True)))


def simulate(world: World, spreads: tuple[float, float], lost: tuple[float, ...], seed: int) -> tuple:
    """One test split, compared and judged."""
    rng = np.random.default_rng([seed, world.photos])
    truth, champion, challenger, groups = draw(rng, world, spreads)
    compared = compare(truth, challenger, champion, SETTINGS, groups if world.grouped else None)
    judged = partial(_passed, compared, ChampionPredictions("champion", 1, champion))
    # LCC's margin is SRCC's: the two are asked one after the other where each stands at its own true loss.
    srcc, lcc = (judged(replace(SETTINGS, champion_margin=abs(loss))) for loss in lost[:2])
    emd = judged(replace(SETTINGS, champion_margin_emd=abs(lost[2])))
    superior = judged(replace(SETTINGS, champion_mode="superiority"))
    return judged(SETTINGS), [srcc[0], lcc[1], emd[2]], superior[0], compared.srcc.error


def _passed(compared, champion: ChampionPredictions, settings: Evaluation) -> list[bool]:
    return [gate.verdict == "passed" for gate in gates(compared, champion, settings)]


def draw(
    rng: np.random.Generator, world: World, spreads: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """People's votes, the champion's, the challenger's and the groups of one test split."""
    group = np.arange(world.photos) // world.per_group

    def normal() -> np.ndarray:
        own = rng.normal(size=world.photos)
        if world.per_group == 1:
            return own
        return math.sqrt(0.7) * rng.normal(size=group[-1] + 1)[group] + math.sqrt(0.3) * own

    quality, one, other = LATENT * normal(), normal(), normal()
    of_champion, of_challenger = spreads
    shared = world.likeness * math.sqrt((LATENT**2 + of_champion**2) * (LATENT**2 + of_challenger**2)) - LATENT**2
    shared /= of_champion * of_challenger
    other = shared * one + math.sqrt(1 - shared**2) * other
    return (
        people(rng, quality),
        scorer(quality + of_champion * one),
        scorer(quality + of_challenger * other),
        group.astype(str).tolist(),
    )


def people(rng: np.random.Generator, quality: np.ndarray) -> np.ndarray:
    """Counts of votes: each person's is the quality with noise, rounded to a score."""
    votes = np.clip(np.rint(5.5 + quality[:, None] + rng.normal(0, RATER, (len(quality), RATERS))), 1, 10)
    counts = np.zeros((len(quality), len(SCORES)))
    np.add.at(counts, (np.arange(len(quality))[:, None], votes.astype(int) - 1), 1)
    return counts


def scorer(seen: np.ndarray) -> np.ndarray:
    """A scorer's votes: as wide as people's, around a mean that errors have shrunk to the middle."""
    shares = np.exp(-((np.array(SCORES) - (5.5 + SHRUNK * seen[:, None])) ** 2) / (2 * RATER**2))
    return shares / shares.sum(axis=1, keepdims=True)


@cache
def population() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Quality, people's votes and a scorer's errors of so many photos that chance plays no part."""
    rng = np.random.default_rng(0)
    quality = rng.normal(0, LATENT, POPULATION)
    return quality, people(rng, quality), rng.normal(size=POPULATION)


@cache
def spread(srcc: float) -> float:
    """The deviation of a scorer's errors that gives it this SRCC."""
    quality, truth, errors = population()
    means = regression.mean_scores(truth)
    return brentq(lambda size: float(regression.srcc(means, quality + size * errors)) - srcc, 0.3, 3, xtol=1e-5)


@cache
def losses(gain: float) -> tuple[float, ...]:
    """Challenger minus champion in SRCC, LCC and EMD, in truth."""
    quality, truth, errors = population()
    both = []
    for srcc in (round(CHAMPION + gain, 6), CHAMPION):
        votes = scorer(quality + spread(srcc) * errors)
        both.append(
            (srcc, float(regression.lcc(*map(regression.mean_scores, (truth, votes)))), regression.emd(truth, votes))
        )
    return tuple(ours - theirs for ours, theirs in zip(*both, strict=True))


def _losses(gain: float) -> str:
    return f"{losses(gain)[1]:+.3f} and {losses(gain)[2]:+.3f}"


def _rate(passed: Iterable[bool]) -> str:
    """A share with the standard error of its simulation."""
    share = np.mean(passed)
    return f"{share:.1%} ± {math.sqrt(share * (1 - share) / len(passed)):.1%}"


if __name__ == "__main__":
    sys.exit(main())
