"""DA-CLIP's image controller (Luo et al. 2024, arXiv:2310.01018, section 3.1 and Fig. 3a).

A trainable copy of the CLIP's image tower sees the degraded frame and steers the frozen one. The
copy's own output says how the frame is degraded (e_d); the output of the steered tower says what
the frame shows, as if it were clean (e_c).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional

from dap_led_ros.priors.clip import ClipPrior


class Controller(nn.Module):
    """What is trained: the copy, its links into the frozen tower, and two temperatures."""

    def __init__(self, visual: nn.Module) -> None:
        """Copy an image tower; without training it changes nothing.

        :param visual: VisionTransformer of open_clip.
        """
        super().__init__()
        self.visual = copy.deepcopy(visual).requires_grad_(True)
        width = visual.conv1.out_channels
        self.links = nn.ModuleList(_zero_linear(width) for _ in visual.transformer.resblocks)
        self.log_scales = nn.Parameter(torch.tensor([50.0, 20.0]).log())
        """log(1 / tau) of eq. 1, of content and of degradation."""

    def forward(
        self, tower: nn.Module, pixels: Tensor, kept: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """e_c and e_d, both (B, D), not normalized.

        :param tower: the frozen tower.
        :param pixels: (B, 3, S, S) as the tower expects them.
        :param kept: (B, k) patches that both towers see; all without it.
        """
        hidden, steered = (tokens(visual, pixels, kept) for visual in (self.visual, tower))
        blocks = (self.visual.transformer.resblocks, tower.transformer.resblocks, self.links)
        for own, frozen, link in zip(*blocks):
            hidden = own(hidden)
            steered = frozen(steered) + link(hidden)
        return pooled(tower, steered), pooled(self.visual, hidden)


# What forward() of open_clip's tower does before its blocks and after them.


def tokens(visual: nn.Module, pixels: Tensor, kept: Tensor | None = None) -> Tensor:
    """(B, 3, S, S) to the class token and the patches, or those `kept`: (B, 1 + N, width)."""
    x = visual._embeds(pixels)
    if kept is None:
        return x
    rows = torch.arange(len(kept), device=kept.device)[:, None]
    return torch.cat([x[:, :1], x[rows, 1 + kept]], dim=1)


def pooled(visual: nn.Module, x: Tensor) -> Tensor:
    """What the last block gives, (B, 1 + N, width), to embeddings (B, D)."""
    return visual._pool(x)[0] @ visual.proj


class ControllerPrior(ClipPrior):
    """A CLIP prior with a controller: heat-maps and scores as without it, and two embeddings."""

    def __init__(self, *clip: object, controller: Controller) -> None:
        """Put a controller beside the tower of a ClipPrior, which the other arguments make."""
        super().__init__(*clip)
        self.controller = controller.eval().requires_grad_(False)

    @torch.no_grad()
    def embeddings(self, frame: Tensor) -> Tensor:
        """Unit e_c and e_d of (B, 3, H, W) in [0, 1]: (B, 2, D)."""
        with torch.autocast(frame.device.type, torch.float16, enabled=frame.is_cuda):
            both = self.controller(self.visual, self._pixels(frame))
        return functional.normalize(torch.stack(both, dim=1).float(), dim=-1)


def _zero_linear(width: int) -> nn.Linear:
    """A dense layer that says nothing until it has learned to."""
    layer = nn.Linear(width, width)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
