"""The upload norms applied to a photo."""

from collections.abc import Mapping, Sequence

from PIL import Image

from components.scorer.faces.geometry import Face
from components.scorer.upload_norms.detectors import DETECTORS, Scene
from components.scorer.upload_norms.policy import (
    EXPLAINED,
    NO_DETECTOR,
    NO_FACE,
    NOT_LEARNT,
    Check,
    Finding,
    Norm,
    Norms,
)


def check(
    norms: Norms,
    image: Image.Image,
    faces: Sequence[Face] | None,
    attributes: Mapping[str, float],
    size: tuple[int, int],
    job: str = "",
) -> list[Finding]:
    """Hold a photo against the norms.

    Where there is no face, norms about the face cannot be checked, so only the norm that asks for one speaks.

    Args:
        norms: in force.
        image: the photo as it is scored: upright, RGB, shorter side at most 320 pixels.
        faces: on it, largest first; None when none were looked for.
        attributes: probability, 0 to 1, that each attribute which the scorer has learnt has the value that counts.
        size: width and height of the photo as it was sent, upright.
        job: that the person offers to do; "" where it is not known.

    Returns:
        One finding a norm, in the order of the norms.
    """
    scene = Scene(image if image.mode == "RGB" else image.convert("RGB"), faces, attributes, size)
    findings: dict[str, Finding] = {}
    for norm in norms.norms:
        findings[norm.key] = _find(norm, scene, findings, job)
    return list(findings.values())


def _find(norm: Norm, scene: "Scene", before: Mapping[str, Finding], job: str) -> Finding:
    how = norm.check
    if how.detector == "attribute" and norm.attribute not in scene.attributes and norm.otherwise:
        how = norm.otherwise
    threshold = how.allowed(job)
    why = _reason_against(norm, how, scene)
    for key in norm.unless:
        if before[key].kept is False:
            why = EXPLAINED.format(key=key)
    if why:
        return Finding(norm.key, None, None, threshold, why=why)
    value, detector = _value(norm, how, scene), DETECTORS[how.detector]
    kept = value <= threshold if detector.broken == "above" else value >= threshold
    return Finding(norm.key, kept, value, threshold, "" if kept else norm.sentence)


def _value(norm: Norm, how: Check, scene: "Scene") -> float:
    measure = DETECTORS[how.detector].measure
    return measure(scene, **how.parameters) if measure else float(scene.attributes[norm.attribute])


def _reason_against(norm: Norm, how: Check, scene: "Scene") -> str:
    """Why a norm cannot be checked on a photo; empty when it can."""
    needs = DETECTORS[how.detector].needs
    if needs == "attribute" and norm.attribute not in scene.attributes:
        return NOT_LEARNT.format(attribute=norm.attribute)
    if needs in ("faces", "face") and scene.faces is None:
        return NO_DETECTOR
    if needs == "face" and not scene.faces:
        return NO_FACE
    return ""
