"""The review desk as reviewers use it: in headless Chromium, on the true server with a tiny published version."""

import base64
import csv
import io
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import pillow_heif
import pytest
from PIL import Image

from components.ingestion.sample import draw_portrait, random_portrait
from components.scorer.artifacts import saved_model
from components.scorer.registry import channels, integrity
from tests.builders import designed, servers

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]  # fmt: skip
WIDE, PHONE = (1200, 900), (390, 844)
ERROR = 0.3  # of the scorer, points: enough for ties among these photos, and too little to tie them all
FORMULA = "=1+1 café.jpg"  # a name that a spreadsheet would compute, and no ASCII
BROKEN = "broken.jpg"
PHOTOS = [*(f"portrait {number}.jpg" for number in range(5)), FORMULA]

LIVE = """
window.live = new Set();
const create = URL.createObjectURL, revoke = URL.revokeObjectURL;
URL.createObjectURL = given => { const url = create.call(URL, given); window.live.add(url); return url; };
URL.revokeObjectURL = url => { window.live.delete(url); revoke.call(URL, url); };
"""
"""Counts the object URLs that the page has not given back."""

TEXTS = """
() => {
  const paint = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const over = (colours) => {
    paint.fillStyle = "#fff";
    paint.fillRect(0, 0, 1, 1);
    for (const colour of colours) { paint.fillStyle = colour; paint.fillRect(0, 0, 1, 1); }
    return [...paint.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const found = [];
  const root = document.querySelector("dialog[open]") ?? document.body;
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  for (let node; (node = walker.nextNode()); ) {
    const element = node.parentElement;
    if (!node.data.trim() || !element.checkVisibility({ visibilityProperty: true })) continue;
    if (element.closest(".unseen, .picture, option, :disabled, template, noscript")) continue;
    const grounds = [];
    for (let each = element; each; each = each.parentElement) grounds.unshift(getComputedStyle(each).backgroundColor);
    const style = getComputedStyle(element);
    const text = element instanceof SVGElement ? style.fill : style.color;
    found.push({ words: node.data.trim(), text: over([...grounds, text]), ground: over(grounds) });
  }
  return found;
}
"""
"""Every text that is seen, its colour and what is behind it."""

WIDTH = """
Math.max(...[...document.querySelectorAll("html, dialog[open], dialog[open] *")].map(each =>
  getComputedStyle(each).textOverflow === "ellipsis" || each.matches(".unseen")
    ? 0 : Math.max(each.scrollWidth, each.getBoundingClientRect().right)))
"""
"""Pixels that are needed from left to right; a name that ends in dots needs none."""


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> dict[str, Path]:
    """Drawn portraits and a file that is none, by name."""
    folder = tmp_path_factory.mktemp("photos")
    for number, name in enumerate(PHOTOS):
        portrait = random_portrait(np.random.default_rng(number))
        draw_portrait(portrait, 240).save(folder / name, "JPEG", quality=90)
    (folder / BROKEN).write_bytes((folder / PHOTOS[0]).read_bytes()[:300])
    return {name: folder / name for name in [*PHOTOS, BROKEN]}


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[str]:
    """The address of a server whose scorer likes warm colours."""
    if not CHROMIUM:
        pytest.skip("install chromium to see the review desk as reviewers do")
    models = tmp_path_factory.mktemp("models")
    version = Path(channels.address(str(models), "portraits", 1))
    saved_model.export_litert(designed.scorer(intercept=4.5, warmth=7), version, "portraits", error=ERROR)
    (version / channels.COMPLETE).touch()
    integrity.write_record(version, {})
    channels.promote_pushed(str(models), "portraits", 1, why="the first")
    with servers.started(models, tmp_path_factory.mktemp("server"), "--workers", "1") as started:
        yield started.url


@pytest.fixture(scope="module")
def api(server, photos):
    """What the server itself says: ``api("rank", name, …)``, or of one photo ``api("advise", name)``."""

    def asked(path: str, *names: str) -> httpx.Response:
        part = "photo" if path.startswith(("advise", "explain")) else "photos"
        files = [(part, (name, photos[name].read_bytes())) for name in names]
        return httpx.post(f"{server}/{path}", files=files, timeout=30)

    return asked


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    if not CHROMIUM:
        pytest.skip("install chromium to see the review desk as reviewers do")
    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield started
        started.close()


