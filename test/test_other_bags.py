"""Bags of other kinds than rosbag2: ROS 1, Foxglove in protobuf, H.264, and none that is read."""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip('rosbags', reason='rosbags is not installed')
pytest.importorskip('mcap', reason='mcap is not installed')
pytest.importorskip('plotly', reason='plotly is not installed')

from mcap.writer import Writer as McapWriter
from test_bags import QUICK
from test_replay import IMAGE, STORE, header, image, run, small_frames, write

from dap_led_ros.replay.recording import Recording


def write_ros1(path: Path, frames: int = 3) -> None:
    from rosbags.rosbag1 import Writer
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    store = get_typestore(Stores.ROS1_NOETIC)
    store.register(get_types_from_msg('Header header\nint32 gear\n', 'my_car/msg/Gear'))
    time, header = (store.types[f'{name}'] for name in (
        'builtin_interfaces/msg/Time', 'std_msgs/msg/Header'
    ))  # fmt: skip
    with Writer(path) as writer:
        topics = {
            '/cam/image_raw': IMAGE,
            '/cam/compressed': 'sensor_msgs/msg/CompressedImage',
            '/cam/camera_info': 'sensor_msgs/msg/CameraInfo',
            '/gear': 'my_car/msg/Gear',
            '/tf': 'tf/msg/tfMessage',
        }
        store.register(get_types_from_msg(
            'geometry_msgs/TransformStamped[] transforms\n', 'tf/msg/tfMessage'
        ))  # fmt: skip
        connections = {
            topic: writer.add_connection(topic, kind, typestore=store)
            for topic, kind in topics.items()
        }
        for n in range(frames):
            dark = small_frames()[n][0]
            head = header(n, time(100 + n, 5), 'eye')
            jpeg = cv2.imencode('.jpg', dark[..., ::-1])[1].ravel()
            roi = store.types['sensor_msgs/msg/RegionOfInterest'](0, 0, 0, 0, False)
            for topic, values in {
                '/cam/image_raw': (head, 72, 96, 'rgb8', 0, 288, dark.ravel()),
                '/cam/compressed': (head, 'jpeg', jpeg),
                '/cam/camera_info': (
                    head, 72, 96, 'plumb_bob', np.zeros(5), np.arange(9.0), np.zeros(9),
                    np.zeros(12), 0, 0, roi,
                ),
                '/gear': (head, n),
                '/tf': ([],),
            }.items():  # fmt: skip
                kind = topics[topic]
                data = store.serialize_ros1(store.types[kind](*values), kind)
                writer.write(connections[topic], (100 + n) * 10**9, data)


@pytest.mark.parametrize('alone', [True, False])
def test_a_bag_of_ros1_becomes_one_of_ros2(tmp_path, alone):
    write_ros1(tmp_path / 'drive.bag')
    if not alone:
        (tmp_path / 'folder').mkdir()
        shutil.move(tmp_path / 'drive.bag', tmp_path / 'folder')
    bag = tmp_path / ('drive.bag' if alone else 'folder')
    out = tmp_path / 'out'
    assert run('replay', bag, '--out', out, *QUICK) == 0
    content = json.loads((out / 'report.json').read_text())
    assert content['trouble'] == []
    frames = {name: of['frames']['enhanced'] for name, of in content['topics'].items()}
    assert frames == {'/cam/image_raw': 3, '/cam/compressed': 3}
    from rosbags.highlevel import AnyReader

    with AnyReader([out / 'bag']) as reader:
        kinds = {c.topic: c.msgtype for c in reader.connections}
        counts = Counter()
        for connection, _, data in reader.messages():
            message = reader.deserialize(data, connection.msgtype)
            counts[connection.topic] += 1
            if connection.topic == '/gear':
                assert message.header.stamp.sec == 100 + message.gear
            if connection.topic == '/cam/enhanced/image_raw':
                assert (message.header.frame_id, message.width, message.encoding) == (
                    'eye',
                    96,
                    'rgb8',
                )
            if connection.topic == '/cam/enhanced/camera_info':
                assert message.k[8] == 8.0
    assert kinds['/tf'] == 'tf2_msgs/msg/TFMessage'
    assert set(counts.values()) == {3}
    assert len(counts) == 8


