"""Frames: which arrays are one, how a network sees them, and what an enhanced one comes with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

MIN_SIDE = 16
"""Smallest height and width of a frame, in pixels."""


@dataclass(frozen=True)
class Enhanced:
    """The result for one frame."""

    frame: np.ndarray
    """(H, W, 3) RGB, shape and type of the input."""
    degradation: dict[str, float]
    """How degraded the input was, 0 to 1: low_light, blur, and joint for both at once."""
    milliseconds: dict[str, float]
    """Time spent, by stage: score, convert_in, infer, convert_out."""
    weight: float = 1.0
    """Share of the network's result in the frame; 0.0 is the input, passed through untouched."""


def check(frame: np.ndarray) -> None:
    """Refuse what is no frame.

    :raises ValueError: not (H, W, 3) of uint8 or uint16, or smaller than MIN_SIDE.
    """
    if not isinstance(frame, np.ndarray):
        raise ValueError(f'frame is {type(frame).__name__}: {_remedy(frame)}')
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype not in (np.uint8, np.uint16):
        raise ValueError(
            f'frame is {frame.dtype} {frame.shape}: expected uint8 or uint16 (H, W, 3) RGB'
            + _hint(frame)
        )
    height, width = frame.shape[:2]
    if min(height, width) < MIN_SIDE:
        raise ValueError(f'frame is {width}x{height}: the least is {MIN_SIDE}x{MIN_SIDE}')


def _remedy(frame: Any) -> str:
    """What to give in place of something that is no array."""
    if frame is None:
        return 'OpenCV gives None for a file that it cannot read'
    if hasattr(frame, 'getbands'):
        return "of a PIL image give np.array(image.convert('RGB'))"
    return 'expected a NumPy array, uint8 or uint16 (H, W, 3) RGB'


def _hint(frame: np.ndarray) -> str:
    """What makes a frame of an array that is nearly one."""
    if np.issubdtype(frame.dtype, np.floating):
        return '; of 0 to 1 give (255 * frame).round().astype(np.uint8)'
    return '; grey: give cv2.cvtColor(frame, cv2.COLOR_GRAY2RGB)' if frame.ndim == 2 else ''


def to_tensor(frame: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 or uint16 -> (1, 3, H, W) float32 in [0, 1]."""
    scale = 1 / np.iinfo(frame.dtype).max
    planes = np.empty((1, 3, *frame.shape[:2]), np.float32)
    for plane, channel in zip(planes[0], cv2.split(frame)):
        np.multiply(channel, np.float32(scale), out=plane, dtype=np.float32)
    return planes


def to_planes(frame: np.ndarray) -> np.ndarray:
    """(H, W, 3) -> (1, 3, H, W) of the same type."""
    return np.stack(cv2.split(frame))[None]


def to_frame(tensor: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """(1, 3, H, W) float -> (H, W, 3) of the integer type, clamped and rounded."""
    depth = {np.dtype(np.uint8): cv2.CV_8U, np.dtype(np.uint16): cv2.CV_16U}[np.dtype(dtype)]
    full = float(np.iinfo(dtype).max)
    # addWeighted scales, rounds and saturates in one pass.
    return cv2.merge([cv2.addWeighted(p, full, p, 0.0, 0.0, dtype=depth) for p in tensor[0]])
