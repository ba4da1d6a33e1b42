"""Values and errors quoted in messages: cut to a length that can be read, and without any photo's name."""

from collections.abc import Collection
from typing import Any

from components.scorer.redaction import redacted

LONGEST = 80
"""Characters of one value that a message quotes."""

MOST = 12
"""Values that a message lists."""


def in_short(error: BaseException) -> str:
    """An error in one line, without names of photos; TensorFlow's go on for pages."""
    first = redacted(str(error).strip().partition("\n")[0])
    return f"{type(error).__name__}: {first[:500]}" if first else type(error).__name__


def shown(value: Any) -> str:
    """A value as Python writes it, cut to `LONGEST` characters; names of photos lose all but their shape.

    >>> shown("x" * 100)
    "'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx… (100 characters)"
    """
    text = value if isinstance(value, str) else repr(value)
    start = redacted(text[: 10 * LONGEST])
    start = repr(start) if isinstance(value, str) else start
    return start if len(start) <= LONGEST + 2 else f"{start[:LONGEST]}… ({len(text):,} characters)"


def listed(values: Collection[Any]) -> str:
    """Values as Python writes a list of them, at most `MOST`, each cut as `shown` cuts it.

    >>> listed(range(14))
    '[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, … and 2 more]'
    """
    first = [shown(value) for value, _ in zip(values, range(MOST), strict=False)]
    return f"[{', '.join([*first, *([f'… and {len(values) - MOST:,} more'] if len(values) > MOST else [])])}]"
