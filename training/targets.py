"""Targets that keep a share of the frame itself.

Frames are (B, 3, H, W) in [0, 1], H and W at least 8.

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

from dap_led_ros.metrics.luma import LUMA
from dap_led_training.losses import is_degraded

CELL = 8
"""Pixels; in the mean of such cells there is little noise."""
USABLE = 0.05
"""Share of a frame's cells that must be neither black nor white; with fewer it stays as it is."""
MOST_NOISE = 4.9 / 255
"""Standard deviation of the luma's noise that a target may have; noisier frames give less."""


def keep(degraded: Tensor, target: Tensor, share: float) -> Tensor:
    """The target with a share of relit() in it, softened; less of a noisy frame.

    Where nothing is degraded, or too little is to be seen, the target remains as it is.

    :param share: from 0 to 1.
    """
    frame, seen = relit(degraded, target)
    frame = _soft(frame)
    share = (MOST_NOISE / _noise_of_soft(frame).clamp(min=1e-6)).clamp(max=share)
    share = share * (seen & is_degraded(degraded, target))
    return torch.lerp(target, frame, share.view(-1, 1, 1, 1))


def relit(degraded: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Each frame about as bright as its target: factor * degraded ** power.

    Blur, noise and a cast of colour are left in. Least squares on the logarithms of cells of 8 x 8
    pixels that are neither black nor white. The power is 1 for a loss of light in the linear law
    (near enough, in sRGB) and more or less for other ones.

    :returns: the frames, and (B,), whether enough of each is neither black nor white.
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
    frame = (factor[..., None, None] * degraded ** power[..., None, None]).clamp(0, 1)
    return frame, usable.mean(1) >= USABLE


def _luma(frame: Tensor) -> Tensor:
    return (frame * frame.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _soft(frame: Tensor) -> Tensor:
    """Binomial 3 x 3: three eighths of white noise are left, and nearly all of what blur left."""
    return functional.avg_pool2d(
        functional.avg_pool2d(functional.pad(frame, (1, 1, 1, 1), mode='replicate'), 2, 1), 2, 1
    )


def _noise_of_soft(frame: Tensor) -> Tensor:
    """Standard deviation of the luma's noise, (B,), of frames that went through _soft()."""
    luma = _luma(frame)
    grain = luma - functional.avg_pool2d(luma, 3, 1, 1, count_include_pad=False)
    # The median, so that edges are out: 0.6745 of a normal deviate. Of white noise after _soft()
    # the grain holds 15/64 of the variance.
    return grain.abs().flatten(1).median(1).values / (0.6745 * (15 / 64) ** 0.5)
