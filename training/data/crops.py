"""Batches of sharp crops, with what the synthesis on the training device shall do to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm import tqdm

from dap_led_training.data.batches import Stage, stage_of
from dap_led_training.data.judge_photographs import without_judges
from dap_led_training.data.photographs import find_photographs, random_crop, read_rgb
from dap_led_training.night.night_batches import MARGIN, Drawn, NightConfig, draw, stack
from dap_led_training.night.night_clips import ClipConfig, draw_clip

LONGEST = 1024
"""Pixels: longer photographs are made smaller when they are read, and sharper by it."""


class NightBatches(Dataset):
    """Batch number `step` of a training run: a pure function of (seed, step).

    Each item is (photographs, *drawn): uint8 (B, S, S, 3) RGB, S the stage's crop and twice
    MARGIN, and the tensors of Drawn. Sample i of a step is drawn by a generator of its own, from
    (seed, step, i), and the process `rank` holds a contiguous part of them.

    :param clips: clips in place of single frames: all tensors are (B, T, ...), in time's order.
    :raises ValueError: the batch of a stage does not divide by the number of processes.
    """

    def __init__(
        self,
        photographs: list[np.ndarray],
        stages: list[Stage],
        config: NightConfig,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        clips: ClipConfig | None = None,
    ) -> None:
        for stage in stages:
            if stage.batch % world_size:
                raise ValueError(
                    f'a batch of {stage.batch} cannot be shared by {world_size} processes: '
                    f'make it a multiple of {world_size}'
                )
        self.photographs, self.stages, self.config = photographs, stages, config
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.clips = clips

    def __len__(self) -> int:
        return sum(stage.steps for stage in self.stages)

    def __getitem__(self, step: int) -> tuple[torch.Tensor, ...]:
        cv2.setNumThreads(1)  # workers run side by side
        stage = stage_of(self.stages, step)
        count = stage.batch // self.world_size
        crops, drawn = [], []
        for i in range(self.rank * count, (self.rank + 1) * count):
            rng = np.random.default_rng([self.seed, step, i])
            pictures, drawn_of = self._sample(stage.crop, rng)
            crops.append(pictures)
            drawn.append(drawn_of)
        return torch.from_numpy(np.stack(crops)), *stack(drawn)

    def _sample(self, crop: int, rng: np.random.Generator) -> tuple[np.ndarray, Drawn]:
        if self.clips is not None:
            return draw_clip(self.photographs, self.clips, self.config, rng, crop)
        photograph = self.photographs[rng.integers(len(self.photographs))]
        return random_crop(photograph, crop + 2 * MARGIN, rng), draw(self.config, rng, crop)


def load(folders: list[str], validation: bool) -> list[np.ndarray]:
    """Photographs of folders, or of one file of pack(); none of them judges.

    :param validation: every eighth of each folder, else the others.
    :raises FileNotFoundError: a folder is missing or has no picture.
    """
    if len(folders) == 1 and folders[0].endswith('.pt'):
        packed: dict[str, Any] = torch.load(folders[0], weights_only=True)
        return [one.numpy() for one in packed['validation' if validation else 'training']]
    paths = without_judges(find_photographs(folders, validation))
    if not paths:
        purpose = 'validate' if validation else 'train'
        raise FileNotFoundError(f'{", ".join(folders)}: no photograph is left to {purpose} on')
    return [
        _shrunk(read_rgb(path))
        for path in tqdm(paths, 'reading', unit='photograph', mininterval=5)
    ]


def pack(folders: list[str], path: Path) -> dict[str, int]:
    """Write the photographs of folders into one file, which load() takes in their place.

    :returns: how many train and how many validate.
    """
    sets = {
        name: [torch.tensor(one) for one in load(folders, name == 'validation')]
        for name in ('training', 'validation')
    }
    torch.save(sets, path)
    return {name: len(photographs) for name, photographs in sets.items()}


def _shrunk(photograph: np.ndarray) -> np.ndarray:
    scale = LONGEST / max(photograph.shape[:2])
    if scale >= 1:
        return photograph
    return cv2.resize(photograph, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
