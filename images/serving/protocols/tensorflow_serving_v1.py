"""TensorFlow Serving's REST protocol, which is also KServe's v1 protocol.

https://www.tensorflow.org/tfx/serving/api_rest and
https://kserve.github.io/website/docs/concepts/architecture/data-plane/v1-protocol. As in these protocols, one
unreadable photo fails the whole request.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from fastapi import APIRouter, Request, Response

from images.serving.http import openapi, request_body, schemas
from images.serving.http.worker_state import WorkerState, worker_state
from images.serving.inference.micro_batcher import PhotoRequest
from images.serving.inference.version_manager import LoadedVersion
from images.serving.problem_details import ProblemDetails, json_response

SIGNATURE, WITH_JOB = get_args(schemas.Signature)  # the SavedModel's signatures; this server accepts a job for both
router = APIRouter(tags=["TensorFlow Serving and KServe v1"])

REQUEST_SCHEMA = openapi.schema_of(schemas.Rows, schemas.Columns)
RESPONSE_MODELS = (schemas.PredictedRows, schemas.PredictedColumns)
_PREDICT_ROUTE = openapi.route_arguments(
    "Score photos (TensorFlow Serving, KServe v1)",
    {
        "200": openapi.success_response(
            *RESPONSE_MODELS, description="Scores as rows, or as columns where the request has columns"
        )
    },
    *openapi.BODY_PROBLEM_KINDS,
    body={openapi.JSON: REQUEST_SCHEMA},
)
_METADATA_ROUTE = openapi.route_arguments("The signature", schemas.Metadata, "not-ready")
_STATUS_ROUTE = openapi.route_arguments("Which version is served", schemas.Status, "not-ready")
_EXPECTED_INSTANCE = 'expected {"image_bytes": {"b64": "…"}} or {"b64": "…"}, and optionally "job"'


@dataclass(frozen=True)
class PredictRequest:
    """A parsed prediction request.

    Attributes:
        photos: The files' bytes as sent.
        jobs: Job of each photo. "" means that the job is unknown.
        columns: True if the response has columns, False if it has rows.
    """

    photos: list[bytes]
    jobs: list[str]
    columns: bool


@router.post("/v1/models/{name}:predict", **_PREDICT_ROUTE)
async def predict(request: Request, name: str) -> Response:
    """Score photos."""
    return await _predict(request, name)


@router.post("/v1/models/{name}/versions/{version}:predict", **_PREDICT_ROUTE)
async def predict_version(request: Request, name: str, version: str) -> Response:
    """Score photos with a version, if the version is served."""
    return await _predict(request, name, version=version)


@router.post("/v1/models/{name}/labels/{label}:predict", **_PREDICT_ROUTE)
async def predict_label(request: Request, name: str, label: str) -> Response:
    """Score photos with the version that a channel names, if the version is served."""
    return await _predict(request, name, label=label)


@router.get("/v1/models", **openapi.route_arguments("The models", schemas.Models, "not-ready"))
async def models(request: Request) -> Response:
    """Return the names of the served models: always one."""
    async with worker_state(request).version_manager.lease() as served:
        return json_response({"models": [served.scorer.name]})


@router.get("/v1/models/{name}/versions/{version}/metadata", **_METADATA_ROUTE)
async def version_metadata(request: Request, name: str, version: str) -> Response:
    """Return the signature of a version, if the version is served."""
    return await _metadata(request, name, version)


@router.get("/v1/models/{name}/metadata", **_METADATA_ROUTE)
async def metadata(request: Request, name: str) -> Response:
    """Return the signature of the model."""
    return await _metadata(request, name)


@router.get("/v1/models/{name}/versions/{version}", **_STATUS_ROUTE)
async def version_status(request: Request, name: str, version: str) -> Response:
    """Return the status of a version, if the version is served."""
    return await _status(request, name, version)


@router.get("/v1/models/{name}", **_STATUS_ROUTE)
async def status(request: Request, name: str) -> Response:
    """Return the status of the served version."""
    return await _status(request, name)


async def _predict(request: Request, name: str, version: str | None = None, label: str | None = None) -> Response:
    state = worker_state(request)
    async with state.version_manager.lease(name, version, label) as served:
        state.batcher.check_capacity()
        predict_request = parse_request(await request_body.read_json(request, state), state, served)
        photos = await state.batcher.score(served.network, predict_request.photos, predict_request.jobs)
        return json_response(predictions_to_json(photos, predict_request.columns))


async def _metadata(request: Request, name: str, version: str | None = None) -> Response:
    async with worker_state(request).version_manager.lease(name, version) as served:
        return json_response(_signature(served))


async def _status(request: Request, name: str, version: str | None = None) -> Response:
    async with worker_state(request).version_manager.lease(name, version) as served:
        well = {"error_code": "OK", "error_message": ""}
        available = {"version": served.version, "state": "AVAILABLE", "status": well}
        # KServe's clients expect "name" and "ready" at the same address.
        return json_response({"model_version_status": [available], "name": name, "ready": True})


def parse_request(value: Any, state: WorkerState, served: LoadedVersion) -> PredictRequest:
    """Parse the photos and jobs of a request's JSON.

    Args:
        value: JSON value of the body.
        state: State of the worker.
        served: Version that scores.

    Raises:
        ProblemDetails: 400 for another form; 413 for too many photos; 422 for an unknown job.
    """
    if not isinstance(value, Mapping) or ("instances" in value) == ("inputs" in value):
        actual = f"an object with {sorted(map(str, value))[:5]}" if isinstance(value, Mapping) else type(value).__name__
        raise _invalid_request(f'expected an object with "instances" (rows) or "inputs" (columns), got {actual[:200]}')
    if (signature := value.get("signature_name") or SIGNATURE) not in (SIGNATURE, WITH_JOB):
        raise _invalid_request(f"expected the signature {SIGNATURE!r} or {WITH_JOB!r}, got {str(signature)[:40]!r}")
    columns = "inputs" in value
    rows = _columns_to_rows(value["inputs"]) if columns else value["instances"]
    if not isinstance(rows, list) or not rows:
        raise _invalid_request(f"expected a list of at least one instance, got {_describe_value(rows)}")
    state.check_photos(len(rows))
    read = [_parse_instance(row, index) for index, row in enumerate(rows)]
    return PredictRequest([photo for photo, _ in read], [state.check_job(job, served) for _, job in read], columns)


def predictions_to_json(photos: list[PhotoRequest | ProblemDetails], columns: bool) -> dict[str, Any]:
    """Return the scores of all photos as JSON.

    Args:
        photos: Scored photos, or problems.
        columns: True for columns, False for rows.

    Raises:
        ProblemDetails: The first problem among `photos`, with status 400 instead of 422.
    """
    rows: list[Mapping[str, Any]] = []
    for index, photo in enumerate(photos):
        if isinstance(photo, ProblemDetails):
            status = 400 if photo.status == 422 else photo.status  # clients of this protocol do not know 422
            raise ProblemDetails(
                status, photo.kind, f"photo {index}: {photo.detail}", headers=photo.headers, index=index
            )
        rows.append(score_to_json(photo))
    return {"outputs": {key: [row[key] for row in rows] for key in rows[0]}} if columns else {"predictions": rows}


def score_to_json(photo: PhotoRequest) -> schemas.Scores:
    """Return a photo's score as JSON, rounded to six digits. The score itself is exact to 0.001."""
    answer = photo.outputs
    return {
        "mean": round(float(answer["mean"]), 6),
        "std": round(float(answer["std"]), 6),
        "distribution": [round(value, 6) for value in answer["distribution"].tolist()],
    }


