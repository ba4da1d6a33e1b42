"""Quoting of values and errors in messages: shortened, and without names of photos."""

from collections.abc import Collection
from typing import Any

from components.scorer.redaction import redacted

LONGEST = 80
"""Largest number of characters that a message quotes of one value."""

MOST = 12
"""Largest number of values that a message lists."""


def in_short(error: BaseException) -> str:
    """Return the first line of an error, at most 500 characters, without names of photos.

    TensorFlow's error messages are pages long.
    """
    first = redacted(str(error).strip().partition("\n")[0])
    return f"{type(error).__name__}: {first[:500]}" if first else type(error).__name__


def shown(value: Any) -> str:
    """Return a value's ``repr``, cut to `LONGEST` characters; names of photos are reduced to their shape.

    >>> shown("x" * 100)
    "'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx… (100 characters)"
    """
    text = value if isinstance(value, str) else repr(value)
    start = redacted(text[: 10 * LONGEST])
    start = repr(start) if isinstance(value, str) else start
    return start if len(start) <= LONGEST + 2 else f"{start[:LONGEST]}… ({len(text):,} characters)"


def listed(values: Collection[Any]) -> str:
    """Return the ``repr`` of a list of values: at most `MOST` values, each cut as `shown` cuts it.

    >>> listed(range(14))
    '[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, … and 2 more]'
    """
    first = [shown(value) for value, _ in zip(values, range(MOST), strict=False)]
    return f"[{', '.join([*first, *([f'… and {len(values) - MOST:,} more'] if len(values) > MOST else [])])}]"
