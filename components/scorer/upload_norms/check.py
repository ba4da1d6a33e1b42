"""Application of the upload norms to a photo."""

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
    """Check a photo against the norms.

    Without a face, norms about the face cannot be checked. Only the norm that requires a face then reports.

    Args:
        norms: Norms in force.
        image: Photo as it is scored: upright, RGB, shorter side at most 320 pixels.
        faces: Faces on the photo, largest first; None if face detection did not run.
        attributes: Probability, 0 to 1, that a learnt attribute has the value that counts, by attribute.
        size: Width and height of the uploaded photo, upright, pixels.
        job: Job that the person offers to do; "" if unknown.

    Returns:
        One finding per norm, in the order of the norms.
    """
    scene = Scene(image if image.mode == "RGB" else image.convert("RGB"), faces, attributes, size)
    findings: dict[str, Finding] = {}
    for norm in norms.norms:
        findings[norm.key] = _find(norm, scene, findings, job)
    return list(findings.values())


def _find(norm: Norm, scene: "Scene", earlier: Mapping[str, Finding], job: str) -> Finding:
    rule = norm.check
    if rule.detector == "attribute" and norm.attribute not in scene.attributes and norm.otherwise:
        rule = norm.otherwise
    threshold = rule.allowed(job)
    reason = _reason_against(norm, rule, scene)
    for key in norm.unless:
        if earlier[key].kept is False:
            reason = EXPLAINED.format(key=key)
    if reason:
        return Finding(norm.key, None, None, threshold, why=reason)
    value, detector = _value(norm, rule, scene), DETECTORS[rule.detector]
    kept = value <= threshold if detector.broken == "above" else value >= threshold
    return Finding(norm.key, kept, value, threshold, "" if kept else norm.sentence)


def _value(norm: Norm, rule: Check, scene: "Scene") -> float:
    measure = DETECTORS[rule.detector].measure
    return measure(scene, **rule.parameters) if measure else float(scene.attributes[norm.attribute])


def _reason_against(norm: Norm, rule: Check, scene: "Scene") -> str:
    """Return the reason why a norm cannot be checked on a photo; "" if it can."""
    requirement = DETECTORS[rule.detector].needs
    if requirement == "attribute" and norm.attribute not in scene.attributes:
        return NOT_LEARNT.format(attribute=norm.attribute)
    if requirement in ("faces", "face") and scene.faces is None:
        return NO_DETECTOR
    if requirement == "face" and not scene.faces:
        return NO_FACE
    return ""
