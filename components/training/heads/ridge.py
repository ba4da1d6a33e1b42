"""The head in closed form, on features of the network as it is: the best of its kind, in seconds and without epochs.

A few thousand rated photos are too few for steps down a gradient, which learn the features of a face network by heart
in some epochs. Ridge regression on pairs of features (``scorer.quadratic``) has one solution, and for every strength
of its penalty tells exactly how it would score a photo that was left out. So nothing has to be kept apart to stop by:
the photos of the validation split are learnt from as well.

What is fitted is how far a photo's votes are tilted: ``votes ∝ h(s) · exp(t · (s - 5.5))``, of which the t that gives
people's mean is known for each photo (Efron, "Exponential Families in Theory and Practice", 2022, section 1.2), and h
is such that the votes of all photos together are people's. Where votes crowd at an end of the scale, a small difference
of means is a large one of tilts: so each photo counts by the variance of its tilted votes, as in Fisher's scoring
(McCullagh and Nelder, "Generalized Linear Models", 1989, section 2.5).
"""

import time
from collections.abc import Mapping
from typing import NamedTuple

import keras
import numpy as np
from scipy.linalg import cho_factor, cho_solve

from components.scorer.faces.face_inputs import EMBEDDING, FOUND
from components.scorer.fit.checkpoints import Curves
from components.scorer.model.inputs import STAND_IN, Components, Sight, settle
from components.scorer.model.layers import NAME
from components.scorer.model.losses import expect_finite
from components.scorer.model.network import build_head
from components.scorer.settings import SCORES, Training
from components.training.examples.degraded_copies import FAULT
from components.training.heads.pca import principal_axes

WEIGHTS = (0.03, 0.06, 0.125, 0.25)
"""Of what the network sees against what the embedding says, of length 1, that are tried."""

RATIO = 1.0
"""Of pairs of features against features alone; 0: features alone.

Choosing among 0, .5, 1 and 2 as the rest is chosen gained nothing on 1,600 portraits and lost .006 of LCC on 160.
"""

PENALTIES = tuple(2.0 ** (power / 2) for power in range(-8, 13))
"""Likewise, against kernels of size 1 and 2."""

CHOSEN_ON = 2000
"""Photos by which the penalty and the weights are chosen: more cost the cube and change nothing."""

MOST = 20_000
"""Photos that are learnt from: the matrix of all pairs takes 3 GB then. Of more as many are drawn."""

_CENTRED = np.array(SCORES) - np.mean(SCORES)
_TILTS = np.linspace(-4, 4, 4001)  # a mean of 1.2 to 9.8 with the votes that people give
_FREE = 100.0  # of the kernel's constant part: the intercept goes unpenalised
_SMALL = 1e-6  # of a feature's deviation: one that never varies tells nothing


class Chosen(NamedTuple):
    """What leaving photos out tells to be best.

    Attributes:
        weight: one of `WEIGHTS`.
        penalty: one of `PENALTIES`.
        loss: squared EMD of the photos that were left out.
    """

    weight: float
    penalty: float
    loss: float


