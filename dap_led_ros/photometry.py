"""Light and its 8-bit code: what the demo's night and the training's synthesis share.

Images are (H, W, 3) RGB. "Linear" is proportional to light; 1.0 is the brightest value that a
camera can store.
"""

from __future__ import annotations

import cv2
import numpy as np

LUMINANCE = np.array([0.2126, 0.7152, 0.0722], np.float32)
"""Of linear RGB (ITU-R BT.709); metrics/luma.py has that of pictures."""


def _decode(display: np.ndarray) -> np.ndarray:
    """Transfer function of sRGB, display value to linear light (IEC 61966-2-1)."""
    linear = np.where(display <= 0.04045, display / 12.92, ((display + 0.055) / 1.055) ** 2.4)
    return linear.astype(np.float32)


def _encode(linear: np.ndarray) -> np.ndarray:
    """Inverse of _decode()."""
    display = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return display.astype(np.float32)


_STEPS = 65535  # tables stand in for powers, which cost ten times as much
_UINT8_TO_LINEAR = _decode(np.arange(256) / 255)
_DISPLAY_TO_LINEAR = _decode(np.arange(_STEPS + 1) / _STEPS)
_LINEAR_TO_DISPLAY = _encode(np.arange(_STEPS + 1) / _STEPS)


def srgb_to_linear(image: np.ndarray) -> np.ndarray:
    """uint8 sRGB, or float sRGB in [0, 1] -> float32 linear light in [0, 1]."""
    if image.dtype == np.uint8:
        return _UINT8_TO_LINEAR[image]
    return look_up(_DISPLAY_TO_LINEAR, image)


def linear_to_srgb(linear: np.ndarray) -> np.ndarray:
    """Linear light, clipped to [0, 1] -> float32 sRGB value in [0, 1]."""
    return look_up(_LINEAR_TO_DISPLAY, linear)


def look_up(table: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Apply a function that `table` samples at len(table) even steps over [0, 1]."""
    return table[(np.clip(values, 0, 1) * (len(table) - 1)).astype(np.uint16)]


def to_uint8(image: np.ndarray) -> np.ndarray:
    """[0, 1] float -> uint8, clipped and rounded."""
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)


def average_over_path(image: np.ndarray, path: np.ndarray, roll_degrees: np.ndarray) -> np.ndarray:
    """Camera shake: the mean of the image seen from each position of a moving camera.

    :param image: (H, W, 3) float32, linear light.
    :param path: (N, 2) shift of the picture in x and y, pixels.
    :param roll_degrees: (N,) turn of the picture about its centre.
    :returns: (H, W, 3) float32.
    """
    height, width = image.shape[:2]
    centre = ((width - 1) / 2, (height - 1) / 2)
    total = np.zeros_like(image)
    for (dx, dy), degrees in zip(path, roll_degrees):
        matrix = cv2.getRotationMatrix2D(centre, float(degrees), 1.0)
        matrix[:, 2] += dx, dy
        total += cv2.warpAffine(
            image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
        )
    return total / len(path)
