"""PTG-RM: refines what any enhancer made of a frame, guided by a CLIP (Xu et al., CVPR 2024).

Read beside the paper: Refiner.forward is Fig. 2 and eq. 1, SpatialVarying is PTG-SVE (eq. 2 and
3), ChannelSpatialAttention is PTG-CSA (eq. 4 to 7). g is one vector of the whole degraded frame;
training/trainers/ptg_rm.md says what the paper leaves open and what was chosen.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from dap_led_ros.models.dap_led import TransformerBlock
from dap_led_ros.models.nano import ResidualBlock
from dap_led_ros.priors import PriorConfig

SIZE_MULTIPLE = 4
"""Inside the network height and width are multiples of this; forward() pads and crops."""
KERNEL = 3
"""Side of the kernels that eq. 5 predicts for each place."""


@dataclass(frozen=True)
class RefinerConfig:
    """A refiner and the CLIP that guides it."""

    width: int = 32
    """c, the features at 1/4 of the frame's size; half of them at 1/2."""
    blocks: int = 4
    """Transformer blocks of the long-range branch."""
    position: int = 16
    """Features of each position embedding, S_m and S_c."""
    prior_width: int = 128
    """Length of g; the CLIP's."""
    prior: PriorConfig = field(default_factory=PriorConfig)
    baked: bool = False
    """g is the mean over the training frames, a constant: no CLIP at run time."""

    def __post_init__(self) -> None:
        """Refuse a prior that has no embedding.

        :raises ValueError: see there.
        """
        if self.prior.kind != 'clip':
            raise ValueError(f'prior.kind: {self.prior.kind!r} has no embedding: use clip')


PRESETS: dict[str, RefinerConfig] = {
    'refiner': RefinerConfig(),
    'refiner-tiny': RefinerConfig(width=8, blocks=1, position=4),
}
"""`refiner-tiny` is for tests."""


