"""From the bytes of a photo to the pixels that the network reads: the same graph in training, evaluation, serving.

A photo is scaled to a square (``scale`` pixels, NIMA section III: aspect ratio gives way so that the whole
framing stays in view), then its centre (``crop`` pixels) is read. Training reads a random crop instead
(``augmentation``). These functions are TensorFlow operations, so that they can be exported inside the model.
"""

import tensorflow as tf


def decode(data: tf.Tensor) -> tf.Tensor:
    """Decode one encoded photo.

    Args:
        data: scalar string, JPEG, PNG, GIF (first frame) or BMP. EXIF orientation is not applied: photos are
            made upright by ``components.scorer.imaging.decoding`` before they come here.

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


def square(photo: tf.Tensor, scale: int) -> tf.Tensor:
    """Scale a photo to a square, with antialiasing.

    Args:
        photo: ``[height, width, 3]``, 0..255.
        scale: side of the result in pixels.

    Returns:
        float32 ``[scale, scale, 3]``, 0..255.
    """
    photo = tf.image.resize(photo, [scale, scale], method="bilinear", antialias=True)
    return tf.ensure_shape(photo, [scale, scale, 3])


def centre(photo: tf.Tensor, crop: int) -> tf.Tensor:
    """The middle ``crop`` × ``crop`` pixels of a square photo."""
    margin = (photo.shape[0] - crop) // 2
    return photo[margin : margin + crop, margin : margin + crop, :]


def pixels(data: tf.Tensor, scale: int, crop: int) -> tf.Tensor:
    """Encoded photos as the network reads them.

    Args:
        data: string ``[n]``, encoded photos (see ``decode``).
        scale: side of the square that a photo is scaled to.
        crop: side of its middle that is kept.

    Returns:
        float32 ``[n, crop, crop, 3]``, 0..255.
    """
    return tf.map_fn(
        lambda one: centre(square(decode(one), scale), crop),
        tf.convert_to_tensor(data),
        fn_output_signature=tf.TensorSpec([crop, crop, 3], tf.float32),
    )
