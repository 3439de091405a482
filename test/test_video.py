"""H.264 and H.265 in and out of the node, over real DDS; packets are lost, late and torn."""

from __future__ import annotations

from fractions import Fraction

import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='no ROS 2 here: source one, or let make test install it')
av = pytest.importorskip('av', reason="no PyAV: pip install 'dap_led_ros[video]'")

from conftest import wait_until
from ros_graph import compressed, counts, graph, head, pixels_of, settle, stamp, values
from sensor_msgs.msg import CompressedImage

from dap_led_ros import sample, video_stream
from dap_led_ros.image_codec import MalformedImageError, UnsupportedEncodingError

__all__ = ['graph']

ENCODERS = {'h264': 'libx264', 'hevc': 'libx265'}


@pytest.fixture(scope='module')
def frames() -> list[np.ndarray]:
    """Twenty frames of a night, 320x240."""
    return [np.ascontiguousarray(f[::2, ::2]) for f, _ in sample.night_sequence(20)]


def encoded(frames: list[np.ndarray], format: str, **options: str) -> list[bytes]:
    """Packets with a keyframe every ten frames."""
    context = av.CodecContext.create(ENCODERS[format], 'w')
    context.height, context.width = frames[0].shape[:2]
    context.pix_fmt, context.time_base, context.gop_size = 'yuv420p', Fraction(1, 30), 10
    options = options or {'tune': 'zerolatency'}
    context.options = {'preset': 'ultrafast', 'x265-params': 'log-level=none', **options}
    packets = []
    for number, frame in enumerate(frames):
        picture = av.VideoFrame.from_ndarray(frame)
        picture.pts = number
        packets += [bytes(packet) for packet in context.encode(picture)]
    return packets + [bytes(packet) for packet in context.encode(None)]


