"""ONNX Runtime backend: a CPU, CUDA, or TensorRT.

On a CPU one session takes frames of any size. On a GPU each size gets a session of its own: with
fixed sizes no shape is computed at run time, memory stays where it is, a TensorRT engine is as
good as it can be, and the launches of a frame can be one CUDA graph.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import re
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from dap_led_ros.inference import model_file

PROVIDERS = {
    'cpu': ['CPUExecutionProvider'],
    'cpu:extended': ['CPUExecutionProvider'],  # without a layout of its own for convolutions
    'cuda': ['CUDAExecutionProvider', 'CPUExecutionProvider'],
    'tensorrt': ['TensorrtExecutionProvider', 'CUDAExecutionProvider', 'CPUExecutionProvider'],
}
RUNTIMES = ('cpu:extended', 'openvino')
"""Devices that take the place of cpu on a CPU, where they are installed and faster."""
OPENVINO = ('openvino', 'openvino:gpu', 'openvino:npu')
"""Devices of the other runtime; see backends/openvino.py."""
DEVICES = ('auto', *PROVIDERS, *OPENVINO)
MOST_THREADS = 8
"""More do not pay for networks and frames of this size; they only wake up for each layer."""
MOST_SIZES = 4
"""Sizes of frames that have a session of their own on a GPU, which bounds its memory."""
IDLE_RUNS = 300
"""Frames of other sizes after which a size gives its session to a new one."""

HISTORY = ('fused', 'count')
"""Inputs of a model that takes what a stream has seen before."""

_log = logging.getLogger(__name__)


def runtime() -> ModuleType:
    """The package onnxruntime.

    :raises RuntimeError: it is missing; says what to install.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise RuntimeError(
            "ONNX Runtime is missing: pip install 'onnxruntime' (CPU) or 'onnxruntime-gpu' "
            f'(CUDA), never both ({error})'
        ) from None
    return onnxruntime


def check_device(device: str) -> None:
    """Refuse the name of a device that is none.

    :raises ValueError: see there.
    """
    if device not in DEVICES:
        raise ValueError(f'device is {device!r}: use one of {", ".join(DEVICES)}')


def wanted_providers(device: str) -> list[str]:
    """Providers to ask for, the best first; of auto, those that this ONNX Runtime has.

    :raises ValueError: the device's name is wrong.
    :raises RuntimeError: this ONNX Runtime has not the device, or is missing.
    """
    check_device(device)
    available = runtime().get_available_providers()
    wanted = PROVIDERS['cuda' if device == 'auto' else device]
    if device == 'auto':
        return [name for name in wanted if name in available]
    if wanted[0] not in available:
        raise RuntimeError(
            f'device is {device}, but this ONNX Runtime has no {wanted[0]}: install '
            'onnxruntime-gpu in place of onnxruntime, or set device to cpu or auto'
        )
    return wanted


