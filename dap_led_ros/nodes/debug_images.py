"""Pictures for people: what the enhancement did, and where the frame is degraded."""

from __future__ import annotations

import cv2
import numpy as np

from dap_led_ros.pictures import eight_bit


def side_by_side(frame: np.ndarray, enhanced: np.ndarray) -> np.ndarray:
    """Two (H, W, 3) RGB frames as one, (H, 2 W, 3) uint8."""
    return np.hstack([eight_bit(frame), eight_bit(enhanced)])


def heat_map(frame: np.ndarray, heatmaps: dict[str, np.ndarray]) -> np.ndarray:
    """Low light in blue and blur in red over the grey frame, (H, W, 3) uint8 RGB.

    :param heatmaps: low_light and blur, each (h, w) in [0, 1].
    """
    height, width = frame.shape[:2]
    grey = cv2.cvtColor(eight_bit(frame), cv2.COLOR_RGB2GRAY).astype(np.float32)
    overlay = np.repeat(grey[..., None], 3, axis=2)
    for name, channel in (('blur', 0), ('low_light', 2)):
        heat = cv2.resize(heatmaps[name].astype(np.float32), (width, height))
        overlay[..., channel] += heat * (255 - overlay[..., channel]) / 2
    return overlay.clip(0, 255).astype(np.uint8)
