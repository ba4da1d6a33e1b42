"""What the server answers, protocol by protocol, without a socket."""

import asyncio
import base64
import io
import json
import re
import shutil
import struct
import subprocess
import sys
import threading
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from components.scorer.artifacts import litert_model, warmup
from components.scorer.faces import geometry
from components.scorer.faces.analyzer import FaceAnalyzer
from components.scorer.imaging.decoding import UnusablePhotoError
from components.scorer.settings import Ingestion
from images.serving.http import request_body, schemas
from images.serving.inference import micro_batcher
from images.serving.inference.version_manager import LoadedVersion
from images.serving.problem_details import ProblemDetails
from images.serving.protocols import sagemaker
from images.serving.settings import ServerSettings, from_environment, key_digests, to_environment, usable_cores
from tests.builders.servers import PATIENCE, ROOT, Here, imports_of_a_server, strictly, until
from tests.conftest import drawn_photo

PHOTO = drawn_photo(0.6, seed=1, size=(90, 120))
OTHER = drawn_photo(0.2, seed=2, size=(120, 90))
BROKEN = PHOTO[:200]
B64 = base64.b64encode(PHOTO).decode()
SETTINGS = ServerSettings(workers=1, photos=4, body=200_000, held=600_000, queue=8, seconds=20.0)
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def here(small_models):
    with Here(replace(SETTINGS, model=str(small_models))) as started:
        yield started


@pytest.fixture(scope="module")
def truth(small_models):
    """What the published version itself says of a photo: mean, std, distribution."""
    loaded = litert_model.load(str(small_models / "portraits" / "1"))

    def answer(photo: bytes) -> dict:
        found = loaded.predict(loaded.pixels(loaded.normalise(photo))[None])
        return {name: found[name][0] for name in ("mean", "std", "distribution")}

    return answer


def same(told: dict, true: dict) -> bool:
    return all(np.allclose(told[name], true[name], atol=1e-5) for name in true)


def problem(answer, status: int, kind: str) -> str:
    """The detail of a problem document, which has to have this status and kind."""
    assert answer.status_code == status, answer.text
    as_json = answer.request.url.path.startswith(("/v1/", "/v2/"))
    assert answer.headers["content-type"] == ("application/json" if as_json else "application/problem+json")
    told = strictly(answer.content, schemas.Problem, schemas.NothingScored, schemas.NothingRanked)
    assert told["status"] == status
    assert told["type"] == f"urn:portrait-scorer:problem:{kind}"
    assert told["title"]
    assert told["error"] == told["detail"]
    return told["detail"]


def form(*photos: bytes, field: str = "photos") -> list:
    return [(field, (f"{number}.jpg", photo, "image/jpeg")) for number, photo in enumerate(photos)]


# TensorFlow Serving and KServe v1


@pytest.mark.parametrize("place", ["", "/versions/1", "/labels/champion"])
def test_v1_gives_rows_for_rows_at_every_address_of_the_version(here, truth, place):
    body = {"instances": [{"image_bytes": {"b64": B64}}, {"b64": base64.b64encode(OTHER).decode()}]}
    answer = here.post(f"/v1/models/portraits{place}:predict", json=body)
    assert answer.status_code == 200
    first, second = answer.json()["predictions"]
    assert same(first, truth(PHOTO))
    assert same(second, truth(OTHER))
    assert set(first) == {"mean", "std", "distribution"}


@pytest.mark.parametrize("inputs", [{"image_bytes": [{"b64": B64}] * 2}, [{"b64": B64}] * 2])
def test_v1_gives_columns_for_columns(here, truth, inputs):
    told = here.post("/v1/models/portraits:predict", json={"inputs": inputs}).json()["outputs"]
    assert same({name: values[1] for name, values in told.items()}, truth(PHOTO))


def test_v1_takes_base64_with_line_breaks_for_addresses_and_without_padding(here, truth):
    wrapped = base64.encodebytes(PHOTO).decode()
    for_urls = base64.urlsafe_b64encode(PHOTO).decode().rstrip("=")
    body = {"instances": [{"b64": wrapped}, {"b64": for_urls}]}
    told = here.post("/v1/models/portraits:predict", json=body).json()["predictions"]
    assert all(same(each, truth(PHOTO)) for each in told)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON_VALUES, st.booleans(), st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
def test_json_is_read_as_by_python(value, plain, coding):
    assert request_body.parse_json(json.dumps(value, ensure_ascii=not plain).encode(coding, "surrogatepass")) == value


@given(st.binary(max_size=100), st.integers(0, 3), st.booleans())
def test_base64_of_any_alphabet_and_padding_is_read(data, cut, for_urls):
    text = (base64.urlsafe_b64encode if for_urls else base64.b64encode)(data).decode()
    padding = len(text) - len(text.rstrip("="))
    assert request_body.decode_base64(text[: len(text) - min(cut, padding)], "here") == data


def test_base64_in_an_address_of_data_is_read():
    assert request_body.decode_base64("data:image/jpeg;base64,QUJD", "x") == b"ABC"


def test_a_name_that_is_sent_extended_alone_is_told(here):
    head = b"--x\r\nContent-Disposition: form-data; name=\"photos\"; filename*=UTF-8''caf%C3%A9.jpg\r\n\r\n"
    answer = here.post("/score", content=head + PHOTO + b"\r\n--x--\r\n",
                       headers={"content-type": "multipart/form-data; boundary=x"})  # fmt: skip
    assert answer.json()["photos"][0]["name"] == "caf\u00e9.jpg"


