"""Luma: how bright a pixel is as it is shown (BT.601); photometry.py has light."""

from __future__ import annotations

import cv2
import numpy as np

LUMA = (0.299, 0.587, 0.114)
"""BT.601 weights of R, G and B."""


def luma(frame: np.ndarray) -> np.ndarray:
    """Luma of a full-range uint8 RGB frame: (H, W) uint8, rounded."""
    return cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)


def exact_luma(frame: np.ndarray) -> np.ndarray:
    """Luma of a full-range RGB frame: (H, W) float32 in [0, 255], not rounded.

    MATLAB's and pyiqa's "Y" is of limited range, 16 to 235; theirs is another SSIM.
    """
    return frame.astype(np.float32) @ np.array(LUMA, np.float32)
