"""Networks in the operations that ONNX Runtime runs fast on a CPU; the same function of the frame.

Their convolutions run at the processor's limit; what stands between them took a fifth of the time.
inference/README.md has what each change brought.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from dap_led_ros.models import exposure, exposure_first, nano
from dap_led_ros.models.exposure_first import ExposureFirst
from dap_led_ros.models.nano import SIZE_MULTIPLE, Nano


class NanoGraph(nn.Module):
    """A Nano to export; its parameters keep their names."""

    def __init__(self, network: Nano) -> None:
        super().__init__()
        self.config = network.config
        # Convolutions on the frame itself in place of those on its 2x2 cells: to cut a frame into
        # cells takes longer than a convolution, and 12 features fill no vector registers.
        self.stem = _on_frame(network.stem)
        self.detail = _on_frame(network.detail)
        for name in ('encoder4', 'down8', 'encoder8', 'down16', 'encoder16', 'gate', 'attention'):
            setattr(self, name, getattr(network, name))
        self.up8, self.add8 = Grow(network.up8), _add(network.up8)
        self.up4, self.add4 = Grow(network.up4), _add(network.up4)
        self.up2, self.add2 = Grow(network.up2), _add(network.up2)
        self.decoder8, self.decoder4 = network.decoder8, network.decoder4
        self.decoder2, self.head = network.decoder2, Head(network.head)

    def forward(self, frame: Tensor) -> Tensor:
        """Enhance (B, 3, H, W) in [0, 1]; see Nano.enhance_and_gate()."""
        height, width = frame.shape[-2:]
        border = (0, -width % SIZE_MULTIPLE, 0, -height % SIZE_MULTIPLE)
        frame = functional.pad(frame, border, mode='replicate')

        x4, x8, x16, gate = nano.encode(self, frame)
        x8 = self.decoder8(self.add8(self.up8(x16)) + x8)
        x4 = self.decoder4(self.add4(self.up4(x8)) + x4)
        x2 = functional.relu(self.add2(self.up2(x4)) + self.detail(frame))
        gain, residual = self.head(self.decoder2(x2))
        opening = torch.sigmoid(self.config.gate_slope * (gate - self.config.gate_threshold))
        # One pass over what is small, and not several over the frame.
        gain = functional.interpolate(1 + opening * gain, scale_factor=2.0, mode='nearest')
        return _cut(frame * gain + opening * residual, height, width)


class ExposureFirstGraph(nn.Module):
    """An ExposureFirst to export; its parameters keep their names.

    :param half: convolutions in fp16; the light stays in fp32, for the dark needs its last bits.
    :param int8: all between the first convolution and the growing to 1/2 is to be quantised.
    """

    def __init__(self, network: ExposureFirst, half: bool = False, int8: bool = False) -> None:
        super().__init__()
        self.config = network.config
        self.stem, self.detail = _on_frame(network.stem), _on_frame(network.detail)
        # Until they are trained the layers that see the past do nothing, and are left out.
        self.sees_past = network.config.history and bool(network.past_head.weight.any())
        if self.sees_past:
            for name in ('past_stem', 'past_detail', 'past_head'):
                setattr(self, name, getattr(network, name))
        kept = ('exposure', 'told', 'encoder4', 'down8', 'encoder8', 'down16', 'encoder16', 'gate')
        for name in (*kept, 'decoder8', 'decoder4'):
            setattr(self, name, getattr(network, name))
        self.up8, self.up4, self.up2 = Grow(network.up8), Grow(network.up4), Grow(network.up2)
        if int8:  # with features last from its first layer on
            first = ('first', _same(network.config.widths[0]))
            self.encoder4 = nn.Sequential(OrderedDict([first, *self.encoder4.named_children()]))
            # What the last block adds is large, and the growing behind it takes most of it away
            # again: in 8 bits that cost 1.5 dB. So these two linear steps are one convolution.
            *blocks, last = network.decoder4
            self.decoder4 = nn.Sequential(*blocks)
            self.decoder4_inner = last.conv1
            self.decoder4_grown = _chained(last.conv2, self.up2)
        self.int8 = int8
        self.add8 = nn.Identity() if int8 else _add(network.up8)
        self.add4 = nn.Identity() if int8 else _add(network.up4)
        self.add2 = _add(network.up2)
        self.head = Head(network.head)
        if half:
            for name, child in self.named_children():
                if name != 'exposure':
                    child.half()

    def forward(
        self, frame: Tensor, fused: Tensor | None = None, count: Tensor | None = None
    ) -> Tensor:
        """Enhance (B, 3, H, W) in [0, 1]; see ExposureFirst.forward()."""
        height, width = frame.shape[-2:]
        alone = frame = exposure_first.pad(frame)
        curve, told = self.exposure(frame, _cell_means)
        if fused is not None:
            frame = exposure_first.pad(fused)
        toned = exposure.apply(curve, frame)

        kind = self.stem.weight.dtype
        seen = toned.to(kind)
        stem, detail = self.stem(seen), self.detail(seen)
        if self.sees_past:
            count = exposure_first.pad(count)
            past = exposure_first.past_of(curve, alone, frame, count).to(kind)
            stem, detail = stem + self.past_stem(past), detail + self.past_detail(past)
        x4, x8, x16, gate = exposure_first.encode(self, stem, told.to(kind))
        x8 = self.decoder8(self.add8(self.up8(x16)) + x8)
        x4 = self.decoder4(self.add4(self.up4(x8)) + x4)
        grown = self.up2.convolved(x4)
        if self.int8:
            grown = grown + self.decoder4_grown(functional.relu(self.decoder4_inner(x4)))
        x2 = functional.relu(self.add2(self.up2.shuffled(grown)) + detail)
        opening = torch.sigmoid(self.config.gate_slope * gate.float()).view(-1, 1, 1, 1)
        back, residual = (part.float() for part in self.head(x2))
        if self.sees_past:
            change = (past[:, :3] * self.past_head(x2)).float()
            residual = residual + functional.interpolate(change, scale_factor=2.0, mode='nearest')
        # One pass over what is small, and not several over the frame.
        kept = functional.interpolate(opening * (1 + back), scale_factor=2.0, mode='nearest')
        enhanced = frame * (1 - opening) + toned * kept + opening * residual
        return _cut(enhanced, height, width)


class Head(nn.Module):
    """The last convolution, and the pixel shuffle of its last 12 features.

    ONNX Runtime has blocks of 16 features, and leaves them three times faster where they are full:
    so there is a sixteenth feature, which nothing reads.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        # Of colour, row and column of a 2x2 cell: all of its left column first.
        order = [*range(3, 15, 2), *range(4, 15, 2), 0, 1, 2, 0]
        self.weight = nn.Parameter(conv.weight[order], False)
        self.bias = nn.Parameter(conv.bias[order], False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) to its first 3 features (B, 3, H, W), and the rest (B, 3, 2 H, 2 W)."""
        x = functional.conv2d(x, self.weight, self.bias, padding=1)
        batch, _, height, width = x.shape
        cells, first, _ = x.split((12, 3, 1), dim=1)
        # The shuffle in two steps, columns and rows; the second moves whole rows.
        columns = cells.reshape(batch, 2, 6 * height * width).transpose(1, 2)
        rows = columns.reshape(batch, 3, 2, height, 2 * width).transpose(2, 3)
        return first, rows.reshape(batch, 3, 2 * height, 2 * width)


class Grow(nn.Module):
    """A 1x1 convolution and a 2x pixel shuffle, moving all features of a pixel at once."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        weight, bias = (
            tensor.unflatten(0, (-1, 4)).transpose(0, 1).flatten(0, 1)  # cell before feature
            for tensor in (conv.weight, conv.bias)
        )
        self.weight, self.bias = nn.Parameter(weight, False), nn.Parameter(bias, False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', 2 H, 2 W)."""
        return self.shuffled(self.convolved(x))

    def convolved(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, 4 C', H, W)."""
        return functional.conv2d(x, self.weight, self.bias)

    @staticmethod
    def shuffled(x: Tensor) -> Tensor:
        """(B, 4 C', H, W) to (B, C', 2 H, 2 W)."""
        x = x.permute(0, 2, 3, 1)
        batch, height, width, features = x.shape
        x = x.reshape(batch, height, width, 2, 2, features // 4).transpose(2, 3)
        return x.reshape(batch, 2 * height, 2 * width, features // 4).permute(0, 3, 1, 2)


def _on_frame(conv: nn.Conv2d) -> nn.Conv2d:
    """For a convolution on 2x2 cells (12 features) that on the frame which gives the same."""
    weight = functional.pixel_shuffle(conv.weight, 2)
    stride, padding = 2 * conv.stride[0], 2 * conv.padding[0]
    same = nn.Conv2d(3, len(weight), weight.shape[-1], stride, padding)
    same.weight, same.bias = nn.Parameter(weight, False), conv.bias
    return same


def _chained(conv: nn.Conv2d, grow: Grow) -> nn.Conv2d:
    """A convolution with the 1x1 convolution behind it, but for the bias of that."""
    mixing = grow.weight[..., 0, 0]
    both = nn.Conv2d(conv.in_channels, len(mixing), conv.kernel_size, padding=conv.padding)
    both.weight = nn.Parameter(torch.einsum('oi,icyx->ocyx', mixing, conv.weight), False)
    both.bias = nn.Parameter(mixing @ conv.bias, False)
    return both


def _add(grow: nn.Conv2d) -> nn.Conv2d:
    """A 1x1 convolution that changes nothing, behind a pixel shuffle.

    ONNX Runtime has a layout of its own for convolutions. In it a sum costs nothing if each of its
    terms comes from a convolution, which a pixel shuffle is not; nor did the sums behind it, in
    the residual blocks, stay in that layout.
    """
    return _same(grow.out_channels // 4)


def _same(width: int) -> nn.Conv2d:
    """A 1x1 convolution that changes nothing: what follows finds the layout of convolutions."""
    same = nn.Conv2d(width, width, 1, bias=False)
    same.weight = nn.Parameter(torch.eye(width)[:, :, None, None], False)
    return same


def _cell_means(values: Tensor) -> Tensor:
    """As exposure.cell_means(); ONNX Runtime convolves six times faster than it pools."""
    channels, side = values.shape[1], exposure.CELL
    kernel = torch.eye(channels).view(channels, channels, 1, 1).expand(-1, -1, side, side)
    return functional.conv2d(values, kernel / side**2, stride=side)


def _cut(enhanced: Tensor, height: int, width: int) -> Tensor:
    """What pad() put around a frame taken off again: both sides in one pass."""
    return functional.pad(enhanced, (0, width - enhanced.shape[3], 0, height - enhanced.shape[2]))
