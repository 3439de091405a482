"""What is wrong with a camera, the worst first: the judgement behind /diagnostics and the log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from dap_led_ros.nodes.health import RATE_WINDOW, Engine, Health, median, rate
from dap_led_ros.nodes.topics import View

SILENCE = 3.0  # seconds without a frame, or without a result, until that is trouble
FAILURES_FOR_ERROR = 3  # in a row
LOSS_REMEDY = (
    'if the camera runs on Fast DDS, start its driver with the profile fastdds_large_images.xml '
    'of this package (docs/node.md, "Lost frames"), or make camera and node reliable'
)
OK, WARN = DiagnosticStatus.OK, DiagnosticStatus.WARN
ERROR, STALE = DiagnosticStatus.ERROR, DiagnosticStatus.STALE


class Finding(NamedTuple):
    """One thing to say of a camera."""

    level: bytes
    kind: str
    """What the log says once a minute; the text may have numbers that change."""
    text: str


class Limits(NamedTuple):
    """What the parameters say is normal."""

    enabled: bool
    latency_budget: float
    """Seconds."""
    stuck_after: float
    """Seconds."""


def find(
    health: Health, engine: Engine, view: View, needed_since: float | None, limits: Limits
) -> list[Finding]:
    """All that there is to say, the worst first; at least one.

    :param needed_since: since when somebody listens, monotonic; None: nobody does.
    """
    now = time.monotonic()
    found = list(_of_the_network(health, engine, limits, now))
    if needed_since is not None:
        found += _of_the_output(health, limits, now)
        found += _of_the_input(health, view, needed_since, limits, now)
    found += _of_the_speed(health, engine, limits, now)
    found += [Finding(WARN, kind, text) for kind, text in view.troubles.items()]
    if needed_since is None:
        found.append(Finding(OK, 'idle', 'idle: nobody listens'))
    elif not limits.enabled:
        found.append(Finding(OK, 'disabled', 'disabled: frames pass through'))
    found.append(Finding(OK, 'rate', f'{rate(health.departures, now):.1f} frames/s'))
    health.lost_reported, health.packets_lost_reported = health.lost, health.packets_lost
    return found


def status(
    name: str, topic: str, found: list[Finding], health: Health, engine: Engine
) -> DiagnosticStatus:
    """One camera's status: the level of the worst finding, and all that is wrong.

    :param name: of the status; conventionally 'node: task'.
    """
    troubles = [finding.text for finding in found if finding.level != OK]
    made = DiagnosticStatus(name=name, hardware_id=topic, level=found[0].level)
    made.message = '; '.join(troubles) or found[0].text
    values = {'model': engine.model, 'device': engine.provider}
    values |= {'device auto': engine.choice} if engine.choice else {}
    values |= health.values(time.monotonic())
    made.values = [KeyValue(key=key, value=value) for key, value in values.items()]
    return made


def _of_the_network(
    health: Health, engine: Engine, limits: Limits, now: float
) -> Iterator[Finding]:
    busy = now - engine.busy_since if engine.busy_since is not None else 0.0
    if busy > limits.stuck_after:
        yield Finding(ERROR, 'stuck', f'stuck in one frame for {busy:.1f} s')
    if health.failures >= FAILURES_FOR_ERROR:
        yield Finding(ERROR, 'failing', f'{health.failures} failures in a row: {health.error}')


def _of_the_output(health: Health, limits: Limits, now: float) -> Iterator[Finding]:
    """Frames come, and nothing goes out."""
    drought = health.drought
    lasted = now - drought.since if drought.since else 0.0
    if lasted > SILENCE:
        level = ERROR if lasted > max(SILENCE, limits.stuck_after) else WARN
        yield Finding(level, *drought.dominant())


def _of_the_input(
    health: Health, view: View, needed_since: float, limits: Limits, now: float
) -> Iterator[Finding]:
    """Nothing comes, or not all; a loss explains silence, so it is first."""
    silence = now - max([needed_since, *list(health.arrivals)[-1:]])
    newly_lost = health.lost - health.lost_reported
    is_silent = silence > SILENCE
    if is_silent and health.lost_unseen and now - health.lost_at < 2 * SILENCE:
        lasted = now - health.losing_since
        level = ERROR if lasted > max(SILENCE, limits.stuck_after) else WARN
        text = (
            f'{health.lost_unseen} images lost and none arrived on {view.topic} for '
            f'{silence:.0f} s: {LOSS_REMEDY}'
        )
        yield Finding(level, 'lost', text)
        return
    if is_silent and view.unfit:
        yield Finding(WARN, 'QoS of the camera', view.unfit)
    if is_silent:
        yield Finding(STALE, 'silent', view.silent)
    if newly_lost:
        yield Finding(WARN, 'lost', f'{newly_lost} images lost: {LOSS_REMEDY}')
    packets = health.packets_lost - health.packets_lost_reported
    if packets:
        text = f'{packets} video packets lost: nothing goes out until the next keyframe'
        yield Finding(WARN, 'lost packets', text)
    if health.camera_info:
        yield Finding(WARN, 'camera_info of another size', health.camera_info)


def _of_the_speed(health: Health, engine: Engine, limits: Limits, now: float) -> Iterator[Finding]:
    if health.failures:
        yield Finding(WARN, 'failed', f'enhancement failed: {health.error}')
    if engine.fell_back:
        yield Finding(WARN, 'fell back', f'on the CPU: {engine.fell_back}')
    latency = median(health.stages.get('total', ()))
    is_fresh = bool(health.departures) and now - health.departures[-1] < RATE_WINDOW
    if is_fresh and latency > limits.latency_budget * 1e3:
        text = f'latency {latency:.0f} ms, budget {limits.latency_budget:.3g} s'
        yield Finding(WARN, 'latency', text)