def test_a_ros1_bag_that_was_not_closed_says_what_mends_it(tmp_path):
    write_ros1(tmp_path / 'drive.bag')
    content = (tmp_path / 'drive.bag').read_bytes()
    (tmp_path / 'drive.bag').write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match='rosbag reindex'):
        run('replay', tmp_path / 'drive.bag', '--out', tmp_path / 'out')


def h264(frames: int, size: tuple[int, int] = (96, 72), every: int = 4) -> list[bytes]:
    """Packets in Annex B, one for each frame, a key frame every few."""
    av = pytest.importorskip('av', reason='PyAV is not installed')
    context = av.CodecContext.create('libx264', 'w')
    context.width, context.height = size
    context.pix_fmt = 'yuv420p'
    context.time_base = Fraction(1, 10)
    context.options = {'tune': 'zerolatency', 'bf': '0', 'g': str(every), 'crf': '10'}
    packets = []
    for n in range(frames):
        frame = av.VideoFrame.from_ndarray(small_frames()[n % 12][0], format='rgb24')
        frame.pts = n
        packets += [bytes(packet) for packet in context.encode(frame.reformat(format='yuv420p'))]
    packets += [bytes(packet) for packet in context.encode(None)]
    assert len(packets) == frames
    return packets


def protobuf_types(**messages: dict[str, int]):
    """Classes and schema of messages of foxglove: names and types of their fields, in order."""
    pb2 = pytest.importorskip('google.protobuf.descriptor_pb2', reason='protobuf is missing')
    pytest.importorskip('mcap_protobuf', reason='mcap-protobuf-support is not installed')
    from google.protobuf import descriptor_pool, message_factory, timestamp_pb2

    file = pb2.FileDescriptorProto(name='all.proto', package='foxglove', syntax='proto3')
    file.dependency.append('google/protobuf/timestamp.proto')
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(fields.items(), 1):
            of = message.field.add(name=field, number=number, label=1, type=kind)
            if kind == 11:
                of.type_name = '.google.protobuf.Timestamp'
    time = pb2.FileDescriptorProto()
    timestamp_pb2.DESCRIPTOR.CopyToProto(time)
    files = pb2.FileDescriptorSet(file=[time, file])
    pool = descriptor_pool.DescriptorPool()
    pool.Add(time)
    pool.Add(file)
    classes = message_factory.GetMessageClassesForFiles(['all.proto'], pool)
    return {name: classes[f'foxglove.{name}'] for name in messages}, files.SerializeToString()


TIME, TEXT, DATA, NUMBER = 11, 9, 12, 7
FOXGLOVE = {
    'CompressedImage': {'timestamp': TIME, 'data': DATA, 'format': TEXT, 'frame_id': TEXT},
    'CompressedVideo': {'timestamp': TIME, 'frame_id': TEXT, 'data': DATA, 'format': TEXT},
    'RawImage': {
        'timestamp': TIME, 'width': NUMBER, 'height': NUMBER, 'encoding': TEXT, 'step': NUMBER,
        'data': DATA, 'frame_id': TEXT,
    },
    'PointCloud': {'timestamp': TIME, 'data': DATA},
}  # fmt: skip