@pytest.mark.parametrize("size", [1, 10, 100_000])
def test_words_before_a_forms_first_boundary_are_passed_over(size):
    parts = []
    take = request_body._skip_preamble(parts.append, b"x")
    body = b"This is a form.\r\n--x\r\nContent\r\n--x--\r\n"
    for start in range(0, len(body), size):
        take(body[start : start + size])
    assert b"".join(parts) == body[body.index(b"--x") :]


@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
def test_blanks_behind_a_forms_boundary_are_left_out(size):
    parts = []
    unpadded = request_body._PaddingRemover(parts.append, b"x")
    photo = b"a --x \r\n" + bytes(range(256)) * 2  # no boundary: no line begins with it
    body = b"--x  \r\nContent\r\n\r\n" + photo + b"\r\n--x\t\r\nMore\r\n--x-- \r\n"
    for start in range(0, len(body), size):
        unpadded.write(body[start : start + size])
    unpadded.finalize()
    assert b"".join(parts) == b"\r\n--x\r\nContent\r\n\r\n" + photo + b"\r\n--x\r\nMore\r\n--x--\r\n"


def test_a_form_with_blanks_behind_its_boundaries_is_read(here):
    head = b'--x  \r\nContent-Disposition: form-data; name="photos"; filename="a"\r\n\r\n'
    headers = {"content-type": "multipart/form-data; boundary=x"}
    assert here.post("/score", content=head + PHOTO + b"\r\n--x-- \r\n", headers=headers).status_code == 200


def test_a_form_with_words_before_it_is_read(here):
    head = b'words\r\n--x\r\nContent-Disposition: form-data; name="photos"; filename="a"\r\n\r\n'
    sent = head + PHOTO + b"\r\n--x--\r\n"
    headers = {"content-type": "multipart/form-data; boundary=x"}
    assert here.post("/score", content=sent, headers=headers).status_code == 200
    problem(here.post("/score", content=b"w" * 9000, headers=headers), 400, "broken-form")


@pytest.mark.parametrize(
    ("accept", "lines"),
    [("application/json;q=0.5, application/jsonlines", True), ("application/jsonlines;q=0.1, */*", False),
     ("application/jsonlines;q=0, application/json;q=0.2", False), ("text/html, application/jsonlines;q=0.3", True)],
)  # fmt: skip
def test_accept_is_weighed(accept, lines):
    assert sagemaker._wants_lines(accept, "application/json") == lines


def test_what_is_not_wanted_at_all_is_not_given(here):
    answer = here.post("/invocations", content=PHOTO, headers={"content-type": "image/jpeg", "accept": "*/*;q=0"})
    problem(answer, 406, "not-acceptable")


@pytest.mark.parametrize("text", ["?", "QUJD!", "QUJDR", "é", "QU=JD"])
def test_what_is_no_base64_is_told_without_its_content(text):
    with pytest.raises(
        ProblemDetails, match=f"^.*here: expected a photo's bytes in base64, got {len(text)} characters"
    ):
        request_body.decode_base64(text, "here")


def test_v1_tells_its_status_as_both_of_its_clients_expect_it(here):
    told = here.get("/v1/models/portraits").json()
    (version,) = told["model_version_status"]
    assert version == {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    assert (told["name"], told["ready"]) == ("portraits", True)
    assert here.get("/v1/models").json() == {"models": ["portraits"]}


def test_v1_tells_its_signature(here):
    told = here.get("/v1/models/portraits/metadata").json()
    assert told["model_spec"]["version"] == "1"
    signature = told["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["inputs"]["image_bytes"]["dtype"] == "DT_STRING"
    assert [size["size"] for size in signature["outputs"]["distribution"]["tensor_shape"]["dim"]] == ["-1", "10"]


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/v1/models/other:predict", "unknown-model"),
        ("/v1/models/portraits/versions/9:predict", "unknown-version"),
        ("/v1/models/portraits/labels/challenger:predict", "unknown-label"),
    ],
)
def test_v1_knows_only_what_it_serves(here, path, kind):
    answer = here.post(path, json={"instances": [{"b64": B64}]})
    assert answer.json()["error"] == problem(answer, 404, kind)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"[]", '"instances"'),
        (b"{}", '"instances"'),
        (b'{"instances": []}', "at least one instance"),
        (b'{"instances": 7}', "at least one instance"),
        (b'{"instances": ["x"]}', "instance 0: expected"),
        (b'{"instances": [{"b64": 7}]}', "instance 0: expected"),
        (b'{"instances": [{"b64": "&&"}]}', "in base64, got 2 characters"),
        (b'{"instances": [{"b64": "QUJD", "job": 1}]}', "instance 0: expected"),
        (b'{"inputs": {"image_bytes": [{"b64": "QUJD"}], "job": []}}', "a list of 1 names"),
        (b'{"instances": [], "inputs": []}', '"instances"'),
        (b'{"instances": [{"b64": "QUJD"}], "signature_name": "other"}', "serving_default"),
        (b"{", "expected JSON"),
        (b"\xff\xfe", "expected JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"", "expected JSON"),
    ],
)
def test_v1_says_what_it_expected(here, body, told):
    answer = here.post("/v1/models/portraits:predict", content=body, headers=JSON)
    assert answer.status_code == 400
    assert told in answer.json()["error"] == answer.json()["detail"]


