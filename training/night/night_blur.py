"""Night-blur synthesis: a sharp photograph in, a (degraded, target) pair out.

The order follows light on its way to a file: scene radiance (with lamps far above white), exposure
loss, camera shake during the exposure, defocus, clipping at the sensor's full well, noise that
depends on the signal, 8 bit, JPEG. The darkening laws and the clipping reversal follow the
published description of LOL-Blur (LEDNet, Zhou et al. 2022, section 3); its own generator was
never released, so this one is inspired by it and not equal to it.

A sample is a pure function of (photograph, config, random generator). Images are (H, W, 3) RGB;
"linear" is proportional to light, with 1.0 the brightest value that the camera can store.

degrade() makes a pair at once. night_scene() and take() are its two halves, the light before the
camera and the camera itself: one scene may be taken many times, as a video does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from dap_led_ros.photometry import (
    LUMINANCE,
    average_over_path,
    linear_to_srgb,
    look_up,
    srgb_to_linear,
    to_uint8,
)

Range = tuple[float, float]


@dataclass(frozen=True)
class NightBlurConfig:
    """Every probability and range of the synthesis. Ranges are uniform unless said otherwise."""

    daylight: float = 0.09  # blurred and noisy, but not darkened

    # Camera shake. Path length in pixels; sub-frames are about one pixel apart.
    blur: float = 0.85
    path_length: Range = (1.0, 22.0)
    straight: float = 0.4
    rotation_degrees: float = 1.2
    max_subframes: int = 16

    # Exposure loss, one of three laws.
    law_linear: float = 0.45
    law_gamma: float = 0.3  # the rest: the curve of EC-Zero-DCE
    exposure: Range = (0.012, 0.2)  # linear law: factor on linear light, log-uniform
    gamma: Range = (2.3, 4.0)  # gamma law: power on the sRGB value
    gamma_scale: Range = (0.45, 1.0)
    curve_mean: Range = (0.05, 0.2)  # curve law: mean lightness afterwards
    uneven_light: float = 0.35  # a smooth random field on top (street lamps, headlights)
    uneven_sigma: float = 0.5
    colour_cast: float = 0.4
    colour_cast_sigma: float = 0.07

    # Light sources that clip after the exposure loss. Radiance in multiples of white.
    lamps: float = 0.32
    lamp_count: tuple[int, int] = (1, 9)
    lamp_radiance: Range = (1.5, 20.0)  # log-uniform
    lamp_radius: Range = (0.8, 9.0)  # pixels, log-uniform
    lamp_glow: Range = (0.0, 0.25)
    keep_highlights: float = 0.25  # near-white parts of the photograph act as lamps

    # Optics and sensor.
    defocus: float = 0.25
    defocus_sigma: Range = (0.4, 1.6)
    shot_noise: Range = (1e-5, 8e-3)  # variance per unit of linear signal, log-uniform
    bayer: float = 0.4
    display_noise: float = 0.3  # Gaussian on the 8-bit values instead of sensor noise
    display_noise_sigma: Range = (1.0, 12.0)  # grey levels
    smoothing: float = 0.2  # the camera's own denoising
    jpeg: float = 0.6
    jpeg_quality: tuple[int, int] = (55, 97)


LOL_BLUR = NightBlurConfig(daylight=0.0, blur=1.0, jpeg=0.0)
"""Every frame of LOL-Blur is dark and blurred, and no JPEG."""


def margin(config: NightBlurConfig) -> int:
    """Pixels around a crop that camera shake may bring in; give degrade() that much more."""
    return int(config.path_length[1] / 2) + 6


def degrade(
    sharp: np.ndarray, config: NightBlurConfig, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, dict]:
    """Make one pair from a sharp photograph.

    :param sharp: (H + 2m, W + 2m, 3) uint8 RGB, m = margin(config).
    :returns: degraded and target, both (H, W, 3) uint8 RGB, and the parameters that were drawn.
    """
    dark, target, drawn = night_scene(sharp, config, rng)
    image = _expose(dark, config, rng, drawn)
    degraded = _sense(image, config, rng, rng, drawn)
    return degraded, to_uint8(linear_to_srgb(_inner(target, config))), drawn


def night_scene(
    sharp: np.ndarray, config: NightBlurConfig, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, dict]:
    """Light of the scene at night and by day: exposure loss, and lamps in both.

    :param sharp: (H, W, 3) uint8 RGB.
    :returns: dark and target, both (H, W, 3) float32, linear; dark has lamps far above 1. And the
        parameters that were drawn.
    """
    night = bool(rng.random() >= config.daylight)
    drawn: dict = {'night': night}
    radiance = srgb_to_linear(sharp)
    target = radiance
    if night:
        radiance = _darken(radiance, config, rng, drawn)
        if rng.random() < config.lamps:
            radiance, target = _add_lamps(radiance, target, config, rng, drawn)
    return radiance, target, drawn


class Frame(NamedTuple):
    """One frame as LOL-Blur has it, each picture (H, W, 3) uint8 RGB and named like its folder."""

    low_sharp: np.ndarray
    """Dark: what a camera without shake, defocus and noise would see."""
    low_blur: np.ndarray
    """Dark and blurred."""
    low_blur_noise: np.ndarray
    """Dark, blurred and noisy: what degrade() returns as degraded."""
    high_sharp_scaled: np.ndarray
    """The target."""


def take(
    dark: np.ndarray,
    target: np.ndarray,
    config: NightBlurConfig,
    rng: np.random.Generator,
    sensor: np.random.Generator | None = None,
) -> tuple[Frame, dict]:
    """Take a frame of a scene: shake, defocus, clipping, noise, 8 bit.

    night_scene() and then take() with one generator draw what degrade() draws.

    :param dark: (H + 2m, W + 2m, 3) float32, linear, m = margin(config); target likewise.
    :param sensor: draws the parameters of the noise, but not its grain, in place of `rng`: the
        frames of one video come from one camera.
    :returns: the frame, (H, W, 3), and the parameters that were drawn.
    """
    drawn: dict = {}
    image = _expose(dark, config, rng, drawn)
    noisy = _sense(image, config, sensor or rng, rng, drawn)
    sharp, reference = _inner(dark, config), _inner(target, config)
    low_sharp, low_blur, high = (to_uint8(linear_to_srgb(i)) for i in (sharp, image, reference))
    return Frame(low_sharp, low_blur, noisy, high), drawn


def _inner(image: np.ndarray, config: NightBlurConfig) -> np.ndarray:
    m = margin(config)
    return image[m:-m, m:-m]


def _expose(
    radiance: np.ndarray, config: NightBlurConfig, rng: np.random.Generator, drawn: dict
) -> np.ndarray:
    """What reaches the sensor while the shutter is open, without the margin, in [0, 1]."""
    if rng.random() < config.blur:
        radiance = _shake(radiance, config, rng, drawn)
    image = _inner(radiance, config)
    if rng.random() < config.defocus:
        drawn['defocus_sigma'] = sigma = rng.uniform(*config.defocus_sigma)
        image = cv2.GaussianBlur(image, (0, 0), sigma)
    return np.clip(image, 0, 1)


def log_uniform(rng: np.random.Generator, bounds: Range) -> float:
    """Draw from a range so that each octave is equally likely."""
    return float(np.exp(rng.uniform(np.log(bounds[0]), np.log(bounds[1]))))


# --- exposure loss ---------------------------------------------------------------------------


def _darken(
    radiance: np.ndarray, config: NightBlurConfig, rng: np.random.Generator, drawn: dict
) -> np.ndarray:
    """Lose exposure by one of three laws; some highlights may stay as bright as lamps."""
    law = rng.choice(
        ['linear', 'gamma', 'curve'],
        p=[config.law_linear, config.law_gamma, 1 - config.law_linear - config.law_gamma],
    )
    drawn['law'] = str(law)
    if law == 'linear':
        drawn['exposure'] = factor = log_uniform(rng, config.exposure)
        # A scene that is dark already keeps more of its light: no camera exposes it to nothing.
        mean = max(float((radiance @ LUMINANCE).mean()), 1e-3)
        dark = radiance * min(1.0, max(factor, 0.002 / mean))
    elif law == 'gamma':
        drawn['gamma'] = power = rng.uniform(*config.gamma)
        drawn['gamma_scale'] = scale = rng.uniform(*config.gamma_scale)
        table = scale * np.linspace(0, 1, 4096) ** power
        dark = srgb_to_linear(look_up(table, linear_to_srgb(radiance)))
    else:
        drawn['curve_mean'] = mean = rng.uniform(*config.curve_mean)
        display = linear_to_srgb(radiance)
        lightness = display.max(axis=2)
        table = _darkening_curve(lightness, mean)
        ratio = look_up(table, lightness) / np.maximum(lightness, 1e-3)
        dark = srgb_to_linear(display * ratio[..., None])
    if rng.random() < config.uneven_light:
        dark = dark * _smooth_field(dark.shape[:2], config.uneven_sigma, rng)[..., None]
    if rng.random() < config.colour_cast:
        cast = np.exp(rng.normal(0, config.colour_cast_sigma, 3)).astype(np.float32)
        dark = dark * (cast / (cast @ LUMINANCE))
    if rng.random() < config.keep_highlights:
        # LOL-Blur keeps near-white pixels and reverses their clipping (LEDNet, section 3).
        gain = log_uniform(rng, (1.0, 3.0))
        near_white = (radiance.min(axis=2) > 0.93).astype(np.float32)
        if 0 < near_white.mean() < 0.04:  # lamps and reflections, not a white sky
            drawn['highlights'] = gain
            dark = np.maximum(dark, (near_white * gain)[..., None] * radiance)
    return dark.astype(np.float32)


def _darkening_curve(lightness: np.ndarray, mean: float) -> np.ndarray:
    """Table of ten steps x + r (x^2 - x), r found so that the mean lightness becomes `mean`.

    The quadratic curve of Zero-DCE (Guo et al. 2020, eq. 2) run backwards with one r per image, in
    place of EC-Zero-DCE's network. r stays below 0.2, where the contrast near white is six-fold
    already; what is missing after that is a plain factor.
    """
    sample = np.ascontiguousarray(lightness[::8, ::8])
    low, high = 0.0, 0.2
    for _ in range(10):
        r = (low + high) / 2
        low, high = (r, high) if float(_ten_steps(sample, r).mean()) > mean else (low, r)
    factor = min(1.0, mean / max(float(_ten_steps(sample, high).mean()), 1e-3))
    return factor * _ten_steps(np.linspace(0, 1, 4096, dtype=np.float32), high)


def _ten_steps(x: np.ndarray, r: float) -> np.ndarray:
    for _ in range(10):
        x = x + r * (x * x - x)
    return x


def _smooth_field(shape: tuple[int, int], sigma: float, rng: np.random.Generator) -> np.ndarray:
    """A positive field of median 1 that varies over a sixth of the image or more."""
    cells = rng.normal(0, sigma, (rng.integers(2, 6), rng.integers(2, 6))).astype(np.float32)
    return np.exp(cv2.resize(cells, shape[::-1], interpolation=cv2.INTER_CUBIC))


# --- light sources ---------------------------------------------------------------------------

_LAMP_COLOURS = np.array(
    [
        [1, 0.95, 0.9],
        [1, 0.75, 0.45],
        [1, 0.6, 0.25],
        [0.8, 0.9, 1],
        [1, 0.15, 0.1],
        [0.2, 1, 0.5],
    ],
    np.float32,
)  # white, warm, sodium, cold, tail light, traffic green


def _add_lamps(
    radiance: np.ndarray,
    target: np.ndarray,
    config: NightBlurConfig,
    rng: np.random.Generator,
    drawn: dict,
) -> tuple[np.ndarray, np.ndarray]:
    """Paint lamps into the dark radiance (far above white) and into the target (just white).

    The faint glow around a lamp is the same in both: the network shall neither amplify it nor
    carve a halo around it.
    """
    radiance, target = radiance.copy(), target.copy()
    height, width = radiance.shape[:2]
    count = int(rng.integers(config.lamp_count[0], config.lamp_count[1] + 1))
    drawn['lamps'] = count
    for _ in range(count):
        radius = log_uniform(rng, config.lamp_radius)
        aspect = log_uniform(rng, (1.0, 6.0)) if rng.random() < 0.35 else 1.0
        angle = rng.choice([0, np.pi / 2]) if rng.random() < 0.7 else rng.uniform(0, np.pi)
        colour = _LAMP_COLOURS[rng.integers(len(_LAMP_COLOURS))]
        colour = np.clip(colour * np.exp(rng.normal(0, 0.1, 3)), 0, 1).astype(np.float32)
        power = log_uniform(rng, config.lamp_radiance)
        glow = rng.uniform(*config.lamp_glow) * min(1.0, radius / 4)
        cx, cy = rng.uniform(0, width), rng.uniform(0, height)

        reach = int(radius * aspect * 5 + 4)
        x0, x1 = max(0, int(cx) - reach), min(width, int(cx) + reach + 1)
        y0, y1 = max(0, int(cy) - reach), min(height, int(cy) + reach + 1)
        x = np.arange(x0, x1, dtype=np.float32)[None, :] - cx
        y = np.arange(y0, y1, dtype=np.float32)[:, None] - cy
        u = (x * np.cos(angle) + y * np.sin(angle)) / aspect
        v = -x * np.sin(angle) + y * np.cos(angle)
        distance = np.maximum(np.abs(u), np.abs(v)) if aspect > 2 else np.hypot(u, v)
        disc = np.clip(radius - distance + 0.5, 0, 1).astype(np.float32)[..., None]
        halo = (glow * np.exp(-distance / (1.2 * radius + 0.5))).astype(np.float32)[..., None]
        halo = halo * np.clip(5 - distance / radius, 0, 1)[..., None]  # ends inside the patch

        here = (slice(y0, y1), slice(x0, x1))
        radiance[here] = radiance[here] * (1 - disc) + disc * power * colour + halo * colour
        shown = np.minimum(power * colour, 1.0)  # what the sensor stores of the lamp when sharp
        target[here] = target[here] * (1 - disc) + disc * shown + halo * colour * (1 - disc)
    return radiance, target


# --- camera shake ----------------------------------------------------------------------------


def camera_path(length: float, count: int, straight: bool, rng: np.random.Generator) -> np.ndarray:
    """(count, 2) positions in pixels of a camera that moves `length` pixels; the mean is zero."""
    heading = rng.uniform(0, 2 * np.pi)
    if not straight:
        turn = np.cumsum(rng.normal(0, 1.2 / np.sqrt(count), count))
        heading = heading + turn + rng.normal(0, 2.0) * np.linspace(0, 1, count) ** 2
    speed = np.exp(rng.normal(0, 0.15 if straight else 0.4, count))
    steps = np.stack([np.cos(heading) * speed, np.sin(heading) * speed], axis=1)
    steps[0] = 0
    steps *= length / max(np.hypot(*steps.T).sum(), 1e-6)
    path = np.cumsum(steps, axis=0)
    return path - path.mean(axis=0)


def _shake(
    radiance: np.ndarray, config: NightBlurConfig, rng: np.random.Generator, drawn: dict
) -> np.ndarray:
    """Average the radiance over a random path of translation and rotation, in linear light."""
    drawn['path_length'] = length = rng.uniform(*config.path_length)
    drawn['straight'] = straight = bool(rng.random() < config.straight)
    count = int(np.clip(np.ceil(length) + 1, 3, config.max_subframes))
    path = camera_path(length, count, straight, rng)
    # Turning moves a border by half the side times the angle: about as much as the path, at most.
    half = max(radiance.shape[:2]) / 2
    limit = min(config.rotation_degrees, np.degrees(length / 2 / half))
    roll = rng.normal(0, 0.4) * limit * np.linspace(-1, 1, count)
    return average_over_path(radiance, path, roll)


# --- sensor and file -------------------------------------------------------------------------


def _sense(
    image: np.ndarray,
    config: NightBlurConfig,
    rng: np.random.Generator,
    grain: np.random.Generator,
    drawn: dict,
) -> np.ndarray:
    """Clipped linear light -> noisy 8-bit sRGB, perhaps through JPEG.

    `rng` draws the parameters, `grain` the noise itself; they may be one.
    """
    if rng.random() < config.display_noise:
        drawn['display_noise_sigma'] = sigma = rng.uniform(*config.display_noise_sigma)
        grey = rng.random() < 0.3
        noise = grain.standard_normal((*image.shape[:2], 1 if grey else 3), dtype=np.float32)
        display = linear_to_srgb(image) + noise * (sigma / 255)
    else:
        drawn['shot_noise'] = shot = log_uniform(rng, config.shot_noise)
        # Read noise follows shot noise across gains (Brooks et al. 2019, section 4.1).
        drawn['read_noise'] = read = float(np.exp(2.18 * np.log(shot) + 1.2 + rng.normal(0, 0.26)))
        drawn['bayer'] = bayer = bool(rng.random() < config.bayer)
        signal = _mosaic(image) if bayer else image
        noise = grain.standard_normal(signal.shape, dtype=np.float32)
        signal = signal + noise * np.sqrt(signal * np.float32(shot) + np.float32(read))
        display = linear_to_srgb(_demosaic(signal) if bayer else signal)
    if rng.random() < config.smoothing:
        drawn['smoothing_sigma'] = sigma = rng.uniform(0.4, 0.9)
        display = cv2.GaussianBlur(display, (0, 0), sigma)
    degraded = to_uint8(display)
    if rng.random() < config.jpeg:
        low, high = config.jpeg_quality
        drawn['jpeg_quality'] = quality = int(rng.integers(low, high + 1))
        _, code = cv2.imencode('.jpg', degraded[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        degraded = cv2.imdecode(code, cv2.IMREAD_COLOR)[..., ::-1]
    return np.ascontiguousarray(degraded)


def _mosaic(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) -> (H, W) RGGB Bayer samples."""
    raw = image[..., 1].copy()
    raw[0::2, 0::2] = image[0::2, 0::2, 0]
    raw[1::2, 1::2] = image[1::2, 1::2, 2]
    return raw


def _demosaic(raw: np.ndarray) -> np.ndarray:
    """(H, W) RGGB samples -> (H, W, 3), bilinear; values are kept above a small pedestal."""
    pedestal = 4096  # room for noise below zero
    stored = np.clip(raw * 60000 + pedestal, 0, 65535).astype(np.uint16)
    colour = cv2.cvtColor(stored, cv2.COLOR_BayerRGGB2RGB)
    return (colour.astype(np.float32) - pedestal) / 60000
