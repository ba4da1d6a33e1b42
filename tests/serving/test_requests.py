"""Answers of the server, protocol by protocol, without a socket."""

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

pytestmark = pytest.mark.slow

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
    """Return a function that scores a photo by the published version: mean, std, distribution."""
    loaded = litert_model.load(str(small_models / "portraits" / "1"))

    def predict(photo: bytes) -> dict:
        outputs = loaded.predict(loaded.pixels(loaded.normalise(photo))[None])
        return {name: outputs[name][0] for name in ("mean", "std", "distribution")}

    return predict


def same(told: dict, true: dict) -> bool:
    return all(np.allclose(told[name], true[name], atol=1e-5) for name in true)


def problem(answer, status: int, kind: str) -> str:
    """Check the status and kind of a problem document, and return its detail."""
    assert answer.status_code == status, answer.text
    as_json = answer.request.url.path.startswith(("/v1/", "/v2/"))
    assert answer.headers["content-type"] == ("application/json" if as_json else "application/problem+json")
    document = strictly(answer.content, schemas.Problem, schemas.NothingScored, schemas.NothingRanked)
    assert document["status"] == status
    assert document["type"] == f"urn:portrait-scorer:problem:{kind}"
    assert document["title"]
    assert document["error"] == document["detail"]
    return document["detail"]


def form(*photos: bytes, field: str = "photos") -> list:
    return [(field, (f"{number}.jpg", photo, "image/jpeg")) for number, photo in enumerate(photos)]


# TensorFlow Serving and KServe v1


@pytest.mark.parametrize("place", ["", "/versions/1", "/labels/champion"])
def test_v1_answers_instances_with_rows_at_every_url_of_the_version(here, truth, place):
    body = {"instances": [{"image_bytes": {"b64": B64}}, {"b64": base64.b64encode(OTHER).decode()}]}
    answer = here.post(f"/v1/models/portraits{place}:predict", json=body)
    assert answer.status_code == 200
    first, second = answer.json()["predictions"]
    assert same(first, truth(PHOTO))
    assert same(second, truth(OTHER))
    assert set(first) == {"mean", "std", "distribution"}


@pytest.mark.parametrize("inputs", [{"image_bytes": [{"b64": B64}] * 2}, [{"b64": B64}] * 2])
def test_v1_answers_inputs_with_columns(here, truth, inputs):
    columns = here.post("/v1/models/portraits:predict", json={"inputs": inputs}).json()["outputs"]
    assert same({name: values[1] for name, values in columns.items()}, truth(PHOTO))


def test_v1_takes_base64_with_line_breaks_for_addresses_and_without_padding(here, truth):
    wrapped = base64.encodebytes(PHOTO).decode()
    for_urls = base64.urlsafe_b64encode(PHOTO).decode().rstrip("=")
    body = {"instances": [{"b64": wrapped}, {"b64": for_urls}]}
    rows = here.post("/v1/models/portraits:predict", json=body).json()["predictions"]
    assert all(same(row, truth(PHOTO)) for row in rows)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON_VALUES, st.booleans(), st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
def test_json_is_parsed_as_by_python(value, plain, coding):
    assert request_body.parse_json(json.dumps(value, ensure_ascii=not plain).encode(coding, "surrogatepass")) == value


@given(st.binary(max_size=100), st.integers(0, 3), st.booleans())
def test_base64_of_either_alphabet_with_any_padding_is_decoded(data, cut, for_urls):
    text = (base64.urlsafe_b64encode if for_urls else base64.b64encode)(data).decode()
    padding = len(text) - len(text.rstrip("="))
    assert request_body.decode_base64(text[: len(text) - min(cut, padding)], "here") == data


def test_base64_in_a_data_url_is_decoded():
    assert request_body.decode_base64("data:image/jpeg;base64,QUJD", "x") == b"ABC"


def test_a_file_name_sent_as_an_extended_parameter_only_is_returned(here):
    head = b"--x\r\nContent-Disposition: form-data; name=\"photos\"; filename*=UTF-8''caf%C3%A9.jpg\r\n\r\n"
    answer = here.post("/score", content=head + PHOTO + b"\r\n--x--\r\n",
                       headers={"content-type": "multipart/form-data; boundary=x"})  # fmt: skip
    assert answer.json()["photos"][0]["name"] == "caf\u00e9.jpg"


