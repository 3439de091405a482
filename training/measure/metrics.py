"""Every image metric of this package, each with one pinned convention.

Frames and references are (H, W, 3) uint8 RGB, whole; results are plain floats. What a machine
lacks (weights of LPIPS, pyiqa) is said in one line and never fetched from here.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlparse

import cv2
import numpy as np
import torch

from dap_led_training.targets import LUMA

PSNR_CAP = 50.0
"""The most that a frame counts in a mean over frames, dB: by day one may come back untouched."""
_WINDOW = 11
_NO_REFERENCE = {'niqe': 'NIQE', 'musiq': 'MUSIQ', 'nrqm': 'NRQM'}


@dataclass(frozen=True)
class Metric:
    """A column of a table."""

    label: str
    measure: Callable[..., float]
    """(frame, reference) -> value; of a metric without reference (frame) -> value."""
    digits: int
    """Decimals in a table."""
    convention: str
    """One line for the head of a report."""


def full_reference() -> tuple[dict[str, Metric], list[str]]:
    """The metrics against a reference that this machine can measure, and why it lacks others."""
    window = f'{_WINDOW}x{_WINDOW} Gaussian window, sigma 1.5, inside the frame, range 255'
    metrics = {
        'psnr': Metric(
            'PSNR',
            lambda frame, reference: psnr(frame, reference, PSNR_CAP),
            2,
            f'dB, one mean squared error over R, G and B, capped at {PSNR_CAP:.0f}',
        ),
        'ssim_rgb': Metric('SSIM-RGB', ssim_rgb, 3, f'mean of R, G and B, {window}'),
        'ssim_y': Metric(
            'SSIM-Y', ssim_y, 3, 'the same on 0.299 R + 0.587 G + 0.114 B of full-range RGB'
        ),
    }
    reasons = []
    for net, label in (('vgg', 'LPIPS-VGG'), ('alex', 'LPIPS-Alex')):
        if reason := lpips_missing(net):
            reasons.append(reason)
        else:
            metrics[f'lpips_{net}'] = Metric(
                label,
                lambda frame, reference, net=net: lpips(frame, reference, net),
                3,
                'version 0.1, RGB in [-1, 1]; less is better',
            )
    return metrics, reasons


def without_reference() -> tuple[dict[str, Metric], list[str]]:
    """The metrics of a frame alone that this machine can measure, and why it lacks others."""
    if reason := pyiqa_missing():
        return {}, [reason]
    conventions = {
        'niqe': "pyiqa's default; less is better",
        'musiq': "pyiqa's default (KonIQ-10k)",
        'nrqm': "pyiqa's default",
    }
    return {
        name: Metric(
            label, lambda frame, name=name: no_reference(frame, name), 3, conventions[name]
        )
        for name, label in _NO_REFERENCE.items()
    }, []


def versions() -> dict[str, str]:
    """Versions of the libraries that the figures depend on, without importing them."""
    found = {}
    for name in ('torch', 'torchmetrics', 'torchvision', 'pyiqa'):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = 'not installed'
    return found


# --- against a reference ----------------------------------------------------------------------


def psnr(frame: np.ndarray, reference: np.ndarray, cap: float | None = None) -> float:
    """PSNR in dB, from the mean squared error over all pixels and channels; range 255.

    :param cap: the most that is returned; without it identical frames are infinite.
    :raises ValueError: the frames are not two uint8 RGB frames of one size.
    """
    _check(frame, reference)
    error = np.mean((frame.astype(np.float64) - reference) ** 2)
    value = math.inf if error == 0 else 10 * math.log10(255**2 / error)
    return value if cap is None else min(cap, value)


def aligned_psnr(frame: np.ndarray, reference: np.ndarray, cap: float | None = None) -> float:
    """PSNR after each channel's mean has been scaled to the reference's."""
    _check(frame, reference)
    means = frame.mean((0, 1)), reference.mean((0, 1))
    scaled = np.clip(frame * (means[1] / np.maximum(means[0], 1)) + 0.5, 0, 255)
    return psnr(scaled.astype(np.uint8), reference, cap)


def ssim_rgb(frame: np.ndarray, reference: np.ndarray) -> float:
    """SSIM, the mean over R, G and B: 11x11 Gaussian window, sigma 1.5, range 255.

    :raises ValueError: the frames are not two uint8 RGB frames of one size, 11x11 at least.
    """
    _check(frame, reference)
    return _ssim(frame, reference)


def ssim_y(frame: np.ndarray, reference: np.ndarray) -> float:
    """SSIM of luma(), with the window of ssim_rgb().

    :raises ValueError: as ssim_rgb().
    """
    _check(frame, reference)
    return _ssim(luma(frame)[..., None], luma(reference)[..., None])


def luma(frame: np.ndarray) -> np.ndarray:
    """BT.601 luma of a full-range RGB frame: (H, W) float32 in [0, 255], not rounded.

    MATLAB's and pyiqa's "Y" is of limited range, 16 to 235; theirs is another SSIM.
    """
    return frame.astype(np.float32) @ np.array(LUMA, np.float32)


def _ssim(frame: np.ndarray, reference: np.ndarray) -> float:
    """SSIM of two (H, W, C) arrays in [0, 255], over the windows that lie inside the frame.

    So do the authors' code, pyiqa and scikit-image.
    """
    if min(frame.shape[:2]) < _WINDOW:
        raise ValueError(f'frames of {_size(frame)}: SSIM needs {_WINDOW}x{_WINDOW} at least')
    x, y = (np.asarray(i, np.float32) for i in (frame, reference))
    mean_x, mean_y, square_x, square_y, product = (
        cv2.GaussianBlur(i, (_WINDOW, _WINDOW), 1.5) for i in (x, y, x * x, y * y, x * y)
    )
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    means = mean_x * mean_y
    squares = mean_x**2 + mean_y**2
    ssim_map = (2 * means + c1) * (2 * (product - means) + c2)
    ssim_map /= (squares + c1) * (square_x + square_y - squares + c2)
    border = _WINDOW // 2
    height, width = frame.shape[:2]
    return float(ssim_map[border : height - border, border : width - border].mean())


def lpips(frame: np.ndarray, reference: np.ndarray, net: str = 'vgg') -> float | None:
    """LPIPS 0.1 of RGB frames in [-1, 1]; None where lpips_missing() says what it lacks.

    :param net: vgg or alex.
    """
    _check(frame, reference)
    if lpips_missing(net):
        return None
    network = _lpips_network(net)
    tensors = (
        torch.from_numpy(np.ascontiguousarray(i.transpose(2, 0, 1)))[None]
        .to(_device())
        .float()
        .div_(127.5)
        .sub_(1)
        for i in (frame, reference)
    )
    with torch.inference_mode():
        return float(network(*tensors))


def lpips_missing(net: str) -> str:
    """What LPIPS lacks on this machine and how to get it, in one line; '' where nothing.

    torchmetrics brings LPIPS' own weights; those of the network beneath are torchvision's, which
    torch.hub keeps in a folder. Nothing is downloaded here.
    """
    name = {'vgg': 'LPIPS-VGG', 'alex': 'LPIPS-Alex'}[net]
    if importlib.util.find_spec('torchvision') is None:
        return f'{name}: pip install torchvision'
    from torchvision import models

    weights = {'vgg': models.VGG16_Weights, 'alex': models.AlexNet_Weights}[net]
    url = weights.DEFAULT.url
    path = Path(torch.hub.get_dir()) / 'checkpoints' / Path(urlparse(url).path).name
    return '' if path.is_file() else f'{name}: fetch {url} and put it at {path}'


@cache
def _lpips_network(net: str) -> torch.nn.Module:
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    # The network inside: the metric itself sums up every frame it has ever seen.
    return LearnedPerceptualImagePatchSimilarity(net_type=net).net.to(_device())


# --- without a reference ----------------------------------------------------------------------


def no_reference(frame: np.ndarray, name: str) -> float | None:
    """NIQE, MUSIQ or NRQM of an RGB frame; None where pyiqa is not installed.

    :param name: niqe, musiq or nrqm.
    """
    _check(frame, frame)
    if pyiqa_missing():
        return None
    tensor = torch.from_numpy(np.ascontiguousarray(frame.transpose(2, 0, 1)))[None]
    with torch.inference_mode():
        return float(_pyiqa_metric(name)(tensor.to(_device()).float().div_(255)))


def pyiqa_missing() -> str:
    """Why there is no metric without a reference, in one line; '' where there is."""
    if importlib.util.find_spec('pyiqa') is not None:
        return ''
    labels = ', '.join(_NO_REFERENCE.values())
    return f'{labels}: pip install pyiqa (its licence is non-commercial; it downloads weights)'


@cache
def _pyiqa_metric(name: str) -> Callable[[torch.Tensor], torch.Tensor]:
    import pyiqa

    return pyiqa.create_metric(name, device=_device())


# --- two faults of restoration networks -------------------------------------------------------


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


# --- means over frames ------------------------------------------------------------------------


class Summary(NamedTuple):
    """A metric over many frames."""

    mean: float
    """Over all frames."""
    interval: float | None
    """Half the width of the 95% interval by group; None with a single group."""
    groups: dict[str, float]
    """The mean of each group."""


def mean_and_interval(values: Sequence[float], groups: Sequence[str]) -> Summary:
    """Mean over frames, and a 95% interval of the mean over videos.

    The frames of one video are correlated, so that the videos are what is counted: the interval is
    Student's t times the standard error of the means of the videos. It is about their mean, which
    is the mean over frames where all videos are of one length.

    :param groups: the video of each frame.
    :raises ValueError: no frames, or not one group for each value.
    """
    if not len(values) or len(values) != len(groups):
        raise ValueError(f'{len(values)} values of {len(groups)} frames: one each is needed')
    by_group: dict[str, list[float]] = {}
    for value, group in zip(values, groups):
        by_group.setdefault(group, []).append(value)
    means = {group: float(np.mean(inside)) for group, inside in by_group.items()}
    count, interval = len(means), None
    if count > 1:
        error = float(np.std(list(means.values()), ddof=1)) / math.sqrt(count)
        interval = student_t(count - 1) * error
    return Summary(float(np.mean(values)), interval, means)


def student_t(degrees: int, probability: float = 0.975) -> float:
    """Quantile of Student's t, for whole degrees of freedom; right to six digits.

    With t = sqrt(n) tan(a) the density of the angle a is that of cos(a) ** (n - 1).
    """
    edges = np.linspace(-np.pi / 2, np.pi / 2, 200_001)
    density = np.cos((edges[1:] + edges[:-1]) / 2) ** (degrees - 1)
    share = np.concatenate([[0.0], np.cumsum(density)]) / density.sum()
    return float(math.sqrt(degrees) * np.tan(np.interp(probability, share, edges)))


def _check(frame: np.ndarray, reference: np.ndarray) -> None:
    for image in (frame, reference):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f'{image.dtype} {image.shape}: expected uint8 (H, W, 3) RGB')
    if frame.shape != reference.shape:
        raise ValueError(
            f'a frame of {_size(frame)} against a reference of {_size(reference)}: '
            'they must be of one size'
        )


def _size(frame: np.ndarray) -> str:
    return f'{frame.shape[1]}x{frame.shape[0]}'


def _device() -> str:
    return 'cuda' if torch.cuda.is_available() else 'cpu'
