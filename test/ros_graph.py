"""A camera that the tests hold in their hands, in a ROS graph of its own."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='no ROS 2 here: source one, or let make test install it')

import rclpy
from conftest import NodeProcess, ros_environment, wait_until
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from dap_led_ros.inference import Enhancer
from dap_led_ros.nodes import environment

Stamp = tuple[int, int]


class Camera(Node):
    """Publishes by hand; keeps every enhanced image and camera info by stamp."""

    def __init__(
        self,
        context: rclpy.Context,
        reliability: ReliabilityPolicy,
        name: str = '',
        kind: type = Image,
        enhanced_kind: type = Image,
    ) -> None:
        super().__init__('camera', context=context, namespace=name, use_global_arguments=False)
        self.quality = QoSProfile(depth=10, reliability=reliability)
        self.topic = 'image_raw' if kind is Image else 'image_raw/compressed'
        self.kind = kind
        self.images = self.create_publisher(kind, self.topic, self.quality)
        self.camera_infos = self.create_publisher(CameraInfo, 'camera_info', 10)
        self.enhanced: dict[Stamp, Any] = {}
        self.enhanced_infos: dict[Stamp, CameraInfo] = {}
        self.others: dict[str, list[Any]] = {}
        self.diagnostics: list[DiagnosticStatus] = []
        topic = 'enhanced/image_raw' + ('' if enhanced_kind is Image else '/compressed')
        self.enhanced_topic = topic
        self.create_subscription(enhanced_kind, topic, self._on_image, 50)
        self.create_subscription(CameraInfo, 'enhanced/camera_info', self._on_info, 50)
        self.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, 10)

    def _on_image(self, message: Any) -> None:
        self.enhanced[stamp(message)] = message

    def _on_info(self, message: CameraInfo) -> None:
        self.enhanced_infos[stamp(message)] = message

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self.diagnostics += message.status

    def listen(self, kind: type, topic: str) -> list[Any]:
        """Subscribe to one more topic; the list grows."""
        received = self.others.setdefault(topic, [])
        self.create_subscription(kind, topic, received.append, 50)
        return received

    def connected(self) -> bool:
        """Whether both sides have found each other: the node subscribes once it has a listener.

        Where it found the listener long before the camera it subscribes a second time.
        """
        subscribed = self.get_subscriptions_info_by_topic(self.topic)
        topics = (self.enhanced_topic, 'enhanced/camera_info')
        return (
            self.images.get_subscription_count() == 1
            and [one.qos_profile.reliability for one in subscribed] == [self.quality.reliability]
            and self.camera_infos.get_subscription_count() == 1
            and all(self.count_publishers(topic) == 1 for topic in topics)
        )

    def send(self, message: Any, seconds: float = 8) -> Any:
        """Publish one image; returns what comes back within a few seconds."""
        self.images.publish(message)
        wait_until(lambda: stamp(message) in self.enhanced, seconds)
        return self.enhanced.get(stamp(message))

    def ask(self, kind: type, service: str, request: Any) -> Any:
        """Call a service of the node and wait for the answer."""
        client = self.create_client(kind, service)
        assert client.wait_for_service(10), service
        future = client.call_async(request)
        assert wait_until(future.done, 20), service
        return future.result()

    def set(self, **values: Any) -> tuple[bool, str]:
        """Set parameters of /enhance; whether all were taken, and why not."""
        from rcl_interfaces.srv import SetParametersAtomically

        request = SetParametersAtomically.Request()
        request.parameters = [
            Parameter(name, value=value).to_parameter_msg() for name, value in values.items()
        ]
        service = '/enhance/set_parameters_atomically'
        result = self.ask(SetParametersAtomically, service, request).result
        return result.successful, result.reason

    def transition(self, number: int) -> bool:
        """Ask /enhance for a lifecycle transition."""
        request = ChangeState.Request()
        request.transition.id = number
        return self.ask(ChangeState, '/enhance/change_state', request).success

    def state(self) -> str:
        """Lifecycle state of /enhance."""
        return self.ask(GetState, '/enhance/get_state', GetState.Request()).current_state.label

    def diagnosed(self, condition: Callable[[DiagnosticStatus], bool], seconds: float = 15) -> Any:
        """Wait for a new status of which the condition holds; None if there is none."""
        self.diagnostics.clear()
        found: list[DiagnosticStatus] = []

        def look() -> bool:
            found[:] = [status for status in list(self.diagnostics) if condition(status)]
            return bool(found)

        wait_until(look, seconds)
        return found[0] if found else None


class Graph:
    """A ROS graph of the test's own: cameras, and the environment for nodes that see them."""

    def __init__(self, variables: dict[str, str]) -> None:
        self.variables = variables
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=int(variables['ROS_DOMAIN_ID']))
        self.executor = SingleThreadedExecutor(context=self.context)
        self.thread = threading.Thread(target=self.executor.spin)
        self.thread.start()

    def camera(
        self, reliability: ReliabilityPolicy = ReliabilityPolicy.RELIABLE, **more: Any
    ) -> Camera:
        """Add a camera."""
        camera = Camera(self.context, reliability, **more)
        self.executor.add_node(camera)
        return camera

    def close(self) -> None:
        self.executor.shutdown()
        self.thread.join()
        for node in self.executor.get_nodes():
            node.destroy_node()
        rclpy.shutdown(context=self.context)