@dataclass
class Desk:
    """A desk in the browser, and what went over its wires."""

    page: "object"
    photos: dict[str, Path]
    requests: list = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def add(self, *names: str) -> None:
        self.page.set_input_files("#files", [self.photos[name] for name in names])

    def scored(self) -> None:
        self.page.wait_for_selector("#results:not([hidden])")
        self.page.wait_for_selector("#progress", state="hidden")

    def names(self) -> list[str]:
        return self.page.locator("#list .name").all_text_contents()

    def open(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()
        self.page.wait_for_selector("#frame img")

    def asked(self, path: str) -> list:
        return [request for request in self.requests if request.url.split("?")[0].endswith(f"/{path}")]


@contextmanager
def sat_at(browser, server, photos, size=WIDE, scheme="light", refused=False, routes=None) -> Iterator[Desk]:
    """A desk in a window of its own; at the end it must have complained of nothing and asked no foreign host.

    With ``refused``, answers that refuse are no complaint; ``routes`` are what answers in the server's stead.
    """
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, reduced_motion="reduce"
    )
    context.add_init_script(LIVE)
    page = context.new_page()
    page.set_default_timeout(20_000)
    desk = Desk(page, photos)
    page.on("request", lambda request: desk.requests.append(request))
    page.on("pageerror", lambda error: desk.complaints.append(str(error)))
    page.on("console", lambda said: said.type in ("error", "warning") and desk.complaints.append(said.text))
    for pattern, handler in (routes or {}).items():
        page.route(pattern, handler)
    page.goto(server)
    yield desk
    context.close()
    assert [each for each in desk.complaints if not (refused and each.startswith("Failed to load resource"))] == []
    own = (f"{server}/", "blob:", "data:")
    assert [each.url for each in desk.requests if not each.url.startswith(own)] == []


@pytest.fixture(scope="module")
def desk(browser, server, photos):
    """Sits down at a new desk: see `sat_at`."""
    return partial(sat_at, browser, server, photos)


@pytest.fixture
def reviewed(desk, photos):
    """A desk on which all photos, and the broken file, have been scored."""
    with desk() as made:
        made.add(*photos)
        made.scored()
        yield made


# Scores and ranks


def test_photos_are_ranked_as_the_api_ranks_them(reviewed, api):
    order = api("rank", *PHOTOS).json()["order"]
    assert reviewed.names()[: len(PHOTOS)] == [each["name"] for each in order]
    shown = reviewed.page.locator(".row:not(.failed) .rank").evaluate_all("all => all.map(each => each.innerText)")
    ranks = [re.sub(r"\s|Rank|shared", "", each) for each in shown]
    assert ranks == [f"{each['rank']}{'=' if each['tied'] else ''}" for each in order]
    assert 1 < len({*ranks}) < len(PHOTOS)  # so that the order holds ties and steps


def test_a_broken_photo_fails_alone_with_the_words_of_the_api(reviewed, api):
    problem = api("score", BROKEN, PHOTOS[0]).json()["photos"][0]["problem"]
    row = reviewed.page.locator(".row.failed")
    assert row.locator(".name").text_content() == BROKEN
    assert row.locator(".notes").text_content().lower() == problem["detail"].lower()


def test_photos_with_broken_norms_are_told_apart_with_the_sentence(reviewed, api):
    told = {each["name"]: each["norms"] for each in api("score", *PHOTOS).json()["photos"]}
    broken = {name: [norm["sentence"] for norm in norms if norm["kept"] is False] for name, norms in told.items()}
    broken = {name: sentences for name, sentences in broken.items() if sentences}
    assert broken
    reviewed.page.click("[data-filter=broken]")
    assert {*reviewed.names()} == {*broken}
    for row in reviewed.page.locator(".row").all():
        assert row.locator(".wrong").all_text_contents() == broken[row.locator(".name").text_content()]


