"""Faults that photographs hide: python -m dap_led_training measure chart [MODEL ...] [--out FILE].

A synthetic chart (grey and coloured patches, a grey ramp, a slanted edge, a Siemens star, lamps)
is taken by night, with the physics of the sample sequence, and enhanced. Printed for each model,
next to the input, one gain (auto) and CLAHE with gamma, in grey levels unless said otherwise:

  grid 2/4/8/16  error that repeats with cells of so many pixels, on the flat patches; nano
                 unshuffles by 4. Mean over patches and takes
  mottle         standard deviation inside the flat patches: noise that is left or painted in
  colour         largest distance of a channel from the mean of the three, on the grey patches
  ramp           steps of the ramp, of 31, on which brightness falls where it should rise
  halo           darkest ring around the lamps, against what is 20 pixels away; negative is dark
  blown          share of pixels that clip and should not, lamps and their rim left out
  MTF50          cycles/pixel at which the slanted edge keeps half of its contrast (ISO 12233's
                 method, on display values)
  star           contrast of the star where its wave is 6 pixels long, as a share of that at 16;
                 1 is the reference's

With --out it writes what becomes of each part at 100%: input, one gain, CLAHE with gamma, the
models and the reference beside one another.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from dap_led_ros.media import write_image
from dap_led_ros.photometry import average_over_path, linear_to_srgb, srgb_to_linear, to_uint8
from dap_led_training import configuration
from dap_led_training.measure import metrics
from dap_led_training.measure.methods import Method, load_methods
from dap_led_training.measure.tables import aligned

WIDTH, HEIGHT = 640, 480
Box = tuple[slice, slice]
"""Rows and columns."""


def _box(x: int, y: int, width: int, height: int) -> Box:
    return slice(y, y + height), slice(x, x + width)


GREYS = {
    grey: _box(20 + 76 * i, 16, 64, 96) for i, grey in enumerate((16, 48, 80, 112, 144, 176, 208))
}
COLOURS = {
    colour: _box(552, 16 + 16 * i, 72, 16)
    for i, colour in enumerate(
        (
            (180, 60, 60),
            (60, 150, 70),
            (60, 80, 170),
            (190, 170, 60),
            (170, 80, 150),
            (70, 160, 170),
        )
    )
}
RAMP = _box(16, 128, 608, 40)
EDGE = _box(24, 192, 128, 176)
STAR = _box(176, 184, 192, 192)
LAMPS = _box(384, 184, 240, 192)
_LAMPS = ((424, 232, 3), (504, 232, 5), (584, 232, 8), (444, 320, 4), (544, 320, 6))
"""Centre and radius, pixels."""
CROPS = {
    'flat': _box(12, 8, 232, 112),
    'ramp': _box(8, 120, 320, 56),
    'edge': EDGE,
    'star': STAR,
    'lamps': LAMPS,
}
GAP = 6
"""Pixels of white between crops."""
_SPOKES = 32
_EXPOSURE, _LAMP_RADIANCE = 0.06, 8.0
_SHOT_NOISE, _READ_NOISE = 2e-3, 4e-6  # as in dap_led_ros.sample
_PATH = 5.0  # pixels, at 30 degrees
BACKGROUND = 96


def draw() -> np.ndarray:
    """The chart by day, without lamps: (480, 640, 3) uint8 RGB."""
    big = np.full((HEIGHT * 4, WIDTH * 4, 3), BACKGROUND, np.uint8)  # drawn four times as large
    for colour, (rows, columns) in {**{(g,) * 3: b for g, b in GREYS.items()}, **COLOURS}.items():
        big[rows.start * 4 : rows.stop * 4, columns.start * 4 : columns.stop * 4] = colour
    rows, columns = RAMP
    steps = (
        np.linspace(8, 240, 32).astype(np.uint8).repeat(4 * (columns.stop - columns.start) // 32)
    )
    big[rows.start * 4 : rows.stop * 4, columns.start * 4 : columns.stop * 4] = steps[:, None]
    rows, columns = EDGE
    y, x = np.mgrid[0 : 4 * (rows.stop - rows.start), 0 : 4 * (columns.stop - columns.start)]
    bright = x - x.shape[1] / 2 > np.tan(np.radians(5)) * (y - y.shape[0] / 2)
    big[rows.start * 4 : rows.stop * 4, columns.start * 4 : columns.stop * 4] = np.where(
        bright, 200, 56
    )[..., None]
    rows, columns = STAR
    y, x = (np.mgrid[0 : 192 * 4, 0 : 192 * 4] - 96 * 4 + 0.5) / 4
    spokes = (np.sin(np.arctan2(y, x) * _SPOKES) > 0) & (np.hypot(x, y) < 90)
    disc = np.where(spokes, 200, np.where(np.hypot(x, y) < 90, 40, BACKGROUND))
    big[rows.start * 4 : rows.stop * 4, columns.start * 4 : columns.stop * 4] = disc[..., None]
    return cv2.resize(big, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)


def take(chart: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The chart by night, and its reference with the lamps in it, both uint8 RGB."""
    light = srgb_to_linear(chart)
    lamps = np.zeros((HEIGHT, WIDTH), np.float32)
    for x, y, radius in _LAMPS:
        cv2.circle(lamps, (x, y), radius, 1.0, -1, cv2.LINE_AA)
    lamps = lamps[..., None]
    path = np.linspace(-0.5, 0.5, 11)[:, None] * _PATH * np.array([[np.cos(0.52), np.sin(0.52)]])
    dark = average_over_path(
        light * _EXPOSURE * (1 - lamps) + lamps * _LAMP_RADIANCE, path, np.zeros(11)
    )
    dark = np.minimum(dark, 1)
    noise = np.random.default_rng(seed).standard_normal(dark.shape, dtype=np.float32)
    dark = dark + noise * np.sqrt(dark * _SHOT_NOISE + _READ_NOISE)
    reference = light * (1 - lamps) + lamps
    return to_uint8(linear_to_srgb(dark)), to_uint8(linear_to_srgb(reference))


