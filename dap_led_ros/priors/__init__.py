"""Degradation priors: what estimates how dark and how blurred a frame is, and where.

A prior is a torch module that maps frames (B, 3, H, W), RGB in [0, 1], of any size, to a
Degradation. It is frozen, and it is a function of the frame alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, NamedTuple

import torch
from torch import Tensor

NAMES = ('joint', 'low_light', 'blur')
"""The K = 3 things that every prior estimates, in this order."""

KINDS = ('clip', 'learned', 'controller', 'distilled', 'handcrafted', 'none')
PROMPTS = ('joint_antonyms', 'joint', 'low_light', 'blur')
DENSE_MODES = ('last', 'maskclip', 'vv')


class Degradation(NamedTuple):
    """What a prior says; everything in [0, 1], 1 is fully degraded."""

    heatmaps: Tensor
    """(B, K, h, w): where. The map covers the whole frame, whatever h and w are."""
    scores: Tensor
    """(B, K): how much, of the frame as a whole."""


def in_full_precision(forward: Callable) -> Callable:
    """Run a prior's forward outside of any autocast, so that training sees what inference sees."""

    @wraps(forward)
    def run(self: Any, frame: Tensor) -> Degradation:
        with torch.autocast(frame.device.type, enabled=False):
            return forward(self, frame)

    return run


@dataclass(frozen=True)
class PriorConfig:
    """Which prior, and how its heat-maps are read (restoration gaps of DAP-LED, section III-B)."""

    kind: str = 'clip'
    """clip; learned: a CLIP with a learned pair of prompts; controller: a CLIP with DA-CLIP's
    controller; distilled: a small network that imitates degradation-clip-tiny; handcrafted:
    luminance and local sharpness; none: 1 everywhere."""
    clip: str = 'degradation-clip-tiny'
    """The CLIP that ships, a folder that open_clip reads, or a name that open_clip knows."""
    weights: str = ''
    """For a name that open_clip knows: the path of its weights, or a tag to download."""
    controller: str = ''
    """For the kind controller: the path of what a training of kind da_clip wrote."""
    prompts: str = 'joint_antonyms'
    """What guides the network. joint: the cosine to "This is a low-light and blurry image.",
    as the paper writes it. joint_antonyms: the same against "This is a bright and sharp image.",
    which spreads the narrow range of cosines over [0, 1]. low_light and blur: one of the two
    degradations, against its antonym (paper Table III). For the kind learned: the path of the
    pair that a training of kind clip_lit wrote, which takes the place of joint_antonyms."""
    dense_mode: str = 'last'
    """Dense tokens: last: the output of the last block, as the paper reads; maskclip: the value
    path of the last block alone; vv: the last block with value-value attention."""

    def __post_init__(self) -> None:
        """Refuse values that no branch knows.

        :raises ValueError: see there.
        """
        learned = self.kind == 'learned'
        if learned and self.prompts in PROMPTS:
            raise ValueError(
                'prior.prompts: give the prompts.safetensors that a training of kind clip_lit '
                'wrote'
            )
        for name, known in (
            ('kind', KINDS),
            ('prompts', (self.prompts,) if learned else PROMPTS),
            ('dense_mode', DENSE_MODES),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f'prior.{name}: {getattr(self, name)!r} is not one of {known}')

    @property
    def guide(self) -> int:
        """Index in NAMES of the heat-map that guides the network."""
        named = 'joint' if self.kind == 'learned' else self.prompts
        return NAMES.index(named.removesuffix('_antonyms'))
