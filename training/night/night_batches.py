"""Night-blur synthesis in batches: sharp crops in, (degraded, clean, day) out, on any device.

The order follows light on its way to a file: scene light, its loss, lamps far above white, blur
by motion and defocus in linear light, the sensor's full well, Poisson-Gaussian noise in a mosaic,
the camera's tone curve, 8 bit, a block codec. draw() takes everything by chance from a generator
of its own for each sample, on the host; degrade() is tensor arithmetic on what was drawn. So a
sample is a pure function of (seed, step, index) and of the crop, whoever computes it beside which
others; between devices it differs by rounding and by the grain of the noise.

`clean` is what the same camera at the same exposure would have written without blur, noise and
codec. From degraded to clean a network learns structure alone, since no brightness is unknown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from dap_led_training.night.codec import coded, smoothed

Range = tuple[float, float]
MARGIN = 16
"""Pixels around a crop that blur may bring in."""
KERNEL = 2 * MARGIN + 1
LAMPS = 6
"""At most so many in a crop."""
_FIELD = 4
"""Cells of the uneven light, a side."""


@dataclass(frozen=True)
class NightConfig:
    """Every share and range of the synthesis. Ranges are uniform unless said otherwise."""

    daylight: float = 0.3
    """Share that loses no light: blurred, perhaps noisy."""
    clean: float = 0.06
    """Share that is not degraded at all."""
    noise_free: float = 0.15

    blur: float = 0.85
    path_length: Range = (1.0, 22.0)
    straight: float = 0.4
    varying: float = 0.35
    """Share of blurred ones whose kernel changes over the crop."""
    defocus: float = 0.2
    defocus_sigma: Range = (0.4, 1.8)

    exposure: Range = (0.008, 0.3)  # log-uniform, factor on linear light
    law_gamma: float = 0.2
    """Share of dark ones whose photograph was darkened by a power of its display value instead."""
    gamma: Range = (1.6, 4.0)
    gamma_scale: Range = (0.45, 1.0)
    uneven_light: float = 0.25
    uneven_sigma: float = 0.4
    colour_cast: float = 0.4
    colour_cast_sigma: float = 0.08
    sodium: float = 0.05
    """Share of dark ones in orange light, which has almost no blue."""

    lamps: float = 0.3
    lamp_radiance: Range = (1.5, 25.0)  # log-uniform, in multiples of white
    lamp_radius: Range = (0.7, 9.0)  # log-uniform, pixels

    shot_noise: Range = (2e-5, 3e-3)  # log-uniform, variance for a unit of light
    mosaic: float = 0.6
    smoothing: float = 0.2
    """Share of cameras that smooth their pictures."""

    curve: float = 0.4
    """Share of cameras with a tone curve of their own on top of sRGB."""
    curve_power: Range = (0.85, 2.0)
    curve_contrast: Range = (0.0, 1.0)
    """0 is none, 1 is a full S."""
    black: Range = (0.0, 0.04)
    """Display value below which such a camera writes black."""

    codec: float = 0.4
    video: float = 0.35
    """Share of codecs that are a video's: small blocks, flat steps, smoothed."""
    quality: Range = (30.0, 96.0)


class Drawn(NamedTuple):
    """Everything drawn for samples; draw() gives one, stack() a batch (leading dimension B)."""

    kernels: Tensor
    """(2, KERNEL, KERNEL), each of sum 1; they blend over the crop where `slope` is not 0."""
    slope: Tensor
    """(3,): direction x and y and offset of the blend between the kernels."""
    light: Tensor
    """(5,): exposure, gamma (0: none), and factors of red, green and blue."""
    field: Tensor
    """(_FIELD, _FIELD): natural logarithm of the uneven light."""
    lamps: Tensor
    """(LAMPS, 8): x, y, radius along and across, angle, radiance (0: none), warmth, tint."""
    sensor: Tensor
    """(4,): shot noise, variance of the read noise, mosaic (0 or 1), smoothing sigma."""
    curve: Tensor
    """(3,): black, power and contrast of the camera's own tone curve."""
    codec: Tensor
    """(4,): kind (0 none, 1 JPEG, 2 video), step, and the blocks' offset in x and y."""
    seed: Tensor
    """() int64, of the noise's grain."""


