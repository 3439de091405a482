"""Significant bits: cameras of 10, 12 and 14 bits fill the lower end of 16-bit encodings.

Frames are scaled to the full range before anybody judges their brightness, and back on their way
out, so that the output keeps the camera's own range.
"""

from __future__ import annotations

import numpy as np

AUTO, COUNTS = 'auto', 'counts'
SETTINGS = (AUTO, *map(str, range(8, 17)), COUNTS)
"""What a user may say; counts: 16-bit pixels are measurements, such as thermal ones."""
_USUAL = (10, 12, 14, 16)
_GAP_NS = 1_000_000_000
"""A frame so much later than the one before it is the first of a new scene."""
_CROWD = 0.01
"""A share of pixels beyond the range that no lamp has: the scene is another one."""


def widen(pixels: np.ndarray, bits: int) -> np.ndarray:
    """uint16 of so many bits (8 to 16) to all 16; what is brighter is cut."""
    if bits == 16:
        return pixels
    shift = 16 - bits
    cut = np.minimum(pixels, np.uint16((1 << bits) - 1))
    return (cut << shift) | (cut >> (bits - shift))


def narrow(pixels: np.ndarray, bits: int) -> np.ndarray:
    """uint16 of the full range to so many bits (8 to 16); undoes widen()."""
    return pixels if bits == 16 else pixels >> (16 - bits)


class BitDepth:
    """How many bits of one camera's 16-bit frames mean something; frame by frame, one thread.

    Learned, it only ever grows: with the first frame of a scene that needs more, or with one of
    which more than a hundredth does. Until then single brighter pixels, such as lamps, are cut.
    """

    def __init__(self, setting: str = AUTO) -> None:
        """Begin with nothing learned; `setting` is one of SETTINGS."""
        self.setting = setting
        self._learned = 0
        self._stamp_ns: int | None = None
        self._size: tuple[int, ...] = ()

    @property
    def bits(self) -> int:
        """Significant bits of the frames so far, 8 to 16."""
        if self.setting.isdigit():
            return int(self.setting)
        return self._learned or 16

    def widen(self, pixels: np.ndarray, stamp_ns: int | None = None) -> np.ndarray:
        """The next frame's uint16 pixels in the full range."""
        if self.setting == AUTO:
            self._learn(pixels, stamp_ns)
        return widen(pixels, self.bits)

    def _learn(self, pixels: np.ndarray, stamp_ns: int | None) -> None:
        brightest = int(pixels.max())
        needed = next(bits for bits in _USUAL if brightest < 1 << bits)
        gap = 0 if None in (stamp_ns, self._stamp_ns) else stamp_ns - self._stamp_ns
        is_new = pixels.shape != self._size or not 0 <= gap <= _GAP_NS
        self._stamp_ns, self._size = stamp_ns, pixels.shape
        if needed <= self._learned:
            return
        if is_new or np.count_nonzero(pixels >> self._learned) > _CROWD * pixels.size:
            self._learned = 16 if _is_aligned_up(pixels) else needed


def _is_aligned_up(pixels: np.ndarray) -> bool:
    """Whether fewer bits lie at the upper end, so that the lower ones are empty."""
    return not np.bitwise_or.reduce(pixels, axis=None) & 0b11
