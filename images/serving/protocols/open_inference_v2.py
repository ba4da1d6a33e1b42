"""Open Inference Protocol (KServe v2), as in Triton and MLServer, with binary tensors.

Protocol: https://github.com/open-inference/open-inference-protocol. Binary tensors after the JSON:
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md.
"""

import json
import math
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response

from images.serving.http import openapi, request_body, schemas
from images.serving.http.worker_state import WorkerState, worker_state
from images.serving.inference.micro_batcher import PhotoRequest
from images.serving.inference.version_manager import LoadedVersion
from images.serving.problem_details import ProblemDetails, json_response

router = APIRouter(prefix="/v2", tags=["Open Inference (KServe v2)"])

JSON_LENGTH_HEADER = (
    "Inference-Header-Content-Length"  # bytes of JSON before the binary tensors, in requests and answers
)
_READY_ROUTE = openapi.route_arguments("A version answers", schemas.ModelReady, "not-ready")
_METADATA_ROUTE = openapi.route_arguments("The tensors", schemas.ModelMetadata, "not-ready")
_INFER_ROUTE = openapi.route_arguments(
    "Score photos (Open Inference, KServe v2)",
    {"200": openapi.success_response(schemas.Inferred, content={"application/octet-stream": openapi.BINARY_CONTENT})},
    *openapi.BODY_PROBLEM_KINDS,
    body={openapi.JSON: openapi.schema_of(schemas.Infer)},
)
_OUTPUT_SHAPES = {"mean": (), "std": (), "distribution": (10,)}
_ELEMENT_SIZE = struct.Struct("<I")  # size that precedes each element of a binary BYTES tensor


@router.get("", **openapi.route_arguments("What this server is", schemas.Server))
async def server() -> Response:
    """Return the server's name, version and extensions."""
    return json_response({"name": "portrait-scorer", "version": "1", "extensions": ["binary_tensor_data"]})


@router.get("/health/live", **openapi.route_arguments("The process answers", schemas.Live))
async def live() -> Response:
    """Return 200 while the process runs."""
    return json_response({"live": True})


@router.get(
    "/health/ready",
    **openapi.route_arguments(
        "A version answers",
        {"200": openapi.success_response(schemas.Ready), "503": openapi.success_response(schemas.NotReady)},
    ),
)
async def ready(request: Request) -> Response:
    """Return 200 if a version is loaded and the server is not shutting down."""
    if worker_state(request).version_manager.ready:
        return json_response({"ready": True})
    return json_response({"ready": False, "error": "no version answers yet, or the server is about to end"}, 503)


@router.get("/models/{name}/versions/{version}/ready", **_READY_ROUTE)
async def version_ready(request: Request, name: str, version: str) -> Response:
    """Return 200 if this version is served."""
    return await _ready(request, name, version)


@router.get("/models/{name}/ready", **_READY_ROUTE)
async def model_ready(request: Request, name: str) -> Response:
    """Return 200 if a version of the model is loaded."""
    return await _ready(request, name)


@router.get("/models/{name}/versions/{version}", **_METADATA_ROUTE)
async def version_metadata(request: Request, name: str, version: str) -> Response:
    """Return the input and output tensors of a version, if the version is served."""
    return await _metadata(request, name, version)


@router.get("/models/{name}", **_METADATA_ROUTE)
async def metadata(request: Request, name: str) -> Response:
    """Return the input and output tensors of the model."""
    return await _metadata(request, name)


@router.post("/models/{name}/versions/{version}/infer", **_INFER_ROUTE)
async def infer_version(request: Request, name: str, version: str) -> Response:
    """Score photos with a version, if the version is served."""
    return await _infer(request, name, version)


@router.post("/models/{name}/infer", **_INFER_ROUTE)
async def infer(request: Request, name: str) -> Response:
    """Score photos."""
    return await _infer(request, name)


async def _ready(request: Request, name: str, version: str | None = None) -> Response:
    async with worker_state(request).version_manager.lease(name, version):
        return json_response({"name": name, "ready": True})


async def _metadata(request: Request, name: str, version: str | None = None) -> Response:
    async with worker_state(request).version_manager.lease(name, version) as served:
        inputs = [{"name": "image_bytes", "datatype": "BYTES", "shape": [-1]}]
        if served.jobs:
            inputs.append({"name": "job", "datatype": "BYTES", "shape": [-1]})
        outputs = [
            {"name": output, "datatype": "FP32", "shape": [-1, *shape]} for output, shape in _OUTPUT_SHAPES.items()
        ]
        model_metadata = {"name": name, "versions": [served.version], "platform": "litert", "inputs": inputs}
        return json_response(model_metadata | {"outputs": outputs})


