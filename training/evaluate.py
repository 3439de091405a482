"""Measure models: python -m dap_led_training.evaluate [MODEL ...] [DATA].

A MODEL is a name, an .onnx file (anybody's enhancer from (B, 3, H, W) to the same) or a
.safetensors checkpoint. The untouched input, one gain (auto) and CLAHE with gamma stand beside it.
Without DATA it is the frozen judge that measures, see judge.py: 16 sets of photographs that are in
no training and no validation. To compare recipes is not what it is for. DATA is any of

  --photographs FOLDER ...  night sets made from every eighth photograph of each folder
  --lol-blur ROOT           the test split of LOL-Blur as it is downloaded
  --pairs DEGRADED TARGET   two folders of equally named frames
  --unpaired FOLDER         frames without targets, such as Real-LOL-Blur

The protocol of each, and the versions that the figures depend on, are printed above its table.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from dap_led_ros.metrics.psnr import PSNR_CAP
from dap_led_training import chart, configuration, judge, judge_generator, metrics
from dap_led_training.data import pairs as data
from dap_led_training.data.photographs import find_photographs, read_rgb
from dap_led_training.methods import Method, load_methods
from dap_led_training.metrics import Metric
from dap_led_training.night_sets import SIZE, Pair, fit, night_sets
from dap_led_training.tables import aligned, version_line
from dap_led_training.train import TrainConfig

SIZES = ((16, 16), (17, 31), (333, 241), (640, 480), (1279, 719), (1920, 1080))
RECIPE = Path(__file__).parent / 'configs' / 'nano.yaml'

FRAMES_PROTOCOL = (
    'whole frames, RGB; enhanced frames clamped and rounded to 8 bit; brightness not matched to '
    'any target',
    'mean over all frames ±95% interval by video (Student t on the means of the videos)',
)
NIGHT_PROTOCOL = (
    'validation photographs (every eighth of each folder, never trained on), fitted to one size',
    "synthesis: degraded by the training's own synthesis; independent: by another; lamps: by that "
    'one, with lamps that clip; day: as they are',
    'whole frames, RGB; enhanced frames clamped and rounded to 8 bit; means over photographs',
    f'PSNR: dB, over RGB, capped at {PSNR_CAP:.0f}; SSIM: mean of R, G and B, 11x11 Gaussian '
    'window, sigma 1.5, inside the frame',
    "aligned: PSNR after each channel's mean has been made equal to the reference's, because "
    'brightness is ambiguous',
    'day: PSNR against the input itself; grid and halo: two faults of such networks in grey '
    'levels, on the set with lamps',
    'time: median of all calls, conversion included; to be compared only within one run',
)


class Sample(NamedTuple):
    """One frame to measure on."""

    video: str
    """Frames of one video are correlated; the interval is by video."""
    degraded: np.ndarray
    """(H, W, 3) uint8 RGB."""
    target: np.ndarray | None = None
    """(H, W, 3) uint8 RGB; None where there is no target."""


def main(arguments: list[str] | None = None) -> None:
    """Print the tables, and write them as JSON where asked."""
    parser = argparse.ArgumentParser(
        prog='dap_led_training.evaluate',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('models', nargs='*', metavar='MODEL', help='default: nano')
    parser.add_argument('--photographs', nargs='+', metavar='FOLDER')
    parser.add_argument('--every', type=int, default=1, help="of the judge's photographs")
    parser.add_argument(
        '--sets', nargs='+', choices=judge_generator.SETS, default=[], metavar='SET'
    )
    parser.add_argument('--lol-blur', metavar='ROOT')
    parser.add_argument('--variant', choices=data.VARIANTS, help=f'default: {data.VARIANTS[0]}')
    parser.add_argument('--pairs', nargs=2, metavar=('DEGRADED', 'TARGET'))
    parser.add_argument('--unpaired', metavar='FOLDER')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write the figures here too')
    arguments = sys.argv[1:] if arguments is None else arguments
    if '--ablation' in arguments:
        parser.error(
            '--ablation is a command now: python -m dap_led_training.ablation CONFIG --out DIR'
        )
    options = parser.parse_args(arguments)
    if options.variant and not options.lol_blur:
        parser.error('--variant needs --lol-blur')
    models = options.models or ['nano']
    methods, frames = load_methods(models), _frames(options)
    report: dict = {'versions': metrics.versions()}
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
    if not options.photographs and not frames:
        paths = judge.photographs(configuration.load(RECIPE, TrainConfig).data.photographs)
        paths = paths[:: options.every]
        measured = judge.judge(methods, paths, options.sets)
        print(judge.table(measured, len(paths)))
        print(
            f'\nthe chart of dap_led_training.chart\n{chart.table(chart.measure_methods(methods))}'
        )
        times = judge.milliseconds({name: methods[name] for name in models})
        print('\n' + ', '.join(f'{name}: {ms:.1f} ms' for name, ms in times.items()))
        report['judge'] = {
            kind: {name: dataclasses.asdict(f) for name, f in rows.items()}
            for kind, rows in measured.items()
        }
        report['judge_version'] = judge.version()
    if options.photographs:
        photographs = find_photographs(options.photographs, validation=True)
        report['night'] = evaluate_night(methods, photographs)
        print(night_table(report['night']))
        print(sizes_kept({name: methods[name] for name in models}, photographs[0]))
    for key, (name, run) in frames.items():
        report[key] = {'data': name, **run(methods)}
        print(table(report[key]))
    if options.json:
        options.json.write_text(json.dumps(report, indent=2, allow_nan=False))


def _frames(options: argparse.Namespace) -> dict[str, tuple[str, Callable[[dict], dict]]]:
    """Name and evaluation of each data set that is asked for, by its key in the report."""
    found: dict = {}
    if options.lol_blur:
        variant = options.variant or data.VARIANTS[0]
        pairs = lol_blur_test(options.lol_blur, variant)
        name = lol_blur_name(options.lol_blur, variant)
        found['lol_blur'] = name, partial(evaluate_pairs, pairs=pairs)
    if options.pairs:
        degraded, target = options.pairs
        pairs = data.folders(degraded, target)
        found['pairs'] = f'pairs, {degraded} -> {target}', partial(evaluate_pairs, pairs=pairs)
    if options.unpaired:
        name = f'frames without targets: {options.unpaired}'
        paths = data.unpaired(options.unpaired)
        found['unpaired'] = name, partial(evaluate_unpaired, paths=paths)
    return found


# --- data sets of frames ----------------------------------------------------------------------


def evaluate_pairs(methods: dict[str, Method], pairs: list[data.FramePair]) -> dict:
    """Figures of each method on pairs of files, against their targets; see score().

    :raises ValueError: a file cannot be read, or the two of a pair differ in size.
    """
    measured, missing = metrics.full_reference()
    return score(methods, samples_of(pairs), len(pairs), measured, missing)


def samples_of(pairs: list[data.FramePair]) -> Iterator[Sample]:
    """The frames of pairs, read one after the other.

    :raises ValueError: as evaluate_pairs().
    """
    return (Sample(pair.video, *data.read_pair(pair)) for pair in pairs)


def lol_blur_name(root: str | Path, variant: str) -> str:
    """The folder pair, for the head of a report."""
    return f'LOL-Blur test, {variant} -> {data.TARGET}: {root}'


def lol_blur_test(root: str | Path, variant: str) -> list[data.FramePair]:
    """The test split of LOL-Blur; `video` is the video, for both clips of one show one scene."""
    return [
        pair._replace(video=pair.video.rpartition('/')[0] or pair.degraded.parent.name)
        for pair in data.lol_blur(root, split='test', variant=variant)
    ]


def evaluate_unpaired(methods: dict[str, Method], paths: list[Path]) -> dict:
    """Figures of each method on frames without targets; see score().

    Without pyiqa nothing can be measured; the report says so. The video of a frame is its folder
    and, in Real-LOL-Blur (0031_0043.png, 075_blur_9.png), its name up to the first underscore.
    """
    measured, missing = metrics.without_reference()
    samples = (Sample(_unpaired_video(path), read_rgb(path)) for path in paths)
    return score(methods if measured else {}, samples, len(paths), measured, missing)


def score(
    methods: dict[str, Method],
    samples: Iterable[Sample],
    count: int,
    measured: dict[str, Metric],
    missing: Iterable[str] = (),
) -> dict:
    """Figures of each method over samples, ready for JSON and table().

    :param count: number of samples, for the progress bar.
    :param missing: why some metrics are not measured; goes into the report.
    :returns: frames, videos, protocol, metrics, missing, and methods: for each method and metric
        the mean over frames, half the 95% interval by video (None with one video) and the mean of
        each video.
    """
    videos: list[str] = []
    values: dict = {name: {key: [] for key in measured} for name in methods}
    for sample in tqdm(samples, total=count, unit='frame', desc='measuring'):
        videos.append(sample.video)
        references = () if sample.target is None else (sample.target,)
        for name, method in methods.items():
            enhanced = method(sample.degraded)
            for key, metric in measured.items():
                values[name][key].append(metric.measure(enhanced, *references))
    figures = {
        name: {key: metrics.mean_and_interval(v, videos) for key, v in columns.items()}
        for name, columns in values.items()
    }
    return {
        'frames': len(videos),
        'videos': len(set(videos)),
        'protocol': list(FRAMES_PROTOCOL),
        'metrics': described(measured),
        'missing': list(missing),
        'methods': {
            name: {key: summary._asdict() for key, summary in columns.items()}
            for name, columns in figures.items()
        },
    }


def _unpaired_video(path: Path) -> str:
    video, underscore, _ = path.stem.partition('_')
    return f'{path.parent}/{video}' if underscore else str(path.parent)


def described(measured: dict[str, Metric]) -> dict:
    """The columns of a report, ready for JSON."""
    return {
        key: {'label': metric.label, 'digits': metric.digits, 'convention': metric.convention}
        for key, metric in measured.items()
    }


def table(report: dict) -> str:
    """The printed form of what score() returns, with its `data`."""
    lines = [
        '',
        report['data'],
        f'{report["frames"]} frames of {report["videos"]} videos',
        *head(report),
        '',
    ]
    if not report['methods']:
        return '\n'.join([*lines, 'nothing to measure'])
    columns = report['metrics']
    rows = [['', *(column['label'] for column in columns.values())]]
    for name, figures in report['methods'].items():
        cells = [cell(figures[key], column['digits']) for key, column in columns.items()]
        rows.append([name, *cells])
    return '\n'.join([*lines, aligned(rows)])


def head(report: dict) -> list[str]:
    """Protocol, conventions, versions and what is missing, a line each."""
    conventions = [f'{m["label"]}: {m["convention"]}' for m in report['metrics'].values()]
    missing = [f'not measured: {reason}' for reason in report['missing']]
    return [*report['protocol'], *conventions, version_line(), *missing]


def cell(summary: dict, digits: int) -> str:
    """The mean, and the interval where there is one: 18.77 ±0.52."""
    mean, interval = summary['mean'], summary['interval']
    return f'{mean:.{digits}f}' + ('' if interval is None else f' ±{interval:.{digits}f}')


# --- night sets -------------------------------------------------------------------------------


def evaluate_night(methods: dict[str, Method], photographs: list[Path]) -> dict:
    """Figures of each method on the three night sets and on the photographs as they are."""
    sets, days = night_sets(photographs), [fit(read_rgb(path), *SIZE) for path in photographs]
    return {
        'photographs': len(photographs),
        'protocol': list(NIGHT_PROTOCOL),
        'methods': {name: measure(method, sets, days) for name, method in methods.items()},
    }


def measure(method: Method, sets: dict[str, list[Pair]], days: list[np.ndarray]) -> dict:
    """All figures of one method."""
    result: dict = {}
    seconds: list[float] = []

    def timed(frame: np.ndarray) -> np.ndarray:
        start = time.perf_counter()
        enhanced = method(frame)
        seconds.append(time.perf_counter() - start)
        return enhanced

    def mean(metric: Callable[..., float], frames: list[Pair], *rest: float) -> float:
        return float(np.mean([metric(*pair, *rest) for pair in frames]))

    for name, pairs in sets.items():
        frames = [(timed(degraded), reference) for degraded, reference in pairs]
        if name == 'lamps':
            halos = [metrics.halo_depth(*f, degraded) for f, (degraded, _) in zip(frames, pairs)]
            known = [halo for halo in halos if not np.isnan(halo)]
            result['grid'] = mean(metrics.grid_energy, frames)
            result['halo'] = float(np.mean(known)) if known else None
        result[name] = {
            'psnr': mean(metrics.psnr, frames, PSNR_CAP),
            'ssim': mean(metrics.ssim_rgb, frames),
            'aligned': mean(metrics.aligned_psnr, frames, PSNR_CAP),
        }
    kept = [metrics.psnr(timed(day), day, PSNR_CAP) for day in days]
    result['day'] = {'mean': float(np.mean(kept)), 'worst': float(np.min(kept))}
    result['milliseconds'] = float(np.median(seconds)) * 1e3
    return result


def night_table(report: dict) -> str:
    """The printed form of what evaluate_night() returns."""
    sets = ('synthesis', 'independent', 'lamps')
    lines = [
        '',
        *report['protocol'],
        version_line(),
        '',
        f'{report["photographs"]} validation photographs, {SIZE[0]}x{SIZE[1]}; '
        'PSNR / SSIM / aligned PSNR',
    ]
    width = max(len(name) for name in report['methods'])
    columns = '  '.join(f'{name:^20}' for name in sets)
    lines.append(f'{"":{width}}  {columns}  day mean / worst  grid   halo    time')
    for name, figures in report['methods'].items():
        cells = [
            f'{s["psnr"]:5.2f} / {s["ssim"]:.3f} / {s["aligned"]:5.2f}'
            for s in (figures[key] for key in sets)
        ]
        day = figures['day']
        halo = '-' if figures['halo'] is None else f'{figures["halo"]:.1f}'
        lines.append(
            f'{name:{width}}  {"  ".join(cells)}  {day["mean"]:5.2f} / {day["worst"]:5.2f}   '
            f'{figures["grid"]:5.2f} {halo:>6} {figures["milliseconds"]:6.1f} ms'
        )
    return '\n'.join(lines)


def sizes_kept(methods: dict[str, Method], photograph: Path) -> str:
    """Of each method, whether frames of odd and large sizes come back as they were."""
    image = fit(read_rgb(photograph), *SIZE)
    sizes = ', '.join(f'{width}x{height}' for width, height in SIZES)
    lines = []
    for name, method in methods.items():
        changed = [s for s in SIZES if method(fit(image, *s)).shape != (s[1], s[0], 3)]
        lines.append(
            f'{name}: CHANGED sizes {changed}' if changed else f'{name}: sizes {sizes} kept'
        )
    return '\n'.join(lines)


if __name__ == '__main__':
    configuration.run(main)
