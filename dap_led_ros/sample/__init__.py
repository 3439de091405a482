"""The night sequence of the demo: a camera sways before a dark garage. A sample, no benchmark.

A real photograph (terms in README.md beside this file), a moving camera, and the physics of a
night exposure: light averaged over the open shutter, too little of it, a headlight that clips and
leaves streaks, photon and read noise, 8 bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from dap_led_ros.photometry import linear_to_srgb, srgb_to_linear, to_uint8

RATE = 15.0
"""Frames per second."""
WIDTH, HEIGHT = 640, 480

_SHUTTER = 0.05  # seconds open
_EXPOSURE = 0.055  # share of the light that a good exposure would have
_SUBFRAMES = 16
_SHOT_NOISE, _READ_NOISE = 2e-3, 4e-6  # variances on linear light
_HEADLIGHT = (537, 155)  # pixels in the photograph
_HEADLIGHT_RADIUS, _HEADLIGHT_RADIANCE = 7, 8.0  # pixels, multiples of the sensor's white


def night_sequence(count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Frames of the dark, shaken camera, each with what a perfect camera would have seen.

    :yields: (camera, reference), both (480, 640, 3) uint8 RGB.
    """
    photograph = cv2.imread(str(Path(__file__).parent / 'garage.jpg'))[..., ::-1]
    scene = srgb_to_linear(photograph)
    lamp = np.zeros(scene.shape[:2], np.float32)
    cv2.circle(lamp, _HEADLIGHT, _HEADLIGHT_RADIUS, 1.0, -1, cv2.LINE_AA)
    glow = 0.6 * cv2.GaussianBlur(lamp, (0, 0), 25)
    bright = scene * (1 - lamp[..., None]) + (lamp + glow)[..., None]
    dark = scene * _EXPOSURE + (lamp * _HEADLIGHT_RADIANCE + glow)[..., None]
    for index in range(count):
        rng = np.random.default_rng(index)
        now = index / RATE
        moments = now + _SHUTTER * (np.arange(_SUBFRAMES) / (_SUBFRAMES - 1) - 0.5)
        light = np.mean([_view(dark, moment) for moment in moments], axis=0)
        light = np.minimum(light, 1)
        noise = rng.standard_normal(light.shape, dtype=np.float32)
        light = light + noise * np.sqrt(light * _SHOT_NOISE + _READ_NOISE)
        yield to_uint8(linear_to_srgb(light)), to_uint8(linear_to_srgb(_view(bright, now)))


def _view(scene: np.ndarray, time: float) -> np.ndarray:
    """What the camera sees of the scene at a moment (seconds): a sway, a bob and a little roll."""
    sway, bob = 44 * np.sin(2.5 * time), 7 * np.sin(4.3 * time) + 1.5 * np.sin(17 * time)
    height, width = scene.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), 0.3 * np.sin(3.1 * time), 1.0)
    matrix[:, 2] += sway - (width - WIDTH) / 2, bob - (height - HEIGHT) / 2
    return cv2.warpAffine(scene, matrix, (WIDTH, HEIGHT), borderMode=cv2.BORDER_REFLECT)