def fit_closed(
    given: Mapping[str, np.ndarray],
    votes: np.ndarray,
    sight: Sight,
    components: Components | None,
    settings: Training,
    ratio: float = RATIO,
    as_taken: int | None = None,
    weights: np.ndarray | None = None,
) -> tuple[keras.Model, Curves]:
    """Fit the head.

    Args:
        given: what ``network.build_head`` takes, by name, of n photos: ``pooled`` and, where ``inputs`` has them,
            ``pooled_face``, both float ``[n, c]``, ``embedding`` ``[n, size]`` and ``found`` ``[n]``.
        votes: of people, ``[n, 10]``, each row summing to 1.
        sight: what the scorer sees.
        components: of the embeddings, where they are read.
        settings: how many components' pairs are weighed, and the seed.
        ratio: of pairs of features against features alone, at least 0.
        as_taken: how many of the photos, the first ones, are as people rated them. The others are copies of them made
            worse (``degraded_copies``): learnt from as worth `FAULT` less, and nothing is chosen by them. None: all
            are.
        weights: how much each photo counts besides, ``[n]``, above 0; None: all the same.

    Returns:
        The head, and its curves of one value each: ``loss`` of what it was fitted to, ``val_loss`` of photos left out
        one by one, ``seconds``.

    Raises:
        ValueError: something given is not finite.
    """
    began = time.monotonic()
    votes = np.asarray(votes, float)
    for name, values in {**given, "votes": votes, "weights of the photos": [] if weights is None else weights}.items():
        expect_finite(values, "training the head", f"{name} of {len(votes):,} photos")
    if len(votes) > MOST:
        drawn = np.sort(np.random.default_rng(settings.seed).permutation(len(votes))[:MOST])
        as_taken = as_taken and int((drawn < as_taken).sum())
        print(f"training the head: {MOST:,} of {len(votes):,} photos are drawn to learn from", flush=True)
        given, votes = {name: values[drawn] for name, values in given.items()}, votes[drawn]
        weights = weights[drawn] if weights is not None else None
    first = slice(as_taken)
    base, _ = tilted(votes[first])
    tilts = _tilts(base, votes @ np.array(SCORES) - FAULT * (np.arange(len(votes)) >= (as_taken or len(votes))))
    stand_in = _stand_in(given, components)
    blocks = _blocks(given, components, stand_in, first)
    counts = _counts(base, tilts) * (1 if weights is None else weights / weights.mean())
    chosen = _choose(blocks, votes, base, tilts, counts, ratio, settings.seed, first)
    features, mean, axes = _components(blocks, chosen.weight, settings.pairs)
    form, linear, constant = _solved(features, tilts, counts, ratio, chosen.penalty)
    kept = axes.shape[1]
    head = build_head(given["pooled"].shape[-1], settings.dropout, sight, kept)
    settle(head, components)
    if components is not None:
        head.get_layer(STAND_IN).set_weights([stand_in])
    head.get_layer(NAME).set_weights([form, mean, axes])
    kernel = np.outer(np.append(linear, np.ones(kept)), _CENTRED)
    head.get_layer("votes").set_weights([kernel, np.log(base) + constant * _CENTRED])
    fitted = constant + features @ linear + np.sum(features * (features @ form), axis=1)
    seconds = time.monotonic() - began
    print(
        f"training the head: in closed form on {len(votes):,} photos, {seconds:.0f} s; weight of the views"
        f" {chosen.weight:g}, penalty {chosen.penalty:g}, loss on photos left out {chosen.loss:.4f}",
        flush=True,
    )
    curves = {"loss": [_loss(base, fitted[first], votes[first])], "val_loss": [chosen.loss], "seconds": [seconds]}
    return head, curves


