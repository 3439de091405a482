"""Train convolutions as they will compute in int8 (Jacob et al. 2018, section 3).

Inputs, weights and outputs are rounded as ONNX Runtime rounds them, and gradients pass the
rounding as if it were not there. The network learns weights that do not mind. Names and shapes of
parameters stay.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from dap_led_ros.models.nano import ResidualBlock

WEIGHT_LEVELS = 64
"""On either side of zero: with more, products overflow on processors without VNNI."""


class RoundedConv2d(nn.Conv2d):
    """A convolution with uint8 inputs, one scale for all, and weights with a scale a channel."""

    def forward(self, x: Tensor) -> Tensor:
        """As that of nn.Conv2d."""
        return self._conv_forward(rounded_features(x), rounded_weight(self.weight), self.bias)


class RoundedBlock(ResidualBlock):
    """A residual block of such convolutions; the way around them is rounded, too."""

    def forward(self, x: Tensor) -> Tensor:
        """As that of ResidualBlock."""
        x = rounded_features(x)
        return rounded_features(x + rounded_features(self.conv2(relu(self.conv1(x)))))


def round_as_int8(network: nn.Module, layers: tuple[str, ...]) -> None:
    """Make convolutions, and the blocks that they are in, compute as int8 does, from now on.

    :param layers: where the names of their parameters begin, as for export.quantized().
    :raises ValueError: the network has none.
    """
    rounded = {nn.Conv2d: RoundedConv2d, ResidualBlock: RoundedBlock}
    chosen = [
        module
        for name, module in network.named_modules()
        if type(module) in rounded and f'{name}.'.startswith(layers)
    ]
    if not chosen:
        raise ValueError('int8 is for nano: this network has no layers that export quantises')
    for module in chosen:
        module.__class__ = rounded[type(module)]


def rounded_features(x: Tensor) -> Tensor:
    """To 256 steps between the least (at most 0) and the largest of all; in fp32 inside."""
    low, high = (value.float() for value in x.detach().aminmax())
    low, high = low.clamp(max=0), high.clamp(min=1e-6)
    scale = (high - low) / 255
    zero = (-low / scale).round().int()
    return torch.fake_quantize_per_tensor_affine(x.float(), scale, zero, 0, 255).to(x.dtype)


def rounded_weight(weight: Tensor) -> Tensor:
    """To steps of a scale of each output channel, without an offset."""
    largest = weight.detach().abs().flatten(1).amax(1).clamp(min=1e-8)
    zero = torch.zeros(len(weight), dtype=torch.int32, device=weight.device)
    return torch.fake_quantize_per_channel_affine(
        weight, largest / WEIGHT_LEVELS, zero, 0, -WEIGHT_LEVELS, WEIGHT_LEVELS
    )