class OnnxBackend:
    """Runs what dap-led export writes: a core, with or without its uint8 wrapper or its prior."""

    def __init__(self, path: Path, device: str = 'auto', threads: int = 0) -> None:
        """Load a model, and the prior beside it where it needs one.

        :param device: auto (CUDA if it works, else CPU), or cpu, cpu:extended, cuda or tensorrt
            (an error if it does not work). cpu:extended is faster than cpu on some processors.
            The first frame of each size waits minutes for its TensorRT engine; engines are kept
            in the user's cache.
        :param threads: threads of one inference; 0 is one per core that this process may use, at
            most MOST_THREADS.
        :raises ValueError: the device's name is wrong, or the file is no model of this kind.
        :raises RuntimeError: ONNX Runtime or the device is missing.
        :raises FileNotFoundError: the prior is not beside the model.
        """
        self._runtime = runtime()
        model_file.check(path)
        self._path, self._threads = path, threads
        self._extended = device == 'cpu:extended'
        self._wanted = wanted_providers(device)
        self._session = self._open(path)
        self.provider = self._session.get_providers()[0]
        """What the session really runs on."""
        if device != 'auto' and self.provider != self._wanted[0]:
            raise RuntimeError(
                f'device is {device}, but {self._wanted[0]} failed to start and '
                f'{self.provider} took its place: see the error above, or set device to auto'
            )
        inputs = {one.name: one.type for one in self._session.get_inputs()}
        first = next(iter(inputs), '')
        self.takes_frames = inputs.get(first) == 'tensor(uint8)'
        """uint8 (1, H, W, 3) in and out, in place of float (1, 3, H, W)."""
        self.remembers = set(HISTORY) <= set(inputs)
        """Takes what a stream has seen before."""
        known = {first, 'heatmap', 'strength', *(HISTORY if self.remembers else ())}
        if (
            len(self._session.get_outputs()) != 1
            or inputs.get(first) not in ('tensor(float)', 'tensor(uint8)')
            or set(inputs) - known
        ):
            raise ValueError(
                f'{path} is not an enhancer: expected one float input (B, 3, H, W) and one '
                'output, as dap-led export writes it'
            )
        self._first, self._inputs = first, list(inputs)
        self._sizes: dict[tuple[int, ...], Slot] = {}
        self._lock = threading.Lock()
        self._runs = 0
        self._recent: list[tuple[int, ...]] = []
        self.crowded: dict[tuple[int, ...], int] = {}
        """On a GPU: how many frames of a size found MOST_SIZES other sizes in use."""
        self._prior = self._open_prior() if 'heatmap' in inputs else None

    @property
    def guided(self) -> bool:
        """Its heat-map is an input: it can be made less often than frames come."""
        return self._prior is not None

    def heatmap(self, planes: np.ndarray) -> np.ndarray:
        """(1, 3, H, W) float32 RGB in [0, 1] to a heat-map (1, 1, h, w)."""
        return self._prior.run(None, {'frame': planes})[0]

    def run(
        self,
        frames: np.ndarray,
        heatmap: np.ndarray | None = None,
        past: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> np.ndarray:
        """Run the network once; thread-safe.

        :param frames: (1, 3, H, W) float32 in [0, 1], or (1, H, W, 3) uint8 if takes_frames.
        :param heatmap: (1, 1, h, w); made from the frame where none is given.
        :param past: fused (1, 3, H, W) and count (1, 1, H, W) float32, if remembers; without it
            the frame stands alone.
        """
        given = given_to(self._inputs, frames, past)
        if self.guided:
            given['heatmap'] = self.heatmap(self._planes(frames)) if heatmap is None else heatmap
        if self.provider == 'CPUExecutionProvider':
            return self._session.run(None, given, self._after(frames.shape))[0]
        return self._run_fixed(given)

    def _after(self, shape: tuple[int, ...]) -> Any:
        """Options of a run: with a new size of frames, memory that other sizes took goes back."""
        with self._lock:
            is_new = shape not in self._recent
            if is_new:
                self._recent = [*self._recent[1 - MOST_SIZES :], shape]
        if not is_new:
            return None
        options = self._runtime.RunOptions()
        options.add_run_config_entry('memory.enable_memory_arena_shrinkage', 'cpu:0')
        return options

    def _planes(self, frames: np.ndarray) -> np.ndarray:
        if not self.takes_frames:
            return frames
        return np.ascontiguousarray(frames.transpose(0, 3, 1, 2)).astype(np.float32) / 255

    def _run_fixed(self, given: dict[str, np.ndarray]) -> np.ndarray:
        fixed = self._of_size(given)
        return fixed.run(given) if fixed else self._any_size.run(None, given)[0]

    @functools.cached_property
    def _any_size(self) -> Any:
        """A session for sizes that have none. Not TensorRT's, which would build for each anew."""
        if self._wanted[:1] != PROVIDERS['tensorrt'][:1]:
            return self._session
        return self._open(self._path, wanted=self._wanted[1:])

    def _of_size(self, given: dict[str, np.ndarray]) -> FixedSize | None:
        """The session of these sizes, made where there is none; None: others are in use.

        While it is made, which takes TensorRT minutes, frames of other sizes go on.
        """
        key = tuple(n for tensor in given.values() for n in np.shape(tensor))
        with self._lock:
            self._runs += 1
            is_new = key not in self._sizes
            if is_new and not self._make_room():
                if key not in self.crowded:
                    _log.warning('%d sizes of frames are in use: %s runs slower', MOST_SIZES, key)
                self.crowded[key] = self.crowded.get(key, 0) + 1
                return None
            slot = self._sizes.setdefault(key, Slot())
            slot.last_run = self._runs
        if is_new:
            try:
                slot.session.set_result(self._fixed(given))
            except BaseException as error:
                with self._lock:
                    del self._sizes[key]
                slot.session.set_exception(error)
        return slot.session.result()

    def _make_room(self) -> bool:
        """Whether one more size may have a session; drops the one not used for longest."""
        if len(self._sizes) < MOST_SIZES:
            return True
        made = [key for key, slot in self._sizes.items() if slot.session.done()]
        oldest = min(made, key=lambda key: self._sizes[key].last_run, default=None)
        if oldest is None or self._runs - self._sizes[oldest].last_run <= IDLE_RUNS:
            return False
        del self._sizes[oldest]
        return True

    def _fixed(self, given: dict[str, np.ndarray]) -> FixedSize:
        """With a CUDA graph, or where the runtime cannot capture one, without."""
        device = 'cpu' if self.provider == 'CPUExecutionProvider' else 'cuda'
        for graph in (True, False):
            try:
                session = self._open(self._path, given, graph)
                if session.get_providers()[0] != self.provider:
                    raise RuntimeError(f'{self.provider} failed to start for frames of this size')
                fixed = FixedSize(session, given, device)
                fixed.run(given)
            except Exception:  # ONNX Runtime raises many classes of its own
                if not graph:
                    raise
            else:
                return fixed
        raise AssertionError('unreachable')

    def _open(
        self,
        path: Path,
        fixed: dict[str, np.ndarray] | None = None,
        graph: bool = False,
        wanted: list[str] | None = None,
    ) -> Any:
        """A session; of one size if `fixed` has tensors of that size.

        :param wanted: providers in place of the device's own.

        :raises ValueError: the file is no model.
        """
        options = self._runtime.SessionOptions()
        options.intra_op_num_threads = self._threads or default_threads()
        options.log_severity_level = 3  # errors only; what is wrong is raised
        if self._extended:
            levels = self._runtime.GraphOptimizationLevel
            options.graph_optimization_level = levels.ORT_ENABLE_EXTENDED
        # Threads that wait between frames shall sleep: the camera's driver needs the core.
        options.add_session_config_entry('session.force_spinning_stop', '1')
        shape: tuple[int, ...] = ()
        if fixed:
            shape = fixed[self._first].shape
            for one in self._session.get_inputs():
                for name, size in zip(one.shape, fixed[one.name].shape):
                    if isinstance(name, str):
                        options.add_free_dimension_override_by_name(name, size)
        # Plans of memory are kept for each size that was ever seen, and take twice as much of it.
        options.enable_mem_pattern = (wanted or self._wanted) != PROVIDERS['cpu']
        providers = [
            (name, provider_options(name, path, shape, graph)) for name in wanted or self._wanted
        ]
        try:
            return self._runtime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # ONNX Runtime raises many classes of its own
            raise ValueError(f'{path} cannot be loaded as a model: {error}') from None

    def _open_prior(self) -> Any:
        path = self._path.with_suffix('.prior.onnx')
        if not path.is_file():
            raise FileNotFoundError(
                f'{self._path} needs {path.name} beside it: dap-led export writes both'
            )
        model_file.check(path)
        # It takes frames of any size, for which TensorRT would build engines again and again.
        wanted = [name for name in self._wanted if not name.startswith('Tensorrt')]
        return self._open(path, wanted=wanted)


@dataclass
class Slot:
    """One size's session, or that it is being made, and when it last ran."""

    session: Future[FixedSize] = field(default_factory=Future)
    last_run: int = 0


class FixedSize:
    """A session of one size of frame, its inputs and its output bound to memory that stays."""

    def __init__(self, session: Any, given: dict[str, np.ndarray], device: str) -> None:
        """Reserve the memory on a device, cpu or cuda; `given` has each input by name."""
        value = runtime().OrtValue
        self._session, self._lock = session, threading.Lock()
        self._binding = session.io_binding()
        self._inputs = {}
        for name, tensor in given.items():
            self._inputs[name] = value.ortvalue_from_numpy(np.asarray(tensor), device, 0)
            self._binding.bind_ortvalue_input(name, self._inputs[name])
        frames = next(iter(given.values()))  # the enhanced frame is as large as the frame
        self._output = value.ortvalue_from_shape_and_type(frames.shape, frames.dtype, device, 0)
        self._binding.bind_ortvalue_output(session.get_outputs()[0].name, self._output)

    def run(self, given: dict[str, np.ndarray]) -> np.ndarray:
        """The output for inputs of the same sizes; thread-safe."""
        with self._lock:
            for name, tensor in self._inputs.items():
                tensor.update_inplace(np.asarray(given[name]))
            self._session.run_with_iobinding(self._binding)
            return self._output.numpy().copy()


def given_to(
    names: list[str], frames: np.ndarray, past: tuple[np.ndarray, np.ndarray] | None
) -> dict[str, np.ndarray]:
    """What a graph with these inputs is given, all but a heat-map; see OnnxBackend.run()."""
    given = {names[0]: frames}
    if set(HISTORY) <= set(names):
        given |= zip(HISTORY, past or (frames, np.zeros_like(frames[:, :1])))
    if 'strength' in names:
        given['strength'] = np.ones((), np.float32)
    return given


def default_threads() -> int:
    """Threads of one inference where the user gives none; 0 is ONNX Runtime's one per core."""
    if not hasattr(os, 'sched_getaffinity'):
        return 0
    usable, all_cores = len(os.sched_getaffinity(0)), os.cpu_count() or 1
    # ONNX Runtime counts physical cores, and not which of them a container or taskset allows.
    return 0 if usable == all_cores <= MOST_THREADS else min(usable, MOST_THREADS)


def provider_options(
    provider: str, path: Path, shape: tuple[int, ...], graph: bool
) -> dict[str, str]:
    """Options of one of PROVIDERS.

    :param shape: of the frames, where the session is for one size alone.
    :param graph: launch a frame as one CUDA graph.
    """
    if provider == 'CUDAExecutionProvider':
        options = {'cudnn_conv_algo_search': 'HEURISTIC', 'use_tf32': '1'}
        return options | ({'enable_cuda_graph': '1'} if graph else {})
    if provider == 'TensorrtExecutionProvider' and shape:
        try:
            folder = engine_folder(path, shape)
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:  # nowhere to keep the engine, or unwanted: build it at every start
            return {'trt_fp16_enable': '1'}
        return {
            'trt_fp16_enable': '1',
            'trt_engine_cache_enable': '1',
            'trt_engine_cache_path': str(folder),
            'trt_timing_cache_enable': '1',
            'trt_timing_cache_path': str(folder.parent),
        } | ({'trt_cuda_graph_enable': '1'} if graph else {})
    return {}


def engine_folder(path: Path, shape: tuple[int, ...]) -> Path:
    """Where TensorRT keeps its engine of a model, at a shape, under the driver that runs now.

    :raises OSError: the user wants nothing to be kept, by DAP_LED_CACHE=off.
    """
    content = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    size = 'x'.join(map(str, shape))
    return cache_folder() / 'tensorrt' / f'{content}-{size}-{_driver()}'


def cache_folder() -> Path:
    """Where runtimes keep what they have made of a model.

    :raises OSError: the user wants nothing to be kept, by DAP_LED_CACHE=off.
    """
    if os.environ.get('DAP_LED_CACHE') == 'off':
        raise OSError('DAP_LED_CACHE is off')
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'dap_led_ros'


def _driver() -> str:
    """Version of the NVIDIA driver and of the runtime that made the engine."""
    try:
        line = Path('/proc/driver/nvidia/version').read_text().splitlines()[0]
    except OSError:
        line = ''
    found = re.search(r'\d+\.\d+(\.\d+)?', line)
    return f'driver{found[0] if found else "-unknown"}-onnxruntime{runtime().__version__}'