def draw(config: NightConfig, rng: np.random.Generator, crop: int) -> Drawn:
    """Draw the parameters of one sample.

    :param crop: side of the crop without its margin, pixels.
    """
    clean = rng.random() < config.clean
    dark = not clean and rng.random() >= config.daylight
    kernels, slope = _kernels(config, rng, clean, crop)
    shot = _log_uniform(rng, config.shot_noise)
    if not dark:
        shot *= 0.3
    # Read noise follows shot noise across gains (Brooks et al. 2019, section 4.1).
    read = float(np.exp(2.18 * np.log(shot) + 1.2 + rng.normal(0, 0.26)))
    quiet = clean or rng.random() < config.noise_free
    sensor = [0 if quiet else shot, 0 if quiet else read, rng.random() < config.mosaic, 0.0]
    if not quiet and rng.random() < config.smoothing:
        sensor[3] = rng.uniform(0.4, 0.9)
    curve = [0.0, 1.0, 0.0]
    if not clean and rng.random() < config.curve:
        curve = [
            rng.uniform(*config.black) * (rng.random() < 0.5) * (1.0 if dark else 0.3),
            rng.uniform(*config.curve_power),
            rng.uniform(*config.curve_contrast),
        ]
    codec = [0.0] * 4
    if not quiet and rng.random() < config.codec:
        quality = rng.uniform(*config.quality)
        factor = 50 / quality if quality < 50 else 2 - quality / 50  # libjpeg's scale
        codec = [1.0 + (rng.random() < config.video), factor, *rng.integers(0, 8, 2)]
    tensors = (
        kernels,
        slope,
        _light(config, rng, dark),
        _field(config, rng, dark),
        _lamps(config, rng, dark, crop),
        sensor,
        curve,
        codec,
    )
    return Drawn(
        *(torch.as_tensor(np.asarray(one), dtype=torch.float32) for one in tensors),
        torch.tensor(int(rng.integers(2**62))),
    )


def stack(drawn: list[Drawn]) -> Drawn:
    """Several samples' parameters as a batch."""
    return Drawn(*(torch.stack(parts) for parts in zip(*drawn)))


def _log_uniform(rng: np.random.Generator, bounds: Range) -> float:
    return float(np.exp(rng.uniform(np.log(bounds[0]), np.log(bounds[1]))))


def _kernels(
    config: NightConfig, rng: np.random.Generator, clean: bool, crop: int
) -> tuple[np.ndarray, np.ndarray]:
    length = defocus = 0.0
    if not clean and rng.random() < config.blur:
        length = rng.uniform(*config.path_length)
    if not clean and rng.random() < config.defocus:
        defocus = rng.uniform(*config.defocus_sigma)
    path = _path(length, rng.random() < config.straight, rng)
    first = second = kernel_of(path, defocus)
    slope = np.zeros(3)
    if length and rng.random() < config.varying:
        # The camera rolls, or another depth moves less: the path turned and scaled.
        turn, scale = rng.normal(0, 0.5), rng.uniform(0.2, 1.3)
        matrix = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        second = kernel_of(path @ matrix, defocus)
        angle, hardness = rng.uniform(0, 2 * np.pi), _log_uniform(rng, (1.5, 40.0)) / crop
        offset = rng.uniform(-0.3, 0.3) * crop
        slope = np.array([np.cos(angle) * hardness, np.sin(angle) * hardness, offset * hardness])
    return np.stack([first, second]), slope


def _path(length: float, straight: bool, rng: np.random.Generator) -> np.ndarray:
    """(N, 2) places of the camera while the shutter is open, pixels, of mean 0."""
    count = 64
    heading = np.full(count, rng.uniform(0, 2 * np.pi))
    if not straight:
        heading += rng.normal(0, 1.0) * np.linspace(-0.5, 0.5, count)
        heading += np.cumsum(rng.normal(0, 0.1, count))
    speed = np.exp(np.cumsum(rng.normal(0, 0.05 if straight else 0.1, count)))
    steps = np.stack([np.cos(heading), np.sin(heading)], 1) * speed[:, None]
    path = np.cumsum(steps * (length / speed.sum()), axis=0)
    return path - path.mean(0)


