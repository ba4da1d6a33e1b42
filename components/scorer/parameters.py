"""Conversion of pipeline parameters to settings dataclasses, with a check of every value.

The module does not import TensorFlow, as compiling the pipeline must not need it.
"""

import re
from dataclasses import asdict, fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from components.scorer.quoting import quoted
from components.scorer.settings import Faces, Policy, Pretraining


def scale_limits(rating_scale: str) -> tuple[float, float] | None:
    """Return the lowest and the highest score of a rating scale.

    Args:
        rating_scale: Scale such as ``1-5`` or ``0-100``, or ``auto``.

    Returns:
        Lowest and highest score; None for ``auto``.

    Raises:
        ValueError: The text is neither a scale nor ``auto``.
    """
    if rating_scale == "auto":
        return None
    match = re.fullmatch(r"\s*(-?\d{1,6}(?:\.\d{1,6})?)\s*-\s*(-?\d{1,6}(?:\.\d{1,6})?)\s*", rating_scale)
    if not match or float(match[1]) >= float(match[2]):
        raise ValueError(
            "rating_scale must be auto, or the lowest and the highest score such as 1-5 or 0-100, "
            f"got {quoted(rating_scale)}"
        )
    return float(match[1]), float(match[2])


def from_parameters(settings: type, **parameters: Any) -> Any:
    """Build a settings dataclass from pipeline parameters and check every value.

    Args:
        settings: Dataclass of `components.scorer.settings`.
        **parameters: Values by field name; omitted fields keep their default. Lists become tuples.

    Returns:
        An instance of ``settings``.

    Raises:
        ValueError: A name is unknown, or a value is outside its type, choices or range; the message names the
            parameter, the expected value and the actual value.
    """
    known = {f.name for f in fields(settings)}
    if unknown := sorted(set(parameters) - known):
        raise ValueError(f"{settings.__name__} has no setting {unknown[0]!r}; expected one of {sorted(known)}")
    hints = get_type_hints(settings)
    checked = {name: _check_value(name, value, hints[name]) for name, value in parameters.items()}
    return replace(settings(), **checked)


def select_parameters(parameters: dict[str, Any], settings: type, prefix: str = "") -> dict[str, Any]:
    """Return the parameters that are fields of ``settings``, by field name.

    Several settings dataclasses share one signature, in which fields of the same name have a prefix.

    Args:
        parameters: Values by parameter name, e.g. the ``locals()`` of a function.
        settings: Dataclass of `components.scorer.settings`.
        prefix: Prefix of parameter names; a parameter ``prefix + field`` takes precedence over ``field``.

    >>> among({"epochs": 3, "pretraining_epochs": 5, "photos": "x"}, Pretraining, prefix="pretraining_")
    {'epochs': 5}
    """
    parameter_names = {f.name: prefix + f.name if prefix + f.name in parameters else f.name for f in fields(settings)}
    return {field: parameters[name] for field, name in parameter_names.items() if name in parameters}


def check_pretraining(pretraining: Pretraining, scale: int) -> None:
    """Raise ValueError if settings are each valid but contradict each other.

    Args:
        pretraining: Settings of pretraining, with the crop, the start and the epochs.
        scale: Side of the square that photos are scaled to before the crop, pixels.

    Raises:
        ValueError: Two settings contradict each other; the message names both and the remedy.
    """
    if scale < pretraining.crop:
        raise ValueError(f"scale must be at least crop, which is cut from it; got {scale} and {pretraining.crop}")
    if pretraining.weights_sha256 and not pretraining.weights:
        raise ValueError("weights_sha256 is given without weights, whose digest it is")
    if pretraining.unsupervised and pretraining.epochs == 0:
        raise ValueError(
            f"start {pretraining.start!r} needs pretraining_epochs of at least 1, got 0;"
            ' to train nothing, set start to "none"'
        )


def check_policy(policy: Policy) -> None:
    """Raise ValueError if the gates are overruled without a reason, or if a reason is given without effect.

    Raises:
        ValueError: ``force_publish`` and ``force_reason`` are not set together.
    """
    reason = policy.force_reason.strip()
    if policy.force_publish and not reason:
        raise ValueError("force_publish needs force_reason, which is written into the decision and the model card")
    if reason and not policy.force_publish:
        raise ValueError("force_reason is given, but force_publish is off: set it too, or leave the reason out")


def check_faces(faces: Faces) -> None:
    """Raise ValueError if settings of faces contradict each other.

    Raises:
        ValueError: Two settings contradict each other; the message names both and the remedy.
    """
    if faces.face_embedder and not faces.face_detector:
        raise ValueError("face_embedder needs face_detector, which finds the faces that it reads: give both or none")
    for name in ("face_detector", "face_embedder"):
        if getattr(faces, f"{name}_sha256") and not getattr(faces, name):
            raise ValueError(f"{name}_sha256 is given without {name}, whose digest it is: give both or none")
    if not faces.face_scales:
        raise ValueError(
            "face_scales must name at least one scale of a face's crop, got []: leave it out for the default"
        )
    if faces.face_layers and not (
        faces.face_embedder.endswith(".keras") or faces.face_embedder.startswith("deepface:")
    ):
        raise ValueError(
            f"face_layers names layers of a .keras file, but face_embedder is {faces.face_embedder!r}: give such a"
            " file, or leave face_layers empty to take the embedder's output"
        )


