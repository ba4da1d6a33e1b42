"""The client's upload norms, read and tried before time is spent on training."""

from dataclasses import dataclass

from components.scorer import storage
from components.scorer.settings import Training
from components.scorer.upload_norms import policy


@dataclass(frozen=True)
class Rules:
    """What uploaded photos are held against.

    Attributes:
        norms: the file's content.
        attributes: columns that the norms want to be learnt, with the value of each that counts.
    """

    norms: bytes
    attributes: dict[str, str]


def read_rules(settings: Training) -> Rules:
    """Fetch the file and find out whether it can be used.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is not what it should be.
    """
    content = _fetch(settings.norms) if settings.norms else policy.BUILT_IN.read_bytes()
    try:
        return Rules(content, policy.load(content).attributes)
    except ValueError as error:
        raise ValueError(f"norms: {settings.norms or 'those built in'}: {error}") from error


def _fetch(uri: str) -> bytes:
    try:
        return storage.read_bytes(uri)
    except FileNotFoundError:
        raise FileNotFoundError(f"norms: expected a file at {uri!r}, there is none") from None
