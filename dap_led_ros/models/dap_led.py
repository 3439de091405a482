"""DAP-LED: the paper's network (Wang et al. 2024, arXiv:2409.13496), section III.

Read beside the paper: DapLed.forward is Fig. 3 and eq. 1, ClipEnhancedBlock is eq. 2 and 3. The
transformer block is Restormer's (Zamir et al. 2022), as the paper says. What the paper leaves open
is a field of DapLedConfig each; README.md in this folder says why each default is what it is.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from dap_led_ros.models.injection import ContentAttention, DegradationPrompts, modulated
from dap_led_ros.priors import PriorConfig

MODULATIONS = ('conv', 'depthwise')
UPSAMPLINGS = ('bilinear', 'nearest')


@dataclass(frozen=True)
class DapLedConfig:
    """A network and the prior that guides it."""

    channels: int = 48
    """C, the features of the first level; level n has 2^(n-1) C."""
    blocks: tuple[int, int, int, int] = (1, 2, 2, 4)
    """Transformer blocks of levels 1 to 4 (paper, section IV-A)."""
    heads: tuple[int, int, int, int] = (1, 2, 4, 8)
    expansion: float = 2.66
    """Hidden features of the feed-forward, in multiples of the level's."""
    wide_level1: bool = True
    """The decoder's first level works on 2C features, as in Restormer; else it is reduced to C."""
    modulation: str = 'conv'
    """Modulation of eq. 2: conv: a 1x1 convolution that begins at zero, so that the network begins
    as a plain one; depthwise: 3x3 depthwise, GELU, and that convolution."""
    upsampling: str = 'bilinear'
    """From heat-map to frame; nearest is the literal patch-wise product of eq. 1."""
    unshuffle: int = 1
    """1: works at full size, as the paper. 2: on 2x2 cells of the frame, several times faster."""
    prior: PriorConfig = field(default_factory=PriorConfig)
    embedding: int = 0
    """D of the embeddings of a DA-CLIP controller, which guides the network too; 0: none."""

    def __post_init__(self) -> None:
        """Refuse values that no branch knows.

        :raises ValueError: see there.
        """
        for name, known in (
            ('modulation', MODULATIONS),
            ('upsampling', UPSAMPLINGS),
            ('unshuffle', (1, 2)),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f'{name}: {getattr(self, name)!r} is not one of {known}')
        for heads, scale in zip(self.heads, (1, 2, 4, 8)):
            if self.channels * scale % heads:
                raise ValueError(
                    f'{self.channels * scale} channels do not divide by {heads} heads'
                )


_VIT_L = PriorConfig('clip', 'ViT-L-14-quickgelu', 'openai', dense_mode='maskclip')
PRESETS: dict[str, DapLedConfig] = {
    'dap-led-paper': DapLedConfig(prior=_VIT_L),
    'dap-led-base': DapLedConfig(channels=32),
    'dap-led-small': DapLedConfig(channels=24, expansion=2.67, wide_level1=False, unshuffle=2),
    'dap-led-tiny': DapLedConfig(channels=8, blocks=(1, 1, 1, 1), heads=(1, 1, 2, 2)),
}
"""As published; for one GPU; for a CPU; for tests."""


def preset_name(name: str) -> str:
    """The name of a preset today; warns if `name` is that of release 0.1."""
    today = f'dap-led-{name}'
    if today not in PRESETS:
        return name
    warnings.warn(f'the preset {name!r} is {today!r} now', FutureWarning, stacklevel=2)
    return today


class LayerNorm(nn.LayerNorm):
    """Layer normalisation over the channels of (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize each pixel."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Products(nn.Module):
    """What channel attention knows of the frame as a whole: means over its pixels, no more.

    A module of its own so that a hook can put the whole frame's in place of a tile's.
    """

    def forward(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Means of q k^T (B, heads, c, c), q^2 and k^2 (B, heads, c, 1) of (B, heads, c, N).

        In fp32.
        """
        count = query.shape[-1]
        if query.dtype == torch.float16:  # a sum over a frame is more than fp16 can hold
            query, key, count = query * count**-0.5, key * count**-0.5, 1
        return (
            (query @ key.transpose(-2, -1)).float() / count,
            torch.linalg.vector_norm(query, dim=-1, keepdim=True).float() ** 2 / count,
            torch.linalg.vector_norm(key, dim=-1, keepdim=True).float() ** 2 / count,
        )


