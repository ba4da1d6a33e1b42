"""The project's own API: scores, ranks, maps and advice."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response

from components.scorer.batch.score_many import ranks
from components.scorer.explain import overlay
from components.scorer.faces.geometry import Face
from components.scorer.upload_norms import check
from images.serving.http import openapi, request_body, schemas
from images.serving.http.worker_state import State, of
from images.serving.inference import advice_queue
from images.serving.inference.micro_batcher import Photo, see
from images.serving.inference.version_manager import Served
from images.serving.problem_details import MEDIA, Problem, json_answer
from images.serving.protocols.tensorflow_serving_v1 import scores

router = APIRouter(tags=["Product"])

_NAMES = ("photos", "photo")
_MAPS = {"heat": "heatmap", "gains": "gains"}
_MAP = {
    "name": "map",
    "in": "query",
    "schema": {"type": "string", "enum": list(_MAPS), "default": "heat"},
    "description": "heat: where the score comes from; gains: what each place gains (orange) or costs (purple)."
    " Both are of the whole photo; what a face that is read by itself adds is held",
}
_PHOTOS = {"multipart/form-data": openapi.schema(schemas.PhotosForm)}
_PHOTO = {"multipart/form-data": openapi.schema(schemas.PhotoForm)}


@router.get("/about", **openapi.route("What is served, and what it takes", schemas.About, "not-ready"))
async def about(request: Request) -> Response:
    """Return the served model with its jobs, norms, stages and limits."""
    state = of(request)
    async with state.models.using() as served:
        settings = state.settings
        return json_answer(
            {
                **_model(served),
                "channel": settings.channel if state.models.labels else None,
                "jobs": served.jobs,
                "attributes": served.attributes,
                "error": served.portable.error,
                "faces": served.portable.reader is not None,
                "stages": served.portable.reads.stages,
                "norms": [{"key": norm.key, "sentence": norm.sentence} for norm in served.portable.norms.norms],
                "limits": {
                    "photos": settings.photos,
                    "bytes": settings.body,
                    "pixels": served.portable.settings.maximum_pixels,
                    "seconds": settings.seconds,
                },
            }
        )


@router.post(
    "/score",
    **openapi.route(
        "Score photos, with faces and upload norms",
        {
            "200": openapi.json_of(schemas.ScoredPhotos),
            "422": openapi.problem("unknown-field", schemas.NothingScored),
        },
        *openapi.FORM,
        body=_PHOTOS,
    ),
)
async def score(request: Request) -> Response:
    """Score photos, and return each photo's face and upload norms. An unreadable photo fails alone."""
    state = of(request)
    async with state.models.using() as served:
        form, job = await _form(request, state, served)
        results = await _scored(state, served, form, job)
        entries = []
        for index, ((name, _), photo) in enumerate(zip(form.photos, results, strict=True)):
            if isinstance(photo, Problem):
                entries.append({"index": index, "name": name, "problem": photo.document()})
            else:
                details = await state.batching.work(examine, served, photo)
                entries.append(
                    {"index": index, "name": name, **scores(photo), "error": served.portable.error, **details}
                )
        answer = {"model": _model(served), "job": job or None, "photos": entries}
        if any("problem" not in entry for entry in entries):
            return json_answer(answer)
        first = next(photo for photo in results if isinstance(photo, Problem))
        reason = "expected at least one photo that can be read, got none"
        return json_answer(
            {**Problem(422, first.kind, f"{reason}; the first: {first.detail}").document(), **answer}, 422, MEDIA
        )


@router.post(
    "/rank",
    **openapi.route(
        "Order photos",
        {
            "200": openapi.json_of(schemas.RankedPhotos),
            "422": openapi.problem("unknown-field", schemas.NothingRanked),
        },
        *openapi.FORM,
        body=_PHOTOS,
    ),
)
async def rank(request: Request) -> Response:
    """Rank photos by score. Photos that the scorer cannot tell apart share a rank."""
    state = of(request)
    async with state.models.using() as served:
        form, job = await _form(request, state, served)
        results = await _scored(state, served, form, job)
        names = [name for name, _ in form.photos]
        problems = [
            {"index": index, "name": names[index], "problem": photo.document()}
            for index, photo in enumerate(results)
            if isinstance(photo, Problem)
        ]
        scored = [(index, photo) for index, photo in enumerate(results) if isinstance(photo, Photo)]
        error = served.portable.error or 0.0
        answer = {
            "model": _model(served),
            "job": job or None,
            "order": _ordered(scored, names, error),
            "problems": problems,
        }
        if scored:
            return json_answer(answer)
        reason = "expected at least one photo that can be read, got none"
        return json_answer({**Problem(422, "photo-unreadable", reason).document(), **answer}, 422, MEDIA)


