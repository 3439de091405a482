"""What a camera's smoothing and its codec do to pictures, in batches."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def smoothed(display: Tensor, sigma: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) by 3x3 Gaussians of sigma (B,) pixels; 0 leaves one as it is."""
    chosen = torch.nonzero(sigma).flatten()
    if not len(chosen):
        return display
    side = torch.exp(-0.5 / sigma[chosen] ** 2)
    taps = torch.stack([side, torch.ones_like(side), side], 1)
    taps = taps / taps.sum(1, keepdim=True)
    picture = display[chosen]
    batch, _, height, width = picture.shape
    kernel = (taps[:, :, None] * taps[:, None, :]).repeat_interleave(3, 0)[:, None]
    padded = functional.pad(picture, (1, 1, 1, 1), mode='replicate').flatten(0, 1)[None]
    smooth = functional.conv2d(padded, kernel, groups=3 * batch)
    display = display.clone()
    display[chosen] = smooth.view(batch, 3, height, width)
    return display


_TO_YCC = torch.tensor(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
)
_LUMA_STEPS = torch.tensor(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
"""ITU-T T.81, table K.1."""


def coded(display: Tensor, codec: Tensor) -> Tensor:
    """Blocks of 8x8 in steps, as JPEG and video have them.

    :param display: pictures (B, 3, H, W) in [0, 1].
    :param codec: (B, 4): 0 none, 1 JPEG, 2 flat steps and smoothed, as a video's; the steps' size;
        where the grid of blocks begins, y and x.
    """
    chosen = torch.nonzero(codec[:, 0]).flatten()
    if not len(chosen):
        return display
    picture, codec = display[chosen].clamp(0, 1), codec[chosen]
    to_ycc = _TO_YCC.to(picture)
    ycc = torch.einsum('ij,bjhw->bihw', to_ycc, picture * 255) - ycc_offset(picture)
    steps = _LUMA_STEPS.to(picture).expand(len(chosen), 3, 8, 8).clone()
    video = codec[:, 0] == 2
    steps[video] = 28.0
    steps[:, 1:] *= 1.5
    steps = (steps * codec[:, 1].view(-1, 1, 1, 1)).clamp(min=1)
    shifts = codec[:, 2:].long().tolist()
    height, width = ycc.shape[-2:]
    padded = functional.pad(ycc, (0, 8, 0, 8), mode='replicate')
    padded = functional.pad(padded, (8, 0, 8, 0), mode='replicate')
    ycc = torch.stack(
        [one[:, y : y + height + 8, x : x + width + 8] for one, (y, x) in zip(padded, shifts)]
    )
    # Colour at half its size.
    colour = functional.avg_pool2d(ycc[:, 1:], 2)
    colour = _in_steps(colour, steps[:, 1:])
    colour = functional.interpolate(colour, size=ycc.shape[-2:], mode='bilinear')
    ycc = torch.cat([_in_steps(ycc[:, :1], steps[:, :1]), colour], 1)
    ycc = torch.stack(
        [one[:, 8 - y : 8 - y + height, 8 - x : 8 - x + width] for one, (y, x) in zip(ycc, shifts)]
    )
    rgb = torch.einsum('ij,bjhw->bihw', torch.linalg.inv(to_ycc), ycc + ycc_offset(picture)) / 255
    rgb = smoothed(rgb, torch.where(video, 0.5, 0.0))
    display = display.clone()
    display[chosen] = rgb
    return display


def ycc_offset(like: Tensor) -> Tensor:
    """What is taken from luma so that its range lies around 0."""
    return like.new_tensor([128.0, 0.0, 0.0]).view(1, 3, 1, 1)


def _in_steps(planes: Tensor, steps: Tensor) -> Tensor:
    """Round the cosine transform of 8x8 blocks to steps (B, C, 8, 8)."""
    batch, channels, height, width = planes.shape
    down, right = -height % 8, -width % 8
    padded = functional.pad(planes, (0, right, 0, down), mode='replicate')
    rows, columns = padded.shape[-2] // 8, padded.shape[-1] // 8
    blocks = padded.view(batch, channels, rows, 8, columns, 8).transpose(3, 4)
    n = torch.arange(8, device=planes.device, dtype=planes.dtype)
    cosine = torch.cos((2 * n[None, :] + 1) * n[:, None] * torch.pi / 16) / 2
    cosine[0] /= 2**0.5
    steps = steps[:, :, None, None]
    codes = torch.round(cosine @ blocks @ cosine.T / steps) * steps
    blocks = cosine.T @ codes @ cosine
    planes = blocks.transpose(3, 4).reshape(batch, channels, 8 * rows, 8 * columns)
    return planes[..., :height, :width]