@pytest.mark.parametrize("size", [1, 10, 100_000])
def test_text_before_a_forms_first_boundary_is_skipped(size):
    parts = []
    feed = request_body._skip_preamble(parts.append, b"x")
    body = b"This is a form.\r\n--x\r\nContent\r\n--x--\r\n"
    for start in range(0, len(body), size):
        feed(body[start : start + size])
    assert b"".join(parts) == body[body.index(b"--x") :]


@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
def test_whitespace_after_a_forms_boundary_is_removed(size):
    parts = []
    remover = request_body._PaddingRemover(parts.append, b"x")
    photo = b"a --x \r\n" + bytes(range(256)) * 2  # not a boundary, as no line begins with it
    body = b"--x  \r\nContent\r\n\r\n" + photo + b"\r\n--x\t\r\nMore\r\n--x-- \r\n"
    for start in range(0, len(body), size):
        remover.write(body[start : start + size])
    remover.finalize()
    assert b"".join(parts) == b"\r\n--x\r\nContent\r\n\r\n" + photo + b"\r\n--x\r\nMore\r\n--x--\r\n"


def test_a_form_with_whitespace_after_its_boundaries_is_parsed(here):
    head = b'--x  \r\nContent-Disposition: form-data; name="photos"; filename="a"\r\n\r\n'
    headers = {"content-type": "multipart/form-data; boundary=x"}
    assert here.post("/score", content=head + PHOTO + b"\r\n--x-- \r\n", headers=headers).status_code == 200


def test_a_form_with_text_before_it_is_parsed(here):
    head = b'words\r\n--x\r\nContent-Disposition: form-data; name="photos"; filename="a"\r\n\r\n'
    content = head + PHOTO + b"\r\n--x--\r\n"
    headers = {"content-type": "multipart/form-data; boundary=x"}
    assert here.post("/score", content=content, headers=headers).status_code == 200
    problem(here.post("/score", content=b"w" * 9000, headers=headers), 400, "broken-form")


@pytest.mark.parametrize(
    ("accept", "lines"),
    [("application/json;q=0.5, application/jsonlines", True), ("application/jsonlines;q=0.1, */*", False),
     ("application/jsonlines;q=0, application/json;q=0.2", False), ("text/html, application/jsonlines;q=0.3", True)],
)  # fmt: skip
def test_the_accept_header_is_weighed_by_quality(accept, lines):
    assert sagemaker._wants_lines(accept, "application/json") == lines


def test_a_format_of_quality_zero_is_refused(here):
    answer = here.post("/invocations", content=PHOTO, headers={"content-type": "image/jpeg", "accept": "*/*;q=0"})
    problem(answer, 406, "not-acceptable")


@pytest.mark.parametrize("text", ["?", "QUJD!", "QUJDR", "é", "QU=JD"])
def test_text_that_is_not_base64_is_refused_without_quoting_it(text):
    with pytest.raises(
        ProblemDetails, match=f"^.*here: expected a photo's bytes in base64, got {len(text)} characters"
    ):
        request_body.decode_base64(text, "here")


def test_v1_model_status_suits_both_of_its_clients(here):
    status = here.get("/v1/models/portraits").json()
    (version,) = status["model_version_status"]
    assert version == {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    assert (status["name"], status["ready"]) == ("portraits", True)
    assert here.get("/v1/models").json() == {"models": ["portraits"]}


def test_v1_metadata_has_the_signature(here):
    metadata = here.get("/v1/models/portraits/metadata").json()
    assert metadata["model_spec"]["version"] == "1"
    signature = metadata["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["inputs"]["image_bytes"]["dtype"] == "DT_STRING"
    assert [dimension["size"] for dimension in signature["outputs"]["distribution"]["tensor_shape"]["dim"]] == [
        "-1",
        "10",
    ]


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/v1/models/other:predict", "unknown-model"),
        ("/v1/models/portraits/versions/9:predict", "unknown-version"),
        ("/v1/models/portraits/labels/challenger:predict", "unknown-label"),
    ],
)
def test_v1_refuses_unknown_models_versions_and_labels(here, path, kind):
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
def test_v1_errors_say_what_was_expected(here, body, told):
    answer = here.post("/v1/models/portraits:predict", content=body, headers=JSON)
    assert answer.status_code == 400
    assert told in answer.json()["error"] == answer.json()["detail"]


