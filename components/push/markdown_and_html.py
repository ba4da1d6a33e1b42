"""Document in sections, rendered as Markdown and as an HTML page."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

from markupsafe import Markup

from components.scorer.report import page
from components.scorer.report.page import Page


@dataclass(frozen=True)
class Banner:
    """Verdict: positive (True), negative (False) or neither (None)."""

    ok: bool | None
    words: str


@dataclass(frozen=True)
class Items:
    """List of sentences."""

    sentences: Sequence[str]


@dataclass(frozen=True)
class Interval:
    """Table cell of a value with the ends of its interval; unknown ends are NaN."""

    value: float
    low: float = math.nan
    high: float = math.nan

    @property
    def ends(self) -> str:
        """Interval as text; empty if its ends are unknown."""
        is_known = math.isfinite(self.low) and math.isfinite(self.high)
        return f"({self.low:.3f} to {self.high:.3f})" if is_known else ""


@dataclass(frozen=True)
class Table:
    """Table with one dict per row; columns are the keys in order of first appearance.

    None and NaN are shown as a dash.
    """

    rows: Sequence[Mapping[str, Any]]
    caption: str = ""


@dataclass(frozen=True)
class Code:
    """Lines of code to copy."""

    lines: str
    language: str = "python"


Block = str | Banner | Items | Table | Code
"""Part of a section; a string is a paragraph."""


@dataclass
class Document:
    """Document with a title, a lead sentence, and sections in the order of their addition."""

    title: str
    lead: str = ""
    sections: list[tuple[str, list[Block]]] = field(default_factory=list)

    def section(self, heading: str, *blocks: Block) -> None:
        """Add a section, unless all of its blocks are empty.

        Args:
            heading: Heading in plain text; empty for a section without a heading, such as the verdict on top.
            *blocks: Blocks of the section; empty lists, tables and texts are left out.
        """
        filled = [block for block in blocks if not _is_empty(block)]
        if filled:
            self.sections.append((heading, filled))

    def markdown(self) -> str:
        """Return the document as GitHub-flavoured Markdown."""
        parts = [f"# {escape_markdown(self.title)}", _paragraph(self.lead)]
        for heading, blocks in self.sections:
            parts += [
                f"## {escape_markdown(heading)}" if heading else "",
                *(_block_to_markdown(block) for block in blocks),
            ]
        return "\n\n".join(filter(None, parts)) + "\n"

    def page(self) -> Page:
        """Return the document as an HTML page without external resources."""
        result = Page(self.title, self.lead)
        for heading, blocks in self.sections:
            result.section(heading, *(_block_to_html(block) for block in blocks))
        return result


def escape_markdown(words: str) -> str:
    """Return text in one line, escaped so that Markdown shows it literally."""
    line = " ".join(words.split())
    # An underscore within a word is no emphasis. Escaping it would make names hard to read in the source.
    return re.sub(r"[\\`*<\[\]|~$]|&(?=#?\w+;)|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", line)


def format_cell(value: Any) -> str:
    """Return a value as text for a Markdown table cell, formatted as in the HTML page."""
    if value is None or (isinstance(value, Real) and math.isnan(value)):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Interval):
        return f"{value.value:.3f} {value.ends}".rstrip()
    if isinstance(value, Integral):
        return f"{value:,}"
    return f"{value:,.3f}" if isinstance(value, Real) else str(value)


def _is_empty(block: Block) -> bool:
    contents = {Items: "sentences", Table: "rows", Banner: "words", Code: "lines"}.get(type(block))
    return not (getattr(block, contents) if contents else block)


def _paragraph(words: str) -> str:
    """Return escaped text that cannot begin a list, heading or quotation."""
    return re.sub(r"^(\d{1,9}(?=[.)])|(?=[-+#>=]))", r"\1\\", escape_markdown(words))


def _block_to_markdown(block: Block) -> str:
    if isinstance(block, Banner):
        return f"> **{_SIGNS[block.ok]} {escape_markdown(block.words)}**"
    if isinstance(block, Items):
        return "\n".join(f"- {_paragraph(sentence)}" for sentence in block.sentences)
    if isinstance(block, Code):
        return f"```{block.language}\n{block.lines}\n```"
    if isinstance(block, Table):
        return "\n\n".join(filter(None, [_paragraph(block.caption), _markdown_table(block.rows)]))
    return _paragraph(block)


_SIGNS = {True: "✓", False: "✗", None: "!"}


def _markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    columns = list(dict.fromkeys(column for row in rows for column in row))
    numeric = {c: all(isinstance(row.get(c), Real | None) for row in rows) for c in columns}
    lines = [
        [escape_markdown(column) for column in columns],
        ["---:" if numeric[column] else "---" for column in columns],
        *([escape_markdown(format_cell(row.get(column))) for column in columns] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _block_to_html(block: Block) -> Markup:
    if isinstance(block, Banner):
        return page.verdict(block.ok, block.words)
    if isinstance(block, Items):
        return Markup("<ul>{}</ul>").format(Markup("").join(Markup("<li>{}</li>").format(s) for s in block.sentences))
    if isinstance(block, Code):
        return Markup('<pre style="overflow-x: auto"><code>{}</code></pre>').format(block.lines)
    if isinstance(block, Table):
        rows = [{column: _html_cell(value) for column, value in row.items()} for row in block.rows]
        return page.table(rows, block.caption)
    return page.paragraph(block)


def _html_cell(value: Any) -> Any:
    """Return a cell value for the HTML page's table, which formats all types but intervals."""
    if not isinstance(value, Interval):
        return value
    return Markup('<span class="estimate">{:.3f} <small>{}</small></span>').format(value.value, value.ends)