def as_parameters(settings: Any) -> dict[str, Any]:
    """Return a settings instance as JSON values by field name; tuples become lists."""
    return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(settings).items()}


_RANGES = {
    "validation_share": (0, 0.5), "test_share": (0, 0.5), "maximum_left_out": (0, 1), "dropout": (0, 0.99),
    "camera_faults": (0, 1), "pairs": (1, 10_000), "embedding_size": (0, 100_000),
    "face_view_scale": (0.1, 2), "minimum_job": (1, 1_000_000),
    "jpeg_quality": (1, 100), "minimum_side": (1, 10_000), "shorter_side": (32, 4096), "minimum_raters": (1, 10_000),
    "rater_std": (0, 4.5), "face_scales": (0.1, 2), "ava_tags": (1, 66),
    "duplicate_distance": (0, 64), "maximum_pixels": (10_000, 178_956_970), "crop": (32, 1024), "scale": (32, 1024),
    "epochs": (0, 10_000), "head_epochs": (0, 10_000), "batch_size": (1, 4096), "learning_rate": (0, 10),
    "head_learning_rate": (0, 10), "averaging": (0, 1000), "correlation_term": (0, 100), "rank_term": (0, 100),
    "noise": (0, 1), "seed": (0, 2**31 - 1), "accuracy_threshold": (1, 10),
    "minimum_srcc": (-1, 1), "maximum_emd": (0, 9), "minimum_spread": (0, 10), "champion_margin": (0, 2),
    "bootstrap": (1, 1_000_000), "confidence": (0.5, 0.9999), "minimum_test_photos": (1, 1_000_000),
    "minimum_slope": (0, 10), "minimum_outside": (0, 10), "champion_margin_emd": (0, 9), "significance": (0.0001, 0.5),
    "minimum_slice": (2, 1_000_000), "minimum_slice_srcc": (-1, 1), "maximum_slice_gap": (0, 9),
    "behaviour_photos": (2, 10_000), "maximum_rise": (0, 9), "behaviour_tolerance": (0, 9),
    "perturbation_photos": (1, 10_000),
    "perturbation_budget": (0, 255), "maximum_perturbation": (0, 9), "maximum_latency": (0, 600_000),
    "maximum_size": (0, 100_000), "minimum_new_labels": (0, 100_000_000), "maximum_label_drift": (0, 9),
    "maximum_photo_drift": (0, 100),
    "minimum_gain": (0, 9), "noise_multiple": (0, 100), "plateau": (0, 1), "maximum_difference": (0, 100),
    "maximum_clipped": (0, 1), "refinements": (0, 10), "scorings": (100, 10_000), "working_side": (32, 4096),
    "smallest_crop": (16, 4096), "preview_side": (16, 4096), "preview_quality": (1, 100),
}  # fmt: skip


def _check_value(name: str, value: Any, hint: Any) -> Any:
    """Return the value converted to its field's type; raise ValueError if the type, choice or range is wrong."""
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise ValueError(f"{name} must be one of {list(get_args(hint))}, got {quoted(value)}")
        return value
    if get_origin(hint) is tuple:
        return _check_list(name, value, get_args(hint)[0])
    if hint in (int, float) and not isinstance(value, bool) and isinstance(value, int | float):
        if hint is int and value != int(value):
            raise ValueError(f"{name} must be a whole number, got {quoted(value)}")
        low, high = _RANGES[name]
        if not low <= value <= high:
            raise ValueError(f"{name} must be from {low} to {high}, got {quoted(value)}")
        return hint(value)
    expected = get_origin(hint) or hint
    if name == "rating_scale" and isinstance(value, str):
        scale_limits(value)
    if not isinstance(value, expected) or (expected is not bool and isinstance(value, bool)):
        raise ValueError(f"{name} must be {expected.__name__}, got {quoted(value)}")
    return value


def _check_list(name: str, value: Any, item_type: Any) -> tuple:
    """Return the values of a list parameter as a tuple; raise ValueError if one of them is invalid."""
    if item_type in (int, float):
        kind = "whole numbers" if item_type is int else "numbers"
        if not isinstance(value, list | tuple) or any(not isinstance(n, int | float) for n in value):
            raise ValueError(f"{name} must be a list of {kind}, got {quoted(value)}")
        return tuple(_check_value(name, number, item_type) for number in value)
    if not isinstance(value, list | tuple) or not all(isinstance(text, str) for text in value):
        raise ValueError(f"{name} must be a list of texts, got {quoted(value)}")
    if get_origin(item_type) is Literal and (unknown := [text for text in value if text not in get_args(item_type)]):
        raise ValueError(f"{name} must hold only {list(get_args(item_type))}, got {quoted(unknown[0])}")
    return tuple(value)