def test_v1_refuses_the_whole_request_and_names_the_photo_that_failed(here):
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


def test_v2_answers_with_tensors(here, truth):
    document = infer(here, {"id": "7", "inputs": [tensor(shape=[2, 1], data=[[B64], [B64]])]}).json()
    assert (document["model_name"], document["model_version"], document["id"]) == ("portraits", "1", "7")
    outputs = {output["name"]: np.reshape(output["data"], output["shape"]) for output in document["outputs"]}
    assert outputs["distribution"].shape == (2, 10)
    assert same({name: values[1] for name, values in outputs.items()}, truth(PHOTO))


def test_v2_accepts_and_returns_binary_tensors(here, truth):
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
    distribution = np.frombuffer(answer.content[size:], "<f4").reshape(votes["shape"])
    np.testing.assert_allclose(distribution[1], truth(OTHER)["distribution"], atol=1e-6)
    np.testing.assert_allclose(mean["data"][0], truth(PHOTO)["mean"], atol=1e-5)


def test_v2_has_health_and_metadata(here):
    assert here.get("/v2").json()["extensions"] == ["binary_tensor_data"]
    assert here.get("/v2/health/live").json() == {"live": True}
    assert here.get("/v2/health/ready").json() == {"ready": True}
    assert here.get("/v2/models/portraits/versions/1/ready").json() == {"name": "portraits", "ready": True}
    metadata = here.get("/v2/models/portraits").json()
    assert metadata["versions"] == ["1"]
    assert [(tensor_spec["name"], tensor_spec["datatype"]) for tensor_spec in metadata["inputs"]] == [
        ("image_bytes", "BYTES")
    ]
    assert [(tensor_spec["name"], tensor_spec["shape"]) for tensor_spec in metadata["outputs"]] == [
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
def test_v2_errors_say_what_was_expected(here, body, told):
    answer = infer(here, body)
    assert told in problem(answer, 400, "unfit-request")
    assert answer.json()["error"] == answer.json()["detail"]


@pytest.mark.parametrize("tail", [b"\x05\x00\x00\x00ab", b"\x01", b"\xff\xff\xff\xffabcd"])
def test_v2_refuses_truncated_binary_tensors(here, tail):
    body = {"inputs": [tensor(data=None, parameters={"binary_data_size": len(tail)})]}
    assert "cut off" in problem(infer(here, body, tail), 400, "unfit-request")


@pytest.mark.parametrize("length", ["-1", "x", "999999", "1e3"])
def test_v2_refuses_an_impossible_length_of_the_json_part(here, length):
    answer = here.post("/v2/models/portraits/infer", content=b"{}", headers={"inference-header-content-length": length})
    problem(answer, 400, "unfit-request")


# SageMaker


@pytest.mark.parametrize("kind", ["application/x-image", "image/jpeg", "image/png; charset=binary"])
def test_sagemaker_accepts_an_image_as_the_whole_body(here, truth, kind):
    answer = here.post("/invocations", content=PHOTO, headers={"content-type": kind})
    assert same(answer.json()["predictions"][0], truth(PHOTO))


def test_sagemaker_accepts_json_as_tensorflow_serving_does(here, truth):
    answer = here.post("/invocations", json={"instances": [{"b64": B64}]})
    assert same(answer.json()["predictions"][0], truth(PHOTO))


def test_in_json_lines_a_broken_photo_and_a_broken_line_fail_alone(here, truth):
    lines = [{"image_bytes": {"b64": B64}}, {"b64": base64.b64encode(BROKEN).decode()}]
    body = "\n".join([*map(json.dumps, lines), "{", json.dumps({"b64": B64})])
    answer = here.post("/invocations", content=body, headers={"content-type": "application/jsonlines"})
    assert answer.headers["content-type"].startswith("application/jsonlines")
    first, broken, invalid, last = map(json.loads, answer.text.splitlines())
    assert same(first, truth(PHOTO))
    assert same(last, truth(PHOTO))
    assert broken["problem"]["status"] == 422
    assert invalid["problem"]["status"] == 400


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", "application/json"),
        ("application/json", "application/json"),
        ("application/jsonlines", "application/jsonlines"),
        ("text/html, application/jsonlines;q=0.5", "application/jsonlines"),
    ],
)
def test_sagemaker_answers_in_the_accepted_format(here, accept, kind):
    answer = here.post("/invocations", content=PHOTO, headers={"content-type": "image/jpeg", "accept": accept})
    assert answer.headers["content-type"].partition(";")[0] == kind


