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

from dap_led_ros import bit_depth, image_codec

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


@pytest.mark.parametrize('encoding', ['mono16', 'bayer_rggb16'])
def test_a_camera_of_twelve_bits_keeps_day_and_range(running, night, encoding):
    """By day it passes, by night it is brightened in 0 to 4095; learned and said once."""
    camera, node = running
    dark, day = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.uint16) for frame in night)
    day[:4, :4] = 255
    dark, day = dark * 257 >> 4, day * 257 >> 4
    for number, pixels in enumerate((day, dark, day, dark)):
        message = image(pixels, encoding, number)
        received = camera.send(message)
        assert received is not None, node.log
        assert received.encoding == image_codec.output_encoding(encoding)
        shown = np.frombuffer(received.data, np.uint16)
        assert shown.max() <= 4095
        if pixels is dark:
            assert shown.mean() > 2 * dark.mean()
        elif encoding == 'mono16':
            assert received == message
        else:
            plain = image_codec.decode(message)
            assert np.abs(shown.astype(int) - plain.ravel()).max() <= 1
    status = camera.diagnosed(lambda s: 'bits' in values(s))
    assert values(status)['bits'] == '12 (learned)'
    assert (values(status)['passed_through'], values(status)['enhanced']) == ('2', '2')
    assert node.log.count('16-bit frames use 12 bits, 0 to 4095') == 1, node.log


def test_bits_as_the_user_says(running, night):
    """10 of them on the fly; counts pass through; a wrong one is refused with the right ones."""
    camera, node = running
    dark = cv2.cvtColor(night[0], cv2.COLOR_RGB2GRAY).astype(np.uint16)
    assert camera.set(bits=10) == (True, '')
    received = camera.send(image(dark * 257 >> 6, 'mono16', 1))
    assert received is not None, node.log
    shown = np.frombuffer(received.data, np.uint16)
    assert shown.max() <= 1023
    assert shown.mean() > 2 * (dark * 257 >> 6).mean()
    assert camera.set(bits='counts') == (True, '')
    thermal = image(7300 + dark, 'mono16', 2)
    assert camera.send(thermal) == thermal, node.log
    successful, reason = camera.set(bits=17)
    assert not successful
    assert "bits is '17': use one of auto, 8, 9, 10" in reason
    status = camera.diagnosed(lambda s: 'passed_through: bits are counts' in values(s))
    assert values(status)['received'] == '2'


def test_bits_are_learned_upwards_and_never_within_a_scene():
    picture = np.zeros((100, 100), np.uint16)
    picture[0] = np.arange(100)
    depth = bit_depth.BitDepth()
    second = 10**9
    assert depth.widen(picture, 0).max() == 99 << 6 | 99 >> 4
    lamp = picture.copy()
    lamp[0, 0] = 3000
    assert depth.widen(lamp, second // 2)[0, 0] == 65535  # cut, in the same scene
    assert depth.bits == 10
    depth.widen(lamp, 9 * second)
    assert depth.bits == 12
    depth.widen(picture, 20 * second)
    assert depth.bits == 12
    depth.widen(picture + np.uint16(9000), 20 * second + 1)  # all of it: another scene
    assert depth.bits == 14
    for bits in range(8, 17):
        ramp = np.arange(1 << bits, dtype=np.uint16)
        wide = bit_depth.widen(ramp, bits)
        assert (wide[0], wide[-1]) == (0, 65535)
        assert np.array_equal(bit_depth.narrow(wide, bits), ramp)
    aligned = bit_depth.BitDepth()
    aligned.widen(picture << 4, 0)  # twelve bits at the upper end
    assert aligned.bits == 16


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
        assert camera.send(compressed(data, 'jpeg', 10 + number), 0.4) is None
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
