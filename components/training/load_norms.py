"""Loader of the client's upload norms, checked before time is spent on training."""

from dataclasses import dataclass

from components.scorer import storage
from components.scorer.settings import Training
from components.scorer.upload_norms import policy


@dataclass(frozen=True)
class LoadedNorms:
    """Upload norms as loaded from a file.

    Attributes:
        content: Content of the file.
        attributes: Columns that the norms want learnt, mapped to the value that counts as yes.
    """

    content: bytes
    attributes: dict[str, str]


def read_norms(settings: Training) -> LoadedNorms:
    """Load the upload norms, or the built-in ones, and check that they are valid.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is not valid.
    """
    content = _read_file(settings.norms) if settings.norms else policy.BUILT_IN_POLICY.read_bytes()
    try:
        return LoadedNorms(content, policy.load(content).attributes)
    except ValueError as error:
        raise ValueError(f"norms: {settings.norms or 'those built in'}: {error}") from error


def _read_file(uri: str) -> bytes:
    try:
        return storage.read_bytes(uri)
    except FileNotFoundError:
        raise FileNotFoundError(f"norms: expected a file at {uri!r}, there is none") from None