class ChannelAttention(nn.Module):
    """Multi-Dconv-head transposed attention (Restormer, section 3.1): over channels.

    Written so that it touches the frame less often than the equations read: queries and keys are
    not divided by their norms, their products are; and the last 1x1 convolution is multiplied with
    the attention's weights, so that values are mixed once and not twice.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Conv2d(width, 3 * width, 1, bias=False)
        self.local = nn.Conv2d(3 * width, 3 * width, 3, padding=1, groups=3 * width, bias=False)
        self.products = Products()
        self.project = nn.Conv2d(width, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) to the same shape."""
        height, width = x.shape[-2:]
        qkv = self.local(self.qkv(x)).flatten(2).unflatten(1, (3, self.heads, -1))
        query, key, value = qkv.unbind(1)  # (B, heads, channels of a head, H * W)
        products, queries, keys = self.products(query, key)
        norms = [torch.rsqrt(squares.clamp_min(1e-24)) for squares in (queries, keys)]
        cosines = products * norms[0] * norms[1].transpose(-2, -1)
        weights = (cosines * self.temperature).softmax(-1).to(value.dtype)
        project = self.project.weight.flatten(1).unflatten(1, (self.heads, -1)).transpose(0, 1)
        mixed = (project @ weights).transpose(1, 2).flatten(2)  # (B, width, width)
        return (mixed @ value.flatten(1, 2)).unflatten(2, (height, width))


class GatedFeedForward(nn.Module):
    """Gated-Dconv feed-forward (Restormer, section 3.2)."""

    def __init__(self, width: int, expansion: float) -> None:
        super().__init__()
        hidden = int(width * expansion)
        self.expand = nn.Conv2d(width, 2 * hidden, 1, bias=False)
        self.local = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, bias=False)
        self.project = nn.Conv2d(hidden, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) to the same shape."""
        if torch.is_inference_mode_enabled() and not x.is_cuda:
            return self._in_parts(x)
        gate, value = self.local(self.expand(x)).chunk(2, dim=1)
        return self.project(functional.gelu(gate) * value)

    def _in_parts(self, x: Tensor) -> Tensor:
        """The same from a quarter of the hidden features at a time: they take most memory.

        On a CPU it costs no time; on a GPU, where more launches may, it has not been measured.
        """
        hidden = self.project.in_channels
        total: Tensor | int = 0
        for part in torch.arange(hidden, device=x.device).chunk(4):
            both = torch.cat([part, part + hidden])
            some = functional.conv2d(x, self.expand.weight[both])
            some = functional.conv2d(some, self.local.weight[both], padding=1, groups=len(both))
            gate, value = some.chunk(2, dim=1)
            total += functional.conv2d(functional.gelu(gate) * value, self.project.weight[:, part])
        return total


class TransformerBlock(nn.Module):
    """The encoder's block."""

    def __init__(self, width: int, heads: int, expansion: float) -> None:
        super().__init__()
        self.norm1 = LayerNorm(width)
        self.attention = ChannelAttention(width, heads)
        self.norm2 = LayerNorm(width)
        self.feed_forward = GatedFeedForward(width, expansion)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) to the same shape."""
        x = x + self.attention(self.norm1(x))
        return x + self.feed_forward(self.norm2(x))


class ClipEnhancedBlock(TransformerBlock):
    """The decoder's block, CeTB (section III-C): its attention sees the prior too."""

    def __init__(self, width: int, heads: int, config: DapLedConfig, prior_width: int) -> None:
        super().__init__(width, heads, config.expansion)
        self.modulation = _modulation(config.modulation, prior_width, width)

    def forward(self, x: Tensor, prior: Tensor) -> Tensor:
        """X (B, width, H, W) and F_c (B, prior_width, H, W) to the shape of x."""
        modulated = x + self.modulation(prior)  # eq. 2
        x = self.attention(self.norm1(modulated)) + x  # eq. 3
        return x + self.feed_forward(self.norm2(x))


