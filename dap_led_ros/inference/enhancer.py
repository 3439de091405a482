"""Enhancer: the one facade in front of models and runtimes."""

from __future__ import annotations

import os
import time
from typing import Any, Protocol

import numpy as np

from dap_led_ros.inference import weights
from dap_led_ros.inference.backends.onnx import (
    OPENVINO,
    PROVIDERS,
    OnnxBackend,
    wanted_providers,
)
from dap_led_ros.inference.backends.openvino import OpenVinoBackend
from dap_led_ros.inference.backends.torch import TorchBackend
from dap_led_ros.inference.frames import Enhanced, check, to_frame, to_planes, to_tensor
from dap_led_ros.inference.history import Fused
from dap_led_ros.inference.scorer import DegradationScorer
from dap_led_ros.inference.stream import Stream, StreamSettings


class Backend(Protocol):
    """What an Enhancer needs of a runtime."""

    provider: str
    takes_frames: bool
    """run() takes and gives frames (1, H, W, 3) uint8, in place of planes."""
    guided: bool
    """The heat-map that guides the network can be made apart from it."""
    remembers: bool
    """run() takes what a stream has seen before: fused (1, 3, H, W) and count (1, 1, H, W)."""

    def run(
        self,
        frames: np.ndarray,
        heatmap: np.ndarray | None = None,
        past: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> np.ndarray:
        """(1, 3, H, W) float32 RGB in [0, 1] -> enhanced, same shape, not clamped."""

    def heatmap(self, planes: np.ndarray) -> np.ndarray:
        """(1, 3, H, W) float32 RGB in [0, 1] -> (1, 1, h, w), if guided."""


class Enhancer:
    """Enhances single frames. Stateless and thread-safe; threads may share one."""

    def __init__(self, backend: Backend, model: str) -> None:
        """Wrap a backend; Enhancer.load() is the usual way."""
        self._backend = backend
        self._scorer = DegradationScorer()
        self._arguments: tuple[Any, ...] = ()
        self._process = os.getpid()
        self.model = model

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process loads the model anew, by the arguments of load()."""
        if not self._arguments:
            raise TypeError('this Enhancer cannot be pickled: make it with Enhancer.load()')
        return Enhancer.load, self._arguments

    @classmethod
    def load(
        cls,
        model: str = weights.DEFAULT,
        device: str = 'auto',
        threads: int = 0,
        precision: str = 'auto',
        tile: int = 0,
        compiled: bool = False,
    ) -> Enhancer:
        """Load a model that ships with the package, by name, or a file, by path.

        :param model: a name, an .onnx file (ONNX Runtime), or a .safetensors checkpoint of
            dap_led_training (PyTorch). On a CPU a name stands for the model's int8 form, where it
            has one.
        :param device: auto, cpu, cuda or tensorrt, see OnnxBackend; openvino, openvino:gpu or
            openvino:npu, see OpenVinoBackend.
        :param threads: threads of one inference; 0 is one per core, see default_threads().
        :param precision: of a checkpoint; see TorchBackend. An .onnx file has its own.
        :param tile: longest side, in pixels, that a DAP-LED checkpoint sees at once: memory is
            then that of a tile, whatever the frame's size; 0 is the whole frame. See TorchBackend.
        :param compiled: of a checkpoint; see TorchBackend.
        :raises FileNotFoundError: there is no such model.
        :raises ValueError: the file is not an enhancer, or the device's name is wrong.
        :raises RuntimeError: the runtime or the device is not there.
        """
        enhancer = cls._load(model, device, threads, precision, tile, compiled)
        enhancer._arguments = (model, device, threads, precision, tile, compiled)
        return enhancer

    @classmethod
    def _load(
        cls, model: str, device: str, threads: int, precision: str, tile: int, compiled: bool
    ) -> Enhancer:
        if threads < 0:
            raise ValueError(f'threads is {threads}: use 0 or more')
        path = weights.find(model)
        if path.suffix == '.safetensors':
            return cls(TorchBackend(path, device, threads, precision, compiled, tile), path.stem)
        if misplaced := _of_checkpoints(path.name, precision, tile, compiled):
            raise ValueError(misplaced)
        if device in OPENVINO:
            path = weights.in_int8(model) or path if device == 'openvino' else path
            return cls(OpenVinoBackend(path, device, threads), path.stem)
        if wanted_providers(device) == PROVIDERS['cpu']:
            path = weights.in_int8(model) or path
        return cls(OnnxBackend(path, device, threads), path.stem)

    @property
    def provider(self) -> str:
        """The device really in use, in the runtime's words."""
        return self._backend.provider

    @property
    def guided(self) -> bool:
        """network() takes a heat-map."""
        return self._backend.guided

    @property
    def remembers(self) -> bool:
        """network() takes what a stream has seen before."""
        return self._backend.remembers

    def stream(self, settings: StreamSettings | None = None) -> Stream:
        """One camera's session: what lasts from frame to frame; see inference/stream.py."""
        return Stream(self, settings)

    def enhance(self, frame: np.ndarray) -> Enhanced:
        """Brighten and deblur one frame; its size and type stay.

        :param frame: (H, W, 3) RGB, uint8 or uint16 (full range), H and W >= 16.
        :raises ValueError: a frame of another shape or type, or a model that changes the size.
        """
        start = time.perf_counter()
        degradation = self.score(frame)
        scored = time.perf_counter()
        enhanced, milliseconds = self.network(frame)
        return Enhanced(enhanced, degradation, {'score': (scored - start) * 1e3, **milliseconds})

    def score(self, frame: np.ndarray) -> dict[str, float]:
        """How degraded a frame is, 0 to 1, by name: joint, low_light, blur.

        :raises ValueError: a frame of another shape or type than enhance() takes.
        """
        check(frame)
        return self._scorer.score(frame)

    def heatmaps(self, frame: np.ndarray) -> dict[str, np.ndarray]:
        """Where a frame is degraded: maps (h, w) in [0, 1] by the same names.

        :raises ValueError: as score().
        """
        check(frame)
        return self._scorer.heatmaps(frame)

    def heatmap(self, frame: np.ndarray) -> np.ndarray:
        """Where a frame is degraded, (1, 1, h, w) in [0, 1], for network(); of a guided model.

        :raises ValueError: as enhance(), or the model is not guided.
        """
        check(frame)
        if not self.guided:
            raise ValueError(f'model {self.model} takes no heat-map')
        return self._backend.heatmap(to_tensor(frame))

    def network(
        self, frame: np.ndarray, heatmap: np.ndarray | None = None, past: Fused | None = None
    ) -> tuple[np.ndarray, dict[str, float]]:
        """The network alone: the enhanced frame, and milliseconds by stage.

        :param heatmap: of heatmap(), of this frame or one shortly before it; None: made now.
        :param past: of History.fuse() of this frame, if the model remembers; None: no past.
        :raises ValueError: as enhance().
        """
        check(frame)
        if heatmap is not None and not self.guided:
            raise ValueError(f'model {self.model} takes no heat-map')
        if past is not None and not self.remembers:
            raise ValueError(f'model {self.model} takes no past: it sees single frames')
        if self._process != os.getpid() and self._arguments:
            # Threads of a runtime do not outlive a fork, and who ends it would wait for them.
            self._ended = self._backend
            self._backend = Enhancer.load(*self._arguments)._backend
            self._process = os.getpid()
        start = time.perf_counter()
        frames = self._backend.takes_frames
        if frames and frame.dtype != np.uint8:
            raise ValueError(f'model {self.model} takes uint8 frames alone, not {frame.dtype}')
        tensor = frame[None] if frames else to_tensor(frame)
        before = None if past is None else (to_planes(past.frame), past.count[None, None])
        converted = time.perf_counter()
        # The argument is left out where there is none: not every backend is guided or remembers.
        given = {'heatmap': heatmap, 'past': before}
        result = self._backend.run(tensor, **{n: v for n, v in given.items() if v is not None})
        inferred = time.perf_counter()
        if result.shape != tensor.shape:
            raise ValueError(
                f'model {self.model} changes {tensor.shape} to {result.shape}: not an enhancer'
            )
        enhanced = result[0] if frames else to_frame(result, frame.dtype)
        done = time.perf_counter()
        return enhanced, {
            'convert_in': (converted - start) * 1e3,
            'infer': (inferred - converted) * 1e3,
            'convert_out': (done - inferred) * 1e3,
        }


def _of_checkpoints(name: str, precision: str, tile: int, compiled: bool) -> str:
    """Why an .onnx file does not take an option that only checkpoints have; '' where none is."""
    if precision != 'auto':
        return f'{name} has its own precision: dap-led export --precision makes another'
    if compiled:
        return 'to compile needs a checkpoint: an .onnx file is a graph already'
    return 'tiles need a checkpoint: an .onnx file runs on whole frames alone' if tile else ''
