"""The player: a recording into a ROS graph at its own pace, with /clock; measures what comes back.

A stand-in for `ros2 bag play` where that is not installed. Messages are published as they are in
the recording, bytes and stamps. The thread that plays sleeps until each message is due on the
steady clock; the executor's thread receives enhanced frames, which are told by their stamps.
"""

from __future__ import annotations

import importlib
import json
import math
import struct
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from std_srvs.srv import SetBool

from dap_led_ros.nodes import running
from dap_led_ros.nodes.arguments import usage, warn_of_misfits
from dap_led_ros.replay.codec import enhanced_name
from dap_led_ros.replay.graph_metrics import graph_metrics
from dap_led_ros.replay.recording import COMPRESSED_IMAGE, IMAGE, Recording, Topic

CLOCK_PERIOD = 0.01  # seconds between two /clock, steady
PATIENCE = 30.0  # seconds to wait for the enhancing node
TOPICS = """\
  those of the recording    out, as they are in it
  /clock                    out
  enhanced/NAME             in, to measure: see the parameter enhanced"""
SILENCE = 2.0  # seconds without a frame after the last one was sent


class Player(Node):
    """Plays a recording once, or round and round."""

    def __init__(self) -> None:
        """Open the recording and create the publishers.

        :raises ValueError: a parameter has no meaning, or the bag is none.
        :raises FileNotFoundError: there is no such bag.
        """
        super().__init__('player')

        def parameter(name: str, default: Any) -> Any:
            return self.declare_parameter(name, default).value

        bag = parameter('bag', '')
        self._topic: str = parameter('topic', '')
        self._rate: float = parameter('rate', 1.0)
        self._loop: bool = parameter('loop', False)
        self._metrics: str = parameter('metrics', '')
        enhanced = parameter('enhanced', '') or enhanced_name(self._topic)
        if not bag:
            raise ValueError('the parameter bag is empty: give the path of a rosbag2')
        if not 0 < self._rate < math.inf:
            raise ValueError(f'rate is {self._rate}: use a number above 0')
        if self._metrics and not Path(self._metrics).absolute().parent.is_dir():
            raise ValueError(f'metrics is {self._metrics}: there is no such folder')
        self._recording = Recording(Path(bag))
        for line in self._recording.trouble:
            self.get_logger().warning(line)
        self._publishers_of = {
            topic: self.create_publisher(_message_type(topic.kind), topic.name, _qos(topic))
            for topic in self._playable(enhanced if self._topic else '')
        }
        self._clock_publisher = self.create_publisher(Clock, '/clock', 10)
        self._change = threading.Condition()  # guards what follows
        self._paused = parameter('start_paused', False)
        self._stopping = False
        self.failed = False
        self._sent: dict[tuple[int, int], float] = {}
        self._received: dict[tuple[int, int], float] = {}
        self._subscription = None
        if self._topic:
            kinds = {topic.name: topic.kind for topic in self._publishers_of}
            if kinds.get(self._topic) not in (IMAGE, COMPRESSED_IMAGE):
                raise ValueError(f'{bag} has no image topic {self._topic}')
            self._subscription = self.create_subscription(
                _message_type(kinds[self._topic]), enhanced, self._on_enhanced, 50, raw=True
            )
        self.create_service(SetBool, '~/pause', self._on_pause)
        self._thread = threading.Thread(target=self._play, name='play', daemon=True)

    def start(self) -> None:
        """Begin to play, in a thread; the context shuts down at the end."""
        self._thread.start()

    def close(self) -> dict[str, float]:
        """Stop playing; what was measured."""
        with self._change:
            self._stopping = True
            self._change.notify()
        self._thread.join()
        return graph_metrics(self._sent, self._received) if self._topic else {}

    @property
    def metrics_file(self) -> str:
        """Where to write the metrics; empty: nowhere."""
        return self._metrics

    def _playable(self, enhanced: str) -> Iterator[Topic]:
        """Topics whose message types this ROS has; /clock is the player's own.

        :param enhanced: topic of the live node; a recording of it would be taken for the node's.
        """
        live = self.resolve_topic_name(enhanced) if enhanced else ''
        theirs = {live, f'{live.removesuffix("/compressed").rpartition("/")[0]}/camera_info'}
        for topic in self._recording.topics:
            if topic.name == '/clock':
                continue
            if live and topic.name in theirs:
                self.get_logger().warning(f'{topic.name} is left out: the node publishes it live')
                continue
            if not topic.is_ros:
                self.get_logger().warning(f'{topic.name} is left out: {topic.said} is not of ROS')
                continue
            try:
                _message_type(topic.kind)
            except (ImportError, AttributeError):
                self.get_logger().warning(f'{topic.name} is left out: no type {topic.kind} here')
            else:
                yield topic

    # --- callbacks ----------------------------------------------------------------------------

    def _on_pause(self, request: SetBool.Request, response: SetBool.Response) -> Any:
        with self._change:
            self._paused = request.data
            self._change.notify()
        response.success = True
        return response

    def _on_enhanced(self, data: bytes) -> None:
        now = time.monotonic()
        with self._change:
            stamp = _stamp(data)
            if stamp in self._sent:
                self._received.setdefault(stamp, now)

    # --- the thread that plays ------------------------------------------------------------------

    def _play(self) -> None:
        try:
            if self._wait_for_node():
                self._play_once()
                while self._loop and not self._stopping:
                    self._play_once()
                self._wait_for_the_last()
        except Exception as error:
            if self.context.ok():
                self.failed = True
                self.get_logger().fatal(f'stopped: {error}')
        self.context.try_shutdown()

    def _wait_for_node(self) -> bool:
        """Wait until somebody enhances the camera; False if nobody does, or when stopped."""
        if not self._topic:
            return True
        publisher = next(p for t, p in self._publishers_of.items() if t.name == self._topic)
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and not self._stopping:
            if publisher.get_subscription_count() and self.count_publishers(
                self._subscription.topic_name
            ):
                return True
            time.sleep(0.05)
        if self._stopping:
            return False
        self.failed = True
        self.get_logger().fatal(
            f'nobody enhances {self._topic} to {self._subscription.topic_name}: start the node '
            'with the image remapped, or set the parameter enhanced'
        )
        return False

    def _play_once(self) -> None:
        first: int | None = None
        begin = time.monotonic()
        for topic, now, data in self._recording.messages():
            first = now if first is None else first
            begin = self._wait_until(begin, first, now)
            if self._stopping:
                return
            if topic in self._publishers_of:
                if topic.name == self._topic:
                    with self._change:
                        self._sent.setdefault(_stamp(data), time.monotonic())
                self._publishers_of[topic].publish(bytes(data))

    def _wait_until(self, begin: float, first: int, now: int) -> float:
        """Sleep until a message is due, /clock running; the begin, later by every pause."""
        while True:
            with self._change:
                if self._stopping:
                    return begin
                if self._paused:
                    start = time.monotonic()
                    self._change.wait_for(lambda: not self._paused or self._stopping)
                    begin += time.monotonic() - start
                elapsed = time.monotonic() - begin
                left = (now - first) / 1e9 / self._rate - elapsed
                if left > 0:
                    self._change.wait(min(left, CLOCK_PERIOD))
            clock = min(now, first + round(elapsed * self._rate * 1e9))
            self._publish_clock(now if left <= 0 else clock)
            if left <= 0:
                return begin

    def _publish_clock(self, now: int) -> None:
        message = Clock()
        message.clock.sec, message.clock.nanosec = divmod(now, 10**9)
        self._clock_publisher.publish(message)

    def _wait_for_the_last(self) -> None:
        """Give the frames that are under way time to come back."""
        last = time.monotonic()
        while time.monotonic() - last < SILENCE and not self._stopping:
            with self._change:
                if len(self._received) == len(self._sent):
                    return
                last = max([last, *list(self._received.values())[-1:]])
            time.sleep(0.05)