def test_v1_fails_whole_and_names_the_photo_that_failed(here):
    body = {"instances": [{"b64": B64}, {"b64": base64.b64encode(BROKEN).decode()}]}
    answer = here.post("/v1/models/portraits:predict", json=body)
    assert "photo 1: " in problem(answer, 400, "photo-unreadable")
    assert answer.json()["index"] == 1


# Open Inference


def infer(here, body: dict, tail: bytes = b"", **headers: str):
    head = json.dumps(body).encode()
    headers = {"inference-header-content-length": str(len(head)), **headers} if tail else headers
    return here.post("/v2/models/portraits/infer", content=head + tail, headers=headers)


def tensor(**more) -> dict:
    return {"name": "image_bytes", "shape": [1], "datatype": "BYTES", "data": [B64], **more}


def test_v2_gives_tensors(here, truth):
    told = infer(here, {"id": "7", "inputs": [tensor(shape=[2, 1], data=[[B64], [B64]])]}).json()
    assert (told["model_name"], told["model_version"], told["id"]) == ("portraits", "1", "7")
    outputs = {output["name"]: np.reshape(output["data"], output["shape"]) for output in told["outputs"]}
    assert outputs["distribution"].shape == (2, 10)
    assert same({name: values[1] for name, values in outputs.items()}, truth(PHOTO))


def test_v2_takes_and_gives_binary_tensors(here, truth):
    data = b"".join(struct.pack("<I", len(photo)) + photo for photo in (PHOTO, OTHER))
    body = {
        "inputs": [{"name": "image_bytes", "shape": [2], "datatype": "BYTES",
                    "parameters": {"binary_data_size": len(data)}}],
        "outputs": [{"name": "distribution", "parameters": {"binary_data": True}}, {"name": "mean"}],
    }  # fmt: skip
    answer = infer(here, body, data)
    size = int(answer.headers["inference-header-content-length"])
    votes, mean = json.loads(answer.content[:size])["outputs"]
    assert votes["parameters"]["binary_data_size"] == len(answer.content) - size == 80
    found = np.frombuffer(answer.content[size:], "<f4").reshape(votes["shape"])
    np.testing.assert_allclose(found[1], truth(OTHER)["distribution"], atol=1e-6)
    np.testing.assert_allclose(mean["data"][0], truth(PHOTO)["mean"], atol=1e-5)


def test_v2_tells_health_and_metadata(here):
    assert here.get("/v2").json()["extensions"] == ["binary_tensor_data"]
    assert here.get("/v2/health/live").json() == {"live": True}
    assert here.get("/v2/health/ready").json() == {"ready": True}
    assert here.get("/v2/models/portraits/versions/1/ready").json() == {"name": "portraits", "ready": True}
    told = here.get("/v2/models/portraits").json()
    assert told["versions"] == ["1"]
    assert [(each["name"], each["datatype"]) for each in told["inputs"]] == [("image_bytes", "BYTES")]
    assert [(each["name"], each["shape"]) for each in told["outputs"]] == [
        ("mean", [-1]),
        ("std", [-1]),
        ("distribution", [-1, 10]),
    ]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({}, '"inputs"'),
        ({"inputs": []}, "at least one photo"),
        ({"inputs": [tensor(name="pixels")]}, "expected the inputs"),
        ({"inputs": [tensor(datatype="FP32")]}, "datatype BYTES"),
        ({"inputs": [tensor(shape=[2])]}, "expected 2 elements"),
        ({"inputs": [tensor(shape=[1, 2])]}, "the shape [n]"),
        ({"inputs": [tensor(shape=[True])]}, "the shape [n]"),
        ({"inputs": [tensor(data=[1])]}, "a list of texts"),
        ({"inputs": [tensor(), tensor(name="job", data=["a", "b"], shape=[2])]}, "expected a job a photo"),
        ({"inputs": [tensor(parameters={"binary_data_size": 9})]}, "binary_data_size from 0 to 0"),
        ({"inputs": [tensor()], "outputs": [{"name": "logits"}]}, "expected outputs among"),
        ({"inputs": [tensor()], "id": 7}, '"id" to be a text'),
    ],
)
def test_v2_says_what_it_expected(here, body, told):
    answer = infer(here, body)
    assert told in problem(answer, 400, "unfit-request")
    assert answer.json()["error"] == answer.json()["detail"]


@pytest.mark.parametrize("tail", [b"\x05\x00\x00\x00ab", b"\x01", b"\xff\xff\xff\xffabcd"])
def test_v2_refuses_binary_tensors_that_are_cut_off(here, tail):
    body = {"inputs": [tensor(data=None, parameters={"binary_data_size": len(tail)})]}
    assert "cut off" in problem(infer(here, body, tail), 400, "unfit-request")


@pytest.mark.parametrize("length", ["-1", "x", "999999", "1e3"])
def test_v2_refuses_a_length_of_json_that_cannot_be(here, length):
    answer = here.post("/v2/models/portraits/infer", content=b"{}", headers={"inference-header-content-length": length})
    problem(answer, 400, "unfit-request")


# SageMaker


