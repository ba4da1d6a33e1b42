"""Published versions without a network, as far as the registry reads them: written, pushed, read."""

from components.scorer import storage
from components.scorer.registry import channels

NAME = "portraits"


def complete(models: str, name: str, version: int) -> None:
    if not storage.exists(f"{models}/{name}/{version}/saved_model.pb"):
        raise ValueError(f"version {version} cannot serve")


def write(models: str, version: int, size: int = 10, **record: object) -> None:
    """Write the files of a version that the registry reads."""
    uri = f"{models}/{NAME}/{version}"
    storage.write_bytes(f"{uri}/variables/variables.index", b"v" * size)
    if record:
        storage.write_json(f"{uri}/version.json", record)
    storage.write_bytes(f"{uri}/saved_model.pb", b"graph")


def push(models: str, run: str) -> int:
    """Reserve, write and promote a version as a push does."""
    version = channels.reserve_version(models, NAME, run, "sha")
    is_protected = channels.is_protected(models, NAME, version)
    has_model = storage.exists(f"{models}/{NAME}/{version}/saved_model.pb")
    if not (is_protected and has_model):
        if not has_model:
            write(models, version)
        complete(models, NAME, version)
    channels.promote_pushed(models, NAME, version, who=run, why="passed")
    return version


def serving(models: str) -> tuple[int | None, int | None]:
    record = channels.read(models, NAME)
    return record.get("champion"), record.get("previous")
