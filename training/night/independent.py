"""A second, different night for evaluation only: nothing here is used in training.

A model that fits one synthesis is not enough. This one shares no code with night_blur.py beyond
the transfer function of sRGB: motion along one straight line as a convolution, a darkening
that mixes a power law with a factor, Gaussian noise that grows with the signal, and (`lamps`)
square lights pasted above white before the blur.
"""

from __future__ import annotations

import cv2
import numpy as np

from dap_led_ros.photometry import linear_to_srgb, srgb_to_linear, to_uint8


def night(
    sharp: np.ndarray, rng: np.random.Generator, lamps: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Degrade one photograph.

    :param sharp: (H, W, 3) uint8 RGB.
    :returns: degraded and target, both (H, W, 3) uint8 RGB.
    """
    light = srgb_to_linear(sharp)
    target = light
    dark = rng.uniform(0.04, 0.16) * light ** rng.uniform(1.0, 1.3)
    if lamps:
        dark, target = _add_lights(dark, target, rng)
    dark = np.clip(cv2.filter2D(dark, -1, _line(rng.uniform(5, 17), rng.uniform(0, 180))), 0, 1)
    noise = rng.standard_normal(dark.shape).astype(np.float32)
    dark = dark + noise * (0.0015 + 0.025 * np.sqrt(dark))
    return to_uint8(linear_to_srgb(dark)), to_uint8(linear_to_srgb(target))


def _line(length: float, degrees: float) -> np.ndarray:
    """Kernel of a straight move of `length` pixels."""
    size = int(np.ceil(length)) // 2 * 2 + 3
    kernel = np.zeros((size * 4, size * 4), np.float32)  # drawn four times as large
    centre = np.array([size * 2 - 0.5, size * 2 - 0.5])
    half = length * 2 * np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])
    ends = [tuple(round(v * 256) for v in centre + sign * half) for sign in (-1, 1)]
    cv2.line(kernel, *ends, 1.0, 4, cv2.LINE_AA, shift=8)
    kernel = cv2.resize(kernel, (size, size), interpolation=cv2.INTER_AREA)
    return kernel / kernel.sum()


def _add_lights(
    dark: np.ndarray, target: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Squares of light, many times above white in the dark frame, just white in the target."""
    dark, target = dark.copy(), target.copy()
    height, width = dark.shape[:2]
    for _ in range(rng.integers(3, 12)):
        side = int(rng.integers(3, 14))
        x, y = rng.integers(0, width - side), rng.integers(0, height - side)
        colour = np.array([1.0, rng.uniform(0.7, 1.0), rng.uniform(0.3, 1.0)], np.float32)
        dark[y : y + side, x : x + side] = rng.uniform(2, 10) * colour
        target[y : y + side, x : x + side] = np.minimum(1.5 * colour, 1)
    return dark, target
