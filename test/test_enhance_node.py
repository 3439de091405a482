"""The enhance node in a process of its own, over real DDS."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='no ROS 2 here: source one, or let make test install it')

import rclpy
from conftest import ros_environment, wait_until
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image

from dap_led_ros import image_codec
from dap_led_ros.inference import Enhancer
from dap_led_ros.nodes import environment

MODULE = 'dap_led_ros.nodes.enhance_node'
Stamp = tuple[int, int]


class Camera(Node):
    """Publishes by hand; keeps every enhanced image and camera info by stamp."""

    def __init__(self, context: rclpy.Context, reliability: ReliabilityPolicy) -> None:
        super().__init__('camera', context=context, use_global_arguments=False)
        quality = QoSProfile(depth=10, reliability=reliability)
        self.images = self.create_publisher(Image, 'image_raw', quality)
        self.camera_infos = self.create_publisher(CameraInfo, 'camera_info', 10)
        self.enhanced: dict[Stamp, Image] = {}
        self.enhanced_infos: dict[Stamp, CameraInfo] = {}
        self.create_subscription(Image, 'enhanced/image_raw', self._on_image, 50)
        self.create_subscription(CameraInfo, 'enhanced/camera_info', self._on_info, 50)

    def _on_image(self, message: Image) -> None:
        self.enhanced[stamp(message)] = message

    def _on_info(self, message: CameraInfo) -> None:
        self.enhanced_infos[stamp(message)] = message

    def connected(self) -> bool:
        topics = ('enhanced/image_raw', 'enhanced/camera_info')
        return (
            self.images.get_subscription_count() == 1
            and self.camera_infos.get_subscription_count() == 1
            and all(self.count_publishers(topic) == 1 for topic in topics)
        )

    def send(self, message: Image) -> Image | None:
        """Publish one image; returns what comes back within a few seconds."""
        self.images.publish(message)
        wait_until(lambda: stamp(message) in self.enhanced, 5)
        return self.enhanced.get(stamp(message))


@pytest.fixture
def graph(request, monkeypatch) -> Iterator[tuple[Camera, dict[str, str]]]:
    """A camera in a graph of its own, and the environment for nodes that shall see it."""
    variables = ros_environment(request.node.nodeid)
    variables.update(environment.additions(environment.find_profile(), os.environ))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=int(variables['ROS_DOMAIN_ID']))
    reliability = getattr(request, 'param', ReliabilityPolicy.RELIABLE)
    camera = Camera(context, reliability)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(camera)
    thread = threading.Thread(target=executor.spin)
    thread.start()
    yield camera, variables
    executor.shutdown()
    thread.join()
    camera.destroy_node()
    rclpy.shutdown(context=context)


@pytest.fixture
def running(graph, start_node):
    """The camera and a node that is connected to it and subscribes reliably."""
    camera, variables = graph
    node = start_node(MODULE, ['-p', 'qos:=reliable'], variables)
    assert wait_until(camera.connected), node.log
    return camera, node


def stamp(message: Image | CameraInfo) -> Stamp:
    return message.header.stamp.sec, message.header.stamp.nanosec


def image(pixels: np.ndarray, encoding: str, number: int, padding: int = 0) -> Image:
    """A message with an odd stamp and frame_id; rows may be padded."""
    rows = pixels.reshape(len(pixels), -1)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=200)
    message = Image(encoding=encoding, step=rows.shape[1])
    message.height, message.width = pixels.shape[:2]
    message.header.stamp.sec, message.header.stamp.nanosec = 1_234_567_890, 987_654_000 + number
    message.header.frame_id = f'front_camera/optical-{number}'
    message.data.frombytes(rows.tobytes())
    return message


def pixels_of(message: Image) -> np.ndarray:
    channels = message.step // message.width
    flat = np.frombuffer(message.data, np.uint8)
    return flat.reshape(message.height, message.width, channels)


def counts(log: str) -> dict[str, int]:
    """The node's closing line as numbers."""
    line = [line for line in log.splitlines() if ' received, ' in line][-1]
    return {name: int(number) for number, name in re.findall(r'(\d+) (\w+)', line.split(']: ')[1])}


def assert_counts_add_up(log: str) -> dict[str, int]:
    found = counts(log)
    parts = ('enhanced', 'passed_through', 'dropped', 'refused')
    assert found['received'] == sum(found[part] for part in parts), found
    return found


