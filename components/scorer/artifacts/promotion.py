"""Channels moved to a version, once it has been loaded and has answered its warm-up photos."""

from typing import Any

from components.scorer.quoting import in_short
from components.scorer.registry import channels

_TOLERANCE = 1e-3  # by which the votes' sum may differ from 1, as float32 and a quantised network's do


def verify(models: str, name: str, version: int) -> None:
    """Raise ValueError unless a version is as it was published, can be loaded and answers its warm-up photos."""
    # Here, for TensorFlow takes seconds to load.
    from components.scorer.artifacts import saved_model, warmup

    photos = list(warmup.photos())
    uri, what = channels.address(models, name, version), f"version {version} of {name}"
    try:
        votes = saved_model.load(uri, whole=True).score(photos)
    except Exception as error:  # an artefact may fail in any way
        raise ValueError(f"{what} cannot serve, no channel was moved: {in_short(error)}") from error
    # A NaN is larger than any tolerance: the comparison is the other way round so that it fails too.
    if votes.shape != (len(photos), 10) or not ((votes >= 0).all() and (abs(votes.sum(1) - 1) <= _TOLERANCE).all()):
        raise ValueError(
            f"{what} cannot serve, no channel was moved: expected ten votes of 0 or more, summing"
            f" to 1, for each of {len(photos)} warm-up photos, got {votes.shape} with sums {votes.sum(-1).tolist()}"
        )


def promote(
    models: str, name: str, version: int, *, channel: str = channels.CHAMPION, who: str = "", why: str
) -> dict[str, Any]:
    """Let a channel name a version, which is verified before; it may be older than the one named now.

    Args:
        models: folder, ``gs://`` or ``s3://`` address of all models.
        name: of the model.
        version: its number.
        channel: "champion", "challenger", or any other plain name but "previous".
        who: decides; by default `channels.user`.
        why: for the audit.

    Returns:
        The channels afterwards.

    Raises:
        ValueError: there is no reason, the channel has no proper name, or the version was removed, is not there or
            does not answer; then the channels stay as they are.
    """
    channels.check_channel(channel)
    channels.check_reason(why)
    channels.named(models, name, version)  # that it was removed is said before it is looked for
    verify(models, name, version)
    return channels.move(models, name, version, channel=channel, who=who, why=why)


def rollback(models: str, name: str, *, who: str = "", why: str) -> dict[str, Any]:
    """Make the previous version the champion again, once it is verified, and the champion the previous.

    Args:
        models: folder, ``gs://`` or ``s3://`` address of all models.
        name: of the model.
        who: decides; by default `channels.user`.
        why: for the audit.

    Returns:
        The channels afterwards.

    Raises:
        ValueError: there is no reason or no previous version, it does not answer, or someone else has moved the
            champion since this was called, e.g. by rolling back too; then the channels stay as they are.
    """
    channels.check_reason(why)
    before = channels.read(models, name)
    seen = {channel: before.get(channel) for channel in (channels.CHAMPION, channels.PREVIOUS)}
    version = seen[channels.PREVIOUS]
    if version is None:
        raise ValueError(f"{name} has no previous version to roll back to; promote one by its number")
    verify(models, name, version)
    return channels.move(models, name, version, who=who, why=why, action="rollback", seen=seen)
