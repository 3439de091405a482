"""The distilled prior as the ONNX file that ships; networks are exported by `dap-led export`."""

from __future__ import annotations

import os
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn
from torch.export import Dim

from dap_led_ros.export import TOLERANCE, convert, parity
from dap_led_ros.priors import distilled
from dap_led_ros.priors.distilled import DistilledPrior


class Small(nn.Module):
    """The distilled prior on frames that are small already: the caller shrinks them."""

    def __init__(self, prior: DistilledPrior) -> None:
        super().__init__()
        self.prior = prior

    def forward(self, frame: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, 240, 320) to maps (B, K, 15, 20) and scores (B, K)."""
        return tuple(self.prior.of_small(frame))


def export_prior(network: DistilledPrior, path: Path) -> float:
    """Write the distilled prior as ONNX; returns the largest difference from torch.

    :raises ValueError: the difference is above TOLERANCE; nothing is written then.
    """
    small, part = Small(network).eval(), path.with_suffix('.part')
    onnx.save(
        convert(
            small,
            (torch.rand(2, 3, *distilled.SIZE),),
            ['frame'],
            ['heatmaps', 'scores'],
            [{0: Dim.DYNAMIC}],
        ),
        part,
    )
    difference = parity(small, part, (distilled.SIZE,))
    if difference > TOLERANCE:
        part.unlink()
        raise ValueError(f'ONNX and torch differ by {difference:.1e}, above {TOLERANCE:.0e}')
    os.replace(part, path)
    return difference