@pytest.mark.parametrize("kind", ["application/x-image", "image/jpeg", "image/png; charset=binary"])
def test_sagemaker_takes_a_picture_as_it_is(here, truth, kind):
    answer = here.post("/invocations", content=PHOTO, headers={"content-type": kind})
    assert same(answer.json()["predictions"][0], truth(PHOTO))


def test_sagemaker_takes_json_as_tensorflow_serving_does(here, truth):
    answer = here.post("/invocations", json={"instances": [{"b64": B64}]})
    assert same(answer.json()["predictions"][0], truth(PHOTO))


def test_of_json_lines_a_broken_photo_and_a_broken_line_fail_alone(here, truth):
    lines = [{"image_bytes": {"b64": B64}}, {"b64": base64.b64encode(BROKEN).decode()}]
    body = "\n".join([*map(json.dumps, lines), "{", json.dumps({"b64": B64})])
    answer = here.post("/invocations", content=body, headers={"content-type": "application/jsonlines"})
    assert answer.headers["content-type"].startswith("application/jsonlines")
    good, broken, no_json, last = map(json.loads, answer.text.splitlines())
    assert same(good, truth(PHOTO))
    assert same(last, truth(PHOTO))
    assert broken["problem"]["status"] == 422
    assert no_json["problem"]["status"] == 400


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", "application/json"),
        ("application/json", "application/json"),
        ("application/jsonlines", "application/jsonlines"),
        ("text/html, application/jsonlines;q=0.5", "application/jsonlines"),
    ],
)
def test_sagemaker_answers_as_accept_asks(here, accept, kind):
    answer = here.post("/invocations", content=PHOTO, headers={"content-type": "image/jpeg", "accept": accept})
    assert answer.headers["content-type"].partition(";")[0] == kind


def test_sagemaker_says_what_it_can_neither_take_nor_give(here):
    answer = here.post("/invocations", content=PHOTO, headers={"content-type": "text/csv"})
    assert "got 'text/csv'" in problem(answer, 415, "media-type")
    answer = here.post("/invocations", content=PHOTO, headers={"content-type": "image/jpeg", "accept": "text/csv"})
    problem(answer, 406, "not-acceptable")


# The product's own


def test_score_tells_each_photo_with_the_norms(here, truth):
    answer = here.post("/score", files=form(PHOTO, OTHER), data={"job": "tutor"})
    told = answer.json()
    assert told["model"] == {"name": "portraits", "version": 1}
    assert told["job"] == "tutor"
    first, second = told["photos"]
    assert (first["index"], first["name"], first["error"], first["face"]) == (0, "0.jpg", 0.7, None)
    assert same(first, truth(PHOTO))
    assert same(second, truth(OTHER))
    assert {"key", "kept", "value", "threshold", "sentence", "why"} == set(first["norms"][0])


def test_a_corrupt_photo_fails_alone_in_score_and_rank(here, truth):
    good, broken = here.post("/score", files=form(PHOTO, BROKEN)).json()["photos"]
    assert same(good, truth(PHOTO))
    assert broken["problem"]["type"].endswith("photo-unreadable")
    assert (broken["index"], broken["name"]) == (1, "1.jpg")
    told = here.post("/rank", files=form(PHOTO, BROKEN)).json()
    assert [each["index"] for each in told["order"]] == [0]
    assert [each["index"] for each in told["problems"]] == [1]


def test_when_no_photo_can_be_read_the_status_says_so(here):
    answer = here.post("/score", files=form(BROKEN, b"GIF89a"))
    problem(answer, 422, "photo-unreadable")
    assert [each["index"] for each in answer.json()["photos"]] == [0, 1]
    assert here.post("/rank", files=form(BROKEN)).status_code == 422


def test_score_tells_the_face_that_a_detector_found(here, monkeypatch):
    class Finds:
        sha256 = ""

        def find(self, image):
            return [geometry.Face(geometry.Box(0.3, 0.2, 0.4, 0.4), ((0.4, 0.3),) * 5, 0.98)]

    served = here.state.version_manager.current
    monkeypatch.setattr(served, "scorer", replace(served.scorer, face_analyzer=FaceAnalyzer(Finds())))
    (photo,) = here.post("/score", files=form(PHOTO)).json()["photos"]
    assert photo["face"] == {"found": True, "count": 1, "box": [0.3, 0.2, 0.4, 0.4], "confidence": 0.98}


def test_photos_within_the_scorers_error_share_a_rank(here, monkeypatch):
    means = {}
    network = here.state.version_manager.current.network
    original = type(network).predict

    def answer(self, photos):
        found = original(self, photos)
        found["mean"] = np.array([means[photo.original_size] for photo in photos], "float32")
        return found

    monkeypatch.setattr(type(network), "predict", answer)
    sizes = [(64, 64 + number) for number in range(4)]
    means |= dict(zip(sizes, [5.0, 8.0, 5.5, 7.5], strict=True))
    photos = [drawn_photo(0.5, size=size) for size in sizes]
    order = here.post("/rank", files=form(*photos)).json()["order"]
    assert [(each["index"], each["rank"], each["tied"]) for each in order] == [
        (1, 1, True),
        (3, 1, True),
        (2, 3, True),
        (0, 3, True),
    ]
    means[sizes[0]] = 4.0
    order = here.post("/rank", files=form(*photos)).json()["order"]
    assert [(each["index"], each["rank"], each["tied"]) for each in order[2:]] == [(2, 3, False), (0, 4, False)]
    assert (order[3]["low"], order[3]["high"]) == (3.3, 4.7)


