"""NAFNet (Chen et al. 2022, arXiv:2204.04676), with or without a DA-CLIP controller.

A U-Net of blocks without activation functions: products of two halves in their place (section
3.3), simplified channel attention, layer normalisation. With a controller, its degradation
embedding modulates every block and its content embedding is asked at the deepest level, as in the
direct restoration of DA-CLIP (section 5.3).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from dap_led_ros.models.dap_led import LayerNorm
from dap_led_ros.models.injection import ContentAttention, DegradationPrompts, modulated
from dap_led_ros.priors import PriorConfig


@dataclass(frozen=True)
class NafnetConfig:
    """Width and numbers of blocks; the paper's own are 32, (1, 1, 1, 28), 1, (1, 1, 1, 1)."""

    channels: int = 16
    """Features of the first level; each further level has twice as many."""
    encoder_blocks: tuple[int, ...] = (1, 1, 2, 2)
    """Of each level from the first down; as many levels as numbers."""
    middle_blocks: int = 2
    decoder_blocks: tuple[int, ...] = (1, 1, 1, 1)
    """From the deepest level up."""
    unshuffle: int = 2
    """1: works at full size, as the paper. 2: on 2x2 cells of the frame, several times faster."""
    prior: PriorConfig = field(default_factory=lambda: PriorConfig('none'))
    """none or controller: this network takes no heat-map."""
    embedding: int = 0
    """D of the controller's embeddings; 0: there is no controller."""

    def __post_init__(self) -> None:
        """Refuse levels that do not pair, and a prior that this network has no use for.

        :raises ValueError: see there.
        """
        if len(self.encoder_blocks) != len(self.decoder_blocks):
            raise ValueError('encoder_blocks and decoder_blocks: give as many numbers in both')
        if self.prior.kind not in ('none', 'controller'):
            raise ValueError(
                f'prior.kind: nafnet takes no heat-map of {self.prior.kind}: '
                'use none or controller'
            )


PRESETS: dict[str, NafnetConfig] = {
    'nafnet': NafnetConfig(),
    'nafnet-tiny': NafnetConfig(8, (1, 0), 1, (0, 1)),
}
"""`nafnet` is for a CPU; `nafnet-tiny` is for tests."""


class NafBlock(nn.Module):
    """NAFNet's block (Fig. 3c); it begins as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = LayerNorm(width)
        self.expand = nn.Conv2d(width, 2 * width, 1)
        self.local = nn.Conv2d(2 * width, 2 * width, 3, padding=1, groups=2 * width)
        self.attention = nn.Conv2d(width, width, 1)
        self.project = nn.Conv2d(width, width, 1)
        self.norm2 = LayerNorm(width)
        self.feed = nn.Conv2d(width, 2 * width, 1)
        self.forward2 = nn.Conv2d(width, width, 1)
        self.beta = nn.Parameter(torch.zeros(width, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(width, 1, 1))

    def forward(self, x: Tensor, modulation: Tensor | None = None) -> Tensor:
        """(B, width, H, W) to the same shape."""
        gated = _gate(self.local(self.expand(modulated(self.norm1(x), modulation))))
        gated = gated * self.attention(gated.mean((2, 3), keepdim=True))
        x = x + self.beta * self.project(gated)
        return x + self.gamma * self.forward2(_gate(self.feed(self.norm2(x))))


class Nafnet(nn.Module):
    """The network; see the module's description.

    Input: frames (B, 3, H, W), RGB, [0, 1], any H and W >= 16, and with a controller its unit
    embeddings e_c and e_d (B, 2, D). Output: the enhanced frames, not clamped.
    """

    def __init__(self, config: NafnetConfig = PRESETS['nafnet']) -> None:
        super().__init__()
        self.config = config
        widths = [config.channels * 2**level for level in range(len(config.encoder_blocks) + 1)]
        cells = 3 * config.unshuffle**2
        self.stem = nn.Conv2d(cells, widths[0], 3, padding=1)
        self.encoder = nn.ModuleList(map(_blocks, widths[:-1], config.encoder_blocks))
        self.down = nn.ModuleList(nn.Conv2d(w, 2 * w, 2, stride=2) for w in widths[:-1])
        self.middle = _blocks(widths[-1], config.middle_blocks)
        self.up = nn.ModuleList(nn.Conv2d(w, 2 * w, 1, bias=False) for w in widths[:0:-1])
        self.decoder = nn.ModuleList(map(_blocks, widths[-2::-1], config.decoder_blocks))
        self.head = nn.Conv2d(widths[0], cells, 3, padding=1)
        if config.embedding:  # last, so that all else begins as it does without
            blocks = (block for part in self._parts() for block in part)
            self.prompts = DegradationPrompts(
                config.embedding, [block.project.out_channels for block in blocks]
            )
            self.content = ContentAttention(config.embedding, widths[-1])

    def _parts(self) -> list[nn.ModuleList]:
        """Blocks of each level, in the order in which a frame passes them."""
        return [*self.encoder, self.middle, *self.decoder]

    def forward(self, frame: Tensor, embeddings: Tensor | None = None) -> Tensor:
        """Enhance (B, 3, H, W)."""
        height, width = frame.shape[-2:]
        multiple = 2 ** len(self.down) * self.config.unshuffle
        border = (0, -width % multiple, 0, -height % multiple)
        padded = functional.pad(frame, border, mode='replicate')
        content, modulations = None, [None] * sum(map(len, self._parts()))
        if self.config.embedding:
            content, degradation = embeddings.to(frame.dtype).unbind(1)
            modulations = self.prompts(degradation)
        residual = self._residual(
            functional.pixel_unshuffle(padded, self.config.unshuffle), content, iter(modulations)
        )
        enhanced = padded + functional.pixel_shuffle(residual, self.config.unshuffle)
        return enhanced[..., :height, :width]

    def _residual(
        self, frame: Tensor, content: Tensor | None, modulations: Iterator[Tensor | None]
    ) -> Tensor:
        features, skips = self.stem(frame), []
        for blocks, down in zip(self.encoder, self.down):
            for block in blocks:
                features = block(features, next(modulations))
            skips.append(features)
            features = down(features)
        if content is not None:
            features = self.content(features, content)
        for block in self.middle:
            features = block(features, next(modulations))
        for up, blocks in zip(self.up, self.decoder):
            features = functional.pixel_shuffle(up(features), 2) + skips.pop()
            for block in blocks:
                features = block(features, next(modulations))
        return self.head(features)


def _gate(x: Tensor) -> Tensor:
    """SimpleGate: the product of two halves of the channels (section 3.3)."""
    one, other = x.chunk(2, dim=1)
    return one * other


def _blocks(width: int, count: int) -> nn.ModuleList:
    return nn.ModuleList(NafBlock(width) for _ in range(count))
