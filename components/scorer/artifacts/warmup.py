"""Warm-up photos, and the requests with which TensorFlow Serving warms a version up.

TensorFlow Serving replays ``assets.extra/tf_serving_warmup_requests``, a TFRecord file of ``PredictionLog``
messages, when it loads a version (https://www.tensorflow.org/tfx/serving/saved_model_warmup). TensorFlow is imported
only to write requests. The project's own server does not install TensorFlow: it scores the photos alone.
"""

from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.descriptor_pb2 import FieldDescriptorProto as _Field
from google.protobuf.descriptor_pb2 import FileDescriptorProto as _Types
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from PIL import Image, ImageDraw

from components.scorer.faces.face_inputs import NO_FACE_INPUTS, FaceInputSpec

FILE = "assets.extra/tf_serving_warmup_requests"

_SIZES = ((320, 427), (320, 320), (480, 320))  # pixels; the shorter side is 320, as ingestion writes photos


@lru_cache(maxsize=1)
def photos() -> tuple[bytes, ...]:
    """Return drawn pictures of a head before a wall, as JPEG; they are always the same and show no real person."""
    return tuple(_draw_portrait(np.random.default_rng(seed), *size) for seed, size in enumerate(_SIZES))


def write(folder: str | Path, name: str, face_input_spec: FaceInputSpec = NO_FACE_INPUTS) -> None:
    """Write the warm-up requests of a version: each photo alone, then all photos at once.

    Args:
        folder: Folder of the SavedModel. Its signature ``serving_default`` takes ``image_bytes``, string ``[n]``, and
            the face inputs.
        name: Name of the model.
        face_input_spec: Specification of the face inputs. They are written as zeros, as for a photo without a face.
    """
    import tensorflow as tf

    path = Path(folder, FILE)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = list(photos())
    with tf.io.TFRecordWriter(str(path)) as records:
        for batch in [[photo] for photo in drawn] + [drawn]:
            faces = {
                input_name: np.zeros((len(batch), *shape), "float32")
                for input_name, shape in face_input_spec.shapes.items()
            }
            records.write(_request({"image_bytes": np.array(batch, object), **faces}, name))


def _request(inputs: dict[str, np.ndarray], name: str) -> bytes:
    """Return a serialised ``PredictionLog`` that requests a prediction for inputs."""
    import tensorflow as tf

    log = _prediction_log()()
    log.predict_log.request.model_spec.name = name
    log.predict_log.request.model_spec.signature_name = "serving_default"
    for input_name, values in inputs.items():
        tensor = tf.make_tensor_proto(values, tf.string if values.dtype == object else tf.float32)
        log.predict_log.request.inputs[input_name] = tensor.SerializeToString(deterministic=True)
    return log.SerializeToString(deterministic=True)


@lru_cache(maxsize=1)
def _prediction_log() -> type[Any]:
    """Return the message class ``tensorflow.serving.PredictionLog``, with the fields that are needed here.

    The package tensorflow-serving-api holds the whole class, but depends on the ``tensorflow`` distribution and
    would install it over ``tensorflow-cpu``. Names and numbers are those of prediction_log.proto, predict.proto and
    model.proto of its release 2.21.0
    (https://github.com/tensorflow/serving/tree/master/tensorflow_serving/apis). The input tensors are declared
    as bytes: a nested message and its bytes are the same on the wire.
    """
    file = _Types(name="portrait_scorer/warmup.proto", package="tensorflow.serving", syntax="proto3")
    text, binary, message = _Field.TYPE_STRING, _Field.TYPE_BYTES, _Field.TYPE_MESSAGE
    _add_message_type(file.message_type, "ModelSpec", [("name", 1, text), ("signature_name", 3, text)])
    request = _add_message_type(file.message_type, "PredictRequest", [("model_spec", 1, message, "ModelSpec")])
    _add_message_type(
        request.nested_type, "InputsEntry", [("key", 1, text), ("value", 2, binary)]
    ).options.map_entry = True
    request.field.add(
        name="inputs",
        number=2,
        type=message,
        label=_Field.LABEL_REPEATED,
        type_name=".tensorflow.serving.PredictRequest.InputsEntry",
    )
    _add_message_type(file.message_type, "PredictLog", [("request", 1, message, "PredictRequest")])
    _add_message_type(file.message_type, "PredictionLog", [("predict_log", 6, message, "PredictLog")])
    pool = DescriptorPool()  # a pool of its own, so that the full messages can be imported too
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName("tensorflow.serving.PredictionLog"))


def _add_message_type(messages: Any, name: str, fields: list[tuple]) -> Any:
    """Add a message type with fields (name, number, type, name of the message type) to a list of message types."""
    message = messages.add(name=name)
    for field, number, kind, *message_type in fields:
        type_name = f".tensorflow.serving.{message_type[0]}" if message_type else None
        message.field.add(name=field, number=number, type=kind, label=_Field.LABEL_OPTIONAL, type_name=type_name)
    return message


def _draw_portrait(rng: np.random.Generator, width: int, height: int) -> bytes:
    """Draw a wall with a gradient of light, a head and shoulders in plain colours, and camera noise; return a JPEG."""
    left, right = rng.uniform(60, 220, 2)
    light = np.linspace(left, right, width)[None, :, None] * rng.uniform(0.7, 1, 3)
    picture = Image.fromarray(np.broadcast_to(light, (height, width, 3)).astype("uint8"))
    skin, cloth = (tuple(int(value) for value in rng.integers(40, 220, 3)) for _ in range(2))
    draw = ImageDraw.Draw(picture)
    draw.ellipse((0.15 * width, 0.7 * height, 0.85 * width, 1.3 * height), fill=cloth)
    draw.ellipse((0.3 * width, 0.2 * height, 0.7 * width, 0.75 * height), fill=skin)
    noisy = np.asarray(picture) + rng.normal(0, 6, (height, width, 3))
    data = BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype("uint8")).save(data, "JPEG", quality=92)
    return data.getvalue()
