"""A published version without TensorFlow: the same scores of the same photos by LiteRT, for servers.

    <version>/portable/  scorer.tflite   the network ``serving_outputs.build_serving_model``, exported by Keras;
                                         any batch size.
                         portable.json   what preprocessing needs, the jobs and attributes, and the test error.
                         norms.json      the upload norms; without it the built-in norms apply.
                         faces/          face detector and, if the scorer uses embeddings, embedder (``embedder``).
                                         Without it no faces are detected.

A photo is processed as in training:

1. `LiteRTScorer.normalise` (ingestion's decoding) makes it upright, small and a JPEG.
2. `LiteRTScorer.build_inputs` detects and embeds the face, if the scorer uses faces (``face_inputs``). It also
   resizes and crops the photo, equal to ``preprocessing_tf`` but for rounding.
3. `LiteRTScorer.predict` scores it.

Nothing here imports TensorFlow or Keras: with them a process needs seven times the memory and starts two seconds later.
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from components.scorer import litert, storage
from components.scorer.faces import embedder
from components.scorer.faces.analyzer import FaceAnalysis, FaceAnalyzer
from components.scorer.faces.detector import FaceDetector
from components.scorer.faces.face_inputs import NO_FACE_INPUTS, FaceInputSpec, NamedInputs, Stage
from components.scorer.imaging import decoding, resizing
from components.scorer.jobs import UNKNOWN, check_job_count, check_jobs_known, to_job_ids
from components.scorer.parameters import from_parameters
from components.scorer.registry import channels, integrity
from components.scorer.settings import Ingestion
from components.scorer.upload_norms import policy
from components.scorer.upload_norms.policy import UploadPolicy

FOLDER = "portable"
NETWORK_FILE, METADATA_FILE, NORMS_FILE = "scorer.tflite", "portable.json", "norms.json"

ScoreOutputs = dict[str, np.ndarray]
"""Outputs of the network, float32.

