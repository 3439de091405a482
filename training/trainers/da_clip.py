"""Train DA-CLIP's controller: python -m dap_led_training train RECIPE --out RUN.

The paper (Luo et al. 2024, arXiv:2310.01018) learns from triples: a degraded picture, the caption
of its clean original, and the type of degradation. Ours are rendered by the synthesis. The type is
one of four texts; in place of a caption, which nobody has written, the content of the clean
picture is the frozen tower's embedding of it. RUN/weights.safetensors is what
`prior: {kind: controller, controller: FILE}` reads. At the end the controller and the frozen CLIP
classify the same held-out frames. da_clip.md is the page of this recipe.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset
from tqdm import tqdm

from dap_led_ros.checkpoints.priors import build_prior, load_clip
from dap_led_ros.priors import PriorConfig
from dap_led_ros.priors.clip import ClipPrior
from dap_led_ros.priors.controller import Controller, ControllerPrior, pooled, tokens
from dap_led_training import configuration, loop
from dap_led_training.data import captions
from dap_led_training.data.batches import as_planes
from dap_led_training.data.classes import (
    CLASSES,
    FOUR_CLASSES,
    VALIDATION_SEED,
    class_of,
    class_texts,
    to_tensor,
)
from dap_led_training.data.labelled_frames import LabelledFrames, Mixture, render, resize
from dap_led_training.data.photographs import find_photographs
from dap_led_training.trainers.clip import FRAMES_SEED

CLAIMS = (('bright', 'sharp'), ('dark', 'sharp'), ('bright', 'blurry'), ('dark', 'blurry'))
"""Levels of captions.LIGHT and captions.BLUR that the four CLASSES claim, in their order."""


@dataclass(frozen=True)
class DaClipConfig:
    """A recipe; see recipes/companions/da_clip/1_controller.yaml."""

    photographs: list[str]
    prior: PriorConfig = field(default_factory=PriorConfig)
    """The CLIP to control."""
    frames: int = 6000
    validation_frames: int = 400
    mixture: Mixture = field(default_factory=Mixture)
    steps: int = 300
    batch: int = 32
    patch_dropout: float = 0.5
    """Share of the patches that training leaves out (FLIP, Li et al. 2023)."""
    loop: loop.LoopConfig = field(default_factory=loop.LoopConfig)


class Triples(Dataset):
    """Batch number `step`: degraded and sharp pictures (B, S, S, 3) uint8, and types (B, 4).

    Both pictures are the same view. A type is how far each of the four texts fits; a row adds up
    to one, for words are no thresholds: see captions.py.

    :raises ValueError: there is no frame of a type.
    """

    def __init__(self, frames: LabelledFrames, config: DaClipConfig, size: tuple[int, int]):
        self.frames, self.config, self.size = frames, config, size
        exposure, path_length = np.array([(x.exposure, x.path_length) for x in frames.labels]).T
        claimed = [captions.Caption('', *claim) for claim in CLAIMS]
        self.types = captions.agreement(claimed, np.maximum(exposure, 1e-3), path_length)
        missing = [name for name, fits in zip(CLASSES, self.types.max(0)) if fits < 0.5]
        if missing:
            raise ValueError(
                f'no frame of {len(frames)} is {" or ".join(missing)}: render more frames, or '
                'change mixture'
            )

    def __len__(self) -> int:
        return self.config.steps

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        rng = np.random.default_rng([self.config.loop.seed, step])
        chosen = rng.integers(len(self.frames), size=self.config.batch)
        views = [self._views(index, rng) for index in chosen]
        degraded, sharp = (torch.from_numpy(np.stack(view)) for view in zip(*views))
        return degraded, sharp, torch.from_numpy(self.types[chosen])

    def _views(self, index: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """The whole frame or a window of it, squeezed to the picture size of the CLIP."""
        both = self.frames.frames[index], self.frames.sharp(index)
        height, width = both[0].shape[:2]
        side = int(height * rng.uniform(0.45, 1.0))
        y, x = rng.integers(height - side + 1), rng.integers(width - side + 1)
        if rng.random() < 0.4:
            both = tuple(frame[y : y + side, x : x + side] for frame in both)
        step = -1 if rng.random() < 0.5 else 1
        views = (resize(frame, *self.size[::-1])[:, ::step] for frame in both)
        return tuple(map(np.ascontiguousarray, views))


class DaClipRecipe(nn.Module):
    """Eq. 2: content and degradation, each matched by eq. 1; the controller alone is trained."""

    def __init__(self, config: DaClipConfig) -> None:
        super().__init__()
        clip = load_clip(config.prior)
        frozen = ClipPrior(clip.visual, class_texts(clip)[:, None], 1.0)
        self.network = Controller(frozen.visual)
        self.patch_dropout = config.patch_dropout
        # In a tuple, so that checkpoints do not hold what never changes.
        self._frozen = (frozen,)

    def forward(self, degraded: Tensor, sharp: Tensor, types: Tensor) -> dict[str, Tensor]:
        """Loss terms of a batch of Triples."""
        frozen = self._frozen[0].to(degraded.device)
        degraded, sharp = (
            (as_planes(pictures) - frozen.mean) / frozen.std for pictures in (degraded, sharp)
        )
        patches = int(np.prod(frozen.visual.grid_size))
        draws = torch.rand(len(degraded), patches, device=degraded.device)
        kept = draws.topk(max(1, round(patches * (1 - self.patch_dropout)))).indices
        with torch.no_grad():
            hidden = frozen.visual.transformer(tokens(frozen.visual, sharp, kept))
            original = pooled(frozen.visual, hidden)
        content, degradation = self.network(frozen.visual, degraded, kept)
        scales = self.network.log_scales.exp()
        pairs = torch.eye(len(content), device=content.device)
        return {
            'content': contrastive(content, original, scales[0], pairs),
            'degradation': contrastive(degradation, frozen.texts[:, 0], scales[1], types),
        }

    def write(self, network: Controller, path: Path) -> None:
        """The controller in half precision, and which image tower it is for."""
        tensors = {k: v.half().contiguous().cpu() for k, v in network.state_dict().items()}
        described = json.dumps({'controller of': self._frozen[0].fingerprint})
        save_file(tensors, path, metadata={'dap_led_ros': described})


def contrastive(images: Tensor, targets: Tensor, scale: Tensor, pairs: Tensor) -> Tensor:
    """Eq. 1: (B, D) against (N, D), both normalized here; scale is 1 / tau.

    :param pairs: (B, N), how far each target fits each picture; a row of zeros and a one is the
        paper's. Each of the four types is in the denominator once, however often it is in the
        batch.
    """
    cosines = functional.normalize(images, dim=-1) @ functional.normalize(targets, dim=-1).T
    return -(pairs * (scale * cosines).log_softmax(1)).sum(1).mean()


@torch.no_grad()
def measure(prior: ControllerPrior, types: Tensor, frames: LabelledFrames) -> str:
    """What the frozen tower and the controller know of the same frames, as a table.

    Degradation: accuracy over the four classes, a frame given to the nearest text: of the frozen
    tower's embedding and of e_d. Content: how often the sharp view of a degraded frame is the
    nearest of all sharp views: to the frozen tower's embedding of the frame and to e_c. Itself:
    the same of clean frames, whose sharp view is the same picture.

    :param types: (4, D) unit embeddings of the CLASSES.
    """
    found: dict[str, list[Tensor]] = {'frozen': [], 'e_c': [], 'e_d': [], 'sharp': []}
    truths: list[int] = []
    for index, label in enumerate(tqdm(frames.labels, 'measuring', leave=False)):
        truth = class_of(label)
        if truth is None:
            continue
        truths.append(list(CLASSES).index(truth))
        frame = to_tensor(frames.frames[index])
        content, degradation = prior.embeddings(frame)[0]
        found['e_c'].append(content)
        found['e_d'].append(degradation)
        for name, picture in (('frozen', frame), ('sharp', to_tensor(frames.sharp(index)))):
            found[name].append(functional.normalize(prior.embed(picture), dim=-1)[0])
    embedded = {name: torch.stack(rows) for name, rows in found.items()}
    truth = torch.tensor(truths)
    heads = ''.join(f'{name:>9}' for name in ('all', *CLASSES, 'content', 'itself'))
    lines = [f'{len(truth)} held-out frames', f'{"":12}{heads}']
    for name, kind, content in (('frozen CLIP', 'frozen', 'frozen'), ('controller', 'e_d', 'e_c')):
        right = (embedded[kind] @ types.T).argmax(1) == truth
        own = (embedded[content] @ embedded['sharp'].T).argmax(1) == torch.arange(len(truth))
        classes = (right[truth == number] for number in range(len(CLASSES)))
        parts = [right, *classes, own[truth > 0], own[truth == 0]]
        lines.append(f'{name:12}' + ''.join(f'{part.float().mean():9.3f}' for part in parts))
    return '\n'.join(lines)


def train(config: DaClipConfig, out: Path) -> Path:
    """Train (or resume) a run; returns the path of the controller's weights.

    :raises ValueError: the configuration is wrong, or `out` holds a run with another one.
    :raises FileNotFoundError: photographs or a CLIP's weights are not there.
    """
    fabric = loop.start_alone(config.loop, out)
    loop.write_record(out, config, config.loop)
    photographs = find_photographs(config.photographs, validation=False)
    frames = render(photographs, config.frames, FRAMES_SEED, out / 'frames', config.mixture)
    recipe = DaClipRecipe(config)
    batches = Triples(frames, config, recipe._frozen[0].size)
    loop.fit(fabric, recipe, batches, config.loop, out, recipe.write)
    return out / loop.WEIGHTS


def evaluate(config: DaClipConfig, out: Path) -> str:
    """The table of measure() of a run, on photographs that it never saw."""
    photographs = find_photographs(config.photographs, validation=True)
    count, folder = config.validation_frames, out / 'validation'
    frames = render(photographs, count, VALIDATION_SEED, folder, FOUR_CLASSES)
    weights = str(out / loop.WEIGHTS)
    prior = build_prior(dataclasses.replace(config.prior, kind='controller', controller=weights))
    return measure(prior, class_texts(load_clip(config.prior)), frames)


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, train, and print what the controller knows."""
    options = configuration.recipe_parser('train', __doc__).parse_args(arguments)
    config = configuration.load(options.config, DaClipConfig)
    if options.photographs:
        config = dataclasses.replace(config, photographs=options.photographs)
    print(f'the controller is in {train(config, options.out)}')
    print(evaluate(config, options.out))
