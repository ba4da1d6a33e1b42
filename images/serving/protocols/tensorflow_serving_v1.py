"""TensorFlow Serving's REST protocol, which is KServe's version 1 too.

https://www.tensorflow.org/tfx/serving/api_rest and
https://kserve.github.io/website/docs/concepts/architecture/data-plane/v1-protocol. A request is answered whole or not
at all, as there: one photo that cannot be read fails it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from fastapi import APIRouter, Request, Response

from images.serving.http import openapi, request_body, schemas
from images.serving.http.worker_state import State, of
from images.serving.inference.micro_batcher import Photo
from images.serving.inference.version_manager import Served
from images.serving.problem_details import Problem, json_answer

SIGNATURE, WITH_JOB = get_args(schemas.Signature)  # those of the SavedModel; here both take a job
router = APIRouter(tags=["TensorFlow Serving and KServe v1"])

BODY = openapi.schema(schemas.Rows, schemas.Columns)
PREDICTED = (schemas.PredictedRows, schemas.PredictedColumns)
_PREDICT = openapi.route(
    "Score photos (TensorFlow Serving, KServe v1)",
    {"200": openapi.json_of(*PREDICTED, words="Scores as rows, or as columns where the request has columns")},
    *openapi.BODY,
    body={openapi.JSON: BODY},
)
_METADATA = openapi.route("The signature", schemas.Metadata, "not-ready")
_STATUS = openapi.route("Which version is served", schemas.Status, "not-ready")
_INSTANCE = 'expected {"image_bytes": {"b64": "…"}} or {"b64": "…"}, and optionally "job"'


@dataclass(frozen=True)
class Asked:
    """What a request asks: photos with a job each, and whether the answer is to be columns."""

    photos: list[bytes]
    jobs: list[str]
    columns: bool


@router.post("/v1/models/{name}:predict", **_PREDICT)
async def predict(request: Request, name: str) -> Response:
    """Score photos."""
    return await _predict(request, name)


@router.post("/v1/models/{name}/versions/{version}:predict", **_PREDICT)
async def predict_version(request: Request, name: str, version: str) -> Response:
    """Score photos by a version, if it is the one that is served."""
    return await _predict(request, name, version=version)


@router.post("/v1/models/{name}/labels/{label}:predict", **_PREDICT)
async def predict_label(request: Request, name: str, label: str) -> Response:
    """Score photos by the version that a channel names, if it is the one that is served."""
    return await _predict(request, name, label=label)


@router.get("/v1/models", **openapi.route("The models", schemas.Models, "not-ready"))
async def models(request: Request) -> Response:
    """The names of the models that are served: one."""
    async with of(request).models.using() as served:
        return json_answer({"models": [served.portable.name]})


@router.get("/v1/models/{name}/versions/{version}/metadata", **_METADATA)
async def version_metadata(request: Request, name: str, version: str) -> Response:
    """The signature of a version."""
    return await _metadata(request, name, version)


@router.get("/v1/models/{name}/metadata", **_METADATA)
async def metadata(request: Request, name: str) -> Response:
    """The signature of the model."""
    return await _metadata(request, name)


@router.get("/v1/models/{name}/versions/{version}", **_STATUS)
async def version_status(request: Request, name: str, version: str) -> Response:
    """Whether a version is served."""
    return await _status(request, name, version)


@router.get("/v1/models/{name}", **_STATUS)
async def status(request: Request, name: str) -> Response:
    """Which version is served."""
    return await _status(request, name)


async def _predict(request: Request, name: str, version: str | None = None, label: str | None = None) -> Response:
    state = of(request)
    async with state.models.using(name, version, label) as served:
        state.batching.check()
        asked = read(await request_body.read_json(request, state), state, served)
        photos = await state.batching.score(served.network, asked.photos, asked.jobs)
        return json_answer(told(photos, asked.columns))


async def _metadata(request: Request, name: str, version: str | None = None) -> Response:
    async with of(request).models.using(name, version) as served:
        return json_answer(_signature(served))


async def _status(request: Request, name: str, version: str | None = None) -> Response:
    async with of(request).models.using(name, version) as served:
        well = {"error_code": "OK", "error_message": ""}
        available = {"version": served.version, "state": "AVAILABLE", "status": well}
        # "name" and "ready" are what KServe's clients look for at the same address.
        return json_answer({"model_version_status": [available], "name": name, "ready": True})


def read(value: Any, state: State, served: Served) -> Asked:
    """The photos and jobs of a request's JSON.

    Raises:
        Problem: 400, it has another form; 413, too many photos.
    """
    if not isinstance(value, Mapping) or ("instances" in value) == ("inputs" in value):
        came = f"an object with {sorted(map(str, value))[:5]}" if isinstance(value, Mapping) else type(value).__name__
        raise _unfit(f'expected an object with "instances" (rows) or "inputs" (columns), got {came[:200]}')
    if (signature := value.get("signature_name") or SIGNATURE) not in (SIGNATURE, WITH_JOB):
        raise _unfit(f"expected the signature {SIGNATURE!r} or {WITH_JOB!r}, got {str(signature)[:40]!r}")
    columns = "inputs" in value
    rows = _rows(value["inputs"]) if columns else value["instances"]
    if not isinstance(rows, list) or not rows:
        raise _unfit(f"expected a list of at least one instance, got {_kind(rows)}")
    state.check_photos(len(rows))
    read = [_instance(row, place) for place, row in enumerate(rows)]
    return Asked([photo for photo, _ in read], [state.job(job, served) for _, job in read], columns)


def told(photos: list[Photo | Problem], columns: bool) -> dict[str, Any]:
    """The answer to all photos; the first problem, if there is one, is raised instead."""
    rows = []
    for place, photo in enumerate(photos):
        if isinstance(photo, Problem):
            status = 400 if photo.status == 422 else photo.status  # which these clients do not know
            raise Problem(status, photo.kind, f"photo {place}: {photo.detail}", headers=photo.headers, index=place)
        rows.append(scores(photo))
    return {"outputs": {key: [row[key] for row in rows] for key in rows[0]}} if columns else {"predictions": rows}


def scores(photo: Photo) -> schemas.Scores:
    """A photo's score as JSON; six digits are a thousandth of what it is exact to."""
    answer = photo.answer
    return {
        "mean": round(float(answer["mean"]), 6),
        "std": round(float(answer["std"]), 6),
        "distribution": [round(value, 6) for value in answer["distribution"].tolist()],
    }


