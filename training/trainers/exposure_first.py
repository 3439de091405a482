"""Train the default: python -m dap_led_training train RECIPE --out RUN.

A recipe trains one of these parts; the others stay as they are:

  structure   what denoises and deblurs. The frame is shown by a tone curve that is drawn by chance
              around the right one, and the target by the same curve, so no brightness is unknown.
  exposure    the head that chooses the curve: the target is the photograph by day.
  gate        whether a frame needs anything at all.
  time        structure, on clips: the network gets what a stream has seen before (history.py).
              It needs options: {history: true}, and begins as the network of single frames.

Writes what dap_led_training train writes, and goes on where it stopped in the same way. At each
checkpoint the averaged weights are validated on photographs of their own: by how many dB frames
are nearer to their targets than before, on blur by day, on nights and on strong noise, and the
tone's error.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from dap_led_ros.checkpoints import checkpoint
from dap_led_ros.inference.history import History
from dap_led_ros.models import exposure
from dap_led_ros.models.exposure import LEVEL, SRGB_CONTRAST, Exposure
from dap_led_ros.models.exposure_first import (
    PRESETS,
    ExposureFirst,
    ExposureFirstConfig,
    pad,
    past_of,
)
from dap_led_training import configuration, loop, losses
from dap_led_training.data import crops
from dap_led_training.data.batches import Stage
from dap_led_training.loop import LoopConfig
from dap_led_training.losses import LossWeights
from dap_led_training.night.night_batches import Degraded, Drawn, NightConfig, degrade
from dap_led_training.night.night_clips import ClipConfig

PARTS = {'structure': '', 'exposure': 'exposure.head', 'gate': 'gate', 'time': ''}
"""How the names of the parameters begin that are trained; structure and time: whatever is left."""
VALIDATION = {
    'day blur': NightConfig(daylight=1, clean=0, blur=1, noise_free=1, curve=0, defocus=0),
    'night': NightConfig(daylight=0, clean=0, blur=1),
    'noise': NightConfig(daylight=0, clean=0, blur=0.3, noise_free=0, shot_noise=(1e-3, 6e-3)),
}
VALIDATION_PAIRS = 64
_TARGET_EVERY = 2
"""Frames of a clip from one that is enhanced to the next: to make a clip costs most of a step."""
_CELL = 8
"""Pixels: brightness is compared in means over such cells."""


@dataclass(frozen=True)
class ExposureFirstRecipe:
    """A recipe; see recipes/nano/."""

    part: str
    """structure, exposure, gate or time."""
    photographs: list[str]
    """Folders of sharp photographs, or one file of `make pack`."""
    stages: list[Stage]
    network: str = 'exposure-first'
    options: dict[str, Any] = field(default_factory=dict)
    """Fields of the preset to change, by name."""
    losses: LossWeights = field(default_factory=LossWeights)
    night: NightConfig = field(default_factory=NightConfig)
    clips: ClipConfig = field(default_factory=ClipConfig)
    """Of part time."""
    alone: float = 0.2
    """Of part time: share of frames that get no past."""
    level_spread: float = 0.25
    """Of the level that structure is trained at: deviation of its natural logarithm."""
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        """Refuse what has no meaning.

        :raises ValueError: no such part or network, or a network without history for part time.
        """
        if self.part == 'time' and not self.options.get('history'):
            raise ValueError('part time needs options: {history: true}')
        for name, known in (('part', PARTS), ('network', PRESETS)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f'{name}: {getattr(self, name)!r} is not one of {", ".join(known)}'
                )


class ExposureFirstTraining(nn.Module):
    """Degrades photographs on the device, enhances them and compares."""

    def __init__(self, config: ExposureFirstRecipe) -> None:
        super().__init__()
        self.config = config
        self._half = loop.precision_of(config.loop.precision) == 'bf16-mixed'
        preset = PRESETS[config.network]
        fields = {**loop.as_plain(preset), **config.options}
        self.network = ExposureFirst(
            configuration.build(fields, ExposureFirstConfig, f'options of {config.network}')
        )
        for name, parameter in self.network.named_parameters():
            part = next((p for p, begin in PARTS.items() if begin and name.startswith(begin)), '')
            parameter.requires_grad_(part == (config.part if PARTS[config.part] else ''))

    def forward(self, photographs: Tensor, *drawn: Tensor) -> dict[str, Tensor]:
        """Weighted loss terms of (B, S, S, 3) uint8 photographs and the tensors of Drawn.

        Of part time both are of clips, (B, T, ...).
        """
        if self.config.part == 'time':
            with torch.no_grad():
                clips = clips_of(photographs, Drawn(*drawn), self.config.alone)
                tones = drawn_tones(clips.made, clips.seed, self.config.level_spread)
                given = tone_clips(clips, *tones)
            return self._structure_terms(*given)
        with torch.no_grad():
            made = degrade(photographs.permute(0, 3, 1, 2), Drawn(*drawn))
        # By day a camera's own curve is how its pictures look, and is to stay.
        dark = (Drawn(*drawn).light[:, 0] != 1).view(-1, 1, 1, 1)
        wanted = torch.where(dark, made.day, made.clean)
        if self.config.part == 'exposure':
            return self._exposure_terms(made, wanted)
        if self.config.part == 'gate':
            gate = self.network.degradedness(made.degraded).float()
            return {'gate': losses.gate_error(gate, made.degraded, wanted)}
        tones = drawn_tones(made, Drawn(*drawn).seed, self.config.level_spread)
        return self._structure_terms(*tone_pair(made, *tones))

    def _structure_terms(
        self, toned: Tensor, told: Tensor, target: Tensor, past: Tensor | None = None
    ) -> dict[str, Tensor]:
        # Light in bf16 would lose its last bits, and with them the dark: only convolutions are.
        with torch.autocast(toned.device.type, torch.bfloat16, enabled=self._half):
            residual = self.network.residual(toned, told, past)[0]
        sharp = (toned + residual.float()).contiguous()
        return losses.weighted_terms(self.config.losses, toned, sharp, target.clamp(0, 1))

    def _exposure_terms(self, made: Degraded, wanted: Tensor) -> dict[str, Tensor]:
        front = self.network.exposure
        if self.training:
            _update_scale(front, exposure.statistics(made.degraded)[0])
        curve, _ = front(made.degraded)
        shown, wanted = (
            functional.avg_pool2d(frames, _CELL)
            for frames in (exposure.apply(curve, made.clean), wanted)
        )
        return {'tone': losses.charbonnier(shown, wanted)}

    def write(self, network: nn.Module, path: Path) -> None:
        """Write averaged weights as a checkpoint for the Enhancer."""
        checkpoint.save(network, path)


def drawn_tones(
    made: Degraded, seeds: Tensor, level_spread: float = 0.25
) -> tuple[Tensor, Tensor]:
    """Level and contrast by chance, (B,) each, around what undoes the camera's own curve.

    Functions of each sample's seed, whatever process trains on it.

    :param level_spread: deviation of the natural logarithm of the level.
    """
    by_chance = torch.stack(
        [
            torch.randn(3, generator=torch.Generator().manual_seed(seed ^ 1))
            for seed in seeds.tolist()
        ]
    ).to(made.power)
    power = made.power.clamp(0.3, 1)
    trust = torch.sigmoid(1.7 * by_chance[:, 2])  # the head undoes only what it is sure of
    contrast = SRGB_CONTRAST * power**trust * torch.exp(0.06 * by_chance[:, 1])
    level = LEVEL * torch.exp(level_spread * by_chance[:, 0])
    return level.clamp(*exposure.LEVELS), contrast.clamp(*exposure.CONTRASTS)


def tone_pair(made: Degraded, level: Tensor, contrast: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Degraded and clean frames by one curve, and what the network is told of it.

    :param level, contrast: (B,) each.
    :returns: toned, told and target.
    """
    padded = pad(made.degraded)
    _, log_mean, brightest = exposure.statistics(padded)
    curve, told = Exposure.curve(level, contrast, log_mean, brightest)
    return exposure.apply(curve, padded), told, exposure.apply(curve, pad(made.clean))