@pytest.fixture
def graph(request, monkeypatch) -> Iterator[Graph]:
    """A ROS graph without anybody in it."""
    variables = ros_environment(request.node.nodeid)
    variables.update(environment.additions(environment.find_profile(), os.environ))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    made = Graph(variables)
    yield made
    made.close()


@pytest.fixture
def running(graph, start_node) -> tuple[Camera, Any]:
    """A reliable camera and a node that is connected to it."""
    camera = graph.camera()
    node = start_node('enhance', [], graph.variables)
    assert wait_until(camera.connected), node.log
    return camera, node


def run_in_the_node(
    graph: Graph,
    start_node: Callable[..., NodeProcess],
    model: Path,
    frame: np.ndarray,
    arguments: Sequence[str] = (),
    reference: Path | None = None,
) -> tuple[np.ndarray, np.ndarray, str]:
    """The node makes of a piece of a frame what the Enhancer makes of it.

    :param arguments: more of the node's.
    :param reference: what the Enhancer opens in place of `model`.
    :returns: the piece, that of the Enhancer, and the node's log.
    """
    camera = graph.camera()
    given = ['-p', f'model:={model}', '-p', 'threads:=1', '-p', 'warm_up:=["160x120"]']
    node = start_node('enhance', [*given, *arguments], graph.variables)
    assert wait_until(camera.connected, 240), node.log
    picture = np.ascontiguousarray(frame[:121, :163])
    message = image(picture, 'rgb8', 1)
    # Again and again: the node may find the camera later than the camera finds the node.
    assert wait_until(lambda: camera.send(message, 10) is not None, 60), node.log
    received = camera.enhanced[stamp(message)]
    assert received.header == message.header
    expected = Enhancer.load(str(reference or model)).enhance(picture).frame
    assert np.abs(pixels_of(received).astype(int) - expected).max() <= 1
    return picture, expected, node.log


def stamp(message: Any) -> Stamp:
    return message.header.stamp.sec, message.header.stamp.nanosec


def head(message: Any, number: int) -> Any:
    """Give a message an odd stamp and frame_id; each is a scene of its own to the node."""
    message.header.stamp.sec = 1_234_567_890 + 2 * number
    message.header.stamp.nanosec = 987_654_321
    message.header.frame_id = f'front_camera/optical-{number}'
    return message


def image(pixels: np.ndarray, encoding: str, number: int, padding: int = 0) -> Image:
    """A message of (H, W) or (H, W, C) uint8 or uint16; rows may be padded with bytes."""
    rows = np.ascontiguousarray(pixels).reshape(len(pixels), -1).view(np.uint8)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=200)
    message = Image(encoding=encoding, step=rows.shape[1])
    message.height, message.width = pixels.shape[:2]
    message.data.frombytes(rows.tobytes())
    return head(message, number)


def pixels_of(message: Image) -> np.ndarray:
    channels = message.step // message.width
    flat = np.frombuffer(message.data, np.uint8)
    return flat.reshape(message.height, message.width, channels)


def compressed(data: bytes, format_: str, number: int) -> CompressedImage:
    message = CompressedImage(format=format_)
    message.data.frombytes(data)
    return head(message, number)


def counts(log: str) -> dict[str, int]:
    """The node's closing line as numbers; they have to add up."""
    line = [line for line in log.splitlines() if ' received, ' in line][-1]
    found = {name: int(count) for count, name in re.findall(r'(\d+) (\w+)', line.split(']: ')[1])}
    parts = ('enhanced', 'passed_through', 'dropped', 'refused')
    assert found['received'] == sum(found[part] for part in parts), found
    return found


def values(status: DiagnosticStatus) -> dict[str, str]:
    return {entry.key: entry.value for entry in status.values}


def settle(seconds: float = 0.5) -> None:
    """Give messages that nobody waits for the time to arrive."""
    time.sleep(seconds)
