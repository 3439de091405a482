"""Night frames whose degradation is known.

The degradation CLIP learns from them and is judged by them. Every frame is one photograph fitted
to 640x480 and degraded by the synthesis with drawn strengths of two things, from nothing to much:
exposure and camera shake. Rendering a frame takes a tenth of a second, so a set is rendered once,
kept as a file and used many times.
"""

from __future__ import annotations

import dataclasses
import json
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from dap_led_ros.photometry import srgb_to_linear
from dap_led_training.data.photographs import read_rgb
from dap_led_training.night.night_blur import NightBlurConfig, degrade, margin

WIDTH, HEIGHT = 640, 480
CELL = 16


@dataclass(frozen=True)
class Label:
    """What was done to a frame."""

    photograph: int
    box: tuple[int, int, int, int]
    """Part of the photograph, without the margin that camera shake needs: x, y, width, height."""
    exposure: float
    """Light left of what the photograph has, 0 to 1: median over cells of 16x16 pixels."""
    path_length: float
    """Length of the camera's path during the exposure, in pixels of the 640x480 frame."""


@dataclass(frozen=True)
class Mixture:
    """Shares and ranges of the two degradations; what is left of 1 is undegraded."""

    dark: float = 0.5
    dim: float = 0.15
    blurry: float = 0.45
    shaken: float = 0.2
    dark_exposure: tuple[float, float] = (0.012, 0.2)
    dim_exposure: tuple[float, float] = (0.2, 0.9)
    blurry_path: tuple[float, float] = (7.0, 24.0)
    shaken_path: tuple[float, float] = (1.0, 7.0)
    grain: float = 0.3
    """Of the frames that are neither dark nor blurry, how many get noise and JPEG all the same."""


class LabelledFrames:
    """A rendered set: frames (N, 480, 640, 3) uint8 RGB, mapped from the disk, and their labels.

    :raises FileNotFoundError: there is no rendered set in the folder.
    """

    def __init__(self, folder: Path, photographs: list[Path]) -> None:
        self.frames = np.load(folder / 'frames.npy', mmap_mode='r')
        entries = json.loads((folder / 'labels.json').read_text())
        self.labels = [Label(**{**e, 'box': tuple(e['box'])}) for e in entries]
        self._photographs = [read_rgb(path) for path in photographs]

    def __len__(self) -> int:
        return len(self.labels)

    def sharp(self, index: int) -> np.ndarray:
        """The same view of the undegraded photograph, (480, 640, 3) uint8 RGB."""
        label = self.labels[index]
        x, y, width, height = label.box
        part = self._photographs[label.photograph][y : y + height, x : x + width]
        return resize(part, WIDTH, HEIGHT)


def render(
    photographs: list[Path], count: int, seed: int, folder: Path, mixture: Mixture
) -> LabelledFrames:
    """Render a set into a folder, on all cores, unless the folder holds it already."""
    recipe = json.dumps(
        {
            'photographs': [(p.parent.name, p.name, p.stat().st_size) for p in photographs],
            'count': count,
            'seed': seed,
            'mixture': dataclasses.asdict(mixture),
        }
    )
    done = folder / 'recipe.json'
    if not done.exists() or done.read_text() != recipe:
        folder.mkdir(parents=True, exist_ok=True)
        done.unlink(missing_ok=True)
        shape = (count, HEIGHT, WIDTH, 3)
        frames = np.lib.format.open_memmap(folder / 'frames.npy', 'w+', np.uint8, shape)
        task = partial(_render_one, photographs=photographs, seed=seed, mixture=mixture)
        with ProcessPoolExecutor(os.cpu_count()) as pool:
            results = pool.map(task, range(count), chunksize=16)
            labels = []
            for index, (frame, label) in enumerate(tqdm(results, 'rendering', count)):
                frames[index] = frame
                labels.append(dataclasses.asdict(label))
        frames.flush()
        (folder / 'labels.json').write_text(json.dumps(labels))
        done.write_text(recipe)
    return LabelledFrames(folder, photographs)


def _render_one(
    index: int, photographs: list[Path], seed: int, mixture: Mixture
) -> tuple[np.ndarray, Label]:
    cv2.setNumThreads(1)
    rng = np.random.default_rng([seed, index])
    number = int(rng.integers(len(photographs)))
    photograph = read_rgb(photographs[number])
    config = draw_config(mixture, rng)
    m = margin(config or NightBlurConfig())
    box, wide = _view(photograph, m, rng)
    if config is None:
        return wide[m:-m, m:-m], Label(number, box, 1.0, 0.0)
    degraded, target, drawn = degrade(wide, config, rng)
    exposure = effective_exposure(degraded, target) if drawn['night'] else 1.0
    return degraded, Label(number, box, exposure, drawn.get('path_length', 0.0))


def draw_config(mixture: Mixture, rng: np.random.Generator) -> NightBlurConfig | None:
    """Draw how dark and how blurred; None is nothing at all."""
    light, shake = rng.random(2)
    dark, darkened = light < mixture.dark, light < mixture.dark + mixture.dim
    blurry, moved = shake < mixture.blurry, shake < mixture.blurry + mixture.shaken
    if not darkened and not moved and rng.random() >= mixture.grain:
        return None
    return NightBlurConfig(
        daylight=0.0 if darkened else 1.0,
        blur=1.0 if moved else 0.0,
        path_length=mixture.blurry_path if blurry else mixture.shaken_path,
        defocus=0.25 if moved else 0.0,
        exposure=mixture.dark_exposure if dark else mixture.dim_exposure,
        # Only the linear law knows weak darkening.
        **({} if dark or not darkened else {'law_linear': 1.0, 'law_gamma': 0.0, 'lamps': 0.0}),
    )


def effective_exposure(degraded: np.ndarray, target: np.ndarray) -> float:
    """Median over cells of the linear light that is left; lamps are in few cells."""
    cells = [
        cv2.resize(
            srgb_to_linear(frame),
            (frame.shape[1] // CELL, frame.shape[0] // CELL),
            interpolation=cv2.INTER_AREA,
        ).mean(axis=2)
        for frame in (degraded, target)
    ]
    lit = cells[1] > 0.01
    if not lit.any():
        return 1.0
    return float(np.clip(np.median(cells[0][lit] / cells[1][lit]), 0, 1))


def _view(
    photograph: np.ndarray, m: int, rng: np.random.Generator
) -> tuple[tuple[int, int, int, int], np.ndarray]:
    """A random 4:3 part of a photograph, as box and as frame with m pixels more on each side."""
    height, width = photograph.shape[:2]
    ratio = (WIDTH + 2 * m) / (HEIGHT + 2 * m)
    full = min(width, int(height * ratio))
    w = int(full * rng.uniform(0.75, 1.0))
    h = int(w / ratio)
    x, y = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
    wide = resize(photograph[y : y + h, x : x + w], WIDTH + 2 * m, HEIGHT + 2 * m)
    inset = round(m * w / (WIDTH + 2 * m))
    return (x + inset, y + inset, w - 2 * inset, h - 2 * inset), wide


def resize(frame: np.ndarray, width: int, height: int) -> np.ndarray:
    """Scale a frame, averaging where it shrinks."""
    method = cv2.INTER_AREA if width < frame.shape[1] else cv2.INTER_CUBIC
    return cv2.resize(frame, (width, height), interpolation=method)
