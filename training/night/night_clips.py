"""Short clips for training: a camera before a photograph, by the night of night_batches.py.

What is drawn for a clip is drawn once, but for the noise: light, sensor, curve and codec stay. The
camera moves on a smooth path, stands still, shakes, rolls or comes nearer; its own motion while
the shutter is open is the blur of each frame. Another photograph's piece moves on its own before
it, or as a nearer layer. Now and then frames are dropped, the exposure steps, or the scene is cut.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from dap_led_training.night.night_batches import (
    KERNEL,
    MARGIN,
    Drawn,
    NightConfig,
    Range,
    draw,
    kernel_of,
    stack,
)

_MOMENTS = 32
"""Places of the camera while the shutter is open."""


@dataclass(frozen=True)
class ClipConfig:
    """Shares and ranges of the motion; ranges are uniform, speeds in pixels a frame."""

    frames: int = 8
    still: float = 0.25
    """Share of cameras that stand still, but for what shakes them."""
    speed: Range = (0.2, 12.0)
    shake: float = 0.4
    shake_pixels: Range = (0.5, 5.0)
    roll: float = 0.004
    """Deviation of the roll, radians a frame, of half of the clips that move."""
    zoom: float = 0.008
    shutter: Range = (0.1, 0.9)
    """Share of the time between frames."""
    other_blur: float = 0.25
    """Share whose last frame has a blur of its own, as by a knock."""
    thing: float = 0.6
    """Share with something that moves on its own."""
    thing_speed: Range = (0.0, 14.0)
    layer: float = 0.35
    """Share of those that are a nearer layer of the scene."""
    dropped: float = 0.1
    """Share of frames before which one to three are missing."""
    step: float = 0.15
    """Share of dark clips whose exposure steps."""
    cut: float = 0.05


def draw_clip(
    photographs: list[np.ndarray],
    config: ClipConfig,
    night: NightConfig,
    rng: np.random.Generator,
    crop: int,
) -> tuple[np.ndarray, Drawn]:
    """One clip: sharp views (T, S, S, 3) uint8, S the crop and twice MARGIN; tensors (T, ...)."""
    one, other = (photographs[rng.integers(len(photographs))] for _ in range(2))
    count, side = config.frames, crop + 2 * MARGIN
    gaps = 1 + np.where(rng.random(count) < config.dropped, rng.integers(1, 4, count), 0)
    times = np.cumsum(gaps) - np.sum(gaps)  # the last is 0
    camera = _Camera(config, rng)
    centre = _centre(one, side, rng)
    views = [_view(one, centre, camera, moment, side) for moment in times]
    if rng.random() < config.thing:
        _add_thing(views, other, camera, times, config, rng)
    if rng.random() < config.cut:
        elsewhere = _centre(other, side, rng)
        for index in range(rng.integers(1, count)):
            views[index] = _view(other, elsewhere, camera, times[index], side)
    drawn = draw(night, rng, crop)
    gains = np.ones(count)
    if float(drawn.light[0]) < 1 and rng.random() < config.step:
        gains[: rng.integers(1, count)] = np.exp(rng.choice([-1, 1]) * rng.uniform(0.3, 1.2))
    blurred = float(drawn.kernels[0, MARGIN, MARGIN]) < 0.999
    shutter, knocked = rng.uniform(*config.shutter), rng.random() < config.other_blur
    frames = []
    for index, moment in enumerate(times):
        frame = drawn._replace(
            light=drawn.light.clone(),
            lamps=drawn.lamps.clone(),
            seed=drawn.seed.new_tensor(int(rng.integers(2**62))),
        )
        frame.light[0] *= float(gains[index])
        frame.lamps[:, :2] -= drawn.lamps.new_tensor(camera.place(moment) - camera.place(0.0))
        if blurred and not (knocked and index == count - 1):
            inside = moment + shutter * np.linspace(-0.5, 0.5, _MOMENTS)
            path = np.array([camera.place(one) for one in inside])
            kernel = drawn.kernels.new_tensor(kernel_of(path - path.mean(0), 0.0))
            frame = frame._replace(
                kernels=kernel.expand(2, KERNEL, KERNEL).clone(), slope=drawn.slope * 0
            )
        frames.append(frame)
    return np.stack(views), stack(frames)


class _Camera:
    """A smooth path; moments are frames, and the last frame's is 0."""

    def __init__(self, config: ClipConfig, rng: np.random.Generator) -> None:
        heading = rng.uniform(0, 2 * np.pi)
        moves = rng.random() >= config.still
        speed = np.exp(rng.uniform(*np.log(config.speed))) if moves else 0.0
        self._velocity = speed * np.array([np.cos(heading), np.sin(heading)])
        self._bend = rng.normal(0, 0.06 * speed, 2)
        pixels = rng.uniform(*config.shake_pixels) if rng.random() < config.shake else 0.0
        self._shake = pixels * rng.uniform(0.3, 1, (2, 2))
        self._rates, self._phases = rng.uniform(0.3, 2.2, (2, 2)), rng.uniform(0, 7, (2, 2))
        turns = moves and rng.random() < 0.5
        self.roll, self.zoom = rng.normal(0, (config.roll, config.zoom)) * turns

    def place(self, moment: float) -> np.ndarray:
        """Where it looks, x and y in pixels of the photograph."""
        swing = (self._shake * np.sin(self._rates * moment + self._phases)).sum(0)
        return self._velocity * moment + self._bend * moment * moment / 2 + swing


