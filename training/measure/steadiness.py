"""How steady a stream is, and its gate: python -m dap_led_training measure steadiness [MODEL].

Two tables. The gate: on validation photographs, how often frames of each kind are passed through,
blended or enhanced, and what that does to their PSNR. By day, and in a dark but clean scene, a
frame's reference is the frame itself; elsewhere it is the sharp, well-lit photograph.

  day             the photographs as they are
  darkest by day  the darkest eighth of them
  dark but clean  a spotlight in a dark hall: the rest of the frame nearly black, no noise
  dusk            a quarter to six tenths of the light, sharp, little noise
  backlight       full light above, 4 to 12% of it below, noise
  blur by day     a path of 8 to 22 pixels in full light
  synthesis, independent, lamps   the night sets of dap_led_training measure frames

Steadiness: on videos of the sample photograph, which needs no data. "flicker" is the mean absolute
change from frame to frame as a share of what a brightness gain alone would leave of the input's.
"pump" is the largest change of the mean brightness gain from one frame to the next; the gain is
taken against the input and against the reference. A "reversal" is a turn of the gate's weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from dap_led_ros import sample
from dap_led_ros.inference import Enhancer
from dap_led_ros.inference.stream import Stream, StreamSettings
from dap_led_ros.photometry import linear_to_srgb, srgb_to_linear, to_uint8
from dap_led_training import configuration
from dap_led_training.data.photographs import FOLDERS, find_photographs, read_rgb
from dap_led_training.measure import metrics
from dap_led_training.measure.night_sets import SIZE, Pair, fit, night_sets
from dap_led_training.measure.tables import aligned
from dap_led_training.night.night_blur import NightBlurConfig, degrade, margin

GOOD = ('day', 'dark but clean')
NIGHT = ('synthesis', 'independent', 'lamps')
BLUR = NightBlurConfig(daylight=1.0, blur=1.0, path_length=(8.0, 22.0), defocus=0.0)
SHOT_NOISE, READ_NOISE = 2e-3, 4e-6
"""Variances on linear light, as in the sample."""


# --- the gate ---------------------------------------------------------------------------------


def gate_cases(paths: list[Path]) -> dict[str, list[Pair]]:
    """Frames of every kind, always the same, each with its reference."""
    cases: dict[str, list[Pair]] = {
        name: []
        for name in (
            'day',
            'darkest by day',
            'dark but clean',
            'dusk',
            'backlight',
            'blur by day',
        )
    }
    m = margin(BLUR)
    for index, path in enumerate(paths):
        rng = np.random.default_rng([96, index])
        photograph = read_rgb(path)
        day = fit(photograph, *SIZE)
        light = srgb_to_linear(day)
        stage = to_uint8(linear_to_srgb(light * _spotlight(rng)[..., None]))
        wide = fit(photograph, SIZE[0] + 2 * m, SIZE[1] + 2 * m)
        cases['day'].append((day, day))
        cases['dark but clean'].append((stage, stage))
        cases['dusk'].append((_noisy(light * rng.uniform(0.25, 0.6), rng, 3e-4), day))
        cases['backlight'].append((_noisy(light * _skyline(rng)[:, None, None], rng), day))
        cases['blur by day'].append((degrade(wide, BLUR, rng)[0], day))
    by_brightness = sorted(cases['day'], key=lambda pair: pair[0].mean())
    cases['darkest by day'] = by_brightness[: max(1, len(paths) // 8)]
    return {**cases, **night_sets(paths)}


def _noisy(light: np.ndarray, rng: np.random.Generator, shot: float = SHOT_NOISE) -> np.ndarray:
    noise = rng.standard_normal(light.shape, dtype=np.float32)
    return to_uint8(linear_to_srgb(light + noise * np.sqrt(light * shot + READ_NOISE)))


def _spotlight(rng: np.random.Generator) -> np.ndarray:
    """(H, W) share of light: 1 in a disc, 0.004 far from it."""
    x, y = np.meshgrid(np.arange(SIZE[0]), np.arange(SIZE[1]))
    distance = np.hypot(x - rng.uniform(0.3, 0.7) * SIZE[0], y - rng.uniform(0.3, 0.7) * SIZE[1])
    return np.clip(1 / (1 + np.exp((distance - 100) / 12)), 0.004, 1).astype(np.float32)


def _skyline(rng: np.random.Generator) -> np.ndarray:
    """(H,) share of light: 1 above a horizon, little below."""
    below, horizon = rng.uniform(0.04, 0.12), rng.uniform(0.25, 0.5) * SIZE[1]
    step = 1 / (1 + np.exp((np.arange(SIZE[1]) - horizon) / 6))
    return (below + (1 - below) * step).astype(np.float32)


def measure_gate(enhancer: Enhancer, cases: dict[str, list[Pair]]) -> dict[str, np.ndarray]:
    """For each case an array (frames, 7).

    Columns: highest score, weight, PSNR of input, network and stream, mean of the frame, and
    whether the stream gave it back exactly.
    """
    result = {}
    once = _Once(enhancer)
    for name, pairs in cases.items():
        rows = []
        for frame, reference in tqdm(pairs, name, leave=False):
            streamed = Stream(once).enhance(frame)
            frames = (frame, once.network(frame)[0], streamed.frame)
            rows.append(
                (
                    max(streamed.degradation.values()),
                    streamed.weight,
                    *(metrics.psnr(f, reference, metrics.PSNR_CAP) for f in frames),
                    frame.mean(),
                    np.array_equal(streamed.frame, frame),
                )
            )
        result[name] = np.array(rows, float)
    return result


class _Once:
    """An Enhancer that runs its network once on the same frame, however often it is asked."""

    # Heat-maps that last, and what came before, are not what is measured here.
    guided = remembers = False

    def __init__(self, enhancer: Enhancer) -> None:
        self.score, self._run, self._frame = enhancer.score, enhancer.network, None

    def network(
        self, frame: np.ndarray, heatmap: None = None, past: None = None
    ) -> tuple[np.ndarray, dict[str, float]]:
        if frame is not self._frame:
            self._frame, self._result = frame, self._run(frame)
        return self._result


def gate_table(measured: dict[str, np.ndarray]) -> str:
    """The printed form, with the two errors and what luminance alone would do."""
    head = ['', 'passed', 'blended', 'enhanced', 'exact', 'score p5/p50/p95']
    rows = [[*head, 'input', 'network', 'stream', 'worst']]
    for name, values in measured.items():
        level, weight, before, network, stream, _, exact = values.T
        spread = '/'.join(f'{p:.2f}' for p in np.percentile(level, (5, 50, 95)))
        passed, fully = (weight == 0).sum(), (weight == 1).sum()
        counts = (passed, len(weight) - passed - fully, fully, int(exact.sum()))
        figures = (before.mean(), network.mean(), stream.mean(), stream.min())
        rows.append([name, *map(str, counts), spread, *(f'{f:.2f}' for f in figures)])
    night, good = (np.concatenate([measured[name] for name in names]) for names in (NIGHT, GOOD))
    passed, touched = (night[:, 1] == 0), (good[:, 1] > 0)
    lost = np.where(passed, night[:, 3] - night[:, 4], 0)
    # The rule on luminance that passes as many night frames.
    mean = np.sort(night[:, 5])[::-1][passed.sum()]
    wrong = (good[:, 5] <= mean).sum()
    blurred = measured['blur by day']
    return '\n'.join(
        [
            aligned(rows),
            f'night frames passed: {passed.sum()} of {len(night)}, which costs '
            f'{lost.sum() / max(passed.sum(), 1):.2f} dB each, {lost.mean():.3f} dB over all',
            f'good frames not passed: {touched.sum()} of {len(good)}; changed: '
            f'{int((good[:, 6] == 0).sum())}',
            f'luminance alone (mean <= {mean:.0f}), passing as many night frames: {wrong} of '
            f'{len(good)} good frames not passed, {(blurred[:, 5] > mean).sum()} of '
            f'{len(blurred)} blurred by day passed (the gate: {(blurred[:, 1] == 0).sum()})',
        ]
    )


# --- steadiness -------------------------------------------------------------------------------

Video = Callable[[], Iterator[Pair]]


def static(exposure: float, count: int = 12) -> Iterator[Pair]:
    """A camera that stands still; only the noise changes."""
    _, reference = next(iter(sample.night_sequence(1)))
    light = srgb_to_linear(reference) * exposure
    for index in range(count):
        yield _noisy(light, np.random.default_rng([95, index])), reference


def nightfall(count: int = 60) -> Iterator[Pair]:
    """A moving camera, from full light to 3% of it."""
    for index, (_, reference) in enumerate(sample.night_sequence(count)):
        light = srgb_to_linear(reference) * 0.03 ** (index / (count - 1))
        yield _noisy(light, np.random.default_rng([94, index])), reference


VIDEOS: dict[str, Video] = {
    'static, night (5.5% of the light)': lambda: static(0.055),
    'static, deep night (2%)': lambda: static(0.02),
    'static, dusk (30%)': lambda: static(0.3),
    'static, day': lambda: static(1.0),
    'moving, night': lambda: sample.night_sequence(45),
    'moving, nightfall in 4 s': nightfall,
}


def measure_steadiness(enhancer: Enhancer, video: Video, steady: bool) -> dict[str, float]:
    """Flicker, pumps, PSNR, reversals and the largest step of the weight."""
    stream = Stream(enhancer, StreamSettings(steady=steady))
    frames, references = zip(*video())
    results = [stream.enhance(f, round(i * 1e9 / sample.RATE)) for i, f in enumerate(frames)]
    enhanced = [result.frame for result in results]
    inside, outside, true = (
        np.array([f.mean() for f in some]) for some in (frames, enhanced, references)
    )
    steps = np.diff([result.weight for result in results])
    signs = np.sign(steps[steps != 0])
    return {
        'flicker': _change(enhanced) / (_change(frames) * outside.mean() / inside.mean()),
        'pump, input': _largest_step(outside / inside),
        'pump, reference': _largest_step(outside / true),
        'psnr': float(
            np.mean([metrics.psnr(*pair, metrics.PSNR_CAP) for pair in zip(enhanced, references)])
        ),
        'reversals': int((np.diff(signs) != 0).sum()),
        'step': float(np.abs(steps).max()),
    }


def _change(frames: list[np.ndarray]) -> float:
    return float(np.mean([cv2.absdiff(a, b).mean() for a, b in pairwise(frames)]))


def _largest_step(gain: np.ndarray) -> float:
    return float(np.abs(np.diff(gain) / gain[:-1]).max())


def steadiness_table(enhancer: Enhancer) -> str:
    """Each video without and with state."""
    rows = [['', 'state', 'flicker', 'pump, input', 'pump, ref.', 'PSNR', 'reversals', 'step']]
    for name, video in VIDEOS.items():
        for steady in (False, True):
            found = measure_steadiness(enhancer, video, steady)
            rows.append(
                [
                    name,
                    'on' if steady else 'off',
                    f'{found["flicker"]:.3f}',
                    f'{found["pump, input"]:.2%}',
                    f'{found["pump, reference"]:.2%}',
                    f'{found["psnr"]:.2f}',
                    str(found['reversals']),
                    f'{found["step"]:.2f}',
                ]
            )
    return aligned(rows)


def main(arguments: list[str] | None = None) -> None:
    """Print both tables."""
    parser = configuration.parser('measure steadiness', __doc__)
    parser.add_argument('model', nargs='?', default='nano')
    parser.add_argument('--photographs', nargs='+', metavar='FOLDER')
    options = parser.parse_args(arguments)
    enhancer = Enhancer.load(options.model)
    print(steadiness_table(enhancer))
    folders = options.photographs or FOLDERS
    paths = find_photographs(folders, validation=True)
    print(f'\nthe gate on {len(paths)} validation photographs, {SIZE[0]}x{SIZE[1]}; PSNR in dB')
    print(gate_table(measure_gate(enhancer, gate_cases(paths))))