def test_sagemaker_refuses_unsupported_media_types_in_and_out(here):
    answer = here.post("/invocations", content=PHOTO, headers={"content-type": "text/csv"})
    assert "got 'text/csv'" in problem(answer, 415, "media-type")
    answer = here.post("/invocations", content=PHOTO, headers={"content-type": "image/jpeg", "accept": "text/csv"})
    problem(answer, 406, "not-acceptable")


# The project's own routes


def test_score_returns_each_photo_with_its_norms(here, truth):
    answer = here.post("/score", files=form(PHOTO, OTHER), data={"job": "tutor"})
    document = answer.json()
    assert document["model"] == {"name": "portraits", "version": 1}
    assert document["job"] == "tutor"
    first, second = document["photos"]
    assert (first["index"], first["name"], first["error"], first["face"]) == (0, "0.jpg", 0.7, None)
    assert same(first, truth(PHOTO))
    assert same(second, truth(OTHER))
    assert {"key", "kept", "value", "threshold", "sentence", "why"} == set(first["norms"][0])


def test_a_corrupt_photo_fails_alone_in_score_and_rank(here, truth):
    readable, broken = here.post("/score", files=form(PHOTO, BROKEN)).json()["photos"]
    assert same(readable, truth(PHOTO))
    assert broken["problem"]["type"].endswith("photo-unreadable")
    assert (broken["index"], broken["name"]) == (1, "1.jpg")
    ranking = here.post("/rank", files=form(PHOTO, BROKEN)).json()
    assert [entry["index"] for entry in ranking["order"]] == [0]
    assert [entry["index"] for entry in ranking["problems"]] == [1]


def test_if_no_photo_can_be_read_the_status_is_422(here):
    answer = here.post("/score", files=form(BROKEN, b"GIF89a"))
    problem(answer, 422, "photo-unreadable")
    assert [photo["index"] for photo in answer.json()["photos"]] == [0, 1]
    assert here.post("/rank", files=form(BROKEN)).status_code == 422


def test_score_returns_the_face_that_a_detector_found(here, monkeypatch):
    class Detector:
        sha256 = ""

        def find(self, image):
            return [geometry.Face(geometry.Box(0.3, 0.2, 0.4, 0.4), ((0.4, 0.3),) * 5, 0.98)]

    loaded = here.state.version_manager.current
    monkeypatch.setattr(loaded, "scorer", replace(loaded.scorer, face_analyzer=FaceAnalyzer(Detector())))
    (photo,) = here.post("/score", files=form(PHOTO)).json()["photos"]
    assert photo["face"] == {"found": True, "count": 1, "box": [0.3, 0.2, 0.4, 0.4], "confidence": 0.98}


def test_photos_that_differ_by_less_than_the_scorers_error_share_a_rank(here, monkeypatch):
    means = {}
    network = here.state.version_manager.current.network
    original = type(network).predict

    def predict(self, photos):
        outputs = original(self, photos)
        outputs["mean"] = np.array([means[photo.original_size] for photo in photos], "float32")
        return outputs

    monkeypatch.setattr(type(network), "predict", predict)
    sizes = [(64, 64 + number) for number in range(4)]
    means |= dict(zip(sizes, [5.0, 8.0, 5.5, 7.5], strict=True))
    photos = [drawn_photo(0.5, size=size) for size in sizes]
    order = here.post("/rank", files=form(*photos)).json()["order"]
    assert [(entry["index"], entry["rank"], entry["tied"]) for entry in order] == [
        (1, 1, True),
        (3, 1, True),
        (2, 3, True),
        (0, 3, True),
    ]
    means[sizes[0]] = 4.0
    order = here.post("/rank", files=form(*photos)).json()["order"]
    assert [(entry["index"], entry["rank"], entry["tied"]) for entry in order[2:]] == [(2, 3, False), (0, 4, False)]
    assert (order[3]["low"], order[3]["high"]) == (3.3, 4.7)