``mean`` and ``std`` ``[n]`` and ``distribution`` ``[n, 10]``. If the network has them, also ``heatmap`` and ``gains``
``[n, h, w]`` of ``serving_outputs.build_cam_model``, and ``attributes`` ``[n, k]``, each the probability of yes.
"""


@dataclass(frozen=True)
class LiteRTScorer:
    """Loaded LiteRT version. Only one thread at a time may call `predict`; everything else is safe to share.

    Attributes:
        uri: Folder of the version.
        version: Version number; None if the folder is not named by a number.
        name: Name of the model.
        scale: Side of the square that a photo is resized to, pixels.
        crop: Side of the crop from its middle that the network reads, pixels.
        error: Root mean square difference between its scores and people's on the test photos, score points; None if
            unknown.
        settings: Ingestion settings that normalise photos.
        norms: Upload norms that photos are checked against.
        face_analyzer: Face detector and embedder; None if the version detects no faces.
        face_input_spec: Specification of the inputs that are computed from the face.
        jobs: Names of the known jobs, in the order of their ids from 1 on.
        attributes: Names of the predicted attributes, in the order of the outputs.
    """

    uri: str
    version: int | None
    name: str
    scale: int
    crop: int
    error: float | None
    settings: Ingestion
    norms: UploadPolicy
    face_analyzer: FaceAnalyzer | None
    face_input_spec: FaceInputSpec
    jobs: tuple[str, ...]
    attributes: tuple[str, ...]
    _runner: Any = field(repr=False)  # the interpreter's signature

    @property
    def visible_fraction(self) -> float:
        """Fraction of a photo's width and height that the network sees, a crop from the middle."""
        return self.crop / self.scale

    @property
    def detector(self) -> FaceDetector | None:
        """Face detector; None if the version detects no faces."""
        return self.face_analyzer.detector if self.face_analyzer else None

    def normalise(self, data: bytes) -> bytes:
        """Convert a photo in any format to the form of the data set: upright, sRGB, shrunk, a JPEG.

        Raises:
            components.scorer.imaging.decoding.UnusablePhotoError: The bytes are no photo, or the photo is too small or
            too large.
        """
        return decoding.normalise(data, self.settings)

    def pixels(self, photo: bytes | Image.Image) -> np.ndarray:
        """Return a normalised photo, encoded or opened, as the network's input: float32 ``[crop, crop, 3]``, 0..255."""
        return pixels(photo, self.scale, self.crop)

    def build_inputs(self, photo: bytes | Image.Image, analysis: FaceAnalysis | None = None) -> NamedInputs:
        """Return the network's inputs for one normalised photo, without a batch axis.

        Args:
            photo: Encoded or opened photo.
            analysis: Face analysis of this photo. If None and the network uses faces, the photo is analysed here.
        """
        if not self.face_input_spec.uses_faces:
            return {"pixels": self.pixels(photo)}
        image = Image.open(io.BytesIO(photo)).convert("RGB") if isinstance(photo, bytes) else photo
        analysis = analysis or self.analyze_faces(image)
        assert analysis is not None  # `load_face_analyzer` refuses a scorer that uses faces without their analyser
        return {"pixels": self.pixels(image), **self.face_input_spec.build(image, analysis)}

    def analyze_faces(self, image: Image.Image, embed: bool = True) -> FaceAnalysis | None:
        """Detect the faces on a normalised photo and embed the largest one.

        Args:
            image: Opened photo.
            embed: False skips the embedding. It is skipped anyway if the network has no such input.

        Returns:
            The analysis; None if the version detects no faces.
        """
        if self.face_analyzer is None:
            return None
        return self.face_analyzer.analyze(image, embed=embed and self.face_input_spec.embedding > 0)

    def predict(self, inputs: NamedInputs | np.ndarray, jobs: Sequence[str] | None = None) -> ScoreOutputs:
        """Run the network on a batch.

        Args:
            inputs: ``pixels`` float32 ``[n, crop, crop, 3]``, 0..255, at least one photo, and the face inputs; see
                `inputs` and ``face_inputs.stack_inputs``. An array alone counts as ``pixels``.
            jobs: Job names, n of them, "" unknown; None: all are unknown. If the network knows no job, all count as
                unknown.

        Raises:
            ValueError: A shape is wrong, an input is missing, the number of jobs is not the number of photos, or a job
                is not known.
        """
        inputs = {"pixels": inputs} if isinstance(inputs, np.ndarray) else inputs
        pixels, expected = inputs["pixels"], (self.crop, self.crop, 3)
        if pixels.ndim != 4 or pixels.shape[1:] != expected or not len(pixels):
            raise ValueError(f"expected photos [n, {self.crop}, {self.crop}, 3], at least one, got {pixels.shape}")
        self._check_face_inputs(inputs, len(pixels))
        job_input = {"job": self._job_ids(jobs, len(pixels))} if self.jobs or self.attributes else {}
        return self._runner(
            **{name: np.ascontiguousarray(value, "float32") for name, value in inputs.items()}, **job_input
        )

    def _check_face_inputs(self, inputs: NamedInputs, photos: int) -> None:
        """Raise ValueError unless the inputs beside pixels are the network's face inputs."""
        expected = {name: (photos, *shape) for name, shape in self.face_input_spec.shapes.items()}
        actual = {name: np.shape(value) for name, value in inputs.items() if name != "pixels"}
        if actual != expected:
            raise ValueError(f"expected beside pixels {expected or 'nothing'}, got {actual or 'nothing'}")

    def _job_ids(self, jobs: Sequence[str] | None, photos: int) -> np.ndarray:
        """Return the ids of jobs, int32 ``[photos]``."""
        if jobs is None:
            return np.full(photos, UNKNOWN, "int32")
        check_job_count(jobs, photos)
        check_jobs_known(jobs, self.jobs)
        return to_job_ids(jobs, self.jobs)