def measure(enhanced: np.ndarray, reference: np.ndarray, degraded: np.ndarray) -> dict[str, float]:
    """Every figure of one take; see the module's description."""
    greys = [enhanced[box] for box in GREYS.values()]
    inner = [patch[8:-8, 8:-8] for patch in greys]  # 80x48: whole cells, no border's blur
    means = np.array([patch.mean((0, 1)) for patch in inner])
    lit = np.array([patch.mean() for patch in inner])
    steps = enhanced[RAMP][8:-8].mean((0, 2)).reshape(32, -1)[:, 4:-4].mean(1)
    near = cv2.dilate((degraded.max(2) >= 250).astype(np.uint8), np.ones((13, 13))) > 0
    blown = (enhanced.max(2) >= 253) & (reference.max(2) < 250) & ~near
    figures = {
        f'grid {period}': float(
            np.mean(
                [metrics.grid_energy(p, np.full_like(p, m), period) for p, m in zip(inner, lit)]
            )
        )
        for period in (2, 4, 8, 16)
    }
    return figures | {
        'mottle': float(np.mean([patch.std((0, 1)).mean() for patch in inner])),
        'colour': float(np.abs(means - means.mean(1, keepdims=True)).max()),
        'ramp': float((np.diff(steps) < 0).sum()),
        'halo': _halo(enhanced),
        'blown': float(blown.mean()),
        'MTF50': mtf50(metrics.luma(enhanced[EDGE])),
        'star': _star_contrast(enhanced) / _star_contrast(reference),
    }