@pytest.mark.parametrize("kind", ["heat", "gains"])
def test_explain_draws_the_map_over_the_normalised_photo(here, kind):
    answer = here.post(f"/explain?map={kind}", files=form(PHOTO, field="photo"))
    assert answer.headers["content-type"] == "image/png"
    drawn = Image.open(io.BytesIO(answer.content))
    assert (drawn.format, drawn.size) == ("PNG", (90, 120))


def test_explain_accepts_one_photo_and_a_known_map(here):
    assert "'heat', 'gains'" in problem(here.post("/explain?map=x", files=form(PHOTO)), 422, "unknown-map")
    problem(here.post("/explain", files=form(PHOTO, OTHER, field="photo")), 413, "too-many-photos")


def test_advise_returns_score_norms_and_edits(here, truth):
    answer = here.post("/advise", files=form(PHOTO, field="photo"))
    advice = answer.json()
    assert answer.status_code == 200
    assert advice["mean"] == pytest.approx(truth(PHOTO)["mean"], abs=1e-5)
    assert {"model", "job", "mean", "std", "face", "norms", "advice", "together", "refused"} == set(advice)
    for edit in advice["advice"]:
        assert edit["preview"].startswith("data:image/jpeg;base64,")
    assert all({"edit", "reason"} <= set(rejected) for rejected in advice["refused"])


def test_about_describes_model_and_limits(here):
    metadata = here.get("/about").json()
    assert (metadata["name"], metadata["version"], metadata["channel"]) == ("portraits", 1, "champion")
    assert metadata["limits"] == {"photos": 4, "bytes": 200_000, "pixels": 50_000_000, "seconds": 20.0}
    assert metadata["faces"] is False
    assert all(set(norm) == {"key", "sentence"} for norm in metadata["norms"])


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "GIF", "BMP"])
def test_every_image_format_is_decoded_as_in_training(here, truth, kind):
    data = io.BytesIO()
    Image.open(io.BytesIO(PHOTO)).save(data, kind)
    answer = here.post("/invocations", content=data.getvalue(), headers={"content-type": "image/x"})
    assert same(answer.json()["predictions"][0], truth(data.getvalue()))


@pytest.mark.parametrize("field", ["photos", "photo"])
def test_an_unknown_job_is_refused_by_every_protocol(here, monkeypatch, field):
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


def test_a_body_whose_declared_length_is_too_large_is_not_read(here):
    headers = {"content-type": "image/jpeg", "content-length": "200001"}
    answer = here.post("/invocations", content=_Unread(), headers=headers)
    assert "expected at most 200000 bytes" in problem(answer, 413, "body-too-large")
    assert answer.headers["connection"] == "close"


class _Unread:
    async def __aiter__(self):
        raise AssertionError("the body was read")
        yield b""


def test_a_body_without_a_length_is_read_up_to_the_limit_only(here):
    sizes = []

    async def chunks():
        for _ in range(100):
            sizes.append(10_000)
            yield b"x" * 10_000

    answer = here.post("/invocations", content=chunks(), headers={"content-type": "image/jpeg"})
    problem(answer, 413, "body-too-large")
    assert sum(sizes) < 300_000


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


def test_a_body_that_does_not_arrive_in_time_is_refused(small_models):
    async def slow():
        yield b"x"
        await asyncio.sleep(30)

    with Here(replace(SETTINGS, model=str(small_models), seconds=0.2)) as strict:
        answer = strict.post("/invocations", content=slow(), headers={"content-type": "image/jpeg"})
        assert "got 1 bytes" in problem(answer, 408, "slow-body")


def test_invalid_forms_are_refused(here):
    problem(here.post("/score", content=PHOTO, headers={"content-type": "image/jpeg"}), 415, "media-type")
    problem(here.post("/score", files={"picture": PHOTO}), 422, "unknown-field")
    problem(here.post("/score", data={"job": "x" * 2000}, files=form(PHOTO)), 422, "field-too-long")
    cut = b'--x\r\nContent-Disposition: form-data; name="photos"; filename="a"\r\n\r\nabc'
    headers = {"content-type": "multipart/form-data; boundary=x"}
    problem(here.post("/score", content=cut, headers=headers), 400, "broken-form")
    problem(here.post("/score", content=b"nothing of it", headers=headers), 400, "broken-form")
    problem(here.post("/score", content=b"--x--\r\n", headers=headers), 422, "no-photo")


