"""Train a PTG-RM refiner: python -m dap_led_training train RECIPE --out RUN.

The base is any of our models, by name or checkpoint, or an .onnx enhancer of somebody else's. RUN
gets two checkpoints, each with the base inside: weights.safetensors, which asks the CLIP for each
frame, and baked.safetensors, which has the mean embedding of the training in its place and needs
no CLIP. Enhancer.load, dap-led export and the node's `model` take both. See ptg_rm.md.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from dap_led_ros.checkpoints import checkpoint
from dap_led_ros.checkpoints.checkpoint import Guided
from dap_led_ros.checkpoints.priors import build_prior
from dap_led_ros.checkpoints.refined import OnnxBase, Refined, embed
from dap_led_ros.inference import weights
from dap_led_ros.models.refiner import PRESETS, Refiner
from dap_led_ros.priors import PriorConfig
from dap_led_training import configuration, loop, losses
from dap_led_training.data.batches import Batches, Stage, as_planes
from dap_led_training.data.config import DataConfig, source
from dap_led_training.loop import LoopConfig
from dap_led_training.losses import LossWeights
from dap_led_training.night.night_blur import NightBlurConfig

BAKED = 'baked.safetensors'


@dataclass(frozen=True)
class RefinerRecipe:
    """A recipe; see recipes/companions/ptg_rm_nano.yaml."""

    base: str
    """A model that ships, a .safetensors checkpoint, or an .onnx enhancer."""
    data: DataConfig
    stages: list[Stage]
    network: str = 'refiner'
    """refiner, or refiner-tiny."""
    joint: bool = False
    """Train the base, too, by eq. 8; for a base in PyTorch. Else it is frozen."""
    prior: PriorConfig = field(default_factory=PriorConfig)
    """The CLIP that guides the refiner."""
    losses: LossWeights = field(default_factory=LossWeights)
    night_blur: NightBlurConfig = field(default_factory=NightBlurConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        """Refuse what is not there.

        :raises ValueError: no such preset, or an ONNX base is to be trained.
        """
        if self.network not in PRESETS:
            raise ValueError(f'no network {self.network!r}: use one of {", ".join(PRESETS)}')
        if self.joint and self.base.endswith('.onnx'):
            raise ValueError('joint: an .onnx base cannot be trained; leave it out')


class RefineRecipe(nn.Module):
    """Enhance by the base, refine, and compare with the target."""

    def __init__(self, config: RefinerRecipe) -> None:
        super().__init__()
        self.config = config
        prior = build_prior(config.prior)
        preset = dataclasses.replace(
            PRESETS[config.network], prior=config.prior, prior_width=prior.texts.shape[-1]
        )
        base = load_base(config.base)
        self.network = nn.ModuleDict({'refiner': Refiner(preset)})
        if config.joint:
            self.network['base'] = base
            (base.network if isinstance(base, Guided) else base).requires_grad_()
        # In a tuple, so that checkpoints do not hold what never changes.
        self._frozen = (prior, base)

    def forward(self, degraded: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Weighted loss terms of (B, H, W, 3) uint8 pairs."""
        degraded, target = as_planes(degraded), as_planes(target)
        prior, base = (module.to(degraded.device) for module in self._frozen)
        joint, refiner = self.config.joint, self.network['refiner']
        with torch.set_grad_enabled(joint):
            enhanced = base(degraded)
        embedding = embed(prior, degraded)
        if self.training:
            refiner.observe(embedding)
        refined = refiner(degraded, enhanced, embedding)
        terms = self._terms(degraded, refined, target)
        if joint:
            of_base = self._terms(degraded, enhanced, target)
            terms |= {f'base_{name}': term for name, term in of_base.items()}
        return terms

    def _terms(self, *frames: Tensor) -> dict[str, Tensor]:
        # Three channels pool faster on a CPU when each is a plane of its own.
        planes = (one.float().contiguous() for one in frames)
        return losses.weighted_terms(self.config.losses, *planes, judge=self._frozen[0])

    def write(self, network: nn.ModuleDict, path: Path) -> None:
        """Write averaged weights, with the base, as a checkpoint for the Enhancer."""
        prior, base = self._frozen
        base = network['base'] if self.config.joint else base
        checkpoint.save(Refined(base, network['refiner'], prior), path)


def load_base(base: str) -> nn.Module:
    """The enhancer that is refined, frozen and in evaluation mode.

    :raises FileNotFoundError: there is no such model.
    :raises ValueError: the file is no enhancer.
    """
    if not base.endswith('.onnx'):
        return checkpoint.load(weights.checkpoint(base))
    path = weights.find(base)
    return OnnxBase(path.read_bytes(), str(path))


def train(config: RefinerRecipe, out: Path) -> Path:
    """Train (or resume) a run; returns the path of the averaged weights.

    :raises ValueError: the configuration is wrong, or `out` holds a run with another one.
    :raises FileNotFoundError: the base, photographs, frames or the CLIP's weights are not there.
    """
    fabric = loop.start(config.loop, out)
    if fabric.is_global_zero:
        loop.write_record(out, config, config.loop)
    recipe = RefineRecipe(config).to(memory_format=torch.channels_last)
    batches = Batches(
        source(config.data, config.night_blur),
        config.stages,
        config.loop.seed,
        fabric.global_rank,
        fabric.world_size,
    )
    loop.fit(fabric, recipe, batches, config.loop, out, recipe.write)
    path = out / loop.WEIGHTS
    if fabric.is_global_zero:
        baked = checkpoint.load(path).baked()
        loop.write_whole(out / BAKED, lambda part: checkpoint.save(baked, part))
    return path


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and train."""
    parser = configuration.recipe_parser('train', __doc__)
    parser.add_argument('--base', metavar='MODEL', help="in place of the config's")
    options = parser.parse_args(arguments)
    config = configuration.load(options.config, RefinerRecipe)
    if options.base:
        config = dataclasses.replace(config, base=options.base)
    if options.photographs:
        config = dataclasses.replace(config, data=DataConfig(photographs=options.photographs))
    path = train(config, options.out)
    print(f'the weights are {path} and, without a CLIP, {options.out / BAKED}')