@pytest.mark.parametrize("kind", ["heat", "gains"])
def test_explain_draws_the_map_over_the_normalised_photo(here, kind):
    answer = here.post(f"/explain?map={kind}", files=form(PHOTO, field="photo"))
    assert answer.headers["content-type"] == "image/png"
    drawn = Image.open(io.BytesIO(answer.content))
    assert (drawn.format, drawn.size) == ("PNG", (90, 120))


def test_explain_takes_one_photo_and_a_map_that_there_is(here):
    assert "'heat', 'gains'" in problem(here.post("/explain?map=x", files=form(PHOTO)), 422, "unknown-map")
    problem(here.post("/explain", files=form(PHOTO, OTHER, field="photo")), 413, "too-many-photos")


def test_advise_tells_score_norms_and_edits(here, truth):
    answer = here.post("/advise", files=form(PHOTO, field="photo"))
    told = answer.json()
    assert answer.status_code == 200
    assert told["mean"] == pytest.approx(truth(PHOTO)["mean"], abs=1e-5)
    assert {"model", "job", "mean", "std", "face", "norms", "advice", "together", "refused"} == set(told)
    for edit in told["advice"]:
        assert edit["preview"].startswith("data:image/jpeg;base64,")
    assert all({"edit", "reason"} <= set(each) for each in told["refused"])


def test_about_tells_what_clients_need_to_know(here):
    told = here.get("/about").json()
    assert (told["name"], told["version"], told["channel"]) == ("portraits", 1, "champion")
    assert told["limits"] == {"photos": 4, "bytes": 200_000, "pixels": 50_000_000, "seconds": 20.0}
    assert told["faces"] is False
    assert all(set(norm) == {"key", "sentence"} for norm in told["norms"])


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "GIF", "BMP"])
def test_every_format_takes_the_way_of_training(here, truth, kind):
    data = io.BytesIO()
    Image.open(io.BytesIO(PHOTO)).save(data, kind)
    answer = here.post("/invocations", content=data.getvalue(), headers={"content-type": "image/x"})
    assert same(answer.json()["predictions"][0], truth(data.getvalue()))


@pytest.mark.parametrize("field", ["photos", "photo"])
def test_a_job_that_the_version_does_not_know_is_refused_by_every_protocol(here, monkeypatch, field):
    monkeypatch.setattr(LoadedVersion, "jobs", property(lambda self: ("tutor", "carer")))
    body = {"instances": [{"b64": B64, "job": "pilot"}]}
    job = {"name": "job", "shape": [1], "datatype": "BYTES", "data": ["pilot"]}
    answers = [
        here.post("/score", files=form(PHOTO, field=field), data={"job": "pilot"}),
        here.post("/v1/models/portraits:predict", json=body),
        infer(here, {"inputs": [tensor(), job]}),
        here.post("/invocations", json=body),
    ]
    for answer in answers:
        assert "expected a job among ['tutor', 'carer'], or none, got 'pilot'" in problem(answer, 422, "unknown-job")
        assert answer.json()["jobs"] == ["tutor", "carer"]
    assert here.get("/v2/models/portraits").json()["inputs"][1]["name"] == "job"
    assert "job" in here.get("/v1/models/portraits/metadata").text


# Limits


def test_a_body_that_says_it_is_too_large_is_not_read(here):
    headers = {"content-type": "image/jpeg", "content-length": "200001"}
    answer = here.post("/invocations", content=_Unread(), headers=headers)
    assert "expected at most 200000 bytes" in problem(answer, 413, "body-too-large")
    assert answer.headers["connection"] == "close"


class _Unread:
    async def __aiter__(self):
        raise AssertionError("the body was read")
        yield b""


def test_a_body_without_a_length_is_read_no_further_than_the_limit(here):
    sent = []

    async def chunks():
        for _ in range(100):
            sent.append(10_000)
            yield b"x" * 10_000

    answer = here.post("/invocations", content=chunks(), headers={"content-type": "image/jpeg"})
    problem(answer, 413, "body-too-large")
    assert sum(sent) < 300_000


def test_too_many_photos_are_refused_by_every_protocol(here):
    b64 = base64.b64encode(b"x").decode()
    answers = [
        here.post("/score", files=form(*[b"x"] * 5)),
        here.post("/v1/models/portraits:predict", json={"instances": [{"b64": b64}] * 5}),
        infer(here, {"inputs": [tensor(shape=[5], data=[b64] * 5)]}),
        here.post("/invocations", content='{"b64": ""}\n' * 5, headers={"content-type": "application/jsonlines"}),
    ]
    for answer in answers:
        assert "expected at most 4 photos" in problem(answer, 413, "too-many-photos")


def test_a_photo_of_too_many_pixels_is_refused_before_it_is_decoded(small_models):
    with Here(replace(SETTINGS, model=str(small_models), pixels=10_000)) as strict:
        answer = strict.post("/invocations", content=PHOTO, headers={"content-type": "image/jpeg"})
        assert "expected at most 10000 pixels, got 90 x 120" in problem(answer, 413, "too-many-pixels")
        assert strict.get("/about").json()["limits"]["pixels"] == 10_000


