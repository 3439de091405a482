"""Train a small CLIP of degradations: python -m dap_led_training train RECIPE --out RUN.

Both towers and the tokenizer are open_clip's. The pictures are photographs whose exposure and blur
the synthesis has set, the texts are written from these two numbers; see captions.py. The result,
RUN/clip, is a folder that open_clip reads as `local-dir:RUN/clip`.

To make heat-maps local, a third of the pictures is degraded on one side of a line only, and the
mean of the tokens on each side has to fit the captions of that side; with `tokens`, every single
token has to, too.
"""

from __future__ import annotations

import dataclasses
import json
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import open_clip
import torch
from open_clip.transformer import PatchDropout
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import Dataset

from dap_led_training import configuration, loop
from dap_led_training.data import captions
from dap_led_training.data.batches import as_planes
from dap_led_training.data.labelled_frames import LabelledFrames, Mixture, render, resize
from dap_led_training.data.photographs import find_photographs

GRID = 16
FRAMES_SEED = 1
"""All runs see the same rendered frames; the seed of a run orders them."""


@dataclass(frozen=True)
class ClipConfig:
    """A recipe; see recipes/clip/1_captions.yaml."""

    photographs: list[str]
    model: dict[str, dict[str, Any]]
    """open_clip's own configuration: vision_cfg, text_cfg; embed_dim stands beside it."""
    embed_dim: int = 128
    steps: int = 3000
    batch: int = 48
    patch_dropout: float = 0.75
    tuning_steps: int = 300
    """So many steps at the end see most tokens, as at test (FLIP, Li et al. 2023, section 4)."""
    tuning_dropout: float = 0.25
    tokens: float = 0.0
    """Weight of the term that asks each token by itself."""
    patch_means: float = 1.0
    """Below 1: patch kernels begin with so much of their means, and then stay as they are. What is
    left of a dark patch beside its mean is little; behind the layer norm it would be nothing."""
    frames: int = 6000
    mixture: Mixture = field(default_factory=Mixture)
    loop: loop.LoopConfig = field(default_factory=loop.LoopConfig)


class ClipBatches(Dataset):
    """Batch number `step`: pictures, the regions that have a label each, and captions.

    Items: pictures (B, S, S, 3) uint8; regions (R, 16 * 16) float, which tokens belong to one;
    owners (R,) the picture of each region; texts (R, context) tokens; agreement (R, R).
    """

    def __init__(self, frames: LabelledFrames, config: ClipConfig, size: int, context: int):
        self.frames, self.config, self.size = frames, config, size
        self.tokenizer = open_clip.SimpleTokenizer(context_length=context)

    def __len__(self) -> int:
        return self.config.steps

    def __getitem__(self, step: int) -> tuple[Tensor, ...]:
        rng = np.random.default_rng([self.config.loop.seed, step])
        pictures, regions, owners, truths = [], [], [], []
        for owner in range(self.config.batch):
            index = int(rng.integers(len(self.frames)))
            label = self.frames.labels[index]
            frame = self.frames.frames[index]
            truth = (label.exposure, label.path_length)
            if owner % 3:
                picture, scale = self._view(frame, rng)
                pictures.append(picture)
                truth = (label.exposure, label.path_length * scale)
                parts = [(np.ones(GRID * GRID, np.float32), truth)]
            else:
                both = (frame, self.frames.sharp(index))
                picture, side, other = split(
                    *(resize(view, self.size, self.size) for view in both), rng
                )
                pictures.append(picture)
                parts = [(side, truth), (other, (1.0, 0.0))]
            for region, values in parts:
                regions.append(region)
                owners.append(owner)
                truths.append(values)
        exposure, path_length = np.array(truths).T
        exposure = np.maximum(exposure, 1e-3)
        texts = [captions.write_caption(e, p, rng) for e, p in zip(exposure, path_length)]
        return (
            torch.from_numpy(np.stack(pictures)),
            torch.from_numpy(np.stack(regions)),
            torch.tensor(owners),
            self.tokenizer([text.text for text in texts]),
            torch.from_numpy(captions.agreement(texts, exposure, path_length)),
        )

    def _view(self, frame: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, float]:
        """The whole frame or a window of it, squeezed to the picture size of the CLIP.

        :returns: the picture, and how many times longer a path is in it than in the whole frame.
        """
        scale = 1.0
        if rng.random() < 0.4:
            height, width = frame.shape[:2]
            side = int(height * rng.uniform(0.45, 1.0))
            scale = height / side
            y, x = rng.integers(height - side + 1), rng.integers(width - side + 1)
            frame = frame[y : y + side, x : x + side]
        picture = resize(frame, self.size, self.size)
        if rng.random() < 0.5:
            picture = picture[:, ::-1]
        return np.ascontiguousarray(picture), scale


