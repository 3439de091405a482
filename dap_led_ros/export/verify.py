"""How far an ONNX file is from torch."""

from __future__ import annotations

import functools
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import torch
from torch import nn

from dap_led_ros import sample
from dap_led_ros.inference.backends.onnx import HISTORY

ODD_SIZES = ((37, 51), (120, 161), (241, 333))
BATCH = 3
"""Neither this nor the sizes are those that a graph was traced at."""
TOLERANCE = 1e-4


@functools.cache
def night(count: int, height: int, width: int) -> np.ndarray:
    """Frames (count, height, width, 3) uint8 of the sample night."""
    frames = (camera for camera, _ in sample.night_sequence(count))
    size, area = (width, height), cv2.INTER_AREA
    return np.stack([cv2.resize(frame, size, interpolation=area) for frame in frames])


def parity(
    network: nn.Module, path: Path, sizes: tuple[tuple[int, int], ...] = ODD_SIZES
) -> float:
    """Largest absolute difference between torch and ONNX Runtime, of all outputs, over sizes.

    On the sample night: a trained network leaves bright frames alone, which would compare nothing.
    Where the file takes uint8 frames, both are compared after rounding, in shares of 255.
    """
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    names = [one.name for one in session.get_inputs()]
    batch = session.get_inputs()[0].shape[0]
    batch = batch if isinstance(batch, int) else BATCH  # fixed: a refiner's base fixes it
    rng = np.random.default_rng(0)
    worst = 0.0
    for size in sizes:
        codes = night(batch, *size)
        frame = np.ascontiguousarray(codes.transpose(0, 3, 1, 2)).astype(np.float32) / 255
        given = {
            'frame': frame,
            'frames': codes,
            'heatmap': rng.random((batch, 1, 15, 20), dtype=np.float32),
            'strength': np.ones((), np.float32),
            'fused': frame[:, :, ::-1].copy(),
            'count': rng.integers(0, 3, (batch, 1, *size)).astype(np.float32),
        }
        tensors = [frame, *(given[n] for n in names if n in ('heatmap', *HISTORY))]
        with torch.inference_mode():
            expected = network(*map(torch.from_numpy, tensors))
        expected = expected if isinstance(expected, tuple) else (expected,)
        for one, other in zip(expected, session.run(None, {n: given[n] for n in names})):
            one = one.numpy()
            if other.dtype == np.uint8:
                one = np.rint(one.transpose(0, 2, 3, 1).clip(0, 1) * 255) / 255
                other = other / 255
            worst = max(worst, float(np.abs(one - other).max()))
    return worst
