"""The judge of clips: what a stream gains and loses by its past.

Clips of judge_clips_generator.py before the judge's photographs, and real ones by day that no
training sees, darkened. Nothing is chosen on them: development() has clips to choose on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from dap_led_ros import sample
from dap_led_ros.inference import Enhancer
from dap_led_ros.inference.history import History
from dap_led_ros.inference.stream import StreamSettings
from dap_led_ros.metrics.luma import luma
from dap_led_ros.photometry import linear_to_srgb, srgb_to_linear, to_uint8
from dap_led_ros.replay import measures
from dap_led_training.data import judge_photographs
from dap_led_training.data.photographs import read_rgb
from dap_led_training.measure import judge_clips_generator as generator
from dap_led_training.measure import metrics
from dap_led_training.measure.judge import toned
from dap_led_training.measure.judge_clips_generator import Clip
from dap_led_training.measure.tables import aligned, version_line

REAL = {
    'driving/highway_960x540.mp4': 60,
    'driving/vehicles_1280x720.mp4': 4,
    'clips_free/boofcv_dashcam02.mp4': 200,
    'clips_free/boofcv_log_building_02.mp4': 30,
}
"""Clips that judge, in no training, and the frame at which they begin."""
DEVELOPMENT = {
    'clips_free/sam2_01_dog.mp4': 60,
    'clips_free/sam2_05_default_juggle.mp4': 40,
    'clips_free/sam2_bedroom.mp4': 100,
    'clips_free/boofcv_dashcam01.mp4': 300,
    'clips_free/boofcv_stone_sign.mp4': 30,
    'clips_research/davis_tennis.mp4': 20,
}
"""Clips to choose on, and the frame at which they begin."""
LEAST_AREA = 300
"""Pixels that must have been uncovered for their error to be measured."""
BLOCK = 32
PROTOCOL = (
    'frames 8 to 15 of clips of 16 at 640x480; whole frames, RGB, rounded to 8 bit',
    "relit: the frame times one number, the reference's mean. classical fusion: the mean of the "
    'past by the stream’s own history, relit, no network. single frame: the network, each frame '
    'alone. stream: as a user gets it, gate open',
    'toned: PSNR in dB and SSIM after the best global tone curve; aligned: PSNR after the means '
    'are made equal',
    'flicker: mean absolute difference, in grey levels, between the change from frame to frame '
    'and that of the reference',
    'ghost: toned PSNR less that of the single frame where a memory would show (just uncovered by '
    'the object; the whole frame for three frames after a cut or a step): mean and worst of all '
    f'frames; on real clips of {BLOCK}x{BLOCK} blocks, the mean and the worst hundredth',
    'inliers: ORB matches to the frame before that fit one epipolar geometry; ms: median',
)

Method = Callable[[Clip], tuple[list[np.ndarray], list[float]]]
"""Enhanced frames of a clip, and the seconds that each took."""


@dataclass(frozen=True)
class Figures:
    """Of one method, means over clips; seconds are a median."""

    toned: float
    ssim: float
    aligned: float
    flicker: float
    ghost: float
    """Mean difference from the single frame, dB; 0 where nothing is uncovered."""
    worst: float
    inliers: float
    seconds: float


def _relit(frame: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """A frame, uint8 or float in [0, 1], with the reference's mean, uint8."""
    value = frame / np.float32(255) if frame.dtype == np.uint8 else frame
    for _ in range(4):  # what clips is missing from the mean
        value = value * (reference.mean() / 255 / max(float(np.minimum(value, 1).mean()), 1e-6))
    return to_uint8(value)


def _each(clip: Clip, enhance: Callable[[np.ndarray, int], np.ndarray]) -> tuple[list, list]:
    frames, seconds = [], []
    for index, frame in enumerate(clip.frames):
        start = time.perf_counter()
        frames.append(enhance(frame, index))
        seconds.append(time.perf_counter() - start)
    return frames, seconds


def methods(enhancer: Enhancer) -> dict[str, Method]:
    """The rows of the table; 'single frame' is what ghosts are measured against."""

    def fused(clip: Clip) -> tuple[list[np.ndarray], list[float]]:
        history = History()
        frames, seconds = _each(clip, lambda frame, _: history.fuse(frame).frame)
        return [_relit(*pair) for pair in zip(frames, clip.references)], seconds

    def stream(clip: Clip) -> tuple[list[np.ndarray], list[float]]:
        one = enhancer.stream(StreamSettings(mode='always'))
        stamps = [round(moment * 1e9) for moment in clip.seconds]
        return _each(clip, lambda frame, index: one.enhance(frame, stamps[index]).frame)

    return {
        'input': lambda clip: (clip.frames, [0.0]),
        'relit': lambda clip: (
            [_relit(*pair) for pair in zip(clip.frames, clip.references)],
            [0.0],
        ),
        'classical fusion': fused,
        'single frame': lambda clip: _each(clip, lambda frame, _: enhancer.network(frame)[0]),
        'stream': stream,
    }