def split(
    frame: np.ndarray, sharp: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Degrade a frame on one side of a random line only.

    :returns: the frame, and for both sides which tokens (16 * 16) lie on it, clear of the line.
    """
    height, width = frame.shape[:2]
    angle, offset = rng.uniform(0, 2 * np.pi), rng.uniform(-0.2, 0.2)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    distance = (x / width - 0.5) * np.cos(angle) + (y / height - 0.5) * np.sin(angle) - offset
    share = np.clip(distance * 60 + 0.5, 0, 1)[..., None]  # a seam of a few pixels
    mixed = (share * frame + (1 - share) * sharp + 0.5).astype(np.uint8)
    tokens = cv2.resize(distance, (GRID, GRID), interpolation=cv2.INTER_AREA).ravel()
    return mixed, (tokens > 0.05).astype(np.float32), (tokens < -0.05).astype(np.float32)


class KeptPatches(PatchDropout):
    """open_clip's patch dropout that remembers which patches it kept."""

    kept: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1 + N, width) -> (B, 1 + kept, width); `kept` is (B, kept) or None for all."""
        self.kept = None
        if not self.training or not self.prob:
            return x
        count = max(1, int((x.shape[1] - 1) * (1 - self.prob)))
        self.kept = torch.rand(x.shape[0], x.shape[1] - 1, device=x.device).topk(count).indices
        rows = torch.arange(x.shape[0], device=x.device)[:, None]
        return torch.cat([x[:, :1], x[rows, 1 + self.kept]], dim=1)


class ClipRecipe(nn.Module):
    """Symmetric contrastive loss with as many positives as fit (CLIP; UniCL's soft targets)."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.config = config
        self.network = create(config)
        visual = self.network.visual
        visual.output_tokens = True
        visual.patch_dropout = KeptPatches(config.patch_dropout)
        self.register_buffer('step', torch.zeros((), dtype=torch.long))

    def forward(
        self, pictures: Tensor, regions: Tensor, owners: Tensor, texts: Tensor, agreement: Tensor
    ) -> dict[str, Tensor]:
        """Loss terms of a batch of ClipBatches."""
        visual = self.network.visual
        tuning = self.step >= self.config.steps - self.config.tuning_steps
        visual.patch_dropout.prob = (
            self.config.tuning_dropout if tuning else self.config.patch_dropout
        )
        self.step += 1
        with attention_of(pictures.device):
            _, tokens = visual(normalized(as_planes(pictures)))
            described = self.network.encode_text(texts, normalize=True)
        tokens = tokens @ visual.proj
        kept = visual.patch_dropout.kept
        if kept is not None:
            regions = regions.gather(1, kept[owners])
        weights = regions / regions.sum(1, keepdim=True).clamp(min=1)
        images = functional.normalize((weights[:, :, None] * tokens[owners]).sum(1), dim=-1)
        scaled = self.network.logit_scale.exp() * described.T
        logits = images @ scaled
        terms = {
            'images': 0.5 * _cross_entropy(logits.log_softmax(1), agreement),
            'texts': 0.5 * _cross_entropy(logits.T.log_softmax(1), agreement.T),
        }
        if self.config.tokens:
            alone = (functional.normalize(tokens, dim=-1) @ scaled).log_softmax(-1)
            of_regions = (weights[:, :, None] * alone[owners]).sum(1)
            terms['tokens'] = self.config.tokens * _cross_entropy(of_regions, agreement)
        return terms


def create(config: ClipConfig) -> open_clip.CLIP:
    """The network of a configuration, with new weights."""
    network = open_clip.CLIP(config.embed_dim, **config.model)
    cosine_kernels(network.visual.conv1.weight)
    return network


@torch.no_grad()
def cosine_kernels(kernels: Tensor) -> None:
    """Begin the patch embedding (width, 3, P, P) as cosines, the stronger the higher they are.

    Pictures have little power at high frequencies, and that is where blur shows; random kernels
    see mean brightness and hardly anything else.
    """
    width, _, size, _ = kernels.shape
    u, v = np.meshgrid(np.arange(size), np.arange(size), indexing='ij')
    order = np.argsort(np.hypot(u, v), axis=None)
    # Three quarters are of luma, spread over all frequencies below 3/4 of the highest.
    luma = 3 * width // 4
    spread = np.unique(np.geomspace(1, size * size * 0.6, 4 * luma).astype(int))
    chosen = np.concatenate([[0], np.random.default_rng(0).permutation(spread)[: luma - 1]])
    chroma = order[: (width - luma) // 2]
    axis = (np.arange(size) + 0.5) * np.pi / size
    planes = [(order[chosen], (1, 1, 1)), (chroma, (1, -1, 0)), (chroma, (0.5, 0.5, -1))]
    for kernel, (frequency, colour) in zip(kernels, ((f, c) for fs, c in planes for f in fs)):
        a, b = np.unravel_index(frequency, (size, size))
        wave = np.outer(np.cos(a * axis), np.cos(b * axis))
        wave *= max(1, 8 * np.hypot(a, b)) / np.linalg.norm(wave) / size / 3
        kernel.copy_(torch.from_numpy(np.multiply.outer(colour, wave)))


@torch.no_grad()
def hold_kernels(kernels: nn.Parameter, means: float) -> None:
    """Shrink what kernels (width, 3, P, P) make of a uniform patch, and train them no more."""
    kernels -= (1 - means) * kernels.mean((2, 3), keepdim=True)
    kernels.requires_grad_(False)


def attention_of(device: torch.device) -> AbstractContextManager:
    """The kernels that torch chooses; on a CPU those whose backward pass is thrice as fast."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == 'cpu' else nullcontext()


def normalized(pictures: Tensor) -> Tensor:
    """(B, 3, S, S) in [0, 1] -> what a CLIP of OpenAI's family expects."""
    mean, std = (
        torch.tensor(values, device=pictures.device)[:, None, None]
        for values in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    return (pictures - mean) / std


def _cross_entropy(log_probabilities: Tensor, agreement: Tensor) -> Tensor:
    """Cross-entropy of each row against its agreements, scaled to sum to one.

    What the targets themselves leave uncertain is taken off, so that zero is a perfect fit.
    """
    targets = agreement / agreement.sum(1, keepdim=True).clamp(min=1e-6)
    return functional.kl_div(log_probabilities, targets, reduction='batchmean')


def write(network: open_clip.CLIP, path: Path, config: ClipConfig) -> None:
    """Weights in half precision, and beside them the folder that open_clip reads."""
    tensors = {k: v.half().contiguous().cpu() for k, v in network.state_dict().items()}
    save_file(tensors, path)
    folder = path.parent / 'clip'
    folder.mkdir(exist_ok=True)
    loop.write_whole(folder / 'open_clip_model.safetensors', lambda p: save_file(tensors, p))
    described = {
        'model_cfg': {'embed_dim': config.embed_dim, **config.model},
        'preprocess_cfg': {
            'mean': list(open_clip.OPENAI_DATASET_MEAN),
            'std': list(open_clip.OPENAI_DATASET_STD),
            'interpolation': 'bicubic',
            'resize_mode': 'squash',
        },
    }
    text = json.dumps(described, indent=2) + '\n'
    loop.write_whole(folder / 'open_clip_config.json', lambda p: p.write_text(text))


def train(config: ClipConfig, out: Path, initial: Path | None = None) -> Path:
    """Train (or resume) a run; returns the folder of the CLIP.

    :param initial: weights of an earlier run to go on from, with a new schedule.
    """
    fabric = loop.start_alone(config.loop, out)
    loop.write_record(out, config, config.loop, initial)
    photographs = find_photographs(config.photographs, validation=False)
    frames = render(photographs, config.frames, FRAMES_SEED, out / 'frames', config.mixture)
    recipe = ClipRecipe(config)
    if initial:
        recipe.network.load_state_dict(load_file(initial))
    if config.patch_means < 1:
        hold_kernels(recipe.network.visual.conv1.weight, config.patch_means)
    size = config.model['vision_cfg']['image_size']
    context = config.model['text_cfg']['context_length']
    batches = ClipBatches(frames, config, size, context)
    loop.fit(fabric, recipe, batches, config.loop, out, lambda n, p: write(n, p, config))
    return out / 'clip'


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and train."""
    parser = configuration.recipe_parser('train', __doc__)
    parser.add_argument('--initial', type=Path, help='go on from these weights (.safetensors)')
    options = parser.parse_args(arguments)
    config = configuration.load(options.config, ClipConfig)
    if options.photographs:
        config = dataclasses.replace(config, photographs=options.photographs)
    print(f'the CLIP is in {train(config, options.out, options.initial)}')