def _message_type(kind: str) -> type:
    """The class of a type such as sensor_msgs/msg/Image."""
    package, _, name = kind.split('/')
    return getattr(importlib.import_module(f'{package}.msg'), name)


def _stamp(data: bytes) -> tuple[int, int]:
    """Seconds and nanoseconds of the header that a CDR message begins with."""
    return struct.unpack('<iI' if data[1] & 1 else '>iI', bytes(data[4:12]))


def _qos(topic: Topic) -> QoSProfile:
    """Reliable, so that best-effort and reliable listeners match; latched where it was."""
    profile = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
    if any(qos.durability.name == 'TRANSIENT_LOCAL' for qos in topic.qos):
        profile.durability = DurabilityPolicy.TRANSIENT_LOCAL
    return profile


def main(arguments: list[str] | None = None) -> int:
    """Play until the end or Ctrl-C and print the metrics; 1 if that failed."""

    def begin() -> Player:
        made = Player()
        warn_of_misfits(made, arguments)
        return made

    player = running.start('player', begin, arguments, _usage)
    if isinstance(player, int):
        return player
    player.start()
    running.spin(player)
    metrics = player.close()
    for name, value in metrics.items():
        print(f'{name:50} {value:10.2f}', flush=True)
    if player.metrics_file and metrics:
        Path(player.metrics_file).write_text(json.dumps(metrics, indent=1))
    running.end(player)
    return int(player.failed)


def _usage() -> str:
    return usage('player', TOPICS, {'all': 'See the comments of config/replay.yaml.'})


if __name__ == '__main__':
    sys.exit(main())
