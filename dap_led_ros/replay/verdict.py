"""Whether enhancement helped: frame by frame against a mere gain, then one sentence per camera.

The baseline is called `auto`: the camera's frame times one number, so that it is as bright as the
enhanced one. No network is in it. What it has too is exposure, and no merit of a model.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from dap_led_ros.metrics import intervals
from dap_led_ros.metrics.luma import luma

OUTCOMES = ('enhanced', 'passed_through', 'refused')
"""What became of a frame; a tally holds places in this list."""
UNCHANGED = 0.5
"""Grey levels, mean absolute change, below which nobody sees a difference."""
MATTERS = 10.0
"""Percent of help or harm from which a frame counts as helped or harmed."""
_FEWEST_INLIERS = 20
_MOST_GAIN = 255.0
RULE = (
    'each frame counts once. No visible change: passed through, or changed by less than '
    f'{UNCHANGED} grey levels (mean absolute difference). Perhaps harmed: it lost '
    f'{MATTERS:.0f} % or more of something against auto, which is the same frame times one '
    'gain, as bright as the enhanced one: inlier matches (by more than twice the square root of '
    'their sum, too, which is their scatter), detections, pixels newly saturated, or PSNR as a '
    f'share of 10 dB. Helped: it gained {MATTERS:.0f} % or more of inlier matches, detections or '
    'PSNR, by the same rule, and is not harmed. The rest is changed and neither. In brackets: '
    '95 % interval'
)
VERDICTS = {
    'helped': 'helped',
    'unchanged': 'no visible change',
    'harmed': 'perhaps harmed',
    'neither': 'changed, and neither',
}


def auto(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """The frame before times one gain, as bright as after: (H, W, 3) uint8."""
    if after is before:
        return before
    wanted = float(luma(after).mean())
    few = np.ascontiguousarray(before[::4, ::4])
    low, high = 1 / _MOST_GAIN, _MOST_GAIN
    for _ in range(18):  # clipped pixels make it no mere quotient
        gain = (low * high) ** 0.5
        bright = luma(cv2.LUT(few, _table(gain))).mean() > wanted
        low, high = (low, gain) if bright else (gain, high)
    return cv2.LUT(before, _table((low * high) ** 0.5))


def _table(gain: float) -> np.ndarray:
    return np.clip(np.arange(256) * gain + 0.5, 0, 255).astype(np.uint8)


def of_frame(row: dict[str, Any]) -> dict[str, Any]:
    """Help and harm of a measured frame in percent, and of what."""
    base, after = row['auto'], row['after']
    changes = {
        'inlier matches': _counts(base.get('inliers'), after.get('inliers')),
        'detections': _share(base.get('detections'), after.get('detections'), 1),
        'PSNR': 10 * (after.get('psnr', 0.0) - base.get('psnr', 0.0)),
    }
    losses = {f'{name} lost': -change for name, change in changes.items()}
    losses['newly saturated'] = after['saturated'] - base['saturated']
    harm, help_ = max(losses, key=losses.__getitem__), max(changes, key=changes.__getitem__)
    found = {'harm': max(0.0, losses[harm]), 'help': max(0.0, changes[help_])}
    found['harm_why'] = harm if found['harm'] else ''
    found['help_why'] = f'more {help_}' if found['help'] else ''
    return found


def _share(before: float | None, after: float | None, least: float) -> float:
    """Percent gained; of fewer than `least` before and after it means nothing."""
    if before is None or after is None or max(before, after) < least:
        return 0.0
    return 100 * (after - before) / max(before, least)


def _counts(before: float | None, after: float | None) -> float:
    """Percent gained of inliers, where it is more than their scatter."""
    if before is None or after is None or abs(after - before) <= 2 * (after + before) ** 0.5:
        return 0.0
    return _share(before, after, _FEWEST_INLIERS)


def of_camera(camera: Any) -> dict[str, Any]:
    """Shares of the verdicts with intervals, percent; empty where nothing judges them.

    :param camera: its tally.Tally.
    """
    outcome = camera['outcome']
    passed = outcome == OUTCOMES.index('passed_through')
    enhanced = outcome == OUTCOMES.index('enhanced')
    judged = [camera[f'{name}_after'] for name in ('inliers', 'detections', 'psnr')]
    if all(np.isnan(column).all() for column in judged):
        return {}
    unchanged = passed | (enhanced & unchanged_frames(camera))
    known = unchanged | (enhanced & ~np.isnan(camera['harm']))
    harmed = ~unchanged & (camera['harm'] >= MATTERS)
    helped = ~unchanged & ~harmed & (camera['help'] >= MATTERS)
    of = {'helped': helped, 'unchanged': unchanged, 'harmed': harmed}
    of['neither'] = ~(helped | unchanged | harmed)
    shares = {}
    for name, frames in of.items():
        found = intervals.paired(np.zeros(known.sum()), 100.0 * frames[known])
        low, high = (found.low, found.high) if found.count > 1 else (0.0, 100.0)
        shares[name] = {'share': found.mean, 'low': low, 'high': high}
    return {'frames': int(known.sum()), **shares} if known.any() else {}


def unchanged_frames(camera: Any) -> np.ndarray:
    """Which frames the network left as they were, (frames,); those never enhanced are not."""
    return camera['changed'] < UNCHANGED


def sentence(verdict: dict[str, Any]) -> str:
    """The verdict in one line."""
    if not verdict:
        return 'no verdict: neither features nor detections nor a reference were measured'
    parts = []
    for name, words in VERDICTS.items():
        of = verdict[name]
        if name == 'neither' and of['share'] == 0:
            continue
        share = f'{of["share"]:.0f} % ({of["low"]:.0f}–{of["high"]:.0f})'
        parts.append(f'{words} {share}' + (' of frames' if name == 'helped' else ''))
    return 'against a mere gain: ' + ', '.join(parts)