def _halo(frame: np.ndarray) -> float:
    """Brightness of the darkest ring around the lamps, one pixel wide, less that 20 away."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    luma, rings = metrics.luma(frame), []
    for centre_x, centre_y, radius in _LAMPS:
        outside = np.hypot(x - centre_x, y - centre_y) - radius - _PATH / 2
        rings.append([luma[(outside >= r) & (outside < r + 1)].mean() for r in range(24)])
    profile = np.mean(rings, axis=0)
    return float(profile[:16].min() - profile[18:].mean())


def mtf50(edge: np.ndarray) -> float:
    """Frequency at which the contrast of a slanted, nearly upright edge has fallen to half.

    :param edge: (H, W) values; the edge crosses every row.
    :returns: cycles/pixel, at most 0.5.
    """
    rows, columns = edge.shape
    slope = np.abs(np.diff(edge.astype(np.float64), axis=1))
    slope = cv2.GaussianBlur(slope, (0, 0), 2)
    window = np.hanning(columns - 1)  # the borders are no edge
    slope = np.maximum(slope * window - np.median(slope * window, axis=1, keepdims=True), 0)
    centres = (slope * (np.arange(columns - 1) + 0.5)).sum(1) / slope.sum(1)
    tilt, offset = np.polyfit(np.arange(rows), centres, 1)
    distance = np.arange(columns)[None] - (tilt * np.arange(rows)[:, None] + offset)
    bins = np.round(distance * 4).astype(int)
    reach = 4 * 40  # 40 pixels on either side
    inside = np.abs(bins) <= reach
    count = np.bincount(bins[inside] + reach, minlength=2 * reach + 1)
    total = np.bincount(bins[inside] + reach, edge[inside], minlength=2 * reach + 1)
    spread = np.diff(total / np.maximum(count, 1))
    spectrum = np.abs(np.fft.rfft(spread * np.hanning(len(spread)), 4096))
    contrast = spectrum / max(spectrum[0], 1e-9)
    frequency = np.fft.rfftfreq(4096, 0.25)
    below = np.flatnonzero((contrast < 0.5) | (frequency > 0.5))
    return float(frequency[below[0]])


def _star_contrast(frame: np.ndarray) -> float:
    """Amplitude of the spokes where their wave is 6 pixels long, as a share of that at 16."""
    luma, angle = metrics.luma(frame[STAR]), np.linspace(0, 2 * np.pi, 64 * _SPOKES, False)
    found = []
    for wave in (6, 16):
        radius = wave * _SPOKES / (2 * np.pi)
        points = [(radius * f(angle) + 95.5).astype(np.float32)[None] for f in (np.cos, np.sin)]
        ring = cv2.remap(luma, *points, cv2.INTER_LINEAR)[0]
        found.append(np.abs(np.fft.rfft(ring)[_SPOKES]))
    return float(found[0] / max(found[1], 1e-9))


def measure_methods(methods: dict[str, Method], takes: int = 3) -> dict[str, dict[str, float]]:
    """Mean of every figure over several takes, by method."""
    chart = draw()
    shots = [take(chart, seed) for seed in range(takes)]
    result = {}
    for name, method in methods.items():
        figures = [measure(method(dark), reference, dark) for dark, reference in shots]
        result[name] = {key: float(np.mean([f[key] for f in figures])) for key in figures[0]}
    figures = [measure(reference, reference, dark) for dark, reference in shots]
    result['reference'] = {key: float(np.mean([f[key] for f in figures])) for key in figures[0]}
    return result


def table(measured: dict[str, dict[str, float]]) -> str:
    """The printed form of what measure_methods() returns."""
    rows = [['', *next(iter(measured.values()))]]
    for name, figures in measured.items():
        digits = {'MTF50': '.3f', 'blown': '.2%', 'ramp': '.1f'}
        rows.append([name, *(format(v, digits.get(key, '.2f')) for key, v in figures.items())])
    return aligned(rows)


def crops(methods: dict[str, Method]) -> dict[str, np.ndarray]:
    """Each part of the chart at 100%: what each method makes of it, then the reference."""
    dark, reference = take(draw(), 0)
    frames = [*(method(dark) for method in methods.values()), reference]
    pictures = {}
    for name, box in CROPS.items():
        parts = [frame[box] for frame in frames]
        axis = 1 if parts[0].shape[1] < 300 else 0  # beside one another, or the wide one below
        gap = np.full_like(parts[0].take(range(GAP), axis), 255)
        pictures[name] = np.concatenate([p for part in parts for p in (part, gap)][:-1], axis)
    return pictures


def stacked(pictures: list[np.ndarray]) -> np.ndarray:
    """Pictures of any width below one another, on white."""
    width = max(picture.shape[1] for picture in pictures)
    white = {'borderType': cv2.BORDER_CONSTANT, 'value': (255, 255, 255)}
    return np.vstack(
        [cv2.copyMakeBorder(p, 0, GAP, 0, width - p.shape[1], **white) for p in pictures]
    )


def main(arguments: list[str] | None = None) -> None:
    """Print the table, and write the crops where asked."""
    parser = configuration.parser('measure chart', __doc__)
    parser.add_argument('models', nargs='*', metavar='MODEL', help='default: nano')
    parser.add_argument('--out', type=Path, metavar='FILE', help='picture of crops at 100%%')
    options = parser.parse_args(arguments)
    methods = load_methods(options.models or ['nano'])
    print(table(measure_methods(methods)))
    if options.out:
        write_image(options.out, stacked(list(crops(methods).values())))
