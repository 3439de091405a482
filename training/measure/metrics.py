"""Every image metric of this package, each with one pinned convention.

Frames and references are (H, W, 3) uint8 RGB, whole; results are plain floats. What a machine
lacks (weights of LPIPS, pyiqa) is said in one line and never fetched from here.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from urllib.parse import urlparse

import cv2
import numpy as np
import torch

from dap_led_ros.metrics.intervals import Summary, mean_and_interval, student_t
from dap_led_ros.metrics.luma import LUMA
from dap_led_ros.metrics.luma import exact_luma as luma
from dap_led_ros.metrics.pairs import check
from dap_led_ros.metrics.psnr import PSNR_CAP, aligned_psnr, psnr
from dap_led_ros.metrics.ssim import WINDOW, ssim_rgb, ssim_y

__all__ = [
    'LUMA',
    'PSNR_CAP',
    'Metric',
    'Summary',
    'aligned_psnr',
    'full_reference',
    'grid_energy',
    'halo_depth',
    'lpips',
    'lpips_missing',
    'luma',
    'mean_and_interval',
    'no_reference',
    'psnr',
    'pyiqa_missing',
    'ssim_rgb',
    'ssim_y',
    'student_t',
    'versions',
    'without_reference',
]

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
    window = f'{WINDOW}x{WINDOW} Gaussian window, sigma 1.5, inside the frame, range 255'
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


def lpips(frame: np.ndarray, reference: np.ndarray, net: str = 'vgg') -> float | None:
    """LPIPS 0.1 of RGB frames in [-1, 1]; None where lpips_missing() says what it lacks.

    :param net: vgg or alex.
    """
    check(frame, reference)
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
    check(frame, frame)
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


def _device() -> str:
    return 'cuda' if torch.cuda.is_available() else 'cpu'