def _centre(photograph: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """Whole pixels, so that the last view is the photograph itself."""
    height, width = photograph.shape[:2]
    x, y = (rng.integers(0, max(1, size - side + 1)) for size in (width, height))
    return np.array([x, y], float)


def _view(
    photograph: np.ndarray, corner: np.ndarray, camera: _Camera, moment: float, side: int
) -> np.ndarray:
    """(S, S, 3): the photograph as the camera sees it at a moment."""
    angle, scale = camera.roll * moment, np.exp(camera.zoom * moment)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = np.full(2, (side - 1) / 2)
    shift = corner + camera.place(moment) - camera.place(0.0) + middle - turn @ middle
    return cv2.warpAffine(
        photograph,
        np.column_stack([turn, shift]),
        (side, side),
        flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT_101,
    )


def _add_thing(
    views: list[np.ndarray],
    other: np.ndarray,
    camera: _Camera,
    times: np.ndarray,
    config: ClipConfig,
    rng: np.random.Generator,
) -> None:
    """Put a piece of another photograph before each view, which moves on its own."""
    side = views[0].shape[0]
    corner, middle = _centre(other, side, rng), rng.uniform(0.1, 0.9, 2) * side
    radii, angle = rng.uniform(0.08, 0.35, 2) * side, rng.uniform(0, 2 * np.pi)
    velocity = rng.uniform(*config.thing_speed) * np.array([np.cos(angle), np.sin(angle)])
    layer, nearer = rng.random() < config.layer, rng.uniform(0.2, 1.5)
    softness = rng.uniform(0.5, 2.0)
    x, y = np.meshgrid(np.arange(side, dtype=np.float32), np.arange(side, dtype=np.float32))
    for index, moment in enumerate(times):
        moved = velocity * moment
        if layer:
            moved = -(1 + nearer) * (camera.place(moment) - camera.place(0.0))
        dx, dy = x - middle[0] - moved[0], y - middle[1] - moved[1]
        inside = -(np.cos(angle) * dx + np.sin(angle) * dy)
        if not layer:
            inside = (1 - np.hypot(dx / radii[0], dy / radii[1])) * radii.min()
        alpha = np.clip(0.5 + inside / (2 * softness), 0, 1)[..., None]
        matrix = np.column_stack([np.eye(2), corner - moved])
        piece = cv2.warpAffine(
            other,
            matrix,
            (side, side),
            flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT_101,
        )
        views[index] = np.rint(views[index] * (1 - alpha) + piece * alpha).astype(np.uint8)
