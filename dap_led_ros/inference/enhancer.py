"""Enhancer: the one facade in front of models and runtimes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np

from dap_led_ros.inference import weights
from dap_led_ros.inference.degradation import DegradationScorer

MIN_SIDE = 16
"""Smallest height and width of a frame, in pixels."""


class Backend(Protocol):
    """What an Enhancer needs of a runtime."""

    provider: str

    def run(self, frames: np.ndarray) -> np.ndarray:
        """(1, 3, H, W) float32 RGB in [0, 1] -> enhanced, same shape, not clamped."""


@dataclass(frozen=True)
class Enhanced:
    """The result for one frame."""

    frame: np.ndarray
    """(H, W, 3) RGB, shape and type of the input."""
    degradation: dict[str, float]
    """How degraded the input was, 0 to 1: low_light, blur, and joint for both at once."""
    milliseconds: dict[str, float]
    """Time spent, by stage: score, convert_in, infer, convert_out."""


class Enhancer:
    """Enhances single frames. Stateless and thread-safe; threads may share one."""

    def __init__(self, backend: Backend, model: str) -> None:
        """Wrap a backend; Enhancer.load() is the usual way."""
        self._backend = backend
        self._scorer = DegradationScorer()
        self.model = model

    @classmethod
    def load(
        cls, model: str = weights.DEFAULT, device: str = 'auto', threads: int = 0
    ) -> Enhancer:
        """Load a model that ships with the package, by name, or a file, by path.

        :param model: a name, an .onnx file (ONNX Runtime), or a .safetensors checkpoint of
            dap_led_training (PyTorch).
        :param device: auto, cpu or cuda; see OnnxBackend.
        :param threads: threads of one inference; 0 is one per physical core.
        :raises FileNotFoundError: there is no such model.
        :raises ValueError: the file is not an enhancer, or the device's name is wrong.
        :raises RuntimeError: the runtime or the device is not there.
        """
        path = weights.find(model)
        if path.suffix == '.safetensors':
            from dap_led_ros.inference.backends.torch import TorchBackend as Runtime
        else:
            from dap_led_ros.inference.backends.onnx import OnnxBackend as Runtime
        return cls(Runtime(path, device, threads), path.stem)

    @property
    def provider(self) -> str:
        """The device really in use, in the runtime's words."""
        return self._backend.provider

    def enhance(self, frame: np.ndarray) -> Enhanced:
        """Brighten and deblur one frame; its size and type stay.

        :param frame: (H, W, 3) RGB, uint8 or uint16 (full range), H and W >= 16.
        :raises ValueError: a frame of another shape or type, or a model that changes the size.
        """
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype not in (np.uint8, np.uint16):
            raise ValueError(
                f'frame is {frame.dtype} {frame.shape}: expected uint8 or uint16 (H, W, 3) RGB'
            )
        if min(frame.shape[:2]) < MIN_SIDE:
            height, width = frame.shape[:2]
            raise ValueError(f'frame is {width}x{height}: the least is {MIN_SIDE}x{MIN_SIDE}')
        start = time.perf_counter()
        degradation = self._scorer.score(frame)
        scored = time.perf_counter()
        tensor = to_tensor(frame)
        converted = time.perf_counter()
        result = self._backend.run(tensor)
        inferred = time.perf_counter()
        if result.shape != tensor.shape:
            raise ValueError(
                f'model {self.model} changes {tensor.shape} to {result.shape}: not an enhancer'
            )
        enhanced = to_frame(result, frame.dtype)
        done = time.perf_counter()
        return Enhanced(
            enhanced,
            degradation,
            {
                'score': (scored - start) * 1e3,
                'convert_in': (converted - scored) * 1e3,
                'infer': (inferred - converted) * 1e3,
                'convert_out': (done - inferred) * 1e3,
            },
        )


def to_tensor(frame: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 or uint16 -> (1, 3, H, W) float32 in [0, 1]."""
    scale = 1 / np.iinfo(frame.dtype).max
    planes = np.empty((1, 3, *frame.shape[:2]), np.float32)
    for plane, channel in zip(planes[0], cv2.split(frame)):
        np.multiply(channel, np.float32(scale), out=plane, dtype=np.float32)
    return planes


def to_frame(tensor: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """(1, 3, H, W) float -> (H, W, 3) of the integer type, clamped and rounded."""
    depth = {np.dtype(np.uint8): cv2.CV_8U, np.dtype(np.uint16): cv2.CV_16U}[np.dtype(dtype)]
    full = float(np.iinfo(dtype).max)
    # addWeighted scales, rounds and saturates in one pass.
    return cv2.merge([cv2.addWeighted(p, full, p, 0.0, 0.0, dtype=depth) for p in tensor[0]])
