"""PSNR of a frame against a reference, whole or without its brightness."""

from __future__ import annotations

import math

import cv2
import numpy as np

from dap_led_ros.metrics.pairs import check

PSNR_CAP = 50.0
"""What an identical frame counts in a mean, dB; else one of them would outweigh all others."""


def psnr(frame: np.ndarray, reference: np.ndarray, cap: float | None = None) -> float:
    """PSNR in dB, from the mean squared error over all pixels and channels; range 255.

    :param cap: the most that is returned; without it identical frames are infinite.
    :raises ValueError: the frames are not two uint8 RGB frames of one size.
    """
    check(frame, reference)
    error = cv2.norm(frame, reference, cv2.NORM_L2SQR) / frame.size
    value = math.inf if error == 0 else 10 * math.log10(255**2 / error)
    return value if cap is None else min(cap, value)


def aligned_psnr(frame: np.ndarray, reference: np.ndarray, cap: float | None = None) -> float:
    """PSNR after each channel's mean has been scaled to the reference's."""
    check(frame, reference)
    means = frame.mean((0, 1)), reference.mean((0, 1))
    scaled = np.clip(frame * (means[1] / np.maximum(means[0], 1)) + 0.5, 0, 255)
    return psnr(scaled.astype(np.uint8), reference, cap)
