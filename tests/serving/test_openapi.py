"""The OpenAPI document agrees with what the server accepts and answers."""

import asyncio
import base64
import json
import re
from dataclasses import replace

import pytest

from components.scorer.advice import search
from components.scorer.advice.search import Advice, CombinedSuggestion, RejectedEdit, Suggestion
from components.scorer.faces import geometry
from components.scorer.faces.analyzer import FaceAnalyzer
from images.serving.http import openapi, schemas
from images.serving.inference.version_manager import LoadedVersion
from images.serving.problem_details import MEDIA_TYPE
from images.serving.process import nginx
from images.serving.protocols import portrait_api
from images.serving.settings import ServerSettings, key_digests
from tests.builders.servers import Here, as_told, models_of, strictly
from tests.conftest import drawn_photo

pytestmark = pytest.mark.slow

PHOTO = drawn_photo(0.6, seed=1, size=(90, 120))
BROKEN = PHOTO[:200]
B64 = {"b64": base64.b64encode(PHOTO).decode()}
PREDICT, INFER = "/v1/models/{name}:predict", "/v2/models/{name}/infer"
JSON, LINES = "application/json", "application/jsonlines"
SETTINGS = ServerSettings(workers=1, photos=4, body=200_000, seconds=20.0)


@pytest.fixture(scope="module")
def here(small_models):
    with Here(replace(SETTINGS, model=str(small_models))) as started:
        yield started


@pytest.fixture(scope="module")
def document(here):
    return here.get("/openapi.json").json()


def contents(document: dict) -> list[tuple[str, str, dict]]:
    """Return all request bodies and answers: their location, media type and description."""
    content = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for status, message in {"body": operation.get("requestBody", {}), **operation["responses"]}.items():
                content += [
                    (f"{method} {path} {status}", *description) for description in message.get("content", {}).items()
                ]
    return content


# Answers in each state


def post(here, path: str, **options):
    return here.post(path.format(name="portraits"), **options)


@pytest.mark.parametrize(
    ("path", "options"),
    [
        (PREDICT, {"json": {"inputs": {"image_bytes": [B64], "job": ["tutor"]}, "signature_name": "with_job"}}),
        (PREDICT, {"json": {"inputs": [{"image_bytes": B64}]}}),
        ("/invocations", {"json": {"inputs": [B64]}}),
        ("/invocations", {"content": b'{"b64": ""}\n' + json.dumps(B64).encode(),
                          "headers": {"content-type": LINES, "accept": JSON}}),
        ("/invocations", {"content": PHOTO, "headers": {"content-type": "image/jpeg"}}),
        ("/score", {"files": [("photos", PHOTO), ("photos", BROKEN)], "data": {"job": "tutor"}}),
        ("/rank", {"files": [("photos", PHOTO), ("photos", BROKEN)], "data": {"job": "tutor"}}),
        ("/score", {"files": [("photos", BROKEN)]}),
        ("/rank", {"files": [("photos", BROKEN)]}),
    ],
)  # fmt: skip
def test_answers_in_another_format_match_their_schemas(here, document, path, options):
    as_told(document, path, post(here, path, **options))


def test_json_before_binary_tensors_matches_its_schema(here):
    tensor = {"name": "image_bytes", "shape": [1], "datatype": "BYTES", "data": [B64["b64"]]}
    body = {"id": "7", "inputs": [tensor], "outputs": [{"name": "mean", "parameters": {"binary_data": True}}]}
    strictly(json.dumps(body).encode(), schemas.Infer)
    answer = post(here, INFER, json=body)
    head = strictly(answer.content[: int(answer.headers["inference-header-content-length"])], schemas.Inferred)
    assert (head["id"], head["outputs"][0]["parameters"]) == ("7", {"binary_data_size": 4})


def test_json_lines_are_scores_or_problems(here):
    body = json.dumps(B64).encode() + b"\n{"
    answer = here.post("/invocations", content=body, headers={"content-type": LINES})
    scores, failed = answer.content.splitlines()
    strictly(scores, schemas.Scores)
    assert strictly(failed, schemas.FailedLine)["problem"]["status"] == 400