class Clips(NamedTuple):
    """Every second frame of clips by night, the last one too, with a stream's history of it."""

    made: Degraded
    fused: Tensor
    """(B, 3, H, W)."""
    count: Tensor
    """(B, 1, H, W)."""
    seed: Tensor
    """(B,)."""


def clips_of(views: Tensor, drawn: Drawn, alone: float = 0.0) -> Clips:
    """Degrade clips and look back in them as a stream does.

    :param views: (C, T, S, S, 3) uint8.
    :param alone: share of the frames that get no past; by their seeds.
    """
    clips, times = views.shape[:2]
    chosen = sorted(range(times - 1, 0, -_TARGET_EVERY))
    flat = Drawn(*(one.flatten(0, 1) for one in drawn))
    made = degrade(views.flatten(0, 1).permute(0, 3, 1, 2), flat)
    frames = (made.degraded * 255).round().to(torch.uint8).unflatten(0, (clips, times))
    fused, counts = [], []
    for clip, seeds in zip(frames.permute(0, 1, 3, 4, 2).cpu().numpy(), drawn.seed.tolist()):
        history = History()
        for index, frame in enumerate(clip):
            found = history.fuse(np.ascontiguousarray(frame))
            if index in chosen:
                if np.random.default_rng([seeds[index], 2]).random() < alone:
                    found = History().fuse(np.ascontiguousarray(frame))
                fused.append(torch.from_numpy(found.frame).permute(2, 0, 1))
                counts.append(torch.from_numpy(found.count)[None])

    def those(one: Tensor) -> Tensor:
        return one.unflatten(0, (clips, times))[:, chosen].flatten(0, 1)

    device = views.device
    return Clips(
        Degraded(*map(those, made)),
        torch.stack(fused).to(device),
        torch.stack(counts).to(device),
        those(flat.seed),
    )