def write_foxglove(
    path: Path, names=('CompressedImage', 'RawImage', 'CompressedVideo', 'PointCloud')
):
    classes, schema = protobuf_types(**FOXGLOVE)
    packets = h264(9) if 'CompressedVideo' in names else []
    with path.open('wb') as stream:
        writer = McapWriter(stream)
        writer.start()
        channels = {
            name: writer.register_channel(
                f'/{name}/data', 'protobuf',
                writer.register_schema(f'foxglove.{name}', 'protobuf', schema),
            )
            for name in names
        }  # fmt: skip
        for n in range(9):
            dark = small_frames()[n][0]
            jpeg = cv2.imencode('.jpg', dark[..., ::-1])[1].tobytes()
            for name in names:
                message = classes[name]()
                message.timestamp.seconds, message.timestamp.nanos = 100 + n, 7
                values = {
                    'CompressedImage': {'format': 'jpeg', 'data': jpeg},
                    'RawImage': {
                        'width': 96, 'height': 72, 'encoding': 'rgb8', 'step': 288,
                        'data': dark.tobytes(),
                    },
                    'CompressedVideo': {
                        'format': 'h264', 'data': packets[n] if packets else b'',
                    },
                    'PointCloud': {'data': b'points'},
                }[name]  # fmt: skip
                for field, value in values.items():
                    setattr(message, field, value)
                writer.add_message(channels[name], n * 10**8, message.SerializeToString(), n, n)
        writer.finish()


def test_protobuf_and_video_of_foxglove_go_through(tmp_path, monkeypatch):
    from dap_led_ros.replay import enhance

    monkeypatch.setattr(enhance, 'PART_FRAMES', 3)  # a video is not cut between key frames
    write_foxglove(tmp_path / 'bag.mcap')
    out = tmp_path / 'out'
    assert run('replay', tmp_path / 'bag.mcap', '--out', out) == 0
    content = json.loads((out / 'report.json').read_text())
    assert len(content['topics']) == 3
    for of in content['topics'].values():
        assert of['frames']['enhanced'] == of['frames']['read'] == 9
        assert of['measures']['brightness']['frames'] == 9
    assert content['others'] == {'/PointCloud/data': 'protobuf foxglove.PointCloud is no picture'}
    bag = Recording(out / 'bag')
    kinds = {topic.name: topic.said for topic in bag.topics}
    assert kinds['/RawImage/enhanced/data'] == IMAGE
    for name in ('CompressedImage', 'CompressedVideo'):
        assert kinds[f'/{name}/enhanced/data'] == 'sensor_msgs/msg/CompressedImage'
    assert kinds['/CompressedVideo/data'] == 'protobuf foxglove.CompressedVideo'
    assert set(bag.counts.values()) == {9}
    from dap_led_ros.replay.codec import Decoder

    decoders = {topic: Decoder(topic) for topic in bag.topics if 'PointCloud' not in topic.name}
    sums = Counter()
    for topic, _, data in bag.messages():
        if topic in decoders:
            message, frame, _ = decoders[topic].decode(data)
            assert message.header.stamp.nanosec == 7
            sums[topic.name] += float(frame.mean())
    for name in ('CompressedImage', 'RawImage', 'CompressedVideo'):
        assert sums[f'/{name}/enhanced/data'] > 2 * sums[f'/{name}/data']


def test_h264_in_ros_topics(tmp_path):
    """As an encoder writes it into CompressedImage; it begins between two key frames."""
    packets = h264(9)[1:]
    kind = 'sensor_msgs/msg/CompressedImage'
    with (tmp_path / 'bag.mcap').open('wb') as stream:
        writer = McapWriter(stream)
        writer.start('ros2')
        definition = STORE.generate_msgdef(kind, ros_version=2)[0].encode()
        channel = writer.register_channel(
            '/cam/image_raw/ffmpeg', 'cdr', writer.register_schema(kind, 'ros2msg', definition)
        )
        for n, packet in enumerate(packets):
            message = STORE.types[kind](header(n, 'eye'), 'h264', np.frombuffer(packet, np.uint8))
            writer.add_message(channel, n * 10**8, bytes(STORE.serialize_cdr(message, kind)), n)
        writer.finish()
    out = tmp_path / 'out'
    assert run('replay', tmp_path / 'bag.mcap', '--out', out, '--no-iqa') == 0
    of = json.loads((out / 'report.json').read_text())['topics']['/cam/image_raw/ffmpeg']
    assert (of['frames']['read'], of['frames']['refused'], of['frames']['enhanced']) == (8, 3, 5)
    assert 'key frame' in next(iter(of['why']))
    assert of['measures']['brightness']['frames'] == 5
    counts = {topic.name: count for topic, count in Recording(out / 'bag').counts.items()}
    assert counts['/cam/enhanced/image_raw/compressed'] == 5


