"""Promotion and rollback: a channel is moved to a version after the version has scored its warm-up photos."""

from typing import Any

from components.scorer.quoting import one_line
from components.scorer.registry import channels

_TOLERANCE = 1e-3  # largest difference of the votes' sum from 1, which float32 and quantised networks miss slightly


def verify(models: str, name: str, version: int) -> None:
    """Raise ValueError unless a version's files are unchanged, it can be loaded, and it scores its warm-up photos."""
    # Imported here, because TensorFlow takes seconds to load.
    from components.scorer.artifacts import saved_model, warmup

    photos = list(warmup.photos())
    uri, version_name = channels.address(models, name, version), f"version {version} of {name}"
    try:
        votes = saved_model.load(uri, verify_all=True).score(photos)
    except Exception as error:  # an artifact may fail in any way
        raise ValueError(f"{version_name} cannot serve, no channel was moved: {one_line(error)}") from error
    # Comparisons with NaN are false, so the check is written as a condition that must hold.
    if votes.shape != (len(photos), 10) or not ((votes >= 0).all() and (abs(votes.sum(1) - 1) <= _TOLERANCE).all()):
        raise ValueError(
            f"{version_name} cannot serve, no channel was moved: expected ten votes of 0 or more, summing"
            f" to 1, for each of {len(photos)} warm-up photos, got {votes.shape} with sums {votes.sum(-1).tolist()}"
        )


def promote(
    models: str, name: str, version: int, *, channel: str = channels.CHAMPION, who: str = "", why: str
) -> dict[str, Any]:
    """Point a channel to a version, after verifying the version; it may be older than the channel's current one.

    Args:
        models: Folder, ``gs://`` or ``s3://`` address of all models.
        name: Name of the model.
        version: Version number.
        channel: "champion", "challenger", or any other plain name but "previous".
        who: Person who decides; default `channels.current_user`.
        why: Reason, for the audit.

    Returns:
        The channels afterwards.

    Raises:
        ValueError: There is no reason, the channel name is invalid, or the version was removed, does not exist or fails
            the verification. The channels then stay as they are.
    """
    channels.check_channel(channel)
    channels.check_reason(why)
    channels.is_protected(models, name, version)  # raises if the version was removed, before its files are searched
    verify(models, name, version)
    return channels.set_channel(models, name, version, channel=channel, who=who, why=why)


def rollback(models: str, name: str, *, who: str = "", why: str) -> dict[str, Any]:
    """Make the previous version the champion, after verifying it, and the champion the previous version.

    Args:
        models: Folder, ``gs://`` or ``s3://`` address of all models.
        name: Name of the model.
        who: Person who decides; default `channels.current_user`.
        why: Reason, for the audit.

    Returns:
        The channels afterwards.

    Raises:
        ValueError: There is no reason or no previous version, or the version fails the verification. Or someone else
            has moved the champion since the call, e.g. by a rollback too. The channels then stay as they are.
    """
    channels.check_reason(why)
    current = channels.read(models, name)
    expected = {channel: current.get(channel) for channel in (channels.CHAMPION, channels.PREVIOUS)}
    version = expected[channels.PREVIOUS]
    if version is None:
        raise ValueError(f"{name} has no previous version to roll back to; promote one by its number")
    verify(models, name, version)
    return channels.set_channel(models, name, version, who=who, why=why, action="rollback", expected=expected)
