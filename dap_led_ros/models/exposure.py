"""Exposure first: one tone curve for a frame, before any network looks at it.

A frame's light is divided by its own geometric mean, so that a scene looks the same however little
of its light a camera caught. Two numbers then say how the frame is shown:

* level: the display value that the geometric mean of the light comes out at;
* contrast: the power of light that the display value follows. 1/2.4 is that of sRGB, the identity
  but for brightness (and, for lack of sRGB's linear toe, for the eight darkest of 255 values).
  Less than that lifts the shadows of a camera that has crushed them.

A small head reads both off the frame's statistics. They are relative to the geometric mean (but
for the share of black, which is what it is): how the light spreads around it, how noise and colour
change with brightness, how the frame ends at black. Light far above white is rolled off.

The curve is one function of the pixel's value (see ToneCurve). On sRGB, the transfer function of
IEC 61966-2-1, it costs one logarithm and one exponential a value.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

SRGB_CONTRAST, SRGB_BLACK = 1 / 2.4, 0.055
LEVEL = 0.41
"""The default level: the median over sharp photographs of normal light."""
LEVELS = (0.12, 0.75)
CONTRASTS = (0.2, 0.5)
"""Ranges of what the head may answer."""
KNEE = 0.8
"""Display value above which light that would exceed white is rolled off."""
CELL = 4
"""Pixels: the statistics are taken of means over such cells."""
STATISTICS = 26
Means = Callable[[Tensor], Tensor]
_TOE = 0.04045
_LEAST = 2e-5
_LOG_BLACK = math.log(_LEAST / 12.92)
_LOG_TOE = 2.4 * math.log((_TOE + SRGB_BLACK) / 1.055)
_LUMINANCE = (0.2126, 0.7152, 0.0722)
_STOPS = tuple(range(-8, 6))
"""Edges of the histogram, in stops from the geometric mean."""
_BANDS = (-3.0, -1.0, 1.0)
"""Edges between shadows, dark, bright and highlights, in stops."""
_FLOOR = 0.01
"""Share of the arithmetic mean that is added to light before its logarithm."""


class ToneCurve(NamedTuple):
    """How each frame of a batch is shown; every field is (B, 1, 1, 1).

    A value v, of light l, becomes 1.055 exp(contrast log(l) + exposure) - black, and what is then
    above KNEE and below `white` comes out between KNEE and 1.
    """

    exposure: Tensor
    """Natural logarithm, in units of the display value."""
    contrast: Tensor
    black: Tensor
    """Display value: sRGB's 0.055, or as much as leaves no haze where the frame is black."""
    white: Tensor
    """Display value, 1 or more, that becomes 1: the brightest cell of the frame."""


def log_light(values: Tensor) -> Tensor:
    """Natural logarithm of the linear light of sRGB values in [0, 1]; black is -13."""
    return _LOG_TOE + functional.leaky_relu(_curved(values), 1 / 2.4) * 2.4


def _curved(values: Tensor) -> Tensor:
    """Natural logarithm of values in units of the toe, so that sRGB's two pieces meet at 0.

    Below 0 it is that of linear light, above it 1 / 2.4 of that: one logarithm for both pieces.
    """
    values = values.clamp(min=_LEAST)
    rest = values * (1 / (_TOE + SRGB_BLACK)) + SRGB_BLACK / (_TOE + SRGB_BLACK)
    return torch.log(torch.minimum(values * (1 / _TOE), rest))


def apply(curve: ToneCurve, frame: Tensor) -> Tensor:
    """Show (B, 3, H, W) sRGB in [0, 1] by a curve.

    :returns: about 0 to 1. Black is a little below 0, and single pixels that are brighter than
        the brightest cell lie above 1.
    """
    # Each line is one pass over the frame: what is the same for all pixels is worked out before.
    power = functional.leaky_relu(_curved(frame), 1 / 2.4) * (2.4 * curve.contrast)
    shown = torch.exp(power + (curve.contrast * _LOG_TOE + curve.exposure + math.log(1.055)))
    # Slope 1 at the knee; `white` becomes 1. With white at 1 nothing changes.
    bend = 1 / (1 - KNEE) - 1 / (curve.white - KNEE)
    from_knee = shown - (curve.black + KNEE)
    return from_knee / (from_knee * bend + 1).clamp(min=1) + KNEE


def cell_means(values: Tensor) -> Tensor:
    """(B, C, H, W) to the means of its cells, (B, C, H // CELL, W // CELL)."""
    return functional.avg_pool2d(values, CELL)


