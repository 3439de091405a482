"""Losses between an enhanced and a target frame: (B, 3, H, W), target in [0, 1]; all scalar."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def charbonnier(enhanced: Tensor, target: Tensor, epsilon: float = 1e-3) -> Tensor:
    """Mean of sqrt(difference^2 + epsilon^2) (DAP-LED eq. 4)."""
    return torch.sqrt((enhanced - target) ** 2 + epsilon**2).mean()


def gradient(enhanced: Tensor, target: Tensor) -> Tensor:
    """L1 distance of the horizontal and vertical differences: blur costs, brightness does not."""
    difference = enhanced - target
    dx = difference[..., :, 1:] - difference[..., :, :-1]
    dy = difference[..., 1:, :] - difference[..., :-1, :]
    return dx.abs().mean() + dy.abs().mean()


def dissimilarity(enhanced: Tensor, target: Tensor, window: int = 7, stride: int = 3) -> Tensor:
    """1 - SSIM with a uniform window (Wang et al. 2004, eq. 13), over full windows only.

    The uniform window and its stride are for speed (every pixel still counts in several windows);
    evaluation uses the usual Gaussian of 11 x 11 at every pixel.
    """
    c1, c2 = 0.01**2, 0.03**2
    both = torch.cat([enhanced, target, enhanced**2, target**2, enhanced * target])
    mean_e, mean_t, square_e, square_t, product = functional.avg_pool2d(
        both, window, stride
    ).chunk(5)
    variance_e, variance_t = square_e - mean_e**2, square_t - mean_t**2
    covariance = product - mean_e * mean_t
    ssim = ((2 * mean_e * mean_t + c1) * (2 * covariance + c2)) / (
        (mean_e**2 + mean_t**2 + c1) * (variance_e + variance_t + c2)
    )
    return 1 - ssim.mean()


def grid(enhanced: Tensor, target: Tensor, period: int = 4) -> Tensor:
    """Error that repeats with the network's unshuffle period, whatever it is elsewhere.

    The signed error is averaged over all cells of period x period pixels, one mean per place in
    the cell; the loss is how far these means are from one another. H and W divide by the period.
    """
    error = functional.pixel_unshuffle(enhanced - target, period)
    places = error.mean((2, 3)).reshape(len(error), 3, period * period)
    return (places - places.mean(-1, keepdim=True)).abs().mean()


def gate(logits: Tensor, degraded: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of the gate (B,): open on a degraded frame, closed on an undegraded one."""
    needed = (degraded != target).flatten(1).any(1).to(logits.dtype)
    return functional.binary_cross_entropy_with_logits(logits, needed)
