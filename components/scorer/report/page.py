"""A report as one self-contained page: no network, no script, readable on a phone, in light and in dark.

The pipeline's UI shows a report in a sandboxed frame that can load nothing, so charts are inline SVG and
photos are small inline JPEGs. What a block function returns is safe HTML; any other string is text and is
escaped, so a photo's name or an attribute's value can never become markup.

    page = Page("Ingestion", "1,989 photos, 48,427 ratings")
    page.section("Ratings", "Each photo has at least 7.", table(rows), gallery([chart(figure, "Means")]))
    page.write(report_path)
"""

import base64
import io
import math
import re
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image, ImageOps

LARGEST = 5_000_000
"""Bytes of a page: what the pipeline's UI still shows at once, as it puts the page into a frame's attribute."""

_TEMPLATE = Environment(autoescape=True).from_string(Path(__file__).with_name("page.html").read_text("utf-8"))


class Page:
    """A title, a sentence under it, and sections of blocks in the order in which they are added."""

    def __init__(self, title: str, lead: str = ""):
        """Start a page.

        Args:
            title: plain text.
            lead: one or two sentences under the title, plain text.
        """
        self.title, self.lead = title, lead
        self._sections: list[tuple[str, list[Markup]]] = []

    def section(self, heading: str, *blocks: str) -> None:
        """Add a section.

        Args:
            heading: plain text; empty for a section without one, such as the verdict on top.
            *blocks: what the functions of this module return; a plain string becomes a paragraph.
        """
        self._sections.append((heading, [b if isinstance(b, Markup) else text(b) for b in blocks]))

    def html(self) -> str:
        """The whole page."""
        return _TEMPLATE.render(title=self.title, lead=self.lead, sections=self._sections)

    def write(self, path: str | Path) -> None:
        """Write the page as UTF-8, making the folders above it.

        Raises:
            ValueError: the page is larger than ``LARGEST``; nothing is written.
        """
        data = self.html().encode("utf-8")
        if len(data) > LARGEST:
            raise ValueError(
                f"the page {self.title!r} has {len(data):,} bytes, expected at most {LARGEST:,}: "
                "show fewer photos and table rows, or draw points with rasterized=True"
            )
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def text(words: str) -> Markup:
    """A paragraph."""
    return Markup("<p>{}</p>").format(words)


def verdict(ok: bool | None, words: str) -> Markup:
    """A banner: yes, no, or neither (None), told by a sign as well as by colour."""
    kind, sign = {True: ("yes", "✓"), False: ("no", "✗"), None: ("open", "!")}[ok]
    return Markup('<p class="verdict {}">{} {}</p>').format(kind, sign, words)


def mark(ok: bool | None, words: str) -> Markup:
    """A few words in a table's cell in the colour and with the sign of a verdict."""
    kind, sign = {True: ("yes", "✓"), False: ("no", "✗"), None: ("open", "!")}[ok]
    return Markup('<strong class="{}">{}&nbsp;{}</strong>').format(kind, sign, words)


def table(rows: list[dict[str, Any]], caption: str = "", most: int = 500) -> Markup:
    """A table. On a phone one with sentences in it becomes a list of its rows, and any other scrolls sideways.

    Args:
        rows: one dict a row; the columns are the keys in order of first appearance. Whole numbers get
            thousands separators, other numbers three decimals, None and NaN a dash.
        caption: plain text above the table.
        most: rows shown; a last line says how many more there are.
    """
    columns = list(dict.fromkeys(column for row in rows for column in row))
    numeric = {c: all(isinstance(row.get(c), Real | None) for row in rows) for c in columns}
    head = Markup("").join(Markup("<th{}>{}</th>").format(_number(numeric[c]), c) for c in columns)
    body = Markup("").join(
        Markup("<tr>{}</tr>\n").format(Markup("").join(_cell(c, row.get(c), numeric[c]) for c in columns))
        for row in rows[:most]
    )
    if len(rows) > most:
        body += Markup('<tr><td colspan="{}">… and {:,} more</td></tr>\n').format(len(columns), len(rows) - most)
    return Markup('<div class="wide"><table{}>{}<thead><tr>{}</tr></thead>\n<tbody>{}</tbody></table></div>').format(
        Markup(' class="list"' if any(_long(value) for row in rows[:most] for value in row.values()) else ""),
        Markup("<caption>{}</caption>").format(caption) if caption else "",
        head,
        body,
    )