def test_a_body_that_does_not_arrive_in_time_is_given_up(small_models):
    async def slow():
        yield b"x"
        await asyncio.sleep(30)

    with Here(replace(SETTINGS, model=str(small_models), seconds=0.2)) as strict:
        answer = strict.post("/invocations", content=slow(), headers={"content-type": "image/jpeg"})
        assert "got 1 bytes" in problem(answer, 408, "slow-body")


def test_forms_that_are_none_are_refused(here):
    problem(here.post("/score", content=PHOTO, headers={"content-type": "image/jpeg"}), 415, "media-type")
    problem(here.post("/score", files={"picture": PHOTO}), 422, "unknown-field")
    problem(here.post("/score", data={"job": "x" * 2000}, files=form(PHOTO)), 422, "field-too-long")
    cut = b'--x\r\nContent-Disposition: form-data; name="photos"; filename="a"\r\n\r\nabc'
    headers = {"content-type": "multipart/form-data; boundary=x"}
    problem(here.post("/score", content=cut, headers=headers), 400, "broken-form")
    problem(here.post("/score", content=b"nothing of it", headers=headers), 400, "broken-form")
    problem(here.post("/score", content=b"--x--\r\n", headers=headers), 422, "no-photo")


def test_a_field_comes_once(here):
    parts = [("job", (None, "tutor")), ("job", (None, "tutor")), *form(PHOTO)]
    problem(here.post("/score", files=parts), 422, "repeated-field")


@pytest.mark.parametrize(
    "text", ["[" + "0," * 66_000 + "0]", '{"instances":[' + "{}," * 60_000 + "{}]}", "[" * 150_000, '{"a":[' * 60_000]
)
def test_json_that_would_grow_is_refused_before_it_is_read(here, text, monkeypatch):
    monkeypatch.setattr(request_body, "_MAX_JSON_VALUES", 50_000)
    monkeypatch.setattr(request_body.pydantic_core, "from_json", None)  # never asked
    for path in ("/v1/models/portraits:predict", "/v2/models/portraits/infer", "/invocations"):
        problem(here.post(path, content=text[:200_000], headers=JSON), 413, "too-many-values")


def test_json_of_a_full_request_has_far_fewer_values_than_it_may(here):
    rows = {"instances": [{"image_bytes": {"b64": "QUJD"}, "job": "tutor"}] * 10_000}
    assert request_body.parse_json(json.dumps(rows).encode()) == rows


def test_lines_and_elements_without_number_are_not_gathered(here):
    lines = {"content-type": "application/jsonlines"}
    problem(here.post("/invocations", content=b"{}\n" * 60_000, headers=lines), 413, "too-many-photos")
    body = {"inputs": [{"name": "image_bytes", "shape": [1], "datatype": "BYTES",
                        "parameters": {"binary_data_size": 100_000}}]}  # fmt: skip
    assert "expected 1 elements, as its shape says, got more" in infer(here, body, bytes(100_000)).json()["detail"]


def test_a_compressed_body_is_refused(here):
    answer = here.post("/invocations", content=b"x", headers={"content-type": "image/jpeg", "content-encoding": "gzip"})
    problem(answer, 415, "content-encoding")


def test_a_full_queue_says_when_to_come_again(here, monkeypatch):
    monkeypatch.setattr(here.state.batcher, "_under_way", 7)
    assert here.post("/score", files=form(PHOTO)).status_code == 200
    answer = here.post("/score", files=form(PHOTO, OTHER))
    assert "a queue of 8, of which 7 are taken" in problem(answer, 429, "busy")
    assert int(answer.headers["retry-after"]) >= 1


def test_bodies_that_take_all_room_say_when_to_come_again_and_give_it_back(here, monkeypatch):
    monkeypatch.setattr(here.state.body_budget, "_limit", 1000)
    answer = here.post("/invocations", content=PHOTO, headers={"content-type": "image/jpeg"})
    problem(answer, 429, "busy")
    assert answer.headers["retry-after"]
    assert here.state.body_budget._reserved == 0


def test_a_small_photo_waits_for_no_large_one(here, monkeypatch):
    """Four large photos are being decoded, for as long as the small one is not answered."""
    answered = threading.Event()
    decode, is_large = micro_batcher.decode_photo, micro_batcher._is_large
    large = [b"large%d" % number for number in range(4)]

    def slowly(portable, photo):
        if photo.data in large:
            assert answered.wait(PATIENCE)
            raise UnusablePhotoError("unreadable", "it was no photo")
        decode(portable, photo)

    monkeypatch.setattr(micro_batcher, "decode_photo", slowly)
    monkeypatch.setattr(micro_batcher, "_is_large", lambda data, settings: data in large or is_large(data, settings))
    under_way = here.begin("POST", "/score", files=form(*large))
    until(lambda: here.state.batcher._under_way == 4, "the large ones are under way")
    assert here.post("/score", files=form(PHOTO)).status_code == 200
    answered.set()
    assert under_way.result(PATIENCE).status_code == 422


@pytest.mark.parametrize(
    ("format", "side", "large"),
    [("JPEG", 3900, False), ("JPEG", 4100, True), ("PNG", 3900, False), ("WEBP", 1900, False), ("WEBP", 2100, True)],
)
def test_a_photo_is_large_by_its_pixels_and_by_the_memory_that_it_takes(format, side, large):
    data = io.BytesIO()
    Image.new("RGB", (side, side)).save(data, format)
    assert micro_batcher._is_large(data.getvalue(), Ingestion()) is large


