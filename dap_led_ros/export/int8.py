"""Convolutions in int8, calibrated on night frames."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto

from dap_led_ros.inference.frames import to_tensor

INT8_LAYERS = ('encoder', 'down')
"""Of nano: what looks at the frame. What makes the enhanced one needs more than 8 bits."""
INT8_LAYERS_BEHIND_EXPOSURE = ('encoder', 'down', 'decoder', 'up8', 'up4')
"""Of exposure-first, which adds what it makes to a frame that is bright already."""
INT8_BETWEEN = ('Relu', 'Add', 'Transpose', 'Reshape')
"""Operations that stay in int8 between its layers."""
INT8_PERCENTILE = 99.99
"""Of the values of a layer on the calibration frames: what lies beyond is clipped. With steps wide
enough for the largest of all, the small values of dark frames would be rounded away."""
INT8_FRAMES = 48
"""To calibrate on at the most: what every layer makes of every frame is in memory at once."""


def int8_layers(core: ModelProto) -> tuple[str, ...]:
    """Where the names of the parameters begin that int8 costs little."""
    first = any(tensor.name.startswith(('told', 'exposure')) for tensor in core.graph.initializer)
    return INT8_LAYERS_BEHIND_EXPOSURE if first else INT8_LAYERS


def quantized(
    core: ModelProto,
    calibration: Iterable[np.ndarray],
    part: Path,
    layers: tuple[str, ...] | None = None,
) -> ModelProto:
    """Convolutions in int8 with one scale a channel, calibrated on real frames.

    :param calibration: frames (H, W, 3), uint8 or uint16.
    :param part: where a file may be written on the way.
    :param layers: where the names of the parameters begin that are quantised; see int8_layers().
    :raises ValueError: the graph has no such layers, or there are no frames.
    """
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    layers = int8_layers(core) if layers is None else layers
    taken = [n for n in core.graph.node if any(i.startswith(layers) for i in n.input)]
    if not taken:
        raise ValueError('int8 is for nano: the transformer loses too much and gains no speed')
    taken += _between(core, taken)
    frames = [to_tensor(frame) for frame in calibration]
    if not frames:
        raise ValueError('int8 needs night frames to calibrate on: give --calibrate FOLDER')
    # Where all frames are alike, so is the gate: the runtime makes no histogram of one value.
    frames.append(np.full_like(frames[0], 0.5))

    names = [one.name for one in core.graph.input]

    class Frames(CalibrationDataReader):
        left = iter(frames)

        def get_next(self) -> dict[str, np.ndarray] | None:
            frame = next(self.left, None)
            if frame is None:
                return None
            alone = {'fused': frame, 'count': np.zeros_like(frame[:, :1])}
            return {'frame': frame} | {name: alone[name] for name in alone if name in names}

    with contextlib.redirect_stdout(sys.stderr):  # it tells what it does
        quantize_static(
            core,
            part,
            Frames(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=['Conv', *INT8_BETWEEN],
            nodes_to_quantize=[node.name for node in taken],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            reduce_range=True,  # without VNNI, products of 8 bit saturate
            calibrate_method=CalibrationMethod.Percentile,
            extra_options={'CalibPercentile': INT8_PERCENTILE},
        )
    return onnx.load(part)


def _between(core: ModelProto, taken: list[NodeProto]) -> list[NodeProto]:
    """What takes its values from quantised nodes alone, and would else lead out of int8 and back.

    With its ReLU a convolution has one rounding, and that of the positive range.
    """
    fixed = {one.name for one in core.graph.initializer}
    ends = {output for node in taken for output in node.output}
    found = []
    for node in core.graph.node:
        given = node.input[:1] if node.op_type in ('Transpose', 'Reshape') else node.input
        inside = all(name in ends for name in given) and not fixed.intersection(given)
        if node.op_type in INT8_BETWEEN and inside:
            found.append(node)
            ends.update(node.output)
    return found
