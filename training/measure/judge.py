"""The frozen judge: sets of judge_generator.py, methods beside baselines, and every figure.

Nothing is chosen on it: recipes are compared on validation photographs, and reported here.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dap_led_training.data import judge_photographs
from dap_led_training.data.photographs import find_photographs, read_rgb
from dap_led_training.measure import judge_generator, metrics
from dap_led_training.measure.methods import Method, auto
from dap_led_training.measure.tables import aligned, version_line

QUANTILES = 33
TENTHS = 10
PROTOCOL = (
    'auto: the frame times one number, so that its mean is 108 of 255. relit: the same with the '
    "reference's mean. clean, blur left in: the reference, blurred as the frame is: perfect light "
    'and no noise',
    'toned: PSNR and SSIM after the best global tone curve, found with the reference '
    f'({QUANTILES} quantiles of all values): structure without brightness',
    "aligned: PSNR after each channel's mean has been made equal to the reference's",
    'tone: mean signed error in grey levels where the reference is darkest, a tenth of it (haze), '
    'and the mean absolute one over all tenths',
    'whole frames, RGB; clamped and rounded to 8 bit; PSNR in dB, SSIM of R, G and B; means over '
    'photographs',
)


@dataclass(frozen=True)
class Figures:
    """Means of one method on one set."""

    psnr: float
    aligned: float
    toned_psnr: float
    toned_ssim: float
    ssim: float
    haze: float
    """Signed error on the darkest tenth of the reference, grey levels."""
    tone: float
    """Mean absolute value of the signed errors of all tenths, grey levels."""
    lpips: float | None = None


def toned(frame: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The frame by the monotone curve that brings it nearest to its reference.

    The knots are the means of QUANTILES equal parts of all values; one curve for R, G and B.
    """
    flat = frame.reshape(-1)
    counts = np.bincount(flat, minlength=256)
    sums = np.bincount(flat, reference.reshape(-1).astype(np.float64), minlength=256)
    part = np.minimum(
        ((np.cumsum(counts) - counts / 2) / flat.size * QUANTILES).astype(int), QUANTILES - 1
    )
    weight = np.bincount(part, counts, minlength=QUANTILES)
    there = weight > 0
    knots = np.bincount(part, counts * np.arange(256), minlength=QUANTILES)[there] / weight[there]
    values = np.bincount(part, sums, minlength=QUANTILES)[there] / weight[there]
    table = np.interp(np.arange(256), knots, np.maximum.accumulate(values))
    return (table + 0.5).astype(np.uint8)[frame]


def tone_errors(frame: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """(TENTHS,) mean signed error in grey levels by tenth of the reference's luma, dark first."""
    luma = metrics.luma(reference).reshape(-1)
    error = (metrics.luma(frame).reshape(-1) - luma)[np.argsort(luma, kind='stable')]
    return np.array([part.mean() for part in np.array_split(error, TENTHS)])


def figures(frames: list[tuple[np.ndarray, np.ndarray]]) -> Figures:
    """Figures of enhanced frames against their references."""
    rows = []
    for frame, reference in frames:
        curved, errors = toned(frame, reference), tone_errors(frame, reference)
        rows.append(
            [
                metrics.psnr(frame, reference, metrics.PSNR_CAP),
                metrics.aligned_psnr(frame, reference, metrics.PSNR_CAP),
                metrics.psnr(curved, reference, metrics.PSNR_CAP),
                metrics.ssim_rgb(curved, reference),
                metrics.ssim_rgb(frame, reference),
                errors[0],
                np.abs(errors).mean(),
            ]
        )
    lpips = None
    if not metrics.lpips_missing('alex'):
        lpips = float(np.mean([metrics.lpips(*pair, 'alex') for pair in frames]))
    return Figures(*np.mean(rows, axis=0).tolist(), lpips)


def photographs(folders: list[str]) -> list[Path]:
    """The judge's photographs among those of folders, in the order of their list.

    :raises FileNotFoundError: a folder is missing, or none of the photographs is there.
    """
    order = {h: i for i, h in enumerate(judge_photographs.LIST.read_text().split()[::2])}
    found = {}
    for validation in (True, False):
        for path in find_photographs(folders, validation):
            found[judge_photographs.digest(path)] = path
    known = sorted(found.keys() & order.keys(), key=order.__getitem__)
    if not known:
        raise FileNotFoundError(f'none of the judge’s photographs is in {", ".join(folders)}')
    return [found[one] for one in known]


def judge(
    methods: dict[str, Method], paths: list[Path], sets: Sequence[str] = ()
) -> dict[str, dict[str, Figures]]:
    """Figures by set and method, beside two baselines that know the reference.

    :param sets: names of judge_generator.SETS; all by default.
    """
    pictures = [read_rgb(path) for path in paths]
    perfect = 'only blurred, day'
    blurred = [judge_generator.pair(p, i, perfect)[0] for i, p in enumerate(pictures)]
    result: dict[str, dict[str, Figures]] = {}
    for kind in tqdm(sets or tuple(judge_generator.SETS), unit='set', mininterval=5):
        pairs = [judge_generator.pair(p, i, kind) for i, p in enumerate(pictures)]
        of_set: dict[str, list] = {'relit': []}
        wanted = judge_generator.SETS[kind]
        if wanted.get('blur') and not wanted.get('lamps'):  # there are none in `blurred`
            of_set['clean, blur left in'] = [(b, r) for b, (_, r) in zip(blurred, pairs)]
        for frame, reference in pairs:
            of_set['relit'].append((auto(frame, float(reference.mean())), reference))
        result[kind] = {name: figures(frames) for name, frames in of_set.items()}
        for name, method in methods.items():
            result[kind][name] = figures([(method(frame), ref) for frame, ref in pairs])
    return result


def milliseconds(methods: dict[str, Method], count: int = 20) -> dict[str, float]:
    """Median time of a frame, the methods in turn, conversion included."""
    frame = np.random.default_rng(0).integers(0, 60, (*judge_generator.SIZE[::-1], 3), np.uint8)
    times: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(count):
        for name, method in methods.items():
            start = time.perf_counter()
            method(frame)
            times[name].append(time.perf_counter() - start)
    return {name: float(np.median(t)) * 1e3 for name, t in times.items()}


def version() -> str:
    """Hashes of the generator and of the list of photographs, in one line."""
    parts = (Path(judge_generator.__file__), judge_photographs.LIST)
    names = ', '.join(f'{p.name} {judge_photographs.digest(p)[:12]}' for p in parts)
    return f'the frozen judge: {names}'


def table(report: dict[str, dict[str, Figures]], count: int) -> str:
    """The printed form of what judge() returns, a part for each set."""
    lines = [
        version(),
        *PROTOCOL,
        version_line(),
        f'{count} photographs, {judge_generator.SIZE[0]}x{judge_generator.SIZE[1]}',
    ]
    for kind, methods in report.items():
        rows = [[kind, 'PSNR', 'aligned', 'toned', 'SSIM', 'haze', 'tone']]
        if next(iter(methods.values())).lpips is not None:
            rows[0].append('LPIPS')
        for name, f in methods.items():
            rows.append(
                [
                    f'  {name}',
                    f'{f.psnr:.2f}',
                    f'{f.aligned:.2f}',
                    f'{f.toned_psnr:.2f} / {f.toned_ssim:.3f}',
                    f'{f.ssim:.3f}',
                    f'{f.haze:+.1f}',
                    f'{f.tone:.1f}',
                    *([] if f.lpips is None else [f'{f.lpips:.3f}']),
                ]
            )
        lines += ['', aligned(rows)]
    return '\n'.join(lines)
