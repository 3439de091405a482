"""The frozen judge's pictures: do not change this file; its hash stands above every table.

It shares no code and no range with what trains (degradation/). One photograph in, one pair out for
each set of SETS; a pair is a pure function of the photograph and its number. How the light is lost
is a law of its own for each set: `linear` (a camera that caught less light), `gamma` (a power of
the display value), `curve` (a quadratic on lightness, iterated), `s-curve` (less light, and a
camera that crushes blacks and rolls off whites).

Frames are (H, W, 3) RGB; light is linear, 1.0 is what the camera clips at.
"""

from __future__ import annotations

import cv2
import numpy as np

SIZE = (640, 480)
"""Width and height of every frame."""
LAWS = ('linear', 'gamma', 'curve', 's-curve')
SETS: dict[str, dict] = {
    **{f'only dark, {law}': {'law': law} for law in LAWS},
    'only noise': {'noise': True},
    'only blurred, day': {'blur': True},
    'only blurred, dark': {'blur': True, 'law': 'linear'},
    **{f'night, {law}': {'law': law, 'blur': True, 'noise': True} for law in LAWS},
    'lamps': {'law': 'linear', 'blur': True, 'noise': True, 'lamps': True},
    'little noise': {'law': 'linear', 'blur': True, 'noise': True, 'photons': 20000},
    'deep night': {'law': 'linear', 'blur': True, 'noise': True, 'exposure': 0.01},
    'sodium': {'law': 'linear', 'blur': True, 'noise': True, 'sodium': True},
    'compressed': {'law': 'linear', 'blur': True, 'noise': True, 'quality': 28},
}
"""What is done to the frames of a set; see pair()."""


def pair(photograph: np.ndarray, number: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Degraded frame and reference, both uint8 of SIZE.

    :param photograph: (H, W, 3) uint8 RGB of any size.
    :param number: of the photograph; the same number gets the same blur and noise in every set.
    :param kind: a name of SETS.
    """
    wanted = SETS[kind]
    sharp = scene(photograph)
    rng = np.random.default_rng([20261130, number])
    factor = wanted.get('exposure', 0.025 * 4.4 ** rng.random())
    shape, seen, photons = rng.random(8), rng.random(6), 1100 * 6.0 ** rng.random()
    display = sharp.astype(np.float64) / 255
    reference = display
    light = _lost(display, wanted.get('law'), factor, shape)
    if wanted.get('sodium'):
        light = light * np.array([1.25, 0.8, 0.12])
    if wanted.get('lamps'):
        light, reference = _with_lamps(light, reference, rng)
    if wanted.get('blur'):
        light = _shaken(light, 7 + 14 * seen[0], 360 * seen[1], 120 * (seen[2] - 0.5))
    light = np.minimum(light, 1)
    if wanted.get('noise'):
        full = wanted.get('photons', photons)
        electrons = rng.poisson(light * full) + rng.normal(0, 2.2, light.shape)
        light = np.clip(electrons / full, 0, 1)
    value = _srgb(light)
    if wanted.get('law') == 's-curve':
        value = _s_curve(value, 0.015 + 0.02 * shape[1], 0.5 + 0.5 * shape[2])
    frame = np.rint(np.clip(value, 0, 1) * 255).astype(np.uint8)
    if quality := wanted.get('quality'):
        _, code = cv2.imencode('.jpg', frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        frame = np.ascontiguousarray(cv2.imdecode(code, cv2.IMREAD_COLOR)[..., ::-1])
    return frame, np.rint(np.clip(reference, 0, 1) * 255).astype(np.uint8)


def scene(photograph: np.ndarray) -> np.ndarray:
    """The photograph scaled and cut to SIZE; portraits are turned first."""
    if photograph.shape[0] > photograph.shape[1]:
        photograph = np.rot90(photograph)
    height, width = photograph.shape[:2]
    scale = max(SIZE[0] / width, SIZE[1] / height)
    size = max(SIZE[0], round(width * scale)), max(SIZE[1], round(height * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    large = cv2.resize(photograph, size, interpolation=method)
    x, y = (size[0] - SIZE[0]) // 2, (size[1] - SIZE[1]) // 2
    return np.ascontiguousarray(large[y : y + SIZE[1], x : x + SIZE[0]])


def _light(display: np.ndarray) -> np.ndarray:
    return np.where(display <= 0.04045, display / 12.92, ((display + 0.055) / 1.055) ** 2.4)


def _srgb(light: np.ndarray) -> np.ndarray:
    light = np.maximum(light, 0)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def _lost(display: np.ndarray, law: str | None, factor: float, shape: np.ndarray) -> np.ndarray:
    """Light of the scene by night."""
    if law is None:
        return _light(display)
    if law == 'linear':
        return _light(display) * factor
    if law == 's-curve':
        return _light(display) * factor * 2.5
    if law == 'gamma':
        return _light((0.6 + 0.35 * shape[3]) * display ** (2 + 1.1 * shape[4]))
    lightness = display.max(2, keepdims=True)
    wanted, low, high = 0.07 + 0.1 * shape[5], 0.0, 0.95
    for _ in range(20):
        r = (low + high) / 2
        low, high = (r, high) if _bent(lightness, r).mean() > wanted else (low, r)
    return _light(display * _bent(lightness, low) / np.maximum(lightness, 1e-3))


def _bent(value: np.ndarray, r: float) -> np.ndarray:
    for _ in range(6):
        value = value + r * (value * value - value)
    return value


def _s_curve(value: np.ndarray, black: float, strength: float) -> np.ndarray:
    value = np.clip((value - black) / (1 - black), 0, 1)
    return (1 - strength) * value + strength * value**2 * (3 - 2 * value)


def _shaken(light: np.ndarray, length: float, degrees: float, bend: float) -> np.ndarray:
    """Mean of views along an arc of `length` pixels that turns by `bend` degrees."""
    steps = int(np.ceil(length * 2)) + 1
    heading = np.radians(degrees + bend * np.linspace(-0.5, 0.5, steps))
    path = np.cumsum(np.stack([np.cos(heading), np.sin(heading)], 1) * (length / steps), axis=0)
    path -= path.mean(0)
    border = cv2.copyMakeBorder(light.astype(np.float32), *(24,) * 4, cv2.BORDER_REFLECT)
    size = border.shape[1::-1]
    total = np.zeros_like(border)
    for dx, dy in path:
        matrix = np.array([[1, 0, dx], [0, 1, dy]], np.float64)
        total += cv2.warpAffine(border, matrix, size, flags=cv2.INTER_LINEAR)
    return (total / steps)[24:-24, 24:-24].astype(np.float64)


def _with_lamps(
    light: np.ndarray, reference: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Round lamps with a rim of light, far above white in the dark; white in the reference."""
    y, x = np.mgrid[0 : SIZE[1], 0 : SIZE[0]]
    light, reference = light.copy(), reference.copy()
    for _ in range(rng.integers(4, 11)):
        centre = rng.uniform(0, SIZE[0]), rng.uniform(0, 0.7 * SIZE[1])
        radius = rng.uniform(1.5, 7)
        colour = np.array([1.0, rng.uniform(0.75, 1), rng.uniform(0.4, 1)])
        disc = np.clip(radius + 0.5 - np.hypot(x - centre[0], y - centre[1]), 0, 1)[..., None]
        light = np.maximum(light, disc * colour * rng.uniform(2, 12))
        reference = np.maximum(reference, _srgb(np.minimum(disc * 1.6 * colour, 1)))
    return light, reference
