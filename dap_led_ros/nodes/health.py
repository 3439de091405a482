"""What the node knows of itself, per camera, and how it says so on /diagnostics.

received = enhanced + passed_through + dropped + refused + in progress (at most two of a camera),
always; each but `enhanced` has causes. What is judged is what comes out: see findings.py.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import NamedTuple

OUTCOMES = ('enhanced', 'passed_through', 'dropped', 'refused')
DELIVERED = ('enhanced', 'passed_through')
AS_ASKED = ('over max_rate', 'node deactivated')
"""Causes of drops that the user has asked for: no trouble."""
REMEMBERED = 100  # frames whose times count for medians
RATE_WINDOW = 5.0  # seconds over which rates are taken
DAY = 86400.0  # seconds; a frame that seems older than this has no stamp of this clock


class Counts:
    """What became of the frames."""

    def __init__(self) -> None:
        self.received = 0
        self._causes: Counter[tuple[str, str]] = Counter()

    def add(self, outcome: str, cause: str = '') -> None:
        """Count one frame's end; `outcome` is one of OUTCOMES."""
        self._causes[outcome, cause] += 1

    def of(self, outcome: str) -> int:
        """How many frames ended so."""
        return sum(count for (name, _), count in self._causes.items() if name == outcome)

    @property
    def in_progress(self) -> int:
        """Frames that wait or that the worker has in hand: two at the most."""
        return self.received - sum(self._causes.values())

    def causes(self) -> dict[str, int]:
        """How many frames for each 'outcome: cause'."""
        return {f'{name}: {cause}': n for (name, cause), n in self._causes.items() if cause}

    def __add__(self, other: Counts) -> Counts:
        total = Counts()
        total.received = self.received + other.received
        total._causes = self._causes + other._causes
        return total

    def __str__(self) -> str:
        parts = [f'{self.received} received', *(f'{self.of(name)} {name}' for name in OUTCOMES)]
        return ', '.join(parts)


class End(NamedTuple):
    """What became of a frame, and why."""

    outcome: str
    cause: str = ''
    text: str = ''
    """The cause in a sentence."""


@dataclass
class Drought:
    """Frames that came since the last one that was delivered."""

    since: float = 0.0
    """When the first of them ended, monotonic; 0.0: there are none."""
    ends: Counter[tuple[str, str]] = field(default_factory=Counter)
    texts: dict[tuple[str, str], str] = field(default_factory=dict)
    """The latest words for each (outcome, cause)."""

    def add(self, outcome: str, cause: str, text: str) -> None:
        """Note a frame that brought nothing."""
        self.since = self.since or time.monotonic()
        self.ends[outcome, cause] += 1
        self.texts[outcome, cause] = text or cause

    def dominant(self) -> tuple[str, str]:
        """What became of most, and in words: '50 of 50 refused: ...'."""
        (outcome, cause), count = self.ends.most_common(1)[0]
        share = f'{count} of {self.ends.total()} {outcome}'
        return f'{outcome}: {cause}', f'{share}: {self.texts[outcome, cause]}'