def test_a_repeated_field_is_refused(here):
    parts = [("job", (None, "tutor")), ("job", (None, "tutor")), *form(PHOTO)]
    problem(here.post("/score", files=parts), 422, "repeated-field")


@pytest.mark.parametrize(
    "text", ["[" + "0," * 66_000 + "0]", '{"instances":[' + "{}," * 60_000 + "{}]}", "[" * 150_000, '{"a":[' * 60_000]
)
def test_json_with_too_many_values_is_refused_before_it_is_parsed(here, text, monkeypatch):
    monkeypatch.setattr(request_body, "_MAX_JSON_VALUES", 50_000)
    monkeypatch.setattr(request_body.pydantic_core, "from_json", None)  # would fail if called
    for path in ("/v1/models/portraits:predict", "/v2/models/portraits/infer", "/invocations"):
        problem(here.post(path, content=text[:200_000], headers=JSON), 413, "too-many-values")


def test_json_of_a_full_request_has_far_fewer_values_than_the_limit(here):
    rows = {"instances": [{"image_bytes": {"b64": "QUJD"}, "job": "tutor"}] * 10_000}
    assert request_body.parse_json(json.dumps(rows).encode()) == rows


def test_surplus_lines_and_elements_are_refused_early(here):
    lines = {"content-type": "application/jsonlines"}
    problem(here.post("/invocations", content=b"{}\n" * 60_000, headers=lines), 413, "too-many-photos")
    body = {"inputs": [{"name": "image_bytes", "shape": [1], "datatype": "BYTES",
                        "parameters": {"binary_data_size": 100_000}}]}  # fmt: skip
    assert "expected 1 elements, as its shape says, got more" in infer(here, body, bytes(100_000)).json()["detail"]


def test_a_compressed_body_is_refused(here):
    answer = here.post("/invocations", content=b"x", headers={"content-type": "image/jpeg", "content-encoding": "gzip"})
    problem(answer, 415, "content-encoding")


def test_a_full_queue_answers_429_with_retry_after(here, monkeypatch):
    monkeypatch.setattr(here.state.batcher, "_under_way", 7)
    assert here.post("/score", files=form(PHOTO)).status_code == 200
    answer = here.post("/score", files=form(PHOTO, OTHER))
    assert "a queue of 8, of which 7 are taken" in problem(answer, 429, "busy")
    assert int(answer.headers["retry-after"]) >= 1


def test_bodies_beyond_the_total_limit_answer_429_and_release_their_room(here, monkeypatch):
    monkeypatch.setattr(here.state.body_budget, "_limit", 1000)
    answer = here.post("/invocations", content=PHOTO, headers={"content-type": "image/jpeg"})
    problem(answer, 429, "busy")
    assert answer.headers["retry-after"]
    assert here.state.body_budget._reserved == 0


def test_a_small_photo_does_not_wait_for_large_ones(here, monkeypatch):
    """Four large photos are being decoded until the small one is answered."""
    answered = threading.Event()
    decode, is_large = micro_batcher.decode_photo, micro_batcher._is_large
    large_photos = [b"large%d" % number for number in range(4)]

    def slow_decode(portable, photo):
        if photo.data in large_photos:
            assert answered.wait(PATIENCE)
            raise UnusablePhotoError("unreadable", "it was no photo")
        decode(portable, photo)

    monkeypatch.setattr(micro_batcher, "decode_photo", slow_decode)
    monkeypatch.setattr(
        micro_batcher, "_is_large", lambda data, settings: data in large_photos or is_large(data, settings)
    )
    pending = here.begin("POST", "/score", files=form(*large_photos))
    until(lambda: here.state.batcher._under_way == 4, "the large ones are under way")
    assert here.post("/score", files=form(PHOTO)).status_code == 200
    answered.set()
    assert pending.result(PATIENCE).status_code == 422


@pytest.mark.parametrize(
    ("format", "side", "large"),
    [("JPEG", 3900, False), ("JPEG", 4100, True), ("PNG", 3900, False), ("WEBP", 1900, False), ("WEBP", 2100, True)],
)
def test_a_photo_is_large_by_its_pixels_and_the_memory_its_format_needs(format, side, large):
    data = io.BytesIO()
    Image.new("RGB", (side, side)).save(data, format)
    assert micro_batcher._is_large(data.getvalue(), Ingestion()) is large


