"""Networks in the operations that ONNX Runtime runs fast on a CPU; the same function of the frame.

Their convolutions run at the processor's limit; what stands between them took a fifth of the time.
README.md in this folder has what each change brought.
"""

from __future__ import annotations

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
        self.decoder2, self.head = network.decoder2, network.head

    def forward(self, frame: Tensor) -> Tensor:
        """Enhance (B, 3, H, W) in [0, 1]; see Nano.enhance_and_gate()."""
        height, width = frame.shape[-2:]
        border = (0, -width % SIZE_MULTIPLE, 0, -height % SIZE_MULTIPLE)
        frame = functional.pad(frame, border, mode='replicate')

        x4, x8, x16, gate = nano.encode(self, frame)
        x8 = self.decoder8(self.add8(self.up8(x16)) + x8)
        x4 = self.decoder4(self.add4(self.up4(x8)) + x4)
        x2 = functional.relu(self.add2(self.up2(x4)) + self.detail(frame))
        gain, residual = self.head(self.decoder2(x2)).split((3, 12), dim=1)
        opening = torch.sigmoid(self.config.gate_slope * (gate - self.config.gate_threshold))
        # One pass over what is small, and not several over the frame.
        gain = functional.interpolate(1 + opening * gain, scale_factor=2.0, mode='nearest')
        enhanced = frame * gain + functional.pixel_shuffle(opening * residual, 2)
        return enhanced[..., :height, :width]


class ExposureFirstGraph(nn.Module):
    """An ExposureFirst to export; its parameters keep their names.

    :param half: convolutions in fp16; the light stays in fp32, for the dark needs its last bits.
    """

    def __init__(self, network: ExposureFirst, half: bool = False) -> None:
        super().__init__()
        self.config = network.config
        self.stem, self.detail = _on_frame(network.stem), _on_frame(network.detail)
        # Until they are trained the layers that see the past do nothing, and are left out.
        self.sees_past = network.config.history and bool(network.past_head.weight.any())
        if self.sees_past:
            for name in ('past_stem', 'past_detail', 'past_head'):
                setattr(self, name, getattr(network, name))
        kept = ('exposure', 'told', 'encoder4', 'down8', 'encoder8', 'down16', 'encoder16', 'gate')
        for name in (*kept, 'decoder8', 'decoder4', 'head'):
            setattr(self, name, getattr(network, name))
        self.up8, self.add8 = Grow(network.up8), _add(network.up8)
        self.up4, self.add4 = Grow(network.up4), _add(network.up4)
        self.up2, self.add2 = Grow(network.up2), _add(network.up2)
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
        curve, told = self.exposure(frame)
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
        x2 = functional.relu(self.add2(self.up2(x4)) + detail)
        opening = torch.sigmoid(self.config.gate_slope * gate.float()).view(-1, 1, 1, 1)
        back, residual = self.head(x2).float().split((3, 12), dim=1)
        if self.sees_past:
            change = (past[:, :3] * self.past_head(x2)).float()
            residual = residual + change.repeat_interleave(4, 1)
        # One pass over what is small, and not several over the frame.
        kept = functional.interpolate(opening * (1 + back), scale_factor=2.0, mode='nearest')
        residual = functional.pixel_shuffle(opening * residual, 2)
        enhanced = frame * (1 - opening) + toned * kept + residual
        return enhanced[..., :height, :width]


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
        x = functional.conv2d(x, self.weight, self.bias).permute(0, 2, 3, 1)
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


def _add(grow: nn.Conv2d) -> nn.Conv2d:
    """A 1x1 convolution that changes nothing, behind a pixel shuffle.

    ONNX Runtime has a layout of its own for convolutions. In it a sum costs nothing if each of its
    terms comes from a convolution, which a pixel shuffle is not; nor did the sums behind it, in
    the residual blocks, stay in that layout.
    """
    width = grow.out_channels // 4
    same = nn.Conv2d(width, width, 1, bias=False)
    same.weight = nn.Parameter(torch.eye(width)[:, :, None, None], False)
    return same
