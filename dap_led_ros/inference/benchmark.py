"""How fast a model runs on this machine, beside what the machine can do: dap-led benchmark.

All methods take turns, frame by frame, so that what else the machine does hits them alike; times
are medians and 95th percentiles of the whole way from uint8 frame to uint8 frame, without the
scorer. Under device auto every runtime that is installed has a row. The limit is a stack of 3x3
convolutions, 64 to 64 features at 1/4 of the frame's size, with as many multiply-accumulates as
the model, in the same runtime; for a model in int8 one in int8 stands beside it. Memory and cold
start are those of a process that does nothing else.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dap_led_ros import sample
from dap_led_ros.inference import weights
from dap_led_ros.inference.backends.onnx import RUNTIMES, OnnxBackend, default_threads
from dap_led_ros.inference.backends.torch import TorchBackend
from dap_led_ros.inference.enhancer import Enhancer
from dap_led_ros.inference.info import describe
from dap_led_ros.metrics.baselines import clahe

WARM_UP = 3
PAUSE = 0.005
"""Seconds before each call: threads of the method before still wait for more, and take a core."""
CLAHE, EAGER, LIMIT = 'OpenCV CLAHE', 'torch fp32, eager', 'limit: 3x3 convolutions'
INT8_LIMIT = 'limit: int8 convolutions'
_FEATURES = 64

Method = Callable[[np.ndarray], dict[str, float]]
"""Enhances a frame; returns milliseconds by stage, {} where there are none."""

ALONE = """
import sys, time
start = time.perf_counter()
import numpy
from dap_led_ros.inference import Enhancer
model, device, threads, tile, compiled, width, height = sys.argv[1:]
enhancer = Enhancer.load(model, device, int(threads), 'auto', int(tile), compiled == 'True')
enhancer.enhance(numpy.full((int(height), int(width), 3), 9, numpy.uint8))
print(time.perf_counter() - start)
for _ in range(3):
    enhancer.network(numpy.full((int(height), int(width), 3), 9, numpy.uint8))
try:
    # Not getrusage(): what it says of a child begins with what its parent had.
    lines = open('/proc/self/status').read().splitlines()
    print(next(int(line.split()[1]) for line in lines if line.startswith('VmHWM')) / 1024)
except (OSError, StopIteration):
    print('')
try:
    import os, subprocess
    query = ['nvidia-smi', '--query-compute-apps=pid,used_memory', '--format=csv,noheader,nounits']
    apps = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
    used = dict(map(int, line.split(',')) for line in apps)
    print(used.get(os.getpid(), ''))
except (OSError, subprocess.CalledProcessError, ValueError):
    print('')