def test_too_many_advice_requests_answer_429(here, monkeypatch):
    monkeypatch.setattr(here.state.advice_queue, "_under_way", here.state.settings.advising)
    problem(here.post("/advise", files=form(PHOTO, field="photo")), 429, "busy")


def test_unknown_routes_and_methods_are_problem_documents(here):
    problem(here.get("/nowhere"), 404, "http")
    answer = here.get("/score")
    problem(answer, 405, "http")
    assert answer.headers["allow"] == "OPTIONS, POST"


@pytest.mark.parametrize(
    ("path", "methods"), [("/score", "OPTIONS, POST"), ("/about", "GET, HEAD, OPTIONS"), ("/v2", "GET, HEAD, OPTIONS")]
)
def test_options_returns_the_methods_of_a_route(here, path, methods):
    answer = here.begin("OPTIONS", path).result(PATIENCE)
    assert (answer.status_code, answer.headers["allow"]) == (204, methods)


@pytest.mark.parametrize("path", ["/about", "/ready", "/docs", "/v1/models/portraits", "/v2/health/live", "/metrics"])
def test_head_answers_as_get_without_content(here, path):
    head = here.begin("HEAD", path).result(PATIENCE)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == here.get(path).headers["content-type"]
    assert here.begin("HEAD", "/score").result(PATIENCE).status_code == 405


def test_only_listed_origins_may_ask_from_a_browser(small_models):
    origins = from_environment({"SCORER_ORIGINS": "https://market.example"}).origins
    with Here(replace(SETTINGS, model=str(small_models), origins=origins, keys=key_digests(["key"]))) as server:
        for origin, allowed in (("https://market.example", True), ("https://stranger.example", False)):
            request_headers = {"origin": origin, "access-control-request-method": "POST",
                     "access-control-request-headers": "x-api-key"}  # fmt: skip
            preflight = server.begin("OPTIONS", "/score", headers=request_headers).result(PATIENCE)
            assert (preflight.status_code == 200) == allowed
            for headers in ({"x-api-key": "key"}, {}):
                answer = server.post("/score", files=form(PHOTO), headers={"origin": origin, **headers})
                assert answer.headers.get("access-control-allow-origin") == (origin if allowed else None)


def test_the_root_is_the_desk_for_a_browser_and_a_status_for_kserve(here):
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
def test_a_known_key_is_accepted(locked, headers):
    assert locked.get("/about", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [{}, {"x-api-key": "third"}, {"x-api-key": ""}, {"authorization": "Basic first"}, {"authorization": "first"},
     {"x-api-key": key_digests(["first"])[0]}],
)  # fmt: skip
def test_any_other_key_is_refused(locked, headers):
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
def test_without_keys_only_hosts_that_no_stranger_can_own_are_answered(here, host, passes):
    answer = here.get("/about", headers={"host": host})
    if passes:
        assert answer.status_code == 200
    else:
        assert "name it by --hosts" in problem(answer, 421, "host")
    assert here.get("/ready", headers={"host": host}).status_code == 200


def test_only_listed_hosts_are_answered(small_models):
    hosts = from_environment({"SCORER_HOSTS": "scorer.example, *.portraits.example"}).hosts
    with Here(replace(SETTINGS, model=str(small_models), hosts=hosts)) as server:
        for host, status in (("scorer.example", 200), ("a.portraits.example:80", 200), ("localhost", 421)):
            assert server.get("/about", headers={"host": host}).status_code == status


def test_with_a_known_key_any_host_is_answered(locked):
    assert locked.get("/about", headers={"host": "any.example", "x-api-key": "first"}).status_code == 200


# Operation and pages


def test_live_ready_and_ping_answer(here):
    assert here.get("/live").json() == {"live": True}
    assert here.get("/ready").json() == {"ready": True, "version": "1", "draining": False, "failing": False}
    assert here.get("/ping").status_code == 200


def test_without_a_version_the_server_is_live_but_not_ready(tmp_path):
    with Here(replace(SETTINGS, model=str(tmp_path))) as server:
        assert server.get("/live").status_code == 200
        assert server.get("/ping").status_code == 200
        answer = server.get("/ready")
        assert answer.status_code == 503
        assert answer.json() == {"ready": False, "version": None, "draining": False, "failing": True}
        assert "see the server's log" in problem(server.post("/score", files=form(PHOTO)), 503, "not-ready")
        assert str(tmp_path) not in server.get("/ready").text + server.post("/score", files=form(PHOTO)).text


