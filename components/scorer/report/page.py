"""HTML report as one self-contained page: no network, no script, readable on a phone, in light and dark mode.

The pipeline's UI shows a report in a sandboxed frame that can load nothing, so charts are inline SVG and
photos are small inline JPEGs. Block functions return safe HTML. Any other string is text and is escaped, so a
photo's name or an attribute's value can never become markup.

    page = Page("Ingestion", "1,989 photos, 48,427 ratings")
    page.section("Ratings", "Each photo has at least 7.", table(rows), gallery([chart(figure, "Means")]))
    page.write(report_path)
"""

import base64
import io
import math
import re
from collections.abc import Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image, ImageOps

MAX_BYTES = 5_000_000
"""Largest size of a page, bytes: the pipeline's UI, which puts the page into a frame's attribute, shows it at once."""

_TEMPLATE = Environment(autoescape=True).from_string(Path(__file__).with_name("page.html").read_text("utf-8"))


class Page:
    """HTML report: a title, a lead sentence, and sections of blocks in the order of their addition."""

    def __init__(self, title: str, lead: str = ""):
        """Start a page.

        Args:
            title: Title, plain text.
            lead: One or two sentences under the title, plain text.
        """
        self.title, self.lead = title, lead
        self._sections: list[tuple[str, list[Markup]]] = []

    def section(self, heading: str, *blocks: str) -> None:
        """Add a section.

        Args:
            heading: Heading, plain text; "" for a section without a heading, such as the verdict on top.
            *blocks: HTML blocks returned by the functions of this module; a plain string becomes a paragraph.
        """
        self._sections.append((heading, [block if isinstance(block, Markup) else paragraph(block) for block in blocks]))

    def html(self) -> str:
        """Return the page as HTML."""
        return _TEMPLATE.render(title=self.title, lead=self.lead, sections=self._sections)

    def write(self, path: str | Path) -> None:
        """Write the page as UTF-8; create the folders above it.

        Raises:
            ValueError: The page is larger than `MAX_BYTES`; nothing is written.
        """
        data = self.html().encode("utf-8")
        if len(data) > MAX_BYTES:
            raise ValueError(
                f"the page {self.title!r} has {len(data):,} bytes, expected at most {MAX_BYTES:,}: "
                "show fewer photos and table rows, or draw points with rasterized=True"
            )
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def paragraph(content: str) -> Markup:
    """Return a paragraph."""
    return Markup("<p>{}</p>").format(content)


def verdict(ok: bool | None, message: str) -> Markup:
    """Return a banner for yes (True), no (False) or undecided (None), marked by a sign as well as by colour."""
    kind, sign = {True: ("yes", "✓"), False: ("no", "✗"), None: ("open", "!")}[ok]
    return Markup('<p class="verdict {}">{} {}</p>').format(kind, sign, message)


def mark(ok: bool | None, message: str) -> Markup:
    """Return a few words for a table cell, with the colour and sign of a `verdict`."""
    kind, sign = {True: ("yes", "✓"), False: ("no", "✗"), None: ("open", "!")}[ok]
    return Markup('<strong class="{}">{}&nbsp;{}</strong>').format(kind, sign, message)