"""


@dataclass(frozen=True)
class Row:
    """One method at one size; None is not measured."""

    method: str
    size: str
    provider: str
    median_ms: float
    p95_ms: float
    network_ms: float | None
    """Median of the network alone, without conversion."""
    gmac: float | None
    gmac_per_s: float | None
    """Of the network alone."""
    share_of_limit: float | None
    share_of_int8_limit: float | None = None
    alike_db: float | None = None
    """Of another runtime's frame: PSNR against the model's own, 99 where they are the same."""
    rss_mb: float | None = None
    gpu_mb: float | None = None
    cold_start_s: float | None = None
    """From the first import to the first enhanced frame."""


def benchmark(
    models: list[str],
    sizes: list[tuple[int, int]],
    device: str = 'auto',
    threads: int = 0,
    frames: int = 30,
    tile: int = 0,
    compiled: bool = False,
) -> list[Row]:
    """Measure models at sizes (width, height), and the baselines beside them.

    :param frames: of each method at each size.
    :raises FileNotFoundError: there is no such model.
    :raises RuntimeError: the device is not there.
    """
    cv2.setNumThreads(threads or default_threads() or -1)
    enhancers: dict[str, Enhancer] = {}
    given: dict[str, str] = {}
    for model in models:
        enhancer = Enhancer.load(model, device, threads, tile=tile, compiled=compiled)
        # A name may stand for its int8 form.
        name = enhancer.model if model in weights.names() else model
        enhancers[name], given[name] = enhancer, model
    rows = []
    for width, height in sizes:
        night = next(iter(sample.night_sequence(1)))[0]
        frame = cv2.resize(night, (width, height), interpolation=cv2.INTER_AREA)
        methods: dict[str, Method] = {CLAHE: _clahe}
        providers = {CLAHE: 'cpu'}
        gmacs: dict[str, float] = {}
        alike: dict[str, float] = {}
        for model, enhancer in enhancers.items():
            gmac = gmac_of(weights.find(model), width, height)
            timed = {model: (enhancer, _staged(enhancer))}
            if eager := _eager(given[model], device, threads):
                timed[f'{model}: {EAGER}'] = (eager, _staged(eager))
            for other, of_other in _others(given[model], device, threads).items():
                timed[f'{model}: {other}'] = (of_other, _staged(of_other))
            limit = gmac and _limit(gmac, (width, height), device, threads)
            # Beside another device's limit a share would say nothing.
            if limit and _on_cpu(limit[0]) == _on_cpu(enhancer):
                timed[f'{model}: {LIMIT}'] = limit
                if describe(weights.find(model)).get('precision') == 'int8':
                    int8 = _limit(gmac, (width, height), device, threads, int8=True)
                    timed[f'{model}: {INT8_LIMIT}'] = int8
            for name, (owner, method) in timed.items():
                methods[name], providers[name] = method, owner.provider
                if isinstance(owner, Enhancer) and owner is not enhancer:
                    alike[name] = _alike(owner, enhancer, frame)
                if gmac:
                    gmacs[name] = gmac
        times = take_turns(methods, frame, frames)
        for name, stages in times.items():
            rows.append(
                _row(name, (width, height), providers[name], stages, gmacs.get(name), times)
            )
            rows[-1] = replace(rows[-1], alike_db=alike.get(name))
        for index, row in enumerate(rows):
            if row.method in enhancers and row.size == f'{width}x{height}':
                alone = _alone(row.method, device, threads, tile, compiled, (width, height))
                rows[index] = Row(**(asdict(row) | alone))
    return rows


def take_turns(
    methods: dict[str, Method], frame: np.ndarray, count: int
) -> dict[str, dict[str, list[float]]]:
    """Milliseconds of each method, by stage (whole, and its own), frame by frame in turn."""
    times: dict[str, dict[str, list[float]]] = {name: {} for name in methods}
    for index in range(WARM_UP + count):
        for name, method in methods.items():
            time.sleep(PAUSE)
            start = time.perf_counter()
            stages = method(frame)
            whole = (time.perf_counter() - start) * 1e3
            if index >= WARM_UP:
                for stage, value in ({'whole': whole} | stages).items():
                    times[name].setdefault(stage, []).append(value)
    return times


def _clahe(frame: np.ndarray) -> dict[str, float]:
    """The baseline, as a method."""
    clahe(frame)
    return {}


def gmac_of(path: Path, width: int, height: int) -> float | None:
    """1e9 multiply-accumulates of one frame, by what export wrote into the file."""
    noted = describe(path).get('gmac_per_megapixel')
    return float(noted) * width * height / 1e6 if noted else None


def _on_cpu(owner: Enhancer | OnnxBackend) -> bool:
    return 'cpu' in owner.provider.lower()


def _staged(enhancer: Enhancer) -> Method:
    return lambda frame: enhancer.network(frame)[1]


def _eager(model: str, device: str, threads: int) -> Enhancer | None:
    """The same network in torch, where there are a checkpoint and torch."""
    path = weights.find(model).with_suffix('.safetensors')
    if not path.is_file():
        return None
    try:
        device = 'auto' if device == 'tensorrt' else device
        return Enhancer(TorchBackend(path, device, threads, 'fp32'), path.stem)
    except (OSError, RuntimeError, ValueError) as error:
        print(f'dap-led: no {EAGER} beside {model}: {error}', file=sys.stderr)
        return None


def _others(model: str, device: str, threads: int) -> dict[str, Enhancer]:
    """Under auto on a CPU the other runtimes that are installed, by device; of an .onnx file."""
    if device != 'auto' or weights.find(model).suffix != '.onnx':
        return {}
    found = {}
    for other in RUNTIMES:
        with contextlib.suppress(RuntimeError):  # it is not installed
            found[other] = Enhancer.load(model, other, threads)
    return found


def _alike(one: Enhancer, other: Enhancer, frame: np.ndarray) -> float:
    """PSNR of what two make of a frame, in dB."""
    return min(99.0, cv2.PSNR(one.network(frame)[0], other.network(frame)[0]))


def _limit(
    gmac: float, size: tuple[int, int], device: str, threads: int, int8: bool = False
) -> tuple[OnnxBackend, Method] | None:
    """Dense convolutions with these MACs; None where onnx or the device is missing."""
    try:
        import onnx
    except ImportError:
        return None
    width, height = (side // 4 for side in size)
    count = max(1, round(gmac * 1e9 / (9 * _FEATURES**2 * width * height)))
    rng = np.random.default_rng(0)
    kernel = rng.normal(0, 0.03, (_FEATURES, _FEATURES, 3, 3)).astype(np.float32)
    shape = [1, _FEATURES, height, width]
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name in ('x0', f'x{count}')
    ]
    nodes = [
        onnx.helper.make_node('Conv', [f'x{i}', f'w{i}'], [f'x{i + 1}'], pads=[1, 1, 1, 1])
        for i in range(count)
    ]
    weights_ = [onnx.numpy_helper.from_array(kernel, f'w{i}') for i in range(count)]
    if int8:
        nodes, weights_ = _in_int8(kernel, count)
    graph = onnx.helper.make_graph(nodes, 'limit', ends[:1], ends[1:], weights_)
    opset = [onnx.helper.make_opsetid('', 18)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'limit.onnx'
        onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=9), path)
        try:
            backend = OnnxBackend(path, device, threads)
        except RuntimeError:  # the device is one of torch's alone
            return None
        tensor = rng.random(shape, dtype=np.float32)
        backend.run(tensor)  # on a GPU the session of this size is opened now, from the file
    scale = gmac * 1e9 / (9 * _FEATURES**2 * width * height * count)

    def run(_: np.ndarray) -> dict[str, float]:
        start = time.perf_counter()
        backend.run(tensor)
        return {'infer': (time.perf_counter() - start) * 1e3 * scale}

    return backend, run


def _in_int8(kernel: np.ndarray, count: int) -> tuple[list[Any], list[Any]]:
    """The nodes and weights of a stack of convolutions in int8, between floats x0 and xCOUNT."""
    import onnx

    tensors = {
        'scale': np.float32(0.02),
        'zero': np.uint8(128),
        'w': np.clip(np.rint(kernel * 1000), -127, 127).astype(np.int8),
        'w_scale': np.full(_FEATURES, 1e-3, np.float32),
        'w_zero': np.zeros(_FEATURES, np.int8),
    }
    node, of_x, of_w = onnx.helper.make_node, ['scale', 'zero'], ['w', 'w_scale', 'w_zero']
    nodes = [node('QuantizeLinear', ['x0', *of_x], ['q0'])]
    for i in range(count):
        inputs = [f'q{i}', *of_x, *of_w, *of_x]
        nodes.append(node('QLinearConv', inputs, [f'q{i + 1}'], pads=[1, 1, 1, 1]))
    nodes.append(node('DequantizeLinear', [f'q{count}', *of_x], [f'x{count}']))
    return nodes, [onnx.numpy_helper.from_array(v, name) for name, v in tensors.items()]


def _row(
    name: str,
    size: tuple[int, int],
    provider: str,
    stages: dict[str, list[float]],
    gmac: float | None,
    times: dict[str, dict[str, list[float]]],
) -> Row:
    network = float(np.median(stages['infer'])) if 'infer' in stages else None
    rate = gmac / network * 1e3 if gmac and network else None
    shares = []
    for kind in (LIMIT, INT8_LIMIT):
        limit = times.get(f'{name.split(": ")[0]}: {kind}')
        shares.append(float(np.median(limit['infer'])) / network if limit and network else None)
    return Row(
        name,
        f'{size[0]}x{size[1]}',
        provider,
        float(np.median(stages['whole'])),
        float(np.percentile(stages['whole'], 95)),
        network,
        gmac,
        rate,
        *shares,
    )


def _alone(
    model: str, device: str, threads: int, tile: int, compiled: bool, size: tuple[int, int]
) -> dict[str, float | None]:
    """Memory and cold start of a process that only enhances, and has nothing compiled yet."""
    arguments = [model, device, threads, tile, compiled, *size]
    command = [sys.executable, '-c', ALONE, *map(str, arguments)]
    fresh = {**os.environ, 'TORCHINDUCTOR_FORCE_DISABLE_CACHES': '1'}
    done = subprocess.run(command, capture_output=True, text=True, env=fresh)
    if done.returncode:
        raise RuntimeError(f'{model} failed in a process of its own: {done.stderr[-300:]}')
    cold, rss, gpu = done.stdout.split('\n')[:3]
    return {
        'cold_start_s': float(cold),
        'rss_mb': float(rss) if rss else None,
        'gpu_mb': float(gpu) if gpu else None,
    }


def copy_gb_per_s() -> float:
    """What the memory does: a copy of 64 MB, read and written, median of 15."""
    source = np.ones(1 << 26, np.uint8)
    target, seconds = np.empty_like(source), []
    for _ in range(15):
        start = time.perf_counter()
        np.copyto(target, source)
        seconds.append(time.perf_counter() - start)
    return 2 * source.nbytes / float(np.median(seconds)) / 1e9


def machine() -> str:
    """The processor, cores, and versions, in one line."""
    import onnxruntime

    name = platform.processor() or platform.machine()
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        name = next(line.split(':')[1].strip() for line in lines if line.startswith('model name'))
    except (OSError, StopIteration):
        pass
    return f'{name}, {os.cpu_count()} cores; ONNX Runtime {onnxruntime.__version__}'


def table(rows: list[Row]) -> str:
    """Rows as text; - is not measured."""
    head = ['method', 'size', 'provider', 'median', 'p95', 'network', 'frames/s', 'GMAC', 'GMAC/s']
    head += ['of limit', 'of int8 limit', 'alike', 'RSS', 'GPU', 'cold']
    cells = [head]
    for row in rows:
        cells.append(
            [
                row.method,
                row.size,
                row.provider.removesuffix('ExecutionProvider'),
                f'{row.median_ms:.1f} ms',
                f'{row.p95_ms:.1f} ms',
                _said(row.network_ms, '{:.1f} ms'),
                f'{1e3 / row.median_ms:.1f}',
                _said(row.gmac, '{:.2f}'),
                _said(row.gmac_per_s, '{:.0f}'),
                _said(row.share_of_limit, '{:.0%}'),
                _said(row.share_of_int8_limit, '{:.0%}'),
                _said(row.alike_db, '{:.1f} dB'),
                _said(row.rss_mb, '{:.0f} MB'),
                _said(row.gpu_mb, '{:.0f} MB'),
                _said(row.cold_start_s, '{:.2f} s'),
            ]
        )
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = []
    for line in cells:
        left = [cell.ljust(width) for cell, width in zip(line[:3], widths)]
        lines.append('  '.join(left + [c.rjust(w) for c, w in zip(line[3:], widths[3:])]))
    return '\n'.join(lines)


def _said(value: float | None, form: str) -> str:
    return '-' if value is None else form.format(value)


def plot(rows: list[Row], path: Path) -> None:
    """Medians as bars with the 95th percentile, one panel for each size.

    :raises RuntimeError: matplotlib is missing.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise RuntimeError(f'--plot needs matplotlib: pip install matplotlib ({error})') from None
    matplotlib.use('Agg')
    from matplotlib import pyplot

    sizes = list(dict.fromkeys(row.size for row in rows))
    figure, panels = pyplot.subplots(
        len(sizes), 1, figsize=(8, 0.6 + 0.45 * len(rows)), squeeze=False
    )
    for panel, size in zip(panels[:, 0], sizes):
        shown = [row for row in rows if row.size == size][::-1]
        medians = [row.median_ms for row in shown]
        tails = [[0] * len(shown), [row.p95_ms - row.median_ms for row in shown]]
        colours = [
            'tab:grey' if ':' in r.method or r.method == CLAHE else 'tab:blue' for r in shown
        ]
        bars = panel.barh([r.method for r in shown], medians, xerr=tails, color=colours, capsize=3)
        panel.bar_label(bars, [f' {median:.1f}' for median in medians], label_type='center')
        panel.set_title(f'{size}: milliseconds a frame, median and 95th percentile', fontsize=10)
        panel.spines[['top', 'right']].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def write_json(rows: list[Row], path: Path, limits: dict[str, Any]) -> None:
    """Rows, and the machine they come from."""
    path.write_text(json.dumps({**limits, 'rows': [asdict(row) for row in rows]}, indent=1) + '\n')


def write_share(rows: list[Row], path: Path, limits: dict[str, Any]) -> None:
    """Rows and what kind of machine they come from, for others to see: no path and no name."""
    versions = {'python': platform.python_version()}
    for package in ('dap_led_ros', 'onnxruntime', 'onnxruntime-gpu', 'openvino', 'torch', 'numpy'):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    kind = {'architecture': platform.machine(), 'system': platform.system(), 'versions': versions}
    shared = []
    for row in rows:
        model, colon, rest = row.method.partition(': ')
        shared.append(replace(row, method=f'{Path(model).name}{colon}{rest}'))
    write_json(shared, path, limits | kind)
