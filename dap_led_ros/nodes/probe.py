"""A node that sends frames and sees what comes back, beside processes that it was started with."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import Image

from dap_led_ros import image_codec, sample
from dap_led_ros.nodes import environment

PATIENCE = 30.0  # seconds


class Probe(Node):
    """Sends frames and waits for them."""

    def __init__(self) -> None:
        super().__init__('probe')
        self.arrived = threading.Event()
        self.received: dict[int, float] = {}
        self.counts: dict[str, str] = {}
        self.log = ''
        """What the processes printed, when they have ended."""
        self.senders = {}
        self.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, 5)

    def add(self, name: str) -> None:
        """Publish name/image_raw, subscribe to name/enhanced/image_raw."""
        self.senders[name] = self.create_publisher(Image, f'{name}/image_raw', 5)
        self.create_subscription(Image, f'{name}/enhanced/image_raw', self._on_image, 5)

    def connected(self) -> bool:
        """Whether all topics have somebody at the other end."""
        return all(
            sender.get_subscription_count() and self.count_publishers(f'{name}/enhanced/image_raw')
            for name, sender in self.senders.items()
        )

    def send(self, name: str, frame: np.ndarray, number: int) -> float:
        """Publish a frame; returns when, monotonic."""
        message = Image()
        message.header.stamp.sec = number
        image_codec.encode(frame, 'bgr8', message)
        self.arrived.clear()
        start = time.monotonic()
        self.senders[name].publish(message)
        return start

    def _on_image(self, message: Image) -> None:
        self.received[message.header.stamp.sec] = time.monotonic()
        self.arrived.set()

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self.counts = {entry.key: entry.value for entry in message.status[0].values}


@contextmanager
def graph(commands: dict[str, list[str]]) -> Iterator[tuple[Probe, dict[str, subprocess.Popen]]]:
    """Start a process for each name, and a probe that is connected to all of them.

    :raises RuntimeError: they do not find one another.
    """
    os.environ.update(environment.additions(environment.find_profile(), os.environ))
    os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    os.environ.setdefault('ROS_DOMAIN_ID', str(10 + os.getpid() % 90))
    log = tempfile.TemporaryFile('w+')  # noqa: SIM115, as long as the processes live
    rclpy.init()
    probe, executor = Probe(), SingleThreadedExecutor()
    for name in commands:
        probe.add(name)
    executor.add_node(probe)
    spinning = threading.Thread(target=executor.spin)
    spinning.start()
    nodes = {
        name: subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        for name, command in commands.items()
    }
    try:
        if not wait(probe.connected):
            log.seek(0)
            raise RuntimeError(f'the nodes did not connect:\n{log.read()}')
        yield probe, nodes
    finally:
        for process in nodes.values():
            process.send_signal(signal.SIGINT)
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
        log.seek(0)
        probe.log = log.read()
        executor.shutdown()
        spinning.join()
        rclpy.try_shutdown()


def picture(width: int, height: int) -> np.ndarray:
    """A night, (H, W, 3) RGB uint8 of any size."""
    night = next(iter(sample.night_sequence(1)))[0]
    tiles = (-(-height // night.shape[0]), -(-width // night.shape[1]), 1)
    return np.ascontiguousarray(np.tile(night, tiles)[:height, :width])


def resident(pid: int) -> float:
    """Resident memory of a process in MB."""
    pages = int(Path(f'/proc/{pid}/statm').read_text().split()[1])
    return pages * os.sysconf('SC_PAGE_SIZE') / 1e6


def wait(condition: Callable[[], bool]) -> bool:
    """Whether a condition comes true within PATIENCE seconds."""
    deadline = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()
