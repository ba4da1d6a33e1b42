"""The OpenAPI document: what it says is what the server takes and answers."""

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
    """All that is taken and answered: where, the media type, and what is said of it."""
    found = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for status, each in {"body": operation.get("requestBody", {}), **operation["responses"]}.items():
                found += [(f"{method} {path} {status}", *told) for told in each.get("content", {}).items()]
    return found


# What is answered in which state


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
def test_answers_in_another_form_are_of_their_models_too(here, document, path, options):
    as_told(document, path, post(here, path, **options))


def test_json_before_binary_tensors_is_of_its_model(here):
    tensor = {"name": "image_bytes", "shape": [1], "datatype": "BYTES", "data": [B64["b64"]]}
    asked = {"id": "7", "inputs": [tensor], "outputs": [{"name": "mean", "parameters": {"binary_data": True}}]}
    strictly(json.dumps(asked).encode(), schemas.Infer)
    answer = post(here, INFER, json=asked)
    told = strictly(answer.content[: int(answer.headers["inference-header-content-length"])], schemas.Inferred)
    assert (told["id"], told["outputs"][0]["parameters"]) == ("7", {"binary_data_size": 4})


def test_lines_are_scores_and_failures(here):
    body = json.dumps(B64).encode() + b"\n{"
    answer = here.post("/invocations", content=body, headers={"content-type": LINES})
    good, failed = answer.content.splitlines()
    strictly(good, schemas.Scores)
    assert strictly(failed, schemas.FailedLine)["problem"]["status"] == 400


def test_what_a_version_with_jobs_and_faces_answers_is_of_its_models(here, document, monkeypatch):
    class Finds:
        sha256 = ""
        faces = (geometry.Face(geometry.Box(0.3, 0.2, 0.4, 0.4), ((0.4, 0.3),) * 5, 0.98),)

        def find(self, image):
            return list(self.faces)

    detector, served = Finds(), here.state.version_manager.current
    monkeypatch.setattr(LoadedVersion, "jobs", property(lambda self: ("tutor", "carer")))
    monkeypatch.setattr(served, "scorer", replace(served.scorer, face_analyzer=FaceAnalyzer(detector)))
    for path in ("/v1/models/{name}/metadata", "/v2/models/{name}", "/about"):
        as_told(document, path, here.get(path.format(name="portraits")))
    (photo,) = as_told(document, "/score", post(here, "/score", files={"photos": PHOTO}))["photos"]
    assert photo["face"]["found"]
    detector.faces = ()
    (photo,) = as_told(document, "/score", post(here, "/score", files={"photos": PHOTO}))["photos"]
    assert photo["face"]["box"] is None


def test_advice_of_every_kind_is_of_its_model(here, document, monkeypatch):
    one = Suggestion("brightness", 0.5, "stops", 0.6, 0.05, 6.9, "Brighten it.", b"jpeg")
    both = CombinedSuggestion({"brightness": 0.5, "crop": 10.0}, 0.7, 0.05, 7.0, "Do both.", b"jpeg")
    refused = (
        RejectedEdit("crop", 10.0, "noise", "It is noise."),
        RejectedEdit("straighten", None, "unfit", "There is none."),
    )
    monkeypatch.setattr(search, "advise", lambda *_, **__: Advice(6.3, 0.1, (one,), both, refused, 9))
    told = as_told(document, "/advise", post(here, "/advise", files={"photo": PHOTO}))
    assert told["together"]["settings"] == both.settings


@pytest.mark.parametrize("path", ["/ready", "/v2/health/ready", "/v1/models/{name}", "/about"])
def test_what_is_answered_while_no_version_is_there_is_as_told(here, document, monkeypatch, path):
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
def test_the_example_of_a_problem_is_what_the_server_says_but_for_numbers(here, small_models, monkeypatch, kind):
    monkeypatch.setattr(LoadedVersion, "jobs", property(lambda self: ("tutor", "child care")))
    if kind == "no-maps":
        monkeypatch.setattr(portrait_api, "_MAP_OUTPUTS", {"heat": "none"})
    if kind == "not-ready":
        monkeypatch.setattr(here.state.version_manager, "current", None)
    if kind in STATES:
        with Here(replace(SETTINGS, model=str(small_models), **STATES[kind])) as other:
            answer = PROVOKED[kind](other)
    else:
        answer = PROVOKED[kind](here)
    strictly(answer.content, schemas.Problem)
    numbers = re.compile(rb"[\d.]+")
    example = json.dumps(openapi.EXAMPLE_PROBLEMS[kind].to_document(), separators=(",", ":")).encode()
    assert numbers.sub(b"N", answer.content) == numbers.sub(b"N", example)


