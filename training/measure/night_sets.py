"""The night sets: validation photographs, degraded in three ways that never change."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from dap_led_training.data.photographs import read_rgb
from dap_led_training.night import independent
from dap_led_training.night.night_blur import NightBlurConfig, degrade, margin

SIZE = (640, 480)
"""Width and height of every frame."""
Pair = tuple[np.ndarray, np.ndarray]
"""(degraded, reference), two (H, W, 3) uint8 RGB frames."""


def night_sets(photographs: Sequence[Path | np.ndarray]) -> dict[str, list[Pair]]:
    """The sets synthesis, independent and lamps, in the order given; always the same.

    :param photographs: files, or frames (H, W, 3) uint8 RGB.
    """
    config = NightBlurConfig(daylight=0.0, blur=1.0)
    m = margin(config)
    sets: dict[str, list[Pair]] = {'synthesis': [], 'independent': [], 'lamps': []}
    for index, given in enumerate(tqdm(photographs, desc='degrading', unit='photograph')):
        photograph = given if isinstance(given, np.ndarray) else read_rgb(given)
        wide = fit(photograph, SIZE[0] + 2 * m, SIZE[1] + 2 * m)
        sharp = fit(photograph, *SIZE)
        sets['synthesis'].append(degrade(wide, config, np.random.default_rng([99, index]))[:2])
        for name in ('independent', 'lamps'):
            rng = np.random.default_rng([98, index])
            sets[name].append(independent.night(sharp, rng, lamps=name == 'lamps'))
    return sets


def fit(photograph: np.ndarray, width: int, height: int) -> np.ndarray:
    """Scale and centre-crop to a size; portraits are turned first."""
    if photograph.shape[0] > photograph.shape[1]:
        photograph = np.rot90(photograph)
    scale = max(width / photograph.shape[1], height / photograph.shape[0])
    size = [
        max(a, round(b * scale))
        for a, b in ((width, photograph.shape[1]), (height, photograph.shape[0]))
    ]
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    image = cv2.resize(photograph, size, interpolation=method)
    x, y = (image.shape[1] - width) // 2, (image.shape[0] - height) // 2
    return np.ascontiguousarray(image[y : y + height, x : x + width])
