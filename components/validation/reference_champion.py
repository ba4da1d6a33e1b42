"""Champion's data profile, read from its published version."""

import json
from dataclasses import dataclass

from components.scorer import storage
from components.scorer.registry import channels, integrity
from components.validation.statistics import data_statistics
from components.validation.statistics.data_statistics import DataProfile


@dataclass(frozen=True)
class ChampionProfile:
    """Published version with its data profile, or the reason why it has none.

    Attributes:
        uri: Address of the version's folder.
        version: Version number.
        profile: Data profile; None if it is missing or cannot be read.
        error: Reason for a missing profile; empty otherwise.
    """

    uri: str
    version: int
    profile: DataProfile | None = None
    error: str = ""


def read_champion(models: str, name: str) -> ChampionProfile | None:
    """Read the champion of a model.

    Args:
        models: Address of all models.
        name: Name of the model.

    Returns:
        The champion, or None if no champion was ever named.

    Raises:
        ValueError: ``channels.json`` is damaged, or the name is no valid model name.
        OSError: The storage is unreachable or refuses access. An outage must not pass for a model without a champion.
    """
    version = channels.read(models, name).get("champion")
    if version is None:
        return None
    uri = storage.join(channels.folder(models, name), str(version))
    try:
        profile = data_statistics.from_json(json.loads(integrity.read_file(uri, data_statistics.PROFILE_FILE)))
    except FileNotFoundError:
        return ChampionProfile(
            uri, version, error=f"version {version} was published without a {data_statistics.PROFILE_FILE}"
        )
    except ValueError as error:
        return ChampionProfile(
            uri, version, error=f"the {data_statistics.PROFILE_FILE} of version {version} cannot be read: {error}"
        )
    return ChampionProfile(uri, version, profile)