@router.post(
    "/explain",
    **openapi.route(
        "Show where a score comes from",
        {"200": {"description": "The photo under the map.", "content": {"image/png": openapi.BINARY}}},
        *openapi.FORM,
        "no-maps",
        body=_PHOTO,
        parameters=[_MAP],
    ),
)
async def explain(request: Request) -> Response:
    """Return a photo under a map: where its score comes from (heat), or what each place gains or costs (gains)."""
    state = of(request)
    map_name = request.query_params.get("map", "heat")
    if map_name not in _MAPS:
        raise Problem(422, "unknown-map", f"expected map to be one of {list(_MAPS)}, got {map_name[:40]!r}")
    async with state.models.using() as served:
        form, job = await _form(request, state, served, limit=1)
        photo = await _one(state, served, form, job)
        if _MAPS[map_name] not in photo.answer:
            reason = "expected a network that ends in pooling, which alone has maps; the one that is served does not"
            raise Problem(409, "no-maps", reason)
        png = await state.batching.work(_drawn, served, photo, map_name)
        return Response(png, media_type="image/png")


@router.post(
    "/advise", **openapi.route("What would make a photo score higher", schemas.Advised, *openapi.FORM, body=_PHOTO)
)
async def advise(request: Request) -> Response:
    """Return edits that would raise a photo's score, and the results of the upload norms."""
    state = of(request)
    async with state.models.using() as served:
        form, job = await _form(request, state, served, limit=1)
        photo = await _one(state, served, form, job)
        details = await state.batching.work(examine, served, photo)
        advice = await state.advising.advise(served, form.photos[0][1], photo)
        score = {"mean": scores(photo)["mean"], "std": scores(photo)["std"]}
        return json_answer(
            {"model": _model(served), "job": job or None, **score, **details, **advice_queue.told(advice)}
        )


async def _form(request: Request, state: State, served: Served, limit: int = 0) -> tuple[request_body.Form, str]:
    """Return the photos of a form, at least one, and their job. "" means that the job is unknown.

    Raises:
        Problem: 429 if the queue is full; the errors of `request_body.read_form`; 422 for no photo or an unknown job.
    """
    state.batching.check()
    form = await request_body.read_form(request, state, _NAMES, limit or state.settings.photos)
    if not form.photos:
        raise Problem(422, "no-photo", f"expected a photo in the field {_NAMES[bool(limit)]!r}, got none")
    return form, state.job(form.fields.get("job", ""), served)


async def _scored(state: State, served: Served, form: request_body.Form, job: str) -> list[Photo | Problem]:
    return await state.batching.score(served.network, [data for _, data in form.photos], [job])


async def _one(state: State, served: Served, form: request_body.Form, job: str) -> Photo:
    (photo,) = await _scored(state, served, form, job)
    if isinstance(photo, Problem):
        raise photo
    return photo


def examine(served: Served, photo: Photo) -> dict[str, Any]:
    """Return the face and the upload norm results of a scored photo, as JSON."""
    image, portable = photo.image, served.portable
    faces = analysis.faces if (analysis := see(portable, photo)) else None
    values = photo.answer.get("attributes", np.empty(0)).tolist()
    attributes = dict(zip(served.attributes, values, strict=True))
    findings = check.check(portable.norms, image, faces, attributes, photo.size, photo.job)
    return {"face": _face(faces), "norms": [asdict(finding) for finding in findings]}


def _face(faces: Sequence[Face] | None) -> schemas.Face | None:
    """Return the largest face as JSON. None if the version has no face detector."""
    if faces is None:
        return None
    result = {"found": bool(faces), "count": len(faces), "box": None, "confidence": None}
    if faces:
        result |= {"box": [round(side, 4) for side in faces[0].box], "confidence": round(faces[0].confidence, 4)}
    return result


def _ordered(photos: list[tuple[int, Photo]], names: list[str], error: float) -> list[schemas.Ranked]:
    """Return the photos by score, best first, with competition ranks (see `ranks`)."""
    best_first = sorted(photos, key=lambda item: (-float(item[1].answer["mean"]), item[0]))
    scored_photos = [(index, scores(photo)) for index, photo in best_first]
    shared_ranks = ranks([score["mean"] for _, score in scored_photos], error)
    entries = []
    for rank, (index, score) in zip(shared_ranks, scored_photos, strict=True):
        mean = score["mean"]
        low, high = max(1.0, round(mean - error, 6)), min(10.0, round(mean + error, 6))
        entry = {"rank": rank, "index": index, "name": names[index], "mean": mean, "std": score["std"]}
        entries.append({**entry, "low": low, "high": high, "tied": shared_ranks.count(rank) > 1})
    return entries


def _drawn(served: Served, photo: Photo, map_name: str) -> bytes:
    map_values = photo.answer[_MAPS[map_name]]
    return overlay.overlay(photo.jpeg, map_values, seen=served.portable.seen, signed=map_name == "gains", form="PNG")


def _model(served: Served) -> schemas.Model:
    return {"name": served.portable.name, "version": served.portable.version}