def figures(clip: Clip, of: dict[str, Method]) -> dict[str, Figures]:
    """Figures of each method on one clip."""
    enhanced = {name: method(clip) for name, method in of.items()}
    curved = {
        name: [toned(*pair) for pair in zip(frames, clip.references)]
        for name, (frames, _) in enhanced.items()
    }
    result = {}
    for name, (frames, seconds) in enhanced.items():
        ghost, worst = _ghost(clip, curved[name], curved['single frame'])
        rows = [
            (
                metrics.psnr(shown, reference, 50.0),
                metrics.ssim_rgb(shown, reference),
                metrics.aligned_psnr(frame, reference, 50.0),
            )
            for frame, shown, reference in list(zip(frames, curved[name], clip.references))[
                len(frames) // 2 :
            ]
        ]
        result[name] = Figures(
            *np.mean(rows, axis=0).tolist(),
            _flicker(frames, clip.references),
            ghost,
            worst,
            _inliers(frames),
            float(np.median(seconds)),
        )
    return result


def _later(frames: list[np.ndarray]) -> list[np.ndarray]:
    """The second half, and one before it."""
    return frames[len(frames) // 2 - 1 :]


def _flicker(frames: list[np.ndarray], references: list[np.ndarray]) -> float:
    changes = [
        [b.astype(np.int16) - a for a, b in pairwise(_later(some))]
        for some in (frames, references)
    ]
    return float(np.mean([np.abs(one - true).mean() for one, true in zip(*changes)]))


def _inliers(frames: list[np.ndarray]) -> float:
    orb = measures.Features()
    found = [orb.measure(luma(frame)) for frame in _later(frames)]
    return float(np.mean([one['inliers'] for one in found[1:]]))


def _ghost(clip: Clip, frames: list[np.ndarray], alone: list[np.ndarray]) -> tuple[float, float]:
    """Mean and worst difference from the single frame where a memory would show, dB."""
    found: list[float] = []
    marked = any(mask.any() for mask in clip.uncovered)
    for frame, single, reference, mask in zip(frames, alone, clip.references, clip.uncovered):
        errors = [
            ((one.astype(np.float32) - reference) ** 2).mean(2) + 0.1 for one in (single, frame)
        ]
        if marked:
            if mask.sum() >= LEAST_AREA:
                single_error, error = (one[mask].mean() for one in errors)
                found.append(10 * float(np.log10(single_error / error)))
            continue
        size = mask.shape[1] // BLOCK, mask.shape[0] // BLOCK
        small = [cv2.resize(one, size, interpolation=cv2.INTER_AREA) for one in errors]
        found += (10 * np.log10(small[0] / small[1])).ravel().tolist()
    if not found:
        return 0.0, 0.0
    return float(np.mean(found)), float(np.min(found) if marked else np.percentile(found, 1))


def milliseconds(
    others: dict[str, Enhancer], enhancer: Enhancer, count: int = 15
) -> dict[str, float]:
    """Median times of a frame of the sample night: of single frames, the stream, its history."""
    stream, frames = enhancer.stream(StreamSettings(mode='always')), sample.night_sequence(count)
    times: dict[str, list[float]] = {}
    for index, (frame, _) in enumerate(frames):
        for name, other in (others | {f'{enhancer.model}, each frame': enhancer}).items():
            start = time.perf_counter()
            other.network(frame)
            times.setdefault(name, []).append(time.perf_counter() - start)
        start = time.perf_counter()
        stages = stream.enhance(frame, index * 10**8).milliseconds
        times.setdefault('stream', []).append(time.perf_counter() - start)
        times.setdefault('of it history', []).append(stages.get('history', 0.0) / 1e3)
    return {name: float(np.median(found[3:])) * 1e3 for name, found in times.items()}


# --- clips ------------------------------------------------------------------------------------


def synthetic(paths: list[Path], regimes: list[str], count: int) -> Iterator[tuple[str, Clip]]:
    """Clips of each regime, before photographs in turn."""
    number = 0
    for regime in regimes:
        for _ in range(count):
            first, second = (paths[(number * 7 + k) % len(paths)] for k in (0, 3))
            yield regime, generator.clip(read_rgb(first), read_rgb(second), number, regime)
            number += 1


def real(root: Path) -> Iterator[tuple[str, Clip]]:
    """The real clips below a folder that has REAL.

    :raises FileNotFoundError: one is not there.
    """
    for number, (name, first) in enumerate(REAL.items()):
        yield f'real: {Path(name).stem}', generator.darkened(read(root / name, first), number)


def development(root: Path) -> Iterator[tuple[str, Clip]]:
    """Clips to choose on: other real ones, in another darkness; still, cut, and with a step.

    :raises FileNotFoundError: one is not there.
    """
    scenes = {Path(name).stem: read(root / name, at) for name, at in DEVELOPMENT.items()}
    names = list(scenes)
    still = [scenes[names[2]][0]] * generator.FRAMES
    middle = generator.FRAMES // 2
    cut = scenes[names[0]][:middle] + scenes[names[4]][middle:]
    for number, (name, sharp) in enumerate((scenes | {'still': still, 'cut': cut}).items()):
        yield name, _dusk(sharp, number)
    yield 'step', _dusk(scenes[names[1]], 20, 2.2)


def _dusk(sharp: list[np.ndarray], number: int, step: float = 1.0) -> Clip:
    """By night, of another law than the judge's."""
    rng = np.random.default_rng([512, number])
    exposure, power, shot = rng.uniform(0.03, 0.12), rng.uniform(1.0, 1.15), rng.uniform(5, 30)
    shot *= 1e-4
    frames, references = [], []
    for index, frame in enumerate(sharp):
        small = cv2.resize(frame, generator.SIZE, interpolation=cv2.INTER_AREA)
        gain = exposure * (step if index >= len(sharp) // 2 else 1)
        light = gain * srgb_to_linear(small) ** power
        noise = rng.standard_normal(light.shape, dtype=np.float32)
        light = light + noise * np.sqrt(light * shot + 2e-6)
        frames.append(to_uint8(linear_to_srgb(light)))
        references.append(small)
    nowhere = [np.zeros(one.shape[:2], bool) for one in references]
    return Clip(frames, references, nowhere, [i / 30 for i in range(len(sharp))])


def read(path: Path, first: int) -> list[np.ndarray]:
    """FRAMES frames of a video, (H, W, 3) uint8 RGB.

    :raises FileNotFoundError: the video is not there, or too short.
    """
    video = cv2.VideoCapture(str(path))
    frames: list[np.ndarray] = []
    for index in range(first + generator.FRAMES):
        ok, frame = video.read()
        if not ok:
            raise FileNotFoundError(f'{path} has no frame {index}: is the video there?')
        if index >= first:
            frames.append(np.ascontiguousarray(frame[..., ::-1]))
    return frames


def version() -> str:
    """Hash of the generator, in one line."""
    path = Path(generator.__file__)
    return f'the frozen judge of clips: {path.name} {judge_photographs.digest(path)[:12]}'


def mean(found: list[Figures]) -> Figures:
    """Of several clips; `worst` is the worst of all."""
    rows = np.array([list(vars(one).values()) for one in found])
    names = list(vars(found[0]))
    values = dict(zip(names, rows.mean(0).tolist()))
    values['worst'] = float(rows[:, names.index('worst')].min())
    return Figures(**values)


def table(report: dict[str, dict[str, list[Figures]]], head: str) -> str:
    """The printed form: a part for each regime, and one over all."""
    together: dict[str, list[Figures]] = {}
    for rows in report.values():
        for name, found in rows.items():
            together.setdefault(name, []).extend(found)
    lines = [head, *PROTOCOL, version_line()]
    for regime, rows in (report | {'all': together}).items():
        cells = [[regime, 'toned', 'aligned', 'flicker', 'ghost', 'inliers', 'ms']]
        for name, found in rows.items():
            f = mean(found)
            cells.append(
                [
                    f'  {name}',
                    f'{f.toned:.2f} / {f.ssim:.3f}',
                    f'{f.aligned:.2f}',
                    f'{f.flicker:.2f}',
                    f'{f.ghost:+.2f} / {f.worst:+.2f}',
                    f'{f.inliers:.0f}',
                    f'{f.seconds * 1e3:.1f}',
                ]
            )
        lines += ['', aligned(cells)]
    return '\n'.join(lines)