def test_answers_of_a_version_with_jobs_and_faces_match_their_schemas(here, document, monkeypatch):
    class Detector:
        sha256 = ""
        faces = (geometry.Face(geometry.Box(0.3, 0.2, 0.4, 0.4), ((0.4, 0.3),) * 5, 0.98),)

        def find(self, image):
            return list(self.faces)

    detector, loaded = Detector(), here.state.version_manager.current
    monkeypatch.setattr(LoadedVersion, "jobs", property(lambda self: ("tutor", "carer")))
    monkeypatch.setattr(loaded, "scorer", replace(loaded.scorer, face_analyzer=FaceAnalyzer(detector)))
    for path in ("/v1/models/{name}/metadata", "/v2/models/{name}", "/about"):
        as_told(document, path, here.get(path.format(name="portraits")))
    (photo,) = as_told(document, "/score", post(here, "/score", files={"photos": PHOTO}))["photos"]
    assert photo["face"]["found"]
    detector.faces = ()
    (photo,) = as_told(document, "/score", post(here, "/score", files={"photos": PHOTO}))["photos"]
    assert photo["face"]["box"] is None


def test_advice_of_every_kind_matches_its_schema(here, document, monkeypatch):
    suggestion = Suggestion("brightness", 0.5, "stops", 0.6, 0.05, 6.9, "Brighten it.", b"jpeg")
    combined = CombinedSuggestion({"brightness": 0.5, "crop": 10.0}, 0.7, 0.05, 7.0, "Do both.", b"jpeg")
    rejected = (
        RejectedEdit("crop", 10.0, "noise", "It is noise."),
        RejectedEdit("straighten", None, "unfit", "There is none."),
    )
    monkeypatch.setattr(search, "advise", lambda *_, **__: Advice(6.3, 0.1, (suggestion,), combined, rejected, 9))
    advice = as_told(document, "/advise", post(here, "/advise", files={"photo": PHOTO}))
    assert advice["together"]["settings"] == combined.settings


@pytest.mark.parametrize("path", ["/ready", "/v2/health/ready", "/v1/models/{name}", "/about"])
def test_answers_without_a_loaded_version_match_their_schemas(here, document, monkeypatch, path):
    monkeypatch.setattr(here.state.version_manager, "current", None)
    answer = here.get(path.format(name="portraits"))
    assert answer.status_code == 503
    as_told(document, path, answer)


# Problems


async def slowly():
    yield b"x"
    await asyncio.sleep(30)


class Unread:
    async def __aiter__(self):
        raise AssertionError("the body was read")
        yield b""


FORM = {"content-type": "multipart/form-data; boundary=x"}
PROVOKED = {
    "not-json": lambda here: post(here, PREDICT, content=b"this is no JSON.."),
    "broken-form": lambda here: here.post("/score", content=b"nothing of it" * 999, headers=FORM),
    "key": lambda here: here.get("/about"),
    "unknown-model": lambda here: here.get("/v1/models/faces"),
    "unknown-label": lambda here: here.post("/v1/models/portraits/labels/challenger:predict"),
    "unknown-version": lambda here: here.get("/v1/models/portraits/versions/2"),
    "not-acceptable": lambda here: here.post(
        "/invocations", content=PHOTO, headers={"content-type": "image/jpeg", "accept": "text/html"}
    ),
    "slow-body": lambda here: post(here, PREDICT, content=slowly()),
    "no-maps": lambda here: here.post("/explain", files={"photo": PHOTO}),
    "body-too-large": lambda here: post(here, PREDICT, content=Unread(), headers={"content-length": "200001"}),
    "too-many-photos": lambda here: here.post("/score", files=[("photos", PHOTO)] * 5),
    "media-type": lambda here: here.post("/score", content=PHOTO, headers={"content-type": "text/plain"}),
    "content-encoding": lambda here: post(here, PREDICT, content=b"x", headers={"content-encoding": "gzip"}),
    "host": lambda here: here.get("/about", headers={"host": "stranger.example"}),
    "unknown-field": lambda here: here.post("/score", files={"picture": PHOTO}),
    "unknown-job": lambda here: post(here, PREDICT, json={"instances": [{**B64, "job": "pilot"}]}),
    "not-ready": lambda here: here.get("/about"),
}
STATES = {"key": {"keys": key_digests(["key"])}, "slow-body": {"seconds": 0.2}}


@pytest.mark.parametrize("kind", PROVOKED)
def test_the_example_of_a_problem_is_what_the_server_answers_except_for_numbers(here, small_models, monkeypatch, kind):
    monkeypatch.setattr(LoadedVersion, "jobs", property(lambda self: ("tutor", "child care")))
    if kind == "no-maps":
        monkeypatch.setattr(portrait_api, "_MAP_OUTPUTS", {"heat": "none"})
    if kind == "not-ready":
        monkeypatch.setattr(here.state.version_manager, "current", None)
    if kind in STATES:
        with Here(replace(SETTINGS, model=str(small_models), **STATES[kind])) as server:
            answer = PROVOKED[kind](server)
    else:
        answer = PROVOKED[kind](here)
    strictly(answer.content, schemas.Problem)
    numbers = re.compile(rb"[\d.]+")
    example = json.dumps(openapi.EXAMPLE_PROBLEMS[kind].to_document(), separators=(",", ":")).encode()
    assert numbers.sub(b"N", answer.content) == numbers.sub(b"N", example)


