"""Models of the JSON in requests and responses, for the OpenAPI document.

Pydantic makes the schemas of these models when a client requests the document. The server reads requests and writes
responses without Pydantic, which would take time and change bytes. Tests validate the server's real responses against
the models. Requests may have members that a model does not name; the server ignores them. Later releases may add
members to responses.
"""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field, with_config
from typing_extensions import TypedDict  # Python's own tells Pydantic too little before 3.12

from components.scorer.advice.edits import EditName
from components.scorer.advice.search import RejectionReason
from components.scorer.faces.face_inputs import Stage
from images.serving import problem_details

BLACK_PHOTO = "UklGRhYAAABXRUJQVlA4TAkAAAAvP8APAIiI/gcA"
"""The smallest accepted photo, a black WebP in base64. Examples with this photo can be sent unchanged."""

EXAMPLE_VOTES = [0.0, 0.01, 0.03, 0.08, 0.15, 0.24, 0.26, 0.15, 0.06, 0.02]

UNREADABLE_EXAMPLE = problem_details.ProblemDetails(
    422, "photo-unreadable", "cut off or damaged: the last rows of the JPEG are missing"
).to_document()

Signature = Literal["serving_default", "with_job"]
Output = Literal["mean", "std", "distribution"]


def _member(example: Any, description: str | None = None, **more: Any) -> Any:
    """Return a member's example and description. Examples of whole responses are composed from members' examples."""
    return Field(examples=[example], description=description, **more)


class Problem(TypedDict):
    """A problem document (RFC 9457)."""

    type: Annotated[str, _member(UNREADABLE_EXAMPLE["type"])]
    title: Annotated[str, _member(UNREADABLE_EXAMPLE["title"])]
    status: Annotated[int, _member(UNREADABLE_EXAMPLE["status"])]
    detail: Annotated[str, _member(UNREADABLE_EXAMPLE["detail"])]
    error: Annotated[
        str,
        _member(UNREADABLE_EXAMPLE["error"], "the detail again, for clients of TensorFlow Serving, KServe and Triton"),
    ]
    limit: NotRequired[Annotated[int, Field(description="what came was more")]]
    index: NotRequired[Annotated[int, Field(description="the photo that failed the request, from 0")]]
    jobs: NotRequired[Annotated[list[str], Field(description="those that are known")]]


# ---- product


class Model(TypedDict):
    """The model that answered."""

    name: Annotated[str, _member("portraits")]
    version: Annotated[int | None, _member(3, "null: it has no number")]


class Norm(TypedDict):
    """An upload norm."""

    key: Annotated[str, _member("too_dark")]
    sentence: Annotated[str, _member("Your photo is too dark. Take it again by a window.")]


class Limits(TypedDict):
    """The limits of a request."""

    photos: Annotated[int, _member(32)]
    bytes: Annotated[int, _member(33554432)]
    pixels: Annotated[int, _member(50000000, "of a photo")]
    seconds: Annotated[float, _member(30.0, "that its body may take")]


class About(Model):
    """The model, its jobs, norms, stages and limits."""

    channel: Annotated[str | None, _member("champion", "null: none is followed")]
    jobs: Annotated[list[str], _member(["tutor", "child care"])]
    attributes: Annotated[list[str], _member(["sunglasses"])]
    error: Annotated[float | None, _member(0.7, "of a score, in score points")]
    faces: Annotated[bool, _member(True, "whether faces are looked for")]
    stages: Annotated[
        list[Stage],
        _member(["normalise", "detect", "align", "embed", "score"], "what a photo goes through, in this order"),
    ]
    norms: list[Norm]
    limits: Limits


class Face(TypedDict):
    """The largest face. null if the model has no face detector."""

    found: Annotated[bool, _member(True)]
    count: Annotated[int, _member(1)]
    box: Annotated[
        Annotated[list[float], Field(min_length=4, max_length=4)] | None,
        _member([0.31, 0.18, 0.36, 0.41], "x, y, width, height, as shares of the photo's"),
    ]
    confidence: Annotated[float | None, _member(0.93)]


