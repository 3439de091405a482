"""nano: the real-time network, joint low-light enhancement and deblurring on a CPU.

A residual U-Net of plain 3x3 convolutions that works at 1/4, 1/8 and 1/16 of the frame's size,
because on a CPU memory traffic at full resolution costs more than arithmetic. Three choices keep
the frame clean:

* The last layer runs at 1/2 resolution, after a 2x pixel shuffle, so that neighbouring 4x4 cells
  share receptive fields: no 4x4 grid in flat areas.
* Its hidden features see the half-size frame through a 3x3 convolution, so that fine detail need
  not pass through the narrow 1/4 trunk.
* It predicts a gain (one per colour and 2x2 cell), a residual (one per pixel) and one gate for
  the whole frame: the enhanced frame is ``frame + gate * (frame * gain + residual)``. The gate, in
  [0, 1], closes on frames that are good already. Without it the network decides place by place
  and enhances patches of a day frame.

One channel attention over the whole frame (simplified channel attention of NAFNet, Chen et al.
2022, section 3.3) tells the trunk how dark the scene is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

SIZE_MULTIPLE = 16
"""Inside the network height and width are multiples of this; forward() pads and crops."""


@dataclass(frozen=True)
class NanoConfig:
    """Widths and numbers of residual blocks at 1/4, 1/8 and 1/16 of the frame's size."""

    widths: tuple[int, int, int] = (32, 64, 128)
    encoder_blocks: tuple[int, int, int] = (1, 1, 3)
    decoder_blocks: tuple[int, int] = (2, 2)
    """At 1/4 and at 1/8."""
    detail_width: int = 16
    detail_blocks: int = 0
    """Features and residual blocks at 1/2 of the frame's size."""
    gate_width: int = 32
    """Hidden features of the gate."""
    gate_threshold: float = 3.0
    """Logit of "degraded" at which the gate is half open. Above zero, where the two errors would
    weigh the same: to spoil a good frame is worse than to leave a bad one."""
    gate_slope: float = 2.0


PRESETS: dict[str, NanoConfig] = {
    'nano': NanoConfig(),
    'nano-large': NanoConfig((64, 96, 128), (2, 2, 4), (4, 3), 48, 1, gate_threshold=4.2),
    'nano-tiny': NanoConfig((8, 8, 16), (1, 1, 1), (1, 1), 4, 1, 4),
}
"""`nano` ships as the model `nano-0.1`; `nano-large`, which no model is of any more, has 4.8 times
its multiplications; `nano-tiny` is for tests."""


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(x))), 3x3, without normalisation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) to the same shape."""
        return x + self.conv2(functional.relu(self.conv1(x)))


def residual_blocks(width: int, count: int) -> nn.Sequential:
    """So many residual blocks in a row."""
    return nn.Sequential(*(ResidualBlock(width) for _ in range(count)))


class Nano(nn.Module):
    """The network; see the module's description.

    Input and output: (B, 3, H, W), RGB, [0, 1], any H and W >= 16. The output is not clamped, so
    that training has a gradient everywhere; clamp it before showing it.
    """

    def __init__(self, config: NanoConfig = PRESETS['nano']) -> None:
        super().__init__()
        self.config = config
        w4, w8, w16 = config.widths
        n4, n8, n16 = config.encoder_blocks
        # A 6x6 convolution of stride 2 on the half-size frame equals PixelUnshuffle(2) and a 3x3
        # convolution, without writing the unshuffled frame to memory.
        self.stem = nn.Conv2d(12, w4, 6, stride=2, padding=2)
        self.encoder4 = residual_blocks(w4, n4)
        self.down8 = nn.Conv2d(w4, w8, 3, stride=2, padding=1)
        self.encoder8 = residual_blocks(w8, n8)
        self.down16 = nn.Conv2d(w8, w16, 3, stride=2, padding=1)
        self.encoder16 = residual_blocks(w16, n16)
        self.attention = nn.Conv2d(w16, w16, 1)
        self.gate = nn.Sequential(
            nn.Conv2d(2 * w16, config.gate_width, 1), nn.ReLU(), nn.Conv2d(config.gate_width, 1, 1)
        )
        self.up8 = nn.Conv2d(w16, w8 * 4, 1)
        self.decoder8 = residual_blocks(w8, config.decoder_blocks[1])
        self.up4 = nn.Conv2d(w8, w4 * 4, 1)
        self.decoder4 = residual_blocks(w4, config.decoder_blocks[0])
        self.up2 = nn.Conv2d(w4, config.detail_width * 4, 1)
        self.detail = nn.Conv2d(12, config.detail_width, 3, padding=1)
        self.decoder2 = residual_blocks(config.detail_width, config.detail_blocks)
        self.head = nn.Conv2d(config.detail_width, 3 + 12, 3, padding=1)
        nn.init.constant_(self.gate[-1].bias, config.gate_threshold + 3)  # open at first
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, frame: Tensor) -> Tensor:
        """Enhance (B, 3, H, W) in [0, 1]; returns the same shape."""
        return self.enhance_and_gate(frame)[0]

    def enhance_and_gate(self, frame: Tensor) -> tuple[Tensor, Tensor]:
        """The enhanced frames, and for training the logits (B,) of being degraded."""
        height, width = frame.shape[-2:]
        padded = functional.pad(
            frame,
            (0, -width % SIZE_MULTIPLE, 0, -height % SIZE_MULTIPLE),
            mode='replicate',
        )
        enhanced, gate = self._forward_padded(padded)
        return enhanced[..., :height, :width], gate.flatten()

    def _forward_padded(self, frame: Tensor) -> tuple[Tensor, Tensor]:
        half = functional.pixel_unshuffle(frame, 2)  # (B, 12, H/2, W/2): colour-major 2x2 cells

        x4, x8, x16, gate = encode(self, half)
        x8 = self.decoder8(functional.pixel_shuffle(self.up8(x16), 2) + x8)
        x4 = self.decoder4(functional.pixel_shuffle(self.up4(x8), 2) + x4)

        x2 = functional.relu(functional.pixel_shuffle(self.up2(x4), 2) + self.detail(half))
        gain, residual = self.head(self.decoder2(x2)).split((3, 12), dim=1)
        change = half * gain.repeat_interleave(4, dim=1) + residual
        opening = torch.sigmoid(self.config.gate_slope * (gate - self.config.gate_threshold))
        return functional.pixel_shuffle(half + opening * change, 2), gate


def encode(network: nn.Module, frame: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What a Nano, and its NanoGraph, does before it grows features again.

    :param frame: as the network's stem takes it.
    :returns: features at 1/4, 1/8 and 1/16 (with attention), and the gate's logit (B, 1, 1, 1).
    """
    x4 = network.encoder4(functional.relu(network.stem(frame)))
    x8 = network.encoder8(functional.relu(network.down8(x4)))
    x16 = network.encoder16(functional.relu(network.down16(x8)))
    scene = x16.mean((2, 3), keepdim=True)
    spread = torch.sqrt(((x16 - scene) ** 2).mean((2, 3), keepdim=True) + 1e-6)
    gate = network.gate(torch.cat([scene, spread], dim=1))
    return x4, x8, x16 * network.attention(scene), gate