def test_too_many_requests_for_advice_say_when_to_come_again(here, monkeypatch):
    monkeypatch.setattr(here.state.advice_queue, "_under_way", here.state.settings.advising)
    problem(here.post("/advise", files=form(PHOTO, field="photo")), 429, "busy")


def test_unknown_addresses_and_methods_are_problems_too(here):
    problem(here.get("/nowhere"), 404, "http")
    answer = here.get("/score")
    problem(answer, 405, "http")
    assert answer.headers["allow"] == "OPTIONS, POST"


@pytest.mark.parametrize(
    ("path", "methods"), [("/score", "OPTIONS, POST"), ("/about", "GET, HEAD, OPTIONS"), ("/v2", "GET, HEAD, OPTIONS")]
)
def test_options_tell_the_methods_of_an_address(here, path, methods):
    answer = here.begin("OPTIONS", path).result(PATIENCE)
    assert (answer.status_code, answer.headers["allow"]) == (204, methods)


@pytest.mark.parametrize("path", ["/about", "/ready", "/docs", "/v1/models/portraits", "/v2/health/live", "/metrics"])
def test_head_is_answered_as_get_without_the_content(here, path):
    head = here.begin("HEAD", path).result(PATIENCE)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == here.get(path).headers["content-type"]
    assert here.begin("HEAD", "/score").result(PATIENCE).status_code == 405


def test_pages_of_the_origins_that_are_listed_may_ask_and_no_others(small_models):
    origins = from_environment({"SCORER_ORIGINS": "https://market.example"}).origins
    with Here(replace(SETTINGS, model=str(small_models), origins=origins, keys=key_digests(["key"]))) as shared:
        for origin, allowed in (("https://market.example", True), ("https://stranger.example", False)):
            asked = {"origin": origin, "access-control-request-method": "POST",
                     "access-control-request-headers": "x-api-key"}  # fmt: skip
            before = shared.begin("OPTIONS", "/score", headers=asked).result(PATIENCE)
            assert (before.status_code == 200) == allowed
            for headers in ({"x-api-key": "key"}, {}):
                answer = shared.post("/score", files=form(PHOTO), headers={"origin": origin, **headers})
                assert answer.headers.get("access-control-allow-origin") == (origin if allowed else None)


def test_a_browser_gets_the_desk_and_a_client_of_kserve_its_word(here):
    assert here.get("/", headers={"accept": "text/html,*/*;q=0.8"}).headers["content-type"].startswith("text/html")
    assert here.get("/").json() == {"status": "alive"}


# Keys


@pytest.fixture(scope="module")
def locked(small_models):
    with Here(replace(SETTINGS, model=str(small_models), keys=key_digests(["first", "second"]))) as started:
        yield started


@pytest.mark.parametrize(
    "headers",
    [{"x-api-key": "first"}, {"x-api-key": "second"}, {"authorization": "Bearer second"}],
)
def test_a_known_key_opens(locked, headers):
    assert locked.get("/about", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [{}, {"x-api-key": "third"}, {"x-api-key": ""}, {"authorization": "Basic first"}, {"authorization": "first"},
     {"x-api-key": key_digests(["first"])[0]}],
)  # fmt: skip
def test_anything_else_does_not(locked, headers):
    for method, path in (("GET", "/about"), ("GET", "/metrics"), ("POST", "/score"), ("POST", "/invocations")):
        answer = locked.begin(method, path, headers=headers).result(20)
        problem(answer, 401, "key")
        assert answer.headers["www-authenticate"] == "Bearer"


def test_probes_and_pages_need_no_key(locked):
    for path in ("/live", "/ready", "/ping", "/v2/health/ready", "/docs", "/docs/reference.css", "/openapi.json"):
        assert locked.get(path).status_code == 200


@pytest.mark.parametrize(
    ("host", "passes"),
    [("localhost:8080", True), ("127.0.0.1", True), ("[::1]:8080", True), ("scorer", True), ("10.1.2.3:80", True),
     ("scorer.portraits.svc.cluster.local", True), ("LOCALHOST.", True), ("stranger.example", False),
     ("127.0.0.1.stranger.example", False), ("localhost.stranger.example:8080", False)],
)  # fmt: skip
def test_without_a_key_only_a_host_that_no_stranger_can_own_is_answered(here, host, passes):
    answer = here.get("/about", headers={"host": host})
    if passes:
        assert answer.status_code == 200
    else:
        assert "name it by --hosts" in problem(answer, 421, "host")
    assert here.get("/ready", headers={"host": host}).status_code == 200


def test_hosts_that_are_listed_are_answered_and_no_others(small_models):
    listed = from_environment({"SCORER_HOSTS": "scorer.example, *.portraits.example"}).hosts
    with Here(replace(SETTINGS, model=str(small_models), hosts=listed)) as named:
        for host, status in (("scorer.example", 200), ("a.portraits.example:80", 200), ("localhost", 421)):
            assert named.get("/about", headers={"host": host}).status_code == status


def test_a_key_opens_by_any_host(locked):
    assert locked.get("/about", headers={"host": "any.example", "x-api-key": "first"}).status_code == 200


# Operation and pages


def test_live_ready_and_ping_answer(here):
    assert here.get("/live").json() == {"live": True}
    assert here.get("/ready").json() == {"ready": True, "version": "1", "draining": False, "failing": False}
    assert here.get("/ping").status_code == 200