def test_what_cannot_be_enhanced_is_named(tmp_path):
    """Never damaged: a lidar, depth, and a camera in a codec that nobody has."""
    write_foxglove(tmp_path / 'lidar.mcap', ('PointCloud',))
    with pytest.raises(ValueError, match=r'/PointCloud/data \(protobuf foxglove.PointCloud is no'):
        run('replay', tmp_path / 'lidar.mcap', '--out', tmp_path / 'out')
    write(tmp_path / 'bag', 'mcap', frames=6)
    with pytest.raises(ValueError, match=r"/depth/image_raw \(encoding '16UC1' is not colour"):
        run('replay', tmp_path / 'bag', '--out', tmp_path / 'out', '--topic', '/depth/image_raw')
    assert not (tmp_path / 'out').exists()


def test_pictures_of_kinds_that_are_not_read_are_named(tmp_path, capsys):
    with (tmp_path / 'bag.mcap').open('wb') as stream:
        writer = McapWriter(stream)
        writer.start('ros2')
        camera = writer.register_schema(IMAGE, 'ros2msg', b'')
        flat = writer.register_schema('foxglove.CompressedImage', 'flatbuffer', b'x')
        channels = [
            writer.register_channel('/front', 'cdr', camera),
            writer.register_channel('/flat', 'flatbuffer', flat),
        ]
        data = bytes(STORE.serialize_cdr(image(1, small_frames()[0][0]), IMAGE))
        for channel in channels:
            writer.add_message(channel, 1, data, 1)
        writer.finish()
    assert run('replay', tmp_path / 'bag.mcap', '--out', tmp_path / 'out', *QUICK) == 0
    said = 'not enhanced       /flat: flatbuffer foxglove.CompressedImage is of a kind that is not'
    assert said in capsys.readouterr().out


def test_without_the_extra_video_its_topics_say_what_is_missing(tmp_path, monkeypatch):
    write_foxglove(tmp_path / 'bag.mcap', ('RawImage', 'CompressedVideo'))
    monkeypatch.setitem(sys.modules, 'av', None)
    out = tmp_path / 'out'
    assert run('replay', tmp_path / 'bag.mcap', '--out', out, *QUICK) == 0
    others = json.loads((out / 'report.json').read_text())['others']
    assert "pip install 'dap_led_ros[video]'" in others['/CompressedVideo/data']


def test_an_mcap_of_ros1_becomes_one_of_ros2(tmp_path):
    """As converters of .bag files write it."""
    from rosbags.rosbag1 import Reader

    write_ros1(tmp_path / 'drive.bag')
    with Reader(tmp_path / 'drive.bag') as reader, (tmp_path / 'drive.mcap').open('wb') as stream:
        writer = McapWriter(stream)
        writer.start('ros1')
        channels = {}
        for c in reader.connections:
            name = c.msgtype.replace('/msg/', '/')
            schema = writer.register_schema(name, 'ros1msg', c.msgdef.data.encode())
            channels[c.id] = writer.register_channel(c.topic, 'ros1', schema)
        for n, (connection, now, data) in enumerate(reader.messages()):
            writer.add_message(channels[connection.id], now, data, now, n)
        writer.finish()
    mine, theirs = (Recording(tmp_path / name) for name in ('drive.mcap', 'drive.bag'))
    assert {t.name: t.kind for t in mine.topics} == {t.name: t.kind for t in theirs.topics}
    key = lambda record: (record[1], record[0].name)  # noqa: E731
    for a, b in zip(
        sorted(mine.messages(), key=key), sorted(theirs.messages(), key=key), strict=True
    ):
        assert (a[0].name, a[1], bytes(a[2])) == (b[0].name, b[1], bytes(b[2]))
    out = tmp_path / 'out'
    assert run('replay', tmp_path / 'drive.mcap', '--out', out, *QUICK) == 0
    assert len(json.loads((out / 'report.json').read_text())['topics']) == 2
