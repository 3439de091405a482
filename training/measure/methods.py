"""What enhances frames: models, and the baselines that stand beside them in every table."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import cv2
import numpy as np

from dap_led_ros.inference import Enhancer
from dap_led_ros.metrics.baselines import clahe

Method = Callable[[np.ndarray], np.ndarray]
"""(H, W, 3) uint8 RGB -> the enhanced frame, of the same shape and type."""
AUTO_MEAN = 108.0
"""Grey level that the mean of a frame is brought to where no reference is known."""


def auto(frame: np.ndarray, mean: float = AUTO_MEAN) -> np.ndarray:
    """The frame times one number that brings its mean to `mean`, as far as clipping lets it."""
    low, high = 0.0, 255.0
    values = np.bincount(frame.reshape(-1), minlength=256) / frame.size
    levels = np.arange(256)
    for _ in range(30):
        factor = (low + high) / 2
        reached = (np.minimum(levels * factor, 255) * values).sum()
        low, high = (factor, high) if reached < mean else (low, factor)
    return np.minimum(frame * factor + 0.5, 255).astype(np.uint8)


def clahe_and_gamma(frame: np.ndarray) -> np.ndarray:
    """The classical baseline: CLAHE on lightness, then a gamma that lifts the mean to 0.4."""
    image = clahe(frame)
    gamma = np.log(0.4) / np.log(np.clip(image.mean() / 255, 0.02, 0.98))
    table = (255 * (np.arange(256) / 255) ** min(gamma, 1.0) + 0.5).astype(np.uint8)
    return cv2.LUT(image, table)


def load_methods(models: Iterable[str]) -> dict[str, Method]:
    """The baselines, and each model that Enhancer.load() finds."""
    methods: dict[str, Method] = {
        'input': lambda frame: frame,
        'auto': auto,
        'CLAHE + gamma': clahe_and_gamma,
    }
    for model in models:
        enhancer = Enhancer.load(model)
        methods[model] = lambda frame, enhancer=enhancer: enhancer.enhance(frame).frame
    return methods
