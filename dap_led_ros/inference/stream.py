"""One camera's session: gate, steadiness and history, which last from frame to frame.

The prior's scores decide how much of the network's result goes into a frame. A frame that is
neither dark nor blurred is passed through: the same array, without running the network. Between
two thresholds input and result are blended, so that dusk is a slow change and no switch.

State is two numbers, a level of degradation and a gain of brightness. Both follow their frames
smoothly, and at once where the scene itself has changed much: a light that is switched on must not
dazzle. And for a model that takes it, what the camera has seen so far (history.py): noise averages
out while a robot looks. A jump in time, another size or a cut to another scene clears all of it.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np

from dap_led_ros.inference.frames import Enhanced
from dap_led_ros.inference.heatmap_cache import Guide, Heatmaps
from dap_led_ros.inference.history import Fused, History

MODES = ('auto', 'always', 'off')
WARM_UP = 16
"""Frames after which a stream does nearly as if it had seen all that came before them.

Gate and brightness are then within a hundredth; of the history (count at its most) a quarter of
the weight would be that of older frames.
"""
GAP_NS = 1_000_000_000
"""A frame so much later than the one before it is the first of a new scene."""
_FOLLOW = 0.25
"""Share of a change that is followed with each frame."""
_LEVEL_SLACK = 0.1
"""The level that decides is never further than this from the frame's own."""
_SUDDEN = 0.05
"""Change of the input's brightness (natural logarithm) beyond which the gain follows at once."""
_SHARPENED = 0.05
"""A gain this close to 1 says more of sharpening than of brightness."""
_THUMBNAIL = (16, 12)
_CUT = 0.2
"""Change of the thumbnail, as a share of its mean, that only a cut makes."""


@dataclass(frozen=True)
class StreamSettings:
    """What a stream does; `measure steadiness` of the training shows what the thresholds do.

    :raises ValueError: a value is out of its range.
    """

    mode: str = 'auto'
    """auto: the gate decides; always: every frame is enhanced; off: none is."""
    strength: float = 1.0
    """Share of the network's result in a frame that is enhanced fully, 0 to 1."""
    pass_below: float = 0.4
    """A frame whose highest score is not above this is passed through."""
    enhance_above: float = 0.55
    """A frame whose highest score is above this is enhanced fully; blended in between."""
    steady: bool = True
    """Smooth the gate and the brightness in time; False: each frame alone."""
    temporal: bool = True
    """Let the network see what came before, if the model takes it and `steady` is on."""

    def __post_init__(self) -> None:
        """Refuse what has no meaning."""
        if self.mode not in MODES:
            raise ValueError(f'mode is {self.mode!r}: use one of {", ".join(MODES)}')
        if not 0 <= self.strength <= 1:
            raise ValueError(f'strength is {self.strength}: use a number from 0 to 1')
        if not 0 <= self.pass_below < self.enhance_above <= 1:
            raise ValueError(
                f'pass_below is {self.pass_below} and enhance_above {self.enhance_above}: use '
                'numbers from 0 to 1, the first below the second'
            )


class Network(Guide, Protocol):
    """What a stream needs of an Enhancer."""

    @property
    def remembers(self) -> bool:
        """network() takes what the stream has seen before."""

    def score(self, frame: np.ndarray) -> dict[str, float]:
        """How degraded a frame is, 0 to 1, by name."""

    def network(
        self, frame: np.ndarray, heatmap: np.ndarray | None = None, past: Fused | None = None
    ) -> tuple[np.ndarray, dict[str, float]]:
        """The enhanced frame, and milliseconds by stage."""