def test_a_checkpoint_of_the_training_runs_in_the_node(graph, start_node, night, tmp_path):
    """A DAP-LED guided by the CLIP that ships, in PyTorch."""
    torch = pytest.importorskip('torch', reason="no torch: pip install 'dap_led_ros[train]'")
    pytest.importorskip('open_clip', reason="no open_clip: pip install 'dap_led_ros[train]'")
    from dap_led_ros.inference import checkpoint
    from dap_led_ros.inference.priors import build_prior
    from dap_led_ros.models.dap_led import PRESETS, DapLed

    torch.manual_seed(0)
    network = DapLed(PRESETS['tiny'])
    path = tmp_path / 'weights.safetensors'
    checkpoint.save(network, path, build_prior(PRESETS['tiny'].prior))
    camera, variables = graph
    arguments = ['-p', 'qos:=reliable', '-p', f'model:={path}', '-p', 'threads:=1']
    node = start_node(MODULE, arguments, variables)
    assert wait_until(camera.connected, 60), node.log
    picture = np.ascontiguousarray(night[0][:121, :163])
    message = image(picture, 'rgb8', 1)
    received = camera.send(message)
    assert received is not None, node.log
    assert received.header == message.header
    expected = Enhancer.load(str(path)).enhance(picture).frame
    assert not np.array_equal(expected, picture)
    assert np.abs(pixels_of(received).astype(int) - expected).max() <= 1
    assert 'on torch ' in node.log


def test_encodings_padding_stamps_and_frame_ids(running, night):
    camera, node = running
    picture = night[0][:241, :333]  # odd on purpose
    grey = np.ascontiguousarray(picture[..., 1])
    cases = [
        image(picture, 'rgb8', 1),
        image(picture, 'rgb8', 2, padding=9),
        image(np.ascontiguousarray(picture[..., ::-1]), 'bgr8', 3),
        image(grey, 'mono8', 4, padding=3),
    ]
    enhancer = Enhancer.load()
    for sent in cases:
        received = camera.send(sent)
        assert received is not None, node.log
        assert received.header == sent.header
        assert (received.height, received.width) == (241, 333)
        assert received.encoding == sent.encoding
        expected = Image()
        decoded = image_codec.decode(sent)
        image_codec.encode(enhancer.enhance(decoded).frame, sent.encoding, expected)
        assert received.step == expected.step
        difference = pixels_of(received).astype(int) - pixels_of(expected)
        assert np.abs(difference).max() <= 1
        assert pixels_of(received).mean() > 2 * decoded.mean()
    assert node.interrupt()[0] == 0
    assert assert_counts_add_up(node.log)['enhanced'] == len(cases)


def test_bad_frames_are_refused_or_passed_and_the_node_goes_on(running, night):
    camera, node = running
    picture = night[0][:120, :160]
    truncated = image(picture, 'rgb8', 1)
    del truncated.data[-1:]
    depth = image(np.zeros((120, 160, 2), np.uint8), '16UC1', 2)
    said = ('malformed message', "'16UC1' is not colour or grey")
    for bad, text in zip((truncated, depth) * 2, said * 2):
        camera.images.publish(bad)
        assert wait_until(lambda text=text: text in node.log), node.log
        time.sleep(0.3)  # the second ones are not logged
    bayer = image(picture[..., 0].copy(), 'bayer_rggb8', 3)
    tiny = image(picture[:8, :8].copy(), 'rgb8', 4)
    for passed in (bayer, tiny):
        received = camera.send(passed)
        assert received is not None, node.log
        assert received == passed
    good = camera.send(image(picture, 'rgb8', 5))
    assert good is not None, node.log
    assert pixels_of(good).mean() > 2 * picture.mean()
    assert {nanosec for _, nanosec in camera.enhanced} == {987_654_003, 987_654_004, 987_654_005}

    status, seconds = node.interrupt()
    assert status == 0, node.log
    assert seconds < 2
    for text in (*said, "'bayer_rggb8' cannot be", '8x8: the least is 16x16'):
        assert node.log.count(text) == 1, node.log
    found = assert_counts_add_up(node.log)
    assert (found['received'], found['enhanced'], found['passed_through']) == (7, 1, 2)
    # A second bad one may be overtaken on a busy machine; it is counted all the same.
    assert found['refused'] + found['dropped'] == 4
    assert found['refused'] >= 2


