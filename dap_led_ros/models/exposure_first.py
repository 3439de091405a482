"""Exposure first, then a residual that denoises and deblurs.

    frame -> exposure, one tone curve -> toned frame -> residual U-Net -> + -> gate -> enhanced

Brightness is settled before the first convolution (see exposure.py), so that all of the network's
capacity goes into structure. Its target is as bright as the toned frame, everywhere: it learns no
gain of a place. It is a U-Net of plain 3x3 convolutions without normalisation, which work at
1/4, 1/8 and 1/16 of the frame's size, because on a CPU memory traffic at full size costs more than
arithmetic. Most of its width is at 1/4, where motion blur is undone.

* The last layer runs at 1/2 of the size, after a 2x pixel shuffle, so that neighbouring 4x4 cells
  share receptive fields: no 4x4 grid in flat areas. Its features see the toned frame directly.
* It predicts a residual (one per pixel) and how much of the toned frame to take back (one per
  colour and 2x2 cell): noise as strong as that of a dark frame is erased and painted over, which
  few features at 1/2 could not subtract pixel by pixel.
* The exposure is told to the features at 1/8: the noise has grown by it.
* A gate for the whole frame, in [0, 1], closes on frames that are good already: enhanced is
  ``frame + gate * (toned + residual - frame)``.

With `history` a stream's network (inference/history.py) enhances the mean of a frame and its past,
and is told, at 1/2 of the size, how many frames are behind it and how far the frame alone is from
it. What sees that begins at zero: until it is trained, and wherever there is no past, it is the
network of single frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from dap_led_ros.models import exposure
from dap_led_ros.models.exposure import Exposure
from dap_led_ros.models.nano import residual_blocks

SIZE_MULTIPLE = 16
"""Inside the network height and width are multiples of this; forward() pads and crops."""
TOLD = 3
"""Numbers about the exposure that the network is told."""
PAST = 4
"""Planes of past_of()."""


@dataclass(frozen=True)
class ExposureFirstConfig:
    """Widths and numbers of residual blocks at 1/4, 1/8 and 1/16 of the frame's size."""

    widths: tuple[int, int, int] = (48, 64, 96)
    encoder_blocks: tuple[int, int, int] = (2, 2, 2)
    decoder_blocks: tuple[int, int] = (4, 3)
    """At 1/4 and at 1/8."""
    detail_width: int = 16
    """Features at 1/2 of the frame's size."""
    gate_width: int = 32
    """Hidden features of the gate."""
    gate_slope: float = 2.0
    """The gate is the logistic function of the logit of "degraded" times this."""
    history: bool = False
    """Take what a stream has seen before, too."""


PRESETS: dict[str, ExposureFirstConfig] = {
    'exposure-first': ExposureFirstConfig(),
    'exposure-first-tiny': ExposureFirstConfig((8, 8, 16), (1, 1, 1), (1, 1), 4, 4),
}
"""`exposure-first` ships as the model `nano`; `exposure-first-tiny` is for tests."""


class Parts(NamedTuple):
    """What the network makes of frames on its way; see ExposureFirst.parts()."""

    toned: Tensor
    """(B, 3, H, W): the frame by its tone curve."""
    sharp: Tensor
    """(B, 3, H, W): toned, with what it lacks; not gated, not clamped."""
    gate: Tensor
    """Logit (B,) of being degraded."""