def _columns_to_rows(inputs: Any) -> Any:
    """Return columns as rows.

    Args:
        inputs: Either ``{"image_bytes": […], "job": […]}`` or a list of photos.

    Raises:
        ProblemDetails: 400 for another form.
    """
    if isinstance(inputs, list):
        return inputs
    if not isinstance(inputs, Mapping) or not isinstance(inputs.get("image_bytes"), list):
        raise _invalid_request(
            f'expected "inputs" to be a list or {{"image_bytes": […]}}, got {_describe_value(inputs)}'
        )
    photos, jobs = inputs["image_bytes"], inputs.get("job")
    if jobs is None:
        return photos
    if not isinstance(jobs, list) or len(jobs) != len(photos):
        raise _invalid_request(f'expected "job" to be a list of {len(photos)} names, got {_describe_value(jobs)}')
    return [{"image_bytes": photo, "job": job} for photo, job in zip(photos, jobs, strict=True)]


def _parse_instance(row: Any, index: int) -> tuple[bytes, str]:
    """Return a row's photo and job.

    Raises:
        ProblemDetails: 400 for another form or invalid base64.
    """
    if not isinstance(row, Mapping):
        raise _invalid_request(f"instance {index}: {_EXPECTED_INSTANCE}, got {_describe_value(row)}")
    photo = row.get("image_bytes", row)
    encoded, job = photo.get("b64") if isinstance(photo, Mapping) else None, row.get("job", "")
    if not isinstance(encoded, str) or not isinstance(job, str):
        raise _invalid_request(
            f"instance {index}: {_EXPECTED_INSTANCE}, got an object with {str(sorted(map(str, row))[:5])[:200]}"
        )
    return request_body.decode_base64(encoded, f"instance {index}"), job


def _signature(served: LoadedVersion) -> dict[str, Any]:
    def tensor(name: str, dtype: str, *shape: int) -> dict[str, Any]:
        sizes = [{"size": str(size), "name": ""} for size in (-1, *shape)]
        return {"dtype": dtype, "tensor_shape": {"dim": sizes, "unknown_rank": False}, "name": f"{SIGNATURE}_{name}:0"}

    signature: dict[str, Any] = {
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
        "model_spec": {"name": served.scorer.name, "signature_name": "", "version": served.version},
        "metadata": {"signature_def": {"signature_def": {SIGNATURE: signature}}},
    }


def _invalid_request(detail: str) -> ProblemDetails:
    return ProblemDetails(400, "unfit-request", detail)


def _describe_value(value: Any) -> str:
    """Return a value's type and length, without its content."""
    return f"{type(value).__name__} of {len(value)}" if isinstance(value, list | dict | str) else type(value).__name__
