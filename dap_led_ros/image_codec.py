"""sensor_msgs/Image <-> numpy, without ROS: any object with the message's fields will do.

One copy each way at the most. cv_bridge is not used: it copies twice and breaks where its NumPy is
not the one it was compiled for.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

_CHANNELS = {'rgb8': 3, 'bgr8': 3, 'mono8': 1}
ENCODINGS = tuple(_CHANNELS)
"""Encodings that can be enhanced."""

_NOT_PICTURES = ('16UC', '16SC', '32FC', '32SC', '64FC', '8SC')


class ImageError(ValueError):
    """An Image message that cannot be decoded."""


class MalformedImageError(ImageError):
    """The fields contradict one another: nobody can use this message."""


class NotAPictureError(ImageError):
    """An encoding of something else than colour or grey, such as depth."""


class UnsupportedEncodingError(ImageError):
    """Colour or grey, but not in an encoding that decode() knows."""


def decode(message: Any) -> np.ndarray:
    """(H, W, 3) uint8 RGB of an Image message; row padding (step) is honoured.

    The array may be a view of the message's data.

    :raises ImageError: one of its three kinds; the text says what is wrong.
    """
    encoding = message.encoding
    if encoding.startswith(_NOT_PICTURES):
        raise NotAPictureError(f'encoding {encoding!r} is not colour or grey')
    if encoding not in _CHANNELS:
        raise UnsupportedEncodingError(
            f'encoding {encoding!r} cannot be enhanced: use one of {", ".join(ENCODINGS)}'
        )
    channels = _CHANNELS[encoding]
    height, width, step = message.height, message.width, message.step
    if not height or not width or step < width * channels or len(message.data) < height * step:
        raise MalformedImageError(
            f'malformed message: {width}x{height} {encoding} with step {step} cannot have '
            f'{len(message.data)} bytes of data'
        )
    rows = np.frombuffer(message.data, np.uint8, height * step).reshape(height, step)
    image = rows[:, : width * channels].reshape(height, width, channels)
    if encoding == 'bgr8':
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    if encoding == 'mono8':
        return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    return image


def encode(frame: np.ndarray, encoding: str, message: Any) -> None:
    """Fill a fresh Image message with a frame; its header is left alone.

    :param frame: (H, W, 3) uint8 RGB.
    :param encoding: one of ENCODINGS.
    """
    if encoding == 'bgr8':
        frame = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
    elif encoding == 'mono8':
        frame = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    message.height, message.width = frame.shape[:2]
    message.encoding = encoding
    message.is_bigendian = 0
    message.step = frame.shape[1] * _CHANNELS[encoding]
    # The fast way into a message: assigning an array or bytes is up to 2500 times slower.
    message.data.frombytes(np.ascontiguousarray(frame).data)
