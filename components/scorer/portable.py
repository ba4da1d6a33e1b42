"""A published version without TensorFlow: the same answers to the same photos by LiteRT, for servers.

    <version>/portable/  scorer.tflite   ``answers.fullest`` of the scorer, exported by Keras; any number of photos
                         portable.json   what its photos have to look like, and what its scores are worth

A photo takes the way of training: `Portable.normalise` (ingestion's decoding) makes it upright, small and a JPEG,
`Portable.pixels` (``preprocessing`` again, to the last bit but rounding) scales and crops it, `Portable.answer` scores
it. Nothing here imports TensorFlow or Keras: with them a process needs seven times the memory and two seconds more.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

from components.scorer import channels, decoding, storage
from components.scorer.settings import Ingestion, from_parameters

FOLDER = "portable"
NETWORK, ABOUT = "scorer.tflite", "portable.json"

Answers = dict[str, np.ndarray]
"""``mean``, ``std`` ``[n]``, ``distribution`` ``[n, 10]`` and, where the network has them, ``heatmap`` and ``gains``
``[n, h, w]`` as of ``answers.closed_form``; all float32."""


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
    """

    uri: str
    version: int | None
    name: str
    scale: int
    crop: int
    error: float | None
    settings: Ingestion
    _run: Any = field(repr=False)  # the interpreter's signature

    @property
    def seen(self) -> float:
        """Share of a photo's width and height that the network sees, in the middle."""
        return self.crop / self.scale

    def normalise(self, data: bytes) -> bytes:
        """A photo in any format as the data set holds photos: upright, sRGB, shrunk, a JPEG.

        Raises:
            components.scorer.decoding.Unusable: the bytes are no photo, or one too small or too large.
        """
        return decoding.normalise(data, self.settings)

    def pixels(self, photo: bytes | Image.Image) -> np.ndarray:
        """A normalised photo, encoded or opened, as the network reads it: float32 ``[crop, crop, 3]``, 0..255."""
        return pixels(photo, self.scale, self.crop)

    def answer(self, pixels: np.ndarray) -> Answers:
        """What the network says.

        Args:
            pixels: float32 ``[n, crop, crop, 3]``, 0..255, at least one photo.

        Raises:
            ValueError: the shape is another.
        """
        expected = (self.crop, self.crop, 3)
        if pixels.ndim != 4 or pixels.shape[1:] != expected or not len(pixels):
            raise ValueError(f"expected photos [n, {self.crop}, {self.crop}, 3], at least one, got {pixels.shape}")
        return self._run(pixels=np.ascontiguousarray(pixels, "float32"))


def pixels(photo: bytes | Image.Image, scale: int, crop: int) -> np.ndarray:
    """``preprocessing.pixels`` of one photo, without TensorFlow.

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
    margin = (scale - crop) // 2
    box = (margin, margin, margin + crop, margin + crop)
    result = np.empty((crop, crop, 3), "float32")
    for place, channel in enumerate(image.convert("RGB").split()):
        square = channel.convert("F").resize((scale, scale), Image.Resampling.BILINEAR)
        result[..., place] = square.crop(box)
    return result


def load(uri: str, threads: int = 1) -> Portable:
    """Load a published version.

    Args:
        uri: the version's folder, local, ``gs://`` or ``s3://``; see ``channels.resolve``.
        threads: that one answer may use.

    Raises:
        FileNotFoundError: there is no complete version, or it was published without a portable network.
        ValueError: what is there is not one of ours.
    """
    if not storage.exists(storage.join(uri, channels.COMPLETE)):
        raise FileNotFoundError(f"expected a published version at {uri}, found no {channels.COMPLETE} in it")
    place = storage.join(uri, FOLDER)
    try:
        about, network = storage.read_json(storage.join(place, ABOUT)), storage.read_bytes(storage.join(place, NETWORK))
    except FileNotFoundError:
        raise FileNotFoundError(f"{uri} was published without {FOLDER}/{NETWORK}: publish its scorer again") from None
    last = uri.rstrip("/").rsplit("/", 1)[-1]
    try:
        return Portable(
            uri,
            int(last) if last.isdecimal() else None,
            about["name"],
            about["scale"],
            about["crop"],
            about["error"],
            from_parameters(Ingestion, **about["ingestion"]),
            _signature(network, threads),
        )
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"expected a portable network at {place}, which cannot be read: {error}") from error


def about(
    name: str, scale: int, crop: int, error: float | None = None, ingestion: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What ``portable.json`` holds.

    Args:
        name: of the model.
        scale: side of the square that a photo is scaled to.
        crop: side of its middle that the network reads.
        error: root mean square difference from people's scores on the test photos, points.
        ingestion: settings by which the data set's photos were normalised, by name; the others keep their defaults.
    """
    normalising = ("minimum_side", "maximum_pixels", "shorter_side", "jpeg_quality")
    settings = {each: (ingestion or {}).get(each, getattr(Ingestion(), each)) for each in normalising}
    return {"name": name, "scale": scale, "crop": crop, "error": error, "ingestion": settings}


def _signature(network: bytes, threads: int) -> Any:
    interpreter = Interpreter(model_content=network, num_threads=threads)
    runner = interpreter.get_signature_runner()
    inputs, outputs = set(runner.get_input_details()), set(runner.get_output_details())
    if "pixels" not in inputs or not outputs >= {"mean", "std", "distribution"}:
        raise ValueError(f"its signature takes {sorted(inputs)} and gives {sorted(outputs)}")
    return runner
