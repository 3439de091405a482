"""What /diagnostics and the log say of a camera that brings nothing; topics are remapped."""

from __future__ import annotations

import re
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='no ROS 2 here: source one, or let make test install it')

from conftest import wait_until
from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.qos import DurabilityPolicy, QoSProfile
from ros_graph import Graph, compressed, counts, graph, image, settle, values
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

__all__ = ['graph']

WARN, ERROR, STALE = DiagnosticStatus.WARN, DiagnosticStatus.ERROR, DiagnosticStatus.STALE

DRIVER = """
import sys, time
import rclpy
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
rclpy.init()
node = rclpy.create_node('driver')
quality = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
publisher = node.create_publisher(Image, '/cam/image', quality)
width, height = int(sys.argv[1]), int(sys.argv[2])
message = Image(encoding='bayer_rggb8', width=width, height=height, step=width)
message.data.frombytes(bytes(width * height))
for _ in range(200):
    publisher.publish(message)
    time.sleep(0.1)
"""


def levels(camera, name: str) -> list[tuple[bytes, str]]:
    """Levels and messages of a camera's statuses so far."""
    return [(s.level, s.message) for s in list(camera.diagnostics) if s.name == name]


def test_a_camera_that_receives_and_delivers_nothing_is_never_ok(graph, start_node):
    """WARN after 3 s and ERROR after stuck_after, with the share and the cause, and in the log."""
    camera = graph.camera()
    names = ('depth', 'odd', 'steps', 'unstamped')
    raw = ['-p', f'cameras:=[{",".join(names)}]', '-p', 'max_age:=1.0']
    packed = ['-r', '__node:=packed', '-p', 'cameras:=[torn,empty]']
    packed += ['-p', 'input_transport:=compressed']
    for name in (*names, 'torn', 'empty'):
        arguments = raw if name in names else packed
        arguments += ['-r', f'{name}/image_raw:=/rig/{name}/image']
        camera.create_subscription(Image, f'{name}/enhanced/image_raw', lambda m: None, 5)
    nodes = [start_node('enhance', arguments, graph.variables) for arguments in (raw, packed)]
    grey = np.zeros((33, 32), np.uint8)
    made = {
        'depth': image(grey.astype(np.uint16), '16UC1', 0),
        'odd': image(grey, 'nv12', 0),
        'steps': image(grey, 'mono8', 0),
        'unstamped': image(grey, 'mono8', 0),
        'torn': compressed(b'\xff\xd8\xff\xe0' + bytes(500), 'jpeg', 0),
        'empty': compressed(b'', 'jpeg', 0),
    }
    made['steps'].step = 0
    publishers = {
        name: camera.create_publisher(
            type(message), f'/rig/{name}/image' + ('/compressed' if name in packed[3] else ''), 5
        )
        for name, message in made.items()
    }
    assert wait_until(lambda: all(p.get_subscription_count() for p in publishers.values()))
    start = time.monotonic()
    while time.monotonic() < start + 7.5:
        for name, message in made.items():
            message.header.stamp = camera.get_clock().now().to_msg()
            if name == 'unstamped':
                message.header.stamp.sec = message.header.stamp.nanosec = 0
            publishers[name].publish(message)
        settle(0.1)
    said = {
        'enhance: depth': "refused: encoding '16UC1' is not colour or grey",
        'enhance: odd': "refused: malformed message: 32x33 'nv12' with step 32",
        'enhance: steps': "refused: malformed message: 32x33 'mono8' with step 0",
        'enhance: unstamped': (
            'dropped: older than max_age (stamps are 56 years old: does the camera stamp its'
        ),
        'packed: torn': 'refused: malformed compressed message: 0x0 of format',
        'packed: empty': 'refused: malformed compressed message: the message has no data',
    }
    for name, text in said.items():
        found = levels(camera, name)
        assert {level for level, message in found if text in message} == {WARN, ERROR}, found
        share = [message for level, message in found if level == ERROR][-1]
        assert share.split(' refused')[0].split(' dropped')[0].split(' of ')[0].isdigit(), share
        assert found[-1][0] == ERROR
        log = nodes[name.startswith('packed')].log
        assert log.count(text) == 1, log
    for node in nodes:
        assert node.interrupt()[0] == 0
        assert counts(node.log)['received'] > 50


def test_total_loss_is_said_first_and_shows_its_cure(graph, start_node):
    """Large best-effort frames of a driver without the profile for shared memory.

    20 MB each: of 5 MB one in some seconds still gets through, whole, on a machine that is busy.
    """
    camera = graph.camera()
    camera.destroy_publisher(camera.images)
    node = start_node('enhance', ['-r', 'image_raw:=/cam/image'], graph.variables)
    bare = {name: text for name, text in graph.variables.items() if not name.startswith('FAST')}
    driver = subprocess.Popen([sys.executable, '-c', DRIVER, '5184', '3888'], env=bare)
    try:
        lost = camera.diagnosed(lambda s: s.level == WARN and 'none arrived' in s.message, 30)
        assert lost is not None, node.log
        assert re.match(
            r'\d+ images lost and none arrived on /cam/image for \d+ s: if', lost.message
        )
        assert 'fastdds_large_images.xml' in lost.message
        assert int(values(lost)['received']) <= 3  # of ten in each second
        assert camera.diagnosed(lambda s: s.level == ERROR and 'none arrived' in s.message)
    finally:
        driver.kill()
        driver.wait()
    assert node.log.count('images lost') == 1, node.log


