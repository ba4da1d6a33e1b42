"""Score head fitted by kernel ridge regression in closed form, on features of a frozen network.

Fitting takes seconds and no epochs. A few thousand rated photos are too few for gradient descent, which memorises the
features of a face network within some epochs. Ridge regression on pairs of features (`QuadraticFeatures`) has a single
solution. Its leave-one-out error is exact for every penalty, so no split is held out for early stopping: the head is
fitted on the validation split too.

The regression target is the tilt t of a photo's votes, ``votes ∝ h(s) · exp(t · (s - 5.5))``. The tilt of each photo is
known: it gives the mean of people's votes (exponential tilting; Efron, "Exponential Families in Theory and Practice",
2022, section 1.2). The base h is such that the tilted votes of all photos together equal people's. Near an end of the
scale, a small difference of means is a large difference of tilts. Each photo is therefore weighted by the variance of
its tilted votes, as in Fisher scoring (McCullagh and Nelder, "Generalized Linear Models", 1989, section 2.5).
"""

import time
from collections.abc import Mapping
from typing import NamedTuple

import keras
import numpy as np
from scipy.linalg import cho_factor, cho_solve

from components.scorer.faces.face_inputs import EMBEDDING, FOUND
from components.scorer.fit.checkpoints import History
from components.scorer.model.inputs import MISSING_FACE_LAYER, ModelInputs, PCABasis, set_pca_weights
from components.scorer.model.layers import QUADRATIC_LAYER
from components.scorer.model.losses import check_finite
from components.scorer.model.network import build_head
from components.scorer.settings import SCORES, Training
from components.training.examples.degraded_copies import FAULT_POINTS
from components.training.heads.pca import principal_axes

VIEW_WEIGHTS = (0.03, 0.06, 0.125, 0.25)
"""Candidate weights of each block of pooled features; the embedding's weight is 1."""

QUADRATIC_RATIO = 1.0
"""Weight of the quadratic kernel relative to the linear kernel; 0 uses the linear kernel alone.

Choosing among 0, .5, 1 and 2 by leave-one-out loss gained nothing on 1,600 portraits and lost .006 of LCC on 160.
"""

PENALTIES = tuple(2.0 ** (power / 2) for power in range(-8, 13))
"""Candidate ridge penalties, for kernels whose diagonal is 1 (linear) or 2 (with the quadratic part)."""

MAX_SELECTION_PHOTOS = 2000
"""Maximum number of photos for choosing the hyperparameters: more cost cubic time and do not change the choice."""

MAX_PHOTOS = 20_000
"""Maximum number of photos to fit on: their kernel matrix takes 3 GB. A larger set is sampled down to this number."""

_CENTRED = np.array(SCORES) - np.mean(SCORES)
_TILT_GRID = np.linspace(-4, 4, 4001)  # means of 1.2 to 9.8 for votes as people give them
_INTERCEPT_KERNEL = 100.0  # constant added to the kernel: leaves the intercept practically unpenalised
_MIN_DEVIATION = 1e-6  # relative standard deviation below which a feature counts as constant


class HeadHyperparameters(NamedTuple):
    """Hyperparameters chosen by leave-one-out loss.

    Attributes:
        view_weight: Weight of the pooled features, one of `VIEW_WEIGHTS`, or 1 without embeddings.
        penalty: Ridge penalty, one of `PENALTIES`.
        loss: Leave-one-out loss, squared EMD.
    """

    view_weight: float
    penalty: float
    loss: float


