"""OpenVINO backend: a CPU, or Intel's GPU or NPU. It reads the same .onnx files.

Each size of frame is compiled on its own: with free sizes a CPU took 1.5 times as long. On a CPU
the arithmetic is fp32 as ONNX Runtime's; left alone OpenVINO takes bf16 where there is such.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from dap_led_ros.inference import model_file
from dap_led_ros.inference.backends.onnx import (
    HISTORY,
    MOST_SIZES,
    OPENVINO,
    cache_folder,
    default_threads,
    given_to,
)


def runtime() -> ModuleType:
    """The package openvino, without its telemetry.

    :raises RuntimeError: it is missing; says what to install.
    """
    # Else its import alone writes to the home folder, and sends. OpenVINO works without it.
    sys.modules.setdefault('openvino_telemetry', None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError as error:
        raise RuntimeError(f"OpenVINO is missing: pip install 'openvino' ({error})") from None
    return openvino


class OpenVinoBackend:
    """Runs what dap-led export writes: a core, with or without its uint8 wrapper."""

    guided = False

    def __init__(self, path: Path, device: str = 'openvino', threads: int = 0) -> None:
        """Load a model; it is compiled at the first frame of each size, and kept in the cache.

        :param device: one of OPENVINO.
        :param threads: of one inference, on a CPU; 0 is one per core that this process may use.
        :raises ValueError: the file is no model of this kind.
        :raises RuntimeError: OpenVINO or the device is missing.
        """
        self._core = runtime().Core()
        self._device = dict(zip(OPENVINO, ('CPU', 'GPU', 'NPU')))[device]
        there = [name.split('.')[0] for name in self._core.available_devices]
        if self._device not in there:
            raise RuntimeError(
                f'device is {device}, but OpenVINO finds {", ".join(there)} alone: install the '
                f"driver of Intel's {self._device}, or set device to auto"
            )
        model_file.check(path)
        self._path = path
        self._options: dict[str, Any] = {'PERFORMANCE_HINT': 'LATENCY'}
        if self._device == 'CPU':
            self._options |= {'INFERENCE_PRECISION_HINT': 'f32', 'ENABLE_CPU_PINNING': False}
            if threads or default_threads():
                self._options['INFERENCE_NUM_THREADS'] = threads or default_threads()
        with contextlib.suppress(OSError):  # the user wants nothing to be kept
            self._options['CACHE_DIR'] = str(cache_folder() / 'openvino')
        try:
            inputs = self._core.read_model(path).inputs
        except Exception as error:  # OpenVINO raises RuntimeError for all
            raise ValueError(f'{path} cannot be loaded as a model: {error}') from None
        kinds = [one.element_type.get_type_name() for one in inputs]
        names = [one.any_name for one in inputs]
        self.remembers = set(HISTORY) <= set(names)
        """Takes what a stream has seen before."""
        known = {'strength', *(HISTORY if self.remembers else ())}
        if not inputs or kinds[0] not in ('f32', 'u8') or set(names[1:]) - known:
            raise ValueError(
                f'{path} does not run in OpenVINO: expected one float input (B, 3, H, W), as '
                'dap-led export writes it without --prior second; set device to cpu'
            )
        self._names = names
        self.takes_frames = kinds[0] == 'u8'
        """uint8 (1, H, W, 3) in and out, in place of float (1, 3, H, W)."""
        self._sizes: dict[tuple[int, ...], _Compiled] = {}
        self._any_size: _Compiled | None = None
        self._lock = threading.Lock()
        self.provider = f'OpenVINO {self._device}'
        """What really runs: read back from the runtime as soon as a size is compiled."""

    def heatmap(self, planes: np.ndarray) -> np.ndarray:
        """No model here is guided."""
        raise ValueError('this model takes no heat-map')

    def run(
        self,
        frames: np.ndarray,
        heatmap: np.ndarray | None = None,
        past: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> np.ndarray:
        """Run the network once; thread-safe.

        :param frames: (1, 3, H, W) float32 in [0, 1], or (1, H, W, 3) uint8 if takes_frames.
        :param past: fused and count, if remembers, as for OnnxBackend.run().
        """
        return self._of_size(frames.shape).run(given_to(self._names, frames, past))

    def _of_size(self, shape: tuple[int, ...]) -> _Compiled:
        """Of these sizes; where MOST_SIZES others are in use, of any size."""
        with self._lock:
            if shape in self._sizes:
                return self._sizes[shape]
            if len(self._sizes) == MOST_SIZES:
                if self._any_size is None:
                    self._any_size = self._compile(None)
                return self._any_size
            self._sizes[shape] = self._compile(shape)
            return self._sizes[shape]

    def _compile(self, shape: tuple[int, ...] | None) -> _Compiled:
        model = self._core.read_model(self._path)
        if shape:
            shapes = {self._names[0]: list(shape)}
            if self.remembers:
                shapes |= zip(HISTORY, (list(shape), [1, 1, *shape[2:]]))
            model.reshape(shapes)
        compiled = self._core.compile_model(model, self._device, self._options)
        self.provider = f'OpenVINO {", ".join(compiled.get_property("EXECUTION_DEVICES"))}'
        return _Compiled(compiled)


class _Compiled:
    """A compiled model and its one request."""

    def __init__(self, compiled: Any) -> None:
        self._request, self._lock = compiled.create_infer_request(), threading.Lock()

    def run(self, given: dict[str, np.ndarray]) -> np.ndarray:
        """The output, in memory of its own."""
        with self._lock:
            self._request.infer(given, share_inputs=True)
            return self._request.get_output_tensor(0).data.copy()
