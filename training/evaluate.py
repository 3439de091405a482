"""Measure a model: python -m dap_led_training.evaluate [MODEL ...] [--photographs FOLDER ...].

Validation photographs (every eighth of each folder, never trained on), fitted to 640x480, are
degraded in three ways: by the training's own synthesis, by an independent one, and by that one
with lamps that clip. The fourth set is the photographs as they are: by day a model does no harm.

Protocol: full frame, clamped and rounded to 8 bit; PSNR over RGB; SSIM over RGB with a Gaussian
window of 11x11 and sigma 1.5; "aligned" is PSNR after the mean brightness of each channel has been
made equal to the reference's, because brightness is ambiguous; by day PSNR is against the input
itself and capped at 50 dB. Two faults that such networks are prone to are measured in grey levels
on the set with lamps: "grid", see grid_energy(), and "halo", see halo_depth(). Means over
photographs; the time is the median of all calls, conversion included, to be compared only within
one run.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from torchmetrics.functional.image import structural_similarity_index_measure
from tqdm import tqdm

from dap_led_ros.inference import Enhancer
from dap_led_training import configuration
from dap_led_training.data.photographs import find_photographs, read_rgb
from dap_led_training.degradation import independent
from dap_led_training.degradation.night_blur import NightBlurConfig, degrade, margin
from dap_led_training.train import TrainConfig

SIZE = (640, 480)
SIZES = ((16, 16), (17, 31), (333, 241), (640, 480), (1279, 719), (1920, 1080))
RECIPE = Path(__file__).parent / 'configs' / 'nano.yaml'
PSNR_CAP = 50.0
Pair = tuple[np.ndarray, np.ndarray]
Method = Callable[[np.ndarray], np.ndarray]


def psnr(frame: np.ndarray, reference: np.ndarray) -> float:
    """PSNR over RGB of two uint8 images, dB, capped at 50."""
    error = np.mean((frame.astype(np.float64) - reference) ** 2)
    return PSNR_CAP if error == 0 else min(PSNR_CAP, 10 * np.log10(255**2 / error))


def aligned_psnr(frame: np.ndarray, reference: np.ndarray) -> float:
    """PSNR after each channel's mean has been scaled to the reference's."""
    means = frame.mean((0, 1)), reference.mean((0, 1))
    scaled = np.clip(frame * (means[1] / np.maximum(means[0], 1)) + 0.5, 0, 255)
    return psnr(scaled.astype(np.uint8), reference)


def ssim(frame: np.ndarray, reference: np.ndarray) -> float:
    """SSIM over RGB of two uint8 images, Gaussian window 11x11, sigma 1.5."""
    tensors = (torch.from_numpy(i).permute(2, 0, 1)[None].float() for i in (frame, reference))
    return float(structural_similarity_index_measure(*tensors, data_range=255.0))


def grid_energy(frame: np.ndarray, reference: np.ndarray, period: int = 4) -> float:
    """Error that repeats with every cell of 4x4 pixels, in grey levels.

    The signed error of each of the 16 places in the cell is averaged over the frame; the result is
    the standard deviation over the places. What is not periodic averages out.
    """
    height, width = (side // period * period for side in frame.shape[:2])
    error = (frame.astype(np.float64) - reference)[:height, :width].mean(axis=2)
    places = error.reshape(height // period, period, width // period, period).mean((0, 2))
    return float(places.std())


def halo_depth(frame: np.ndarray, reference: np.ndarray, degraded: np.ndarray) -> float:
    """Brightness error around clipped lamps against that of the whole frame, in grey levels.

    Around is 3 to 12 pixels away from where the degraded frame clips. Negative: a dark halo;
    positive: a glow. Not a number where nothing clips.
    """
    clipped = (degraded.max(axis=2) >= 250).astype(np.uint8)
    near, far = (cv2.dilate(clipped, np.ones((2 * r + 1, 2 * r + 1), np.uint8)) for r in (3, 12))
    ring = (far > 0) & (near == 0)
    if not clipped.any() or not ring.any():
        return float('nan')
    error = (frame.astype(np.float64) - reference).mean(axis=2)
    return float(error[ring].mean() - error[far == 0].mean())


def clahe_and_gamma(frame: np.ndarray) -> np.ndarray:
    """The classical baseline: CLAHE on lightness, then a gamma that lifts the mean to 0.4."""
    lab = cv2.cvtColor(frame, cv2.COLOR_RGB2LAB)
    lab[..., 0] = cv2.createCLAHE(3.0, (8, 8)).apply(lab[..., 0])
    image = cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)
    gamma = np.log(0.4) / np.log(np.clip(image.mean() / 255, 0.02, 0.98))
    table = (255 * (np.arange(256) / 255) ** min(gamma, 1.0) + 0.5).astype(np.uint8)
    return cv2.LUT(image, table)


def fit(photograph: np.ndarray, width: int, height: int) -> np.ndarray:
    """Scale and centre-crop to a size; portraits are turned first."""
    if photograph.shape[0] > photograph.shape[1]:
        photograph = np.rot90(photograph)
    scale = max(width / photograph.shape[1], height / photograph.shape[0])
    size = [
        max(a, round(b * scale))
        for a, b in ((width, photograph.shape[1]), (height, photograph.shape[0]))
    ]
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    image = cv2.resize(photograph, size, interpolation=method)
    x, y = (image.shape[1] - width) // 2, (image.shape[0] - height) // 2
    return np.ascontiguousarray(image[y : y + height, x : x + width])


def night_sets(paths: list[Path]) -> dict[str, list[Pair]]:
    """The three degraded sets, (degraded, reference) pairs; the same at every call."""
    config = NightBlurConfig(daylight=0.0, blur=1.0)
    m = margin(config)
    sets: dict[str, list[Pair]] = {'synthesis': [], 'independent': [], 'lamps': []}
    for index, path in enumerate(tqdm(paths, desc='degrading', unit='photograph')):
        photograph = read_rgb(path)
        wide = fit(photograph, SIZE[0] + 2 * m, SIZE[1] + 2 * m)
        sharp = fit(photograph, *SIZE)
        sets['synthesis'].append(degrade(wide, config, np.random.default_rng([99, index]))[:2])
        for name in ('independent', 'lamps'):
            rng = np.random.default_rng([98, index])
            sets[name].append(independent.night(sharp, rng, lamps=name == 'lamps'))
    return sets


def measure(method: Method, sets: dict[str, list[Pair]], days: list[np.ndarray]) -> dict:
    """All figures of one method."""
    result: dict = {}
    seconds: list[float] = []

    def timed(frame: np.ndarray) -> np.ndarray:
        start = time.perf_counter()
        enhanced = method(frame)
        seconds.append(time.perf_counter() - start)
        return enhanced

    for name, pairs in sets.items():
        frames = [(timed(degraded), reference) for degraded, reference in pairs]
        if name == 'lamps':
            halos = [halo_depth(*f, degraded) for f, (degraded, _) in zip(frames, pairs)]
            result['grid'] = float(np.mean([grid_energy(*pair) for pair in frames]))
            result['halo'] = float(np.nanmean(halos))
        result[name] = {
            'psnr': float(np.mean([psnr(*pair) for pair in frames])),
            'ssim': float(np.mean([ssim(*pair) for pair in frames])),
            'aligned': float(np.mean([aligned_psnr(*pair) for pair in frames])),
        }
    kept = [psnr(timed(day), day) for day in days]
    result['day'] = {'mean': float(np.mean(kept)), 'worst': float(np.min(kept))}
    result['milliseconds'] = float(np.median(seconds)) * 1e3
    return result


def main(arguments: list[str] | None = None) -> None:
    """Print the table, and write it as JSON where asked."""
    parser = argparse.ArgumentParser(
        prog='dap_led_training.evaluate',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('models', nargs='*', default=['nano'], metavar='MODEL')
    parser.add_argument(
        '--photographs', nargs='+', metavar='FOLDER', help=f'default: the ones of {RECIPE.name}'
    )
    parser.add_argument('--json', type=Path, help='write the figures here too')
    options = parser.parse_args(arguments)

    folders = options.photographs or configuration.load(RECIPE, TrainConfig).photographs
    paths = find_photographs(folders, validation=True)
    sets, days = night_sets(paths), [fit(read_rgb(path), *SIZE) for path in paths]
    methods: dict[str, Method] = {'input': lambda frame: frame, 'CLAHE + gamma': clahe_and_gamma}
    for model in options.models:
        enhancer = Enhancer.load(model)
        methods[model] = lambda frame, enhancer=enhancer: enhancer.enhance(frame).frame
    results = {name: measure(method, sets, days) for name, method in methods.items()}

    print(
        f'\n{len(paths)} validation photographs, {SIZE[0]}x{SIZE[1]}; PSNR / SSIM / aligned PSNR'
    )
    width = max(len(name) for name in results)
    print(
        f'{"":{width}}  '
        + '  '.join(f'{name:^20}' for name in sets)
        + '  day mean / worst  grid   halo    time'
    )
    for name, figures in results.items():
        cells = [
            f'{s["psnr"]:5.2f} / {s["ssim"]:.3f} / {s["aligned"]:5.2f}'
            for s in (figures[key] for key in sets)
        ]
        day = figures['day']
        print(
            f'{name:{width}}  {"  ".join(cells)}  {day["mean"]:5.2f} / {day["worst"]:5.2f}   '
            f'{figures["grid"]:5.2f} {figures["halo"]:6.1f} {figures["milliseconds"]:6.1f} ms'
        )
    sizes = ', '.join(f'{width}x{height}' for width, height in SIZES)
    for name in options.models:
        changed = [s for s in SIZES if methods[name](fit(days[0], *s)).shape != (s[1], s[0], 3)]
        print(f'{name}: sizes {sizes} kept' if not changed else f'{name}: CHANGED sizes {changed}')
    if options.json:
        options.json.write_text(json.dumps({'photographs': len(paths), **results}, indent=2))


if __name__ == '__main__':
    main()
