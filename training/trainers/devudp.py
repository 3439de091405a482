"""Train DEvUDP without pairs: python -m dap_led_training train RECIPE --out RUN.

From blurred pictures (A) and sharp ones (B) of other scenes, all in normal light, the generator G
learns to deblur: what it makes of A shall look like B to a discriminator D, a second generator has
to find A again in it, and each generator leaves its own set as it is (DEvUDP, section 3.2). Only G
is written: RUN/weights.safetensors, for Enhancer.load, `dap-led export` and the node.

All three are trained by one step on one sum: D is constant in what G is told, and what G made is
constant in what D is told. So they are updated at once, not in turns.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss

from dap_led_ros.checkpoints import checkpoint
from dap_led_ros.models.devudp import PRESETS, Devudp
from dap_led_training import configuration, loop
from dap_led_training.data.batches import Stage
from dap_led_training.data.unpaired import UnpairedBatches, UnpairedConfig, sources
from dap_led_training.loop import LoopConfig
from dap_led_training.night.night_blur import NightBlurConfig

BLUR_BY_DAY = NightBlurConfig(
    daylight=1.0,
    blur=1.0,
    path_length=(4.0, 22.0),
    defocus=0.0,
    shot_noise=(1e-7, 1e-7),
    bayer=0.0,
    display_noise=0.0,
    smoothing=0.0,
    jpeg=0.0,
)
"""Camera shake and nothing else: the paper allows no low light and no other degradation."""


@dataclass(frozen=True)
class DevudpTraining:
    """A recipe; see recipes/companions/devudp.yaml.

    :raises ValueError: no such network, or pictures that are darkened.
    """

    data: UnpairedConfig
    """`degraded` are the blurred ones (A), `clean` the sharp ones (B)."""
    stages: list[Stage]
    network: str = 'devudp'
    mode: str = 'perceptual'
    """perceptual, which brightens, or distortion; see dap_led_ros/models/devudp.py."""
    reconstruction: float = 10.0
    regression: float = 5.0
    """Weights of eq. 10: lambda_recon and lambda_sr."""
    discriminator_width: int = 24
    night_blur: NightBlurConfig = BLUR_BY_DAY
    """Of data.photographs; what is set here replaces all of BLUR_BY_DAY."""
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        if self.network not in PRESETS:
            raise ValueError(f'no network {self.network!r}: use one of {", ".join(PRESETS)}')
        if self.night_blur.daylight < 1:
            raise ValueError('night_blur: DEvUDP is trained in normal light: set daylight: 1.0')


class Discriminator(nn.Module):
    """Whether patches of (B, 3, H, W) in [-1, 1] are sharp: (B, 1, h, w), 1 is real, 0 is made."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, stride=2, padding=1)]
        for before in (width, 2 * width):
            layers += [
                nn.LeakyReLU(0.2, inplace=True),
                nn.Conv2d(before, 2 * before, 4, stride=2, padding=1, bias=False),
                nn.InstanceNorm2d(2 * before),
            ]
        layers += [nn.LeakyReLU(0.2, inplace=True), nn.Conv2d(4 * width, 1, 3, padding=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, frame: Tensor) -> Tensor:
        """Judge each patch."""
        return self.layers(frame)


class DevudpRecipe(nn.Module):
    """The transformation branch, the self-regression branch and the discriminator."""

    def __init__(self, config: DevudpTraining) -> None:
        super().__init__()
        self.config = config
        preset = dataclasses.replace(PRESETS[config.network], mode=config.mode)
        self.network, self.inverse = Devudp(preset), Devudp(preset)
        self.discriminator = Discriminator(config.discriminator_width)

    def forward(self, degraded: Tensor, clean: Tensor) -> dict[str, Tensor]:
        """Weighted terms of eq. 10, and the discriminator's, of (B, H, W, 3) uint8 sets."""
        blurred, sharp = (f.permute(0, 3, 1, 2).float() / 127.5 - 1 for f in (degraded, clean))
        latent, same_sharp = self.network.signed(torch.cat([blurred, sharp])).chunk(2)
        found, same_blurred = self.inverse.signed(torch.cat([latent, blurred])).chunk(2)
        regression = l1_loss(same_blurred, blurred) + l1_loss(same_sharp, sharp)
        return {
            'adversarial': self.adversarial(latent),
            'reconstruction': self.config.reconstruction * l1_loss(found, blurred),
            'regression': self.config.regression * regression,
            'discriminator': self.discrimination(sharp, latent.detach()),
        }

    def adversarial(self, latent: Tensor) -> Tensor:
        """Eq. 4; its gradient goes to what made `latent` and not to the discriminator."""
        constants = {n: p.detach() for n, p in self.discriminator.named_parameters()}
        judged = torch.func.functional_call(self.discriminator, constants, (latent,))
        return ((judged - 1) ** 2).mean()

    def discrimination(self, sharp: Tensor, latent: Tensor) -> Tensor:
        """Eq. 3."""
        real, made = self.discriminator(torch.cat([sharp, latent])).chunk(2)
        return ((real - 1) ** 2).mean() / 2 + (made**2).mean() / 2


def train(config: DevudpTraining, out: Path) -> Path:
    """Train (or resume) a run; returns the path of the averaged weights of G.

    :raises ValueError: the sets overlap or are too small, or `out` holds a run with another
        configuration.
    :raises FileNotFoundError: a folder is missing or has no picture.
    :raises FloatingPointError: the loss is not finite; the last checkpoint is from before.
    """
    fabric = loop.start_alone(config.loop, out)
    loop.write_record(out, config, config.loop)
    degraded, clean = sources(config.data, config.night_blur)
    batches = UnpairedBatches(degraded, clean, config.stages, config.loop.seed)
    loop.fit(fabric, DevudpRecipe(config), batches, config.loop, out, checkpoint.save)
    return out / loop.WEIGHTS


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and train."""
    options = configuration.recipe_parser('train', __doc__).parse_args(arguments)
    config = configuration.load(options.config, DevudpTraining)
    if options.photographs:
        data = UnpairedConfig(photographs=options.photographs)
        config = dataclasses.replace(config, data=data)
    print(f'the weights are in {train(config, options.out)}')