async def _infer(request: Request, name: str, version: str | None = None) -> Response:
    state = worker_state(request)
    async with state.version_manager.lease(name, version) as served:
        state.batcher.check_capacity()
        request_json, binary = _split_body(
            await request_body.read_body(request, state), request.headers.get(JSON_LENGTH_HEADER)
        )
        photos, jobs = _photos_and_jobs(request_json, binary, state, served)
        requested = _requested_outputs(request_json)
        photo_results = await state.batcher.score(served.network, photos, jobs)
        return _infer_response(request_json, served, photo_results, requested)


def _split_body(body: bytes, length: str | None) -> tuple[Mapping[str, Any], memoryview]:
    """Return the JSON of a request and the binary tensors after the JSON.

    Args:
        body: Body of the request.
        length: Value of the header `JSON_LENGTH_HEADER`. None means that the whole body is JSON.

    Raises:
        ProblemDetails: 400 if the length or the JSON is invalid; 413 if the JSON has too many values.
    """
    size = len(body) if length is None else int(length[:20]) if length.isdecimal() else -1
    if not 0 <= size <= len(body):
        raise _invalid_request(f"expected {JSON_LENGTH_HEADER} to be from 0 to {len(body)}, got {str(length)[:20]!r}")
    value = request_body.parse_json(body[:size])
    if not isinstance(value, Mapping) or not isinstance(value.get("inputs"), list):
        raise _invalid_request(f'expected an object with a list of "inputs", got {type(value).__name__}')
    if not isinstance(value.get("id", ""), str):
        raise _invalid_request(f'expected "id" to be a text, got {type(value["id"]).__name__}')
    return value, memoryview(body)[size:]


def _photos_and_jobs(
    request_json: Mapping[str, Any], binary: memoryview, state: WorkerState, served: LoadedVersion
) -> tuple[list[bytes], list[str]]:
    """Return the photos of a request and one job for each photo.

    Raises:
        ProblemDetails: 400 for invalid inputs; 413 for too many photos; 422 for an unknown job.
    """
    tensors: dict[str, list[bytes | str]] = {}
    for entry in request_json["inputs"]:
        name, values, binary = _parse_tensor(entry, binary, state)
        tensors[name] = values
    if len(binary):
        raise _invalid_request(f"expected the binary tensors to end with the body, got {len(binary)} bytes more")
    if unknown := sorted(set(tensors) - {"image_bytes", "job"}):
        raise _invalid_request(f'expected the inputs "image_bytes" and optionally "job", got {unknown[0][:40]!r}')
    if not (photos := tensors.get("image_bytes")):
        raise _invalid_request('expected the input "image_bytes" with at least one photo, got none')
    jobs = [_decode_text(job) for job in tensors.get("job", [""] * len(photos))]
    if len(jobs) != len(photos):
        raise _invalid_request(f"expected a job a photo ({len(photos)}), got {len(jobs)}")
    encoded = [
        photo if isinstance(photo, bytes) else request_body.decode_base64(photo, f"image_bytes[{index}]")
        for index, photo in enumerate(photos)
    ]
    return encoded, [state.check_job(job, served) for job in jobs]


def _parse_tensor(entry: Any, binary: memoryview, state: WorkerState) -> tuple[str, list[bytes | str], memoryview]:
    """Return an input's name, its elements and the remaining binary data.

    Raises:
        ProblemDetails: 400 for an invalid input; 413 for too many elements.
    """
    if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
        raise _invalid_request('expected each input to be an object with a "name"')
    name = entry["name"][:40]
    if entry.get("datatype") != "BYTES":
        raise _invalid_request(f"input {name!r}: expected the datatype BYTES, got {str(entry.get('datatype'))[:20]!r}")
    count = _element_count(entry.get("shape"), name)
    state.check_photos(count)
    parameters = entry.get("parameters") or {}
    size = parameters.get("binary_data_size") if isinstance(parameters, Mapping) else None
    if size is not None:
        if type(size) is not int or not 0 <= size <= len(binary):
            raise _invalid_request(
                f"input {name!r}: expected binary_data_size from 0 to {len(binary)}, got {str(size)[:20]!r}"
            )
        values: Any = _parse_elements(binary[:size], name, count)
        binary = binary[size:]
    else:
        values = entry.get("data")
        if isinstance(values, list) and values and all(isinstance(value, list) for value in values):
            values = [element for row in values for element in row]  # nested lists of the shape [n, 1]
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise _invalid_request(f'input {name!r}: expected "data" to be a list of texts, photos in base64')
    if len(values) != count:
        actual = len(values) if len(values) < count else "more"
        raise _invalid_request(f"input {name!r}: expected {count} elements, as its shape says, got {actual}")
    return name, values, binary