def test_camera_info_comes_with_the_stamp_of_the_image(running, night):
    camera, node = running
    picture = night[0][:120, :160]
    first, second = image(picture, 'rgb8', 1), image(picture, 'rgb8', 2)
    info = CameraInfo(header=first.header, height=120, width=160, distortion_model='plumb_bob')
    info.k = [100.5, 0.0, 80.0, 0.0, 101.5, 60.0, 0.0, 0.0, 1.0]
    info.d = [0.1, -0.2, 0.3, 0.0, 0.0]
    for _ in range(10):  # best effort may lose the first ones
        camera.camera_infos.publish(info)
        time.sleep(0.05)
    assert camera.send(first) is not None, node.log
    assert camera.send(second) is not None, node.log  # this one has no camera info of its own
    assert wait_until(lambda: len(camera.enhanced_infos) == 2)
    assert camera.enhanced_infos[stamp(first)] == info
    latest = camera.enhanced_infos[stamp(second)]
    assert latest.header.stamp == second.header.stamp
    assert latest.header.frame_id == info.header.frame_id
    assert (list(latest.k), latest.d) == (list(info.k), info.d)


def test_a_flood_is_thinned_and_counted(running, night):
    camera, node = running
    assert camera.send(image(night[0], 'rgb8', 120)) is not None, node.log
    for number in range(120):
        camera.images.publish(image(night[0], 'rgb8', number))
        time.sleep(0.004)
    last = 987_654_119
    assert wait_until(lambda: any(nanosec == last for _, nanosec in camera.enhanced)), node.log
    assert node.interrupt()[0] == 0
    found = assert_counts_add_up(node.log)
    assert found['dropped'] > 0
    assert found['received'] > found['dropped'] + found['refused']
    arrived = list(camera.enhanced)[1:]
    assert sorted(arrived) == arrived  # never an old frame after a new one


def test_ctrl_c_at_any_moment_of_the_start_ends_quietly(graph, start_node):
    for moment in (0.15, 0.3, 0.45, 0.6, 0.8, 1.0):
        node = start_node(MODULE, [], graph[1])
        time.sleep(moment)
        status, _ = node.interrupt()
        if 'image_raw ->' in node.log:
            assert status == 0, node.log
        assert 'cannot start' not in node.log


def test_a_second_ctrl_c_changes_nothing(running, night):
    camera, node = running
    camera.images.publish(image(np.tile(night[0], (3, 3, 1)), 'rgb8', 1))
    time.sleep(0.2)
    node.process.send_signal(signal.SIGINT)
    time.sleep(0.1)
    assert node.interrupt()[0] == 0, node.log
    assert 'Traceback' not in node.log
    assert_counts_add_up(node.log)


@pytest.mark.parametrize('graph', [ReliabilityPolicy.BEST_EFFORT], indirect=True)
def test_best_effort_cameras_and_qos_overrides(graph, start_node, night):
    camera, variables = graph
    node = start_node(MODULE, [], variables)
    assert wait_until(camera.connected), node.log

    def one_more_arrives() -> bool:  # best effort may lose the first ones
        one_more_arrives.number += 1
        camera.images.publish(image(night[0][:120, :160], 'rgb8', one_more_arrives.number))
        return wait_until(lambda: bool(camera.enhanced), 0.2)

    one_more_arrives.number = 0
    assert wait_until(one_more_arrives), node.log
    assert node.interrupt()[0] == 0
    override = 'qos_overrides./image_raw.subscription.reliability:=reliable'
    strict = start_node(MODULE, ['-p', override], variables)
    assert wait_until(lambda: camera.count_subscribers('image_raw') == 1), strict.log
    assert camera.images.get_subscription_count() == 0  # a reliable subscription does not match


def test_topics_can_be_remapped(graph, start_node, night):
    camera, variables = graph
    remappings = ['-r', '__ns:=/front', '-r', 'image_raw:=/image_raw']
    remappings += [
        '-r',
        'camera_info:=/camera_info',
        '-r',
        'enhanced/image_raw:=/enhanced/image_raw',
    ]
    remappings += ['-r', 'enhanced/camera_info:=/enhanced/camera_info', '-p', 'qos:=reliable']
    node = start_node(MODULE, remappings, variables)
    assert wait_until(camera.connected), node.log
    assert camera.send(image(night[0][:120, :160], 'rgb8', 1)) is not None, node.log


@pytest.mark.parametrize(
    ('parameter', 'said'),
    [
        ('model:=huge', 'no model .*one of: nano'),
        ('device:=gpu', 'use one of auto, cpu, cuda'),
        ('qos:=best', 'use one of sensor_data, reliable'),
        ('threads:=-1', 'threads'),
        ('model:=3', 'model'),
    ],
)
def test_a_wrong_parameter_ends_the_node_with_one_line(graph, start_node, parameter, said):
    node = start_node(MODULE, ['-p', parameter], graph[1])
    assert node.process.wait(20) == 1
    fatal = [line for line in node.log.splitlines() if 'cannot start' in line]
    assert len(fatal) == 1, node.log
    assert re.search(said, fatal[0]), node.log
    assert 'Traceback' not in node.log
