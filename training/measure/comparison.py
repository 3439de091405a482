"""Compare models in one table: measure comparison [MODEL ...] [--detector YOLO.onnx].

One row for each model, next to the input, one gain (auto) and CLAHE with gamma. A MODEL is a name,
an .onnx file or a .safetensors checkpoint. Columns, on validation photographs at 640x480:

  MB, GMAC       file, and 1e9 multiply-accumulates of one frame
  synthesis, independent, lamps   the sets of `measure frames`: PSNR / SSIM / aligned
  day, gate off  the network alone on day frames, against themselves: PSNR mean / worst
  day, gate on   the same through a stream, and how many frames come back with not a bit changed
  flicker, pump  of a stream, static and moving night; see `measure steadiness`
  F1             of a detector, sets independent and lamps; see `measure detection`;
                 one night of each photograph
  ms             median of a frame, conversion included; compare only within one run
  load, RSS      seconds to import and load, and the most memory of a process that loads the model
                 and enhances three frames, beyond the interpreter; each in a fresh process
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from dap_led_ros.inference import Enhancer, weights
from dap_led_ros.inference.stream import Stream
from dap_led_training import configuration
from dap_led_training.data.photographs import FOLDERS, find_photographs, read_rgb
from dap_led_training.measure import detection, metrics, steadiness
from dap_led_training.measure.frames import NIGHT_PROTOCOL, measure
from dap_led_training.measure.methods import auto, clahe_and_gamma
from dap_led_training.measure.night_sets import SIZE, fit, night_sets
from dap_led_training.measure.tables import aligned, version_line

_COLD_START = """
import sys, time
def used():
    with open('/proc/self/status') as status:
        return next(int(line.split()[1]) for line in status if line.startswith('VmHWM'))
before, start = used(), time.perf_counter()
from dap_led_ros.inference import Enhancer
enhancer = Enhancer.load(sys.argv[1])
seconds = time.perf_counter() - start
import numpy
for value in range(3):
    enhancer.enhance(numpy.full((480, 640, 3), value, numpy.uint8))
print(seconds, (used() - before) * 1024 / 1e6)
"""
"""Prints seconds, and megabytes of peak memory by Linux, which counts KiB. (getrusage() would give
a child what its parent had used.)"""


def cold_start(model: str) -> tuple[float, float]:
    """Seconds to load a model and megabytes of memory, in a process of its own; best of three."""
    runs = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, '-c', _COLD_START, model], capture_output=True, text=True, check=True
        )
        runs.append([float(value) for value in done.stdout.split()])
    return tuple(np.min(runs, axis=0))


def giga_macs(model: str) -> float | None:
    """1e9 multiply-accumulates at 640x480; None without a checkpoint beside the model."""
    import torch

    from dap_led_ros.checkpoints import checkpoint
    from dap_led_training.measure.cost import count

    path = weights.find(model).with_suffix('.safetensors')
    if not path.is_file():
        return None
    return count(checkpoint.load(path), torch.rand(1, 3, SIZE[1], SIZE[0]))[1]


def row(name: str, figures: dict, *more: str) -> list[str]:
    """The cells that every method has, in their order; `more` are those of a model alone."""
    sets = [
        f'{s["psnr"]:.2f} / {s["ssim"]:.3f} / {s["aligned"]:.2f}'
        for s in (figures[key] for key in steadiness.NIGHT)
    ]
    day = f'{figures["day"]["mean"]:.2f} / {figures["day"]["worst"]:.2f}'
    size, macs, gated, flicker, pump, score, load, memory = more or ('-',) * 8
    time = f'{figures["milliseconds"]:.1f}'
    return [name, size, macs, *sets, day, gated, flicker, pump, score, time, load, memory]


def gated(enhancer: Enhancer, days: list[np.ndarray]) -> str:
    """Day frames through a stream."""
    frames = [Stream(enhancer).enhance(day).frame for day in days]
    kept = [metrics.psnr(frame, day, metrics.PSNR_CAP) for frame, day in zip(frames, days)]
    exact = sum(np.array_equal(frame, day) for frame, day in zip(frames, days))
    return f'{np.mean(kept):.2f} / {np.min(kept):.2f}, {exact} of {len(days)}'


def compare(models: list[str], photographs: list[Path], detector: str | None) -> str:
    """Measure everything; returns the table."""
    sets, days = night_sets(photographs), [fit(read_rgb(path), *SIZE) for path in photographs]
    rows = [
        [
            *('', 'MB', 'GMAC', *steadiness.NIGHT, 'day, gate off', 'day, gate on'),
            *('flicker', 'pump', 'F1', 'ms', 'load', 'RSS'),
        ]
    ]
    rows.append(row('input', measure(lambda frame: frame, sets, days)))
    rows.append(row('auto', measure(auto, sets, days)))
    rows.append(row('CLAHE + gamma', measure(clahe_and_gamma, sets, days)))
    for model in models:
        enhancer = Enhancer.load(model)
        file, macs = weights.find(model), giga_macs(model)
        if enhancer.model != file.stem:  # its int8 form took its place
            file = file.with_stem(enhancer.model)
        still, moving = (
            steadiness.measure_steadiness(enhancer, steadiness.VIDEOS[name], steady=True)
            for name in ('static, night (5.5% of the light)', 'moving, night')
        )
        score = '-'
        if detector:
            methods = {model: lambda frame, e=enhancer: e.network(frame)[0]}
            counts = detection.measure(detection.Yolo(detector), methods, sets)
            score = ' / '.join(
                f'{detection.f1(c[model]):.2f}' for c in (counts[name] for name in detection.SETS)
            )
        seconds, memory = cold_start(model)
        rows.append(
            row(
                Path(model).name,
                measure(lambda frame, e=enhancer: e.network(frame)[0], sets, days),
                f'{file.stat().st_size / 1e6:.1f}',
                '-' if macs is None else f'{macs:.2f}',
                gated(enhancer, days),
                f'{still["flicker"]:.2f}',
                f'{moving["pump, input"]:.2%}',
                score,
                f'{seconds:.2f} s',
                f'{memory:.0f} MB',
            )
        )
    return aligned(rows)


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = configuration.parser('measure comparison', __doc__)
    parser.add_argument('models', nargs='*', metavar='MODEL', help='default: nano')
    parser.add_argument('--photographs', nargs='+', metavar='FOLDER')
    parser.add_argument('--detector', metavar='YOLO.onnx', help='a YOLOv8 of COCO; adds F1')
    options = parser.parse_args(arguments)
    folders = options.photographs or FOLDERS
    photographs = find_photographs(folders, validation=True)
    print(*NIGHT_PROTOCOL, version_line(), '', sep='\n')
    print(f'{len(photographs)} validation photographs, {SIZE[0]}x{SIZE[1]}')
    print(compare(options.models or ['nano'], photographs, options.detector))
