"""What models do to the light: python -m dap_led_training measure brightness MODEL [MODEL ...].

Validation photographs in full light and in little, sharp and blurred, enhanced by each model and,
beside it, by CLAHE with gamma:

  day                   as they are
  blur by day           camera shake, full light
  dark                  low light: sharp, no noise
  dark, blur            the same light, and camera shake
  dark, blur, noise     and the sensor's noise, as a camera would write it

Printed for each: brightness (mean grey level; that of the reference beside it), PSNR and SSIM
against the sharp, well-lit photograph. Then the day frames at other sizes, and the middle of each
frame on its own against the same middle of the enhanced whole: what hangs on the frame's own
statistics changes there.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from dap_led_ros.media import write_image
from dap_led_training import configuration
from dap_led_training.data.photographs import FOLDERS, find_photographs, read_rgb, spread
from dap_led_training.measure import metrics
from dap_led_training.measure.methods import Method, load_methods
from dap_led_training.measure.night_sets import SIZE, Pair, fit
from dap_led_training.measure.tables import aligned
from dap_led_training.night.night_blur import LOL_BLUR, degrade, margin, night_scene, take
from dap_led_training.trainers.devudp import BLUR_BY_DAY

SIZES = ((160, 120), (320, 240), SIZE)
MIDDLE = 128
"""Pixels a side."""


def light_sets(photographs: list[np.ndarray]) -> dict[str, list[Pair]]:
    """Frames of every kind, always the same, each with its reference."""
    sets: dict[str, list[Pair]] = {
        name: [] for name in ('day', 'blur by day', 'dark', 'dark, blur', 'dark, blur, noise')
    }
    m = margin(LOL_BLUR)
    for index, photograph in enumerate(photographs):
        wide = fit(photograph, SIZE[0] + 2 * m, SIZE[1] + 2 * m)
        blurred, day, _ = degrade(wide, BLUR_BY_DAY, np.random.default_rng([95, index]))
        rng = np.random.default_rng([94, index])
        dark, target, _ = night_scene(wide, LOL_BLUR, rng)
        frame, _ = take(dark, target, LOL_BLUR, rng)
        night = (frame.low_sharp, frame.low_blur, frame.low_blur_noise)
        pairs = [(day, day), (blurred, day), *((n, frame.high_sharp_scaled) for n in night)]
        for kind, pair in zip(sets.values(), pairs):
            kind.append(pair)
    return sets


def light_table(methods: dict[str, Method], sets: dict[str, list[Pair]]) -> str:
    """Brightness, PSNR and SSIM of each method on each set."""
    rows = [['set', 'method', 'brightness', 'reference', 'PSNR', 'SSIM']]
    for kind, pairs in sets.items():
        for name, method in methods.items():
            frames = [(method(frame), reference) for frame, reference in tqdm(pairs, kind)]
            values = (
                f'{np.mean([one.mean() for one, _ in frames]):.0f}',
                f'{np.mean([other.mean() for _, other in frames]):.0f}',
                f'{np.mean([metrics.psnr(*pair, metrics.PSNR_CAP) for pair in frames]):.2f}',
                f'{np.mean([metrics.ssim_rgb(*pair) for pair in frames]):.3f}',
            )
            rows.append([kind, name, *values])
    return aligned(rows)


def size_table(methods: dict[str, Method], days: list[np.ndarray]) -> str:
    """PSNR of day frames at SIZES against themselves, and of the middle alone."""
    titles = [f'{width}x{height}' for width, height in SIZES]
    rows = [['PSNR of day frames', *titles, f'middle {MIDDLE}x{MIDDLE}, alone and of the whole']]
    y, x = ((side - MIDDLE) // 2 for side in SIZE[::-1])
    for name, method in methods.items():
        found: list[list[float]] = []
        for day in tqdm(days, name):
            sized = [cv2.resize(day, size, interpolation=cv2.INTER_AREA) for size in SIZES]
            kept = [metrics.psnr(method(frame), frame, metrics.PSNR_CAP) for frame in sized]
            middle = np.ascontiguousarray(day[y : y + MIDDLE, x : x + MIDDLE])
            whole = method(day)[y : y + MIDDLE, x : x + MIDDLE]
            kept.append(
                metrics.psnr(method(middle), np.ascontiguousarray(whole), metrics.PSNR_CAP)
            )
            found.append(kept)
        rows.append([name, *(f'{value:.2f}' for value in np.mean(found, axis=0))])
    return aligned(rows)


def sheet(methods: dict[str, Method], sets: dict[str, list[Pair]], width: int) -> np.ndarray:
    """A row for each set, of a photograph of its own; columns: the methods, the reference."""
    rows = []
    for index, pairs in enumerate(sets.values()):
        frame, reference = pairs[index % len(pairs)]
        tiles = [*(method(frame) for method in methods.values()), reference]
        size = width, width * SIZE[1] // SIZE[0]
        rows.append(np.hstack([cv2.resize(t, size, interpolation=cv2.INTER_AREA) for t in tiles]))
    return np.vstack(rows)


def main(arguments: list[str] | None = None) -> None:
    """Print both tables."""
    parser = configuration.parser('measure brightness', __doc__)
    parser.add_argument('models', nargs='+', metavar='MODEL')
    parser.add_argument('--photographs', nargs='+', metavar='FOLDER')
    parser.add_argument('--count', type=int, default=16, help='photographs; default: 16')
    parser.add_argument('--sheet', type=Path, metavar='OUT.jpg', help='draw some of them, too')
    options = parser.parse_args(arguments)
    folders = options.photographs or FOLDERS
    paths: list[Path] = spread(find_photographs(folders, validation=True), options.count)
    methods = load_methods(options.models)
    sets = light_sets([read_rgb(path) for path in paths])
    if options.sheet:
        write_image(options.sheet, sheet(methods, sets, width=260))
    tables = [light_table(methods, sets), size_table(methods, [day for day, _ in sets['day']])]
    print(f'{len(paths)} validation photographs, {SIZE[0]}x{SIZE[1]}, grey levels and dB\n')
    print('\n\n'.join(tables))