def fit_ridge_head(
    head_inputs: Mapping[str, np.ndarray],
    votes: np.ndarray,
    model_inputs: ModelInputs,
    components: PCABasis | None,
    settings: Training,
    quadratic_ratio: float = QUADRATIC_RATIO,
    n_originals: int | None = None,
    weights: np.ndarray | None = None,
) -> tuple[keras.Model, History]:
    """Fit the score head by kernel ridge regression.

    Args:
        head_inputs: Inputs of ``network.build_head`` by name, for n photos: ``pooled`` and, if the model has a face
            view, ``pooled_face``, both float ``[n, c]``; if it reads embeddings, ``embedding`` ``[n, size]`` and
            ``found`` ``[n]``.
        votes: People's votes, ``[n, 10]``, each row summing to 1.
        model_inputs: The scorer's inputs.
        components: PCA basis of the embeddings; None if they are not read.
        settings: Training settings; names the number of components in the quadratic form, the dropout and the seed.
        quadratic_ratio: Weight of the quadratic kernel relative to the linear kernel, at least 0.
        n_originals: The first `n_originals` rows are photos as people rated them. The other rows are degraded copies
            (``degraded_copies``), whose target mean is lowered by `FAULT_POINTS`. Copies are fitted but not used to
            choose hyperparameters. If None, no row is a copy.
        weights: Sample weights ``[n]``, above 0. If None, all photos weigh the same.

    Returns:
        The head, and its curves of one value each: ``loss`` (training), ``val_loss`` (leave-one-out) and ``seconds``.

    Raises:
        ValueError: An input, a vote or a weight is not finite.
    """
    began = time.monotonic()
    votes = np.asarray(votes, float)
    _check_finite(head_inputs, votes, weights)
    if len(votes) > MAX_PHOTOS:
        sample = np.sort(np.random.default_rng(settings.seed).permutation(len(votes))[:MAX_PHOTOS])
        n_originals = n_originals and int((sample < n_originals).sum())
        print(f"training the head: {MAX_PHOTOS:,} of {len(votes):,} photos are drawn to learn from", flush=True)
        head_inputs, votes = {name: values[sample] for name, values in head_inputs.items()}, votes[sample]
        weights = weights[sample] if weights is not None else None
    originals = slice(n_originals)
    base, _ = fit_base_and_tilts(votes[originals])
    tilts = _solve_tilts(
        base, votes @ np.array(SCORES) - FAULT_POINTS * (np.arange(len(votes)) >= (n_originals or len(votes)))
    )
    missing_face = _missing_face_vector(head_inputs, components)
    blocks = _feature_blocks(head_inputs, components, missing_face, originals)
    fisher_weights = _fisher_weights(base, tilts) * (1 if weights is None else weights / weights.mean())
    chosen = _choose_hyperparameters(
        blocks, votes, base, tilts, fisher_weights, quadratic_ratio, settings.seed, originals
    )
    features, mean, axes = _principal_components(blocks, chosen.view_weight, settings.pairs)
    quadratic, linear, constant = _solve_ridge(features, tilts, fisher_weights, quadratic_ratio, chosen.penalty)
    rank = axes.shape[1]
    head = build_head(head_inputs["pooled"].shape[-1], settings.dropout, model_inputs, rank)
    set_pca_weights(head, components)
    if components is not None:
        head.get_layer(MISSING_FACE_LAYER).set_weights([missing_face])
    head.get_layer(QUADRATIC_LAYER).set_weights([quadratic, mean, axes])
    kernel = np.outer(np.append(linear, np.ones(rank)), _CENTRED)
    head.get_layer("votes").set_weights([kernel, np.log(base) + constant * _CENTRED])
    fitted = constant + features @ linear + np.sum(features * (features @ quadratic), axis=1)
    seconds = time.monotonic() - began
    print(
        f"training the head: in closed form on {len(votes):,} photos, {seconds:.0f} s; weight of the views"
        f" {chosen.view_weight:g}, penalty {chosen.penalty:g}, loss on photos left out {chosen.loss:.4f}",
        flush=True,
    )
    training_loss = _loss(base, fitted[originals], votes[originals])
    return head, {"loss": [training_loss], "val_loss": [chosen.loss], "seconds": [seconds]}


def _check_finite(head_inputs: Mapping[str, np.ndarray], votes: np.ndarray, weights: np.ndarray | None) -> None:
    """Raise ValueError if an input, a vote or a weight is not finite."""
    weights = np.ones(0) if weights is None else weights
    for name, values in {**head_inputs, "votes": votes, "weights of the photos": weights}.items():
        check_finite(values, "training the head", f"{name} of {len(votes):,} photos")


