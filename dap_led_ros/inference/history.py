"""What a camera has seen so far, brought to where the scene is now: a fused frame and its count.

Each frame: the coarse flow to the history, the history warped by it and brought to the frame's
exposure, and averaged with the frame where it matches. What does not match is let go of, pixel by
pixel: behind an object that has left, under a lamp that was switched on, after a cut.

A match is judged by the local mean difference, in which noise averages out, and by the grain
around it, both in units of the noise that frame and difference show at that brightness. There is
nothing to tune, and no frame waits for the next one.

`python -m dap_led_training measure clips` measures it; the numbers below were chosen on its
--development clips.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from dap_led_ros.photometry import linear_to_srgb, srgb_to_linear

MOST = 12
"""Past frames that a pixel's history counts for at the most."""
LEAST_SIDE = 64
"""Pixels: in smaller frames there is no flow, and no history."""
_LOCAL = 1.5
"""Deviation of the window in which a match is judged, in pixels of the half-size frame."""
_LOOSE = 3.0
"""Mean differences of so many deviations of the noise halve, about, what a pixel keeps."""
_ROUGH = 1.25
"""Grain of the difference, in units of the noise's, that says of texture that it does not fit."""
_ANOTHER = 0.35
"""With less of the picture matching, the scene is another, and what matches does so by chance."""
_FLAT = 1 / (4 * np.pi * _LOCAL**2)
"""Share of white noise's variance that a mean over that window keeps."""
_GRAIN = (0.4 / 255) ** 2
"""Least variance of the noise: about that of rounding to 8 bit, twice."""
_LEVELS = 8
"""Brightnesses at which the noise is measured."""
_TARGET = 100.0
"""Grey level, of 255, of a frame's geometric mean where the flow is sought."""
_STEADY = 0.01
"""A change of exposure less than this (natural logarithm) is left to the average."""


class Fused(NamedTuple):
    """A frame with what is behind it."""

    frame: np.ndarray
    """(H, W, 3) float32 RGB in [0, 1]: the mean of the frame and its past, as bright as it."""
    count: np.ndarray
    """(H, W) float32, 0 to MOST: past frames behind each pixel; 0: the frame stands alone."""


class History:
    """The history of one camera's frames, in their order."""

    def __init__(self) -> None:
        """Begin with no frame."""
        self._flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self._flow.setFinestScale(1)  # its default costs 0.5 dB, and saves a fifth of the time
        self._past: Fused | None = None
        self._count = np.empty((0, 0), np.float32)
        """Its count at half its size, where matches are judged."""
        self._grids: dict[tuple[int, int], np.ndarray] = {}

    def forget(self) -> None:
        """The next frame is the first."""
        self._past = None

    def fuse(self, frame: np.ndarray) -> Fused:
        """Add the next frame, and return it with what is behind it.

        :param frame: (H, W, 3) RGB, uint8 or uint16 (full range). Another size begins anew.
        """
        now = np.multiply(frame, np.float32(1 / np.iinfo(frame.dtype).max), dtype=np.float32)
        height, width = now.shape[:2]
        half = (width + 1) // 2, (height + 1) // 2
        past = self._past
        if past is None or past.frame.shape != now.shape or min(height, width) < LEAST_SIDE:
            self._past = Fused(now, np.zeros((height, width), np.float32))
            self._count, self._grids = np.zeros(half[::-1], np.float32), {}
            return self._past
        small = cv2.resize(now, half, interpolation=cv2.INTER_AREA)
        before = cv2.resize(past.frame, half, interpolation=cv2.INTER_AREA)
        flow = self._flow.calc(_grey(small), _grey(before), None)
        # What comes into view has nothing behind it.
        count = cv2.remap(self._count + 1, self._places(flow), None, cv2.INTER_LINEAR)
        scale = np.array([width / half[0], height / half[1]], np.float32)
        flow = cv2.resize(flow * scale, (width, height), interpolation=cv2.INTER_LINEAR)
        places = self._places(flow)
        warped = cv2.remap(
            past.frame, places, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
        )
        moved = cv2.resize(warped, half, interpolation=cv2.INTER_AREA)
        change = _exposure_change(small, moved)
        if abs(change) > _STEADY:
            warped, moved = _exposed(warped, change), _exposed(moved, change)
        self._count = cv2.min(count, MOST) * _match(small, moved)
        count = cv2.resize(self._count, (width, height), interpolation=cv2.INTER_LINEAR)
        share = count / (count + 1)
        self._past = Fused(cv2.blendLinear(warped, now, share, 1 - share), count)
        return self._past

    def _places(self, flow: np.ndarray) -> np.ndarray:
        """Where each pixel was in the frame before, (H, W, 2) float32."""
        height, width = flow.shape[:2]
        if (height, width) not in self._grids:
            x, y = np.meshgrid(np.arange(width), np.arange(height))
            self._grids[height, width] = np.dstack([x, y]).astype(np.float32)
        return cv2.add(flow, self._grids[height, width])