def _element_count(shape: Any, name: str) -> int:
    if (
        not isinstance(shape, list)
        or not all(type(side) is int and 0 <= side < 2**31 for side in shape)
        or not (len(shape) == 1 or (len(shape) == 2 and shape[1] == 1))
    ):
        raise _invalid_request(f"input {name!r}: expected the shape [n] or [n, 1], got {str(shape)[:40]}")
    return math.prod(shape)


def _parse_elements(data: memoryview, name: str, count: int) -> list[bytes]:
    """Return the elements of a binary BYTES tensor, in which a 4-byte size precedes each element.

    Stops at one element more than `count`, which shows the caller that there are too many.
    """
    elements: list[bytes] = []
    while len(data) and len(elements) <= count:
        size = _ELEMENT_SIZE.unpack(data[:4])[0] if len(data) >= 4 else len(data)
        if len(data) < 4 + size:
            raise _invalid_request(
                f"input {name!r}: expected each element after its size in 4 bytes, got data that is cut off"
            )
        elements.append(bytes(data[4 : 4 + size]))
        data = data[4 + size :]
    return elements


def _decode_text(job: bytes | str) -> str:
    return job.decode("utf-8", "replace") if isinstance(job, bytes) else job


def _requested_outputs(request_json: Mapping[str, Any]) -> dict[str, bool]:
    """Return the requested outputs by name; True means binary.

    Raises:
        ProblemDetails: 400 for an unknown output.
    """
    parameters = request_json.get("parameters") or {}
    binary = isinstance(parameters, Mapping) and parameters.get("binary_data_output") is True
    outputs = request_json.get("outputs")
    if outputs is None or outputs == []:
        return dict.fromkeys(_OUTPUT_SHAPES, binary)
    requested = {}
    for output in outputs if isinstance(outputs, list) else [outputs]:
        name = output.get("name") if isinstance(output, Mapping) else None
        if not isinstance(name, str) or name not in _OUTPUT_SHAPES:
            raise _invalid_request(f"expected outputs among {list(_OUTPUT_SHAPES)}, got {str(name)[:40]!r}")
        output_parameters = output.get("parameters")
        is_binary = output_parameters.get("binary_data") if isinstance(output_parameters, Mapping) else None
        requested[name] = is_binary if isinstance(is_binary, bool) else binary
    return requested


def _infer_response(
    request_json: Mapping[str, Any],
    served: LoadedVersion,
    photos: list[PhotoRequest | ProblemDetails],
    requested: Mapping[str, bool],
) -> Response:
    scored = []
    for index, photo in enumerate(photos):
        if isinstance(photo, ProblemDetails):
            status = 400 if photo.status == 422 else photo.status  # clients of this protocol do not know 422
            raise ProblemDetails(
                status, photo.kind, f"image_bytes[{index}]: {photo.detail}", headers=photo.headers, index=index
            )
        scored.append(photo)
    outputs, binary_tensors = [], []
    for name, binary in requested.items():
        values = np.stack([np.asarray(photo.outputs[name], "<f4") for photo in scored])
        output: dict[str, Any] = {"name": name, "datatype": "FP32", "shape": list(values.shape)}
        if binary:
            binary_tensors.append(values.tobytes())
            output["parameters"] = {"binary_data_size": len(binary_tensors[-1])}
        else:
            output["data"] = [round(value, 6) for value in values.ravel().tolist()]
        outputs.append(output)
    response_json: dict[str, Any] = {"model_name": served.scorer.name, "model_version": served.version}
    response_json |= {"id": request_json["id"]} if "id" in request_json else {}
    response_json |= {"outputs": outputs}
    if not binary_tensors:
        return json_response(response_json)
    header_json = json.dumps(response_json, separators=(",", ":")).encode()
    return Response(
        b"".join([header_json, *binary_tensors]),
        200,
        {JSON_LENGTH_HEADER: str(len(header_json))},
        "application/octet-stream",
    )


def _invalid_request(detail: str) -> ProblemDetails:
    return ProblemDetails(400, "unfit-request", detail)