def test_metrics_count_requests_photos_and_stages_by_route_template(here):
    here.post("/v1/models/portraits/versions/1:predict", json={"instances": [{"b64": B64}]})
    text = here.get("/metrics").text
    route = re.escape("/v1/models/{name}/versions/{version}:predict")
    assert re.search(rf'requests_total\{{route="{route}",status="200"\}} [1-9]', text)
    assert re.search(r'scorer_photos_total\{outcome="scored"\} [1-9]', text)
    assert re.search(r'scorer_stage_seconds_count\{stage="network"\} [1-9]', text)
    assert "scorer_model_version 1.0" in text


def test_every_answer_has_the_security_headers(here):
    for answer in (here.get("/about"), here.get("/nowhere"), here.get("/docs"), here.get("/")):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        policy = answer.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy


# The process


def test_the_server_imports_neither_tensorflow_nor_plotting_nor_statistics(small_models):
    names = {"tensorflow", "keras", "matplotlib", "pandas", "scipy", "kfp", "google.cloud.storage", "boto3"}
    assert imports_of_a_server(small_models, names) == ([200, 200, 200, 200], [])


def test_warm_up_photos_are_drawn_without_tensorflow():
    code = "import sys; from components.scorer.artifacts import warmup; warmup.photos(); "
    code += "print('tensorflow' in sys.modules)"
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "False"
    assert len(warmup.photos()) == 3


# Settings


def test_settings_survive_the_environment_and_keys_are_hashed():
    settings = replace(SETTINGS, model="gs://b/m", keys=key_digests(["secret", "another"]), nginx=False, deadline=0.001)
    settings = replace(settings, hosts=("a.example", "b.example"), proxies=("10.0.0.0/8",), rate=3)
    environment = to_environment(settings)
    assert "secret" not in str(environment)
    assert from_environment(environment) == settings


def test_invalid_settings_are_refused_with_what_was_expected(tmp_path):
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
    keys_file = tmp_path / "keys"
    keys_file.write_text("\n")
    with pytest.raises(ValueError, match="expected keys, one a line"):
        from_environment({"SCORER_KEYS_FILE": str(keys_file)})
    keys_file.write_text("first\nsecond\n")
    assert from_environment({"SCORER_KEYS_FILE": str(keys_file)}).keys == key_digests(["first", "second"])


SERVICE = {
    "SERVICE_HOST": "10.96.12.7", "SERVICE_PORT": "80", "SERVICE_PORT_HTTP": "80", "PORT": "tcp://10.96.12.7:80",
    "PORT_80_TCP": "tcp://10.96.12.7:80", "PORT_80_TCP_PROTO": "tcp", "PORT_80_TCP_PORT": "80",
    "PORT_80_TCP_ADDR": "10.96.12.7",
}  # fmt: skip
"""Variables that Kubernetes sets in every pod for a Service, after its name in capitals."""


@pytest.mark.parametrize(
    "service", ["SCORER", *(f"SCORER_{setting.name.upper()}" for setting in fields(ServerSettings))]
)
def test_no_setting_is_read_from_the_variables_of_a_kubernetes_service(service):
    environment = {f"{service}_{name}": value for name, value in SERVICE.items()}
    for protocol in ("udp", "sctp"):
        of_protocol = {name: value.replace("tcp", protocol) for name, value in environment.items()}
        assert from_environment(of_protocol) == from_environment({})
    assert from_environment(environment) == from_environment({})


def test_there_is_one_worker_a_core_by_default():
    assert from_environment({}).workers == usable_cores() >= 1
    assert from_environment({}, workers=7).workers == 7


def test_a_loaded_version_answers_after_its_files_are_removed(small_models, tmp_path):
    models = tmp_path / "models"
    shutil.copytree(small_models, models)
    with Here(replace(SETTINGS, model=str(models / "portraits" / "2"))) as server:
        shutil.rmtree(models)
        assert server.post("/score", files=form(PHOTO)).json()["model"]["version"] == 2
    assert not Path(models).exists()
