"""Targets that keep a share of the frame itself: (B, 3, H, W) in [0, 1], H and W at least 8.

What is nearest to the sharp photograph, on average over all that the scene may have been, is too
smooth: faint texture goes together with the noise. To a detector, which learned from photographs,
such a frame says less than one that is merely brightened. With a share of the brightened frame in
the target, its faint texture and a little of its noise stay, and its tones bend less from place to
place.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from dap_led_training.metrics import LUMA

CELL = 8
"""Pixels; in the mean of such cells there is hardly any noise."""
MOST_NOISE = 2.5 / 255
"""Standard deviation of what grain a target may have; noisier frames get a smaller share."""


def keep(degraded: Tensor, target: Tensor, share: float) -> Tensor:
    """The target with a share of relit() in it, softened, less of a noisy frame.

    An undegraded frame is its own target and remains so.

    :param share: from 0 to 1.
    """
    frame = _soft(relit(degraded, target))
    share = (MOST_NOISE / _grain(frame).clamp(min=1e-6)).clamp(max=share)
    share = share * (degraded != target).flatten(1).any(1)
    return torch.lerp(target, frame, share.view(-1, 1, 1, 1))


def relit(degraded: Tensor, target: Tensor) -> Tensor:
    """Each frame as bright as its target: factor * degraded ** power, blur and noise left in.

    Least squares on the logarithms of cells of 8 x 8 pixels that are neither black nor white. The
    power is 1 for a loss of light in the linear law (near enough, in sRGB) and more or less for
    other ones.
    """
    dark, bright = (
        functional.avg_pool2d(_luma(frame), CELL).flatten(1) for frame in (degraded, target)
    )
    usable = ((dark > 2 / 255) & (bright > 2 / 255) & (bright < 250 / 255)).float()
    count = usable.sum(1, keepdim=True).clamp(min=1)
    x, y = (torch.log(cells.clamp(min=2 / 255)) for cells in (dark, bright))
    mean_x, mean_y = ((v * usable).sum(1, keepdim=True) / count for v in (x, y))
    x, y = (x - mean_x) * usable, (y - mean_y) * usable
    steady = 0.5  # draws the power of a frame without contrast to 1
    power = ((x * y).sum(1, keepdim=True) + steady) / ((x * x).sum(1, keepdim=True) + steady)
    power = power.clamp(0.5, 1.6)
    factor = torch.exp(mean_y - power * mean_x)
    return (factor[..., None, None] * degraded ** power[..., None, None]).clamp(0, 1)


def _luma(frame: Tensor) -> Tensor:
    return (frame * frame.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _soft(frame: Tensor) -> Tensor:
    """Binomial 3 x 3: three eighths of white noise are left, and nearly all of what blur left."""
    return functional.avg_pool2d(
        functional.avg_pool2d(functional.pad(frame, (1, 1, 1, 1), mode='replicate'), 2, 1), 2, 1
    )


def _grain(frame: Tensor) -> Tensor:
    """Standard deviation of the luma's finest detail, (B,): by the median, so edges are out."""
    luma = _luma(frame)
    grain = luma - functional.avg_pool2d(luma, 3, 1, 1, count_include_pad=False)
    # 0.6745: median of a normal deviate's size; 8/9 of white noise's variance is in the grain.
    return grain.abs().flatten(1).median(1).values / (0.6745 * (8 / 9) ** 0.5)
