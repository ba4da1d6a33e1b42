"""A published version without TensorFlow: the same answers to the same photos by LiteRT, for servers.

    <version>/portable/  scorer.tflite   ``serving_outputs.fullest`` of the scorer, by Keras; any number of photos
                         portable.json   what its photos have to look like, and what its scores are worth
                         norms.json      the upload norms in force; without it the built-in ones
                         faces/          what finds faces and, where the scorer reads them, embeds them (``embedder``);
                                         without it they are not looked for. Older versions have detector.onnx

A photo takes the way of training: `Portable.normalise` (ingestion's decoding) makes it upright, small and a JPEG,
`Portable.given` finds and reads the face, where the scorer reads faces (``face_inputs``), and scales and crops the
photo (``preprocessing_tf`` again, to the last bit but rounding), `Portable.answer` scores it. Nothing here imports
TensorFlow or Keras: with them a process needs seven times the memory and two seconds more.
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
"""``mean``, ``std`` ``[n]``, ``distribution`` ``[n, 10]`` and, where the network has them, ``heatmap`` and ``gains``
``[n, h, w]`` as of ``serving_outputs.closed_form``, and ``attributes`` ``[n, k]``, each the probability of yes; all
float32."""


@dataclass(frozen=True)
class Portable:
    """A published version, loaded. One thread at a time may let it answer; the rest may be shared.

    Attributes:
        uri: the version's folder.
        version: its number; None when the folder is not named by one.
        name: of the model.
        scale: side of the square that a photo is scaled to, pixels.
        crop: side of its middle that the network reads.
        error: score points by which its scores differed from people's on its test photos (root mean square); None
            where that is not known.
        settings: of ingestion, by which photos are normalised.
        norms: that uploads are held against.
        reader: of faces; None when they are not looked for.
        reads: what the network takes beside pixels.
        jobs: that it can be told.
        attributes: that it has learnt.
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
        """Share of a photo's width and height that the network sees, in the middle."""
        return self.crop / self.scale

    @property
    def detector(self) -> Detector | None:
        """Of faces; None when they are not looked for."""
        return self.reader.detector if self.reader else None

    def normalise(self, data: bytes) -> bytes:
        """A photo in any format as the data set holds photos: upright, sRGB, shrunk, a JPEG.

        Raises:
            components.scorer.imaging.decoding.Unusable: the bytes are no photo, or one too small or too large.
        """
        return decoding.normalise(data, self.settings)

    def pixels(self, photo: bytes | Image.Image) -> np.ndarray:
        """A normalised photo, encoded or opened, as the network reads it: float32 ``[crop, crop, 3]``, 0..255."""
        return pixels(photo, self.scale, self.crop)

    def given(self, photo: bytes | Image.Image, seen: Seen | None = None) -> Given:
        """What the network is given of one normalised photo.

        Args:
            photo: encoded or opened.
            seen: its face, where it was looked for already; without it, it is here, if the network reads faces.
        """
        if not self.reads.faces:
            return {"pixels": self.pixels(photo)}
        image = Image.open(io.BytesIO(photo)).convert("RGB") if isinstance(photo, bytes) else photo
        return {"pixels": self.pixels(image), **self.reads.given(image, seen or self.look(image))}

    def look(self, image: Image.Image, embedded: bool = True) -> Seen | None:
        """The faces on a normalised photo, the largest read where the network reads faces.

        Args:
            image: opened.
            embedded: whether the embedding is needed, where there is one.

        Returns:
            None where faces are not looked for.
        """
        if self.reader is None:
            return None
        return self.reader.read(image, want_embedding=embedded and self.reads.embedding > 0)

    def answer(self, given: Given | np.ndarray, jobs: Sequence[str] | None = None) -> Answers:
        """What the network says.

        Args:
            given: ``pixels`` float32 ``[n, crop, crop, 3]``, 0..255, at least one photo, and what else the network
                reads, see `given` and ``face_inputs.together``; pixels alone where that is all.
            jobs: n names, "" unknown; None: all are. Where it knows no job, all count as unknown.

        Raises:
            ValueError: a shape is another, an input is missing, there are more or fewer jobs than photos, or one is
                not known.
        """
        given = {"pixels": given} if isinstance(given, np.ndarray) else given
        pixels, expected = given["pixels"], (self.crop, self.crop, 3)
        if pixels.ndim != 4 or pixels.shape[1:] != expected or not len(pixels):
            raise ValueError(f"expected photos [n, {self.crop}, {self.crop}, 3], at least one, got {pixels.shape}")
        self._check(given, len(pixels))
        told = {"job": self._numbers(jobs, len(pixels))} if self.jobs or self.attributes else {}
        return self._run(**{name: np.ascontiguousarray(value, "float32") for name, value in given.items()}, **told)

    def _check(self, given: Given, photos: int) -> None:
        """Raise ValueError unless what is given beside pixels is what the network reads."""
        expected = {name: (photos, *shape) for name, shape in self.reads.shapes.items()}
        came = {name: np.shape(value) for name, value in given.items() if name != "pixels"}
        if came != expected:
            raise ValueError(f"expected beside pixels {expected or 'nothing'}, got {came or 'nothing'}")

    def _numbers(self, jobs: Sequence[str] | None, photos: int) -> np.ndarray:
        """The numbers by which the network knows jobs, int32 ``[photos]``."""
        if jobs is None:
            return np.full(photos, UNKNOWN, "int32")
        expect_one_each(jobs, photos)
        expect_known(jobs, self.jobs)
        return numbers(jobs, self.jobs)


