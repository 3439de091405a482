"""How a network takes a controller's embeddings (DA-CLIP, section 3.2 and Fig. 3b).

Both ways begin at zero: with them a network begins as it would without them.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

PROMPTS, PROMPT_WIDTH = 8, 64
TOKENS = 4


class DegradationPrompts(nn.Module):
    """softmax(MLP(e_d)) mixes learned prompts; the mixture scales and shifts features.

    In the paper the mixture is added to the embedding of the diffusion's time, which then does so.
    """

    def __init__(self, embedding: int, widths: Iterable[int]) -> None:
        """Begin without effect.

        :param embedding: D of e_d.
        :param widths: of the features of each place that is to be modulated.
        """
        super().__init__()
        self.choose = nn.Sequential(
            nn.Linear(embedding, PROMPT_WIDTH), nn.GELU(), nn.Linear(PROMPT_WIDTH, PROMPTS)
        )
        self.bank = nn.Parameter(torch.randn(PROMPTS, PROMPT_WIDTH))
        self.places = nn.ModuleList(nn.Linear(PROMPT_WIDTH, 2 * width) for width in widths)
        for place in self.places:
            nn.init.zeros_(place.weight)
            nn.init.zeros_(place.bias)

    def forward(self, degradation: Tensor) -> list[Tensor]:
        """e_d (B, D), of length 1, to a modulation (B, 2 * width, 1, 1) for each place."""
        spread = degradation * degradation.shape[1] ** 0.5  # each entry about 1
        prompt = self.choose(spread).softmax(-1) @ self.bank
        return [place(prompt)[:, :, None, None] for place in self.places]


def modulated(x: Tensor, modulation: Tensor | None) -> Tensor:
    """Features (B, width, H, W), scaled and shifted; as they are without a modulation."""
    if modulation is None:
        return x
    scale, shift = modulation.chunk(2, dim=1)
    return x * (1 + scale) + shift


class ContentAttention(nn.Module):
    """Features ask e_c by cross-attention.

    One key alone would get all of the attention of every pixel, so e_c is unfolded into a few.
    """

    def __init__(self, embedding: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.keys_values = nn.Linear(embedding, 2 * TOKENS * width)
        self.project = nn.Linear(width, width, bias=False)
        nn.init.zeros_(self.project.weight)

    def forward(self, x: Tensor, content: Tensor) -> Tensor:
        """Features (B, width, H, W) and e_c (B, D), of length 1, to the shape of x."""
        height, width = x.shape[-2:]
        pixels = x.flatten(2).transpose(1, 2)
        query = self.query(self.norm(pixels))
        spread = content * content.shape[1] ** 0.5
        keys, values = self.keys_values(spread).unflatten(1, (2, TOKENS, -1)).unbind(1)
        weights = (query @ keys.transpose(1, 2) * query.shape[-1] ** -0.5).softmax(-1)
        pixels = pixels + self.project(weights @ values)
        return pixels.transpose(1, 2).unflatten(2, (height, width))