@pytest.mark.parametrize('format', ['h264', 'hevc'])
def test_packets_become_frames_and_a_loss_waits_for_a_keyframe(frames, format):
    packets = encoded(frames, format)
    decoder, seen = video_stream.VideoDecoder(), {}
    for number in [n for n in range(3, 20) if n != 15]:  # it comes late, and one is lost
        for frame in decoder.feed(packets[number], f'{format}; bgr8', number):
            seen[number] = frame
    assert list(seen) == [10, 11, 12, 13, 14]
    assert (decoder.lost, decoder.waiting) == (1, True)
    assert all(cv2.PSNR(frame, frames[number]) > 25 for number, frame in seen.items())
    with pytest.raises(MalformedImageError, match='the packet has no data'):
        decoder.feed(b'', format)
    with pytest.raises(MalformedImageError, match='malformed video'):
        decoder.feed(packets[10][:40] + bytes(200), format)
    with pytest.raises(UnsupportedEncodingError, match='vp9'):
        decoder.feed(packets[0], 'vp9')
    (frame,) = decoder.feed(packets[0], format)
    assert cv2.PSNR(frame, frames[0]) > 25
    for cut in (40, 2000, len(packets[0]) // 2):
        with pytest.raises(MalformedImageError, match='malformed video'):
            decoder.feed(packets[0][:cut], format)
    unnumbered = video_stream.VideoDecoder()
    seen = [bool(unnumbered.feed(packet, format)) for packet in packets[:4] + packets[5:]]
    assert seen == [True] * 4 + [False] * 5 + [True] * 10
    assert unnumbered.lost == 1


def test_pictures_out_of_order_are_told_by_their_packets(frames):
    packets = encoded(frames, 'h264', bf='2', preset='medium')
    decoder, sources, seen = video_stream.VideoDecoder(), [], []
    for packet in packets:
        seen += decoder.feed(packet, 'h264')
        sources += decoder.sources
    assert sources != sorted(sources)
    assert len(set(sources)) == len(seen) > 15
    assert all(cv2.PSNR(a, b) > 25 for a, b in zip(seen, frames))
    assert decoder.lost == 0


def test_what_is_encoded_begins_with_keyframes_where_they_are_asked_for(frames):
    encoder = video_stream.VideoEncoder(121, 163)  # odd sides
    packets = [encoder.encode(f[:121, :163], key=n == 5) for n, f in enumerate(frames)]
    decoder, seen = video_stream.VideoDecoder(), []
    for packet in packets[3:]:
        seen += decoder.feed(packet, 'h264')
    assert len(seen) == 15
    assert seen[0].shape == (121, 163, 3)
    assert cv2.PSNR(seen[0], np.ascontiguousarray(frames[5][:121, :163])) > 25


def test_h264_in_a_compressed_image_in_and_out(graph, start_node, frames):
    """Late, with a gap, and torn: every packet is counted, and pictures keep their stamps."""
    camera = graph.camera(kind=CompressedImage, enhanced_kind=CompressedImage)
    arguments = ['-p', 'input_transport:=compressed', '-p', 'output_transport:=h264']
    remap = ['-r', 'image_raw:=/image_raw', '-p', 'mode:=always']
    node = start_node('enhance', [*arguments, *remap], graph.variables)
    assert wait_until(camera.connected), node.log
    packets = encoded(frames, 'h264')
    decoder, shown = video_stream.VideoDecoder(), {}
    for number in [n for n in range(3, 20) if n != 15]:
        camera.send(compressed(packets[number], 'h264', number), 5 if 10 <= number < 15 else 0.3)
    camera.send(compressed(b'', 'h264', 30), 0.3)
    camera.send(compressed(packets[0], 'h264', 31))
    for key in sorted(camera.enhanced):
        message = camera.enhanced[key]
        assert message.format == 'h264'
        (frame,) = decoder.feed(bytes(message.data), 'h264')
        shown[key] = frame.mean()
    sent = [stamp(head(CompressedImage(), number)) for number in (10, 11, 12, 13, 14, 31)]
    assert list(shown) == sent
    assert min(shown.values()) > 1.5 * frames[10].mean()
    status = camera.diagnosed(lambda s: values(s)['received'] == '18')
    found = values(status)
    assert found['dropped: waiting for a keyframe'] == '11'
    assert found['refused: MalformedImageError'] == '1'
    assert (found['enhanced'], found['lost video packets']) == ('6', '1')
    assert node.interrupt()[0] == 0
    counts(node.log)


@pytest.mark.parametrize('transport', ['ffmpeg', 'foxglove'])
def test_messages_of_video_that_ros_has_not(graph, start_node, frames, video_msgs, transport):
    from builtin_interfaces.msg import Time
    from ffmpeg_image_transport_msgs.msg import FFMPEGPacket
    from foxglove_msgs.msg import CompressedVideo

    camera = graph.camera()
    kind = {'ffmpeg': FFMPEGPacket, 'foxglove': CompressedVideo}[transport]
    images = camera.create_publisher(kind, f'/cam/image_raw/{transport}', 30)
    arguments = ['-r', 'image_raw:=/cam/image_raw', '-p', 'mode:=off']
    variables = {**graph.variables, **video_msgs}
    if transport == 'ffmpeg':
        lost = start_node('enhance', arguments, variables)
        text = '/cam/image_raw/ffmpeg carries ffmpeg_image_transport_msgs/FFMPEGPacket: set input'
        assert camera.diagnosed(lambda s: text in s.message) is not None, lost.log
        assert lost.interrupt()[0] == 0
    arguments += ['-p', f'input_transport:={transport}']
    node = start_node('enhance', arguments, variables)
    assert wait_until(lambda: images.get_subscription_count() == 1), node.log
    settle()
    for number, packet in enumerate(encoded(frames, 'hevc')):
        if transport == 'ffmpeg':
            message = head(
                FFMPEGPacket(encoding='hevc', pts=number, width=320, height=240), number
            )
            key = stamp(message)
        else:
            message = CompressedVideo(format='h265', frame_id='front')
            message.timestamp = Time(sec=100 + number)
            key = (100 + number, 0)
        message.data.frombytes(packet)
        images.publish(message)
        assert wait_until(lambda key=key: key in camera.enhanced), node.log
        received = camera.enhanced[key]
        assert received.encoding == 'bgr8'
        shown = np.ascontiguousarray(pixels_of(received)[..., ::-1])
        assert cv2.PSNR(shown, frames[number]) > 25
    assert node.interrupt()[0] == 0
    assert counts(node.log)['passed_through'] == 20


def test_what_is_missing_for_a_video_is_said_at_once(graph, start_node):
    node = start_node('enhance', ['-p', 'input_transport:=foxglove'], graph.variables)
    assert node.process.wait(20) == 1
    (line,) = [line for line in node.log.splitlines() if 'cannot configure' in line]
    assert 'sudo apt install ros-$ROS_DISTRO-foxglove-msgs' in line