def table(rows: list[dict[str, Any]], caption: str = "", max_rows: int = 500) -> Markup:
    """Return a table. On a phone, a table with sentences becomes a list of its rows; other tables scroll sideways.

    Args:
        rows: One dict per row; the columns are the keys in order of first appearance. Whole numbers get
            thousands separators, other numbers three decimals, None and NaN a dash.
        caption: Plain text above the table.
        max_rows: Largest number of rows shown; a last line gives the number of further rows.
    """
    columns = list(dict.fromkeys(column for row in rows for column in row))
    numeric = {name: all(isinstance(row.get(name), Real | None) for row in rows) for name in columns}
    head = Markup("").join(Markup("<th{}>{}</th>").format(_number_class(numeric[name]), name) for name in columns)
    body = Markup("").join(
        Markup("<tr>{}</tr>\n").format(Markup("").join(_cell(name, row.get(name), numeric[name]) for name in columns))
        for row in rows[:max_rows]
    )
    if len(rows) > max_rows:
        body += Markup('<tr><td colspan="{}">… and {:,} more</td></tr>\n').format(len(columns), len(rows) - max_rows)
    return Markup('<div class="wide"><table{}>{}<thead><tr>{}</tr></thead>\n<tbody>{}</tbody></table></div>').format(
        Markup(' class="list"' if any(_is_long(value) for row in rows[:max_rows] for value in row.values()) else ""),
        Markup("<caption>{}</caption>").format(caption) if caption else "",
        head,
        body,
    )


def chart(figure: Figure, alt: str) -> Markup:
    """Return a figure as inline SVG whose text stays text.

    Black and white of the figure become the page's own text and background colours, so matplotlib's defaults
    are legible in light and dark mode. Choose colours of medium brightness for data. A figure 4.5 inches wide
    is readable on a phone, and two fit side by side in a `gallery` on a desktop. Draw more than about
    2,000 points with ``rasterized=True``.

    Args:
        figure: Figure made with ``matplotlib.figure.Figure``, without pyplot's global state.
        alt: Description of the chart for people who cannot see it.
    """
    buffer = io.StringIO()
    # With this salt a chart has the same ids in every report, and two charts of a page have different ids.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": alt}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    drawing = buffer.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    drawing = re.sub(r'<g id="[^"]*"', "<g", drawing)  # nothing refers to these ids, and two charts would share them
    drawing = re.sub(r'<svg [^>]*viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" role="img">', drawing, count=1)
    drawing = drawing.replace("#000000", "currentColor").replace("#ffffff", "var(--background)")
    drawing = re.sub(r'font-family: [^;"]*;? ?', "", drawing)  # the page's own font
    drawing = drawing.replace("<svg", f'<svg aria-label="{escape(alt)}"', 1)
    width = figure.get_figwidth() * 96  # CSS pixels an inch
    return Markup('<figure class="chart" style="max-width:{:.0f}px;width:100%">{}</figure>').format(
        width, Markup(drawing)
    )


def photo(data: bytes, caption: str = "", side: int = 160) -> Markup:
    """Return a small photo with a caption.

    Args:
        data: Encoded photo in any format that Pillow reads.
        caption: Caption, plain text.
        side: Longer side, pixels.

    Raises:
        PIL.UnidentifiedImageError: ``data`` is not a photo.
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
    """Return photos that stay side by side when a row of a gallery is full."""
    return Markup('<div class="pair">{}</div>').format(Markup("").join(items))


def gallery(items: Sequence[str]) -> Markup:
    """Return photos or charts side by side, as many in a row as fit on the screen."""
    return Markup('<div class="gallery">{}</div>').format(Markup("\n").join(items))


def _number_class(numeric: bool) -> Markup:
    return Markup(' class="number"' if numeric else "")


def _is_long(value: Any) -> bool:
    """Return True for a text of more than 60 characters, a sentence that needs a wide cell."""
    return isinstance(value, str) and not isinstance(value, Markup) and len(value) > 60


def _cell(column: str, value: Any, numeric: bool) -> Markup:
    kind = Markup(' class="long"') if _is_long(value) else _number_class(numeric)
    if isinstance(value, bool):
        shown = "yes" if value else "no"
    elif value is None or (isinstance(value, Real) and math.isnan(value)):
        shown = Markup("&ndash;")
    elif isinstance(value, Real):
        digits = f"{value:,}" if isinstance(value, Integral) else f"{value:,.3f}"
        kind, shown = _number_class(True), Markup(digits.replace("-", "&minus;"))
    else:
        shown = value
    return Markup('<td{} data-column="{}">{}</td>').format(kind, column, shown)