@dataclass
class Health:
    """One camera's record. Guard it with the node's lock: two threads write."""

    counts: Counts = field(default_factory=Counts)
    arrivals: deque[float] = field(default_factory=lambda: deque(maxlen=1000))
    """When frames came, and below when results left, on the monotonic clock."""
    departures: deque[float] = field(default_factory=lambda: deque(maxlen=1000))
    drought: Drought = field(default_factory=Drought)
    stages: dict[str, deque[float]] = field(default_factory=dict)
    """Milliseconds by stage of the last frames; 'total' is from receiving to publishing."""
    age: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    """Milliseconds from the stamp to publishing, on the node's clock."""
    age_unknown: str = ''
    """Why there is no age; empty: there is, or no frame yet."""
    degradation: dict[str, float] = field(default_factory=dict)
    bits: str = ''
    """Significant bits of 16-bit frames, and how they are known."""
    lost: int = 0
    """Messages that the middleware lost on their way, so far."""
    lost_reported: int = 0
    lost_unseen: int = 0
    """Of them, those since a frame last came."""
    losing_since: float = 0.0
    """When the first of them was lost, and below when the last, monotonic."""
    lost_at: float = 0.0
    packets_lost: int = 0
    """Packets of a video that were missing in it, so far."""
    packets_lost_reported: int = 0
    failures: int = 0
    """Inferences that failed in a row."""
    error: str = ''
    retry_at: float = 0.0
    """Until then the network does not see this camera's frames, monotonic."""
    camera_info: str = ''
    """Why the latest frame has no camera info, if that is a mistake."""

    def arrived(self, now: float) -> None:
        """A frame came, at a time on the monotonic clock."""
        self.counts.received += 1
        self.arrivals.append(now)
        self.lost_unseen = 0

    def ended(self, outcome: str, cause: str = '', text: str = '') -> None:
        """Count one frame's end; `text` says the cause in a sentence."""
        self.counts.add(outcome, cause)
        if outcome in DELIVERED:
            self.drought = Drought()
        elif cause not in AS_ASKED:
            self.drought.add(outcome, cause, text)

    def lose(self, count: int) -> None:
        """Note messages that the middleware lost."""
        self.lost_at = time.monotonic()
        if not self.lost_unseen:
            self.losing_since = self.lost_at
        self.lost += count
        self.lost_unseen += count

    def add_age(self, seconds: float, unknown: str) -> None:
        """Remember a frame's age, or why it has none."""
        self.age_unknown = unknown
        if not unknown:
            self.age.append(seconds * 1e3)

    def forget(self) -> None:
        """Begin anew with what was true of a subscription; counts stay."""
        self.stages, self.degradation, self.drought = {}, {}, Drought()
        self.age_unknown = self.camera_info = ''
        self.lost_unseen = 0
        self.age.clear()

    def add_times(self, milliseconds: dict[str, float]) -> None:
        """Remember how long the stages of a frame took."""
        for stage, value in milliseconds.items():
            self.stages.setdefault(stage, deque(maxlen=REMEMBERED)).append(value)

    def values(self, now: float) -> dict[str, str]:
        """All that is known, by the keys of the table in docs/node.md; `now` is monotonic."""
        return {
            'input rate (Hz)': f'{rate(self.arrivals, now):.1f}',
            'output rate (Hz)': f'{rate(self.departures, now):.1f}',
            **{f'{stage} (ms)': f'{median(times):.1f}' for stage, times in self.stages.items()},
            'age (ms)': '' if self.age_unknown else f'{median(self.age):.1f}',
            **({'age unknown': self.age_unknown} if self.age_unknown else {}),
            'received': str(self.counts.received),
            **{name: str(self.counts.of(name)) for name in OUTCOMES},
            'in progress': str(self.counts.in_progress),
            **{cause: str(count) for cause, count in sorted(self.counts.causes().items())},
            'lost before the node': str(self.lost),
            **({'lost video packets': str(self.packets_lost)} if self.packets_lost else {}),
            **({'bits': self.bits} if self.bits else {}),
            **{name: f'{score:.2f}' for name, score in self.degradation.items()},
        }


@dataclass
class Engine:
    """What is true for all cameras of the node."""

    model: str = ''
    provider: str = ''
    choice: str = ''
    """Under device auto: the runtime that was chosen, and the times of all."""
    fell_back: str = ''
    """Why the model moved to the CPU while running; empty: it did not."""
    busy_since: float | None = None
    """When the worker began the frame that it has in hand, monotonic."""


def why_no_age(stamp_ns: int, age: float, clock_ns: int) -> str:
    """Why a frame's age means nothing; empty if it does.

    :param age: seconds from the stamp to now, on the node's clock.
    :param clock_ns: the node's clock.
    """
    if clock_ns == 0:
        return 'use_sim_time is true and nobody publishes /clock'
    if stamp_ns == 0:
        return 'frames carry no stamp: does the camera stamp its frames?'
    if abs(age) <= DAY:
        return ''
    return f'stamps are {in_words(age)}: does the camera stamp its frames?'


def in_words(age: float) -> str:
    """Seconds as '2.5 s old', '3 days old' or '1.0 s ahead of the clock'."""
    if age < 0:
        return f'{in_words(-age).removesuffix(" old")} ahead of the clock'
    if age < DAY:
        return f'{age:.1f} s old'
    if age < 365 * DAY:
        return f'{int(age / DAY)} days old'
    return f'{int(age / 365.25 / DAY)} years old'


def median(values: deque[float] | tuple[()]) -> float:
    """The median; 0.0 of nothing."""
    return statistics.median(values) if values else 0.0


def rate(times: deque[float], now: float) -> float:
    """Events per second over the last RATE_WINDOW seconds."""
    recent = [t for t in times if now - t <= RATE_WINDOW]
    return (len(recent) - 1) / (recent[-1] - recent[0]) if len(recent) > 2 else 0.0