def _grey(small: np.ndarray) -> np.ndarray:
    """(h, w) uint8 for the flow: equally bright whatever the exposure, without its grain."""
    grey = cv2.GaussianBlur(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), (0, 0), 1.0)
    mean = np.exp(np.log(np.maximum(grey[::2, ::2], 0) + 1 / 4096).mean())
    return cv2.convertScaleAbs(grey, alpha=_TARGET / mean)


def _exposure_change(small: np.ndarray, moved: np.ndarray) -> float:
    """Natural logarithm of the factor on light from the history to the frame: a median."""
    size = max(1, small.shape[1] // 4), max(1, small.shape[0] // 4)
    cells = [cv2.resize(one, size, interpolation=cv2.INTER_AREA)[..., 1] for one in (small, moved)]
    light = [srgb_to_linear(cell) for cell in cells]
    known = (np.minimum(*light) > 2e-4) & (np.maximum(*light) < 0.9)
    if known.sum() < 50:
        return 0.0
    return float(np.median(np.log(light[0][known] / light[1][known])))


def _exposed(frame: np.ndarray, change: float) -> np.ndarray:
    """The frame after a change of exposure (natural logarithm of light)."""
    return linear_to_srgb(srgb_to_linear(frame) * np.float32(np.exp(change)))


def _match(small: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """(h, w) float32: how far the history's pixels are those of the frame, 0 to 1."""
    mean, grain = _mean_and_grain(small - moved)
    local, texture = _mean_and_grain(small)
    noise = _noise(_over_colours(local), grain, texture)
    far = _over_colours(mean * mean) / (_FLAT * _LOOSE**2 * noise)
    rough = np.maximum(grain / noise - _ROUGH, 0)
    match = np.exp(-0.5 * far - rough)
    return match if match.mean() > _ANOTHER else np.zeros_like(match)


def _over_colours(image: np.ndarray) -> np.ndarray:
    """(h, w): the mean over the colours of (h, w, 3)."""
    return cv2.transform(image, np.full((1, 3), 1 / 3, np.float32))


def _mean_and_grain(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Local means (h, w, 3), and the variance around them (h, w)."""
    mean = cv2.GaussianBlur(image, (0, 0), _LOCAL)
    rest = image - mean
    return mean, cv2.GaussianBlur(_over_colours(rest * rest), (0, 0), _LOCAL)


def _noise(level: np.ndarray, *grains: np.ndarray) -> np.ndarray:
    """(h, w): variance of the noise at each pixel's brightness.

    Grain of the frame alone has texture in it, that of the difference what does not match: at each
    brightness the median of either is too much, and the lesser one is taken.
    """
    levels = level[::4, ::4].ravel()
    parts = np.array_split(np.argsort(levels), _LEVELS)
    at = [float(np.median(levels[part])) for part in parts]
    seen = [
        max(min(float(np.median(one[::4, ::4].ravel()[part])) for one in grains), _GRAIN)
        for part in parts
    ]
    table = np.interp(np.arange(256) / 255, at, seen).astype(np.float32)
    return cv2.LUT(cv2.convertScaleAbs(level, alpha=255), table)