def fit_base_and_tilts(votes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the base distribution and the tilt of each photo's votes.

    Args:
        votes: People's votes, ``[n, 10]``, each row summing to 1.

    Returns:
        The base distribution h ``[10]``, and tilts t ``[n]`` with which ``h(s) · exp(t · (s - 5.5))`` has each photo's
        mean. A mean out of reach gets the nearest t within -4 and 4. The tilted votes of all photos together equal
        people's (iterative proportional fitting).
    """
    means, mean_votes = votes @ np.array(SCORES, float), np.maximum(votes.mean(0), 1e-4)
    base = mean_votes / mean_votes.sum()
    for _ in range(30):
        base = base * mean_votes / _apply_tilt(base, _solve_tilts(base, means)).mean(0)
        base /= base.sum()
        # h is defined up to a tilt: choose the one of mean 5.5.
        base *= np.exp(-(base @ _CENTRED) / (base @ _CENTRED**2) * _CENTRED)
        base /= base.sum()
    return base, _solve_tilts(base, means)


def _solve_tilts(base: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Return the tilts ``[n]`` with which a base distribution has means ``[n]``."""
    return np.interp(means, _apply_tilt(base, _TILT_GRID) @ np.array(SCORES, float), _TILT_GRID)


def _apply_tilt(base: np.ndarray, tilts: np.ndarray) -> np.ndarray:
    """Return the votes ``[n, 10]`` of a base distribution tilted by ``[n]``."""
    steps = tilts[:, None] * _CENTRED
    votes = base * np.exp(steps - steps.max(1, keepdims=True))
    return votes / votes.sum(1, keepdims=True)


def _fisher_weights(base: np.ndarray, tilts: np.ndarray) -> np.ndarray:
    """Return the Fisher weights ``[n]``: the variance of each photo's tilted votes, scaled to a mean of 1."""
    votes = _apply_tilt(base, tilts)
    variances = votes @ _CENTRED**2 - (votes @ _CENTRED) ** 2
    return variances / variances.mean()


def _loss(base: np.ndarray, tilts: np.ndarray, votes: np.ndarray) -> float:
    """Return the mean squared EMD of tilted votes against people's; see ``losses.squared_emd``."""
    return float(np.mean(np.square(np.cumsum(_apply_tilt(base, tilts) - votes, axis=1))))


class _FeatureBlock(NamedTuple):
    """Block of features; ``(values - mean) * scale`` has a squared length of 1 on average.

    Attributes:
        values: Features, float32 ``[n, c]``.
        mean: Means, ``[c]``.
        scale: Scales, ``[c]``.
        is_view: True if `HeadHyperparameters.view_weight` applies to the block.
    """

    values: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    is_view: bool


def _missing_face_vector(inputs: Mapping[str, np.ndarray], components: PCABasis | None) -> np.ndarray:
    """Return the vector ``[kept]`` that replaces the PCA components of a missing face.

    It is as long as a face's components and lies along the last one, in which faces differ least. The effect of a
    missing face is thus learnt as that of any other feature. If every photo has a face, the vector is zero, the mean of
    all faces.
    """
    vector = np.zeros(components.axes.shape[1] if components else 0)
    if components is not None and not inputs[FOUND].all():
        vector[-1] = 1
    return vector


def _feature_blocks(
    inputs: Mapping[str, np.ndarray], components: PCABasis | None, missing_face: np.ndarray, originals: slice
) -> list[_FeatureBlock]:
    """Return the feature blocks in the order in which the head joins them, standardised by the original photos."""
    blocks = []
    for name in ("pooled", "pooled_face"):
        if name in inputs:
            values = inputs[name]
            spread = values[originals].std(0, dtype=float)
            varies = spread > _MIN_DEVIATION * spread.max(initial=0)
            scale = np.where(varies, 1 / np.where(varies, spread, 1), 0) / np.sqrt(max(varies.sum(), 1))
            blocks.append(_FeatureBlock(values, values[originals].mean(0, dtype=float), scale, components is not None))
    if components is not None:
        faces = (inputs[EMBEDDING] - components.mean) @ components.axes
        faces = np.where(inputs[FOUND][:, None] > 0, faces, missing_face)
        blocks.append(_FeatureBlock(faces, np.zeros(faces.shape[1]), np.ones(faces.shape[1]), False))
    return blocks


def _join_blocks(blocks: list[_FeatureBlock], weight: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return all features ``[n, c]``, standardised and weighted, and the mean ``[c]`` and scale ``[c]`` that do so."""
    scales = [block.scale * np.sqrt(weight if block.is_view else 1) for block in blocks]
    scaled_blocks = [(block.values - block.mean) * scale for block, scale in zip(blocks, scales, strict=True)]
    means = np.concatenate([block.mean for block in blocks])
    return np.concatenate(scaled_blocks, axis=1).astype("float32"), means, np.concatenate(scales)


def _choose_hyperparameters(
    blocks: list[_FeatureBlock],
    votes: np.ndarray,
    base: np.ndarray,
    tilts: np.ndarray,
    fisher_weights: np.ndarray,
    ratio: float,
    seed: int,
    originals: slice,
) -> HeadHyperparameters:
    """Choose the weight and the ridge penalty by leave-one-out loss on a sample of the original photos."""
    sample = np.sort(np.random.default_rng(seed).permutation(len(votes[originals]))[:MAX_SELECTION_PHOTOS])
    sampled_blocks = [block._replace(values=block.values[sample]) for block in blocks]
    votes, tilts, fisher_weights = votes[sample], tilts[sample], fisher_weights[sample]

    def leave_out(weight: float) -> HeadHyperparameters:
        kernel = _kernel(_cosine_matrix(_join_blocks(sampled_blocks, weight)[0]), ratio)
        penalty, loss = _leave_one_out(kernel, votes, base, tilts, fisher_weights)
        return HeadHyperparameters(weight, penalty, loss)

    weights = VIEW_WEIGHTS if any(block.is_view for block in blocks) else (1.0,)
    return min((leave_out(weight) for weight in weights), key=lambda candidate: candidate.loss)


def _cosine_matrix(features: np.ndarray) -> np.ndarray:
    """Return the cosine matrix ``[n, n]`` of features ``[n, c]``."""
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), _MIN_DEVIATION)
    return (unit @ unit.T).astype(float)


def _kernel(cosines: np.ndarray, ratio: float) -> np.ndarray:
    return cosines + ratio * cosines**2 + _INTERCEPT_KERNEL


def _leave_one_out(
    kernel: np.ndarray, votes: np.ndarray, base: np.ndarray, tilts: np.ndarray, fisher_weights: np.ndarray
) -> tuple[float, float]:
    """Return the penalty of the lowest leave-one-out loss, and that loss.

    Fitted without photo i, ridge regression misses its t by ``(G t)_i / G_ii``. G is the inverse of the kernel plus the
    penalty (Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006, equation 5.12).
    """
    roots = np.sqrt(fisher_weights)
    values, vectors = np.linalg.eigh(roots[:, None] * kernel * roots)
    rotated, squares = vectors.T @ (roots * tilts), vectors**2
    losses = []
    for penalty in PENALTIES:
        inverse = 1 / (np.maximum(values, 0) + penalty)
        residuals = (vectors @ (inverse * rotated)) / (squares @ inverse) / roots
        losses.append((_loss(base, tilts - residuals, votes), penalty))
    loss, penalty = min(losses)
    return penalty, loss


def _principal_components(
    blocks: list[_FeatureBlock], weight: float, max_components: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the principal components ``[n, k]`` of all features, each row of length 1, their mean and scaled axes.

    The mean is ``[c]``, the axes are ``[c, k]``.
    """
    features, mean, scale = _join_blocks(blocks, weight)
    axes, _ = principal_axes(features, max_components)
    components = features @ axes
    components /= np.maximum(np.linalg.norm(components, axis=1, keepdims=True), _MIN_DEVIATION)
    return components, mean.astype("float32"), (scale[:, None] * axes).astype("float32")


def _solve_ridge(
    features: np.ndarray, tilts: np.ndarray, fisher_weights: np.ndarray, ratio: float, penalty: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the quadratic form ``[k, k]``, linear form ``[k]`` and constant of ridge regression on all photos."""
    kernel = _kernel((features @ features.T).astype("float32"), ratio)
    kernel[np.diag_indices_from(kernel)] += penalty / fisher_weights
    dual = cho_solve(cho_factor(kernel, lower=True, overwrite_a=True), tilts)
    quadratic = ratio * (features.T * dual) @ features
    return (quadratic + quadratic.T) / 2, features.T @ dual, _INTERCEPT_KERNEL * float(dual.sum())
