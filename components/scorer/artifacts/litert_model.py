"""A published version without TensorFlow: the same scores of the same photos by LiteRT, for servers.

    <version>/portable/  scorer.tflite   the network ``serving_outputs.fullest``, exported by Keras; any batch size.
                         portable.json   what preprocessing needs, the jobs and attributes, and the test error.
                         norms.json      the upload norms; without it the built-in norms apply.
                         faces/          face detector and, if the scorer uses embeddings, embedder (``embedder``).
                                         Without it no faces are detected. Older versions have detector.onnx.

A photo is processed as in training:

1. `Portable.normalise` (ingestion's decoding) makes it upright, small and a JPEG.
2. `Portable.given` detects and embeds the face, if the scorer uses faces (``face_inputs``). It also resizes and crops
   the photo, equal to ``preprocessing_tf`` but for rounding.
3. `Portable.answer` scores it.

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
from components.scorer.faces.analyzer import Reader, Seen
from components.scorer.faces.detector import Detector
from components.scorer.faces.face_inputs import PHOTO_ALONE, Given, Reads, Stage
from components.scorer.imaging import decoding, resizing
from components.scorer.jobs import UNKNOWN, expect_known, expect_one_each, numbers
from components.scorer.parameters import from_parameters
from components.scorer.registry import channels, integrity
from components.scorer.settings import Ingestion
from components.scorer.upload_norms import policy
from components.scorer.upload_norms.policy import Norms

FOLDER = "portable"
NETWORK, ABOUT, NORMS, DETECTOR = "scorer.tflite", "portable.json", "norms.json", "detector.onnx"

Answers = dict[str, np.ndarray]
"""Outputs of the network, float32.

``mean`` and ``std`` ``[n]`` and ``distribution`` ``[n, 10]``. If the network has them, also ``heatmap`` and ``gains``
``[n, h, w]`` of ``serving_outputs.closed_form``, and ``attributes`` ``[n, k]``, each the probability of yes.
"""


@dataclass(frozen=True)
class Portable:
    """Loaded LiteRT version. Only one thread at a time may call `answer`; everything else is safe to share.

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
        reader: Face detector and embedder; None if the version detects no faces.
        reads: Specification of the inputs that are computed from the face.
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
    norms: Norms
    reader: Reader | None
    reads: Reads
    jobs: tuple[str, ...]
    attributes: tuple[str, ...]
    _run: Any = field(repr=False)  # the interpreter's signature

    @property
    def seen(self) -> float:
        """Fraction of a photo's width and height that the network sees, a crop from the middle."""
        return self.crop / self.scale

    @property
    def detector(self) -> Detector | None:
        """Face detector; None if the version detects no faces."""
        return self.reader.detector if self.reader else None

    def normalise(self, data: bytes) -> bytes:
        """Convert a photo in any format to the form of the data set: upright, sRGB, shrunk, a JPEG.

        Raises:
            components.scorer.imaging.decoding.Unusable: The bytes are no photo, or the photo is too small or too large.
        """
        return decoding.normalise(data, self.settings)

    def pixels(self, photo: bytes | Image.Image) -> np.ndarray:
        """Return a normalised photo, encoded or opened, as the network's input: float32 ``[crop, crop, 3]``, 0..255."""
        return pixels(photo, self.scale, self.crop)

    def given(self, photo: bytes | Image.Image, seen: Seen | None = None) -> Given:
        """Return the network's inputs for one normalised photo, without a batch axis.

        Args:
            photo: Encoded or opened photo.
            seen: Face analysis of this photo. If None and the network uses faces, the photo is analysed here.
        """
        if not self.reads.faces:
            return {"pixels": self.pixels(photo)}
        image = Image.open(io.BytesIO(photo)).convert("RGB") if isinstance(photo, bytes) else photo
        return {"pixels": self.pixels(image), **self.reads.given(image, seen or self.look(image))}

    def look(self, image: Image.Image, embedded: bool = True) -> Seen | None:
        """Detect the faces on a normalised photo and embed the largest one.

        Args:
            image: Opened photo.
            embedded: False skips the embedding. It is skipped anyway if the network has no such input.

        Returns:
            The analysis; None if the version detects no faces.
        """
        if self.reader is None:
            return None
        return self.reader.read(image, want_embedding=embedded and self.reads.embedding > 0)

    def answer(self, given: Given | np.ndarray, jobs: Sequence[str] | None = None) -> Answers:
        """Run the network on a batch.

        Args:
            given: ``pixels`` float32 ``[n, crop, crop, 3]``, 0..255, at least one photo, and the face inputs; see
                `given` and ``face_inputs.together``. An array alone counts as ``pixels``.
            jobs: Job names, n of them, "" unknown; None: all are unknown. If the network knows no job, all count as
                unknown.

        Raises:
            ValueError: A shape is wrong, an input is missing, the number of jobs is not the number of photos, or a job
                is not known.
        """
        given = {"pixels": given} if isinstance(given, np.ndarray) else given
        pixels, expected = given["pixels"], (self.crop, self.crop, 3)
        if pixels.ndim != 4 or pixels.shape[1:] != expected or not len(pixels):
            raise ValueError(f"expected photos [n, {self.crop}, {self.crop}, 3], at least one, got {pixels.shape}")
        self._check(given, len(pixels))
        job_input = {"job": self._numbers(jobs, len(pixels))} if self.jobs or self.attributes else {}
        return self._run(**{name: np.ascontiguousarray(value, "float32") for name, value in given.items()}, **job_input)

    def _check(self, inputs: Given, photos: int) -> None:
        """Raise ValueError unless the inputs beside pixels are the network's face inputs."""
        expected = {name: (photos, *shape) for name, shape in self.reads.shapes.items()}
        actual = {name: np.shape(value) for name, value in inputs.items() if name != "pixels"}
        if actual != expected:
            raise ValueError(f"expected beside pixels {expected or 'nothing'}, got {actual or 'nothing'}")

    def _numbers(self, jobs: Sequence[str] | None, photos: int) -> np.ndarray:
        """Return the ids of jobs, int32 ``[photos]``."""
        if jobs is None:
            return np.full(photos, UNKNOWN, "int32")
        expect_one_each(jobs, photos)
        expect_known(jobs, self.jobs)
        return numbers(jobs, self.jobs)


