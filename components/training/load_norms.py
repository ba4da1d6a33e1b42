"""Loader of the client's upload norms, checked before time is spent on training."""

from dataclasses import dataclass

from components.scorer import storage
from components.scorer.settings import Training
from components.scorer.upload_norms import policy


@dataclass(frozen=True)
class Rules:
    """Upload norms as loaded from a file.

    Attributes:
        norms: Content of the file.
        attributes: Columns that the norms want learnt, mapped to the value that counts as yes.
    """

    norms: bytes
    attributes: dict[str, str]


def read_rules(settings: Training) -> Rules:
    """Load the upload norms, or the built-in ones, and check that they are valid.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is not valid.
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
