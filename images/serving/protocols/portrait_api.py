"""The project's own API: scores, ranks, maps and advice."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response

from components.scorer.batch.score_many import competition_ranks
from components.scorer.explain import overlay
from components.scorer.faces.geometry import Face
from components.scorer.upload_norms import check
from images.serving.http import openapi, request_body, schemas
from images.serving.http.worker_state import WorkerState, worker_state
from images.serving.inference import advice_queue
from images.serving.inference.micro_batcher import PhotoRequest, cached_faces
from images.serving.inference.version_manager import LoadedVersion
from images.serving.problem_details import MEDIA_TYPE, ProblemDetails, json_response
from images.serving.protocols.tensorflow_serving_v1 import score_to_json

router = APIRouter(tags=["Product"])

_PHOTO_FIELDS = ("photos", "photo")
_MAP_OUTPUTS = {"heat": "heatmap", "gains": "gains"}
_MAP_PARAMETER = {
    "name": "map",
    "in": "query",
    "schema": {"type": "string", "enum": list(_MAP_OUTPUTS), "default": "heat"},
    "description": "heat: where the score comes from; gains: what each place gains (orange) or costs (purple)."
    " Both are of the whole photo; what a face that is read by itself adds is held",
}
_PHOTOS_BODY = {"multipart/form-data": openapi.schema_of(schemas.PhotosForm)}
_PHOTO_BODY = {"multipart/form-data": openapi.schema_of(schemas.PhotoForm)}


@router.get("/about", **openapi.route_arguments("What is served, and what it takes", schemas.About, "not-ready"))
async def about(request: Request) -> Response:
    """Return the served model with its jobs, norms, stages and limits."""
    state = worker_state(request)
    async with state.version_manager.lease() as served:
        settings = state.settings
        return json_response(
            {
                **_model_to_json(served),
                "channel": settings.channel if state.version_manager.labels else None,
                "jobs": served.jobs,
                "attributes": served.attributes,
                "error": served.scorer.error,
                "faces": served.scorer.face_analyzer is not None,
                "stages": served.scorer.face_input_spec.stages,
                "norms": [{"key": norm.key, "sentence": norm.sentence} for norm in served.scorer.norms.norms],
                "limits": {
                    "photos": settings.photos,
                    "bytes": settings.body,
                    "pixels": served.scorer.settings.maximum_pixels,
                    "seconds": settings.seconds,
                },
            }
        )


@router.post(
    "/score",
    **openapi.route_arguments(
        "Score photos, with faces and upload norms",
        {
            "200": openapi.success_response(schemas.ScoredPhotos),
            "422": openapi.problem_response("unknown-field", schemas.NothingScored),
        },
        *openapi.FORM_PROBLEM_KINDS,
        body=_PHOTOS_BODY,
    ),
)
async def score(request: Request) -> Response:
    """Score photos, and return each photo's face and upload norms. An unreadable photo fails alone."""
    state = worker_state(request)
    async with state.version_manager.lease() as served:
        form, job = await _read_form(request, state, served)
        results = await _score_form(state, served, form, job)
        entries = []
        for index, ((name, _), photo) in enumerate(zip(form.photos, results, strict=True)):
            if isinstance(photo, ProblemDetails):
                entries.append({"index": index, "name": name, "problem": photo.to_document()})
            else:
                details = await state.batcher.run_in_pool(face_and_norms, served, photo)
                entries.append(
                    {"index": index, "name": name, **score_to_json(photo), "error": served.scorer.error, **details}
                )
        answer = {"model": _model_to_json(served), "job": job or None, "photos": entries}
        if any("problem" not in entry for entry in entries):
            return json_response(answer)
        first = next(photo for photo in results if isinstance(photo, ProblemDetails))
        reason = "expected at least one photo that can be read, got none"
        return json_response(
            {**ProblemDetails(422, first.kind, f"{reason}; the first: {first.detail}").to_document(), **answer},
            422,
            MEDIA_TYPE,
        )


@router.post(
    "/rank",
    **openapi.route_arguments(
        "Order photos",
        {
            "200": openapi.success_response(schemas.RankedPhotos),
            "422": openapi.problem_response("unknown-field", schemas.NothingRanked),
        },
        *openapi.FORM_PROBLEM_KINDS,
        body=_PHOTOS_BODY,
    ),
)
async def rank(request: Request) -> Response:
    """Rank photos by score. Photos that the scorer cannot tell apart share a rank."""
    state = worker_state(request)
    async with state.version_manager.lease() as served:
        form, job = await _read_form(request, state, served)
        results = await _score_form(state, served, form, job)
        names = [name for name, _ in form.photos]
        problems = [
            {"index": index, "name": names[index], "problem": photo.to_document()}
            for index, photo in enumerate(results)
            if isinstance(photo, ProblemDetails)
        ]
        scored = [(index, photo) for index, photo in enumerate(results) if isinstance(photo, PhotoRequest)]
        error = served.scorer.error or 0.0
        answer = {
            "model": _model_to_json(served),
            "job": job or None,
            "order": _rank_photos(scored, names, error),
            "problems": problems,
        }
        if scored:
            return json_response(answer)
        reason = "expected at least one photo that can be read, got none"
        return json_response(
            {**ProblemDetails(422, "photo-unreadable", reason).to_document(), **answer}, 422, MEDIA_TYPE
        )


