"""Published versions as far as the registry looks at them, without a network: written, pushed, read."""

from components.scorer import storage
from components.scorer.registry import channels

NAME = "portraits"


def complete(models: str, name: str, version: int) -> None:
    if not storage.exists(f"{models}/{name}/{version}/saved_model.pb"):
        raise ValueError(f"version {version} cannot serve")


def write(models: str, version: int, size: int = 10, **record: object) -> None:
    """A version's files, as far as this room looks at them."""
    uri = f"{models}/{NAME}/{version}"
    storage.write_bytes(f"{uri}/variables/variables.index", b"v" * size)
    if record:
        storage.write_json(f"{uri}/version.json", record)
    storage.write_bytes(f"{uri}/saved_model.pb", b"graph")


def push(models: str, run: str) -> int:
    """What a push does to the place."""
    version = channels.reserve_version(models, NAME, run, "sha")
    proved = channels.is_protected(models, NAME, version)
    whole = storage.exists(f"{models}/{NAME}/{version}/saved_model.pb")
    if not (proved and whole):
        if not whole:
            write(models, version)
        complete(models, NAME, version)
    channels.promote_pushed(models, NAME, version, who=run, why="passed")
    return version


def serving(models: str) -> tuple[int | None, int | None]:
    found = channels.read(models, NAME)
    return found.get("champion"), found.get("previous")
