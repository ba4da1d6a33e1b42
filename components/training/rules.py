"""The client's upload norms and the face detector, read and tried before time is spent on training."""

from dataclasses import dataclass, field

from components.scorer import norms, storage
from components.scorer.faces import Detector
from components.scorer.settings import Training


@dataclass(frozen=True)
class Rules:
    """What uploaded photos are held against.

    Attributes:
        norms: the file's content.
        detector: the ONNX file's content; empty: faces are not looked for.
        attributes: columns that the norms want to be learnt, with the value of each that counts.
    """

    norms: bytes
    detector: bytes = field(repr=False)
    attributes: dict[str, str]


def read_rules(settings: Training) -> Rules:
    """Fetch both files and find out whether they can be used.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: it is not what it should be, or a digest is given without a detector.
    """
    if settings.face_detector_sha256 and not settings.face_detector:
        raise ValueError("face_detector_sha256 is given without face_detector, whose digest it is: give both or none")
    content = _fetch("norms", settings.norms) if settings.norms else norms.BUILT_IN.read_bytes()
    try:
        attributes = norms.load(content).attributes
    except ValueError as error:
        raise ValueError(f"norms: {settings.norms or 'those built in'}: {error}") from error
    detector = b""
    if settings.face_detector:
        detector = _fetch("face_detector", settings.face_detector)
        try:
            Detector(detector, sha256=settings.face_detector_sha256)
        except ValueError as error:
            raise ValueError(f"face_detector: {settings.face_detector}: {error}") from error
    return Rules(content, detector, attributes)


def _fetch(name: str, uri: str) -> bytes:
    try:
        return storage.read_bytes(uri)
    except FileNotFoundError:
        raise FileNotFoundError(f"{name}: expected a file at {uri!r}, there is none") from None
