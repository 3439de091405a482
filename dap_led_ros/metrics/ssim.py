"""Structural similarity of a frame and a reference."""

from __future__ import annotations

import cv2
import numpy as np

from dap_led_ros.metrics.luma import exact_luma
from dap_led_ros.metrics.pairs import check, size_of

WINDOW = 11
"""Side of the Gaussian window, pixels; its sigma is 1.5."""


def ssim_rgb(frame: np.ndarray, reference: np.ndarray) -> float:
    """SSIM, the mean over R, G and B: 11x11 Gaussian window, sigma 1.5, range 255.

    :raises ValueError: the frames are not two uint8 RGB frames of one size, 11x11 at least.
    """
    check(frame, reference)
    return ssim(frame, reference)


def ssim_y(frame: np.ndarray, reference: np.ndarray) -> float:
    """SSIM of exact_luma(), with the window of ssim_rgb().

    :raises ValueError: as ssim_rgb().
    """
    check(frame, reference)
    return ssim(exact_luma(frame), exact_luma(reference))


def ssim(frame: np.ndarray, reference: np.ndarray) -> float:
    """SSIM of two (H, W) or (H, W, C) arrays in [0, 255], over windows inside the frame.

    So do the authors' code (Wang et al. 2004), pyiqa and scikit-image.

    :raises ValueError: a side is shorter than WINDOW.
    """
    if min(frame.shape[:2]) < WINDOW:
        raise ValueError(f'frames of {size_of(frame)}: SSIM needs {WINDOW}x{WINDOW} at least')
    x, y = (np.asarray(i, np.float32) for i in (frame, reference))
    mean_x, mean_y, square_x, square_y, product = (
        cv2.GaussianBlur(i, (WINDOW, WINDOW), 1.5) for i in (x, y, x * x, y * y, x * y)
    )
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    means = mean_x * mean_y
    squares = mean_x**2 + mean_y**2
    ssim_map = (2 * means + c1) * (2 * (product - means) + c2)
    ssim_map /= (squares + c1) * (square_x + square_y - squares + c2)
    border = WINDOW // 2
    height, width = frame.shape[:2]
    return float(ssim_map[border : height - border, border : width - border].mean())
