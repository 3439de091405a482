"""Train a network on night-blur pairs: python -m dap_led_training train RECIPE --out RUN.

Writes to RUN: config.yaml, environment.json, logs/ (CSV and, if it is installed, TensorBoard),
checkpoint.pt (to resume) and weights.safetensors (the averaged weights, which Enhancer.load and
the node's `model` open). Started again with the same arguments it goes on where it stopped. Under
torchrun each process takes one device and its part of every batch.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import Dataset

from dap_led_ros.checkpoints import checkpoint
from dap_led_ros.checkpoints.priors import build_prior
from dap_led_ros.inference import weights
from dap_led_ros.models import dap_led, nafnet, nano
from dap_led_ros.models.dap_led import DapLed, DapLedConfig
from dap_led_ros.models.exposure import Exposure
from dap_led_ros.models.nafnet import Nafnet
from dap_led_ros.models.nano import Nano, NanoConfig
from dap_led_ros.priors import PriorConfig
from dap_led_training import configuration, loop, losses, targets
from dap_led_training.data import crops
from dap_led_training.data.batches import Batches, Stage, as_planes
from dap_led_training.data.config import DataConfig, source
from dap_led_training.loop import LoopConfig
from dap_led_training.losses import LossWeights
from dap_led_training.night.night_batches import Drawn, NightConfig, degrade
from dap_led_training.night.night_blur import NightBlurConfig
from dap_led_training.trainers.exposure_first import Validation, drawn_tones, tone_pair
from dap_led_training.trainers.grow import grow

PRESETS = {**nano.PRESETS, **dap_led.PRESETS, **nafnet.PRESETS}


@dataclass(frozen=True)
class TrainConfig:
    """A recipe; see recipes/dap_led/."""

    network: str
    """A preset: dap-led-small, nano, nafnet, ...; `dap-led info --presets` prints all."""
    data: DataConfig
    stages: list[Stage]
    options: dict[str, Any] = field(default_factory=dict)
    """Fields of the preset to change, by name: {modulation: depthwise}."""
    prior: PriorConfig | None = None
    """What guides a DAP-LED, and whose CLIP eq. 5 and 6 ask; left out: the preset's."""
    exposure: str = ''
    """first: the network sees frames by the tone curve of the model nano, for DAP-LED
    and NAFNet; empty: as the frame comes."""
    losses: LossWeights = field(default_factory=LossWeights)
    keep_input: float = 0.0
    """Share, at most, of the frame itself, brightened, in its target; see targets.py."""
    night_blur: NightBlurConfig = field(default_factory=NightBlurConfig)
    night: NightConfig | None = None
    """In place of night_blur: the synthesis in batches, on the device that trains. The network
    then learns structure alone, as the default does: frame and target are shown by the same tone
    curve, drawn by chance around the right one. Needs `exposure: first` and photographs."""
    loop: LoopConfig = field(default_factory=LoopConfig)
    checkpointing: bool = False
    """Compute activations again in place of keeping them: larger crops in less memory."""
    train_only: list[str] = field(default_factory=list)
    """Train only the parameters whose names begin with one of these; empty: all."""

    def __post_init__(self) -> None:
        """Take the preset's prior where the recipe has none.

        :raises ValueError: no such preset, keep_input is not from 0 to below 1, or a crop is too
            small for losses.contrast.
        """
        if not 0 <= self.keep_input < 1:
            raise ValueError(f'keep_input is {self.keep_input}: use a share from 0 to below 1')
        least = losses.CONTRAST_LEAST if self.losses.contrast else 0
        for stage in self.stages:
            if stage.crop < least:
                raise ValueError(
                    f'stages: a crop of {stage.crop} is too small for losses.contrast: '
                    f'use {least} or more'
                )
        object.__setattr__(self, 'network', dap_led.preset_name(self.network))  # frozen
        if self.network not in PRESETS:
            raise ValueError(f'no network {self.network!r}: use one of {", ".join(PRESETS)}')
        if self.exposure not in ('', 'first'):
            raise ValueError(f'exposure is {self.exposure!r}: use first, or leave it out')
        if self.exposure and isinstance(PRESETS[self.network], NanoConfig):
            raise ValueError(f'exposure: {self.network} takes frames as they come; leave it out')
        if self.night:
            if not self.exposure:
                raise ValueError('night needs exposure: first')
            if not self.data.photographs:
                raise ValueError('night is made from photographs: give data.photographs')
        if self.prior is None:
            prior = getattr(PRESETS[self.network], 'prior', PriorConfig())
            object.__setattr__(self, 'prior', prior)