@router.post(
    "/explain",
    **openapi.route_arguments(
        "Show where a score comes from",
        {"200": {"description": "The photo under the map.", "content": {"image/png": openapi.BINARY_CONTENT}}},
        *openapi.FORM_PROBLEM_KINDS,
        "no-maps",
        body=_PHOTO_BODY,
        parameters=[_MAP_PARAMETER],
    ),
)
async def explain(request: Request) -> Response:
    """Return a photo under a map: where its score comes from (heat), or what each place gains or costs (gains)."""
    state = worker_state(request)
    map_name = request.query_params.get("map", "heat")
    if map_name not in _MAP_OUTPUTS:
        raise ProblemDetails(
            422, "unknown-map", f"expected map to be one of {list(_MAP_OUTPUTS)}, got {map_name[:40]!r}"
        )
    async with state.version_manager.lease() as served:
        form, job = await _read_form(request, state, served, limit=1)
        photo = await _score_one(state, served, form, job)
        if _MAP_OUTPUTS[map_name] not in photo.outputs:
            reason = "expected a network that ends in pooling, which alone has maps; the one that is served does not"
            raise ProblemDetails(409, "no-maps", reason)
        png = await state.batcher.run_in_pool(_draw_map, served, photo, map_name)
        return Response(png, media_type="image/png")


@router.post(
    "/advise",
    **openapi.route_arguments(
        "What would make a photo score higher", schemas.Advised, *openapi.FORM_PROBLEM_KINDS, body=_PHOTO_BODY
    ),
)
async def advise(request: Request) -> Response:
    """Return edits that would raise a photo's score, and the results of the upload norms."""
    state = worker_state(request)
    async with state.version_manager.lease() as served:
        form, job = await _read_form(request, state, served, limit=1)
        photo = await _score_one(state, served, form, job)
        details = await state.batcher.run_in_pool(face_and_norms, served, photo)
        advice = await state.advice_queue.advise(served, form.photos[0][1], photo)
        score = {"mean": score_to_json(photo)["mean"], "std": score_to_json(photo)["std"]}
        return json_response(
            {
                "model": _model_to_json(served),
                "job": job or None,
                **score,
                **details,
                **advice_queue.advice_to_json(advice),
            }
        )


async def _read_form(
    request: Request, state: WorkerState, served: LoadedVersion, limit: int = 0
) -> tuple[request_body.ParsedForm, str]:
    """Return the photos of a form, at least one, and their job. "" means that the job is unknown.

    Raises:
        ProblemDetails: 429 if the queue is full; the errors of `request_body.read_form`; 422 for no photo or an unknown
            job.
    """
    state.batcher.check_capacity()
    form = await request_body.read_form(request, state, _PHOTO_FIELDS, limit or state.settings.photos)
    if not form.photos:
        raise ProblemDetails(422, "no-photo", f"expected a photo in the field {_PHOTO_FIELDS[bool(limit)]!r}, got none")
    return form, state.check_job(form.fields.get("job", ""), served)


async def _score_form(
    state: WorkerState, served: LoadedVersion, form: request_body.ParsedForm, job: str
) -> list[PhotoRequest | ProblemDetails]:
    return await state.batcher.score(served.network, [data for _, data in form.photos], [job])


async def _score_one(
    state: WorkerState, served: LoadedVersion, form: request_body.ParsedForm, job: str
) -> PhotoRequest:
    (photo,) = await _score_form(state, served, form, job)
    if isinstance(photo, ProblemDetails):
        raise photo
    return photo


def face_and_norms(served: LoadedVersion, photo: PhotoRequest) -> dict[str, Any]:
    """Return the face and the upload norm results of a scored photo, as JSON."""
    image, portable = photo.image, served.scorer
    faces = analysis.faces if (analysis := cached_faces(portable, photo)) else None
    values = photo.outputs.get("attributes", np.empty(0)).tolist()
    attributes = dict(zip(served.attributes, values, strict=True))
    findings = check.apply_policy(portable.norms, image, faces, attributes, photo.original_size, photo.job)
    return {"face": _face_to_json(faces), "norms": [asdict(finding) for finding in findings]}


def _face_to_json(faces: Sequence[Face] | None) -> schemas.Face | None:
    """Return the largest face as JSON. None if the version has no face detector."""
    if faces is None:
        return None
    if not faces:
        return {"found": False, "count": 0, "box": None, "confidence": None}
    box = [round(side, 4) for side in faces[0].box]
    return {"found": True, "count": len(faces), "box": box, "confidence": round(faces[0].confidence, 4)}


def _rank_photos(photos: list[tuple[int, PhotoRequest]], names: list[str], error: float) -> list[schemas.Ranked]:
    """Return the photos by score, best first, with competition ranks (see `ranks`)."""
    best_first = sorted(photos, key=lambda item: (-float(item[1].outputs["mean"]), item[0]))
    scored_photos = [(index, score_to_json(photo)) for index, photo in best_first]
    shared_ranks = competition_ranks([score["mean"] for _, score in scored_photos], error)
    entries: list[schemas.Ranked] = []
    for rank, (index, score) in zip(shared_ranks, scored_photos, strict=True):
        mean = score["mean"]
        low, high = max(1.0, round(mean - error, 6)), min(10.0, round(mean + error, 6))
        entries.append(
            {
                "rank": rank,
                "index": index,
                "name": names[index],
                "mean": mean,
                "std": score["std"],
                "low": low,
                "high": high,
                "tied": shared_ranks.count(rank) > 1,
            }
        )
    return entries


def _draw_map(served: LoadedVersion, photo: PhotoRequest, map_name: str) -> bytes:
    map_values = photo.outputs[_MAP_OUTPUTS[map_name]]
    return overlay.overlay(
        photo.jpeg,
        map_values,
        visible_fraction=served.scorer.visible_fraction,
        signed=map_name == "gains",
        image_format="PNG",
    )


def _model_to_json(served: LoadedVersion) -> schemas.Model:
    return {"name": served.scorer.name, "version": served.scorer.version}
