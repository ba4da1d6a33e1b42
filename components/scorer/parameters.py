"""Settings made from pipeline parameters, with every value checked.

Nothing here imports TensorFlow: compiling the pipeline must not need it.
"""

import re
from dataclasses import asdict, fields, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from components.scorer.quoting import shown
from components.scorer.settings import Faces, Policy, Pretraining


def scale_limits(rating_scale: str) -> tuple[float, float] | None:
    """The lowest and the highest score of a scale.

    Args:
        rating_scale: such as ``1-5`` or ``0-100``, or ``auto``.

    Returns:
        Both, or None for ``auto``.

    Raises:
        ValueError: it is neither.
    """
    if rating_scale == "auto":
        return None
    found = re.fullmatch(r"\s*(-?\d{1,6}(?:\.\d{1,6})?)\s*-\s*(-?\d{1,6}(?:\.\d{1,6})?)\s*", rating_scale)
    if not found or float(found[1]) >= float(found[2]):
        raise ValueError(
            "rating_scale must be auto, or the lowest and the highest score such as 1-5 or 0-100, "
            f"got {shown(rating_scale)}"
        )
    return float(found[1]), float(found[2])


def from_parameters(settings: type, **parameters: Any) -> Any:
    """Build a settings dataclass from pipeline parameters and check every value.

    Args:
        settings: one of the dataclasses above.
        **parameters: values by field name; fields left out keep their default. Lists become tuples.

    Returns:
        An instance of ``settings``.

    Raises:
        ValueError: a name is unknown, or a value is outside its type, choices or range; the message names
            the parameter, what was expected and what came.
    """
    known = {f.name for f in fields(settings)}
    if unknown := sorted(set(parameters) - known):
        raise ValueError(f"{settings.__name__} has no setting {unknown[0]!r}; expected one of {sorted(known)}")
    hints = get_type_hints(settings)
    checked = {name: _checked(name, value, hints[name]) for name, value in parameters.items()}
    return replace(settings(), **checked)


def among(parameters: dict[str, Any], settings: type, prefix: str = "") -> dict[str, Any]:
    """The parameters that are fields of ``settings``, by field name.

    Several settings share one signature, so fields that would collide carry a prefix there.

    Args:
        parameters: values by parameter name, e.g. the ``locals()`` of a function.
        settings: one of the dataclasses above.
        prefix: where ``prefix + field`` is a parameter, it goes before ``field``.

    >>> among({"epochs": 3, "pretraining_epochs": 5, "photos": "x"}, Pretraining, prefix="pretraining_")
    {'epochs': 5}
    """
    names = {f.name: prefix + f.name if prefix + f.name in parameters else f.name for f in fields(settings)}
    return {field: parameters[name] for field, name in names.items() if name in parameters}


def check_together(pretraining: Pretraining, scale: int) -> None:
    """Refuse settings that are each right but contradict each other.

    Args:
        pretraining: names the crop, the start and the epochs.
        scale: side of the square that photos are scaled to before the crop.

    Raises:
        ValueError: says which two, and what to do.
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
    """Refuse to overrule the gates without a reason, or to give a reason that would not be heeded.

    Raises:
        ValueError: says what to give.
    """
    reason = policy.force_reason.strip()
    if policy.force_publish and not reason:
        raise ValueError("force_publish needs force_reason, which is written into the decision and the model card")
    if reason and not policy.force_publish:
        raise ValueError("force_reason is given, but force_publish is off: set it too, or leave the reason out")


def check_faces(faces: Faces) -> None:
    """Refuse settings of faces that contradict each other.

    Raises:
        ValueError: says which, and what to do.
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
    """A settings instance as plain JSON values (tuples become lists)."""
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


def _checked(name: str, value: Any, hint: Any) -> Any:
    """The value in the field's own type, or a ValueError that says what was expected."""
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise ValueError(f"{name} must be one of {list(get_args(hint))}, got {shown(value)}")
        return value
    if get_origin(hint) is tuple:
        return _checked_list(name, value, get_args(hint)[0])
    if hint in (int, float) and not isinstance(value, bool) and isinstance(value, int | float):
        if hint is int and value != int(value):
            raise ValueError(f"{name} must be a whole number, got {shown(value)}")
        low, high = _RANGES[name]
        if not low <= value <= high:
            raise ValueError(f"{name} must be from {low} to {high}, got {shown(value)}")
        return hint(value)
    expected = get_origin(hint) or hint
    if name == "rating_scale" and isinstance(value, str):
        scale_limits(value)
    if not isinstance(value, expected) or (expected is not bool and isinstance(value, bool)):
        raise ValueError(f"{name} must be {expected.__name__}, got {shown(value)}")
    return value


def _checked_list(name: str, value: Any, each: Any) -> tuple:
    """The values of a list parameter as a tuple."""
    if each in (int, float):
        kind = "whole numbers" if each is int else "numbers"
        if not isinstance(value, list | tuple) or any(not isinstance(n, int | float) for n in value):
            raise ValueError(f"{name} must be a list of {kind}, got {shown(value)}")
        return tuple(_checked(name, number, each) for number in value)
    if not isinstance(value, list | tuple) or not all(isinstance(text, str) for text in value):
        raise ValueError(f"{name} must be a list of texts, got {shown(value)}")
    if get_origin(each) is Literal and (unknown := [text for text in value if text not in get_args(each)]):
        raise ValueError(f"{name} must hold only {list(get_args(each))}, got {shown(unknown[0])}")
    return tuple(value)