def pixels(photo: bytes | Image.Image, scale: int, crop: int) -> np.ndarray:
    """Resize and crop one photo like ``preprocessing_tf.pixels``, without TensorFlow.

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
    return resizing.middle(image.convert("RGB"), scale, crop)


def load(uri: str, threads: int = 1) -> Portable:
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
        raise FileNotFoundError(f"{uri} was published without {FOLDER}/{NETWORK}: publish its scorer again")
    with integrity.local(uri, FOLDER) as folder:
        return _load(uri, folder, threads)


def _load(uri: str, folder: str, threads: int) -> Portable:
    """Load a version whose files are in a local folder."""
    root = storage.join(folder, FOLDER)
    metadata_json, network_bytes, norms_json = (_file(root, name) for name in (ABOUT, NETWORK, NORMS))
    if metadata_json is None or network_bytes is None:
        raise FileNotFoundError(f"{uri} was published without {FOLDER}/{NETWORK}: publish its scorer again")
    try:
        metadata = json.loads(metadata_json)
        face_input_spec = Reads(**metadata["reads"]) if "reads" in metadata else PHOTO_ALONE
        return Portable(
            uri=uri,
            version=channels.version_of(uri),
            name=metadata["name"],
            scale=metadata["scale"],
            crop=metadata["crop"],
            error=metadata["error"],
            settings=from_parameters(Ingestion, **metadata["ingestion"]),
            norms=policy.load(norms_json),
            reader=reader(folder, face_input_spec, threads),
            reads=face_input_spec,
            jobs=tuple(metadata.get("jobs", ())),
            attributes=tuple(metadata.get("attributes", ())),
            _run=_signature(network_bytes, threads, face_input_spec),
        )
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"expected a portable network at {uri}/{FOLDER}, which cannot be read: {error}") from error


def reader(uri: str, reads: Reads, threads: int = 1) -> Reader | None:
    """Load the face detector and embedder of a published version.

    Args:
        uri: Folder of the version, local, ``gs://`` or ``s3://``.
        reads: Specification of the network's face inputs.
        threads: Number of threads of one detection or embedding.

    Returns:
        The face analyzer; None if the version has no detector and uses no faces.

    Raises:
        ValueError: The weights cannot be used, or are missing although the network uses faces.
    """
    root = storage.join(uri, FOLDER)
    loaded = Reader.load(storage.join(root, embedder.FOLDER), threads)
    if loaded is None and (weights := _file(root, DETECTOR)):  # a version from before faces/
        loaded = Reader(Detector(weights, threads=threads))
    size = loaded.size if loaded else 0
    if reads.faces and (loaded is None or size < reads.embedding):
        raise ValueError(
            f"its network reads faces, so {FOLDER}/{embedder.FOLDER} has to hold what finds them and embeds them in"
            f" {reads.embedding} numbers, got {'no such folder' if loaded is None else f'{size} numbers'}: publish its"
            " scorer again"
        )
    return loaded


def about(
    name: str,
    scale: int,
    crop: int,
    error: float | None = None,
    ingestion: Mapping[str, Any] | None = None,
    jobs: Sequence[str] = (),
    attributes: Sequence[str] = (),
    reads: Reads = PHOTO_ALONE,
    faces: Mapping[str, Any] | None = None,
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
        reads: Specification of the face inputs. If there are any, the stages that compute them are included.
        faces: Content of ``faces.json``, which describes the weights.
    """
    normalising = ("minimum_side", "maximum_pixels", "shorter_side", "jpeg_quality")
    settings = {key: (ingestion or {}).get(key, getattr(Ingestion(), key)) for key in normalising}
    metadata = {"name": name, "scale": scale, "crop": crop, "error": error, "ingestion": settings}
    metadata |= {"jobs": [*jobs], "attributes": [*attributes]}
    return metadata | ({"reads": asdict(reads), "stages": _told(reads, settings, faces or {})} if reads.faces else {})


def _told(face_input_spec: Reads, normalising: Mapping[str, Any], faces: Mapping[str, Any]) -> list[dict[str, Any]]:
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
        "score": {"file": NETWORK, "inputs": ["pixels", *face_input_spec.inputs]},
    }
    return [{"stage": stage, **parameters[stage]} for stage in face_input_spec.stages]


def _file(folder: str, name: str) -> bytes | None:
    """Read a file of a version; None if it does not exist."""
    try:
        return storage.read_bytes(storage.join(folder, name))
    except FileNotFoundError:
        return None


def _signature(network: bytes, threads: int, face_input_spec: Reads) -> Any:
    runner = litert.load(network, threads).get_signature_runner()
    inputs, outputs = set(runner.get_input_details()), set(runner.get_output_details())
    if inputs - {"job"} != {"pixels", *face_input_spec.inputs} or not outputs >= {"mean", "std", "distribution"}:
        raise ValueError(f"its signature takes {sorted(inputs)} and gives {sorted(outputs)}")
    return runner