def pixels(photo: bytes | Image.Image, scale: int, crop: int) -> np.ndarray:
    """``preprocessing_tf.pixels`` of one photo, without TensorFlow.

    Both decode JPEG by libjpeg's accurate transform, and both scale by a triangle as wide as a pixel of the result:
    Pillow's bilinear filter is TensorFlow's with antialiasing. On 32-bit samples they agree to 0.002 of 255.

    Args:
        photo: upright; its encoded bytes, or opened.
        scale: side of the square that it is scaled to.
        crop: side of its middle that is kept.

    Returns:
        float32 ``[crop, crop, 3]``, 0..255.
    """
    image = Image.open(io.BytesIO(photo)) if isinstance(photo, bytes) else photo
    return resizing.middle(image.convert("RGB"), scale, crop)


def load(uri: str, threads: int = 1) -> Portable:
    """Load a published version.

    Args:
        uri: the version's folder, local, ``gs://`` or ``s3://``; see ``channels.resolve``.
        threads: that one answer may use.

    Raises:
        FileNotFoundError: there is no complete version, or it was published without a portable network.
        ValueError: what is there is not one of ours, or not as it was published.
    """
    if not storage.exists(storage.join(uri, channels.COMPLETE)):
        raise FileNotFoundError(f"expected a published version at {uri}, found no {channels.COMPLETE} in it")
    if not storage.exists(storage.join(uri, FOLDER)):
        raise FileNotFoundError(f"{uri} was published without {FOLDER}/{NETWORK}: publish its scorer again")
    with integrity.local(uri, FOLDER) as folder:
        return _load(uri, folder, threads)


def _load(uri: str, folder: str, threads: int) -> Portable:
    """Load a version of which a local folder has the files."""
    place = storage.join(folder, FOLDER)
    about, network, rules = (_file(place, name) for name in (ABOUT, NETWORK, NORMS))
    if about is None or network is None:
        raise FileNotFoundError(f"{uri} was published without {FOLDER}/{NETWORK}: publish its scorer again")
    try:
        told = json.loads(about)
        reads = Reads(**told["reads"]) if "reads" in told else PHOTO_ALONE
        return Portable(
            uri=uri,
            version=channels.version_of(uri),
            name=told["name"],
            scale=told["scale"],
            crop=told["crop"],
            error=told["error"],
            settings=from_parameters(Ingestion, **told["ingestion"]),
            norms=policy.load(rules),
            reader=reader(folder, reads, threads),
            reads=reads,
            jobs=tuple(told.get("jobs", ())),
            attributes=tuple(told.get("attributes", ())),
            _run=_signature(network, threads, reads),
        )
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"expected a portable network at {uri}/{FOLDER}, which cannot be read: {error}") from error


