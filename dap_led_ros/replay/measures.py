"""What is measured of frames, each with its definition. NumPy and OpenCV only.

Frames are (H, W, 3) uint8 RGB; luma is BT.601, 0 to 255, as (H, W) uint8.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np

from dap_led_ros.metrics.luma import luma
from dap_led_ros.metrics.psnr import PSNR_CAP, psnr
from dap_led_ros.metrics.ssim import WINDOW, ssim

SIDES = ('before', 'auto', 'after')
"""The camera's frame, the same times one gain (see verdict.py), and the enhanced one."""


class Measure(NamedTuple):
    """A measure as tables show it."""

    title: str
    unit: str
    better: int
    """1: more is better; -1: less is; 0: neither by itself."""
    definition: str


PER_FRAME = {
    'brightness': Measure('brightness', 'grey levels', 0, 'mean luma (BT.601), 0 to 255'),
    'contrast': Measure(
        'contrast',
        'grey levels',
        1,
        'standard deviation of luma, divided by the gain of brightness: as if the frame were as '
        'bright as it came',
    ),
    'sharpness': Measure(
        'sharpness',
        'grey levels²',
        1,
        'gradient energy: mean of gx² + gy², central differences of luma, divided by the square '
        'of the gain of brightness. Noise raises it too: read it beside noise',
    ),
    'noise': Measure(
        'noise',
        'grey levels',
        -1,
        'standard deviation of the noise in luma by Immerkær (1996): mean absolute response of a '
        'mask that no plane and no straight edge excites; divided by the gain of brightness',
    ),
    'saturated': Measure(
        'saturated', '%', -1, 'share of pixels with a channel of 250 or more: light that is lost'
    ),
    'flicker': Measure(
        'flicker',
        '%',
        -1,
        'change of mean luma since the frame before, as a share of the mean of both; one gain for '
        'both frames leaves it as it was',
    ),
    'keypoints': Measure('ORB features', 'per frame', 1, 'ORB keypoints found, 1000 at the most'),
    'matches': Measure(
        'ORB matches',
        'per frame',
        1,
        'mutual nearest neighbours among the descriptors of a frame and the one before it, that '
        'pass the ratio test at 0.8',
    ),
    'inliers': Measure(
        'inlier matches',
        'per frame',
        1,
        'matches that agree with one fundamental matrix within 1 pixel (RANSAC): what a visual '
        'odometry can use',
    ),
    'inlier_ratio': Measure('inlier ratio', '', 1, 'inlier matches / matches'),
    'vo_inliers': Measure(
        'odometry inliers',
        'per frame',
        1,
        'ORB matches with the frame a quarter of a second before that agree with one essential '
        'matrix within a pixel and lie before both cameras',
    ),
    'vo_tracked': Measure(
        'odometry tracked', '%', 1, 'share of frames with 30 or more odometry inliers'
    ),
    'vo_rotation': Measure(
        'odometry rotation error',
        'degrees',
        -1,
        'between the rotation that odometry finds over a quarter of a second and that of the '
        "bag's poses; of frames that are tracked",
    ),
    'vo_direction': Measure(
        'odometry direction error',
        'degrees',
        -1,
        "between the direction of movement that odometry finds and that of the bag's poses; of "
        'frames that are tracked and moved by 5 cm or more',
    ),
    'psnr': Measure('PSNR', 'dB', 1, 'against the reference, all channels; 50 at the most'),
    'ssim': Measure(
        'SSIM', '', 1, 'against the reference, on luma, Gaussian window of 11 pixels, sigma 1.5'
    ),
    'niqe': Measure('NIQE', '', -1, 'pyiqa, its default; one frame of 30; less is better'),
    'musiq': Measure('MUSIQ', '', 1, 'pyiqa, its default (KonIQ-10k); one frame of 30'),
    'nrqm': Measure('NRQM', '', 1, 'pyiqa, its default; one frame of 30'),
    'detections': Measure(
        'detections',
        'per frame',
        1,
        'objects that the detector reports with a score of 0.25 or more',
    ),
    'confidence': Measure('confidence', '', 1, 'mean score of the detections of a frame'),
}
"""Measured before and after enhancement, and of `auto`."""

PER_PAIR = {
    'gain': Measure('gain', 'times', 0, 'brightness after / brightness before'),
    'change': Measure(
        'change', 'grey levels', 0, 'mean absolute difference between after and before'
    ),
    'changed': Measure(
        'changed by the network',
        'grey levels',
        0,
        'mean absolute difference before the frame is written; below 0.5 it is unchanged',
    ),
    'help': Measure(
        'helped',
        '%',
        1,
        'the best of: share of inlier matches gained, share of detections gained, and PSNR gained '
        'as a share of 10 dB, all against auto; 0 if none got better',
    ),
    'harm': Measure(
        'perhaps harmed',
        '%',
        -1,
        'the worst of: share of inlier matches lost, share of detections lost, share of pixels '
        'newly saturated, and PSNR lost as a share of 10 dB, all against auto; 0 if none got '
        'worse',
    ),
    'latency': Measure('latency', 'ms', -1, 'time of one enhancement, steady clock'),
    'low_light': Measure('low light', '', 0, 'degradation score of the frame before, 0 to 1'),
    'blur': Measure('blur', '', 0, 'degradation score of the frame before, 0 to 1'),
}
"""Measured once for a frame and its enhanced copy."""