def test_photos_are_sent_in_batches_within_the_limits_two_at_a_time(desk):
    under_way, most = set(), []

    def about(route):
        answer = route.fetch()
        told = answer.json()
        route.fulfill(response=answer, json={**told, "limits": {**told["limits"], "photos": 2}})

    def begun(request):
        if request.url.endswith("/score"):
            under_way.add(request)
            most.append(len(under_way))

    with desk(routes={"**/about": about}) as made:
        made.page.on("request", begun)
        made.page.on("requestfinished", lambda request: under_way.discard(request))
        made.add(*PHOTOS)
        made.scored()
        sizes = [request.post_data_buffer.count(b'name="photos"') for request in made.asked("score")]
    assert max(sizes) == 2
    assert sum(sizes) == len(PHOTOS)
    assert max(most) == 2


def test_scoring_can_be_stopped_and_taken_up(desk):
    held = []
    with desk(routes={"**/score": lambda route: held.append(route)}, refused=True) as made:
        made.add(*PHOTOS)
        made.page.wait_for_selector("text=Being scored")
        made.page.click("#stop")
        made.page.wait_for_selector(f"text=Stopped: 0 of {len(PHOTOS)} photos scored")
        made.page.unroute("**/score")
        made.page.click("#stop")
        made.scored()
        assert made.page.locator(".row:not(.failed):not(.waiting)").count() == len(PHOTOS)


def test_a_busy_server_is_asked_again_when_it_says(desk):
    refusals = iter([{"status": 429, "headers": {"Retry-After": "1"}, "json": {"title": "Too Many Requests"}}])

    def score(route):
        refusal = next(refusals, None)
        route.fulfill(**refusal) if refusal else route.continue_()

    with desk(routes={"**/score": score}, refused=True) as made:
        made.add(PHOTOS[0])
        made.page.wait_for_selector("text=The server is busy and is asked again in 1 s")
        made.scored()
        assert made.page.locator(".row .score b").count() == 1
        assert len(made.asked("score")) == 2


def test_a_key_is_asked_for_and_kept_in_memory_only(desk):
    def locked(route):
        known = route.request.headers.get("authorization") == "Bearer open sesame"
        route.continue_() if known else route.fulfill(status=401, json={"detail": "expected a key"})

    with desk(routes={"**/about": locked, "**/score": locked}, refused=True) as made:
        for key in ("wrong", "open sesame"):
            made.page.fill("#key", key)
            made.page.keyboard.press("Enter")
            made.page.wait_for_selector("text=did not accept" if key == "wrong" else "#empty:not([hidden])")
        made.add(PHOTOS[0])
        made.scored()
        stored = "Object.keys(localStorage).length + Object.keys(sessionStorage).length + document.cookie.length"
        assert made.page.evaluate(stored) == 0
        made.page.reload()
        made.page.wait_for_selector("#locked[open]")


def test_photos_are_scored_for_the_job_that_is_chosen(desk):
    def about(route):
        answer = route.fetch()
        route.fulfill(response=answer, json={**answer.json(), "jobs": ["tutor"]})

    with desk(routes={"**/about": about}) as made:
        made.add(PHOTOS[0])
        made.scored()
        with made.page.expect_response("**/score") as answered:
            made.page.select_option("#job", "tutor")
        assert answered.value.json()["job"] == "tutor"
        assert b'name="job"' not in made.asked("score")[0].post_data_buffer


def test_scores_of_two_versions_are_told_not_to_compare(desk, api):
    told = api("score", PHOTOS[0]).json()
    versions = iter([1, 2, 2])

    def score(route):
        photos = told["photos"] * route.request.post_data_buffer.count(b'name="photos"')
        route.fulfill(json={**told, "model": {"name": "portraits", "version": next(versions)}, "photos": photos})

    with desk(routes={"**/score": score}) as made:
        made.add(PHOTOS[0])
        made.scored()
        assert not made.page.is_visible("#mixed")
        made.add(PHOTOS[1])
        made.page.wait_for_selector("text=Versions 1 and 2 of the model")
        made.page.click("#anew")
        made.page.wait_for_selector("#mixed", state="hidden")
        made.scored()
        assert made.page.locator(".row .score b").count() == 2
        assert not made.page.is_visible("#mixed")


def test_a_model_that_knows_no_jobs_is_asked_for_none(reviewed):
    assert not reviewed.page.is_visible("#job")


