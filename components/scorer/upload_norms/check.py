"""Application of the upload norms to a photo."""

from collections.abc import Mapping, Sequence

from PIL import Image

from components.scorer.faces.geometry import Face
from components.scorer.upload_norms.detectors import DETECTORS, PhotoContext
from components.scorer.upload_norms.policy import (
    EXPLAINED_BY,
    NO_DETECTOR,
    NO_FACE,
    NOT_LEARNT,
    NormResult,
    RuleCheck,
    UploadNorm,
    UploadPolicy,
)


def apply_policy(
    policy: UploadPolicy,
    image: Image.Image,
    faces: Sequence[Face] | None,
    attributes: Mapping[str, float],
    size: tuple[int, int],
    job: str = "",
) -> list[NormResult]:
    """Check a photo against the norms.

    Without a face, norms about the face cannot be checked. Only the norm that requires a face then reports.

    Args:
        policy: Norms in force.
        image: Photo as it is scored: upright, RGB, shorter side at most 320 pixels.
        faces: Faces on the photo, largest first; None if face detection did not run.
        attributes: Probability, 0 to 1, that a learnt attribute has the value that counts, by attribute.
        size: Width and height of the uploaded photo, upright, pixels.
        job: Job that the person offers to do; "" if unknown.

    Returns:
        One finding per norm, in the order of the norms.
    """
    scene = PhotoContext(image if image.mode == "RGB" else image.convert("RGB"), faces, attributes, size)
    findings: dict[str, NormResult] = {}
    for norm in policy.norms:
        findings[norm.key] = _apply_norm(norm, scene, findings, job)
    return list(findings.values())


def _apply_norm(norm: UploadNorm, scene: "PhotoContext", earlier: Mapping[str, NormResult], job: str) -> NormResult:
    rule = norm.check
    if rule.detector == "attribute" and norm.attribute not in scene.attributes and norm.otherwise:
        rule = norm.otherwise
    threshold = rule.threshold_for(job)
    reason = _reason_against(norm, rule, scene)
    for key in norm.unless:
        if earlier[key].kept is False:
            reason = EXPLAINED_BY.format(key=key)
    if reason:
        return NormResult(norm.key, None, None, threshold, why=reason)
    value, detector = _measure(norm, rule, scene), DETECTORS[rule.detector]
    kept = value <= threshold if detector.broken == "above" else value >= threshold
    return NormResult(norm.key, kept, value, threshold, "" if kept else norm.sentence)


def _measure(norm: UploadNorm, rule: RuleCheck, scene: "PhotoContext") -> float:
    measure = DETECTORS[rule.detector].measure
    return measure(scene, **rule.parameters) if measure else float(scene.attributes[norm.attribute])


def _reason_against(norm: UploadNorm, rule: RuleCheck, scene: "PhotoContext") -> str:
    """Return the reason why a norm cannot be checked on a photo; "" if it can."""
    requirement = DETECTORS[rule.detector].requires
    if requirement == "attribute" and norm.attribute not in scene.attributes:
        return NOT_LEARNT.format(attribute=norm.attribute)
    if requirement in ("faces", "face") and scene.faces is None:
        return NO_DETECTOR
    if requirement == "face" and not scene.faces:
        return NO_FACE
    return ""
