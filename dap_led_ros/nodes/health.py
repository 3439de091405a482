"""What the node knows of itself, per camera, and how it says so on /diagnostics.

received = enhanced + passed_through + dropped + refused + in progress (at most two of a camera),
always; each but `enhanced` has causes.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter, deque
from dataclasses import dataclass, field

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

OUTCOMES = ('enhanced', 'passed_through', 'dropped', 'refused')
REMEMBERED = 100  # frames whose times count for medians
RATE_WINDOW = 5.0  # seconds over which rates are taken
SILENCE = 3.0  # seconds without a frame until a camera counts as silent
FAILURES_FOR_ERROR = 3  # in a row
LOSS_REMEDY = (
    'if the camera runs on Fast DDS, start its driver with the profile fastdds_large_images.xml '
    'of this package (README, "Lost frames"), or make camera and node reliable'
)


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


@dataclass
class Health:
    """One camera's record. Guard it with the node's lock: two threads write."""

    counts: Counts = field(default_factory=Counts)
    arrivals: deque[float] = field(default_factory=lambda: deque(maxlen=1000))
    """When frames came, and below when results left, on the monotonic clock."""
    departures: deque[float] = field(default_factory=lambda: deque(maxlen=1000))
    stages: dict[str, deque[float]] = field(default_factory=dict)
    """Milliseconds by stage of the last frames; 'total' is from receiving to publishing."""
    age: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    """Milliseconds from the stamp to publishing, on the node's clock."""
    degradation: dict[str, float] = field(default_factory=dict)
    lost: int = 0
    """Messages that the middleware lost on their way, so far."""
    lost_reported: int = 0
    failures: int = 0
    """Inferences that failed in a row."""
    error: str = ''
    retry_at: float = 0.0
    """Until then the network does not see this camera's frames, monotonic."""

    incompatible: bool = False
    """Whether a publisher was refused because of its QoS."""

    def forget(self) -> None:
        """Begin anew with what was true of a subscription; counts stay."""
        self.stages, self.degradation, self.incompatible = {}, {}, False
        self.age.clear()

    def add_times(self, milliseconds: dict[str, float]) -> None:
        """Remember how long the stages of a frame took."""
        for stage, value in milliseconds.items():
            self.stages.setdefault(stage, deque(maxlen=REMEMBERED)).append(value)


@dataclass
class Engine:
    """What is true for all cameras of the node."""

    model: str = ''
    provider: str = ''
    fell_back: str = ''
    """Why the model moved to the CPU while running; empty: it did not."""
    busy_since: float | None = None
    """When the worker began the frame that it has in hand, monotonic."""


def diagnose(
    name: str,
    health: Health,
    engine: Engine,
    *,
    topic: str,
    needed_since: float | None,
    has_publishers: bool,
    enabled: bool,
    latency_budget: float,
    stuck_after: float,
) -> DiagnosticStatus:
    """One camera's status, the worst finding first.

    :param name: of the status; conventionally 'node: task'.
    :param needed_since: since when somebody listens, monotonic; None: nobody does.
    :param latency_budget: seconds.
    :param stuck_after: seconds.
    """
    now = time.monotonic()
    latency = _median(health.stages.get('total', ()))
    newly_lost = health.lost - health.lost_reported
    health.lost_reported = health.lost
    busy = now - engine.busy_since if engine.busy_since is not None else 0.0
    needed = needed_since is not None
    silence = now - max([needed_since or now, *list(health.arrivals)[-1:]])
    is_fresh = bool(health.departures) and now - health.departures[-1] < RATE_WINDOW
    findings = []
    if busy > stuck_after:
        findings.append((DiagnosticStatus.ERROR, f'stuck in one frame for {busy:.1f} s'))
    if health.failures >= FAILURES_FOR_ERROR:
        findings.append(
            (DiagnosticStatus.ERROR, f'{health.failures} failures in a row: {health.error}')
        )
    if needed and silence > SILENCE:
        if health.incompatible:
            text = f'{topic} is best effort and this node reliable: set the parameter qos to auto'
            findings.append((DiagnosticStatus.WARN, text))
        text = 'no images on' if has_publishers else 'nobody publishes'
        findings.append((DiagnosticStatus.STALE, f'{text} {topic}'))
    if newly_lost:
        findings.append((DiagnosticStatus.WARN, f'{newly_lost} images lost: {LOSS_REMEDY}'))
    if health.failures:
        findings.append((DiagnosticStatus.WARN, f'enhancement failed: {health.error}'))
    if engine.fell_back:
        findings.append((DiagnosticStatus.WARN, f'on the CPU: {engine.fell_back}'))
    if is_fresh and latency > latency_budget * 1e3:
        findings.append(
            (DiagnosticStatus.WARN, f'latency {latency:.0f} ms, budget {latency_budget:.3g} s')
        )
    if not needed:
        findings.append((DiagnosticStatus.OK, 'idle: nobody listens'))
    elif not enabled:
        findings.append((DiagnosticStatus.OK, 'disabled: frames pass through'))
    findings.append((DiagnosticStatus.OK, f'{_rate(health.departures, now):.1f} frames/s'))

    status = DiagnosticStatus(name=name, hardware_id=topic)
    status.level, status.message = findings[0]
    values = {
        'model': engine.model,
        'device': engine.provider,
        'input rate (Hz)': f'{_rate(health.arrivals, now):.1f}',
        'output rate (Hz)': f'{_rate(health.departures, now):.1f}',
        **{f'{stage} (ms)': f'{_median(times):.1f}' for stage, times in health.stages.items()},
        'age (ms)': f'{_median(health.age):.1f}',
        'received': str(health.counts.received),
        **{name: str(health.counts.of(name)) for name in OUTCOMES},
        'in progress': str(health.counts.in_progress),
        **{cause: str(count) for cause, count in sorted(health.counts.causes().items())},
        'lost before the node': str(health.lost),
        **{name: f'{score:.2f}' for name, score in health.degradation.items()},
    }
    status.values = [KeyValue(key=key, value=value) for key, value in values.items()]
    return status


def _median(values: deque[float] | tuple[()]) -> float:
    return statistics.median(values) if values else 0.0


def _rate(times: deque[float], now: float) -> float:
    """Events per second over the last RATE_WINDOW seconds."""
    recent = [t for t in times if now - t <= RATE_WINDOW]
    return (len(recent) - 1) / (recent[-1] - recent[0]) if len(recent) > 2 else 0.0