class ExposureFirst(nn.Module):
    """The network; see the module's description.

    Input and output: (B, 3, H, W), RGB, [0, 1], any H and W >= 16. The output is not clamped, so
    that training has a gradient everywhere; clamp it before showing it.
    """

    def __init__(self, config: ExposureFirstConfig = PRESETS['exposure-first']) -> None:
        super().__init__()
        self.config = config
        w4, w8, w16 = config.widths
        n4, n8, n16 = config.encoder_blocks
        self.exposure = Exposure()
        # A 6x6 convolution of stride 2 on the half-size frame equals PixelUnshuffle(2) and a 3x3
        # convolution, without writing the unshuffled frame to memory.
        self.stem = nn.Conv2d(12, w4, 6, stride=2, padding=2)
        self.encoder4 = residual_blocks(w4, n4)
        self.down8 = nn.Conv2d(w4, w8, 3, stride=2, padding=1)
        self.told = nn.Linear(TOLD, w8)
        self.encoder8 = residual_blocks(w8, n8)
        self.down16 = nn.Conv2d(w8, w16, 3, stride=2, padding=1)
        self.encoder16 = residual_blocks(w16, n16)
        self.gate = nn.Sequential(
            nn.Conv2d(2 * w16 + TOLD, config.gate_width, 1),
            nn.ReLU(),
            nn.Conv2d(config.gate_width, 1, 1),
        )
        self.up8 = nn.Conv2d(w16, w8 * 4, 1)
        self.decoder8 = residual_blocks(w8, config.decoder_blocks[1])
        self.up4 = nn.Conv2d(w8, w4 * 4, 1)
        self.decoder4 = residual_blocks(w4, config.decoder_blocks[0])
        self.up2 = nn.Conv2d(w4, config.detail_width * 4, 1)
        self.detail = nn.Conv2d(12, config.detail_width, 3, padding=1)
        self.head = nn.Conv2d(config.detail_width, 3 + 12, 3, padding=1)
        nn.init.constant_(self.gate[-1].bias, 3)  # open at first
        zeros: list[nn.Conv2d | nn.Linear] = [self.head, self.told]
        if config.history:
            self.past_stem = nn.Conv2d(PAST, w4, 6, stride=2, padding=2, bias=False)
            self.past_detail = nn.Conv2d(PAST, config.detail_width, 3, padding=1, bias=False)
            self.past_head = nn.Conv2d(config.detail_width, 3, 3, padding=1)
            zeros += [self.past_stem, self.past_detail, self.past_head]
        for zero in zeros:
            nn.init.zeros_(zero.weight)
            if zero.bias is not None:
                nn.init.zeros_(zero.bias)

    def forward(
        self, frame: Tensor, fused: Tensor | None = None, count: Tensor | None = None
    ) -> Tensor:
        """Enhance (B, 3, H, W) in [0, 1]; returns the same shape.

        :param fused: with `history`, (B, 3, H, W) in [0, 1]: the mean of the frame and its past,
            as bright as the frame; where there is no past, the frame. None: there is none.
        :param count: (B, 1, H, W): past frames in that mean.
        """
        parts = self.parts(frame, fused, count)
        opening = torch.sigmoid(self.config.gate_slope * parts.gate).view(-1, 1, 1, 1)
        mean = frame if fused is None else fused
        return mean + opening * (parts.sharp - mean)

    def parts(
        self, frame: Tensor, fused: Tensor | None = None, count: Tensor | None = None
    ) -> Parts:
        """The enhanced frames and what they are made of, for training; see forward()."""
        height, width = frame.shape[-2:]
        padded, past = pad(frame), None
        curve, told = self.exposure(padded)
        if fused is None:
            toned = exposure.apply(curve, padded)
        else:
            mean = pad(fused)
            toned, past = exposure.apply(curve, mean), past_of(curve, padded, mean, pad(count))
        residual, gate = self.residual(toned, told, past)
        toned, sharp = toned[..., :height, :width], (toned + residual)[..., :height, :width]
        return Parts(toned, sharp, gate)

    def degradedness(self, frame: Tensor) -> Tensor:
        """The gate's logit (B,) alone, of (B, 3, H, W) in [0, 1]."""
        padded = pad(frame)
        curve, told = self.exposure(padded)
        half = functional.pixel_unshuffle(exposure.apply(curve, padded), 2)
        return encode(self, self.stem(half), told)[-1]

    def residual(
        self, toned: Tensor, told: Tensor, past: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What toned frames (B, 3, H, W) lack to be sharp and clean, and the gate's logit (B,).

        :param toned: H and W divide by SIZE_MULTIPLE.
        :param told: (B, TOLD), of Exposure.
        :param past: with `history`, of past_of(); `toned` is then the mean of frame and past.
        """
        half = functional.pixel_unshuffle(toned, 2)  # (B, 12, H/2, W/2): colour-major 2x2 cells
        stem, detail = self.stem(half), self.detail(half)
        if past is not None:
            stem, detail = stem + self.past_stem(past), detail + self.past_detail(past)
        x4, x8, x16, gate = encode(self, stem, told)
        x8 = self.decoder8(functional.pixel_shuffle(self.up8(x16), 2) + x8)
        x4 = self.decoder4(functional.pixel_shuffle(self.up4(x8), 2) + x4)
        x2 = functional.relu(functional.pixel_shuffle(self.up2(x4), 2) + detail)
        back, residual = self.head(x2).split((3, 12), dim=1)
        residual = half * back.repeat_interleave(4, 1) + residual
        if past is not None:  # a share of the frame alone, where the mean is not of what is there
            residual = residual + (past[:, :3] * self.past_head(x2)).repeat_interleave(4, 1)
        return functional.pixel_shuffle(residual, 2), gate


def past_of(curve: exposure.ToneCurve, frame: Tensor, fused: Tensor, count: Tensor) -> Tensor:
    """What the layers of `history` see, (B, PAST, H/2, W/2).

    The toned frame less the toned mean, and the share of the past in that mean.
    """
    alone, mean, count = (functional.avg_pool2d(one, 2) for one in (frame, fused, count))
    change = exposure.apply(curve, alone) - exposure.apply(curve, mean)
    return torch.cat([change, count / (count + 1)], dim=1)


def pad(frame: Tensor) -> Tensor:
    """Repeat the last row and column until both sides divide by SIZE_MULTIPLE."""
    height, width = frame.shape[-2:]
    border = (0, -width % SIZE_MULTIPLE, 0, -height % SIZE_MULTIPLE)
    return functional.pad(frame, border, mode='replicate')


def encode(
    network: nn.Module, stem: Tensor, told: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What an ExposureFirst, and its graph, does before it grows features again.

    :param stem: what the network's stem makes of the toned frame.
    :returns: features at 1/4, 1/8 and 1/16, and the gate's logit (B,).
    """
    x4 = network.encoder4(functional.relu(stem))
    known = network.told(told)[:, :, None, None]
    x8 = network.encoder8(functional.relu(network.down8(x4) + known))
    x16 = network.encoder16(functional.relu(network.down16(x8)))
    scene = x16.mean((2, 3), keepdim=True)
    spread = torch.sqrt(((x16 - scene) ** 2).mean((2, 3), keepdim=True) + 1e-6)
    # The features do not show how dark the frame was: all that they see is bright.
    found = torch.cat([scene, spread, told[:, :, None, None]], dim=1)
    return x4, x8, x16, network.gate(found).flatten()