def pixels(photo: bytes | Image.Image, scale: int, crop: int) -> np.ndarray:
    """Resize and crop one photo like ``preprocessing_tf.preprocess_photos``, without TensorFlow.

    Both decode JPEG with libjpeg's accurate DCT, and both resize with a triangle filter as wide as a pixel of the
    result: Pillow's bilinear filter is TensorFlow's with antialiasing. On 32-bit samples they agree to 0.002 of 255.

    Args:
        photo: Upright photo, encoded or opened.
        scale: Side of the square that the photo is resized to, pixels.
        crop: Side of the crop from its middle, pixels.

    Returns:
        float32 ``[crop, crop, 3]``, 0..255.
    """
    image = Image.open(io.BytesIO(photo)) if isinstance(photo, bytes) else photo
    return resizing.resize_and_center_crop(image.convert("RGB"), scale, crop)


def load(uri: str, threads: int = 1) -> LiteRTScorer:
    """Load a published version.

    Args:
        uri: Folder of the version, local, ``gs://`` or ``s3://``; see ``channels.resolve``.
        threads: Number of threads of one call.

    Raises:
        FileNotFoundError: There is no complete version, or it was published without a LiteRT network.
        ValueError: The files are not a LiteRT version, or differ from those that were published.
    """
    if not storage.exists(storage.join(uri, channels.COMPLETE)):
        raise FileNotFoundError(f"expected a published version at {uri}, found no {channels.COMPLETE} in it")
    if not storage.exists(storage.join(uri, FOLDER)):
        raise FileNotFoundError(f"{uri} was published without {FOLDER}/{NETWORK_FILE}: publish its scorer again")
    with integrity.local_copy(uri, FOLDER) as folder:
        return _load(uri, folder, threads)


def _load(uri: str, folder: str, threads: int) -> LiteRTScorer:
    """Load a version whose files are in a local folder."""
    root = storage.join(folder, FOLDER)
    metadata_json, network_bytes, norms_json = (
        _read_optional(root, name) for name in (METADATA_FILE, NETWORK_FILE, NORMS_FILE)
    )
    if metadata_json is None or network_bytes is None:
        raise FileNotFoundError(f"{uri} was published without {FOLDER}/{NETWORK_FILE}: publish its scorer again")
    try:
        metadata = json.loads(metadata_json)
        face_input_spec = FaceInputSpec(**metadata["reads"]) if "reads" in metadata else NO_FACE_INPUTS
        return LiteRTScorer(
            uri=uri,
            version=channels.version_of(uri),
            name=metadata["name"],
            scale=metadata["scale"],
            crop=metadata["crop"],
            error=metadata["error"],
            settings=from_parameters(Ingestion, **metadata["ingestion"]),
            norms=policy.load(norms_json),
            face_analyzer=load_face_analyzer(folder, face_input_spec, threads),
            face_input_spec=face_input_spec,
            jobs=tuple(metadata.get("jobs", ())),
            attributes=tuple(metadata.get("attributes", ())),
            _runner=_signature_runner(network_bytes, threads, face_input_spec),
        )
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"expected a portable network at {uri}/{FOLDER}, which cannot be read: {error}") from error


def load_face_analyzer(uri: str, face_input_spec: FaceInputSpec, threads: int = 1) -> FaceAnalyzer | None:
    """Load the face detector and embedder of a published version.

    Args:
        uri: Folder of the version, local, ``gs://`` or ``s3://``.
        face_input_spec: Specification of the network's face inputs.
        threads: Number of threads of one detection or embedding.

    Returns:
        The face analyzer; None if the version has no detector and uses no faces.

    Raises:
        ValueError: The weights cannot be used, or are missing although the network uses faces.
    """
    root = storage.join(uri, FOLDER)
    loaded = FaceAnalyzer.load(storage.join(root, embedder.FOLDER), threads)
    size = loaded.size if loaded else 0
    if face_input_spec.uses_faces and (loaded is None or size < face_input_spec.embedding):
        raise ValueError(
            f"its network reads faces, so {FOLDER}/{embedder.FOLDER} has to hold what finds them and embeds them in"
            f" {face_input_spec.embedding} numbers, got {'no such folder' if loaded is None else f'{size} numbers'}:"
            " publish its scorer again"
        )
    return loaded