class Finding(TypedDict):
    """The result of one upload norm for one photo."""

    key: Annotated[str, _member("too_dark")]
    kept: Annotated[bool | None, _member(False, "null: it could not be checked, for the reason in why")]
    value: Annotated[float | None, _member(2.4)]
    threshold: Annotated[float, _member(1.9)]
    sentence: Annotated[
        str,
        _member(
            "Your photo is too dark. Take it again by a window.",
            "what the person reads; empty unless the norm is broken",
        ),
    ]
    why: Annotated[str, _member("")]


class Photo(TypedDict):
    """One of the photos of a request."""

    index: Annotated[int, _member(0)]
    name: Annotated[str, _member("me.jpg", "of the file, as it was sent")]


class Scores(TypedDict):
    """Mean and standard deviation of the votes, and the share of votes for each score from 1 to 10."""

    mean: Annotated[float, _member(6.3, ge=1, le=10)]
    std: Annotated[float, _member(1.59, ge=0)]
    distribution: Annotated[list[float], _member(EXAMPLE_VOTES, min_length=10, max_length=10)]


class Scored(Photo, Scores):
    """A photo that was scored."""

    error: Annotated[float | None, _member(0.7)]
    face: Face | None
    norms: list[Finding]


class Failed(Photo):
    """A photo that could not be read."""

    problem: Problem


class ScoredPhotos(TypedDict):
    """The scores in the order of the photos. A photo that cannot be read has a problem instead of scores."""

    model: Model
    job: Annotated[str | None, _member("tutor")]
    photos: list[Scored | Failed]


class Ranked(Photo):
    """A photo with its rank."""

    rank: Annotated[int, _member(1)]
    mean: Annotated[float, _member(7.4)]
    std: Annotated[float, _member(1.3)]
    low: Annotated[float, _member(6.7, "the mean less its error")]
    high: Annotated[float, _member(8.1, "the mean and its error")]
    tied: Annotated[bool, _member(False, "whether another photo shares the rank")]


class RankedPhotos(TypedDict):
    """The photos by score, best first. A photo within the error of a rank's best photo shares that rank (1, 1, 3)."""

    model: Model
    job: Annotated[str | None, _member("tutor")]
    order: list[Ranked]
    problems: list[Failed]


class NothingScored(Problem, ScoredPhotos):
    """The problem that no photo can be read, with the problem of each photo."""


class NothingRanked(Problem, RankedPhotos):
    """The problem that no photo can be read, with the problem of each photo."""


class Gain(TypedDict):
    """The gain of an edit."""

    gain: Annotated[float, _member(0.6, "score points")]
    error: Annotated[float, _member(0.05, "standard error of the gain")]
    mean: Annotated[float, _member(6.9)]
    sentence: Annotated[str, _member("Brighten the photo a little (about half a stop): it would score 0.6 higher.")]
    preview: Annotated[str, _member("data:image/jpeg;base64,/9j/4AAQ…", "the edited photo, as a data: address")]


class Suggestion(Gain):
    """One suggested edit."""

    edit: Annotated[EditName, _member("brightness")]
    value: Annotated[float, _member(0.5)]
    unit: Annotated[str, _member("stops")]


class Together(Gain):
    """Several edits together, if they gain more than any single one."""

    settings: Annotated[dict[EditName, float], _member({"brightness": 0.5})]


class Refused(TypedDict):
    """A rejected edit: its gain could not be confirmed, or it could not be tried."""

    edit: Annotated[EditName, _member("crop")]
    value: Annotated[float | None, _member(10.0, "null: it could not be tried")]
    why: Annotated[RejectionReason, _member("noise")]
    reason: Annotated[str, _member("Its gain of 0.10 is not beyond the scorer's own noise on this photo.")]


class Advised(TypedDict):
    """Suggested edits, the largest gain first, their combination, and the rejected edits."""

    model: Model
    job: Annotated[str | None, _member("tutor")]
    mean: Annotated[float, _member(6.3)]
    std: Annotated[float, _member(1.59)]
    face: Face | None
    norms: list[Finding]
    advice: list[Suggestion]
    together: Together | None
    refused: list[Refused]