def kernel_of(path: np.ndarray, defocus: float) -> np.ndarray:
    """(KERNEL, KERNEL) of sum 1: the path, drawn bilinearly, and a Gaussian on it."""
    path = np.clip(path, -MARGIN + 1.01, MARGIN - 1.01) + MARGIN
    whole = np.floor(path).astype(int)
    part = path - whole
    kernel = np.zeros((KERNEL, KERNEL))
    for dy in (0, 1):
        for dx in (0, 1):
            share = np.abs(1 - dx - part[:, 0]) * np.abs(1 - dy - part[:, 1])
            np.add.at(kernel, (whole[:, 1] + dy, whole[:, 0] + dx), share)
    if defocus:
        taps = np.exp(-0.5 * (np.arange(-5, 6) / defocus) ** 2)
        taps /= taps.sum()
        for axis in (0, 1):
            kernel = np.apply_along_axis(np.convolve, axis, kernel, taps, 'same')
    return kernel / kernel.sum()


def _light(config: NightConfig, rng: np.random.Generator, dark: bool) -> np.ndarray:
    exposure, gamma, cast = 1.0, 0.0, np.ones(3)
    if dark:
        exposure = _log_uniform(rng, config.exposure)
        if rng.random() < config.law_gamma:
            exposure, gamma = rng.uniform(*config.gamma_scale), rng.uniform(*config.gamma)
        if rng.random() < config.colour_cast:
            cast = np.exp(rng.normal(0, config.colour_cast_sigma, 3))
        if rng.random() < config.sodium:
            cast = np.array([1.4, 0.85, rng.uniform(0.08, 0.3)])
    return np.array([exposure, gamma, *cast])


def _field(config: NightConfig, rng: np.random.Generator, dark: bool) -> np.ndarray:
    uneven = dark and rng.random() < config.uneven_light
    return rng.normal(0, config.uneven_sigma if uneven else 0.0, (_FIELD, _FIELD))


def _lamps(config: NightConfig, rng: np.random.Generator, dark: bool, crop: int) -> np.ndarray:
    lamps = np.zeros((LAMPS, 8))
    if dark and rng.random() < config.lamps:
        for lamp in lamps[: rng.integers(1, LAMPS + 1)]:
            radius = _log_uniform(rng, config.lamp_radius)
            aspect = _log_uniform(rng, (1.0, 5.0)) if rng.random() < 0.35 else 1.0
            place = rng.uniform(0, crop + 2 * MARGIN, 2)
            radiance = _log_uniform(rng, config.lamp_radiance)
            colours = rng.uniform(0, 1), rng.uniform(0.9, 1.0)
            lamp[:] = [*place, radius * aspect, radius, rng.uniform(0, np.pi), radiance, *colours]
    return lamps


# --- on the device ---------------------------------------------------------------------------


class Degraded(NamedTuple):
    """What degrade() makes; pictures are (B, 3, H, W), sRGB in [0, 1]."""

    degraded: Tensor
    """As a camera would write it, on 255 steps."""
    clean: Tensor
    """The same camera and exposure: sharp, no noise, no steps, no codec."""
    day: Tensor
    """The photograph, with the lamps in it."""
    power: Tensor
    """(B,): about the power of light that undoes the camera's curve; 1 for sRGB."""


def degrade(photographs: Tensor, drawn: Drawn) -> Degraded:
    """Degrade a batch of sharp crops.

    :param photographs: (B, 3, H + 2 MARGIN, W + 2 MARGIN) uint8 sRGB, on the device.
    """
    drawn = Drawn(*(one.to(photographs.device) for one in drawn))
    day = photographs.float() / 255
    light = _darkened(day, drawn)
    light, day = _with_lamps(light, day, drawn)
    sharp = _inner(light).clamp(0, 1)
    clean = _developed(sharp, drawn.curve)
    noisy = _sensed(_blurred(light, drawn), drawn)
    written = _developed(noisy, drawn.curve)
    written = smoothed(written, drawn.sensor[:, 3])
    written = coded(written, drawn.codec)
    degraded = (written.clamp(0, 1) * 255).round() / 255
    # Samples that are not degraded at all are their own target, to the last bit.
    same = _undegraded(drawn)
    if same.any():
        clean[same] = degraded[same]
    return Degraded(degraded, clean, _inner(day), _power(clean, drawn))


