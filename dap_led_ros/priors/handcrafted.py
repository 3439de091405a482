"""Priors without a network, for comparison."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from dap_led_ros.priors import NAMES, Degradation, in_full_precision

SIZE = 256
GRID = 16


class HandcraftedPrior(nn.Module):
    """Luminance and local sharpness, on the frame at 256x256 in cells of 16x16.

    low_light is 1 minus the mean luma. blur falls with the mean absolute Laplacian, relative to
    the mean luma because a darker frame has weaker edges of the same sharpness. joint is the
    product of both.
    """

    HALF_BLURRED = 0.06
    """Relative Laplacian at which blur is 0.5: the median of undegraded photographs."""

    def __init__(self) -> None:
        super().__init__()
        kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]).reshape(1, 1, 3, 3)
        self.register_buffer('laplacian', kernel, persistent=False)
        luma = torch.tensor([0.299, 0.587, 0.114]).reshape(1, 3, 1, 1)
        self.register_buffer('luma', luma, persistent=False)

    @torch.no_grad()
    @in_full_precision
    def forward(self, frame: Tensor) -> Degradation:
        """Estimate the degradation of (B, 3, H, W); heat-maps are 16x16."""
        small = functional.interpolate(
            frame.float(), (SIZE, SIZE), mode='bilinear', antialias=True, align_corners=False
        )
        luma = functional.conv2d(small, self.luma)
        edges = functional.conv2d(
            functional.pad(luma, (1, 1, 1, 1), mode='replicate'), self.laplacian
        ).abs()
        cells = functional.avg_pool2d(torch.cat([luma, edges], 1), SIZE // GRID)
        whole = cells.mean((2, 3), keepdim=True)
        return Degradation(self._judge(cells), self._judge(whole)[:, :, 0, 0])

    def _judge(self, cells: Tensor) -> Tensor:
        """Mean luma and Laplacian (B, 2, h, w) -> (B, K, h, w)."""
        luma, edges = cells[:, :1], cells[:, 1:]
        dark = (1 - luma).clamp(0, 1)
        blur = 1 / (1 + edges / (luma + 0.01) / self.HALF_BLURRED)
        return torch.cat([dark * blur, dark, blur], dim=1)


class NoPrior(nn.Module):
    """Says that everything is degraded everywhere: F_weight is F_in."""

    def forward(self, frame: Tensor) -> Degradation:
        """Ones: heat-maps (B, K, 1, 1) and scores (B, K)."""
        ones = frame.new_ones(len(frame), len(NAMES))
        return Degradation(ones[:, :, None, None], ones)