@with_config(extra="forbid")
class PhotosForm(TypedDict):
    """Photos and, optionally, their job."""

    photos: Annotated[list[bytes], Field(min_length=1)]
    job: NotRequired[str]


@with_config(extra="forbid")
class PhotoForm(TypedDict):
    """A photo and, optionally, its job."""

    photo: bytes
    job: NotRequired[str]


# ---- TensorFlow Serving, KServe v1, SageMaker


class Base64(TypedDict):
    """A photo's bytes."""

    b64: Annotated[str, _member(BLACK_PHOTO)]


class Bare(Base64):
    """A photo and its job."""

    job: NotRequired[Annotated[str, _member("tutor")]]


class Named(TypedDict):
    """A photo and its job, under the names of the model's inputs."""

    image_bytes: Base64
    job: NotRequired[Annotated[str, _member("tutor")]]


class Rows(TypedDict):
    """Photos as rows."""

    instances: Annotated[list[Named | Bare], Field(min_length=1)]
    signature_name: NotRequired[Signature]


class Lists(TypedDict):
    """The model's inputs, each as a list."""

    image_bytes: Annotated[list[Base64], Field(min_length=1)]
    job: NotRequired[list[str]]


class Columns(TypedDict):
    """The photos as columns."""

    inputs: Lists | list[Named | Bare]
    signature_name: NotRequired[Signature]


class ScoresOfAll(TypedDict):
    """The scores as columns."""

    mean: list[float]
    std: list[float]
    distribution: list[list[float]]


class PredictedRows(TypedDict):
    """The scores as rows."""

    predictions: list[Scores]


class PredictedColumns(TypedDict):
    """The scores as columns, for a request with columns."""

    outputs: ScoresOfAll


class FailedLine(TypedDict):
    """The error of a line that cannot be scored."""

    error: Annotated[str, _member(UNREADABLE_EXAMPLE["detail"])]
    problem: Problem


class PredictedLines(TypedDict):
    """A score or an error for each line of a JSON lines request that accepts JSON."""

    predictions: list[Scores | FailedLine]


class Models(TypedDict):
    """The names of the models."""

    models: Annotated[list[str], _member(["portraits"])]


class Well(TypedDict):
    """The status without an error."""

    error_code: Annotated[str, _member("OK")]
    error_message: Annotated[str, _member("")]


class VersionStatus(TypedDict):
    """The status of a version."""

    version: Annotated[str, _member("3")]
    state: Annotated[str, _member("AVAILABLE")]
    status: Well


class Status(TypedDict):
    """The status of the served version."""

    model_version_status: list[VersionStatus]
    name: Annotated[str, _member("portraits", "for clients of KServe, as ready is")]
    ready: Annotated[bool, _member(True)]


class ModelSpec(TypedDict):
    """Name, signature and version of the model."""

    name: Annotated[str, _member("portraits")]
    signature_name: Annotated[str, _member("")]
    version: Annotated[str, _member("3")]


class Size(TypedDict):
    """The size of one dimension of a tensor."""

    size: Annotated[str, Field(description="-1: any")]
    name: str


class Shape(TypedDict):
    """The shape of a tensor."""

    dim: list[Size]
    unknown_rank: bool


class Tensor(TypedDict):
    """A tensor of the model."""

    dtype: Literal["DT_STRING", "DT_FLOAT"]
    tensor_shape: Shape
    name: str


class Signed(TypedDict):
    """The inputs and outputs of a signature."""

    inputs: dict[str, Tensor]
    outputs: dict[Output, Tensor]
    method_name: str


def _tensor(dtype: str, name: str) -> dict[str, Any]:
    shape = {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False}
    return {name: {"dtype": dtype, "tensor_shape": shape, "name": f"serving_default_{name}:0"}}


_SIGNATURE_EXAMPLE = {
    "inputs": _tensor("DT_STRING", "image_bytes"),
    "outputs": _tensor("DT_FLOAT", "mean"),
    "method_name": "tensorflow/serving/predict",
}


