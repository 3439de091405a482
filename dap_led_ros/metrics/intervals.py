"""Means over frames, and how sure they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Paired(NamedTuple):
    """Mean of paired differences with a 95 % interval."""

    mean: float
    low: float
    high: float
    count: int

    @property
    def sure(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


def paired(a: Sequence[float], b: Sequence[float], draws: int = 2000) -> Paired:
    """Mean of b - a over frames, with a bootstrap interval (percentiles) of blocks.

    Neighbouring frames are alike: whole blocks of about the square root of their number are drawn,
    in a circle, so that the interval is not too narrow.
    """
    difference = np.asarray(b, float) - np.asarray(a, float)
    count = len(difference)
    if count < 2:
        mean = float(difference.mean()) if count else float('nan')
        return Paired(mean, float('-inf'), float('inf'), count)
    block = max(1, round(count**0.5))
    blocks = -(-count // block)
    # Mean of every block from its running sum, so that long recordings need no large table.
    running = np.concatenate([[0.0], np.cumsum(np.concatenate([difference, difference[:block]]))])
    means = (running[block : block + count] - running[:count]) / block
    starts = np.random.default_rng(0).integers(0, count, (draws, blocks))
    low, high = np.percentile(means[starts].mean(axis=1), [2.5, 97.5])
    return Paired(float(difference.mean()), float(low), float(high), count)


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
