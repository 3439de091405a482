"""Bags as other people have them: nothing of them is lost, and nothing is lost in silence."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections import Counter, defaultdict
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip('rosbags', reason='rosbags is not installed')
pytest.importorskip('mcap', reason='mcap is not installed')
pytest.importorskip('plotly', reason='plotly is not installed')

from mcap.reader import make_reader
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter
from test_replay import IMAGE, STORE, image, run, small_frames, write

from dap_led_ros.evaluation.recording import Recording

QUICK = ('--no-video', '--no-features', '--no-iqa')


def cdr(stamp: int) -> bytes:
    """An Image of a dark frame."""
    return bytes(STORE.serialize_cdr(image(stamp, small_frames()[0][0]), IMAGE))


def camera(writer: McapWriter, topic: str = '/front/image_raw') -> int:
    definition = STORE.generate_msgdef(IMAGE, ros_version=2)[0].encode()
    schema = writer.register_schema(IMAGE, 'ros2msg', definition)
    return writer.register_channel(topic, 'cdr', schema)


def found_by(bag: Path) -> dict[str, list[tuple[int, int, int, bytes]]]:
    """(log time, publish time, sequence, data) by topic, read with mcap alone."""
    found = defaultdict(list)
    for file in sorted(bag.glob('*.mcap')):
        with file.open('rb') as stream:
            for _, channel, m in make_reader(stream, validate_crcs=True).iter_messages():
                found[channel.topic].append((m.log_time, m.publish_time, m.sequence, m.data))
    return found


# --- what a recorder that was killed leaves ------------------------------------------------------


def killed(folder: Path, journal: str) -> tuple[Path, int]:
    """A .db3 as a process that was killed leaves it, with a file beside it, and its messages."""
    write(folder / 'whole', 'sqlite3', frames=4)
    alive = folder / 'alive.db3'
    shutil.copy(folder / 'whole' / 'whole.db3', alive)
    (folder / 'bag').mkdir()
    with sqlite3.connect(alive, isolation_level=None) as database:
        rows = database.execute('SELECT topic_id, timestamp, data FROM messages').fetchall()
        database.execute(f'PRAGMA journal_mode = {journal}')
        if journal == 'WAL':
            database.execute('PRAGMA wal_autocheckpoint = 0')
            insert = 'INSERT INTO messages (topic_id, timestamp, data) VALUES (?, ?, ?)'
            database.executemany(
                insert, [(topic, time + 10**9, data) for topic, time, data in rows]
            )
            whole = 2 * len(rows)
        else:
            database.execute('PRAGMA cache_size = 5')
            database.execute('BEGIN')
            database.execute('DELETE FROM messages WHERE id > 3')
            whole = len(rows)
        for file in folder.glob('alive.db3*'):
            shutil.copy(file, folder / 'bag' / file.name.replace('alive', 'bag_0'))
        if journal != 'WAL':
            database.execute('ROLLBACK')
    return folder / 'bag', whole


@pytest.mark.parametrize(('journal', 'ending'), [('WAL', '-wal'), ('DELETE', '-journal')])
def test_what_a_killed_recorder_left_beside_its_database_is_read(tmp_path, journal, ending):
    bag, whole = killed(tmp_path, journal)
    assert (bag / f'bag_0.db3{ending}').stat().st_size
    before = {file.name: file.read_bytes() for file in bag.iterdir()}
    found = Recording(bag)
    assert found.counts.total() == whole == len(list(found.messages()))
    assert found.trouble == ['metadata.yaml is missing: took the files as they are']
    assert {file.name: file.read_bytes() for file in bag.iterdir()} == before
    parts = found.parts([t for t in found.topics if t.name == '/front/image_raw'], 2)
    assert len(found.apart(parts)) == 1 < len(parts)


@pytest.mark.parametrize('damage', ['garbage', 'of another'])
def test_a_log_that_cannot_be_used_is_said(tmp_path, damage):
    bag, _ = killed(tmp_path, 'WAL')
    log = bag / 'bag_0.db3-wal'
    log.write_bytes(b'x' * log.stat().st_size if damage == 'garbage' else bytes(5000))
    found = Recording(bag)
    assert 'bag_0.db3-wal is damaged or of another bag' in found.trouble[-1]
    assert found.counts.total() == 4 * 7


# --- mcap ----------------------------------------------------------------------------------------


def test_channels_of_other_kinds_are_carried(tmp_path):
    """A camera between json with a schema, and json without one; and all that mcap knows."""
    with (tmp_path / 'bag.mcap').open('wb') as stream:
        writer = McapWriter(stream)
        writer.start('ros2')
        schema = writer.register_schema('Status', 'jsonschema', b'{"type": "object"}')
        status = writer.register_channel('/status', 'json', schema, {'made by': 'us'})
        bare = writer.register_channel('/bare', 'json', 0)
        front = camera(writer)
        for n in range(3):
            writer.add_message(status, n * 10**8, b'{"n": 1}', n * 10**8 + 5, n)
            writer.add_message(bare, n * 10**8, b'{}', n, 7)
            writer.add_message(front, n * 10**8, cdr(n * 10**8), n * 10**8 + 9, 40 + n)
        writer.add_attachment(1, 2, 'calibration.txt', 'text/plain', b'fx 500')
        writer.add_metadata('drive', {'city': 'Ulm'})
        writer.finish()
    out = tmp_path / 'out'
    assert run('replay', tmp_path / 'bag.mcap', '--out', out, *QUICK) == 0
    found = found_by(out / 'bag')
    with (tmp_path / 'bag.mcap').open('rb') as stream:
        original = defaultdict(list)
        for _, channel, m in make_reader(stream).iter_messages():
            original[channel.topic].append((m.log_time, m.publish_time, m.sequence, m.data))
    assert all(found[topic] == messages for topic, messages in original.items())
    assert [m[:3] for m in found['/front/enhanced/image_raw']] == [
        m[:3] for m in original['/front/image_raw']
    ]
    with next((out / 'bag').glob('*.mcap')).open('rb') as stream:
        reader = make_reader(stream)
        assert [(a.name, a.data) for a in reader.iter_attachments()] == [
            ('calibration.txt', b'fx 500')
        ]
        assert {m.name: m.metadata for m in reader.iter_metadata()}['drive'] == {'city': 'Ulm'}
        summary = reader.get_summary()
        channel = next(c for c in summary.channels.values() if c.topic == '/status')
        assert channel.metadata == {'made by': 'us'}
        assert summary.schemas[channel.schema_id].data == b'{"type": "object"}'


def test_what_sqlite3_has_no_place_for_is_left_out_by_name(tmp_path, capsys):
    test_channels_of_other_kinds_are_carried(tmp_path)
    capsys.readouterr()
    words = ['replay', tmp_path / 'bag.mcap', '--out', tmp_path / 'b', '--format', 'sqlite3']
    assert run(*words, *QUICK) == 0
    said = capsys.readouterr().err
    trouble = json.loads((tmp_path / 'b' / 'report.json').read_text())['trouble']
    for line in (
        '/status is left out: sqlite3 has no place for json Status',
        '/bare is left out: sqlite3 has no place for json without schema',
        'attachments and metadata records are left out',
    ):
        assert line in said
        assert any(line in of for of in trouble)
    counts = {t.name: n for t, n in Recording(tmp_path / 'b' / 'bag').counts.items()}
    assert counts == {'/front/image_raw': 3, '/front/enhanced/image_raw': 3}


def many_chunks(path: Path, compression: CompressionType = CompressionType.ZSTD) -> list:
    """Ten chunks of three messages; the chunks."""
    with path.open('wb') as stream:
        writer = McapWriter(stream, chunk_size=3 * len(cdr(0)) - 100, compression=compression)
        writer.start('ros2')
        front = camera(writer)
        for n in range(30):
            writer.add_message(front, n * 10**8, cdr(n * 10**8), n * 10**8)
        writer.finish()
    with path.open('rb') as stream:
        return make_reader(stream).get_summary().chunk_indexes


@pytest.mark.parametrize('compression', [CompressionType.ZSTD, CompressionType.NONE])
@pytest.mark.parametrize('indexed', [True, False])
def test_one_damaged_chunk_of_ten_costs_one_chunk(tmp_path, compression, indexed):
    file = tmp_path / 'bag.mcap'
    chunks = many_chunks(file, compression)
    assert len(chunks) == 10
    content = bytearray(file.read_bytes())
    place = chunks[4].chunk_start_offset + chunks[4].chunk_length - 2000
    content[place : place + 9] = b'\xa5' * 9
    file.write_bytes(content if indexed else content[:-200])
    bag = Recording(file)
    times = [time // 10**8 for _, time, _ in bag.messages()]
    assert times == [n for n in range(30) if n // 3 != 4]
    lost = [line for line in bag.trouble if 'of a chunk are lost' in line]
    assert len(lost) == 1
    assert ('1.2 s after its start: 3 messages' in lost[0]) == indexed
    parts = bag.parts(bag.topics, 6)
    read = [r[1] // 10**8 for part in parts for inside, r in bag.read(part) if inside]
    assert read == times


def test_messages_outside_chunks_are_read(tmp_path):
    file = tmp_path / 'bag.mcap'
    many_chunks(file)
    with (tmp_path / 'flat.mcap').open('wb') as stream:
        writer = McapWriter(stream, use_chunking=False)
        writer.start('ros2')
        writer.add_message(camera(writer), 99 * 10**8, cdr(0), 0)
        writer.finish()
    flat = (tmp_path / 'flat.mcap').read_bytes()
    message = flat[flat.index(b'\x05', flat.index(b'/front/image_raw')) :]
    message = message[: 9 + int.from_bytes(message[1:9], 'little')]
    whole = file.read_bytes()
    # Behind the chunks, before the end of the data: the offsets of the chunks stay as they are.
    end = whole.rindex(b'\x0f' + (4).to_bytes(8, 'little'))
    shifted = whole[:end] + message + whole[end:]
    footer = len(shifted) - 8 - 20
    for place in (footer, footer + 8):
        at = int.from_bytes(shifted[place : place + 8], 'little') + len(message)
        shifted = shifted[:place] + at.to_bytes(8, 'little') + shifted[place + 8 :]
    file.write_bytes(shifted)
    bag = Recording(file)
    assert [time // 10**8 for _, time, _ in bag.messages()] == [*range(30), 99]
    assert bag.trouble == ['bag.mcap says of itself that it has 30 messages: 31 are there']


def test_types_without_msg_are_known(tmp_path):
    write(tmp_path / 'bag', 'sqlite3', frames=2)
    with sqlite3.connect(tmp_path / 'bag' / 'bag.db3') as database:
        for table, column in (('topics', 'type'), ('message_definitions', 'topic_type')):
            database.execute(f"UPDATE {table} SET {column} = replace({column}, '/msg/', '/')")
    words = ['replay', tmp_path / 'bag', '--out', tmp_path / 'out', '--topic', '/front/image_raw']
    assert run(*words, *QUICK) == 0
    kinds = {topic.kind for topic in Recording(tmp_path / 'out' / 'bag').topics}
    assert IMAGE in kinds
    assert all(kind.count('/') == 2 for kind in kinds)


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize('storage', ['sqlite3', pytest.param('mcap', marks=pytest.mark.slow)])
@pytest.mark.parametrize('name', ['a%41', 'a#b', 'what?', 'a b', 'Straße 夜', 'a%2Fb', "it's"])
def test_names_of_all_kinds_stay_where_they_are(tmp_path, storage, name):
    write(tmp_path / 'plain', storage, frames=1)
    bag, out = tmp_path / name, tmp_path / f'out {name}'
    shutil.move(tmp_path / 'plain', bag)
    shutil.move(
        next(bag.glob('plain.*')), bag / f'{name}_0.{"db3" if storage == "sqlite3" else "mcap"}'
    )
    (bag / 'metadata.yaml').unlink()
    assert run('replay', bag, '--out', out, '--topic', '/front/image_raw', *QUICK) == 0
    assert {path.name for path in tmp_path.iterdir()} == {name, f'out {name}'}
    assert {path.name for path in bag.iterdir()} == {next(bag.iterdir()).name}
    assert Recording(out / 'bag').counts.total() == Recording(bag).counts.total() + 2


# --- other kinds of recordings -------------------------------------------------------------------


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
    from dap_led_ros.evaluation import enhancing

    monkeypatch.setattr(enhancing, 'PART_FRAMES', 3)  # a video is not cut between key frames
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
    from dap_led_ros.evaluation.codec import Decoder

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
    from test_replay import header

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


def test_without_the_extra_video_its_topics_say_what_is_missing(tmp_path, monkeypatch):
    import sys

    write_foxglove(tmp_path / 'bag.mcap', ('RawImage', 'CompressedVideo'))
    monkeypatch.setitem(sys.modules, 'av', None)
    out = tmp_path / 'out'
    assert run('replay', tmp_path / 'bag.mcap', '--out', out, *QUICK) == 0
    others = json.loads((out / 'report.json').read_text())['others']
    assert "pip install 'dap_led_ros[video]'" in others['/CompressedVideo/data']
