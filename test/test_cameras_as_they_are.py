"""Cameras as they are, over real DDS: camera info, significant bits, JPEG with a tail."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='no ROS 2 here: source one, or let make test install it')

from conftest import wait_until
from ros_graph import (
    compressed,
    counts,
    graph,
    image,
    pixels_of,
    running,
    settle,
    stamp,
    values,
)
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from dap_led_ros import image_codec

__all__ = ['graph', 'running']


def test_the_camera_info_beside_a_remapped_image(graph, start_node, night):
    """As image_transport: where only image_raw is remapped, its camera_info goes with it."""
    camera = graph.camera()
    for publisher in (camera.images, camera.camera_infos):
        camera.destroy_publisher(publisher)
    images = camera.create_publisher(Image, '/cam/front/image_raw', 5)
    infos = camera.create_publisher(CameraInfo, '/cam/front/camera_info', 5)
    remap = ['-r', 'image_raw:=/cam/front/image_raw']
    node = start_node('enhance', remap, graph.variables)
    assert wait_until(
        lambda: images.get_subscription_count() and infos.get_subscription_count()
    ), node.log
    settle()
    message = image(night[0][:48, :64], 'rgb8', 1)
    infos.publish(CameraInfo(header=message.header, height=48, width=64))
    settle()
    images.publish(message)
    assert wait_until(lambda: stamp(message) in camera.enhanced_infos), node.log
    assert node.interrupt()[0] == 0
    explicit = start_node('enhance', [*remap, '-r', 'camera_info:=/calibration'], graph.variables)
    assert wait_until(lambda: camera.count_subscribers('/calibration') == 1), explicit.log
    assert infos.get_subscription_count() == 0


def test_intrinsics_of_another_size_are_never_published(running, night):
    """Not even with the stamp of the image; a region of interest, binned, is what it covers."""
    camera, node = running
    roomy = CameraInfo(height=480, width=640)
    binned = CameraInfo(height=192, width=256, binning_x=2, binning_y=2)
    binned.roi.height, binned.roi.width = 96, 128
    for number, (info, comes) in enumerate(
        ((roomy, False), (binned, True), (CameraInfo(), True), (roomy, False))
    ):
        message = image(night[0][:48, :64], 'rgb8', number)
        info.header = message.header
        camera.camera_infos.publish(info)
        settle()
        assert camera.send(message) is not None, node.log
        assert wait_until(lambda m=message: stamp(m) in camera.enhanced_infos, 1) == comes
    text = 'camera_info is of 640x480 and the images are of 64x48: it is not republished'
    assert camera.diagnosed(lambda s: text in s.message) is not None, node.log


def test_jpeg_as_cameras_send_it(graph, start_node, night):
    """A buffer longer than the picture, zeros or an older frame behind it; never a torn one."""
    camera = graph.camera(kind=CompressedImage)
    arguments = ['-p', 'input_transport:=compressed', '-p', 'mode:=off']
    node = start_node('enhance', arguments, graph.variables)
    assert wait_until(camera.connected), node.log
    bright, dark = (
        cv2.imencode('.jpg', frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
        for frame in (night[1], night[0])
    )
    buffer = bytearray(921_600)
    buffer[: len(bright)] = bright
    zeros = bytes(buffer)
    buffer[: len(dark)] = dark
    expected = {
        bright: cv2.imdecode(np.frombuffer(bright, np.uint8), cv2.IMREAD_COLOR),
        dark: cv2.imdecode(np.frombuffer(dark, np.uint8), cv2.IMREAD_COLOR),
    }
    for number, (data, picture) in enumerate(
        ((zeros, bright), (bytes(buffer), dark), (bright + bright, bright))
    ):
        received = camera.send(compressed(data, 'jpeg', number))
        assert received is not None, node.log
        assert np.array_equal(pixels_of(received), expected[picture])
    half = bright[: len(bright) // 2]
    giant = bytearray(bright[:2000])
    start = giant.find(b'\xff\xc0')
    giant[start + 5 : start + 9] = (65500).to_bytes(2, 'big') * 2
    bad = (half, half + bytes(900_000), half + bright, b'', bytes(giant) + bytes(5_000_000))
    for number, data in enumerate(bad):
        assert camera.send(compressed(data, 'jpeg', 10 + number), 1) is None
    assert camera.send(compressed(bright, 'jpeg', 20)) is not None, node.log
    status = camera.diagnosed(lambda s: values(s)['received'] == '9')
    assert values(status)['refused: MalformedImageError'] == '5'
    peak = re.search(r'VmHWM:\s+(\d+) kB', Path(f'/proc/{node.process.pid}/status').read_text())
    assert int(peak[1]) < 1_500_000  # of the 12.9 GB that a header of 65500x65500 promises
    assert node.interrupt()[0] == 0
    counts(node.log)


@pytest.mark.parametrize(
    ('data', 'said'),
    [
        (b'', 'the message has no data: does the camera deliver'),
        (b'\xff\xd8\xff\xc0\x00\x11\x08\xff\xdc\xff\xdc\x03', '65500x65500 is more than'),
        (b'\x89PNG\r\n\x1a\n' + bytes(8) + b'\x00\x00\xff\xdc' * 2, '65500x65500 is more than'),
    ],
)
def test_empty_and_giant_pictures_are_refused_with_their_own_words(data, said):
    with pytest.raises(image_codec.MalformedImageError, match=said):
        image_codec.decode_compressed(compressed(data, 'jpeg', 1))
