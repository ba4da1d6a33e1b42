"""Docstrings of the product are plain sentences, as far as a machine can check."""

import ast
import re
from collections.abc import Iterator

import pytest

from tests.builders.product import FILES, ROOT

LONGEST, LONGEST_FIRST = 30, 25
"""Most words of a sentence, and of the first sentence."""

NO_BEGINNING = re.compile(
    r"""(also|and|as|at|but|by|for|from|how|in|its?|keeps|likewise|nothing|of|on|or|(the\ )?same|sees|tells|that|them
    |these|they|this|those|to|what|where|whether|which|who(ever|se)?|with|without)\b""",
    re.IGNORECASE | re.VERBOSE,
)
"""First words of a docstring that does not say what the thing is or does."""

NO_PHRASE = re.compile(r"\b(be it|(by|for|from|in|than|to|with) what|of (those|which)|what is none)\b", re.IGNORECASE)
"""Phrases of inverted sentences."""

PREPOSITION = re.compile(
    r"(as|at|by|for|from|how|in|its|likewise|of|on|see|that|to|what|whether|which|with|without)\b", re.IGNORECASE
)
"""First words of an argument's description that is no noun phrase."""


def sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.!?:;])\s+", re.sub(r"\s+", " ", text))


def faults(docstring: str) -> Iterator[str]:
    first = docstring.split("\n\n")[0]
    if beginning := NO_BEGINNING.match(first):
        yield f"begins with {beginning[0]!r}"
    prose = re.split(r"^(?:Args|Attributes|Raises|Returns|Yields):$", docstring, flags=re.MULTILINE)[0]
    yield from (
        f"has {len(sentence.split())} words in {sentence[:50]!r}"
        for sentence in sentences(prose)
        if len(sentence.split()) > LONGEST
    )
    if len(sentences(first)[0].split()) > LONGEST_FIRST:
        yield "has a long first sentence"
    if phrase := NO_PHRASE.search(re.sub(r"\s+", " ", docstring)):
        yield f"has {phrase[0]!r}"
    for section in re.findall(r"^(?:Args|Attributes):\n((?:    .*\n?|\n)+)", docstring, re.MULTILINE):
        for name, text in re.findall(r"^    (\w+): (.+)", section, re.MULTILINE):
            if beginning := PREPOSITION.match(text):
                yield f"says of {name} {beginning[0]!r}"


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_are_plain_sentences(path):
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, documented)]
    assert not [
        f"line {getattr(node, 'lineno', 1)}: {fault}"
        for node in nodes
        for fault in faults(ast.get_docstring(node) or "")
    ]


@pytest.mark.parametrize(
    "docstring",
    [
        "What the last layer reads.",
        "Of the embeddings that the weights give.",
        "The same for another model.",
        "Return the votes.\n\nArgs:\n    side: Of the crops.",
        "Return the votes, of which there are ten.",
        " ".join(["Return", *["word"] * 25]) + ".",
        "Return the votes.\n\n" + " ".join(["Word"] * 31) + ".",
    ],
)
def test_a_riddle_is_refused(docstring):
    assert [*faults(docstring)]


def test_a_plain_docstring_is_accepted():
    assert not [
        *faults("Return the votes.\n\nOne row sums to 1.\n\nArgs:\n    photos: Uprights, RGB.\n\nReturns: `[n, 10]`.")
    ]
