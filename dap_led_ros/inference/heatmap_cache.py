"""Heat-maps that last: the prior of a guided model need not see every frame."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Guide(Protocol):
    """What makes heat-maps: an Enhancer, of a guided model or of another."""

    @property
    def guided(self) -> bool:
        """heatmap() can be called."""

    def heatmap(self, frame: np.ndarray) -> np.ndarray:
        """Where a frame is degraded, (1, 1, h, w) in [0, 1]."""


class Heatmaps:
    """The heat-maps of one camera's frames, in their order and from one thread."""

    def __init__(self, enhancer: Guide, every: int = 5, follow: float = 0.5) -> None:
        """Begin with no heat-map.

        :param every: frames from one look of the prior to the next; 1 is each frame's own.
        :param follow: share of a new heat-map that is taken at once, 0 to 1.
        :raises ValueError: a value is out of its range.
        """
        if every < 1 or not 0 < follow <= 1:
            raise ValueError(
                f'every is {every} and follow {follow}: use 1 or more, and 0 to 1 without 0'
            )
        self._enhancer, self._every, self._follow = enhancer, every, follow
        self.forget()

    def forget(self) -> None:
        """The next frame is of another scene."""
        self._heatmap: np.ndarray | None = None
        self._age = 0
        self._shape: tuple[int, ...] = ()

    def of(self, frame: np.ndarray) -> np.ndarray | None:
        """The heat-map (1, 1, h, w) for Enhancer.network(); None: let the model make it.

        :raises ValueError: as Enhancer.enhance().
        """
        if not self._enhancer.guided or self._every == 1:
            return None
        if frame.shape != self._shape:
            self.forget()
            self._shape = frame.shape
        if self._age % self._every == 0:
            seen = self._enhancer.heatmap(frame)
            if self._heatmap is None:
                self._heatmap = seen
            self._heatmap = self._heatmap + self._follow * (seen - self._heatmap)
        self._age += 1
        return self._heatmap