class Exposure(nn.Module):
    """Finds the tone curve of a frame; untrained, it brings every frame to LEVEL."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.register_buffer('centre', torch.zeros(STATISTICS))
        self.register_buffer('scale', torch.ones(STATISTICS))
        self.head = nn.Sequential(
            nn.Linear(STATISTICS, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
            nn.Linear(width, 2),
        )  # fmt: skip
        nn.init.zeros_(self.head[-1].weight)
        nn.init.zeros_(self.head[-1].bias)

    def forward(self, frame: Tensor, means: Means = cell_means) -> tuple[ToneCurve, Tensor]:
        """The curve of (B, 3, H, W) in [0, 1], and what a network may be told of it (B, 3).

        :param means: cell_means(), or what gives the same.
        :raises RuntimeError: H or W is less than CELL.
        """
        found, log_mean, brightest = statistics(frame, means)
        answer = self.head((found - self.centre) / self.scale)
        return self.curve(*self.numbers(answer), log_mean, brightest)

    @staticmethod
    def numbers(answer: Tensor) -> tuple[Tensor, Tensor]:
        """Level and contrast, (B,) each, from the head's answer (B, 2)."""
        level = (LEVEL * torch.exp(answer[:, 0])).clamp(*LEVELS)
        contrast = (SRGB_CONTRAST * torch.exp(answer[:, 1])).clamp(*CONTRASTS)
        return level, contrast

    @staticmethod
    def curve(
        level: Tensor, contrast: Tensor, log_mean: Tensor, brightest: Tensor
    ) -> tuple[ToneCurve, Tensor]:
        """The curve with a level and a contrast, (B,) each; see forward().

        :param log_mean, brightest: of statistics(), (B,) each.
        """
        scene = 1.055 * torch.exp(contrast * log_mean)
        nothing = 1.055 * torch.exp(contrast * _LOG_BLACK)
        plain = (level + SRGB_BLACK) / scene
        # A low contrast would show black as grey: then black is what is taken off, and not sRGB's.
        hazy = nothing * plain > SRGB_BLACK
        wanted = torch.log(torch.where(hazy, level / (scene - nothing).clamp(min=1e-6), plain))
        # Never darker than the frame: a day frame has a gain of 1.
        exposure = functional.relu(wanted)
        black = (nothing * torch.exp(exposure)).clamp(min=SRGB_BLACK)
        white = (1.055 * torch.exp(contrast * brightest + exposure) - black).clamp(min=1)
        told = torch.stack([exposure, contrast / SRGB_CONTRAST - 1, wanted - exposure], dim=1)
        fields = (one.view(-1, 1, 1, 1) for one in (exposure, contrast, black, white))
        return ToneCurve(*fields), told


def statistics(frame: Tensor, means: Means = cell_means) -> tuple[Tensor, Tensor, Tensor]:
    """What the head sees of (B, 3, H, W) in [0, 1].

    :param means: cell_means(), or what gives the same.
    :returns: the statistics (B, STATISTICS); the natural logarithm of the geometric mean of
        luminance (B,); that of the brightest light of a cell, of whatever colour (B,).
    """
    cells = means(frame)
    light = torch.exp(log_light(cells))
    luma = sum(weight * light[:, i : i + 1] for i, weight in enumerate(_LUMINANCE))
    logs = torch.log(luma + _FLOOR * luma.mean((1, 2, 3), keepdim=True) + 1e-7)
    log_mean = logs.mean((1, 2, 3), keepdim=True)
    stops = (logs - log_mean) / math.log(2)
    brightest = torch.log(light.amax((1, 2, 3)).clamp(min=1e-7))
    reach = torch.log(luma.amax((1, 2, 3)).clamp(min=1e-7))

    edges = torch.tensor(_STOPS, dtype=frame.dtype, device=frame.device).view(1, -1, 1, 1)
    histogram = torch.sigmoid(4 * (edges - stops)).mean((2, 3))
    green = frame[:, 1:2]
    # In units of the display value of the mean, so that dark frames have as much grain as bright.
    unit = torch.exp(-2 * SRGB_CONTRAST * log_mean)
    variance = (means(green * green) - cells[:, 1:2] ** 2) * unit
    grain = torch.log2(
        (variance.clamp(min=0) + 1e-6).sqrt() / (cells[:, 1:2] * unit.sqrt() + 0.02)
    )
    colour = (light.amax(1, keepdim=True) - light.amin(1, keepdim=True)) / (luma + 1e-4)
    colour = colour.clamp(max=3)
    below = [torch.sigmoid(4 * (edge - stops)) for edge in _BANDS]
    bands = torch.cat([below[0], below[1] - below[0], below[2] - below[1], 1 - below[2]], dim=1)
    share = bands.mean((2, 3)) + 1e-3
    grains = (bands * grain).mean((2, 3)) / share
    colours = (bands * colour).mean((2, 3)) / share
    smoothest = -torch.log2(torch.exp2(-2 * grain).mean((1, 2, 3))) / 2
    black = torch.sigmoid(4 * (1 - 255 * cells[:, 1])).mean((1, 2))
    log_mean = log_mean.flatten()
    # How bright the frame is counts for bright ones alone: dark is dark, by whatever factor.
    bright = functional.relu(log_mean - math.log(0.04))
    reach = (reach - log_mean) / math.log(2)
    more = torch.stack([smoothest, black, bright, reach], dim=1)
    return torch.cat([histogram, grains, colours, more], dim=1), log_mean, brightest
