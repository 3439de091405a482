"""The frozen judge's clips: do not change this file; its hash stands above every table.

It shares no code and no range with what trains. A clip is a pure function of two photographs, its
number and its regime: a camera that moves before a photograph, an object that moves on its own,
blur of half the time between frames, less light by one factor, photon and read noise, 8 bit.

Frames are (H, W, 3) RGB; light is linear, 1.0 is what the camera clips at.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

SIZE = (640, 480)
"""Width and height of every frame."""
FRAMES = 16
EVENT = 8
"""The frame at which something changes at once: the scene, the exposure, a lamp."""
AFTER = 3
"""Frames from the event on in which a memory of what was before would show."""
REGIMES: dict[str, dict] = {
    'tripod': {'object': 4},
    'pan': {'object': 4, 'pan': 3.0},
    'drive': {'object': 4, 'zoom': 0.02},
    'walk': {'object': 4, 'shake': 1.0},
    'occlusion': {'object': 22, 'large': True, 'shake': 0.15},
    'cut': {'object': 4, 'pan': 2.0, 'event': 'cut'},
    'gain step': {'object': 4, 'pan': 1.5, 'event': 'gain'},
    'lamp on': {'object': 4, 'event': 'lamp'},
    'dropped frames': {'object': 2.5, 'pan': 2.5, 'dropped': True},
}
"""What is done in each regime; speeds are in pixels a frame, or shares of the size."""
_MARGIN = 112
_STEPS = 7
_SHUTTER = 0.5


class Clip(NamedTuple):
    """What a clip consists of; every list has FRAMES items."""

    frames: list[np.ndarray]
    """(H, W, 3) uint8: by night."""
    references: list[np.ndarray]
    """(H, W, 3) uint8: by day, sharp, without noise."""
    uncovered: list[np.ndarray]
    """(H, W) bool: where a memory of what was before would show."""
    seconds: list[float]
    """When each frame was taken."""


def clip(photograph: np.ndarray, other: np.ndarray, number: int, regime: str) -> Clip:
    """Make one clip.

    :param photograph, other: (H, W, 3) uint8 RGB of any size; the second is the moving object,
        and what is seen after a cut.
    :param number: of the clip; decides everything that is left to chance.
    :param regime: a name of REGIMES.
    """
    wanted = REGIMES[regime]
    rng = np.random.default_rng([20261201, number])
    scenes = [_light(_covering(one)) for one in (photograph, other)]
    thing = _thing(scenes[1], wanted.get('large', False), rng)
    path = _Path(wanted, rng)
    exposure, photons = 0.025 * 4.4 ** rng.random(), 1100 * 6.0 ** rng.random()
    step = 2.6 if rng.random() < 0.5 else 1 / 2.6
    lamp = rng.uniform(0.3, 0.7, 2) * SIZE
    times = np.arange(FRAMES, dtype=float)
    if wanted.get('dropped'):
        times = np.cumsum(rng.choice([1, 1, 2, 3, 4], FRAMES)).astype(float)
    event, made, covered = wanted.get('event'), Clip([], [], [], []), []
    for index, moment in enumerate(times):
        after = index >= EVENT
        scene = scenes[1] if event == 'cut' and after else scenes[0]
        gain = exposure * (step if event == 'gain' and after else 1)
        glow = _glow(lamp) if event == 'lamp' and after else 1.0
        sharp, alpha = _view(scene, thing, path, moment)
        inside = np.linspace(-0.5, 0.5, _STEPS) * _SHUTTER
        shaken = sum(_view(scene, thing, path, moment + dt)[0] for dt in inside) / _STEPS
        made.frames.append(_taken(shaken * glow * gain, photons, rng))
        made.references.append(_coded(sharp * glow))
        uncovered = np.zeros(alpha.shape, bool)
        for before in covered[-AFTER:]:
            uncovered |= before > 0.5
        uncovered &= alpha < 0.02
        if event and EVENT <= index < EVENT + AFTER:
            uncovered[:] = True
        made.uncovered.append(uncovered)
        covered.append(alpha)
        made.seconds.append(moment / 30)
    return made


def darkened(sharp: list[np.ndarray], number: int) -> Clip:
    """A clip of a real camera by day, (H, W, 3) uint8 RGB of any size, by night."""
    rng = np.random.default_rng([20261201, 1000 + number])
    exposure, photons = 0.025 * 4.4 ** rng.random(), 1100 * 6.0 ** rng.random()
    references = [_fitted(frame) for frame in sharp]
    frames = [_taken(_light(one) * exposure, photons, rng) for one in references]
    nowhere = [np.zeros(one.shape[:2], bool) for one in references]
    return Clip(frames, references, nowhere, [i / 30 for i in range(len(sharp))])


class _Path:
    """Where the camera looks at a moment, in frames from the begin."""

    def __init__(self, wanted: dict, rng: np.random.Generator) -> None:
        heading = rng.uniform(-0.4, 0.4) + np.pi * rng.integers(0, 2)
        self._pan = wanted.get('pan', 0.0) * np.array([np.cos(heading), np.sin(heading)])
        self._middle = FRAMES if wanted.get('dropped') else FRAMES / 2
        self._zoom, self._shake = wanted.get('zoom', 0.0), wanted.get('shake', 0.0)
        self._phases = rng.uniform(0, 2 * np.pi, 6)
        self.velocity = wanted['object'] * np.array([rng.choice([-1, 1]), rng.uniform(-0.3, 0.3)])

    def scene(self, moment: float) -> np.ndarray:
        """2x3: from a pixel of the frame to one of the scene with its margin."""
        phases, shake = self._phases, self._shake
        x, y = self._pan * (moment - self._middle)
        x += shake * (8 * np.sin(moment * 0.35 + phases[0]) + 2 * np.sin(moment * 1.3 + phases[1]))
        y += shake * (6 * np.sin(moment * 0.7 + phases[2]) + 2 * np.sin(moment * 1.7 + phases[3]))
        roll = shake * np.radians(0.8) * np.sin(moment * 0.5 + phases[4])
        scale = 1 / (1 + self._zoom) ** moment
        centre = np.array(SIZE) / 2
        turn = scale * np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
        shift = centre + _MARGIN + (x, y) - turn @ centre
        return np.hstack([turn, shift[:, None]])

    def thing(self, moment: float, size: np.ndarray) -> np.ndarray:
        """2x3: from a pixel of the frame to one of the object."""
        place = np.array(SIZE) / 2 + self.velocity * (moment - FRAMES / 2)
        return np.hstack([np.eye(2), (size / 2 - place)[:, None]])


def _view(
    scene: np.ndarray, thing: np.ndarray, path: _Path, moment: float
) -> tuple[np.ndarray, np.ndarray]:
    """Light of the frame, and how far the object covers each pixel."""
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    matrix = path.scene(moment)
    behind = cv2.warpAffine(scene, matrix, SIZE, flags=flags, borderMode=cv2.BORDER_REFLECT)
    matrix = path.thing(moment, np.array(thing.shape[1::-1]))
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    ahead = cv2.warpAffine(thing, matrix, SIZE, flags=flags, borderMode=cv2.BORDER_CONSTANT)
    alpha = ahead[..., 3:]
    return np.maximum(behind, 0) * (1 - alpha) + ahead[..., :3] * alpha, alpha[..., 0]


def _thing(scene: np.ndarray, large: bool, rng: np.random.Generator) -> np.ndarray:
    """(h, w, 4): an oval or, if large, upright piece of a scene; the last channel covers."""
    width, height = (130, 380) if large else (140, 100)
    x = rng.integers(0, scene.shape[1] - width)
    y = rng.integers(0, scene.shape[0] - height)
    v, u = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    distance = (u**8 + v**8) ** (1 / 8) if large else np.hypot(u, v)
    alpha = np.clip((0.95 - distance) * width / 4, 0, 1)
    piece = scene[y : y + height, x : x + width] * rng.uniform(0.5, 1.6)
    return np.dstack([piece, alpha]).astype(np.float32)


def _glow(place: np.ndarray) -> np.ndarray:
    """(H, W, 1) factor on light around a lamp outside the picture."""
    x, y = np.meshgrid(np.arange(SIZE[0]), np.arange(SIZE[1]))
    squared = (x - place[0]) ** 2 + (y - place[1]) ** 2
    return (1 + 4 * np.exp(-squared / (2 * 130**2))).astype(np.float32)[..., None]


def _covering(photograph: np.ndarray) -> np.ndarray:
    """The photograph, turned if upright, over SIZE and a margin on each side."""
    if photograph.shape[0] > photograph.shape[1]:
        photograph = np.rot90(photograph)
    return _filled(photograph, (SIZE[0] + 2 * _MARGIN, SIZE[1] + 2 * _MARGIN))


def _fitted(frame: np.ndarray) -> np.ndarray:
    """The middle of the frame at SIZE."""
    return _filled(frame, SIZE)


def _filled(picture: np.ndarray, wanted: tuple[int, int]) -> np.ndarray:
    height, width = picture.shape[:2]
    scale = max(wanted[0] / width, wanted[1] / height)
    size = max(wanted[0], round(width * scale)), max(wanted[1], round(height * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    large = cv2.resize(picture, size, interpolation=method)
    x, y = (size[0] - wanted[0]) // 2, (size[1] - wanted[1]) // 2
    return np.ascontiguousarray(large[y : y + wanted[1], x : x + wanted[0]])


def _light(frame: np.ndarray) -> np.ndarray:
    value = np.arange(256) / 255
    table = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return table.astype(np.float32)[frame]


def _coded(light: np.ndarray) -> np.ndarray:
    light = np.clip(light, 0, 1)
    value = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.rint(value * 255).astype(np.uint8)


def _taken(light: np.ndarray, photons: float, rng: np.random.Generator) -> np.ndarray:
    """What a camera writes: photon noise, read noise of 2.2 electrons, sRGB, 8 bit."""
    electrons = rng.poisson(np.clip(light, 0, 1) * photons) + rng.normal(0, 2.2, light.shape)
    return _coded(electrons / photons)