def test_photos_are_dropped_and_pasted(desk, photos):
    give = """([kind, data]) => {
      const given = new DataTransfer();
      const bytes = Uint8Array.from(atob(data), each => each.charCodeAt(0));
      given.items.add(new File([bytes], "image.png", { type: "image/png" }));
      const event = kind === "drop" ? new DragEvent(kind, { dataTransfer: given, bubbles: true, cancelable: true })
        : new ClipboardEvent(kind, { clipboardData: given, bubbles: true });
      document.body.dispatchEvent(event);
    }"""
    with desk() as made:
        made.page.wait_for_selector("#empty:not([hidden])")
        for kind, name in [("drop", PHOTOS[0]), ("paste", PHOTOS[1])]:
            made.page.evaluate(give, [kind, base64.b64encode(photos[name].read_bytes()).decode()])
        made.page.wait_for_selector(".name:has-text('pasted')")
        made.scored()
        assert sorted(made.names()) == ["image.png", "pasted-1.png"]


def test_photos_that_come_before_the_server_has_answered_are_not_lost(desk):
    held = []
    with desk(routes={"**/about": lambda route: held.append(route)}) as made:
        made.add(PHOTOS[0])
        while not held:
            made.page.wait_for_timeout(1)  # until the browser's request has come through
        held.pop().continue_()
        made.scored()
        assert made.names() == [PHOTOS[0]]


# One photo


def test_the_heat_map_is_reached_by_keyboard_alone(reviewed):
    page, first = reviewed.page, reviewed.names()[0]
    focused = "document.activeElement.textContent.trim()"
    page.locator("#add").focus()
    presses = iter(range(20))
    while page.evaluate(focused) != first:
        assert next(presses, None) is not None, "the first photo is not reached"
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("#frame img")
    while page.evaluate(focused) != "Heat map":
        assert next(presses, None) is not None, "the heat map is not reached"
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    image = page.wait_for_selector(f"#frame img[alt='Heat map over {first}']")
    assert image.evaluate("each => each.naturalWidth") == 240
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0
    page.wait_for_function(f"name => {focused} === name", arg=first)


def test_a_map_is_fetched_when_it_is_looked_at_and_once(reviewed):
    page = reviewed.page
    reviewed.open(PHOTOS[0])
    assert not reviewed.asked("explain")
    for view in ("heat", "photo", "heat"):
        page.click(f"[data-view={view}]")
        page.wait_for_selector("#frame img[alt^=Heat]" if view == "heat" else "#frame img:not([alt^=Heat])")
    assert len(reviewed.asked("explain")) == 1


