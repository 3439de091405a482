"""CLIP-LIT's enhancement network (Liang et al. 2023, section 3.1): a small U-Net that divides.

It estimates how much light fell on each pixel, one value for the three colours, and divides the
frame by it: ``I_t = I_b / I_i``. So it brightens, and neither sharpens nor removes noise. The
paper says "a simple Unet" and no more; this one works at 1/2 to 1/16 of the frame's size, with
nano's residual blocks and without normalisation, which would take away how dark the frame is.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from dap_led_ros.models.nano import ResidualBlock

SIZE_MULTIPLE = 16
DARKEST = 1 / 32
"""The least illumination: the most that a pixel can be brightened is its inverse."""


@dataclass(frozen=True)
class IlluminationConfig:
    """Features at 1/2, 1/4, 1/8 and 1/16 of the frame's size."""

    widths: tuple[int, int, int, int] = (16, 24, 32, 48)


PRESETS: dict[str, IlluminationConfig] = {
    'illumination': IlluminationConfig(),
    'illumination-tiny': IlluminationConfig((4, 4, 8, 8)),
}
"""`illumination-tiny` is for tests."""


class Illumination(nn.Module):
    """The network; see the module's description.

    Input and output: (B, 3, H, W), RGB, [0, 1], any H and W >= 16. The output is not clamped;
    clamp it before showing it.
    """

    def __init__(self, config: IlluminationConfig = PRESETS['illumination']) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        self.stem = nn.Conv2d(12, widths[0], 3, padding=1)
        self.encoder = nn.ModuleList(ResidualBlock(width) for width in widths)
        pairs = list(pairwise(widths))
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairs)
        self.up = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairs)
        self.decoder = nn.ModuleList(ResidualBlock(width) for width in widths[:-1])
        self.head = nn.Conv2d(widths[0], 1, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.constant_(self.head.bias, -2)

    def forward(self, frame: Tensor) -> Tensor:
        """Enhance (B, 3, H, W) in [0, 1]; returns the same shape."""
        return frame / self.illumination(frame)

    def illumination(self, frame: Tensor) -> Tensor:
        """(B, 1, H, W) in [DARKEST, 1]."""
        height, width = frame.shape[-2:]
        padded = functional.pad(
            frame,
            (0, -width % SIZE_MULTIPLE, 0, -height % SIZE_MULTIPLE),
            mode='replicate',
        )
        x = self.encoder[0](functional.relu(self.stem(functional.pixel_unshuffle(padded, 2))))
        levels = [x]
        for down, encode in zip(self.down, self.encoder[1:]):
            levels.append(encode(functional.relu(down(levels[-1]))))
        x = levels.pop()
        for up, decode in zip(reversed(self.up), reversed(self.decoder)):
            x = decode(_doubled(up(x)) + levels.pop())
        logits = _doubled(self.head(functional.relu(x)))[..., :height, :width]
        return DARKEST ** torch.sigmoid(logits)  # in powers: twice as bright is as far everywhere


def _doubled(x: Tensor) -> Tensor:
    """Twice as high and as wide, smoothly: illumination has no grid."""
    return functional.interpolate(x, scale_factor=2, mode='bilinear', align_corners=False)