def tilted(votes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """People's votes as one distribution that each photo tilts.

    Args:
        votes: ``[n, 10]``, each row summing to 1.

    Returns:
        The distribution h ``[10]``, and t ``[n]`` by which ``h(s) · exp(t · (s - 5.5))`` has each photo's mean (or the
        nearest that a t within -4 and 4 gives). The tilted votes of all photos together are people's (iterative
        proportional fitting).
    """
    means, together = votes @ np.array(SCORES, float), np.maximum(votes.mean(0), 1e-4)
    base = together / together.sum()
    for _ in range(30):
        base = base * together / _tilt(base, _tilts(base, means)).mean(0)
        base /= base.sum()
        base *= np.exp(-(base @ _CENTRED) / (base @ _CENTRED**2) * _CENTRED)  # which of all h that differ by a tilt
        base /= base.sum()
    return base, _tilts(base, means)


def _tilts(base: np.ndarray, means: np.ndarray) -> np.ndarray:
    """The tilts ``[n]`` by which a distribution has means ``[n]``."""
    return np.interp(means, _tilt(base, _TILTS) @ np.array(SCORES, float), _TILTS)


def _tilt(base: np.ndarray, tilts: np.ndarray) -> np.ndarray:
    """Votes ``[n, 10]`` for tilts ``[n]``."""
    steps = tilts[:, None] * _CENTRED
    votes = base * np.exp(steps - steps.max(1, keepdims=True))
    return votes / votes.sum(1, keepdims=True)


def _counts(base: np.ndarray, tilts: np.ndarray) -> np.ndarray:
    """How much each photo counts, 1 on average: the variance of its tilted votes."""
    votes = _tilt(base, tilts)
    variances = votes @ _CENTRED**2 - (votes @ _CENTRED) ** 2
    return variances / variances.mean()


def _loss(base: np.ndarray, tilts: np.ndarray, votes: np.ndarray) -> float:
    """Mean squared EMD of tilted votes; see ``losses.squared_emd``."""
    return float(np.mean(np.square(np.cumsum(_tilt(base, tilts) - votes, axis=1))))


class _Block(NamedTuple):
    """Some features, ``(values - mean) * scale`` of which have a squared length of 1 on average.

    Attributes:
        values: float32 ``[n, c]``.
        mean, scale: ``[c]``.
        weighed: whether `Chosen.weight` applies.
    """

    values: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    weighed: bool


def _stand_in(given: Mapping[str, np.ndarray], components: Components | None) -> np.ndarray:
    """What stands for the components of a face where there is none, ``[kept]``.

    As long as a face, along the component in which faces differ least: what its absence says is learnt as what any
    feature says. Zero, the mean of all faces, where every photo has one.
    """
    stand_in = np.zeros(components.axes.shape[1] if components else 0)
    if components is not None and not given[FOUND].all():
        stand_in[-1] = 1
    return stand_in


def _blocks(
    given: Mapping[str, np.ndarray], components: Components | None, stand_in: np.ndarray, first: slice
) -> list[_Block]:
    """The features in the order in which the head joins them, measured by the first photos."""
    blocks = []
    for name in ("pooled", "pooled_face"):
        if name in given:
            values = given[name]
            spread = values[first].std(0, dtype=float)
            varies = spread > _SMALL * spread.max(initial=0)
            scale = np.where(varies, 1 / np.where(varies, spread, 1), 0) / np.sqrt(max(varies.sum(), 1))
            blocks.append(_Block(values, values[first].mean(0, dtype=float), scale, components is not None))
    if components is not None:
        faces = (given[EMBEDDING] - components.mean) @ components.axes
        faces = np.where(given[FOUND][:, None] > 0, faces, stand_in)
        blocks.append(_Block(faces, np.zeros(faces.shape[1]), np.ones(faces.shape[1]), False))
    return blocks


def _joined(blocks: list[_Block], weight: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All features ``[n, c]`` as they are measured against each other, and the mean and scale that make them so."""
    scales = [block.scale * np.sqrt(weight if block.weighed else 1) for block in blocks]
    parts = [(block.values - block.mean) * scale for block, scale in zip(blocks, scales, strict=True)]
    means = np.concatenate([block.mean for block in blocks])
    return np.concatenate(parts, axis=1).astype("float32"), means, np.concatenate(scales)


def _choose(
    blocks: list[_Block],
    votes: np.ndarray,
    base: np.ndarray,
    tilts: np.ndarray,
    counts: np.ndarray,
    ratio: float,
    seed: int,
    first: slice,
) -> Chosen:
    """The weight and the penalty under which photos that are left out are scored best."""
    some = np.sort(np.random.default_rng(seed).permutation(len(votes[first]))[:CHOSEN_ON])
    cut = [block._replace(values=block.values[some]) for block in blocks]
    votes, tilts, counts = votes[some], tilts[some], counts[some]

    def best(weight: float) -> Chosen:
        kernel = _kernel(_alike(_joined(cut, weight)[0]), ratio)
        penalty, loss = _left_out(kernel, votes, base, tilts, counts)
        return Chosen(weight, penalty, loss)

    weights = WEIGHTS if any(block.weighed for block in blocks) else (1.0,)
    return min((best(weight) for weight in weights), key=lambda tried: tried.loss)


def _alike(features: np.ndarray) -> np.ndarray:
    """The cosines ``[n, n]`` of features ``[n, c]``."""
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), _SMALL)
    return (unit @ unit.T).astype(float)


def _kernel(alike: np.ndarray, ratio: float) -> np.ndarray:
    return alike + ratio * alike**2 + _FREE


def _left_out(
    kernel: np.ndarray, votes: np.ndarray, base: np.ndarray, tilts: np.ndarray, counts: np.ndarray
) -> tuple[float, float]:
    """The penalty under which each photo is scored best by all the others, and their loss then.

    Without photo i, ridge regression would miss its t by ``(G t)_i / G_ii``, G the inverse of the kernel with its
    penalty (Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006, equation 5.12).
    """
    roots = np.sqrt(counts)
    values, vectors = np.linalg.eigh(roots[:, None] * kernel * roots)
    turned, squares = vectors.T @ (roots * tilts), vectors**2
    tried = []
    for penalty in PENALTIES:
        inverse = 1 / (np.maximum(values, 0) + penalty)
        missed = (vectors @ (inverse * turned)) / (squares @ inverse) / roots
        tried.append((_loss(base, tilts - missed, votes), penalty))
    loss, penalty = min(tried)
    return penalty, loss


def _components(blocks: list[_Block], weight: float, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The principal components of all features, of length 1, ``[n, kept]``; the mean ``[c]`` and axes ``[c, kept]``."""
    features, mean, scale = _joined(blocks, weight)
    axes, _ = principal_axes(features, most)
    found = features @ axes
    found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), _SMALL)
    return found, mean.astype("float32"), (scale[:, None] * axes).astype("float32")


def _solved(
    features: np.ndarray, tilts: np.ndarray, counts: np.ndarray, ratio: float, penalty: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """The quadratic form ``[k, k]``, the linear one ``[k]`` and the constant of ridge regression on all photos."""
    kernel = _kernel((features @ features.T).astype("float32"), ratio)
    kernel[np.diag_indices_from(kernel)] += penalty / counts
    shares = cho_solve(cho_factor(kernel, lower=True, overwrite_a=True), tilts)
    form = ratio * (features.T * shares) @ features
    return (form + form.T) / 2, features.T @ shares, _FREE * float(shares.sum())
