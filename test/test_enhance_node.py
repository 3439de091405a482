"""The enhance node in a process of its own, over real DDS: frames, encodings, topics, QoS."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='no ROS 2 here: source one, or let make test install it')

from conftest import wait_until
from rclpy.qos import QoSProfile, ReliabilityPolicy
from ros_graph import (
    compressed,
    counts,
    graph,
    head,
    image,
    pixels_of,
    run_in_the_node,
    running,
    settle,
    stamp,
    values,
)
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from dap_led_ros import image_codec
from dap_led_ros.inference import Enhancer

__all__ = ['graph', 'running']

RGB = ('rgb8', 'bgr8', 'rgba8', 'bgra8', 'mono8', '8UC1', '8UC3', '8UC4')

LISTENER = """
import rclpy
from rclpy.node import Node
from sensor_msgs.msg import Image
rclpy.init()
node = Node('listener')
node.create_subscription(Image, 'enhanced/image_raw', lambda m: None, 5)
rclpy.spin(node)
"""


def test_a_checkpoint_of_the_training_runs_in_the_node(graph, start_node, night, tmp_path):
    """A DAP-LED guided by the CLIP that ships, in PyTorch."""
    torch = pytest.importorskip('torch', reason="no torch: pip install 'dap_led_ros[train]'")
    pytest.importorskip('open_clip', reason="no open_clip: pip install 'dap_led_ros[train]'")
    from dap_led_ros.checkpoints import checkpoint
    from dap_led_ros.checkpoints.priors import build_prior
    from dap_led_ros.models.dap_led import PRESETS, DapLed

    torch.manual_seed(0)
    network = DapLed(PRESETS['dap-led-tiny'])
    path = tmp_path / 'weights.safetensors'
    checkpoint.save(network, path, build_prior(PRESETS['dap-led-tiny'].prior))
    picture, expected, log = run_in_the_node(graph, start_node, path, night[0])
    assert not np.array_equal(expected, picture)
    assert 'on torch ' in log


def test_device_auto_says_what_it_chose_and_remembers(graph, start_node, tmp_path, night):
    """In the log once, in the diagnostics always; the second start measures nothing."""
    variables = {n: v for n, v in graph.variables.items() if n != 'DAP_LED_CACHE'}
    variables['XDG_CACHE_HOME'] = str(tmp_path)
    given = ['-p', 'warm_up:=["64x48"]']
    for how in ('measured now', 'remembered'):
        node = start_node('enhance', given, variables)
        assert wait_until(lambda node=node: 'loaded in' in node.log, 30), node.log
        lines = [line for line in node.log.splitlines() if 'device auto: ' in line]
        assert len(lines) == 1 and 'cpu:extended' in lines[0] and how in lines[0]
        if how == 'measured now':
            node.interrupt()
    camera = graph.camera()
    assert wait_until(camera.connected), node.log
    status = camera.diagnosed(lambda one: 'device auto' in values(one))
    assert status is not None and values(status)['device auto'] in lines[0]


def test_every_encoding_comes_back_enhanced(running, night):
    """Stamp, frame_id, size and encoding stay; Bayer becomes colour; padded rows, 16 bit."""
    camera, node = running
    enhancer = Enhancer.load()
    for number, encoding in enumerate(image_codec.ENCODINGS):
        picture = night[0][:240, :320]
        if encoding.endswith('16'):
            picture = picture.astype(np.uint16) * 257 + 3
        sent = Image()
        if encoding.startswith('bayer_'):
            sent = image(picture[..., 1], encoding, number, padding=6)
        else:
            image_codec.encode(picture, encoding, sent)
            head(sent, number)
        received = camera.send(sent)
        assert received is not None, f'{encoding}: {node.log}'
        assert received.header == sent.header
        assert received.encoding == image_codec.output_encoding(encoding)
        decoded = image_codec.decode(sent)
        expected = Image()
        enhanced = enhancer.stream().enhance(decoded).frame
        image_codec.encode(enhanced, received.encoding, expected, sent)
        assert (received.height, received.width, received.step) == (240, 320, expected.step)
        difference = image_codec.decode(received).astype(int) - image_codec.decode(expected)
        # One step of the brightness is up to four of a colour when colours are stored as YUV.
        one = 257 if encoding.endswith('16') else 1 if received.encoding in RGB else 5
        assert np.abs(difference).max() <= one, encoding
        assert image_codec.decode(received).mean() > 2 * decoded.mean(), encoding
    assert node.interrupt()[0] == 0
    assert counts(node.log)['enhanced'] == len(image_codec.ENCODINGS)


def test_odd_sizes_and_padded_rows(running, night):
    camera, node = running
    picture = night[0][:241, :333]
    for number, padding in enumerate((0, 9)):
        received = camera.send(image(picture, 'bgr8', number, padding))
        assert received is not None, node.log
        assert (received.height, received.width, received.step) == (241, 333, 999)


@pytest.mark.parametrize(('kind', 'suffix'), [('jpeg', '.jpg'), ('png', '.png')])
def test_compressed_in_and_out(graph, start_node, night, kind, suffix):
    camera = graph.camera(kind=CompressedImage, enhanced_kind=CompressedImage)
    arguments = ['-p', 'input_transport:=compressed', '-p', f'output_transport:={kind}']
    node = start_node('enhance', arguments, graph.variables)
    assert wait_until(camera.connected), node.log
    picture = np.ascontiguousarray(night[0])
    data = cv2.imencode(suffix, picture[..., ::-1])[1].tobytes()
    sent = compressed(data, f'bgr8; {kind} compressed bgr8', 1)
    received = camera.send(sent)
    assert received is not None, node.log
    assert received.header == sent.header
    assert received.format == sent.format
    decoded, _ = image_codec.decode_compressed(sent)
    expected = Enhancer.load().stream().enhance(decoded).frame
    found, _ = image_codec.decode_compressed(received)
    assert cv2.PSNR(found, expected) > (45 if kind == 'png' else 35)
    torn = camera.send(compressed(data[:500], sent.format, 2), 2)
    assert torn is None
    assert node.interrupt()[0] == 0
    assert counts(node.log)['refused'] == 1


def test_compressed_in_raw_out_in_an_encoding_of_choice(graph, start_node, night):
    camera = graph.camera(kind=CompressedImage)
    arguments = ['-p', 'input_transport:=compressed', '-p', 'output_encoding:=mono8']
    node = start_node('enhance', [*arguments, '-p', 'mode:=off'], graph.variables)
    assert wait_until(camera.connected), node.log
    data = cv2.imencode('.png', night[0][..., ::-1])[1].tobytes()
    received = camera.send(compressed(data, 'png', 1))
    assert received is not None, node.log
    assert received.encoding == 'mono8'
    grey = cv2.cvtColor(night[0], cv2.COLOR_RGB2GRAY)
    assert np.abs(pixels_of(received)[..., 0].astype(int) - grey).max() <= 1


def test_bad_frames_are_refused_or_passed_and_the_node_goes_on(running, night):
    camera, node = running
    picture = night[0][:120, :160]
    truncated = image(picture, 'rgb8', 1)
    del truncated.data[-1:]
    depth = image(np.zeros((120, 160), np.uint16), '16UC1', 2)
    said = ('malformed message', "'16UC1' is not colour or grey")
    for bad, text in zip((truncated, depth) * 2, said * 2):
        camera.images.publish(bad)
        assert wait_until(lambda text=text: text in node.log), node.log
        settle()  # the second ones are not logged
    tiny = image(picture[:8, :8].copy(), 'rgb8', 4)
    odd = image(picture, 'yuv444_of_mars', 3)
    for passed in (odd, tiny):
        assert camera.send(passed) == passed, node.log
    good = camera.send(image(picture, 'rgb8', 5))
    assert good is not None, node.log
    assert pixels_of(good).mean() > 2 * picture.mean()
    assert len(camera.enhanced) == 3

    status, seconds = node.interrupt()
    assert status == 0, node.log
    assert seconds < 3
    for text in (*said, "'yuv444_of_mars'"):
        assert node.log.count(text) == 1, node.log
    found = counts(node.log)
    assert (found['received'], found['enhanced'], found['passed_through']) == (7, 1, 2)
    # A second bad one may be overtaken on a busy machine; it is counted all the same.
    assert found['refused'] + found['dropped'] == 4
    assert found['refused'] >= 2


def test_ten_thousand_messages_of_garbage(running, night):
    """Every field of Image at random; then a good frame comes through and the counts add up."""
    camera, node = running
    rng = np.random.default_rng(7)
    encodings = [*image_codec.ENCODINGS, '16UC1', '32FC1', '8UC7', '', 'rgb', 'ä' * 50]
    sides = (0, 1, 2, 15, 16, 17, 64, 2**16, 2**31, 2**32 - 1)
    for number in range(10_000):
        message = Image(encoding=str(rng.choice(encodings)))
        message.height, message.width = (int(rng.choice(sides)) for _ in range(2))
        message.step = int(rng.choice([0, 1, message.width * 3 % 2**32, message.width, 2**32 - 1]))
        message.is_bigendian = int(rng.integers(256))
        message.data.frombytes(rng.bytes(int(rng.choice([0, 1, 48, 64 * 64, 64 * 64 * 3]))))
        message.header.stamp.sec = int(rng.integers(-(2**31), 2**31))
        message.header.stamp.nanosec = int(rng.integers(2**32))
        camera.images.publish(message)
        if number % 50 == 0:
            settle(0.02)
    settle()
    assert node.process.poll() is None, node.log
    good = camera.send(image(night[0], 'rgb8', 1))
    assert good is not None, node.log
    assert pixels_of(good).mean() > 2 * night[0].mean()
    assert node.interrupt()[0] == 0
    assert 'Traceback' not in node.log
    found = counts(node.log)
    assert found['refused'] > 100
    assert found['received'] > 1000


def test_camera_info_keeps_step_and_its_intrinsics(running, night):
    camera, node = running
    picture = np.ascontiguousarray(night[0][:48, :64])
    first = image(picture, 'rgb8', 0)
    info = CameraInfo(header=first.header, height=48, width=64, distortion_model='plumb_bob')
    info.k = [100.5, 0.0, 80.0, 0.0, 101.5, 60.0, 0.0, 0.0, 1.0]
    info.d = [0.1, -0.2, 0.3, 0.0, 0.0]
    camera.camera_infos.publish(info)
    settle()
    for number in range(500):
        message = image(picture, 'rgb8', number)
        if number % 5:  # else it has none of its own: the latest, restamped
            own = CameraInfo(header=message.header, height=48, width=64)
            own.distortion_model, own.k, own.d = info.distortion_model, info.k, info.d
            camera.camera_infos.publish(own)
        assert camera.send(message) is not None, node.log
    assert wait_until(lambda: len(camera.enhanced_infos) == 500)
    assert set(camera.enhanced_infos) == set(camera.enhanced)
    for received in camera.enhanced_infos.values():
        assert (list(received.k), received.d) == (list(info.k), info.d)
        assert received.distortion_model == 'plumb_bob'


def test_a_flood_is_thinned_and_counted(running, night):
    camera, node = running
    assert camera.send(image(night[0], 'rgb8', 0)) is not None, node.log
    for number in range(1, 121):
        camera.images.publish(image(night[0], 'rgb8', number))
        time.sleep(0.004)
    last = stamp(image(night[0][:16, :16], 'rgb8', 120))
    assert wait_until(lambda: last in camera.enhanced), node.log
    assert node.interrupt()[0] == 0
    found = counts(node.log)
    assert found['dropped'] > 0
    assert found['received'] > found['dropped'] + found['refused']
    arrived = list(camera.enhanced)
    assert sorted(arrived) == arrived  # never an old frame after a new one


def test_ctrl_c_at_any_moment_of_the_start_ends_quietly(graph, start_node):
    for moment in (0.2, 0.3, 0.45, 0.6, 0.8, 1.0, 1.3):
        node = start_node('enhance', [], graph.variables)
        time.sleep(moment)
        status, _ = node.interrupt()
        if '<frozen site>' in node.log:  # Python itself was not ready
            continue
        # Until rclpy listens the signal itself ends the process.
        assert status in (0, -signal.SIGINT), node.log
        if 'image_raw ->' in node.log:
            assert status == 0, node.log
        assert 'cannot' not in node.log
        assert 'missing' not in node.log


def test_a_second_ctrl_c_changes_nothing(running, night):
    camera, node = running
    camera.images.publish(image(np.tile(night[0], (3, 3, 1)), 'rgb8', 1))
    settle(0.2)
    node.process.send_signal(signal.SIGINT)
    settle(0.1)
    assert node.interrupt()[0] == 0, node.log
    assert 'Traceback' not in node.log
    counts(node.log)


def test_best_effort_cameras_and_qos_overrides(graph, start_node, night):
    camera = graph.camera(ReliabilityPolicy.BEST_EFFORT)
    node = start_node('enhance', [], graph.variables)
    assert wait_until(camera.connected), node.log
    numbers = iter(range(100))

    def one_more_arrives() -> bool:  # best effort may lose the first ones
        camera.images.publish(image(night[0][:120, :160], 'rgb8', next(numbers)))
        return wait_until(lambda: bool(camera.enhanced), 0.2)

    assert wait_until(one_more_arrives), node.log
    assert node.interrupt()[0] == 0
    override = 'qos_overrides./image_raw.subscription.reliability:=reliable'
    strict = start_node('enhance', ['-p', override], graph.variables)
    assert wait_until(lambda: camera.count_subscribers('image_raw') == 1), strict.log
    status = camera.diagnosed(lambda status: 'set the parameter qos to auto' in status.message)
    assert status is not None, strict.log
    assert camera.images.get_subscription_count() == 0  # a reliable subscription does not match


def test_a_camera_that_returns_with_other_qos_and_another_size(running, night):
    camera, node = running
    camera.camera_infos.publish(CameraInfo(height=480, width=640))
    settle()
    assert camera.send(image(night[0], 'rgb8', 1)) is not None, node.log
    assert wait_until(lambda: len(camera.enhanced_infos) == 1)
    camera.destroy_publisher(camera.images)
    settle(1)
    quality = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
    camera.images = camera.create_publisher(Image, 'image_raw', quality)
    numbers = iter(range(10, 200))
    small = np.ascontiguousarray(night[0][:121, :161])

    def one_more_arrives() -> bool:
        message = image(small, 'bgr8', next(numbers))
        camera.images.publish(message)
        return wait_until(lambda: stamp(message) in camera.enhanced, 0.3)

    assert wait_until(one_more_arrives), node.log
    assert (camera.enhanced[max(camera.enhanced)].height) == 121
    assert len(camera.enhanced_infos) == 1  # that of the old resolution is not restamped
    assert node.interrupt()[0] == 0
    counts(node.log)


def test_a_listener_that_is_stopped_does_not_hold_anybody_up(running, night):
    camera, node = running
    listener = subprocess.Popen([sys.executable, '-c', LISTENER], env=dict(os.environ))
    try:
        assert wait_until(lambda: camera.count_subscribers('enhanced/image_raw') == 2)
        listener.send_signal(signal.SIGSTOP)
        for number in range(60):
            assert camera.send(image(night[0], 'rgb8', number)) is not None, node.log
    finally:
        listener.kill()
        listener.wait()
    assert node.interrupt()[0] == 0
    assert counts(node.log)['enhanced'] == 60


def test_topics_can_be_remapped(graph, start_node, night):
    camera = graph.camera()
    remappings = ['-r', '__ns:=/front']
    for topic in ('image_raw', 'camera_info', 'enhanced/image_raw', 'enhanced/camera_info'):
        remappings += ['-r', f'{topic}:=/{topic}']
    node = start_node('enhance', remappings, graph.variables)
    assert wait_until(camera.connected), node.log
    assert camera.send(image(night[0][:120, :160], 'rgb8', 1)) is not None, node.log


def test_its_output_may_take_the_place_of_the_camera(graph, start_node, night):
    """The stack goes on with image_raw; the camera has moved to image_dark."""
    camera = graph.camera()
    camera.destroy_publisher(camera.images)
    camera.images = camera.create_publisher(Image, 'image_dark', camera.quality)
    received = camera.listen(Image, 'image_raw')
    remappings = ['-r', 'image_raw:=image_dark', '-r', 'enhanced/image_raw:=image_raw']
    node = start_node('enhance', remappings, graph.variables)
    assert wait_until(lambda: camera.images.get_subscription_count() == 1), node.log
    camera.images.publish(image(night[0], 'rgb8', 1))
    assert wait_until(lambda: len(received) == 1), node.log
    settle()
    assert node.interrupt()[0] == 0
    assert counts(node.log)['received'] == 1

    loop = start_node('enhance', ['-r', 'enhanced/image_raw:=image_raw'], graph.variables)
    assert loop.process.wait(20) == 1
    assert '/image_raw is both input and output: remap one of them' in loop.log


@pytest.mark.parametrize(
    ('parameter', 'said'),
    [
        ('model:=huge', 'no model .*one of: .*nano'),
        ('device:=gpu', 'use one of auto, cpu, cpu:extended'),
        ('qos:=best', 'use one of auto, sensor_data, reliable'),
        ('threads:=-1', 'threads'),
        ('model:=3', 'model'),
        ('warm_up:=["640"]', 'write sizes as 640x480'),
        ('cameras:=["a", "/a"]', 'use distinct names'),
        ('cameras:=[]', 'use distinct names'),
        ('pass_below:=0.9', 'pass_below'),
        ('qos_overrides./image_raw.subscription.reliability:=maybe', 'use auto, best_effort'),
        ('qos_overrides./image_raw.subscription.history:=bogus', 'cannot configure'),
    ],
)
def test_a_wrong_parameter_ends_the_node_with_one_line(graph, start_node, parameter, said):
    node = start_node('enhance', ['-p', parameter], graph.variables)
    assert node.process.wait(20) == 1
    fatal = [line for line in node.log.splitlines() if re.search('cannot (start|conf)', line)]
    assert len(fatal) == 1, node.log
    assert re.search(said, fatal[0]), node.log
    assert 'Traceback' not in node.log
