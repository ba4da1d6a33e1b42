"""Quoting of values and errors in messages: shortened, and without names of photos."""

from collections.abc import Collection
from typing import Any

from components.scorer.redaction import redact

MAX_CHARACTERS = 80
"""Largest number of characters that a message quotes of one value."""

MAX_VALUES = 12
"""Largest number of values that a message lists."""


def one_line(error: BaseException) -> str:
    """Return the first line of an error, at most 500 characters, without names of photos.

    TensorFlow's error messages are pages long.
    """
    first = redact(str(error).strip().partition("\n")[0])
    return f"{type(error).__name__}: {first[:500]}" if first else type(error).__name__


def quoted(value: Any) -> str:
    """Return a value's ``repr``, cut to `MAX_CHARACTERS` characters; names of photos are reduced to their shape.

    >>> shown("x" * 100)
    "'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx… (100 characters)"
    """
    text = value if isinstance(value, str) else repr(value)
    start = redact(text[: 10 * MAX_CHARACTERS])
    start = repr(start) if isinstance(value, str) else start
    return start if len(start) <= MAX_CHARACTERS + 2 else f"{start[:MAX_CHARACTERS]}… ({len(text):,} characters)"


def quoted_list(values: Collection[Any]) -> str:
    """Return the ``repr`` of a list of values: at most `MAX_VALUES` values, each cut as `quoted` cuts it.

    >>> listed(range(14))
    '[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, … and 2 more]'
    """
    first = [quoted(value) for value, _ in zip(values, range(MAX_VALUES), strict=False)]
    return (
        f"[{', '.join([*first, *([f'… and {len(values) - MAX_VALUES:,} more'] if len(values) > MAX_VALUES else [])])}]"
    )
