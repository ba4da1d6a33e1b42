"""Redaction of photo names, which are often names of people: messages, logs and records show only a name's shape.

A photo is identified by its line in the ratings, or in a file or page written for the operator.
"""

import re

HIDDEN = "•••"

_SUFFIX = r"\.(?:avif|bmp|gif|hei[cf]s?|hif|jfif|jpe?g?|jpe|png|tiff?|webp)"
_PHOTO = re.compile(
    # A name in quotes, with blanks; a path whose last part may have blanks; a name. The repetitions are bounded, as
    # matching would otherwise take quadratic time on a long line.
    rf"""(?P<quote>['"`])(?P<quoted>(?:(?!(?P=quote)).){{0,1000}}?{_SUFFIX})(?P=quote)"""
    rf"""|[^\s'"`<>(,;=]{{0,1000}}/[^\n'"`<>:;,]{{0,1000}}?{_SUFFIX}(?!\w)"""
    rf"""|[^\s'"`<>(,;:=/]{{1,1000}}{_SUFFIX}(?!\w)""",
    re.IGNORECASE,
)


def redact_path(name: str) -> str:
    """Return a photo's path with every part hidden; its scheme, depth and suffix stay as written.

    >>> redact_path("families/anna_schmidt_1987-03-01.JPG")
    '•••/•••.JPG'
    """
    start = re.match(r"(?:[A-Za-z][A-Za-z0-9+.-]*:(?=//)|[A-Za-z]:(?=[/\\]))?[/\\]*", name)
    assert start is not None  # the pattern also matches an empty text
    prefix = start[0]
    suffix = re.search(rf"{_SUFFIX}$", name, re.IGNORECASE)
    body = name[len(prefix) : suffix.start() if suffix else None]
    return prefix + re.sub(r"[^/\\]+", HIDDEN, body) + (suffix[0] if suffix else "")


def redact(text: str) -> str:
    """Return a text of another author, such as a library's error, with photo names replaced by their shapes.

    This is the last line of defence: a name without a photo's suffix cannot be told from any other word. The project's
    own messages contain no names of photos.
    """
    return _PHOTO.sub(lambda match: _redact_quoted(match) if match["quote"] else redact_path(match[0]), text)


def _redact_quoted(match: re.Match[str]) -> str:
    return match["quote"] + redact_path(match["quoted"]) + match["quote"]
