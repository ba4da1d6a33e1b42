"""The review desk in headless Chromium, on the whole server with a tiny published version."""

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

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
OPTIONS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]  # fmt: skip
WIDE, PHONE = (1200, 900), (390, 844)
ERROR = 0.3  # of the scorer, points: large enough for ties among these photos, too small to tie them all
FORMULA = "=1+1 café.jpg"  # a name that a spreadsheet would compute, and that is not ASCII
BROKEN = "broken.jpg"
PHOTOS = [*(f"portrait {number}.jpg" for number in range(5)), FORMULA]

LIVE = """
window.live = new Set();
const create = URL.createObjectURL, revoke = URL.revokeObjectURL;
URL.createObjectURL = given => { const url = create.call(URL, given); window.live.add(url); return url; };
URL.revokeObjectURL = url => { window.live.delete(url); revoke.call(URL, url); };
"""
"""Counts the object URLs that the page has not revoked."""

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
"""Every visible text, its colour and its background."""

WIDTH = """
Math.max(...[...document.querySelectorAll("html, dialog[open], dialog[open] *")].map(each =>
  getComputedStyle(each).textOverflow === "ellipsis" || each.matches(".unseen")
    ? 0 : Math.max(each.scrollWidth, each.getBoundingClientRect().right)))
"""
"""Pixels needed from left to right; an ellipsis needs none."""


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> dict[str, Path]:
    """Return drawn portraits and one broken file, by name."""
    folder = tmp_path_factory.mktemp("photos")
    for number, name in enumerate(PHOTOS):
        portrait = random_portrait(np.random.default_rng(number))
        draw_portrait(portrait, 240).save(folder / name, "JPEG", quality=90)
    (folder / BROKEN).write_bytes((folder / PHOTOS[0]).read_bytes()[:300])
    return {name: folder / name for name in [*PHOTOS, BROKEN]}


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[str]:
    """Return the address of a server whose scorer prefers warm colours."""
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
    """Return a function that asks the server: ``api("rank", name, …)``, or for one photo ``api("advise", name)``."""

    def ask(path: str, *names: str) -> httpx.Response:
        part = "photo" if path.startswith(("advise", "explain")) else "photos"
        files = [(part, (name, photos[name].read_bytes())) for name in names]
        return httpx.post(f"{server}/{path}", files=files, timeout=30)

    return ask


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
    """A desk in the browser and the requests it sent."""

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
    """Open a desk in its own window; at the end, require no browser errors and no requests to other hosts.

    Args:
        browser: The browser.
        server: Address of the server.
        photos: Files by name.
        size: Width and height of the window, pixels.
        scheme: Colour scheme, light or dark.
        refused: Whether refused requests are allowed in the browser's log.
        routes: Handlers that answer in place of the server, by URL pattern."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, reduced_motion="reduce"
    )
    context.add_init_script(LIVE)
    page = context.new_page()
    page.set_default_timeout(20_000)
    desk = Desk(page, photos)
    page.on("request", lambda request: desk.requests.append(request))
    page.on("pageerror", lambda error: desk.complaints.append(str(error)))
    page.on("console", lambda message: message.type in ("error", "warning") and desk.complaints.append(message.text))
    for pattern, handler in (routes or {}).items():
        page.route(pattern, handler)
    page.goto(server)
    yield desk
    context.close()
    assert [
        complaint for complaint in desk.complaints if not (refused and complaint.startswith("Failed to load resource"))
    ] == []
    allowed = (f"{server}/", "blob:", "data:")
    assert [request.url for request in desk.requests if not request.url.startswith(allowed)] == []


@pytest.fixture(scope="module")
def desk(browser, server, photos):
    """Return `sat_at` for this browser and server."""
    return partial(sat_at, browser, server, photos)


@pytest.fixture
def reviewed(desk, photos):
    """Open a desk on which all photos and the broken file have been scored."""
    with desk() as session:
        session.add(*photos)
        session.scored()
        yield session


# Scores and ranks


def test_photos_are_ranked_as_the_api_ranks_them(reviewed, api):
    order = api("rank", *PHOTOS).json()["order"]
    assert reviewed.names()[: len(PHOTOS)] == [entry["name"] for entry in order]
    rank_texts = reviewed.page.locator(".row:not(.failed) .rank").evaluate_all("all => all.map(each => each.innerText)")
    ranks = [re.sub(r"\s|Rank|shared", "", text) for text in rank_texts]
    assert ranks == [f"{entry['rank']}{'=' if entry['tied'] else ''}" for entry in order]
    assert 1 < len({*ranks}) < len(PHOTOS)  # so that the order has both ties and steps


def test_a_broken_photo_fails_alone_with_the_apis_message(reviewed, api):
    problem = api("score", BROKEN, PHOTOS[0]).json()["photos"][0]["problem"]
    row = reviewed.page.locator(".row.failed")
    assert row.locator(".name").text_content() == BROKEN
    assert row.locator(".notes").text_content().lower() == problem["detail"].lower()


def test_the_filter_for_broken_norms_shows_these_photos_with_their_sentences(reviewed, api):
    norms_by_photo = {photo["name"]: photo["norms"] for photo in api("score", *PHOTOS).json()["photos"]}
    broken = {
        name: [norm["sentence"] for norm in norms if norm["kept"] is False] for name, norms in norms_by_photo.items()
    }
    broken = {name: sentences for name, sentences in broken.items() if sentences}
    assert broken
    reviewed.page.click("[data-filter=broken]")
    assert {*reviewed.names()} == {*broken}
    for row in reviewed.page.locator(".row").all():
        assert row.locator(".wrong").all_text_contents() == broken[row.locator(".name").text_content()]


def test_photos_are_sent_in_batches_within_the_limit_two_batches_at_a_time(desk):
    running, concurrency = set(), []

    def about(route):
        answer = route.fetch()
        metadata = answer.json()
        route.fulfill(response=answer, json={**metadata, "limits": {**metadata["limits"], "photos": 2}})

    def begun(request):
        if request.url.endswith("/score"):
            running.add(request)
            concurrency.append(len(running))

    with desk(routes={"**/about": about}) as session:
        session.page.on("request", begun)
        session.page.on("requestfinished", lambda request: running.discard(request))
        session.add(*PHOTOS)
        session.scored()
        sizes = [request.post_data_buffer.count(b'name="photos"') for request in session.asked("score")]
    assert max(sizes) == 2
    assert sum(sizes) == len(PHOTOS)
    assert max(concurrency) == 2


def test_scoring_can_be_stopped_and_resumed(desk):
    pending = []
    with desk(routes={"**/score": lambda route: pending.append(route)}, refused=True) as session:
        session.add(*PHOTOS)
        session.page.wait_for_selector("text=Being scored")
        session.page.click("#stop")
        session.page.wait_for_selector(f"text=Stopped: 0 of {len(PHOTOS)} photos scored")
        session.page.unroute("**/score")
        session.page.click("#stop")
        session.scored()
        assert session.page.locator(".row:not(.failed):not(.waiting)").count() == len(PHOTOS)


def test_a_busy_server_is_asked_again_after_its_retry_after(desk):
    refusals = iter([{"status": 429, "headers": {"Retry-After": "1"}, "json": {"title": "Too Many Requests"}}])

    def score(route):
        refusal = next(refusals, None)
        route.fulfill(**refusal) if refusal else route.continue_()

    with desk(routes={"**/score": score}, refused=True) as session:
        session.add(PHOTOS[0])
        session.page.wait_for_selector("text=The server is busy and is asked again in 1 s")
        session.scored()
        assert session.page.locator(".row .score b").count() == 1
        assert len(session.asked("score")) == 2


def test_the_key_is_asked_for_and_kept_in_memory_only(desk):
    def locked(route):
        authorized = route.request.headers.get("authorization") == "Bearer open sesame"
        route.continue_() if authorized else route.fulfill(status=401, json={"detail": "expected a key"})

    with desk(routes={"**/about": locked, "**/score": locked}, refused=True) as session:
        for key in ("wrong", "open sesame"):
            session.page.fill("#key", key)
            session.page.keyboard.press("Enter")
            session.page.wait_for_selector("text=did not accept" if key == "wrong" else "#empty:not([hidden])")
        session.add(PHOTOS[0])
        session.scored()
        stored = "Object.keys(localStorage).length + Object.keys(sessionStorage).length + document.cookie.length"
        assert session.page.evaluate(stored) == 0
        session.page.reload()
        session.page.wait_for_selector("#locked[open]")


def test_photos_are_scored_for_the_chosen_job(desk):
    def about(route):
        answer = route.fetch()
        route.fulfill(response=answer, json={**answer.json(), "jobs": ["tutor"]})

    with desk(routes={"**/about": about}) as session:
        session.add(PHOTOS[0])
        session.scored()
        with session.page.expect_response("**/score") as response:
            session.page.select_option("#job", "tutor")
        assert response.value.json()["job"] == "tutor"
        assert b'name="job"' not in session.asked("score")[0].post_data_buffer


def test_scores_of_two_versions_show_a_warning_until_they_are_scored_again(desk, api):
    answer = api("score", PHOTOS[0]).json()
    versions = iter([1, 2, 2])

    def score(route):
        photos = answer["photos"] * route.request.post_data_buffer.count(b'name="photos"')
        route.fulfill(json={**answer, "model": {"name": "portraits", "version": next(versions)}, "photos": photos})

    with desk(routes={"**/score": score}) as session:
        session.add(PHOTOS[0])
        session.scored()
        assert not session.page.is_visible("#mixed")
        session.add(PHOTOS[1])
        session.page.wait_for_selector("text=Versions 1 and 2 of the model")
        session.page.click("#anew")
        session.page.wait_for_selector("#mixed", state="hidden")
        session.scored()
        assert session.page.locator(".row .score b").count() == 2
        assert not session.page.is_visible("#mixed")


def test_the_job_choice_is_hidden_if_the_model_knows_no_jobs(reviewed):
    assert not reviewed.page.is_visible("#job")


def test_photos_can_be_dropped_and_pasted(desk, photos):
    script = """([kind, data]) => {
      const given = new DataTransfer();
      const bytes = Uint8Array.from(atob(data), each => each.charCodeAt(0));
      given.items.add(new File([bytes], "image.png", { type: "image/png" }));
      const event = kind === "drop" ? new DragEvent(kind, { dataTransfer: given, bubbles: true, cancelable: true })
        : new ClipboardEvent(kind, { clipboardData: given, bubbles: true });
      document.body.dispatchEvent(event);
    }"""
    with desk() as session:
        session.page.wait_for_selector("#empty:not([hidden])")
        for kind, name in [("drop", PHOTOS[0]), ("paste", PHOTOS[1])]:
            session.page.evaluate(script, [kind, base64.b64encode(photos[name].read_bytes()).decode()])
        session.page.wait_for_selector(".name:has-text('pasted')")
        session.scored()
        assert sorted(session.names()) == ["image.png", "pasted-1.png"]


def test_photos_added_before_the_server_answers_are_scored(desk):
    pending = []
    with desk(routes={"**/about": lambda route: pending.append(route)}) as session:
        session.add(PHOTOS[0])
        while not pending:
            session.page.wait_for_timeout(1)  # until the browser's request has arrived
        pending.pop().continue_()
        session.scored()
        assert session.names() == [PHOTOS[0]]


# One photo


def test_the_heat_map_can_be_reached_by_keyboard_alone(reviewed):
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


def test_a_heat_map_is_fetched_once_when_first_shown(reviewed):
    page = reviewed.page
    reviewed.open(PHOTOS[0])
    assert not reviewed.asked("explain")
    for view in ("heat", "photo", "heat"):
        page.click(f"[data-view={view}]")
        page.wait_for_selector("#frame img[alt^=Heat]" if view == "heat" else "#frame img:not([alt^=Heat])")
    assert len(reviewed.asked("explain")) == 1


def test_arrow_keys_go_through_the_photos_and_closing_focuses_the_last_one(reviewed):
    page, names = reviewed.page, reviewed.names()
    reviewed.open(names[0])
    for key, index in [("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1)]:
        page.keyboard.press(key)
        assert page.text_content("#opened-name") == names[index]
    page.keyboard.press("Escape")
    page.wait_for_function("name => document.activeElement.textContent === name", arg=names[1])


def test_advice_is_shown_before_and_after_as_the_api_returns_it(reviewed, api):
    page, name = reviewed.page, reviewed.names()[-2]  # the lowest score gains most
    answer = api("advise", name).json()
    assert answer["advice"]
    reviewed.open(name)
    page.wait_for_selector(".edits button")
    sentences = [*([answer["together"]["sentence"]] if answer["together"] else [])]
    sentences += [edit["sentence"] for edit in answer["advice"]]
    assert page.locator(".edits span").all_text_contents() == sentences
    assert page.locator("#advice dd").all_text_contents() == [edit["reason"] for edit in answer["refused"]]
    page.locator(".edits button").last.press("Enter")
    slider = page.wait_for_selector("#frame input")
    assert page.locator("#frame img").count() == 2
    assert page.get_attribute("#frame img.part", "src") == answer["advice"][-1]["preview"]
    before = [f"Before {answer['mean']:.1f}", f"After {answer['advice'][-1]['mean']:.1f}"]
    assert page.locator("#frame .label").all_text_contents() == before
    clip_path = "document.querySelector('#frame .part').computedStyleMap().get('clip-path').toString()"
    half = page.evaluate(clip_path)
    slider.press("ArrowLeft")
    assert page.text_content("#opened-name") == name  # the arrow moved the line and not the photos
    assert half == "inset(0px 0px 0px 50%)"
    assert page.evaluate(clip_path) == "inset(0px 0px 0px 49%)"


def test_a_photo_the_browser_cannot_show_has_its_format_and_heat_map(desk, photos, tmp_path):
    with Image.open(photos[PHOTOS[0]]) as image:
        pillow_heif.from_pillow(image).save(tmp_path / "phone.heic")
    with desk() as session:
        session.page.set_input_files("#files", tmp_path / "phone.heic")
        session.scored()
        session.page.wait_for_selector(".thumbnail:has-text('HEIC')")
        session.open("phone.heic")
        assert session.page.locator("#frame img[alt^='Heat map']").count() == 1


# Downloads


def test_the_downloaded_table_holds_the_ranking_and_no_formula(reviewed, api):
    with reviewed.page.expect_download() as download:
        reviewed.page.click("#download")
    text = Path(download.value.path()).read_bytes().decode("utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(text)))
    order = api("rank", *PHOTOS).json()["order"]
    scores = {photo["name"]: photo for photo in api("score", *PHOTOS).json()["photos"]}
    assert download.value.suggested_filename == "portraits-v1-ranking.csv"
    assert [row["name"] for row in rows] == [f"'{FORMULA}" if name == FORMULA else name for name in reviewed.names()]
    for row, entry in zip(rows, order, strict=False):
        scores_of_photo = scores[entry["name"]]
        figures = [
            entry["rank"],
            scores_of_photo["mean"],
            ERROR,
            scores_of_photo["std"],
            *scores_of_photo["distribution"],
        ]
        columns = ["rank", "mean", "uncertainty", "std", *(f"p{vote}" for vote in range(1, 11))]
        assert [float(row[column]) for column in columns] == pytest.approx(figures, abs=6e-5)
        assert row["broken_norms"].split() == [
            norm["key"] for norm in scores_of_photo["norms"] if norm["kept"] is False
        ]
        assert (row["face"], row["error"]) == ("", "")  # no detector looked for faces
    assert (rows[-1]["mean"], rows[-1]["rank"]) == ("", "")
    assert rows[-1]["error"]


def test_clearing_the_photos_revokes_their_object_urls(reviewed):
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
    """Measurements of the empty desk, the list and an opened photo."""

    size: tuple[int, int]
    scheme: str
    widths: list[int]
    texts: list[dict]


@pytest.fixture(scope="module", params=[(WIDE, "light"), (PHONE, "dark")], ids=["wide-light", "phone-dark"])
def seen(request, desk, photos) -> Seen:
    size, scheme = request.param
    measured = Seen(size, scheme, [], [])

    def measure(page) -> None:
        measured.widths.append(page.evaluate(WIDTH))
        measured.texts += page.evaluate(TEXTS)

    with desk(size, scheme) as session:
        session.page.wait_for_selector("#empty:not([hidden])")
        measure(session.page)
        session.add(*photos)
        session.scored()
        measure(session.page)
        session.open(PHOTOS[0])
        session.page.wait_for_selector("#advice > :not(.quiet)")
        measure(session.page)
    return measured


def test_no_page_scrolls_sideways(seen):
    assert max(seen.widths) <= seen.size[0]


def test_every_text_has_enough_contrast(seen):
    assert len(seen.texts) > 60
    assert [text for text in seen.texts if contrast(text["text"], text["ground"]) < 4.5] == []  # WCAG 2.2, AA


def test_the_desk_follows_the_systems_colour_scheme(seen):
    assert (contrast(seen.texts[0]["ground"], [0, 0, 0]) < 2) == (seen.scheme == "dark")


def contrast(one: list[int], other: list[int]) -> float:
    """Return the contrast ratio of two sRGB colours, 1 to 21 (WCAG 2.2)."""

    def luminance(colour: list[int]) -> float:
        values = np.array(colour) / 255
        linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)
