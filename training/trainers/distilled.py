"""Distil a CLIP prior: python -m dap_led_training train RECIPE --out RUN.

The teacher judges every frame of the rendered set once, every second one degraded on one side
only; the student learns these maps and scores from the frames at 320x240. Writes
RUN/weights.safetensors and RUN/degradation.onnx, which needs no torch: input `frame`
(B, 3, 240, 320) RGB in [0, 1], outputs `heatmaps` (B, 3, 15, 20) and `scores` (B, 3).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset
from tqdm import tqdm

from dap_led_ros.checkpoints.priors import build_prior
from dap_led_ros.priors import NAMES, PriorConfig
from dap_led_ros.priors.distilled import SIZE, DistilledPrior
from dap_led_training import configuration, loop
from dap_led_training.data.batches import as_planes
from dap_led_training.data.classes import to_tensor
from dap_led_training.data.labelled_frames import LabelledFrames, Mixture, render
from dap_led_training.data.photographs import find_photographs
from dap_led_training.trainers.clip import FRAMES_SEED, split
from dap_led_training.trainers.prior_onnx import export_prior

GRID = (15, 20)


@dataclass(frozen=True)
class DistilConfig:
    """A recipe; see recipes/clip/5_distilled.yaml."""

    photographs: list[str]
    teacher: str = 'degradation-clip-tiny'
    frames: int = 6000
    mixture: Mixture = field(default_factory=Mixture)
    steps: int = 4000
    batch: int = 64
    loop: loop.LoopConfig = field(default_factory=loop.LoopConfig)


@torch.no_grad()
def judge(frames: LabelledFrames, config: DistilConfig, out: Path) -> dict[str, np.ndarray]:
    """What the teacher says: small frames, maps on the student's grid, scores; files, mapped."""
    teacher = build_prior(PriorConfig(clip=config.teacher))
    folder, count = out / f'judged-{teacher.fingerprint:08x}', len(frames)
    shapes = {
        'small': ((count, *SIZE, 3), np.uint8),
        'maps': ((count, len(NAMES), *GRID), np.float32),
        'scores': ((count, len(NAMES)), np.float32),
    }
    if not folder.exists():
        part = folder.with_suffix('.part')
        part.mkdir(exist_ok=True)
        found = {
            name: np.lib.format.open_memmap(part / f'{name}.npy', 'w+', kind, shape)
            for name, (shape, kind) in shapes.items()
        }
        for index in tqdm(range(count), 'the teacher judges'):
            frame = frames.frames[index]
            if index % 2:
                rng = np.random.default_rng([config.loop.seed, index])
                frame = split(frame, frames.sharp(index), rng)[0]
            degradation = teacher(to_tensor(frame))
            maps = functional.interpolate(degradation.heatmaps, GRID, mode='bilinear')
            found['small'][index] = cv2.resize(frame, SIZE[::-1], interpolation=cv2.INTER_AREA)
            found['maps'][index] = maps[0].numpy()
            found['scores'][index] = degradation.scores[0].numpy()
        for array in found.values():
            array.flush()
        part.rename(folder)
    return {name: np.load(folder / f'{name}.npy', mmap_mode='r') for name in shapes}


class Judgements(Dataset):
    """Batch number `step`: small frames (B, 240, 320, 3) uint8, maps (B, K, 15, 20), scores."""

    def __init__(self, judged: dict[str, np.ndarray], config: DistilConfig) -> None:
        self.judged, self.config = judged, config

    def __len__(self) -> int:
        return self.config.steps

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        rng = np.random.default_rng([self.config.loop.seed, step])
        chosen = np.sort(rng.integers(len(self.judged['small']), size=self.config.batch))
        small, maps = self.judged['small'][chosen], self.judged['maps'][chosen]
        if rng.random() < 0.5:
            small, maps = small[:, :, ::-1], maps[..., ::-1]
        return (
            torch.from_numpy(np.ascontiguousarray(small)),
            torch.from_numpy(np.ascontiguousarray(maps)),
            torch.from_numpy(self.judged['scores'][chosen]),
        )


class DistilRecipe(nn.Module):
    """Cross-entropy with the teacher's probabilities, less what they leave uncertain."""

    def __init__(self) -> None:
        super().__init__()
        self.network = DistilledPrior()

    def forward(self, small: Tensor, maps: Tensor, scores: Tensor) -> dict[str, Tensor]:
        """Loss terms of a batch of Judgements."""
        found = self.network.logits(as_planes(small))
        return {
            name: functional.binary_cross_entropy_with_logits(mine, theirs)
            - functional.binary_cross_entropy(theirs, theirs)
            for name, mine, theirs in zip(('maps', 'scores'), found, (maps, scores))
        }


def train(config: DistilConfig, out: Path) -> Path:
    """Train (or resume) a run; returns the path of the ONNX file."""
    fabric = loop.start_alone(config.loop, out)
    loop.write_record(out, config, config.loop)
    photographs = find_photographs(config.photographs, validation=False)
    frames = render(photographs, config.frames, FRAMES_SEED, out / 'frames', config.mixture)
    judged = judge(frames, config, out)
    recipe = DistilRecipe()
    loop.fit(fabric, recipe, Judgements(judged, config), config.loop, out, _write)
    student = DistilledPrior()
    student.load_state_dict(load_file(out / loop.WEIGHTS))
    export_prior(student, out / 'degradation.onnx')
    return out / 'degradation.onnx'


def _write(network: DistilledPrior, path: Path) -> None:
    save_file({k: v.contiguous().cpu() for k, v in network.state_dict().items()}, path)


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and train."""
    options = configuration.recipe_parser('train', __doc__).parse_args(arguments)
    config = configuration.load(options.config, DistilConfig)
    if options.photographs:
        config = dataclasses.replace(config, photographs=options.photographs)
    print(f'the distilled prior is {train(config, options.out)}')