def of(name: str) -> Measure:
    """The measure of a name."""
    return {**PER_FRAME, **PER_PAIR}[name]


FEATURES = 1000
RATIO = 0.8
PRECISIONS = (0.8, 0.9, 0.95)
_IMMERKAER = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)


def basic(frame: np.ndarray, grey: np.ndarray) -> dict[str, float]:
    """Brightness, contrast, sharpness, noise and saturated share of a frame and its luma."""
    mean, deviation = cv2.meanStdDev(grey)
    clipped = cv2.inRange(frame, (0, 0, 0), (249, 249, 249))
    found = {
        'brightness': float(mean[0, 0]),
        'contrast': float(deviation[0, 0]),
        'saturated': 100 * (1 - cv2.countNonZero(clipped) / clipped.size),
    }
    if min(grey.shape) < 3:  # no pixel has neighbours on all sides
        return found
    gx = cv2.subtract(grey[1:-1, 2:], grey[1:-1, :-2], dtype=cv2.CV_32F)
    gy = cv2.subtract(grey[2:, 1:-1], grey[:-2, 1:-1], dtype=cv2.CV_32F)
    energy = (cv2.norm(gx, cv2.NORM_L2SQR) + cv2.norm(gy, cv2.NORM_L2SQR)) / 4 / gx.size
    response = cv2.filter2D(grey, cv2.CV_16S, _IMMERKAER)[1:-1, 1:-1]
    noise = cv2.norm(response, cv2.NORM_L1) / response.size * np.sqrt(np.pi / 2) / 6
    return {**found, 'sharpness': float(energy), 'noise': float(noise)}


def at_brightness(found: dict[str, float], brightness: float) -> dict[str, float]:
    """The same of a frame as if it were so bright: exposure is no quality."""
    gain = max(found['brightness'], 1e-6) / max(brightness, 1e-6)
    powers = {'contrast': 1, 'sharpness': 2, 'noise': 1}
    return {name: value / gain ** powers.get(name, 0) for name, value in found.items()}


def flicker(brightness: float, before: float) -> float:
    """Relative change of brightness in percent."""
    return 200 * abs(brightness - before) / max(brightness + before, 1e-6)


class Features:
    """ORB features, each frame matched with the one before it."""

    def __init__(self) -> None:
        """Begin without a frame before."""
        self._orb = cv2.ORB_create(FEATURES)
        self._matcher = cv2.BFMatcher(cv2.NORM_HAMMING)
        self._before: tuple[Any, Any] | None = None

    def measure(self, grey: np.ndarray) -> dict[str, float]:
        """Keypoints, and from the second frame on matches, inliers and their ratio."""
        # Its border of 31 pixels leaves nothing of small frames, and it fails on the smallest.
        small = min(grey.shape) < 62
        keypoints, descriptors = ((), None) if small else self._orb.detectAndCompute(grey, None)
        points = cv2.KeyPoint_convert(keypoints)
        found = {'keypoints': float(len(keypoints))}
        if self._before is not None:
            found |= self._match(points, descriptors, *self._before)
        self._before = points, descriptors
        return found

    def _match(self, points: Any, descriptors: Any, points_b: Any, other: Any) -> dict[str, float]:
        pairs: list[tuple[int, int]] = []
        if descriptors is not None and other is not None and min(len(descriptors), len(other)) > 1:
            forth = self._nearest(descriptors, other)
            back = self._nearest(other, descriptors)
            pairs = [(a, b) for a, b in forth.items() if back.get(b) == a]
        inliers = 0
        if len(pairs) >= 8:
            a, b = (np.array(side) for side in zip(*pairs))
            cv2.setRNGSeed(0)
            _, mask = cv2.findFundamentalMat(
                points[a], points_b[b], cv2.FM_RANSAC, 1.0, 0.99, maxIters=500
            )
            inliers = 0 if mask is None else int(mask.sum())
        ratio = {'inlier_ratio': inliers / len(pairs)} if pairs else {}
        return {'matches': float(len(pairs)), 'inliers': float(inliers), **ratio}

    def _nearest(self, of: np.ndarray, among: np.ndarray) -> dict[int, int]:
        """Nearest neighbours that are clearly nearer than the second."""
        return {
            best.queryIdx: best.trainIdx
            for best, second in self._matcher.knnMatch(of, among, k=2)
            if best.distance < RATIO * second.distance
        }


def full_reference(frame: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """PSNR and, where the window fits inside, SSIM of frames of one size."""
    found = {'psnr': psnr(frame, reference, PSNR_CAP)}
    if min(frame.shape[:2]) >= WINDOW:
        found['ssim'] = ssim(luma(frame), luma(reference))
    return found
