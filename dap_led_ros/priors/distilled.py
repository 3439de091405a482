"""The distilled prior: a small convolutional network that imitates a CLIP prior.

It looks at the frame at 320x240, a quarter of the pixels of 640x480, whatever the frame's size:
like its teacher it sees blur relative to the frame. That costs a CPU about two milliseconds. As an
ONNX file it is what scores frames where torch is not installed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from dap_led_ros.priors import NAMES, Degradation, in_full_precision

SIZE = (240, 320)


class DistilledPrior(nn.Module):
    """Heat-maps of 15x20 cells, and scores."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(6, width // 2, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width // 2, width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            nn.ReLU(),
        )
        self.body1 = nn.Conv2d(width, width, 3, padding=1)
        self.body2 = nn.Conv2d(width, width, 3, padding=1)
        self.context = nn.Linear(width, width)
        self.heatmaps = nn.Conv2d(width, len(NAMES), 1)
        self.scores = nn.Sequential(
            nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, len(NAMES))
        )

    @torch.no_grad()
    @in_full_precision
    def forward(self, frame: Tensor) -> Degradation:
        """Estimate the degradation of (B, 3, H, W)."""
        return self.of_small(functional.interpolate(frame.float(), SIZE, mode='area'))

    def of_small(self, small: Tensor) -> Degradation:
        """Estimate from frames (B, 3, 240, 320): maps (B, K, 15, 20) and scores (B, K)."""
        maps, scores = self.logits(small)
        return Degradation(maps.sigmoid(), scores.sigmoid())

    def logits(self, small: Tensor) -> tuple[Tensor, Tensor]:
        """What of_small() says, before the sigmoid; differentiable."""
        # In the logarithm an edge is as strong in the dark as in the light.
        logarithm = 1 + torch.log(small + 1 / 255) / math.log(255)
        x = self.stem(torch.cat([small, logarithm], dim=1))
        scene = self.context(x.mean((2, 3)))[:, :, None, None]
        x = x + self.body1(functional.relu(x)) + scene
        x = x + self.body2(functional.relu(x))
        mean = x.mean((2, 3), keepdim=True)
        spread = torch.sqrt(((x - mean) ** 2).mean((2, 3)) + 1e-6)
        return self.heatmaps(x), self.scores(torch.cat([mean.flatten(1), spread], dim=1))