def build_metadata(
    name: str,
    scale: int,
    crop: int,
    error: float | None = None,
    ingestion: Mapping[str, Any] | None = None,
    jobs: Sequence[str] = (),
    attributes: Sequence[str] = (),
    face_input_spec: FaceInputSpec = NO_FACE_INPUTS,
    face_metadata: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the content of ``portable.json``.

    Args:
        name: Name of the model.
        scale: Side of the square that a photo is resized to, pixels.
        crop: Side of the crop from its middle that the network reads, pixels.
        error: Root mean square difference from people's scores on the test photos, score points; None if unknown.
        ingestion: Settings that normalised the data set's photos, by name; missing ones get their defaults.
        jobs: Names of the known jobs, in the order of their ids from 1 on.
        attributes: Names of the predicted attributes, in the order of the outputs.
        face_input_spec: Specification of the face inputs. If there are any, the stages that compute them are included.
        face_metadata: Content of ``faces.json``, which describes the weights.
    """
    normalising = ("minimum_side", "maximum_pixels", "shorter_side", "jpeg_quality")
    settings = {key: (ingestion or {}).get(key, getattr(Ingestion(), key)) for key in normalising}
    metadata = {"name": name, "scale": scale, "crop": crop, "error": error, "ingestion": settings}
    metadata |= {"jobs": [*jobs], "attributes": [*attributes]}
    return metadata | (
        {"reads": asdict(face_input_spec), "stages": _stage_entries(face_input_spec, settings, face_metadata or {})}
        if face_input_spec.uses_faces
        else {}
    )


def _stage_entries(
    face_input_spec: FaceInputSpec, normalising: Mapping[str, Any], faces: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return the stages of preprocessing in their order, each with its parameters.

    File names are relative to the folder of ``portable.json``.
    """
    digests, kind = faces.get("sha256", {}), faces.get("kind", "")
    squares = {"embed": {"side": faces.get("side"), "scales": faces.get("scales")}} if face_input_spec.embedding else {}
    squares |= (
        {"score": {"side": face_input_spec.view, "scale": face_input_spec.view_scale}} if face_input_spec.view else {}
    )
    parameters: dict[Stage, dict[str, Any]] = {
        "normalise": dict(normalising),
        "detect": {"file": f"{embedder.FOLDER}/{embedder.DETECTOR}", "sha256": digests.get("detector")},
        "align": squares,
        "embed": {
            "file": f"{embedder.FOLDER}/{embedder.EMBEDDERS.get(kind, '')}",
            "sha256": digests.get("embedder"),
            **{name: faces.get(name) for name in ("preprocessing", "mirror", "size")},
        },
        "score": {"file": NETWORK_FILE, "inputs": ["pixels", *face_input_spec.inputs]},
    }
    return [{"stage": stage, **parameters[stage]} for stage in face_input_spec.stages]


def _read_optional(folder: str, name: str) -> bytes | None:
    """Read a file of a version; None if it does not exist."""
    try:
        return storage.read_bytes(storage.join(folder, name))
    except FileNotFoundError:
        return None


def _signature_runner(network: bytes, threads: int, face_input_spec: FaceInputSpec) -> Any:
    runner = litert.load_interpreter(network, threads).get_signature_runner()
    inputs, outputs = set(runner.get_input_details()), set(runner.get_output_details())
    if inputs - {"job"} != {"pixels", *face_input_spec.inputs} or not outputs >= {"mean", "std", "distribution"}:
        raise ValueError(f"its signature takes {sorted(inputs)} and gives {sorted(outputs)}")
    return runner