def test_silence_is_explained_by_what_is_really_there(graph, start_node, night):
    """Under remapping: nobody, a driver that is silent, another type, two at once."""
    camera = graph.camera()
    for publisher in (camera.images, camera.camera_infos):
        camera.destroy_publisher(publisher)
    node = start_node('enhance', ['-r', 'image_raw:=/cam/image_raw'], graph.variables)
    nobody = camera.diagnosed(lambda s: s.level == STALE)
    assert nobody is not None, node.log
    assert 'nobody publishes /cam/image_raw; nobody publishes /cam/camera_info' in nobody.message
    packed = camera.create_publisher(CompressedImage, '/cam/image_raw/compressed', 5)
    text = (
        'nobody publishes /cam/image_raw; /cam/image_raw/compressed carries '
        'sensor_msgs/CompressedImage: set input_transport to compressed'
    )
    assert camera.diagnosed(lambda s: text in s.message), node.log
    camera.destroy_publisher(packed)
    elsewhere = Graph(graph.variables)  # one participant has one type on a topic
    elsewhere.camera(name='other').create_publisher(CameraInfo, '/cam/image_raw', 5)
    text = 'carries sensor_msgs/CameraInfo, not sensor_msgs/Image: remap image_raw to a camera'
    assert camera.diagnosed(lambda s: text in s.message), node.log
    elsewhere.close()
    first = camera.create_publisher(Image, '/cam/image_raw', 5)
    silent = camera.diagnosed(lambda s: s.message.startswith('no images on /cam/image_raw'))
    assert silent is not None, node.log
    second = graph.camera(name='other').create_publisher(Image, '/cam/image_raw', 5)
    two = camera.diagnosed(lambda s: '2 publishers on /cam/image_raw' in s.message)
    assert two is not None, node.log
    assert '(/camera, /other/camera): their frames are mixed' in two.message
    assert 'nobody publishes /cam/image_raw' in node.log
    del first, second


def test_a_remap_to_the_compressed_topic_is_led_back(graph, start_node):
    """The ending belongs to the transport, whichever of the two is asked for."""
    camera = graph.camera()
    camera.create_publisher(CompressedImage, '/cam/image_raw/compressed', 5)
    remap = ['-r', 'image_raw:=/cam/image_raw/compressed', '-p', 'warm_up:=[""]']
    packed = ['-r', '__node:=packed', '-p', 'input_transport:=compressed']
    nodes = [start_node('enhance', [*remap, *more], graph.variables) for more in ([], packed)]
    carries = '/cam/image_raw/compressed carries sensor_msgs/CompressedImage'
    for name, text in (
        (
            'enhance: camera',
            f'{carries}: set input_transport to compressed and remap image_raw to',
        ),
        ('packed: camera', f'{carries}: remap image_raw to /cam/image_raw'),
    ):
        found = camera.diagnosed(lambda s, n=name, t=text: s.name == n and t in s.message)
        assert found is not None, [node.log for node in nodes]


def test_a_listener_that_gets_nothing_is_no_idleness(graph, start_node):
    """Its QoS does not fit, or it listens to the topic of another transport."""
    camera = graph.camera()
    for subscription in list(camera.subscriptions):
        if 'enhanced' in subscription.topic_name:
            camera.destroy_subscription(subscription)
    remapped = ['-r', 'enhanced/image_raw:=/cam/bright', '-r', 'image_raw:=/cam/image_raw']
    node = start_node('enhance', remapped, graph.variables)
    assert camera.diagnosed(lambda s: s.message == 'idle: nobody listens'), node.log
    quality = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    asks = camera.create_subscription(Image, '/cam/bright', lambda m: None, quality)
    unfit = camera.diagnosed(lambda s: s.level == WARN)
    assert unfit is not None, node.log
    assert unfit.message.startswith(
        '/camera listens to /cam/bright and gets nothing, since its QoS does not fit: Volatile '
        'publisher and transient local subscription;'
    )
    camera.destroy_subscription(asks)
    packed = camera.create_subscription(
        CompressedImage, '/cam/bright/compressed', lambda m: None, 5
    )
    text = '/camera listens to /cam/bright/compressed, which nobody publishes: listen to'
    elsewhere = camera.diagnosed(lambda s: text in s.message)
    assert elsewhere is not None, node.log
    assert elsewhere.message.endswith('/cam/bright, or set output_transport to jpeg')
    camera.destroy_subscription(packed)
    assert camera.diagnosed(lambda s: s.message == 'idle: nobody listens'), node.log


def test_the_age_of_an_unstamped_frame_is_empty_with_a_reason(graph, start_node, night):
    camera = graph.camera()
    node = start_node('enhance', [], graph.variables)
    assert wait_until(camera.connected), node.log
    message = image(night[0][:48, :64], 'rgb8', 1)
    for stamp, reason in (
        ((0, 0), 'frames carry no stamp: does the camera stamp its frames?'),
        ((3600, 5), 'stamps are 56 years old: does the camera stamp its frames?'),
    ):
        message.header.stamp.sec, message.header.stamp.nanosec = stamp
        assert camera.send(message) is not None, node.log
        status = camera.diagnosed(lambda s, r=reason: values(s).get('age unknown') == r)
        assert status is not None, node.log
        assert values(status)['age (ms)'] == ''
    message.header.stamp = camera.get_clock().now().to_msg()
    assert camera.send(message) is not None, node.log
    status = camera.diagnosed(lambda s: 'age unknown' not in values(s))
    assert 0 < float(values(status)['age (ms)']) < 60_000