class Metadata(TypedDict):
    """The model's signature, in the form of TensorFlow Serving."""

    model_spec: ModelSpec
    metadata: Annotated[
        dict[Literal["signature_def"], dict[Literal["signature_def"], dict[Literal["serving_default"], Signed]]],
        _member({"signature_def": {"signature_def": {"serving_default": _SIGNATURE_EXAMPLE}}}),
    ]


# ---- Open Inference


class Server(TypedDict):
    """The server's name and extensions."""

    name: Annotated[str, _member("portrait-scorer")]
    version: Annotated[str, _member("1")]
    extensions: Annotated[list[str], _member(["binary_tensor_data"])]


class Live(TypedDict):
    """The process answers."""

    live: Annotated[bool, _member(True)]


class Ready(TypedDict):
    """A version answers."""

    ready: Annotated[bool, _member(True)]


class NotReady(TypedDict):
    """No version answers."""

    ready: Annotated[bool, _member(False)]
    error: Annotated[str, _member("no version answers yet, or the server is about to end")]


class ModelReady(TypedDict):
    """The model answers."""

    name: Annotated[str, _member("portraits")]
    ready: Annotated[bool, _member(True)]


class TensorMetadata(TypedDict):
    """A tensor of the model."""

    name: Annotated[str, _member("image_bytes")]
    datatype: Annotated[str, _member("BYTES")]
    shape: Annotated[list[int], _member([-1], "-1: any")]


class ModelMetadata(TypedDict):
    """The model's inputs and outputs."""

    name: Annotated[str, _member("portraits")]
    versions: Annotated[list[str], _member(["3"])]
    platform: Annotated[str, _member("litert")]
    inputs: list[TensorMetadata]
    outputs: Annotated[list[TensorMetadata], _member([{"name": "mean", "datatype": "FP32", "shape": [-1]}])]


class InputTensor(TypedDict):
    """Photos or jobs: in data (photos as base64), or after the JSON if the parameters have binary_data_size."""

    name: Annotated[Literal["image_bytes", "job"], _member("image_bytes")]
    shape: Annotated[list[int], _member([1], min_length=1, max_length=2)]
    datatype: Annotated[Literal["BYTES"], _member("BYTES")]
    parameters: NotRequired[dict[str, Any]]
    data: NotRequired[Annotated[list[str] | list[list[str]], _member([BLACK_PHOTO])]]


class RequestedOutput(TypedDict):
    """A requested output."""

    name: Output
    parameters: NotRequired[Annotated[dict[str, Any], Field(description="binary_data: whether it is to be binary")]]


class Infer(TypedDict):
    """Photos as tensors."""

    id: NotRequired[str]
    inputs: Annotated[list[InputTensor], Field(min_length=1)]
    outputs: NotRequired[Annotated[list[RequestedOutput], Field(description="by default all")]]
    parameters: NotRequired[Annotated[dict[str, Any], Field(description="binary_data_output: as of every output")]]


class OutputTensor(TypedDict):
    """One output for all photos: in data, or after the JSON if the parameters have binary_data_size."""

    name: Annotated[Output, _member("mean")]
    datatype: Annotated[Literal["FP32"], _member("FP32")]
    shape: Annotated[list[int], _member([1])]
    parameters: NotRequired[dict[Literal["binary_data_size"], int]]
    data: NotRequired[Annotated[list[float], _member([6.3])]]


class Inferred(TypedDict):
    """The scores, with binary tensors if the request asks for them."""

    model_name: Annotated[str, _member("portraits")]
    model_version: Annotated[str, _member("3")]
    id: NotRequired[str]
    outputs: list[OutputTensor]


# ---- operation


class Readiness(TypedDict):
    """The readiness of the server: whether it accepts requests, and if not, why."""

    ready: Annotated[bool, _member(True)]
    version: Annotated[str | None, _member("3")]
    draining: Annotated[bool, _member(False, "whether the server is about to end")]
    failing: Annotated[bool, _member(False, "whether the version that is wanted cannot be loaded")]
