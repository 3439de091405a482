"""The generator of DEvUDP: trained to deblur by day, used by night, too (after section 3.3).

An encoder-decoder of three scales of plain residual blocks, the LED of FCL-GAN (Zhao et al. 2022),
on values in [-1, 1]. Of its two modes `perceptual` brightens what is dark, because of what it has
and what it lacks: the instance normalisation behind its first convolution takes a frame's
brightness and contrast away, no shortcut brings them back, and it has only ever written frames of
normal light. `distortion` is the same with batch normalisation and the shortcut: it deblurs with
fewer errors, and leaves the light as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

NORMS = {'perceptual': nn.InstanceNorm2d, 'distortion': nn.BatchNorm2d}
"""By mode; instance normalisation without gain and bias, in evaluation by the frame's own mean."""


@dataclass(frozen=True)
class DevudpConfig:
    """Sizes and mode.

    :raises ValueError: there is no such mode.
    """

    width: int = 24
    """Features of the first scale; the second and the third have two and four times as many."""
    blocks: int = 6
    """Residual blocks of a scale, on the way down and again on the way up."""
    unshuffle: int = 1
    """The first scale is of so many times fewer pixels a side than the frame: 2 is for CPUs."""
    mode: str = 'perceptual'

    def __post_init__(self) -> None:
        if self.mode not in NORMS:
            raise ValueError(f'mode: {self.mode!r} is not one of {tuple(NORMS)}')


PRESETS: dict[str, DevudpConfig] = {
    'devudp': DevudpConfig(),
    'devudp-small': DevudpConfig(blocks=1, unshuffle=2),
    'devudp-tiny': DevudpConfig(width=8, blocks=1, unshuffle=2),
}
"""`devudp` has the LED's sizes, `devudp-small` is for two CPU cores, `devudp-tiny` for tests."""


class ResidualBlock(nn.Module):
    """x + norm(conv(relu(norm(conv(x))))), 3x3."""

    def __init__(self, width: int, norm: type[nn.Module]) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_unit(nn.Conv2d(width, width, 3, padding=1, bias=False), norm),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            norm(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) to the same shape."""
        return x + self.body(x)


def _unit(convolution: nn.Module, norm: type[nn.Module]) -> nn.Sequential:
    return nn.Sequential(convolution, norm(convolution.out_channels), nn.ReLU(inplace=True))


class Devudp(nn.Module):
    """The network; see the module's description.

    Input and output: (B, 3, H, W), RGB, [0, 1], any H and W >= 16. Of `distortion` the output is
    not clamped.
    """

    def __init__(self, config: DevudpConfig = PRESETS['devudp']) -> None:
        super().__init__()
        self.config = config
        norm, colours = NORMS[config.mode], 3 * config.unshuffle**2
        w1, w2, w3 = (config.width * scale for scale in (1, 2, 4))

        def stage(convolution: nn.Module, count: int = config.blocks) -> nn.Sequential:
            width = convolution.out_channels
            blocks = (ResidualBlock(width, norm) for _ in range(count))
            return nn.Sequential(_unit(convolution, norm), *blocks)

        def down(before: int, after: int) -> nn.Module:
            return nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False)

        def up(before: int, after: int) -> nn.Sequential:
            larger = nn.ConvTranspose2d(before, after, 4, stride=2, padding=1, bias=False)
            return _unit(larger, norm)

        # Padded by forward(): zeros around a dark frame would be its strongest contrast.
        self.encoder1 = stage(nn.Conv2d(colours, w1, 3, bias=False))
        self.encoder2 = stage(down(w1, w2))
        self.bottom = stage(down(w2, w3), 2 * config.blocks)
        self.up2 = up(w3, w2)
        self.decoder2 = stage(nn.Conv2d(2 * w2, w2, 1, bias=False))
        self.up1 = up(w2, w1)
        self.decoder1 = stage(nn.Conv2d(2 * w1, w1, 1, bias=False))
        self.head = nn.Conv2d(w1, colours, 3, padding=1)

    def forward(self, frame: Tensor) -> Tensor:
        """Enhance (B, 3, H, W) in [0, 1]; returns the same shape."""
        return (self.signed(frame * 2 - 1) + 1) / 2

    def signed(self, frame: Tensor) -> Tensor:
        """forward() for values in [-1, 1], as the losses of DEvUDP want them."""
        height, width = frame.shape[-2:]
        cell = self.config.unshuffle
        around = (cell, -width % (4 * cell) + cell, cell, -height % (4 * cell) + cell)
        padded = functional.pad(frame, around, mode='replicate')
        x1 = self.encoder1(functional.pixel_unshuffle(padded, cell))
        x2 = self.encoder2(x1)
        x2 = self.decoder2(torch.cat([self.up2(self.bottom(x2)), x2], dim=1))
        x1 = self.decoder1(torch.cat([self.up1(x2), x1], dim=1))
        made = functional.pixel_shuffle(self.head(x1), cell)[..., :height, :width]
        return frame + made if self.config.mode == 'distortion' else torch.tanh(made)