def test_the_example_of_a_photo_that_cannot_be_read_is_what_the_server_says(here):
    photos = [("photos", PHOTO), ("photos", PHOTO[: len(PHOTO) * 9 // 10])]
    assert here.post("/score", files=photos).json()["photos"][1]["problem"] == schemas.UNREADABLE_EXAMPLE


def test_the_example_of_what_is_unknown_is_of_what_the_address_names(document):
    for where, _, told in contents(document):
        if where.endswith(" 404"):
            named = next(each for each in ("label", "version", "model") if f"/{each}s/{{" in where)
            assert told["example"]["type"].endswith(f":unknown-{named}"), where


def test_the_example_of_too_much_is_what_nginx_says():
    assert {*PROVOKED, "busy"} == set(openapi.EXAMPLE_PROBLEMS)
    example = json.dumps(openapi.EXAMPLE_PROBLEMS["busy"].to_document(), separators=(",", ":"))
    assert example in nginx.configuration(ServerSettings(run="/tmp/run"), nginx.FRONT)


def test_each_error_has_an_example_of_its_own_status(document):
    for where, _, told in contents(document):
        if "detail" in told.get("example", ""):
            assert where.endswith(f" {told['example']['status']}"), where


# Examples


def test_every_json_has_an_example_and_it_is_of_its_model(document):
    for where, media, told in contents(document):
        if media in (JSON, MEDIA_TYPE):
            assert models_of(told["schema"]), where
            strictly(json.dumps(told["example"]).encode(), *models_of(told["schema"]))


def test_lines_have_an_example_a_line_of_its_model(document):
    found = {where: told["example"] for where, media, told in contents(document) if media == LINES}
    strictly(found.pop("post /invocations body"), schemas.Named)
    strictly(found.pop("post /invocations 200"), schemas.Scores)
    assert not found


def test_an_example_of_what_is_asked_is_answered(here, document):
    tried = 0
    for path, operations in document["paths"].items():
        body = operations.get("post", {}).get("requestBody", {}).get("content", {})
        for media, told in body.items():
            if "example" in told:
                text = told["example"] if isinstance(told["example"], str) else json.dumps(told["example"])
                address = path.format(name="portraits", version="1", label="champion")
                answer = here.post(address, content=text, headers={"content-type": media})
                assert answer.status_code == 200, answer.text
                tried += 1
    assert tried == 7


# The rest of it


def test_no_schema_is_fastapis_own_and_each_is_referred_to(document):
    named = set(document["components"]["schemas"])
    assert named == {each.rpartition("/")[2] for each in re.findall(r"#/components/schemas/\w+", json.dumps(document))}
    assert all(hasattr(schemas, name) for name in named)


def test_it_tells_how_a_key_is_sent_and_where_none_is_asked_for(document):
    assert set(document["components"]["securitySchemes"]) == {"key", "bearer"}
    assert document["security"] == [{"key": []}, {"bearer": []}, {}]
    without = {
        path for path, each in document["paths"].items() if all(one.get("security") == [] for one in each.values())
    }
    assert without == {"/live", "/ready", "/ping", "/v2/health/live", "/v2/health/ready"}


def test_what_the_guard_answers_is_told_of_every_address_that_it_guards_and_of_no_other(document):
    for path, operations in document["paths"].items():
        for operation in operations.values():
            guarded = {"401", "421", "429"} & set(operation["responses"])
            assert len(guarded) == (0 if operation.get("security") == [] else 3), path


def test_the_page_shows_every_address_and_names_no_other_host(here, document):
    page = here.get("/docs").text
    for path, operations in document["paths"].items():
        for method in operations:
            assert f"{method.upper()} {path}" in page.replace("&quot;", '"')
    assert not re.findall(r"""(?:src|href)=["'](?:https?:)?//""", page)
    style = re.search(r'href="(docs/[^"]+)"', page)[1]
    assert here.get(f"/{style}").text == openapi.STYLESHEET
