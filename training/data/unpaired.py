"""Two sets of pictures that need not show the same: degraded ones and clean ones."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from dap_led_training.data.batches import Stage, stage_of
from dap_led_training.data.photographs import (
    NightBlurPairs,
    find_photographs,
    random_crop,
    read_rgb,
)
from dap_led_training.night.night_blur import NightBlurConfig

_NAMED = 5  # paths in an error message


@dataclass(frozen=True)
class UnpairedConfig:
    """Two sets of folders, or photographs that both sets are made from.

    :raises ValueError: neither or both are given, or only one of the two sets.
    """

    degraded: list[str] = field(default_factory=list)
    """Folders of degraded pictures, whatever they are called."""
    clean: list[str] = field(default_factory=list)
    """Folders of pictures as they should be, of whatever they show."""
    photographs: list[str] = field(default_factory=list)
    """Folders of sharp photographs: every second one is degraded by the synthesis, on the fly, and
    never seen as it was; the others are the clean ones."""

    def __post_init__(self) -> None:
        sets = bool(self.degraded), bool(self.clean)
        if bool(self.photographs) == any(sets) or sets[0] != sets[1]:
            raise ValueError(
                'data: give either degraded: [FOLDER] and clean: [FOLDER], '
                'or photographs: [FOLDER]'
            )


class Pictures(Protocol):
    """Where pictures of one set come from."""

    def sample(self, crop: int, rng: np.random.Generator) -> np.ndarray:
        """(crop, crop, 3) uint8 RGB: a pure function of rng's state."""


class PictureFiles:
    """Random crops of picture files, which are read when they are needed.

    A file that cannot be read is left out, with a warning that names it: one bad file shall not
    end a training of days. When there is no other left, it ends.
    """

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        self._bad: set[Path] = set()

    def sample(self, crop: int, rng: np.random.Generator) -> np.ndarray:
        """(crop, crop, 3) uint8 RGB.

        :raises ValueError: no file of the set can be read.
        """
        for index in rng.permutation(len(self.paths)):
            path = self.paths[index]
            if path in self._bad:
                continue
            try:
                return random_crop(read_rgb(path), crop, rng)
            except (OSError, ValueError) as error:
                self._bad.add(path)
                warnings.warn(f'left out: {error}', stacklevel=2)
        raise ValueError(
            f'none of the {len(self.paths)} pictures like {self.paths[0]} can be read'
        )


class DegradedPhotographs:
    """The degraded half of pairs that the synthesis makes."""

    def __init__(self, paths: list[Path], night_blur: NightBlurConfig) -> None:
        self._pairs = NightBlurPairs(paths, night_blur)

    def sample(self, crop: int, rng: np.random.Generator) -> np.ndarray:
        """(crop, crop, 3) uint8 RGB."""
        return self._pairs.sample(Stage(crop, 1, 1, clean=0.0), rng)[0]


class UnpairedBatches(Dataset):
    """Batch number `step` of a training run: a pure function of (seed, step).

    Each item is (degraded, clean): two uint8 tensors (stage.batch, crop, crop, 3), RGB. A
    stage's share of clean pairs is of no account: what is degraded says the set.
    """

    def __init__(
        self, degraded: Pictures, clean: Pictures, stages: list[Stage], seed: int
    ) -> None:
        self.sets = (degraded, clean)
        self.stages = stages
        self.seed = seed

    def __len__(self) -> int:
        return sum(stage.steps for stage in self.stages)

    def __getitem__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        cv2.setNumThreads(1)  # workers run side by side
        stage = stage_of(self.stages, step)
        drawn = [
            [
                pictures.sample(stage.crop, np.random.default_rng([self.seed, step, which, i]))
                for i in range(stage.batch)
            ]
            for which, pictures in enumerate(self.sets)
        ]
        return torch.from_numpy(np.stack(drawn[0])), torch.from_numpy(np.stack(drawn[1]))


def sources(
    config: UnpairedConfig, night_blur: NightBlurConfig, validation: bool = False
) -> tuple[Pictures, Pictures]:
    """The degraded and the clean set; prints one line that says what they are.

    :param night_blur: the synthesis, for photographs.
    :param validation: every eighth picture of each folder, else all others.
    :raises FileNotFoundError: a folder is missing or has no picture.
    :raises ValueError: a picture is in both sets, or a set has none left.
    """
    if config.photographs:
        paths = find_photographs(config.photographs, validation)
        halves = paths[::2], paths[1::2]
        _check(config.photographs, halves)
        print(
            f'{len(halves[0])} photographs degraded by the synthesis, {len(halves[1])} others as '
            f'they are, of {", ".join(config.photographs)}'
        )
        return DegradedPhotographs(halves[0], night_blur), PictureFiles(halves[1])
    sets = [find_photographs(given, validation) for given in (config.degraded, config.clean)]
    _check([*config.degraded, *config.clean], sets)
    both = sorted({p.resolve() for p in sets[0]} & {p.resolve() for p in sets[1]})
    if both:
        names = ', '.join(map(str, both[:_NAMED])) + (', ...' if len(both) > _NAMED else '')
        raise ValueError(f'{len(both)} pictures are in degraded and in clean: {names}')
    print(
        f'{len(sets[0])} degraded pictures of {", ".join(config.degraded)}, '
        f'{len(sets[1])} clean ones of {", ".join(config.clean)}'
    )
    return PictureFiles(sets[0]), PictureFiles(sets[1])


def _check(folders: list[str], sets: list[list[Path]] | tuple[list[Path], ...]) -> None:
    if not all(sets):
        raise ValueError(f'{", ".join(folders)}: too few pictures for two sets; give more')