def test_arrow_keys_go_through_the_photos_and_the_focus_comes_back_to_the_last(reviewed):
    page, names = reviewed.page, reviewed.names()
    reviewed.open(names[0])
    for key, place in [("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1)]:
        page.keyboard.press(key)
        assert page.text_content("#opened-name") == names[place]
    page.keyboard.press("Escape")
    page.wait_for_function("name => document.activeElement.textContent === name", arg=names[1])


def test_advice_is_shown_before_and_after_as_the_api_gives_it(reviewed, api):
    page, name = reviewed.page, reviewed.names()[-2]  # the lowest score gains most
    told = api("advise", name).json()
    assert told["advice"]
    reviewed.open(name)
    page.wait_for_selector(".edits button")
    sentences = [*([told["together"]["sentence"]] if told["together"] else [])]
    sentences += [edit["sentence"] for edit in told["advice"]]
    assert page.locator(".edits span").all_text_contents() == sentences
    assert page.locator("#advice dd").all_text_contents() == [edit["reason"] for edit in told["refused"]]
    page.locator(".edits button").last.press("Enter")
    slider = page.wait_for_selector("#frame input")
    assert page.locator("#frame img").count() == 2
    assert page.get_attribute("#frame img.part", "src") == told["advice"][-1]["preview"]
    before = [f"Before {told['mean']:.1f}", f"After {told['advice'][-1]['mean']:.1f}"]
    assert page.locator("#frame .label").all_text_contents() == before
    shown = "document.querySelector('#frame .part').computedStyleMap().get('clip-path').toString()"
    half = page.evaluate(shown)
    slider.press("ArrowLeft")
    assert page.text_content("#opened-name") == name  # the arrows moved the line, not the photos
    assert half == "inset(0px 0px 0px 50%)"
    assert page.evaluate(shown) == "inset(0px 0px 0px 49%)"


def test_a_photo_that_the_browser_cannot_show_has_its_format_and_its_map(desk, photos, tmp_path):
    with Image.open(photos[PHOTOS[0]]) as image:
        pillow_heif.from_pillow(image).save(tmp_path / "phone.heic")
    with desk() as made:
        made.page.set_input_files("#files", tmp_path / "phone.heic")
        made.scored()
        made.page.wait_for_selector(".thumbnail:has-text('HEIC')")
        made.open("phone.heic")
        assert made.page.locator("#frame img[alt^='Heat map']").count() == 1


# What is taken along


def test_the_table_holds_the_ranking_and_no_formula(reviewed, api):
    with reviewed.page.expect_download() as download:
        reviewed.page.click("#download")
    text = Path(download.value.path()).read_bytes().decode("utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(text)))
    order = api("rank", *PHOTOS).json()["order"]
    scores = {each["name"]: each for each in api("score", *PHOTOS).json()["photos"]}
    assert download.value.suggested_filename == "portraits-v1-ranking.csv"
    assert [row["name"] for row in rows] == [f"'{FORMULA}" if name == FORMULA else name for name in reviewed.names()]
    for row, place in zip(rows, order, strict=False):
        score = scores[place["name"]]
        figures = [place["rank"], score["mean"], ERROR, score["std"], *score["distribution"]]
        columns = ["rank", "mean", "uncertainty", "std", *(f"p{vote}" for vote in range(1, 11))]
        assert [float(row[column]) for column in columns] == pytest.approx(figures, abs=6e-5)
        assert row["broken_norms"].split() == [norm["key"] for norm in score["norms"] if norm["kept"] is False]
        assert (row["face"], row["error"]) == ("", "")  # no detector looked for faces
    assert (rows[-1]["mean"], rows[-1]["rank"]) == ("", "")
    assert rows[-1]["error"]


def test_nothing_is_kept_of_photos_that_are_gone(reviewed):
    reviewed.open(PHOTOS[0])
    reviewed.page.click("[data-view=heat]")
    reviewed.page.wait_for_selector("#frame img[alt^=Heat]")
    reviewed.page.keyboard.press("Escape")
    assert reviewed.page.evaluate("window.live.size") > len(PHOTOS)
    reviewed.page.click("#clear")
    assert reviewed.page.evaluate("window.live.size") == 0
    assert reviewed.page.is_visible("#choose")


# How it looks


@dataclass
class Seen:
    """What is measured of the empty desk, the list and an opened photo."""

    size: tuple[int, int]
    scheme: str
    widths: list[int]
    texts: list[dict]


@pytest.fixture(scope="module", params=[(WIDE, "light"), (PHONE, "dark")], ids=["wide-light", "phone-dark"])
def seen(request, desk, photos) -> Seen:
    size, scheme = request.param
    found = Seen(size, scheme, [], [])

    def look(page) -> None:
        found.widths.append(page.evaluate(WIDTH))
        found.texts += page.evaluate(TEXTS)

    with desk(size, scheme) as made:
        made.page.wait_for_selector("#empty:not([hidden])")
        look(made.page)
        made.add(*photos)
        made.scored()
        look(made.page)
        made.open(PHOTOS[0])
        made.page.wait_for_selector("#advice > :not(.quiet)")
        look(made.page)
    return found


def test_nobody_has_to_scroll_sideways(seen):
    assert max(seen.widths) <= seen.size[0]


def test_every_text_is_legible(seen):
    assert len(seen.texts) > 60
    assert [each for each in seen.texts if contrast(each["text"], each["ground"]) < 4.5] == []  # WCAG 2.2, AA


def test_the_desk_is_as_light_or_dark_as_the_system(seen):
    assert (contrast(seen.texts[0]["ground"], [0, 0, 0]) < 2) == (seen.scheme == "dark")


def contrast(one: list[int], other: list[int]) -> float:
    """Of two sRGB colours, from 1 to 21 (WCAG 2.2, contrast ratio)."""

    def luminance(colour: list[int]) -> float:
        values = np.array(colour) / 255
        linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)