def tone_clips(
    clips: Clips, level: Tensor, contrast: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As tone_pair(), of what clips_of() made: toned mean, told, target and past."""
    made = clips.made
    frame, mean = pad(made.degraded), pad(clips.fused)
    _, log_mean, brightest = exposure.statistics(frame)
    curve, told = Exposure.curve(level, contrast, log_mean, brightest)
    past = past_of(curve, frame, mean, pad(clips.count))
    return (
        exposure.apply(curve, mean), told, exposure.apply(curve, pad(made.clean)), past,
    )  # fmt: skip


@torch.no_grad()
def _update_scale(front: Exposure, found: Tensor) -> None:
    """Follow mean and deviation of the statistics; from the first batch, at once."""
    fresh = bool((front.scale == 1).all())
    share = 1.0 if fresh else 0.01
    front.centre.lerp_(found.mean(0), share)
    front.scale.lerp_(found.std(0, correction=0).clamp(min=0.05), share)


def sharpen(network: ExposureFirst, toned: Tensor, told: Tensor, _: Tensor) -> Tensor:
    """Toned frames without noise and blur; see Validation."""
    return toned + network.residual(toned, told)[0]


class Validation:
    """Figures of a network on fixed pairs from photographs that are not trained on.

    :param clips: also on clips of it.
    :param sharpen: (network, toned frames, what is told of them, frames as they came) to frames.
    """

    def __init__(
        self,
        photographs: list[np.ndarray],
        crop: int = 128,
        clips: ClipConfig | None = None,
        sharpen: Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor] = sharpen,
    ) -> None:
        self.sharpen = sharpen
        self.clips: list[Clips] = []
        if clips is not None:
            stages = [Stage(crop, 8, VALIDATION_PAIRS // 8)]
            batches = crops.NightBatches(
                photographs, stages, VALIDATION['night'], seed=1013, clips=clips
            )
            for index in range(len(batches)):
                given, *drawn = batches[index]
                self.clips.append(clips_of(given, Drawn(*drawn)))
        self.sets: dict[str, list[Degraded]] = {}
        stages = [Stage(crop, 16, VALIDATION_PAIRS // 16)]
        for name, config in VALIDATION.items():
            batches = crops.NightBatches(photographs, stages, config, seed=1009)
            self.sets[name] = []
            for index in range(len(batches)):
                given, *drawn = batches[index]
                made = degrade(given.permute(0, 3, 1, 2), Drawn(*drawn))
                self.sets[name].append(made)

    @torch.inference_mode()
    def __call__(self, network: nn.Module) -> dict[str, float]:
        """Gain of structure in dB on each set, and the tone's mean and mean absolute error."""
        device = next(network.parameters()).device
        figures, errors = {}, []
        for name, batches in self.sets.items():
            gains = []
            for made in batches:
                made = Degraded(*(one.to(device) for one in made))
                level = torch.full_like(made.power, LEVEL)
                contrast = SRGB_CONTRAST * made.power.clamp(0.5, 1)
                toned, told, target = tone_pair(made, level, contrast)
                sharp = self.sharpen(network, toned, told, made.degraded)
                gains.append(_psnr(sharp, target) - _psnr(toned, target))
                curve, _ = network.exposure(made.degraded)
                shown = exposure.apply(curve, made.clean).clamp(0, 1)
                errors.append((shown - made.day).mean((1, 2, 3)) * 255)
            figures[f'gain, {name} (dB)'] = float(torch.cat(gains).mean())
        if self.clips:
            figures |= self._of_clips(network, device)
        error = torch.cat(errors)
        figures['tone, mean error (levels)'] = float(error.mean())
        figures['tone, mean absolute error (levels)'] = float(error.abs().mean())
        return figures

    def _of_clips(self, network: ExposureFirst, device: torch.device) -> dict[str, float]:
        """Gain over the frame as it is: with its past, without it, and of the mean alone."""
        gains: dict[str, list[Tensor]] = {'clips': [], 'clips, each frame alone': [], 'mean': []}
        for clips in self.clips:
            made = Degraded(*(one.to(device) for one in clips.made))
            clips = Clips(made, *(one.to(device) for one in clips[1:]))
            level = torch.full_like(made.power, LEVEL)
            contrast = SRGB_CONTRAST * made.power.clamp(0.5, 1)
            mean, told, target, past = tone_clips(clips, level, contrast)
            toned = tone_pair(made, level, contrast)[0]
            shown = {
                'clips': mean + network.residual(mean, told, past)[0],
                'clips, each frame alone': toned + network.residual(toned, told)[0],
                'mean': mean,
            }
            for name, one in shown.items():
                gains[name].append(_psnr(one, target) - _psnr(toned, target))
        return {f'gain, {name} (dB)': float(torch.cat(of).mean()) for name, of in gains.items()}


def _psnr(one: Tensor, other: Tensor) -> Tensor:
    """(B,), dB, of frames clamped to [0, 1]."""
    error = ((one.clamp(0, 1) - other.clamp(0, 1)) ** 2).mean((1, 2, 3))
    return -10 * torch.log10(error.clamp(min=1e-6))


def train(
    config: ExposureFirstRecipe,
    out: Path,
    initial: Path | None = None,
    head: Path | None = None,
) -> Path:
    """Train (or resume) a run; returns the path of the averaged weights.

    :param initial: weights of the same network to begin with; parts that they lack begin anew.
    :param head: weights whose exposure takes the place of theirs.
    :raises ValueError: the configuration is wrong, or `out` holds a run with another one.
    :raises FileNotFoundError: photographs are not there.
    :raises FloatingPointError: the loss is not finite, or the run has died.
    """
    fabric = loop.start(dataclasses.replace(config.loop, precision='32-true'), out)
    if fabric.is_global_zero:
        loop.write_record(out, config, config.loop, initial)
    recipe = ExposureFirstTraining(config)
    if initial and not (out / 'checkpoint.pt').exists():
        weights = load_file(initial)
        if head:
            found = load_file(head).items()
            weights |= {n: t for n, t in found if n.startswith('exposure.')}
        missing, unknown = recipe.network.load_state_dict(weights, strict=False)
        fabric.print(f'beginning with {initial}; anew: {missing or "-"}; left: {unknown or "-"}')
    recipe = recipe.to(memory_format=torch.channels_last)
    clips = config.clips if config.part == 'time' else None
    batches = crops.NightBatches(
        crops.load(config.photographs, validation=False),
        config.stages,
        config.night,
        config.loop.seed,
        fabric.global_rank,
        fabric.world_size,
        clips,
    )
    fabric.print(f'{len(batches.photographs)} photographs train')
    validation = Validation(crops.load(config.photographs, validation=True), clips=clips)
    vital = 'gain, ' if config.part in ('structure', 'time') else ''
    loop.fit(fabric, recipe, batches, config.loop, out, recipe.write, validation, vital)
    return out / loop.WEIGHTS


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and train."""
    parser = configuration.recipe_parser('train', __doc__)
    parser.add_argument(
        '--initial', type=Path, help='begin with these weights (.safetensors), to go on'
    )
    parser.add_argument(
        '--head', type=Path, help='but with the exposure of these, which was trained beside them'
    )
    options = parser.parse_args(arguments)
    if options.head and not options.initial:
        parser.error('--head needs --initial')
    config = configuration.load(options.config, ExposureFirstRecipe)
    if options.photographs:
        config = dataclasses.replace(config, photographs=options.photographs)
    print(f'the weights are in {train(config, options.out, options.initial, options.head)}')
