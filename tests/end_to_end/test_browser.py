"""The evaluation page in headless Chromium: desktop and phone width, light and dark scheme."""

import html
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.evaluation import export_probe
from components.evaluation.evaluate import evaluate
from components.scorer.artifacts import saved_model
from components.scorer.registry import channels, integrity
from components.scorer.run.paths import RunPaths
from components.scorer.settings import Policy
from tests.builders import designed
from tests.builders.evaluations import NOISY, PHOTOS, SERVED, SETTINGS, SOUND

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DESK, PHONE = 1200, 390
OFFLINE = ["--host-resolver-rules=MAP * ~NOTFOUND", "--disable-background-networking", "--disable-component-update"]
COMMAND = [CHROMIUM or "", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *OFFLINE]

MEASURE = """
<script>
addEventListener("load", () => {
  const style = getComputedStyle(document.body), verdict = document.querySelector(".verdict").getBoundingClientRect();
  parent.postMessage({
    width: innerWidth, needed: document.documentElement.scrollWidth, verdict: verdict.top,
    text: style.color, background: getComputedStyle(document.documentElement).backgroundColor,
    body: style.backgroundColor,
    fetched: performance.getEntriesByType("resource").filter(each => !each.name.startsWith("data:")).length,
    broken: [...document.images].filter(each => !each.naturalWidth).length, images: document.images.length,
  }, "*");
});
</script>
"""
FRAME = """
<iframe src="{page}" width="{width}" height="900"></iframe><pre></pre>
<script>
addEventListener("message", told => document.querySelector("pre").textContent = JSON.stringify(told.data));
</script>
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """Write the page of a full evaluation with a champion, slices and photos."""
    if not CHROMIUM:
        pytest.skip("install chromium to see the pages as people do")
    folder = tmp_path_factory.mktemp("page")
    data = designed.dataset(folder / "dataset", PHOTOS)
    designed.scorer(**SOUND).save(folder / "scorer")
    saved_model.export(designed.scorer(**NOISY), folder / "models" / "portraits" / "1")
    integrity.write_record(folder / "models" / "portraits" / "1", {})
    channels.promote_pushed(str(folder / "models"), "portraits", 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_probe, "probe", lambda *asked: SERVED)
        evaluate(
            data, folder / "scorer", folder / "page.html", models=str(folder / "models"), name="portraits",
            settings=replace(SETTINGS, show_photos=True), policy=Policy(),
            workspace=RunPaths(str(folder / "workspace"), "run"),
        )  # fmt: skip
    return folder / "page.html"


@pytest.fixture(scope="module")
def seen(page):
    """Return a function that measures the page in the browser at a width, in light or dark scheme."""
    (page.parent / "measured.html").write_text(page.read_text() + MEASURE)

    def measured(width: int, dark: bool = False) -> dict:
        frame = page.parent / f"frame{width}{dark}.html"
        frame.write_text(FRAME.format(page="measured.html", width=width))
        dom = chromium(
            "--dump-dom", "--virtual-time-budget=5000", f"--window-size={width + 100},1000", url=frame, dark=dark
        )
        return json.loads(html.unescape(re.search(r"<pre>(.*?)</pre>", dom.decode(), re.DOTALL)[1]))

    return measured


def chromium(*options: str, url: Path, dark: bool = False) -> bytes:
    scheme = [f"--blink-settings=preferredColorScheme={0 if dark else 1}"]
    process = subprocess.run([*COMMAND, *scheme, *options, url.as_uri()], capture_output=True, check=True, timeout=120)
    return process.stdout


def contrast(one: str, other: str) -> float:
    """Return the WCAG 2.1 contrast ratio of two CSS colours, from 1 to 21."""

    def luminance(colour: str) -> float:
        values = np.array([int(part) for part in re.findall(r"\d+", colour)[:3]]) / 255
        linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("width", [DESK, PHONE])
def test_the_page_is_not_wider_than_the_window(seen, width):
    measures = seen(width)
    assert measures["width"] == width
    assert measures["needed"] <= width


@pytest.mark.parametrize("width", [DESK, PHONE])
def test_the_verdict_is_visible_without_scrolling(seen, width):
    assert 0 < seen(width)["verdict"] < 300


@pytest.mark.parametrize("dark", [False, True])
def test_text_is_legible_in_light_and_in_dark(seen, dark):
    measures = seen(DESK, dark)
    assert contrast(measures["text"], measures["body"]) > 7
    assert (contrast(measures["body"], "rgb(0, 0, 0)") < 2) == dark


def test_the_page_fetches_nothing_and_shows_every_photo(seen):
    measures = seen(DESK)
    assert measures["fetched"] == 0
    assert measures["images"] > 100
    assert measures["broken"] == 0


@pytest.mark.parametrize(("width", "dark"), [(DESK, False), (PHONE, True)])
def test_a_screenshot_shows_the_verdict_in_its_colour(page, tmp_path, width, dark):
    chromium(f"--screenshot={tmp_path / 'page.png'}", f"--window-size={max(width, 500)},1600", url=page, dark=dark)
    pixels = np.asarray(Image.open(io.BytesIO((tmp_path / "page.png").read_bytes())).convert("RGB"), int)
    red, green, blue = pixels[:400].reshape(-1, 3).T
    coloured = (np.abs(red - green) > 25) | (np.abs(green - blue) > 25)
    assert pixels.std() > 20  # not blank
    assert coloured.mean() > 0.002