def _undegraded(drawn: Drawn) -> Tensor:
    middle = drawn.kernels[:, 0, MARGIN, MARGIN] > 0.999
    light = drawn.light[:, 0] == 1
    return middle & light & (drawn.sensor[:, 0] == 0) & (drawn.codec[:, 0] == 0)


def _column(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def _inner(image: Tensor) -> Tensor:
    return image[..., MARGIN:-MARGIN, MARGIN:-MARGIN]


def to_light(display: Tensor) -> Tensor:
    """Linear light of sRGB values in [0, 1]."""
    return torch.where(
        display <= 0.04045, display / 12.92, ((display.clamp(min=0.04) + 0.055) / 1.055) ** 2.4
    )


def to_display(light: Tensor) -> Tensor:
    """Inverse of to_light(), for any light from 0."""
    return torch.where(
        light <= 0.0031308, 12.92 * light, 1.055 * light.clamp(min=0.003) ** (1 / 2.4) - 0.055
    )


def _darkened(day: Tensor, drawn: Drawn) -> Tensor:
    exposure, gamma = _column(drawn.light[:, 0]), _column(drawn.light[:, 1])
    by_power = (gamma > 0).float()
    shown = exposure * day.clamp(min=1e-4) ** torch.where(gamma > 0, gamma, 1.0)
    light = to_light(torch.lerp(day, shown, by_power))
    light = light * torch.lerp(exposure, torch.ones_like(exposure), by_power)
    cast = drawn.light[:, 2:, None, None]
    if drawn.field.any():
        field = functional.interpolate(
            drawn.field[:, None], size=day.shape[-2:], mode='bicubic', align_corners=True
        )
        cast = cast * torch.exp(field)
    return light * cast


def _with_lamps(light: Tensor, day: Tensor, drawn: Drawn) -> tuple[Tensor, Tensor]:
    """Discs and bars of light with soft borders, far above white by night and white by day."""
    if not drawn.lamps[:, 0, 5].any():
        return light, day
    light, day = light.clone(), day.clone()
    height, width = light.shape[-2:]
    for index in torch.nonzero(drawn.lamps[:, 0, 5]).flatten().tolist():
        for x, y, along, across, angle, radiance, warmth, tint in drawn.lamps[index].tolist():
            if not radiance:
                continue
            # As far as the soft border is brighter than a thousandth of white.
            reach = int(along * (1 + np.log(1000 * max(radiance, 1)) / (2.5 * across)) + 2)
            x0, x1 = max(0, int(x) - reach), min(width, int(x) + reach + 1)
            y0, y1 = max(0, int(y) - reach), min(height, int(y) + reach + 1)
            if x0 >= x1 or y0 >= y1:
                continue
            dx = torch.arange(x0, x1, device=light.device)[None, :] - x
            dy = torch.arange(y0, y1, device=light.device)[:, None] - y
            cos, sin = float(np.cos(angle)), float(np.sin(angle))
            u, v = (dx * cos + dy * sin) / along, (dy * cos - dx * sin) / across
            distance = torch.sqrt(u * u + v * v + 1e-9)
            disc = torch.sigmoid((1 - distance) * across * 2.5)
            colour = torch.tensor(
                [1.0, tint - 0.5 * warmth**2, max(0.05, 1 - warmth)], device=light.device
            )
            disc = disc * colour[:, None, None]
            place = light[index, :, y0:y1, x0:x1]
            place.copy_(torch.maximum(place, disc * radiance))
            place = day[index, :, y0:y1, x0:x1]
            place.copy_(torch.maximum(place, to_display((1.5 * disc).clamp(max=1))))
    return light, day


def _blurred(light: Tensor, drawn: Drawn) -> Tensor:
    """Convolved with the kernels, by the Fourier transform; inside the margin it is exact."""
    size = light.shape[-2:]
    moved = torch.nonzero(drawn.kernels[:, 0, MARGIN, MARGIN] < 0.999).flatten()
    inner = _inner(light).clone()
    if not len(moved):
        return inner.clamp(0, 1)
    kernels = functional.pad(
        drawn.kernels[moved], (0, size[1] - KERNEL, 0, size[0] - KERNEL)
    ).roll((-MARGIN, -MARGIN), (-2, -1))
    spectrum = torch.fft.rfft2(light[moved])
    answers = torch.fft.rfft2(kernels)
    blurred = _inner(torch.fft.irfft2(spectrum * answers[:, :1], s=size))
    two = torch.nonzero(drawn.slope[moved].any(1)).flatten()
    if len(two):
        second = _inner(torch.fft.irfft2(spectrum[two] * answers[two, 1:], s=size))
        height, width = inner.shape[-2:]
        y, x = torch.meshgrid(
            torch.arange(height, device=light.device) - height / 2,
            torch.arange(width, device=light.device) - width / 2,
            indexing='ij',
        )
        slope = drawn.slope[moved][two].view(-1, 3, 1, 1)
        share = torch.sigmoid(slope[:, 0] * x + slope[:, 1] * y + slope[:, 2])[:, None]
        blurred[two] = torch.lerp(blurred[two], second, share)
    inner[moved] = blurred
    return inner.clamp(0, 1)


def _sensed(light: Tensor, drawn: Drawn) -> Tensor:
    """With noise, perhaps of a Bayer mosaic, whose colours are then interpolated."""
    noisy = torch.nonzero(drawn.sensor[:, 0]).flatten()
    if not len(noisy):
        return light
    signal, sensor = light[noisy], drawn.sensor[noisy]
    grain = torch.stack([_grain(int(s), signal.shape[1:], signal) for s in drawn.seed[noisy]])
    deviation = torch.sqrt(signal * _column(sensor[:, 0]) + _column(sensor[:, 1]))
    signal = signal + grain * deviation
    mosaic = torch.nonzero(sensor[:, 2]).flatten()
    if len(mosaic):
        signal[mosaic] = _through_mosaic(signal[mosaic])
    light = light.clone()
    light[noisy] = signal
    return light.clamp(0, 1)


def _grain(seed: int, shape: torch.Size, like: Tensor) -> Tensor:
    generator = torch.Generator(like.device).manual_seed(seed)
    return torch.randn(shape, generator=generator, device=like.device)


def _through_mosaic(colour: Tensor) -> Tensor:
    """Keep one colour of each pixel (RGGB) and interpolate the others bilinearly."""
    height, width = colour.shape[-2:]
    y = (torch.arange(height, device=colour.device) % 2)[:, None]
    x = (torch.arange(width, device=colour.device) % 2)[None, :]
    kept = torch.stack([(1 - y) * (1 - x), (y + x) % 2, y * x]).float()
    cross = torch.tensor([[0, 1, 0], [1, 4, 1], [0, 1, 0]], device=colour.device) / 4.0
    square = torch.tensor([[1, 2, 1], [2, 4, 2], [1, 2, 1]], device=colour.device) / 4.0
    taps = torch.stack([square, cross, square])[:, None]
    padded = functional.pad(colour * kept, (1, 1, 1, 1), mode='reflect')
    return functional.conv2d(padded, taps, groups=3)


def _developed(light: Tensor, curve: Tensor) -> Tensor:
    """The camera's tone curve: sRGB, and of its own a black point, a power and an S."""
    display = to_display(light)
    own = torch.nonzero((curve != curve.new_tensor([0.0, 1.0, 0.0])).any(1)).flatten()
    if len(own):
        black, power, contrast = (_column(curve[own, i]) for i in range(3))
        value = ((display[own] - black) / (1 - black)).clamp(0, 1)
        value = value.clamp(min=1e-5) ** power
        display[own] = torch.lerp(value, value * value * (3 - 2 * value), contrast)
    return display


def _power(clean: Tensor, drawn: Drawn) -> Tensor:
    """1 / the slope of log(display after) over log(display before) where the frame is."""
    before = drawn.light[:, 1].clamp(min=1)
    middle = clean.mean((1, 2, 3)).clamp(0.02, 0.9)
    # An S in the shadows is v^2 (3 - 2 v): its slope goes from 2 to 1.
    s = drawn.curve[:, 2] * (2 * (3 - 3 * middle) / (3 - 2 * middle) - 1).clamp(min=0)
    return 1 / (before * drawn.curve[:, 1] * (1 + s * (1 - middle)))
