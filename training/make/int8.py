"""nano in int8: python -m dap_led_training make int8 [MODEL] [--out OUT.onnx].

dap-led export's int8 on frames of the training's own synthesis, made from photographs of the
training's split and of the size that robots use. Several ways are tried; the last is that of
dap-led export, and what --out keeps. Printed: PSNR on the night sets and by day next to the float
model, and the median time of a frame, the models taking turns. The verdict is ship() below.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from tqdm import tqdm

from dap_led_ros.checkpoints import checkpoint
from dap_led_ros.export import INT8_LAYERS, export, quantized
from dap_led_ros.inference import Enhancer, weights
from dap_led_training import configuration
from dap_led_training.data.photographs import FOLDERS, find_photographs, read_rgb
from dap_led_training.measure import metrics
from dap_led_training.measure.night_sets import SIZE, fit, night_sets
from dap_led_training.measure.tables import aligned
from dap_led_training.night.night_blur import NightBlurConfig, degrade, margin

WAYS = {
    'every layer': ('',),
    'encoder at 1/16': ('encoder16.',),
    'encoder': INT8_LAYERS,
    'encoder, decoder at 1/8': (*INT8_LAYERS, 'decoder8.'),
    'as exported': None,
}
"""Where the names of the parameters begin that are quantised; None: what dap-led export takes."""
LOSS = 0.2
"""dB that int8 may cost, on the worst of the night sets."""


def calibration_frames(photographs: list[Path]) -> Iterator[np.ndarray]:
    """Night frames (H, W, 3) uint8 and a few by day, from photographs that were trained on."""
    config, m = NightBlurConfig(daylight=0.0), margin(NightBlurConfig())
    for index, path in enumerate(photographs):
        wide = fit(read_rgb(path), SIZE[0] + 2 * m, SIZE[1] + 2 * m)
        dark, day, _ = degrade(wide, config, np.random.default_rng([93, index]))
        yield day if index % 8 == 7 else dark


def quantize(source: Path, out: Path, photographs: list[Path], way: str) -> None:
    """Write an int8 model, in one of WAYS."""
    core, frames = onnx.load(source), calibration_frames(photographs)
    notes = {entry.key: entry.value for entry in core.metadata_props} | {'precision': 'int8'}
    beside = source.with_suffix('.safetensors')
    if WAYS[way] is None and beside.is_file():  # the graph for int8 is not that for floats
        export(checkpoint.load(beside), out, 'int8', calibration=frames, notes=notes)
        return
    model = quantized(core, frames, out, WAYS[way])
    onnx.helper.set_model_props(model, notes)
    onnx.save(model, out)


def measure(models: dict[str, Path], photographs: list[Path]) -> dict[str, dict[str, float]]:
    """Mean PSNR on each set and by day, milliseconds of one inference and megabytes."""
    enhancers = {name: Enhancer.load(str(path), 'cpu') for name, path in models.items()}
    sets = night_sets(photographs)
    sets['day'] = [(day, day) for day in (fit(read_rgb(path), *SIZE) for path in photographs)]
    found: dict = {name: {key: [] for key in (*sets, 'milliseconds')} for name in models}
    for key, pairs in sets.items():
        for frame, reference in tqdm(pairs, key):
            for name, enhancer in enhancers.items():
                start = time.perf_counter()
                enhanced = enhancer.network(frame)[0]
                found[name]['milliseconds'].append((time.perf_counter() - start) * 1e3)
                found[name][key].append(metrics.psnr(enhanced, reference, metrics.PSNR_CAP))
    return {
        name: {
            key: float(np.median(v) if key == 'milliseconds' else np.mean(v))
            for key, v in columns.items()
        }
        | {'megabytes': models[name].stat().st_size / 1e6}
        for name, columns in found.items()
    }


def ship(int8: dict[str, float], full: dict[str, float]) -> bool:
    """Whether it is faster and loses no more than LOSS on any set."""
    losses = [full[key] - int8[key] for key in ('synthesis', 'independent', 'lamps', 'day')]
    return int8['milliseconds'] < full['milliseconds'] and max(losses) <= LOSS


def table(measured: dict[str, dict[str, float]]) -> str:
    """The printed form of measure(), the float model first."""
    full = next(iter(measured.values()))
    columns = [key for key in full if key not in ('milliseconds', 'megabytes')]
    rows = [['', *columns, 'time, float = 1', 'MB', 'ship']]
    for name, figures in measured.items():
        rows.append(
            [
                name,
                *(f'{figures[key]:.2f}' for key in columns),
                f'{figures["milliseconds"] / full["milliseconds"]:.2f}',
                f'{figures["megabytes"]:.1f}',
                '' if figures is full else ('yes' if ship(figures, full) else 'no'),
            ]
        )
    return aligned(rows)


def main(arguments: list[str] | None = None) -> None:
    """Quantise, print the table, keep the last way where asked."""
    parser = configuration.parser('make int8', __doc__)
    parser.add_argument('model', nargs='?', default='nano')
    parser.add_argument('--photographs', nargs='+', metavar='FOLDER')
    parser.add_argument('--calibration', type=int, default=48, help='frames; default: 48')
    parser.add_argument('--validation', type=int, help='photographs; default: all')
    parser.add_argument('--out', type=Path, metavar='OUT.onnx', help='keep the last way here')
    options = parser.parse_args(arguments)
    folders = options.photographs or FOLDERS
    trained = find_photographs(folders, validation=False)
    trained = trained[:: max(1, len(trained) // options.calibration)][: options.calibration]
    validation = find_photographs(folders, validation=True)
    if options.validation:
        validation = validation[:: max(1, len(validation) // options.validation)]
    source = weights.find(options.model)
    with tempfile.TemporaryDirectory() as folder:
        models = {'float': source}
        for index, way in enumerate(WAYS):
            models[way] = Path(folder) / f'{index}.onnx'
            quantize(source, models[way], trained, way)
        print(
            f'onnxruntime {onnxruntime.__version__}; {len(trained)} frames to calibrate, ', end=''
        )
        print(f'{len(validation)} validation photographs, 640x480; PSNR in dB')
        print(table(measure(models, validation)))
        if options.out:
            options.out.write_bytes(models[way].read_bytes())
