"""Matching of the photo names in rating and attribute files with photo ids."""

import posixpath
from collections.abc import Callable, Collection, Iterable, Mapping

from components.ingestion.ratings.column_detection import normalise_path
from components.scorer.quoting import quoted
from components.scorer.redaction import redact_path

_EXAMPLES = 3  # of names and of photos


def photo_ids_by_name(photos: Iterable[str]) -> dict[str, str]:
    """Return the photo id that each possible name of a photo means.

    Args:
        photos: Photo ids: paths in the folder of photos, with ``/``.

    Returns:
        Photo id by name, or ``""`` if the name is ambiguous. The names of a photo are its path without any number of
        leading folders, each with and without suffix. Names have the form that `read_ratings` and `read_attributes`
        return: Unicode is composed (NFC) there, but often not in the folders of a Mac.
    """
    ids_by_name: dict[str, str] = {}
    ids_by_path = {}
    for photo in photos:
        path = normalise_path(photo)
        ids_by_path[path] = photo
        tails = _path_suffixes(path)
        for name in {*tails[1:], *map(_stem, tails)}:
            ids_by_name[name] = photo if name not in ids_by_name else ""
    return ids_by_name | ids_by_path


def extra_prefix(names: Collection[str], ids_by_name: Mapping[str, str], missing_share: float) -> str:
    """Return the common folder prefix of all names that must be dropped to match them with photos.

    Args:
        names: Names in a file: ``photos/a.jpg``, ``/home/me/photos/a.jpg`` or ``https:/host/a.jpg``.
        ids_by_name: Photo ids by name, from `photo_ids_by_name`.
        missing_share: Share of the names that may match no photo.

    Returns:
        The shortest sufficient prefix, with its last ``/``. ``""`` if the names match already, or if no prefix helps.
    """
    enough = (1 - missing_share) * len(names)
    if not len(names) or sum(bool(ids_by_name.get(name)) for name in names) >= enough:
        return ""
    prefix, first, last = "", min(names), max(names)  # a common prefix of these two is one of all names
    for folder in first.split("/")[:-1]:
        prefix += f"{folder}/"
        if not last.startswith(prefix):
            return ""
        if sum(bool(ids_by_name.get(name.removeprefix(prefix))) for name in names) >= max(enough, 1):
            return prefix
    return ""


def likely_cause(names: Collection[str], locations: Mapping[str, str], photos: Collection[str], uri: str) -> str:
    """Return why names match no photos, with examples of both. Only the shape of each name is shown.

    Args:
        names: Names that match no photo.
        locations: Location of each name in its file.
        photos: Photo ids.
        uri: Address of the photos.
    """
    name_examples = [
        f"{redact_path(name)} ({locations.get(name, '')})" for name, _ in zip(names, range(_EXAMPLES), strict=False)
    ]
    photo_examples = [
        f"{redact_path(photo)} (photo {number})" for number, photo in zip(range(1, _EXAMPLES + 1), photos, strict=False)
    ]
    return (
        f"The ratings name, for example, {', '.join(name_examples)}; in {uri} there are {', '.join(photo_examples)}. "
        f"Likely cause: {_describe_difference(list(names), [normalise_path(photo) for photo in photos])}"
    )


def _describe_difference(names: list[str], photos: list[str]) -> str:
    """Return the smallest difference that explains at least half of the names."""
    first = quoted(names[0][: names[0].find("/", 1) + 1])
    shared = len({name[: name.find("/", 1) + 1] for name in names}) == 1
    folders = f"the folders before the names{f': all begin with {first}' if shared and len(first) > 2 else ''}"
    simplifications: dict[str, Callable[[str], str]] = {
        "upper and lower case differ; write the names as the files are called.": str.casefold,
        "the endings differ (such as .jpg and .png); write the names as the files are called.": _stem,
        f"{folders}; give the paths from the folder of photos on.": posixpath.basename,
        f"{folders}, and the endings or upper and lower case; write the paths as they are from the folder of photos "
        "on.": lambda name: _stem(posixpath.basename(name)).casefold(),
    }
    for cause, simplify in simplifications.items():
        photo_names = {simplify(name) for photo in photos for name in (photo, posixpath.basename(photo))}
        if 2 * sum(simplify(name) in photo_names for name in names) >= len(names):
            return cause
    return "these are ratings of other photos: no name is like one of a photo. Check both addresses."


def _path_suffixes(path: str) -> list[str]:
    """Return a path, the path without its first folder, and so on to the file name."""
    parts = path.split("/")
    return ["/".join(parts[start:]) for start in range(len(parts))]


def _stem(name: str) -> str:
    return posixpath.splitext(name)[0]
