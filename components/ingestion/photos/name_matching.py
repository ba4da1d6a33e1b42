"""The names that files about photos give them, and the photos that are there."""

import posixpath
from collections.abc import Callable, Collection, Iterable, Mapping

from components.ingestion.ratings.column_detection import path_of
from components.scorer.quoting import shown
from components.scorer.redaction import shape

_EXAMPLES = 3  # of either side


def spellings(photos: Iterable[str]) -> dict[str, str]:
    """What a file may call the photos, and which photo each name means.

    Args:
        photos: ids: paths in the folder of photos, with ``/``.

    Returns:
        By name (the path, its end without the first folders or without any, each with and without suffix): the id, or
        ``""`` where several photos could be meant. Names are in the form in which `read_ratings` and `read_attributes`
        give them; Unicode is composed (NFC) there and often is not in the folders of a Mac.
    """
    names: dict[str, str] = {}
    whole = {}
    for photo in photos:
        path = path_of(photo)
        whole[path] = photo
        ends = _ends(path)
        for name in {*ends[1:], *map(_stem, ends)}:
            names[name] = photo if name not in names else ""
    return names | whole


def surplus(names: Collection[str], known: Mapping[str, str], missing: float) -> str:
    """The folders that all names begin with and that do not lead to the photos from their folder on.

    Args:
        names: as a file gives them: ``photos/a.jpg``, ``/home/me/photos/a.jpg`` or ``https:/host/a.jpg``.
        known: the photos' `spellings`.
        missing: share of the names that may have no photo all the same.

    Returns:
        The shortest beginning, with its last ``/``, without which the names are those of photos; ``""`` where they
        already are, or are not without one either.
    """
    enough = (1 - missing) * len(names)
    if not len(names) or sum(bool(known.get(name)) for name in names) >= enough:
        return ""
    begin, first, last = "", min(names), max(names)  # what these two begin with, all between them do
    for folder in first.split("/")[:-1]:
        begin += f"{folder}/"
        if not last.startswith(begin):
            return ""
        if sum(bool(known.get(name.removeprefix(begin))) for name in names) >= max(enough, 1):
            return begin
    return ""


def likely_cause(names: Collection[str], places: Mapping[str, str], photos: Collection[str], uri: str) -> str:
    """Why names are not those of photos, with examples of either side, of which only the shape is shown.

    Args:
        names: of which none, or too few, are known.
        places: where each stands in its file.
        photos: ids.
        uri: where the photos are.
    """
    some = [f"{shape(name)} ({places.get(name, '')})" for name, _ in zip(names, range(_EXAMPLES), strict=False)]
    there = [f"{shape(photo)} (photo {number})" for number, photo in zip(range(1, _EXAMPLES + 1), photos, strict=False)]
    return (
        f"The ratings name, for example, {', '.join(some)}; in {uri} there are {', '.join(there)}. "
        f"Likely cause: {_difference(list(names), [path_of(photo) for photo in photos])}"
    )


def _difference(names: list[str], photos: list[str]) -> str:
    """The least that has to be overlooked for half of the names, or more, to be those of photos."""
    begin = shown(names[0][: names[0].find("/", 1) + 1])
    same = len({name[: name.find("/", 1) + 1] for name in names}) == 1
    folders = f"the folders before the names{f': all begin with {begin}' if same and len(begin) > 2 else ''}"
    ways: dict[str, Callable[[str], str]] = {
        "upper and lower case differ; write the names as the files are called.": str.casefold,
        "the endings differ (such as .jpg and .png); write the names as the files are called.": _stem,
        f"{folders}; give the paths from the folder of photos on.": posixpath.basename,
        f"{folders}, and the endings or upper and lower case; write the paths as they are from the folder of photos "
        "on.": lambda name: _stem(posixpath.basename(name)).casefold(),
    }
    for words, simplified in ways.items():
        there = {simplified(end) for photo in photos for end in (photo, posixpath.basename(photo))}
        if 2 * sum(simplified(name) in there for name in names) >= len(names):
            return words
    return "these are ratings of other photos: no name is like one of a photo. Check both addresses."


def _ends(path: str) -> list[str]:
    """A path, then without its first folder, and so on to the name alone."""
    parts = path.split("/")
    return ["/".join(parts[start:]) for start in range(len(parts))]


def _stem(name: str) -> str:
    return posixpath.splitext(name)[0]