def chart(figure: Figure, alt: str) -> Markup:
    """A figure as inline SVG whose text stays text.

    Black and white of the figure become the page's own text and background colours, so matplotlib's defaults
    are legible in light and dark; choose colours of middling brightness for data. A figure 4.5 inches wide
    reads well on a phone, and two stand side by side in a ``gallery`` on a desk. Draw more than about
    2,000 points with ``rasterized=True``.

    Args:
        figure: made with ``matplotlib.figure.Figure``, without pyplot's global state.
        alt: what the chart shows, for those who cannot see it.
    """
    buffer = io.StringIO()
    # With this salt the same chart has the same ids each time, and two charts of a page have different ones.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": alt}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    drawing = buffer.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    drawing = re.sub(r'<g id="[^"]*"', "<g", drawing)  # nothing refers to them, and two charts would share them
    drawing = re.sub(r'<svg [^>]*viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" role="img">', drawing, count=1)
    drawing = drawing.replace("#000000", "currentColor").replace("#ffffff", "var(--background)")
    drawing = re.sub(r'font-family: [^;"]*;? ?', "", drawing)  # the page's own font
    drawing = drawing.replace("<svg", f'<svg aria-label="{escape(alt)}"', 1)
    width = figure.get_figwidth() * 96  # CSS pixels an inch
    return Markup('<figure class="chart" style="max-width:{:.0f}px;width:100%">{}</figure>').format(
        width, Markup(drawing)
    )


def photo(data: bytes, caption: str = "", side: int = 160) -> Markup:
    """A small photo with words under it.

    Args:
        data: an encoded photo in any format that Pillow reads.
        caption: plain text.
        side: pixels of the longer side.

    Raises:
        PIL.UnidentifiedImageError: ``data`` is no photo.
    """
    small = io.BytesIO()
    with Image.open(io.BytesIO(data)) as opened:
        opened.draft("RGB", (side, side))
        image = ImageOps.exif_transpose(opened).convert("RGB")
    image.thumbnail((side, side))
    image.save(small, "JPEG", quality=80, optimize=True)
    return Markup(
        '<figure class="photo" style="width:{}px"><img alt="{}" src="data:image/jpeg;base64,{}">'
        "<figcaption>{}</figcaption></figure>"
    ).format(side, caption, base64.b64encode(small.getvalue()).decode(), caption)


def pair(items: list[str]) -> Markup:
    """Photos that belong together and stay so when a row is full."""
    return Markup('<div class="pair">{}</div>').format(Markup("").join(items))


def gallery(items: list[str]) -> Markup:
    """Photos or charts side by side, as many in a row as the screen holds."""
    return Markup('<div class="gallery">{}</div>').format(Markup("\n").join(items))


def _number(numeric: bool) -> Markup:
    return Markup(' class="number"' if numeric else "")


def _long(value: Any) -> bool:
    """Whether a cell holds a sentence, which needs room to be read, and not a name."""
    return isinstance(value, str) and not isinstance(value, Markup) and len(value) > 60


def _cell(column: str, value: Any, numeric: bool) -> Markup:
    kind = Markup(' class="long"') if _long(value) else _number(numeric)
    if isinstance(value, bool):
        shown = "yes" if value else "no"
    elif value is None or (isinstance(value, Real) and math.isnan(value)):
        shown = Markup("&ndash;")
    elif isinstance(value, Real):
        digits = f"{value:,}" if isinstance(value, Integral) else f"{value:,.3f}"
        kind, shown = _number(True), Markup(digits.replace("-", "&minus;"))
    else:
        shown = value
    return Markup('<td{} data-column="{}">{}</td>').format(kind, column, shown)
