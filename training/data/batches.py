"""Batches of pairs for training, in one process or shared among several."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset


@dataclass(frozen=True)
class Stage:
    """One part of the crop curriculum."""

    crop: int
    """Side of the crops, pixels."""
    batch: int
    """Pairs of one step, over all processes together."""
    steps: int
    clean: float = 0.14
    """Share of undegraded pairs, from which the network learns to do no harm by day.

    This and clean_candidates are for pairs made from photographs; pairs from disk are as they are.
    """
    clean_candidates: int = 1
    """An undegraded pair is the darkest of so many crops: dark is not yet underexposed."""


class PairSource(Protocol):
    """Where pairs come from."""

    def sample(self, stage: Stage, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Degraded and target, both (crop, crop, 3) uint8 RGB: a pure function of rng's state."""


class Batches(Dataset):
    """Batch number `step` of a training run: a pure function of (seed, step).

    Each item is (degraded, target): two uint8 tensors (stage.batch // world_size, crop, crop, 3),
    RGB. Pair i of a step is drawn by a generator of its own, from (seed, step, i), and the process
    `rank` holds a contiguous part: the parts of all ranks in order are the batch of one process.

    :raises ValueError: the batch of a stage does not divide by the number of processes.
    """

    def __init__(
        self,
        source: PairSource,
        stages: list[Stage],
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f'rank {rank} is not one of {world_size} processes')
        for stage in stages:
            if stage.batch % world_size:
                raise ValueError(
                    f'a batch of {stage.batch} cannot be shared by {world_size} processes: '
                    f'make it a multiple of {world_size}'
                )
        self.source = source
        self.stages = stages
        self.seed = seed
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        return sum(stage.steps for stage in self.stages)

    def __getitem__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        cv2.setNumThreads(1)  # workers run side by side
        stage = stage_of(self.stages, step)
        count = stage.batch // self.world_size
        pairs = [
            self.source.sample(stage, np.random.default_rng([self.seed, step, i]))
            for i in range(self.rank * count, (self.rank + 1) * count)
        ]
        degraded, target = zip(*pairs)
        return torch.from_numpy(np.stack(degraded)), torch.from_numpy(np.stack(target))


def as_planes(frames: torch.Tensor) -> torch.Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float in [0, 1]; channels_last in memory already."""
    return frames.permute(0, 3, 1, 2).float().div(255)


def stage_of(stages: list[Stage], step: int) -> Stage:
    """The stage that a step of the run belongs to.

    :raises IndexError: the run is shorter.
    """
    total = sum(stage.steps for stage in stages)
    for stage in stages:
        if step < stage.steps:
            return stage
        step -= stage.steps
    raise IndexError(f'the run has {total} steps')
