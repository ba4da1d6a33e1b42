"""Names of photos are names of people: messages, logs and records hold no more of them than their shape.

What says which photo is meant is its line in the ratings, or a file or page that is written for the operator.
"""

import re

HIDDEN = "•••"

_SUFFIX = r"\.(?:avif|bmp|gif|hei[cf]s?|hif|jfif|jpe?g?|jpe|png|tiff?|webp)"
_PHOTO = re.compile(
    # A name in quotes, blanks and all; a path, in whose last part there may be blanks; a name. Bounded, or it takes
    # the square of the time on a long line.
    rf"""(?P<quote>['"`])(?P<quoted>(?:(?!(?P=quote)).){{0,1000}}?{_SUFFIX})(?P=quote)"""
    rf"""|[^\s'"`<>(,;=]{{0,1000}}/[^\n'"`<>:;,]{{0,1000}}?{_SUFFIX}(?!\w)"""
    rf"""|[^\s'"`<>(,;:=/]{{1,1000}}{_SUFFIX}(?!\w)""",
    re.IGNORECASE,
)


def shape(name: str) -> str:
    """A photo's name with every part of it hidden; scheme, depth and a photo's ending stay, as they were written.

    >>> shape("families/anna_schmidt_1987-03-01.JPG")
    '•••/•••.JPG'
    """
    start = re.match(r"(?:[A-Za-z][A-Za-z0-9+.-]*:(?=//)|[A-Za-z]:(?=[/\\]))?[/\\]*", name)[0]
    ending = re.search(rf"{_SUFFIX}$", name, re.IGNORECASE)
    body = name[len(start) : ending.start() if ending else None]
    return start + re.sub(r"[^/\\]+", HIDDEN, body) + (ending[0] if ending else "")


def redacted(text: str) -> str:
    """A text that others wrote, such as a library's error, with the shapes of the names that end as photos' do.

    It is the last line of defence: a name without such an ending looks like any other word. Own messages name none.
    """
    return _PHOTO.sub(lambda found: _in_quotes(found) if found["quote"] else shape(found[0]), text)


def _in_quotes(found: re.Match[str]) -> str:
    return found["quote"] + shape(found["quoted"]) + found["quote"]