def _rows(inputs: Any) -> Any:
    """Columns as rows: ``{"image_bytes": […], "job": […]}``, or a list of photos."""
    if isinstance(inputs, list):
        return inputs
    if not isinstance(inputs, Mapping) or not isinstance(inputs.get("image_bytes"), list):
        raise _unfit(f'expected "inputs" to be a list or {{"image_bytes": […]}}, got {_kind(inputs)}')
    photos, jobs = inputs["image_bytes"], inputs.get("job")
    if jobs is None:
        return photos
    if not isinstance(jobs, list) or len(jobs) != len(photos):
        raise _unfit(f'expected "job" to be a list of {len(photos)} names, got {_kind(jobs)}')
    return [{"image_bytes": photo, "job": job} for photo, job in zip(photos, jobs, strict=True)]


def _instance(row: Any, place: int) -> tuple[bytes, str]:
    """A photo's bytes and its job."""
    if not isinstance(row, Mapping):
        raise _unfit(f"instance {place}: {_INSTANCE}, got {_kind(row)}")
    photo = row.get("image_bytes", row)
    text, job = photo.get("b64") if isinstance(photo, Mapping) else None, row.get("job", "")
    if not isinstance(text, str) or not isinstance(job, str):
        raise _unfit(f"instance {place}: {_INSTANCE}, got an object with {str(sorted(map(str, row))[:5])[:200]}")
    return request_body.from_base64(text, f"instance {place}"), job


def _signature(served: Served) -> dict[str, Any]:
    def tensor(name: str, kind: str, *shape: int) -> dict[str, Any]:
        sizes = [{"size": str(size), "name": ""} for size in (-1, *shape)]
        return {"dtype": kind, "tensor_shape": {"dim": sizes, "unknown_rank": False}, "name": f"{SIGNATURE}_{name}:0"}

    signature = {
        "inputs": {"image_bytes": tensor("image_bytes", "DT_STRING")},
        "outputs": {
            "mean": tensor("mean", "DT_FLOAT"),
            "std": tensor("std", "DT_FLOAT"),
            "distribution": tensor("distribution", "DT_FLOAT", 10),
        },
        "method_name": "tensorflow/serving/predict",
    }
    if served.jobs:
        signature["inputs"]["job"] = tensor("job", "DT_STRING")
    return {
        "model_spec": {"name": served.portable.name, "signature_name": "", "version": served.version},
        "metadata": {"signature_def": {"signature_def": {SIGNATURE: signature}}},
    }


def _unfit(detail: str) -> Problem:
    return Problem(400, "unfit-request", detail)


def _kind(value: Any) -> str:
    """What came, without its content."""
    return f"{type(value).__name__} of {len(value)}" if isinstance(value, list | dict | str) else type(value).__name__
