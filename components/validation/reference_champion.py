"""What the champion was made of, as its version keeps it, and what is new since."""

import json
from dataclasses import dataclass

from components.scorer import storage
from components.scorer.registry import channels, integrity
from components.validation.statistics import data_statistics
from components.validation.statistics.data_statistics import Profile


@dataclass(frozen=True)
class Champion:
    """The published version and the profile of its data, or the reason why there is none.

    Attributes:
        uri: its folder.
        version: its number.
        profile: None when it has none that can be read.
        error: why not; empty otherwise.
    """

    uri: str
    version: int
    profile: Profile | None = None
    error: str = ""


def read_champion(models: str, name: str) -> Champion | None:
    """The champion of a model.

    Args:
        models: address of all models.
        name: of the model.

    Returns:
        None when no champion was ever named.

    Raises:
        ValueError: ``channels.json`` is damaged, or the name cannot be a model's.
        OSError: the place cannot be reached or refuses. An outage must not pass for a model without a champion.
    """
    version = channels.read(models, name).get("champion")
    if version is None:
        return None
    uri = storage.join(channels.folder(models, name), str(version))
    try:
        known = data_statistics.from_json(json.loads(integrity.read(uri, data_statistics.NAME)))
    except FileNotFoundError:
        return Champion(uri, version, error=f"version {version} was published without a {data_statistics.NAME}")
    except ValueError as error:
        return Champion(uri, version, error=f"the {data_statistics.NAME} of version {version} cannot be read: {error}")
    return Champion(uri, version, known)
