"""Two frames to compare."""

from __future__ import annotations

import numpy as np


def check(frame: np.ndarray, reference: np.ndarray) -> None:
    """Refuse what is not two uint8 RGB frames of one size.

    :raises ValueError: says which it is.
    """
    for image in (frame, reference):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f'{image.dtype} {image.shape}: expected uint8 (H, W, 3) RGB')
    if frame.shape != reference.shape:
        raise ValueError(
            f'a frame of {size_of(frame)} against a reference of {size_of(reference)}: '
            'they must be of one size'
        )


def size_of(frame: np.ndarray) -> str:
    """Width and height of a frame, as 640x480."""
    return f'{frame.shape[1]}x{frame.shape[0]}'