class Stream:
    """Enhances the frames of one camera, in their order and from one thread.

    Streams share the weights of their Enhancer. `settings` may be replaced between frames.
    """

    def __init__(self, enhancer: Network, settings: StreamSettings | None = None) -> None:
        """Begin with no memory of any frame."""
        self.settings = settings or StreamSettings()
        self._enhancer = enhancer
        self._heatmaps = Heatmaps(enhancer)
        self._history = History()
        self._stamp_ns: int | None = None
        self._size: tuple[int, ...] = ()
        self._thumbnail: np.ndarray | None = None
        self._level: float | None = None
        self._brightness: float | None = None
        self._gain: float | None = None

    def enhance(self, frame: np.ndarray, stamp_ns: int | None = None) -> Enhanced:
        """Enhance the next frame as far as it needs it; its size and type stay.

        :param frame: as of Enhancer.enhance().
        :param stamp_ns: when it was taken; without it jumps in time go unseen.
        :returns: with weight 0 the very same array. Mode off leaves degradation empty.
        :raises ValueError: as Enhancer.enhance().
        """
        settings = self.settings
        if settings.mode == 'off' or settings.strength == 0:
            self._forget()
            return Enhanced(frame, {}, {}, 0.0)
        start = time.perf_counter()
        degradation = self._enhancer.score(frame)
        sudden = self._recognise(frame, stamp_ns)
        weight = settings.strength * self._opening(max(degradation.values()))
        milliseconds = {'score': (time.perf_counter() - start) * 1e3}
        if weight == 0:
            self._gain = 0.0
            self._heatmaps.forget()  # they would be old when the gate opens again
            self._history.forget()
            return Enhanced(frame, degradation, milliseconds, 0.0)
        start = time.perf_counter()
        heatmap = self._heatmaps.of(frame)
        if heatmap is not None:
            milliseconds['prior'] = (time.perf_counter() - start) * 1e3
        past = None
        if settings.temporal and settings.steady and self._enhancer.remembers:
            start = time.perf_counter()
            past = self._history.fuse(frame)
            milliseconds['history'] = (time.perf_counter() - start) * 1e3
        else:
            self._history.forget()
        enhanced, stages = self._enhancer.network(frame, heatmap, past)
        start = time.perf_counter()
        share = self._share(weight, sudden, frame, enhanced)
        if share != 1:
            enhanced = cv2.addWeighted(enhanced, share, frame, 1 - share, 0.0)
        milliseconds |= stages | {'steady': (time.perf_counter() - start) * 1e3}
        return Enhanced(enhanced, degradation, milliseconds, weight)

    def _forget(self) -> None:
        self._heatmaps.forget()
        self._history.forget()
        self._stamp_ns = self._thumbnail = None
        self._level = self._brightness = self._gain = None

    def _recognise(self, frame: np.ndarray, stamp_ns: int | None) -> float:
        """Forget what was, unless this frame follows on the one before it.

        :returns: how much the scene's brightness has changed, as far as it is sudden.
        """
        thumbnail = cv2.resize(frame, _THUMBNAIL, interpolation=cv2.INTER_AREA).astype(np.float32)
        brightness = max(float(thumbnail.mean()), 1e-3)
        thumbnail /= brightness
        jumped = (
            None not in (stamp_ns, self._stamp_ns) and not 0 <= stamp_ns - self._stamp_ns <= GAP_NS
        )
        cut = self._thumbnail is not None and np.abs(thumbnail - self._thumbnail).mean() > _CUT
        if jumped or cut or frame.shape != self._size or not self.settings.steady:
            self._forget()
        changed = abs(math.log(brightness / (self._brightness or brightness)))
        self._stamp_ns, self._size = stamp_ns, frame.shape
        self._thumbnail, self._brightness = thumbnail, brightness
        return max(changed - _SUDDEN, 0.0)

    def _opening(self, level: float) -> float:
        """Weight of the network's result, 0 to 1, for a frame's highest score."""
        settings = self.settings
        if self._level is None:
            self._level = level
        self._level += _FOLLOW * (level - self._level)
        self._level = _between(self._level, level - _LEVEL_SLACK, level + _LEVEL_SLACK)
        if settings.mode == 'always':
            return 1.0
        span = settings.enhance_above - settings.pass_below
        return _between((self._level - settings.pass_below) / span, 0.0, 1.0)

    def _share(
        self, weight: float, sudden: float, frame: np.ndarray, enhanced: np.ndarray
    ) -> float:
        """Share of the network's result that keeps the gain of brightness smooth in time.

        A share of the change, and not a factor on the frame, leaves white lamps white.
        """
        if not self.settings.steady:
            return weight
        before, after = (max(float(np.mean(cv2.mean(f)[:3])), 1e-3) for f in (frame, enhanced))
        wanted = math.log(1 + weight * (after / before - 1))
        if self._gain is None:
            self._gain = wanted
        self._gain += _between(wanted - self._gain, -sudden, sudden)
        self._gain += _FOLLOW * (wanted - self._gain)
        change = after / before - 1
        rest = math.copysign(_SHARPENED, change)
        return _between((math.exp(self._gain) - 1 + weight * rest) / (change + rest), 0.0, 1.1)


def _between(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)