def reader(uri: str, reads: Reads, threads: int = 1) -> Reader | None:
    """What finds and reads faces for a published version.

    Args:
        uri: the version's folder, local, ``gs://`` or ``s3://``.
        reads: what its network reads of a face.
        threads: that one search or reading may use.

    Returns:
        None where faces are not looked for.

    Raises:
        ValueError: the weights cannot be used, or are not there although the network reads faces.
    """
    place = storage.join(uri, FOLDER)
    found = Reader.load(storage.join(place, embedder.FOLDER), threads)
    if found is None and (weights := _file(place, DETECTOR)):  # of a version older than the folder
        found = Reader(Detector(weights, threads=threads))
    size = found.size if found else 0
    if reads.faces and (found is None or size < reads.embedding):
        raise ValueError(
            f"its network reads faces, so {FOLDER}/{embedder.FOLDER} has to hold what finds them and embeds them in"
            f" {reads.embedding} numbers, got {'no such folder' if found is None else f'{size} numbers'}: publish its"
            " scorer again"
        )
    return found


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
    """What ``portable.json`` holds.

    Args:
        name: of the model.
        scale: side of the square that a photo is scaled to.
        crop: side of its middle that the network reads.
        error: root mean square difference from people's scores on the test photos, points.
        ingestion: settings by which the data set's photos were normalised, by name; the others keep their defaults.
        jobs: that the network can be told, in the order of their numbers from 1 on.
        attributes: that it gives, in their order.
        reads: what the network takes beside pixels; where it reads faces, the stages are told.
        faces: what ``faces.json`` says of the weights.
    """
    normalising = ("minimum_side", "maximum_pixels", "shorter_side", "jpeg_quality")
    settings = {each: (ingestion or {}).get(each, getattr(Ingestion(), each)) for each in normalising}
    given = {"name": name, "scale": scale, "crop": crop, "error": error, "ingestion": settings}
    given |= {"jobs": [*jobs], "attributes": [*attributes]}
    return given | ({"reads": asdict(reads), "stages": _told(reads, settings, faces or {})} if reads.faces else {})


def _told(reads: Reads, normalising: Mapping[str, Any], faces: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The stages in their order, each with what whoever runs it needs; files are beside ``portable.json``."""
    digests, kind = faces.get("sha256", {}), faces.get("kind", "")
    squares = {"embed": {"side": faces.get("side"), "scales": faces.get("scales")}} if reads.embedding else {}
    squares |= {"score": {"side": reads.view, "scale": reads.view_scale}} if reads.view else {}
    told: dict[Stage, dict[str, Any]] = {
        "normalise": dict(normalising),
        "detect": {"file": f"{embedder.FOLDER}/{embedder.DETECTOR}", "sha256": digests.get("detector")},
        "align": squares,
        "embed": {
            "file": f"{embedder.FOLDER}/{embedder.EMBEDDERS.get(kind, '')}",
            "sha256": digests.get("embedder"),
            **{name: faces.get(name) for name in ("preprocessing", "mirror", "size")},
        },
        "score": {"file": NETWORK, "inputs": ["pixels", *reads.inputs]},
    }
    return [{"stage": stage, **told[stage]} for stage in reads.stages]


def _file(place: str, name: str) -> bytes | None:
    """The content of a file of a version; None when it has none of that name."""
    try:
        return storage.read_bytes(storage.join(place, name))
    except FileNotFoundError:
        return None


def _signature(network: bytes, threads: int, reads: Reads) -> Any:
    runner = litert.load(network, threads).get_signature_runner()
    inputs, outputs = set(runner.get_input_details()), set(runner.get_output_details())
    if inputs - {"job"} != {"pixels", *reads.inputs} or not outputs >= {"mean", "std", "distribution"}:
        raise ValueError(f"its signature takes {sorted(inputs)} and gives {sorted(outputs)}")
    return runner
