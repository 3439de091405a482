"""Sharp photographs from folders, and night-blur pairs made from them on the fly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from dap_led_ros.media import IMAGE_SUFFIXES, read_image
from dap_led_ros.pictures import eight_bit
from dap_led_training.data.batches import Stage
from dap_led_training.night.night_blur import NightBlurConfig, degrade, margin

FOLDERS = [
    '../shared/data/sharp/bsds500',
    '../shared/data/sharp/urban100',
    '../shared/data/sharp/sunhays80',
]
"""Where commands look for photographs that are given none."""
T = TypeVar('T')


def find_photographs(
    folders: list[str], validation: bool, validation_every: int = 8
) -> list[Path]:
    """Photographs of all folders and of the folders inside them.

    Of each single folder every `validation_every`-th (by name) validates and the others train,
    however the folders were given.

    :raises FileNotFoundError: a folder is missing or has no picture.
    """
    by_folder: dict[Path, dict[Path, None]] = {}  # each picture once, if a folder is given twice
    for folder in folders:
        pictures = [p for p in Path(folder).rglob('*') if p.suffix.lower() in IMAGE_SUFFIXES]
        if not pictures:
            raise FileNotFoundError(f'no photographs in {folder}: give folders of .jpg or .png')
        for picture in sorted(pictures):
            by_folder.setdefault(picture.parent, {})[picture] = None
    return [
        picture
        for pictures in by_folder.values()
        for index, picture in enumerate(pictures)
        if (index % validation_every == 0) == validation
    ]


def read_rgb(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB of an image file.

    :raises ValueError: the file is not a picture that OpenCV can read.
    """
    return eight_bit(read_image(path))


class NightBlurPairs:
    """Pairs made from sharp photographs, which are held in memory."""

    def __init__(self, paths: list[Path], config: NightBlurConfig) -> None:
        self.photographs = [read_rgb(path) for path in paths]
        self.config = config

    def sample(self, stage: Stage, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Degraded and target, both (crop, crop, 3) uint8 RGB; equal for a share stage.clean."""
        if rng.random() < stage.clean:
            crops = [self._crop(stage.crop, rng) for _ in range(stage.clean_candidates)]
            darkest = min(crops, key=np.mean)
            return darkest, darkest
        crop = self._crop(stage.crop + 2 * margin(self.config), rng)
        return degrade(crop, self.config, rng)[:2]

    def _crop(self, size: int, rng: np.random.Generator) -> np.ndarray:
        photograph = self.photographs[rng.integers(len(self.photographs))]
        return random_crop(photograph, size, rng)


def random_crop(photograph: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """A square of `size` pixels at a random place, scale (0.45 to 1.1) and orientation."""
    height, width = photograph.shape[:2]
    smallest = max(0.45, size / min(height, width))
    scale = rng.uniform(smallest, max(1.1, smallest))
    side = min(round(size / scale), height, width)
    y, x = rng.integers(height - side + 1), rng.integers(width - side + 1)
    crop = photograph[y : y + side, x : x + side]
    if side != size:
        method = cv2.INTER_AREA if side > size else cv2.INTER_CUBIC
        crop = cv2.resize(crop, (size, size), interpolation=method)
    crop = np.rot90(crop, rng.integers(4)) if rng.random() < 0.3 else crop
    crop = crop[:, ::-1] if rng.random() < 0.5 else crop
    return np.ascontiguousarray(crop)


def spread(items: Sequence[T], count: int) -> list[T]:
    """Evenly spread ones of a list; again from its beginning where it is too short."""
    return [items[(i * max(1, len(items) // count)) % len(items)] for i in range(count)]