class EnhanceRecipe(nn.Module):
    """Enhance and compare with the target."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        self.config = config
        self._half = loop.precision_of(config.loop.precision) == 'bf16-mixed'
        preset = PRESETS[config.network]
        controlled = config.prior.kind == 'controller' and not isinstance(preset, NanoConfig)
        guided = controlled or isinstance(preset, DapLedConfig)
        with torch.random.fork_rng([]):  # a network begins with the same weights under any prior
            prior = build_prior(config.prior) if guided else None
        self.network = create(config, prior.visual.output_dim if controlled else 0)
        if isinstance(self.network, DapLed):
            self.network.checkpointing = config.checkpointing
        if config.exposure:
            self.network = checkpoint.Exposed(self.network, shipped_exposure())
        for name, parameter in self.network.named_parameters():
            inner = name.removeprefix('network.')
            learns = not config.train_only or inner.startswith(tuple(config.train_only))
            parameter.requires_grad_(learns and not name.startswith('exposure.'))
        for part in config.train_only:
            inner = checkpoint.innermost(self.network)
            if not any(name.startswith(part) for name, _ in inner.named_parameters()):
                raise ValueError(
                    f'train_only: no parameter of {config.network} begins with {part!r}'
                )
        judge = None
        if config.losses.identity or config.losses.clip:
            alike = config.prior
            if alike.kind != 'learned':
                alike = dataclasses.replace(alike, kind='clip')
            judge = prior if alike == config.prior and prior else build_prior(alike)
        # In a tuple, so that checkpoints do not hold what never changes.
        self._frozen = (prior, judge)

    def forward(self, *given: Tensor) -> dict[str, Tensor]:
        """Weighted loss terms of (B, H, W, 3) uint8 pairs, or of what NightBatches gives."""
        prior, judge = (m.to(given[0].device) if m else None for m in self._frozen)
        if self.config.night:
            with torch.no_grad():
                made = degrade(given[0].permute(0, 3, 1, 2), Drawn(*given[1:]))
                toned, told, target = tone_pair(made, *drawn_tones(made, given[-1]))
            with torch.autocast(toned.device.type, torch.bfloat16, enabled=self._half):
                sharp = self._sharpen(self.network, toned, told, made.degraded)
            frames = (one.float().contiguous() for one in (toned, sharp, target.clamp(0, 1)))
            return losses.weighted_terms(self.config.losses, *frames, judge=judge)
        degraded, target = map(as_planes, given)
        gate = None
        if isinstance(self.network, Nano):
            enhanced, gate = self.network.enhance_and_gate(degraded)
            gate = gate.float()
        else:
            given = checkpoint.guidance(self.network.config, prior, degraded)
            enhanced = self.network(degraded, *given)
        # Three channels pool faster on a CPU when each is a plane of its own.
        degraded, enhanced, target = (
            frames.float().contiguous() for frames in (degraded, enhanced, target)
        )
        if self.config.keep_input:
            target = targets.keep(degraded, target, self.config.keep_input)
        return losses.weighted_terms(
            self.config.losses, degraded, enhanced, target, gate=gate, judge=judge
        )

    def _sharpen(
        self, network: checkpoint.Exposed, toned: Tensor, _: Tensor, degraded: Tensor
    ) -> Tensor:
        prior = self._frozen[0]
        given = checkpoint.guidance(network.config, prior, degraded)
        return network.network(toned, *given)

    def validation(self) -> Validation | None:
        """What measures the network at each checkpoint, where the night is made in batches."""
        if not self.config.night:
            return None
        photographs = crops.load(self.config.data.photographs, validation=True)
        return Validation(photographs, sharpen=self._sharpen)

    def batches(self, rank: int, processes: int) -> Dataset:
        """What the recipe trains on."""
        config = self.config
        if config.night:
            photographs = crops.load(config.data.photographs, validation=False)
            return crops.NightBatches(
                photographs, config.stages, config.night, config.loop.seed, rank, processes
            )
        pairs = source(config.data, config.night_blur)
        return Batches(pairs, config.stages, config.loop.seed, rank, processes)

    def write(self, network: nn.Module, path: Path) -> None:
        """Write averaged weights as a checkpoint for the Enhancer."""
        checkpoint.save(network, path, self._frozen[0])


def create(config: TrainConfig, embedding: int = 0) -> Nano | DapLed | Nafnet:
    """The network of a recipe, with new weights.

    :param embedding: D of the controller's embeddings, where there is one.
    :raises ValueError: an option that the preset does not have.
    """
    preset = PRESETS[config.network]
    if 'prior' in config.options:
        raise ValueError('options.prior: write it beside options, as prior')
    fields = {**loop.as_plain(preset), **config.options}
    changed = configuration.build(fields, type(preset), f'options of {config.network}')
    if isinstance(changed, NanoConfig):
        return Nano(changed)
    changed = dataclasses.replace(changed, prior=config.prior, embedding=embedding)
    return DapLed(changed) if isinstance(changed, DapLedConfig) else Nafnet(changed)


def shipped_exposure() -> Exposure:
    """The exposure of the model nano, as it ships."""
    return checkpoint.load(weights.checkpoint(weights.DEFAULT)).exposure


def train(config: TrainConfig, out: Path, initial: Path | None = None) -> Path:
    """Train (or resume) a run; returns the path of the averaged weights.

    :param initial: weights of the same network to begin with; parts that they lack begin anew. A
        nano also begins with those of a smaller one, as the same function.
    :raises ValueError: the configuration is wrong, or `out` holds a run with another one.
    :raises FileNotFoundError: photographs, frames or a CLIP's weights are not there.
    """
    settings = config.loop
    if config.night:  # bf16 is for the network alone: light would lose its last bits
        settings = dataclasses.replace(settings, precision='32-true')
    fabric = loop.start(settings, out)
    if fabric.is_global_zero:
        loop.write_record(out, config, config.loop, initial)
    recipe = EnhanceRecipe(config)
    if initial:
        begun = load_file(initial)
        if isinstance(recipe.network, Nano):
            begun = grow(begun, recipe.network)
        network = checkpoint.innermost(recipe.network)
        missing, unknown = network.load_state_dict(begun, strict=False)
        unknown = [name for name in unknown if not name.startswith(('prior.', 'exposure.'))]
        fabric.print(f'beginning with {initial}; anew: {missing or "-"}; left: {unknown or "-"}')
    recipe = recipe.to(memory_format=torch.channels_last)
    batches = recipe.batches(fabric.global_rank, fabric.world_size)
    validation = recipe.validation()
    vital = 'gain, ' if validation else ''
    loop.fit(fabric, recipe, batches, config.loop, out, recipe.write, validation, vital)
    return out / loop.WEIGHTS


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and train."""
    parser = configuration.recipe_parser('train', __doc__)
    parser.add_argument(
        '--initial', type=Path, help='begin with these weights (.safetensors), to fine-tune'
    )
    parser.add_argument('--lol-blur', metavar='ROOT', help="in place of the config's data")
    options = parser.parse_args(arguments)
    config = configuration.load(options.config, TrainConfig)
    if options.photographs:
        config = dataclasses.replace(config, data=DataConfig(photographs=options.photographs))
    if options.lol_blur:
        data = DataConfig(lol_blur=options.lol_blur, variant=config.data.variant)
        config = dataclasses.replace(config, data=data)
    print(f'the weights are in {train(config, options.out, options.initial)}')