def test_while_no_version_can_be_loaded_it_lives_and_pings_but_is_not_ready(tmp_path):
    with Here(replace(SETTINGS, model=str(tmp_path))) as empty:
        assert empty.get("/live").status_code == 200
        assert empty.get("/ping").status_code == 200
        answer = empty.get("/ready")
        assert answer.status_code == 503
        assert answer.json() == {"ready": False, "version": None, "draining": False, "failing": True}
        assert "see the server's log" in problem(empty.post("/score", files=form(PHOTO)), 503, "not-ready")
        assert str(tmp_path) not in empty.get("/ready").text + empty.post("/score", files=form(PHOTO)).text


def test_metrics_count_requests_photos_and_stages_by_route_alone(here):
    here.post("/v1/models/portraits/versions/1:predict", json={"instances": [{"b64": B64}]})
    text = here.get("/metrics").text
    route = re.escape("/v1/models/{name}/versions/{version}:predict")
    assert re.search(rf'requests_total\{{route="{route}",status="200"\}} [1-9]', text)
    assert re.search(r'scorer_photos_total\{outcome="scored"\} [1-9]', text)
    assert re.search(r'scorer_stage_seconds_count\{stage="network"\} [1-9]', text)
    assert "scorer_model_version 1.0" in text


def test_every_answer_carries_the_headers_that_keep_browsers_in_check(here):
    for answer in (here.get("/about"), here.get("/nowhere"), here.get("/docs"), here.get("/")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        policy = answer.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy


# The process


def test_the_server_needs_neither_tensorflow_nor_what_draws_and_counts(small_models):
    names = {"tensorflow", "keras", "matplotlib", "pandas", "scipy", "kfp", "google.cloud.storage", "boto3"}
    assert imports_of_a_server(small_models, names) == ([200, 200, 200, 200], [])


def test_warm_up_photos_are_drawn_without_tensorflow():
    code = "import sys; from components.scorer.artifacts import warmup; warmup.photos(); "
    code += "print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    assert len(warmup.photos()) == 3


# Settings


def test_settings_pass_through_the_environment_unchanged_but_for_the_keys_text():
    settings = replace(SETTINGS, model="gs://b/m", keys=key_digests(["secret", "another"]), nginx=False, deadline=0.001)
    settings = replace(settings, hosts=("a.example", "b.example"), proxies=("10.0.0.0/8",), rate=3)
    environment = to_environment(settings)
    assert "secret" not in str(environment)
    assert from_environment(environment) == settings


def test_settings_say_what_they_expected(tmp_path):
    with pytest.raises(ValueError, match=r"queue must be a whole number from 1 to 100000, got '0'"):
        from_environment({"SCORER_QUEUE": "0"})
    with pytest.raises(ValueError, match=r"hosts must be names .* got 'https://a'"):
        from_environment({"SCORER_HOSTS": "a,https://a"})
    with pytest.raises(ValueError, match="proxies must be addresses or networks"):
        from_environment({"SCORER_PROXIES": "10.0.0.0/99"})
    with pytest.raises(ValueError, match="nginx must be true or false, got 'maybe'"):
        from_environment({"SCORER_NGINX": "maybe"})
    with pytest.raises(ValueError, match="expected 64 hexadecimal digits after sha256:, got 2 characters"):
        from_environment({"SCORER_KEYS": "sha256:zz"})
    file = tmp_path / "keys"
    file.write_text("\n")
    with pytest.raises(ValueError, match="expected keys, one a line"):
        from_environment({"SCORER_KEYS_FILE": str(file)})
    file.write_text("first\nsecond\n")
    assert from_environment({"SCORER_KEYS_FILE": str(file)}).keys == key_digests(["first", "second"])


SERVICE = {
    "SERVICE_HOST": "10.96.12.7", "SERVICE_PORT": "80", "SERVICE_PORT_HTTP": "80", "PORT": "tcp://10.96.12.7:80",
    "PORT_80_TCP": "tcp://10.96.12.7:80", "PORT_80_TCP_PROTO": "tcp", "PORT_80_TCP_PORT": "80",
    "PORT_80_TCP_ADDR": "10.96.12.7",
}  # fmt: skip
"""What Kubernetes puts into the environment of every pod for a Service, after its name in capitals."""


@pytest.mark.parametrize("service", ["SCORER", *(f"SCORER_{each.name.upper()}" for each in fields(ServerSettings))])
def test_no_setting_is_read_from_what_kubernetes_tells_of_a_service(service):
    environment = {f"{service}_{name}": value for name, value in SERVICE.items()}
    for protocol in ("udp", "sctp"):
        told = {name: value.replace("tcp", protocol) for name, value in environment.items()}
        assert from_environment(told) == from_environment({})
    assert from_environment(environment) == from_environment({})


def test_there_is_a_worker_a_core_unless_told_otherwise():
    assert from_environment({}).workers == usable_cores() >= 1
    assert from_environment({}, workers=7).workers == 7


def test_what_is_served_can_be_moved_away_once_it_is_loaded(small_models, tmp_path):
    models = tmp_path / "models"
    shutil.copytree(small_models, models)
    with Here(replace(SETTINGS, model=str(models / "portraits" / "2"))) as pinned:
        shutil.rmtree(models)
        assert pinned.post("/score", files=form(PHOTO)).json()["model"]["version"] == 2
    assert not Path(models).exists()