class Refiner(nn.Module):
    """The network; see the module's description.

    Input: degraded frames and what the base made of them, both (B, 3, H, W), RGB, [0, 1], and g
    (B, D), unit vectors. Output: the refined frames, not clamped. At first these are the base's,
    to the bit.
    """

    def __init__(self, config: RefinerConfig) -> None:
        super().__init__()
        self.config = config
        width, half = config.width, config.width // 2
        self.stem = nn.Conv2d(24, half, 3, padding=1)
        self.down = nn.Conv2d(half, width, 3, stride=2, padding=1)
        self.spatial_varying = SpatialVarying(config)
        self.attention = ChannelSpatialAttention(config)
        self.up = nn.Conv2d(width, 4 * half, 1)
        self.head = nn.Conv2d(half, 24, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.register_buffer('mean_embedding', torch.zeros(config.prior_width))
        self.register_buffer('seen', torch.zeros((), dtype=torch.int64))

    def forward(self, frame: Tensor, enhanced: Tensor, embedding: Tensor | None = None) -> Tensor:
        """Refine; without an embedding g is the mean over the training frames."""
        if embedding is None:
            # Not len(): the exporter would take it as a constant.
            embedding = self.mean_embedding.expand(frame.shape[0], -1)
        height, width = frame.shape[-2:]
        both = functional.pad(
            torch.cat([enhanced, frame], dim=1),
            (0, -width % SIZE_MULTIPLE, 0, -height % SIZE_MULTIPLE),
            mode='replicate',
        )
        half = self.stem(functional.pixel_unshuffle(both, 2))
        features = functional.relu(self.down(functional.relu(half)))
        features = self.attention(self.spatial_varying(features, embedding), embedding)
        half = functional.relu(functional.pixel_shuffle(self.up(features), 2) + half)
        decoded = functional.pixel_shuffle(self.head(half), 2)[..., :height, :width]
        change, residual = decoded.chunk(2, dim=1)
        # Eq. 1 with I_m = 1 + change, rearranged: what is added to the base's is zero at first.
        return enhanced + (enhanced - frame) * change + residual

    @torch.no_grad()
    def observe(self, embedding: Tensor) -> None:
        """Take embeddings (B, D) into the mean."""
        self.seen += len(embedding)
        self.mean_embedding += (embedding - self.mean_embedding).sum(0) / self.seen


class SpatialVarying(nn.Module):
    """PTG-SVE: a convolution and transformer blocks, blended place by place (eq. 2 and 3)."""

    def __init__(self, config: RefinerConfig) -> None:
        super().__init__()
        width = config.width
        self.adaptor = PositionAwareAdaptor(config)  # T_m(g) and S_m
        self.range = nn.Sequential(  # R_m
            nn.Conv2d(2 * width + config.position, width, 1),
            nn.ReLU(),
            nn.Conv2d(width, 1, 3, padding=1),
            nn.Sigmoid(),
        )
        self.short = ResidualBlock(width)  # R_s
        self.long = nn.Sequential(  # R_l
            *(TransformerBlock(width, 1, 2.66) for _ in range(config.blocks))
        )

    def forward(self, features: Tensor, embedding: Tensor) -> Tensor:
        """Features f (B, c, h, w) and g (B, D) to the shape of f."""
        score = self.range(self.adaptor(features, embedding))  # M, eq. 2
        return score * self.short(features) + (1 - score) * self.long(features)  # eq. 3


class ChannelSpatialAttention(nn.Module):
    """PTG-CSA: attention over channels and, by kernels of each place, over places (eq. 4 to 7)."""

    def __init__(self, config: RefinerConfig) -> None:
        super().__init__()
        width = config.width
        self.adaptor = PositionAwareAdaptor(config)  # T_c(g) and S_c
        self.channels = nn.Sequential(  # R_c
            nn.Conv2d(2 * width, width, 1), nn.ReLU(), nn.Conv2d(width, width, 1), nn.Sigmoid()
        )
        self.kernels = nn.Sequential(  # R_p
            nn.Conv2d(2 * width + config.position, width, 1),
            nn.ReLU(),
            nn.Conv2d(width, width * KERNEL**2, 1),
        )
        self.places = nn.Sequential(nn.Conv2d(width, 1, 1), nn.Sigmoid())  # R_o
        self.fuse = nn.Conv2d(2 * width, width, 3, padding=1)  # R_f

    def forward(self, features: Tensor, embedding: Tensor) -> Tensor:
        """Features f^ (B, c, h, w) and g (B, D) to the shape of f^."""
        pooled = features.mean((2, 3), keepdim=True)
        mapped = self.adaptor.of_prior(embedding)
        by_channel = features * self.channels(torch.cat([pooled, mapped], dim=1))  # eq. 4
        kernels = self.kernels(self.adaptor(features, embedding))  # C_p, eq. 5
        by_place = features * self.places(convolve_each_place(features, kernels))  # eq. 6
        return self.fuse(torch.cat([by_channel, by_place], dim=1))  # eq. 7


class PositionAwareAdaptor(nn.Module):
    """T(g) and the position embedding S, beside the features: what eq. 2 and 5 are made from."""

    def __init__(self, config: RefinerConfig) -> None:
        super().__init__()
        width, position = config.width, config.position
        self.of_g = nn.Sequential(
            nn.Linear(config.prior_width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width)
        )
        self.of_place = nn.Sequential(
            nn.Conv2d(2, position, 1), nn.ReLU(), nn.Conv2d(position, position, 3, padding=1)
        )

    def of_prior(self, embedding: Tensor) -> Tensor:
        """T(g): (B, D) to (B, c, 1, 1)."""
        # Unit vectors of length D have entries of D^-0.5; a layer wants them of order 1.
        return self.of_g(embedding * embedding.shape[1] ** 0.5)[:, :, None, None]

    def forward(self, features: Tensor, embedding: Tensor) -> Tensor:
        """Features f (B, c, h, w) and g (B, D) to (B, 2c + position, h, w)."""
        count, _, height, width = features.shape
        rows, columns = (_coordinates(size, features) for size in (height, width))
        grid = torch.stack(
            [columns[None].expand(height, width), rows[:, None].expand(height, width)]
        )
        place = self.of_place(grid[None]).expand(count, -1, -1, -1)
        mapped = self.of_prior(embedding).expand(-1, -1, height, width)
        return torch.cat([features, mapped, place], dim=1)


def _coordinates(size: int, like: Tensor) -> Tensor:
    """From -1 to 1 in `size` steps; linspace() is wrong in an ONNX graph at another size."""
    indices = torch.arange(size, device=like.device).to(like.dtype)
    return 2 * indices / indices[-1] - 1


def convolve_each_place(features: Tensor, kernels: Tensor) -> Tensor:
    """Product f^ * C_p of eq. 6: each channel of each place with a kernel of its own.

    :param features: (B, c, h, w); beyond the border they are zero.
    :param kernels: (B, KERNEL^2 c, h, w): all channels' first weight, then their second, by rows.
    """
    height, width = features.shape[-2:]
    padded = functional.pad(features, (KERNEL // 2,) * 4)
    rows = [padded[..., y : y + height, :] for y in range(KERNEL)]
    shifted = [row[..., x : x + width] for row in rows for x in range(KERNEL)]
    weights = kernels.chunk(KERNEL**2, dim=1)
    return sum(weight * one for weight, one in zip(weights, shifted))
