"""A report is one page that needs nothing else, escapes what it is given and stays small."""

import base64
import io
from html.parser import HTMLParser

import pytest
from matplotlib.figure import Figure
from PIL import Image

from components.scorer.report import page
from components.scorer.report.page import Page


class Parsed(HTMLParser):
    """Every tag with its attributes, and all text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.words, self.open = [], "", []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


def figure():
    drawn = Figure(figsize=(4.5, 3))
    axes = drawn.subplots()
    axes.scatter([1, 2], [3, 4], label="photos")
    axes.axvline(1.5, color="black")
    axes.set_xlabel("by people & co")
    axes.legend()
    return drawn


def encoded(size=(900, 600), kind="PNG"):
    data = io.BytesIO()
    Image.new("RGB", size, "teal").save(data, kind)
    return data.getvalue()


def whole_page():
    shown = Page("A report", "of everything")
    shown.section("", page.verdict(True, "yes"))
    shown.section("Charts", "in words", page.gallery([page.chart(figure(), "two points")]))
    shown.section("Rows", page.table([{"name": "a", "n": 3}], "three"), page.photo(encoded(), "a.jpg"))
    return shown.html()


def test_the_page_loads_nothing_from_anywhere():
    for tag, attributes in Parsed(whole_page()).tags:
        assert tag not in ("script", "link", "iframe", "object")
        for name in ("src", "href", "xlink:href"):
            assert attributes.get(name, "#").startswith(("#", "data:"))
    assert "@import" not in whole_page()
    assert "url(http" not in whole_page()


def test_every_tag_is_closed_where_it_should_be():
    assert Parsed(whole_page()).open == []


@pytest.mark.parametrize(
    "block",
    [
        lambda words: words,
        page.paragraph,
        lambda words: page.verdict(False, words),
        lambda words: page.table([{words: 1}, {"name": words}, {"name": page.mark(None, words)}], words),
        lambda words: page.chart(figure(), words),
        lambda words: page.photo(encoded(), words),
    ],
)
def test_what_a_page_is_given_is_text_and_never_markup(block):
    shown = Page('<img src="x">', "<script>")
    shown.section("<b>", block('"><script>alert(1)</script>'))
    tags = [tag for tag, attributes in Parsed(shown.html()).tags if attributes.get("src") is not None]
    assert "<script" not in shown.html()
    assert tags in ([], ["img"])
    assert 'src="x"' not in shown.html()


def test_a_charts_text_is_text_and_its_black_and_white_are_the_pages_own():
    drawing = page.chart(figure(), "two points")
    assert "by people &amp; co" in drawing
    assert "#000000" not in drawing
    assert "#ffffff" not in drawing
    assert "currentColor" in drawing


def test_the_same_figure_gives_the_same_bytes():
    assert page.chart(figure(), "x") == page.chart(figure(), "x")


def test_references_inside_a_page_of_several_charts_find_one_shape_each():
    tags = Parsed(page.chart(figure(), "one") + page.chart(figure(), "two")).tags
    named = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(named) == len(set(named)) > 0


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1234567, "1,234,567"),
        (0.12345, "0.123"),
        (-2.5, "&minus;2.500"),
        (None, "&ndash;"),
        (float("nan"), "&ndash;"),
        (True, "yes"),
        ("a b", "a b"),
    ],
)
def test_a_cell_shows_its_value_as_people_write_it(value, shown):
    assert f">{shown}</td>" in page.table([{"value": value}])


def test_a_table_has_a_column_for_every_key_and_says_how_many_rows_it_left_out():
    drawn = page.table([{"a": 1}, {"b": 2}, {"a": 3}], max_rows=2)
    assert drawn.index(">a</th>") < drawn.index(">b</th>")
    assert "… and 1 more" in drawn
    assert ">3<" not in drawn


def test_a_table_with_sentences_can_be_read_as_a_list_and_one_with_numbers_stays_a_table():
    assert 'class="list"' in page.table([{"n": 1, "why": "a reason of many words " * 4}])
    assert 'class="list"' not in page.table([{"n": 1, "why": "short"}])


def test_a_photo_is_shrunk_to_a_small_jpeg_and_set_upright():
    turned = Image.new("RGB", (900, 600), "teal")
    exif = turned.getexif()
    exif[0x0112] = 6  # a quarter turn clockwise
    data = io.BytesIO()
    turned.save(data, "JPEG", exif=exif)
    source = dict(Parsed(page.photo(data.getvalue(), "x", side=120)).tags)["img"]["src"]
    small = Image.open(io.BytesIO(base64.b64decode(source.removeprefix("data:image/jpeg;base64,"))))
    assert (small.format, small.size) == ("JPEG", (80, 120))


def test_a_page_too_large_is_refused_and_not_written(tmp_path):
    shown = Page("Large")
    shown.section("", "x" * page.MAX_BYTES)
    with pytest.raises(ValueError, match=r"'Large' has 5,00\d,\d+ bytes, expected at most 5,000,000"):
        shown.write(tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_a_page_is_written_with_the_folders_above_it(tmp_path):
    Page("Größe").write(tmp_path / "a" / "report")
    assert "Größe" in (tmp_path / "a" / "report").read_text("utf-8")
