"""Decoding and preprocessing of photos as TensorFlow operations, exportable inside the model.

Training, evaluation and serving run this same graph. A photo is resized to a square of ``scale`` pixels (NIMA, section
III). The resize gives up the aspect ratio to keep the whole framing in view. The model reads the centre of ``crop``
pixels. Training reads a random crop instead (``augmentation``).
"""

import tensorflow as tf


def decode(data: tf.Tensor) -> tf.Tensor:
    """Decode one encoded photo.

    EXIF orientation is not applied: ``components.scorer.imaging.decoding`` has made photos upright before.

    Args:
        data: Encoded photo, scalar string: JPEG, PNG, GIF (first frame) or BMP.

    Returns:
        uint8 ``[height, width, 3]``, RGB.
    """
    # The accurate transform is every other decoder's default; TensorFlow's own choice is off by up to 8 of 255.
    photo = tf.cond(
        tf.io.is_jpeg(data),
        lambda: tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE"),
        lambda: tf.io.decode_image(data, channels=3, expand_animations=False),
    )
    return tf.ensure_shape(photo, [None, None, 3])


def resize_square(photo: tf.Tensor, scale: int) -> tf.Tensor:
    """Resize a photo to a square, bilinear with antialiasing.

    Args:
        photo: ``[height, width, 3]``, 0..255.
        scale: Side of the result, pixels.

    Returns:
        float32 ``[scale, scale, 3]``, 0..255.
    """
    photo = tf.image.resize(photo, [scale, scale], method="bilinear", antialias=True)
    return tf.ensure_shape(photo, [scale, scale, 3])


def center_crop(photo: tf.Tensor, crop: int) -> tf.Tensor:
    """Return the central ``crop`` × ``crop`` pixels of a square photo."""
    margin = (photo.shape[0] - crop) // 2
    return photo[margin : margin + crop, margin : margin + crop, :]


def preprocess_photos(data: tf.Tensor, scale: int, crop: int) -> tf.Tensor:
    """Return encoded photos as the model's pixel input.

    Args:
        data: Encoded photos, string ``[n]`` (see ``decode``).
        scale: Side of the square that a photo is resized to, pixels.
        crop: Side of the centre crop, pixels.

    Returns:
        float32 ``[n, crop, crop, 3]``, 0..255.
    """
    return tf.map_fn(
        lambda photo: center_crop(resize_square(decode(photo), scale), crop),
        tf.convert_to_tensor(data),
        fn_output_signature=tf.TensorSpec([crop, crop, 3], tf.float32),
    )