class DapLed(nn.Module):
    """The network; see the module's description.

    Input: frames (B, 3, H, W), RGB, [0, 1], any H and W >= 16, and a heat-map (B, 1, h, w) in
    [0, 1] that covers the whole frame; with a controller also its unit embeddings e_c and e_d
    (B, 2, D). Output: the enhanced frames, not clamped.
    """

    def __init__(self, config: DapLedConfig) -> None:
        super().__init__()
        self.config = config
        self.checkpointing = False
        """In training, compute the blocks' activations again in place of keeping them."""
        widths = [config.channels * scale for scale in (1, 2, 4, 8)]
        cells = 3 * config.unshuffle**2
        self.stem = nn.Conv2d(cells, config.channels, 3, padding=1, bias=False)
        self.pyramid = nn.ModuleList(_downsample(width) for width in widths[:3])
        self.guidance = nn.ModuleList(_zero_conv(width, width) for width in widths)
        self.encoder = nn.ModuleList(
            nn.ModuleList(TransformerBlock(width, heads, config.expansion) for _ in range(count))
            for width, heads, count in zip(widths, config.heads, config.blocks)
        )
        self.down = nn.ModuleList(_downsample(width) for width in widths[:3])
        # The decoder's levels 3, 2 and 1. Level 1 keeps 2C unless it is narrow.
        wide = widths[1] if config.wide_level1 else widths[0]
        self.decoder = nn.ModuleList(
            nn.ModuleList(
                ClipEnhancedBlock(width, config.heads[level], config, widths[level])
                for _ in range(config.blocks[level])
            )
            for level, width in ((2, widths[2]), (1, widths[1]), (0, wide))
        )
        self.up = nn.ModuleList(_upsample(width) for width in widths[:0:-1])
        self.reduce = nn.ModuleList(
            [
                nn.Conv2d(2 * widths[2], widths[2], 1, bias=False),
                nn.Conv2d(2 * widths[1], widths[1], 1, bias=False),
                nn.Identity()
                if config.wide_level1
                else nn.Conv2d(2 * widths[0], widths[0], 1, bias=False),
            ]
        )
        self.head = nn.Conv2d(wide, cells, 3, padding=1, bias=False)
        if config.embedding:  # last, so that all else begins as it does without
            levels = [*widths, widths[2], widths[1], wide]
            self.prompts = DegradationPrompts(config.embedding, levels)
            self.content = ContentAttention(config.embedding, widths[3])

    def forward(self, frame: Tensor, heatmap: Tensor, embeddings: Tensor | None = None) -> Tensor:
        """Enhance (B, 3, H, W) under the guidance of (B, 1, h, w)."""
        height, width = frame.shape[-2:]
        multiple = 8 * self.config.unshuffle
        border = (0, -width % multiple, 0, -height % multiple)
        padded = functional.pad(frame, border, mode='replicate')
        weight = functional.pad(
            self._upsampled(heatmap, (height, width)), border, mode='replicate'
        )
        if self.config.unshuffle > 1:
            weight = functional.avg_pool2d(weight, self.config.unshuffle)
        residual = self._residual(
            functional.pixel_unshuffle(padded, self.config.unshuffle),
            weight.to(frame.dtype),
            embeddings.to(frame.dtype) if self.config.embedding else None,
        )
        enhanced = padded + functional.pixel_shuffle(residual, self.config.unshuffle)
        return enhanced[..., :height, :width]  # I^ = I + R

    def _upsampled(self, heatmap: Tensor, size: tuple[int, int]) -> Tensor:
        if self.config.upsampling == 'nearest':
            return functional.interpolate(heatmap.float(), size, mode='nearest')
        return functional.interpolate(heatmap.float(), size, mode='bilinear', align_corners=False)

    def _residual(self, frame: Tensor, weight: Tensor, embeddings: Tensor | None) -> Tensor:
        guided = embeddings is not None
        modulations = self.prompts(embeddings[:, 1]) if guided else [None] * 7
        features = self.stem(frame)  # F_in
        priors = [features * weight]  # F_weight, eq. 1
        for downsample in self.pyramid:
            priors.append(downsample(priors[-1]))

        skips = []
        for level, blocks in enumerate(self.encoder):
            if level:
                skips.append(features)
                features = self.down[level - 1](features)
            features = features + self.guidance[level](priors[level])
            features = modulated(features, modulations[level])
            if guided and level == 3:
                features = self.content(features, embeddings[:, 0])
            for block in blocks:
                features = self._run(block, features)  # in the end F_latent

        for step, blocks in enumerate(self.decoder):
            level = 2 - step
            features = torch.cat([self.up[step](features), skips[level]], dim=1)
            features = modulated(self.reduce[step](features), modulations[4 + step])
            for block in blocks:
                features = self._run(block, features, priors[level])
        return self.head(features)  # R

    def _run(self, block: nn.Module, *inputs: Tensor) -> Tensor:
        if self.checkpointing and self.training:
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)


def _downsample(width: int) -> nn.Sequential:
    """(B, width, H, W) -> (B, 2 width, H/2, W/2)."""
    return nn.Sequential(
        nn.Conv2d(width, width // 2, 3, padding=1, bias=False), nn.PixelUnshuffle(2)
    )


def _upsample(width: int) -> nn.Sequential:
    """(B, width, H, W) -> (B, width/2, 2H, 2W)."""
    return nn.Sequential(nn.Conv2d(width, 2 * width, 3, padding=1, bias=False), nn.PixelShuffle(2))


def _zero_conv(inputs: int, outputs: int) -> nn.Conv2d:
    """A 1x1 convolution that adds nothing until it has learned to."""
    conv = nn.Conv2d(inputs, outputs, 1, bias=False)
    nn.init.zeros_(conv.weight)
    return conv


def _modulation(form: str, inputs: int, outputs: int) -> nn.Module:
    if form == 'conv':
        return _zero_conv(inputs, outputs)
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False),
        nn.GELU(),
        _zero_conv(inputs, outputs),
    )
