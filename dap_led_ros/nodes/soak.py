"""An hour in the life of a camera: python -m dap_led_ros.nodes.benchmark soak --minutes 60.

In rounds of half a minute the node, in a process of its own, bears what a robot's day brings: day,
dusk and night, other sizes, a driver that comes back with other QoS, listeners that come and go,
frames that are none, parameters that change, and a whole lifecycle. After each round its memory,
threads, open files and shared-memory segments are read. Printed: what became of every frame, and
what grew from the middle third of the rounds to the last.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from geometry_msgs.msg import Vector3Stamped
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import SetParametersAtomically
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from tqdm import tqdm

from dap_led_ros import image_codec, sample
from dap_led_ros.nodes.health import OUTCOMES
from dap_led_ros.nodes.probe import Probe, graph, wait

RATE = 12.0  # frames per second
SIZES = ((1280, 720), (320, 240), (641, 481))
CHANGES = ({'strength': 0.5}, {'mode': 'off'}, {'bits': '12'}, {'max_rate': 5.0})
USUAL = {'strength': 1.0, 'mode': 'auto', 'bits': 'auto', 'max_rate': 0.0}
CYCLE = (
    Transition.TRANSITION_DEACTIVATE,
    Transition.TRANSITION_CLEANUP,
    Transition.TRANSITION_CONFIGURE,
    Transition.TRANSITION_ACTIVATE,
)


class Sample(NamedTuple):
    """What a process holds."""

    megabytes: float
    threads: int
    files: int
    segments: int
    """Of shared memory."""


def run(minutes: float) -> None:
    """Print what so many minutes do to the node.

    :raises RuntimeError: it died, or a frame is unaccounted for.
    """
    command = [sys.executable, '-m', 'dap_led_ros.nodes', 'enhance', '--ros-args']
    command += ['-r', '__ns:=/node', '--log-level', 'fatal', '--log-level', 'dap_led_ros:=info']
    samples = []
    with graph({'node': command}) as (probe, nodes):
        robot = _Robot(probe)
        end = time.monotonic() + minutes * 60
        with tqdm(unit='round', leave=False) as progress:
            while time.monotonic() < end or not samples:
                robot.live_a_round()
                if nodes['node'].poll() is not None:
                    raise RuntimeError(f'the node ended with {nodes["node"].returncode}')
                samples.append(_sample(nodes['node'].pid))
                progress.update()
    _print(minutes, robot, probe, samples)


def _print(minutes: float, robot: _Robot, probe: Probe, samples: list[Sample]) -> None:
    found = re.findall(r'(\d+) received, (.*)', probe.log)
    if not found:
        raise RuntimeError(f'the node did not say its counts:\n{probe.log}')
    received, parts = int(found[-1][0]), re.findall(r'(\d+) (\w+)', found[-1][1])
    if received != sum(int(count) for count, _ in parts) or len(parts) != len(OUTCOMES):
        raise RuntimeError(f'the counts do not add up: {found[-1]}')
    third = max(1, len(samples) // 3)
    after = Sample(*np.median(samples[-third:], axis=0))
    before = Sample(*np.median(samples[-2 * third : -third] or samples, axis=0))
    drift = (after.megabytes / before.megabytes - 1) * 100
    print(f'{minutes:g} minutes, {len(samples)} rounds; medians of the middle and the last third')
    print(f'  sent                    {robot.sent} frames, {robot.bad} of them bad')
    print(f'  the node                {received} received = {" + ".join(map(" ".join, parts))}')
    print(f'  came back               {len(probe.received)}')
    memory = f'{before.megabytes:.0f} -> {after.megabytes:.0f} MB ({drift:+.1f}%)'
    print(f'  resident memory         {memory}')
    tenths = np.array_split([one.megabytes for one in samples], min(10, len(samples)))
    series = ' '.join(f'{np.median(tenth):.0f}' for tenth in tenths)
    print(f'  its medians by tenths   {series} MB')
    print(f'  threads                 {before.threads:.0f} -> {after.threads:.0f}')
    print(f'  open files              {before.files:.0f} -> {after.files:.0f}')
    print(f'  shared-memory segments  {before.segments:.0f} -> {after.segments:.0f}')
    print(f'  tracebacks in the log   {probe.log.count("Traceback")}')


class _Robot:
    """A camera and listeners that do all that they may, round after round."""

    def __init__(self, probe: Probe) -> None:
        self.sent = self.bad = 0
        self._probe = probe
        dark, day = next(iter(sample.night_sequence(1)))
        self._scenes = (day, cv2.addWeighted(day, 0.3, dark, 0.7, 0), dark)
        self._reliability = ReliabilityPolicy.RELIABLE
        self._change = probe.create_client(
            SetParametersAtomically, '/node/enhance/set_parameters_atomically'
        )
        self._step = probe.create_client(ChangeState, '/node/enhance/change_state')

    def live_a_round(self) -> None:
        """About half a minute; ends with a node made anew that sees frames."""
        for scene in self._scenes:
            self._show(scene, 2.0)
        for size in SIZES:
            self._show(cv2.resize(self._scenes[2], size), 1.5)
        self._come_back_with_other_qos()
        self._show(self._scenes[2], 2.0)
        for topic in ('heat_map', 'side_by_side', 'degradation'):
            self._listen_for_a_while(topic)
        for message in _bad_frames():
            time.sleep(0.2)  # else the worker is not free and only sees the frame after it
            self._send(message)
            self.bad += 1
            time.sleep(0.2)
            self._show(self._scenes[2], 0.25)
        for change in CHANGES:
            self._set(change)
            self._show(self._scenes[2], 1.0)
        self._set(USUAL)
        for step in CYCLE:
            request = ChangeState.Request()
            request.transition.id = step
            self._ask(self._step, request)
        if not wait(self._probe.connected):
            raise RuntimeError('the node does not come back from a lifecycle')
        self._show(self._scenes[2], 2.0)

    def _show(self, frame: np.ndarray, seconds: float) -> None:
        start = time.monotonic()
        for number in range(round(seconds * RATE)):
            time.sleep(max(0.0, start + number / RATE - time.monotonic()))
            message = Image()
            image_codec.encode(frame, 'bgr8', message)
            self._send(message)

    def _send(self, message: Image) -> None:
        message.header.stamp.sec = self.sent
        self._probe.senders['node'].publish(message)
        self.sent += 1

    def _come_back_with_other_qos(self) -> None:
        self._probe.destroy_publisher(self._probe.senders['node'])
        others = {ReliabilityPolicy.RELIABLE: ReliabilityPolicy.BEST_EFFORT}
        self._reliability = others.get(self._reliability, ReliabilityPolicy.RELIABLE)
        profile = QoSProfile(depth=5, reliability=self._reliability)
        self._probe.senders['node'] = self._probe.create_publisher(
            Image, 'node/image_raw', profile
        )

    def _listen_for_a_while(self, topic: str) -> None:
        kind = Vector3Stamped if topic == 'degradation' else Image
        heard = self._probe.create_subscription(kind, f'node/enhanced/{topic}', lambda m: None, 5)
        self._show(self._scenes[2], 1.0)
        self._probe.destroy_subscription(heard)

    def _set(self, values: dict[str, Any]) -> None:
        parameters = [Parameter(name, value=value) for name, value in values.items()]
        request = SetParametersAtomically.Request()
        request.parameters = [parameter.to_parameter_msg() for parameter in parameters]
        self._ask(self._change, request)

    def _ask(self, client: Any, request: Any) -> None:
        future = client.call_async(request)
        if not wait(future.done):
            raise RuntimeError(f'the node does not answer on {client.srv_name}')


def _bad_frames() -> Iterator[Image]:
    """Depth, too little data, odd sides, no data, an unknown encoding, a tiny one."""
    for encoding, height, width, step, size in (
        ('16UC1', 48, 64, 128, 48 * 128),
        ('rgb8', 48, 64, 192, 100),
        ('nv12', 47, 64, 64, 64 * 71),
        ('mono8', 48, 64, 64, 0),
        ('yuv444_of_mars', 48, 64, 192, 48 * 192),
        ('rgb8', 8, 8, 24, 8 * 24),
    ):
        message = Image(encoding=encoding, height=height, width=width, step=step)
        message.data.frombytes(bytes(size))
        yield message


def _sample(pid: int) -> Sample:
    status = Path(f'/proc/{pid}/status').read_text()
    resident, threads = (
        int(re.search(rf'{name}:\s+(\d+)', status)[1]) for name in ('VmRSS', 'Threads')
    )
    maps = Path(f'/proc/{pid}/maps').read_text()
    segments = set(re.findall(r'/dev/shm/\S+', maps))
    return Sample(resident / 1024, threads, len(os.listdir(f'/proc/{pid}/fd')), len(segments))