def test_the_example_of_an_unreadable_photo_is_what_the_server_answers(here):
    photos = [("photos", PHOTO), ("photos", PHOTO[: len(PHOTO) * 9 // 10])]
    assert here.post("/score", files=photos).json()["photos"][1]["problem"] == schemas.UNREADABLE_EXAMPLE


def test_the_example_of_a_404_names_what_the_route_names(document):
    for location, _, description in contents(document):
        if location.endswith(" 404"):
            kind = next(name for name in ("label", "version", "model") if f"/{name}s/{{" in location)
            assert description["example"]["type"].endswith(f":unknown-{kind}"), location


def test_the_example_of_429_is_what_nginx_answers():
    assert {*PROVOKED, "busy"} == set(openapi.EXAMPLE_PROBLEMS)
    example = json.dumps(openapi.EXAMPLE_PROBLEMS["busy"].to_document(), separators=(",", ":"))
    assert example in nginx.configuration(ServerSettings(run="/tmp/run"), nginx.FRONT)


def test_each_error_has_an_example_of_its_own_status(document):
    for location, _, description in contents(document):
        if "detail" in description.get("example", ""):
            assert location.endswith(f" {description['example']['status']}"), location


# Examples


def test_every_json_has_an_example_that_matches_its_schema(document):
    for location, media, description in contents(document):
        if media in (JSON, MEDIA_TYPE):
            assert models_of(description["schema"]), location
            strictly(json.dumps(description["example"]).encode(), *models_of(description["schema"]))


def test_json_lines_have_a_one_line_example_that_matches_its_schema(document):
    examples = {
        location: description["example"] for location, media, description in contents(document) if media == LINES
    }
    strictly(examples.pop("post /invocations body"), schemas.Named)
    strictly(examples.pop("post /invocations 200"), schemas.Scores)
    assert not examples


def test_the_example_of_a_request_is_answered(here, document):
    tried = 0
    for path, operations in document["paths"].items():
        body = operations.get("post", {}).get("requestBody", {}).get("content", {})
        for media, description in body.items():
            if "example" in description:
                text = (
                    description["example"]
                    if isinstance(description["example"], str)
                    else json.dumps(description["example"])
                )
                address = path.format(name="portraits", version="1", label="champion")
                answer = here.post(address, content=text, headers={"content-type": media})
                assert answer.status_code == 200, answer.text
                tried += 1
    assert tried == 7


# The document as a whole


def test_no_schema_is_fastapis_own_and_each_is_referred_to(document):
    names = set(document["components"]["schemas"])
    assert names == {
        reference.rpartition("/")[2] for reference in re.findall(r"#/components/schemas/\w+", json.dumps(document))
    }
    assert all(hasattr(schemas, name) for name in names)


def test_the_document_says_how_to_send_a_key_and_which_routes_need_none(document):
    assert set(document["components"]["securitySchemes"]) == {"key", "bearer"}
    assert document["security"] == [{"key": []}, {"bearer": []}, {}]
    open_paths = {
        path
        for path, operations in document["paths"].items()
        if all(operation.get("security") == [] for operation in operations.values())
    }
    assert open_paths == {"/live", "/ready", "/ping", "/v2/health/live", "/v2/health/ready"}


def test_the_middlewares_errors_are_documented_for_exactly_the_guarded_routes(document):
    for path, operations in document["paths"].items():
        for operation in operations.values():
            guarded = {"401", "421", "429"} & set(operation["responses"])
            assert len(guarded) == (0 if operation.get("security") == [] else 3), path


def test_the_page_shows_every_route_and_links_to_no_other_host(here, document):
    page = here.get("/docs").text
    for path, operations in document["paths"].items():
        for method in operations:
            assert f"{method.upper()} {path}" in page.replace("&quot;", '"')
    assert not re.findall(r"""(?:src|href)=["'](?:https?:)?//""", page)
    style = re.search(r'href="(docs/[^"]+)"', page)[1]
    assert here.get(f"/{style}").text == openapi.STYLESHEET


def test_the_page_shows_code_as_code_and_parts_its_paragraphs(here):
    page = here.get("/docs").text
    assert "`" not in re.sub(r"<pre>.*?</pre>", "", page, flags=re.DOTALL)
    assert "(<code>stages</code> of <code>/about</code>)" in page
    assert "</p>\n<p>Every address takes photos" in page
