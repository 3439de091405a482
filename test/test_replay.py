"""dap-led replay on recordings of every kind: nothing lost, nothing changed, all counted."""

from __future__ import annotations

import errno
import functools
import json
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip('rosbags', reason='rosbags is not installed')
pytest.importorskip('mcap', reason='mcap is not installed')
pytest.importorskip('plotly', reason='plotly is not installed')

from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from ruamel.yaml import YAML

from dap_led_ros import cli, image_codec, sample
from dap_led_ros.cli.replay import typed
from dap_led_ros.inference import Enhancer, fastest
from dap_led_ros.inference.stream import Stream
from dap_led_ros.replay import codec, enhance, recording, segments, tally
from dap_led_ros.replay import run as replay
from dap_led_ros.replay.background import in_background
from dap_led_ros.replay.options import ReplayOptions
from dap_led_ros.replay.recording import Recording

IMAGE, COMPRESSED = 'sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage'
CUSTOM = 'nobody_msgs/msg/Odd'
PLUGINS = {'mcap': StoragePlugin.MCAP, 'sqlite3': StoragePlugin.SQLITE3}
TOPICS = {
    '/front/image_raw': IMAGE,
    '/front/camera_info': 'sensor_msgs/msg/CameraInfo',
    '/front/reference': IMAGE,
    '/rear/image_raw/compressed': COMPRESSED,
    '/left/mono': IMAGE,
    '/depth/image_raw': IMAGE,
    '/odd': CUSTOM,
    '/silent': 'std_msgs/msg/String',
}
CAMERAS = ('/front/image_raw', '/rear/image_raw/compressed', '/left/mono')
FRAMES = 12


def options_of(*words: object) -> ReplayOptions:
    """Of one recording."""
    return typed(cli.parser().parse_args([str(word) for word in words]))


def run(*words: object) -> int:
    options = cli.parser().parse_args([str(word) for word in words])
    return options.run(options)


def make_store():
    store = get_typestore(Stores.ROS2_HUMBLE)
    store.register(get_types_from_msg('int32[] numbers\nstring text\n', CUSTOM))
    return store


STORE = make_store()


def header(stamp: int, frame_id: str):
    kind = STORE.types['builtin_interfaces/msg/Time']
    return STORE.types['std_msgs/msg/Header'](kind(stamp // 10**9, stamp % 10**9), frame_id)


def image(stamp: int, frame: np.ndarray, encoding: str = 'rgb8', padding: int = 0):
    """An Image message; rows may be longer than the picture."""
    rows = np.ascontiguousarray(frame).view(np.uint8).reshape(frame.shape[0], -1)
    rows = np.pad(rows, ((0, 0), (0, padding)))
    height, width = frame.shape[:2]
    return STORE.types[IMAGE](
        header(stamp, 'eye'), height, width, encoding, 0, rows.shape[1], rows.ravel()
    )


@functools.cache
def small_frames() -> list[tuple[np.ndarray, np.ndarray]]:
    """Dark and bright frames of the moving camera, 96x72."""
    return [
        tuple(cv2.resize(frame, (96, 72), interpolation=cv2.INTER_AREA) for frame in pair)
        for pair in sample.night_sequence(FRAMES)
    ]


def messages(frames: int = FRAMES, start: int = 10**18):
    """(topic, time, message) of three cameras, depth, and others; one topic stays silent.

    The stamps jump back by a minute half way, the left camera changes its size and sends what
    cannot be enhanced: a frame too small, garbage, and an encoding that nobody knows.
    """
    for index in range(frames):
        dark, bright = small_frames()[index % FRAMES]
        now = start + index * 10**8
        stamp = now - 60 * 10**9 * (index >= frames // 2)
        yield '/front/image_raw', now, image(stamp, dark, padding=7)
        yield '/front/camera_info', now + 1, STORE.types[TOPICS['/front/camera_info']](
            header(stamp, 'eye'), 72, 96, 'plumb_bob', np.zeros(5), np.arange(9.0),
            np.eye(3).ravel(), np.arange(12.0), 0, 0,
            STORE.types['sensor_msgs/msg/RegionOfInterest'](0, 0, 0, 0, False),
        )  # fmt: skip
        yield '/front/reference', now + 2, image(stamp, bright)
        jpeg = cv2.imencode('.jpg', dark[..., ::-1])[1].ravel()
        yield (
            '/rear/image_raw/compressed',
            now + 3,
            STORE.types[COMPRESSED](header(stamp, 'back'), 'bgr8; jpeg compressed bgr8', jpeg),
        )
        grey = cv2.cvtColor(dark, cv2.COLOR_RGB2GRAY)
        size = (96, 72) if index % 2 else (64, 48)
        odd = {
            3: image(stamp, grey[:9, :9], 'mono8'),
            4: image(stamp, grey, 'never_heard_of'),
            5: STORE.types[IMAGE](header(stamp, 'eye'), 72, 96, 'mono8', 0, 96, grey[:3].ravel()),
        }
        left = image(stamp, cv2.resize(grey, size), 'mono8')
        yield '/left/mono', now + 4, odd.get(index, left)
        yield '/depth/image_raw', now + 5, image(stamp, grey.astype(np.uint16), '16UC1')
        numbers = np.arange(index, dtype=np.int32)
        yield '/odd', now + 6, STORE.types[CUSTOM](numbers, f'text {index}')


def write(path: Path, storage: str, mode: CompressionMode = CompressionMode.NONE, **shape):
    """Write the recording; what was written, by topic: [(time, bytes)]."""
    written = defaultdict(list)
    writer = Writer(path, version=9, storage_plugin=PLUGINS[storage])
    if mode != CompressionMode.NONE:
        writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        connections = {
            topic: writer.add_connection(topic, kind, typestore=STORE)
            for topic, kind in TOPICS.items()
        }
        for topic, now, message in messages(**shape):
            data = bytes(STORE.serialize_cdr(message, TOPICS[topic]))
            writer.write(connections[topic], now, data)
            written[topic].append((now, data))
    return written


def read_with_rosbags(bag: Path):
    found = defaultdict(list)
    with AnyReader([bag]) as reader:
        for connection, now, data in reader.messages():
            found[connection.topic].append((now, bytes(data)))
        return found, {connection.topic: connection for connection in reader.connections}


def read_with_mcap(bag: Path):
    from mcap.reader import make_reader

    found = defaultdict(list)
    for file in sorted(bag.glob('*.mcap')):
        with file.open('rb') as stream:
            for _, channel, message in make_reader(stream).iter_messages():
                found[channel.topic].append((message.log_time, message.data))
    return found


@pytest.fixture(scope='module')
def done(tmp_path_factory):
    """One recording replayed, with all that needs no detector: (recording, output, written)."""
    folder = tmp_path_factory.mktemp('done')
    written = write(folder / 'bag', 'mcap')
    out = folder / 'out'
    words = [word for camera in CAMERAS for word in ('--topic', camera)]
    reference = ('--reference', '/front/image_raw=/front/reference')
    assert run('replay', folder / 'bag', '--out', out, *words, *reference) == 0
    return folder / 'bag', out, written


def test_originals_come_back_bit_exact_and_enhanced_frames_beside_them(done):
    _, out, written = done
    found, connections = read_with_rosbags(out / 'bag')
    independent = read_with_mcap(out / 'bag')
    for topic in TOPICS:
        assert found[topic] == written[topic], topic
        assert independent[topic] == written[topic], topic
    assert connections['/silent'].msgcount == 0
    assert found['/front/enhanced/camera_info'] == written['/front/camera_info']
    new = {'/front/enhanced/image_raw', '/front/enhanced/camera_info'}
    new |= {'/rear/enhanced/image_raw/compressed', '/left/enhanced/mono'}
    assert set(connections) == set(TOPICS) | new
    for topic in ('/front/image_raw', '/rear/image_raw/compressed'):
        copies = found[codec.enhanced_name(topic)]
        assert len(copies) == FRAMES
        for (time_b, before), (time_a, after) in zip(written[topic], copies, strict=True):
            before, dark, _ = codec.decode(TOPICS[topic], before)
            after, bright, _ = codec.decode(TOPICS[topic], after)
            assert (time_b, before.header) == (time_a, after.header)
            assert dark.shape == bright.shape
            assert bright.mean() > 2 * dark.mean()
            for field in ('encoding', 'format'):
                assert getattr(before, field, '') == getattr(after, field, '')


def test_every_frame_is_accounted_for(done):
    _, out, _ = done
    topics = json.loads((out / 'report.json').read_text())['topics']
    for topic in CAMERAS:
        frames = topics[topic]['frames']
        assert frames['read'] == FRAMES
        assert frames['read'] == sum(frames[name] for name in frames if name != 'read')
    left = topics['/left/mono']
    assert (left['frames']['passed_through'], left['frames']['refused']) == (2, 1)
    assert len(left['sizes']) == 3
    assert any('never_heard_of' in why for why in left['why'])
    found, _ = read_with_rosbags(out / 'bag')
    originals, copies = found['/left/mono'], found['/left/enhanced/mono']
    assert len(copies) == FRAMES - 1
    assert [copies[index] for index in (3, 4)] == [originals[index] for index in (3, 4)]


@pytest.mark.parametrize(
    ('storage', 'mode', 'options'),
    [
        ('sqlite3', CompressionMode.NONE, ['--humble']),
        ('sqlite3', CompressionMode.FILE, ['--format', 'mcap']),
        ('mcap', CompressionMode.MESSAGE, ['--format', 'sqlite3']),
        ('mcap', CompressionMode.STORAGE, []),
    ],
)
def test_every_kind_of_recording_is_read(tmp_path, storage, mode, options):
    written = write(tmp_path / 'bag', storage, mode, frames=3)
    command = ['replay', tmp_path / 'bag', '--out', tmp_path / 'out', '--no-features']
    assert run(*command, '--no-video', '--topic', '/front/image_raw', *options) == 0
    found, connections = read_with_rosbags(tmp_path / 'out' / 'bag')
    assert all(found[topic] == written[topic] for topic in TOPICS)
    assert connections['/front/enhanced/image_raw'].msgcount == 3
    metadata = YAML(typ='safe').load((tmp_path / 'out' / 'bag' / 'metadata.yaml').read_text())
    metadata = metadata['rosbag2_bagfile_information']
    assert metadata['version'] == (8 if '--humble' in options else 9)
    assert metadata['storage_identifier'] == (options[1] if len(options) > 1 else storage)


def test_a_split_recording_whose_types_nobody_described(tmp_path):
    """As Humble writes it: several files, no definitions of messages, and one file is broken."""
    starts = [10**18 + index * 10**12 for index in range(3)]
    written = [
        write(tmp_path / f'part_{index}', 'sqlite3', frames=2, start=start)
        for index, start in enumerate(starts)
    ]
    bag = tmp_path / 'bag'
    bag.mkdir()
    for index in range(3):
        file = bag / f'bag_{index}.db3'
        shutil.move(tmp_path / f'part_{index}' / f'part_{index}.db3', file)
        with sqlite3.connect(file) as database:
            database.execute('DROP TABLE message_definitions')
            database.execute('UPDATE schema SET schema_version = 3')
    (bag / 'bag_1.db3').write_bytes(b'no database')
    trouble = Recording(bag).trouble
    assert [line.split(' is ')[0] for line in trouble[1:]] == ['bag_1.db3']
    assert run('replay', bag, '--out', tmp_path / 'out', '--no-video') == 0
    found = defaultdict(list)
    for topic, now, data in Recording(tmp_path / 'out' / 'bag').messages():
        found[topic.name].append((now, bytes(data)))
    for topic in TOPICS:
        assert found[topic] == written[0][topic] + written[2][topic]
    metadata = (tmp_path / 'out' / 'bag' / 'metadata.yaml').read_text()
    assert 'RIHS01_0000' not in metadata


def test_an_mcap_without_index_whose_messages_are_not_in_order(tmp_path):
    """As ros2 bag's preset fastwrite writes it."""
    from mcap.writer import Writer as McapWriter

    with (tmp_path / 'fast.mcap').open('wb') as stream:
        writer = McapWriter(stream, use_chunking=False)
        writer.start('ros2')
        definition = STORE.generate_msgdef(IMAGE, ros_version=2)[0].encode()
        schema = writer.register_schema(IMAGE, 'ros2msg', definition)
        channel = writer.register_channel('/front/image_raw', 'cdr', schema)
        for now in (1, 2, 4, 3, 5):
            data = bytes(STORE.serialize_cdr(image(now, small_frames()[0][0]), IMAGE))
            writer.add_message(channel, now, data, now)
        writer.finish()
    fast = Recording(tmp_path / 'fast.mcap')
    assert [now for _, now, _ in fast.messages()] == [1, 2, 4, 3, 5]
    assert fast.trouble == []


def test_an_mcap_with_chunks_but_without_an_index_of_their_messages(tmp_path):
    from mcap.writer import IndexType
    from mcap.writer import Writer as McapWriter

    with (tmp_path / 'bag.mcap').open('wb') as stream:
        writer = McapWriter(stream, chunk_size=50, index_types=IndexType.CHUNK)
        writer.start('ros2')
        schema = writer.register_schema('std_msgs/msg/String', 'ros2msg', b'string data')
        channel = writer.register_channel('/said', 'cdr', schema)
        for now in range(9):
            writer.add_message(channel, now, bytes(20), now)
        writer.finish()
    bag = Recording(tmp_path / 'bag.mcap')
    assert [now for _, now, _ in bag.messages()] == list(range(9))
    read = [
        now
        for part in bag.parts(bag.topics, 4)
        for inside, (_, now, _, _) in bag.read(part)
        if inside
    ]
    assert read == list(range(9))


def test_a_camera_whose_first_frame_is_broken_is_enhanced(tmp_path):
    broken = STORE.types[IMAGE](header(1, 'eye'), 72, 96, 'mono8', 0, 96, np.zeros(9, np.uint8))
    with Writer(tmp_path / 'bag', version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection('/left/mono', IMAGE, typestore=STORE)
        for now in (1, 2):
            frame = broken if now == 1 else image(now, small_frames()[0][0])
            writer.write(connection, now, STORE.serialize_cdr(frame, IMAGE))
    cameras = replay.plan(Recording(tmp_path / 'bag'), []).cameras
    assert [topic.name for topic in cameras] == ['/left/mono']


def test_a_file_is_opened_once_for_all_its_parts(tmp_path, monkeypatch):
    """SQLite counts all messages when it is opened: parts would take the square of the time."""
    write(tmp_path / 'bag', 'sqlite3', frames=10)
    opened = []

    class SqliteFile(recording.SqliteFile):
        def __init__(self, path):
            opened.append(path)
            super().__init__(path)

    monkeypatch.setitem(recording._FILES, '.db3', SqliteFile)
    bag = Recording(tmp_path / 'bag')
    parts = bag.parts(bag.topics, 1)
    assert sum(1 for part in parts for record in bag.read(part) if record[0]) == 7 * 10
    assert len(parts) > 5
    assert len(opened) == 1


def test_all_damage_is_said_and_what_lies_between_is_read(tmp_path):
    from mcap.reader import make_reader

    write(tmp_path / 'bag', 'mcap', CompressionMode.STORAGE, frames=100)
    file = tmp_path / 'bag' / 'bag.mcap'
    with file.open('rb') as stream:
        chunks = make_reader(stream).get_summary().chunk_indexes
    assert len(chunks) > 2
    content = bytearray(file.read_bytes())
    for chunk in (chunks[0], chunks[-1]):
        data = chunk.chunk_start_offset + chunk.chunk_length - chunk.compressed_size
        content[data : data + 9] = bytes(9)
    file.write_bytes(content)
    bag = Recording(tmp_path / 'bag')
    front = next(topic for topic in bag.topics if topic.name == '/front/image_raw')
    counts = [
        sum(1 for inside, record in bag.read(part) if inside and record[0] == front)
        for part in bag.parts([front], 5)
    ]
    assert min(counts) < 5
    assert counts[len(counts) // 2] == 5
    said = r'bag.mcap is damaged, [\d.]+ s after its start: (\d+) messages of a chunk are lost'
    lost = [int(re.match(said, line)[1]) for line in bag.trouble]
    assert len(lost) == 2
    assert bag.counts.total() == len(list(bag.messages())) + sum(lost)


def test_a_recording_that_has_grown_is_not_gone_on_with(tmp_path):
    """Its parts are as many as before, and others: frames would be lost between them."""
    bag = tmp_path / 'bag'
    write(bag, 'mcap', frames=3)
    words = ['replay', bag, '--out', tmp_path / 'out', '--topic', '/front/image_raw']
    replay.prepare(options_of(*words)).begin()
    shutil.rmtree(bag)
    write(bag, 'mcap', frames=4)
    with pytest.raises(ValueError, match='bag has changed since'):
        run(*words, '--resume')


def test_a_model_that_was_trained_on_is_not_gone_on_with(tmp_path):
    write(tmp_path / 'bag', 'mcap', frames=1)
    model = tmp_path / 'model.onnx'
    words = ['replay', tmp_path / 'bag', '--out', tmp_path / 'out', '--model', model]
    model.write_bytes(b'before')
    replay.prepare(options_of(*words)).begin()
    replay.prepare(options_of(*words, '--resume'))
    model.write_bytes(b'after')
    with pytest.raises(ValueError, match='onnx has changed since'):
        replay.prepare(options_of(*words, '--resume'))


def test_a_run_keeps_the_runtime_that_it_began_with(tmp_path, monkeypatch):
    """Another one rounds otherwise, and the next measurement may find another."""
    write(tmp_path / 'bag', 'mcap')
    words = ('replay', tmp_path / 'bag', '--out', tmp_path / 'out')
    chosen = fastest.Choice('cpu:extended', {'cpu': 2.0, 'cpu:extended': 1.0}, '640x480', 9)
    monkeypatch.setattr(fastest, 'choose', lambda model: chosen)
    job = replay.prepare(options_of(*words))
    job.begin()
    assert job.options.device == 'cpu:extended'  # what workers load
    monkeypatch.setattr(fastest, 'choose', lambda model: None)
    assert replay.prepare(options_of(*words, '--resume')).options.device == 'cpu:extended'
    given = options_of(*words, '--resume', '--device', 'cpu')
    assert replay.prepare(given).options.device == 'cpu'


def test_several_processes_may_write_the_same_file(tmp_path):
    """As when Ray takes a worker for dead that still writes its segment."""
    path, value = tmp_path / 'same.json', list(range(1000))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: segments.write_json(path, value), range(200)))
    assert segments.read_json(path) == value
    assert list(tmp_path.iterdir()) == [path]


def split_bag(folder: Path, frames: int) -> Path:
    """A recording in two files of so many frames each, and no metadata."""
    bag = folder / 'split'
    bag.mkdir()
    for index in range(2):
        write(
            folder / f'bag_{index}', 'mcap', frames=frames, start=10**18 + index * frames * 10**8
        )
        shutil.move(folder / f'bag_{index}' / f'bag_{index}.mcap', bag)
    return bag


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
@pytest.mark.parametrize('whole', [True, False])
def test_parts_are_the_recording(tmp_path, storage, whole):
    """Nothing twice and nothing lost, also where a file is damaged and has no index."""
    write(tmp_path / 'bag', storage, frames=30)
    if not whole:
        file = next((tmp_path / 'bag').glob('bag.*'))
        file.write_bytes(file.read_bytes()[:-100_000])
    bag = Recording(tmp_path / 'bag')
    topics = [topic for topic in bag.topics if topic.name == '/front/image_raw']
    parts = bag.parts(topics, 7)
    assert len(parts) == 5 if whole else len(parts) >= 3
    read = [list(bag.read(part)) for part in parts]
    assert [r[:3] for part in read for inside, r in part if inside] == list(bag.messages())
    numbers = range(len(parts))
    assert bag.apart(parts) == ([[number] for number in numbers] if whole else [[*numbers]])
    front = [topics[0] in (r[0] for inside, r in part if not inside) for part in read]
    assert front == [False, *[True] * (len(parts) - 1)]


def test_segments_are_the_same_whoever_writes_them(tmp_path, monkeypatch):
    """In order by one process, or in any order by several: as on a cluster, and as resumed."""
    monkeypatch.setattr(enhance, 'PART_FRAMES', 5)
    bag = split_bag(tmp_path, 10)
    words = ['replay', bag, '--topic', '/front/image_raw', '--topic', '/left/mono', '--no-video']
    assert run(*words, '--out', tmp_path / 'one') == 0
    job = replay.prepare(options_of(*words, '--out', tmp_path / 'several'))
    job.begin()
    for numbers in ([3], [1, 0], [2]):
        enhancer = Enhancer.load(device=job.options.device, threads=1)
        job.enhance(enhancer, numbers, threading.Event())
    assert job.left() == []
    assert run(*words, '--out', tmp_path / 'several', '--resume') == 0
    files = [sorted((tmp_path / out / 'bag').iterdir()) for out in ('one', 'several')]
    assert [file.name for file in files[0]] == [
        *(f'bag_{n}.mcap' for n in range(4)),
        'metadata.yaml',
    ]
    assert [file.read_bytes() for file in files[0]] == [file.read_bytes() for file in files[1]]
    one, several = (
        json.loads((tmp_path / o / 'report.json').read_text())['topics']
        for o in ('one', 'several')
    )
    # ORB matches and flicker go back over the segments' ends.
    assert one['/front/image_raw']['measures']['matches']['frames'] == 19
    assert one['/front/image_raw']['measures']['flicker']['frames'] == 19
    for topics in (one, several):
        topics['/front/image_raw']['measures'].pop('latency')
        topics['/left/mono']['measures'].pop('latency')
    assert one == several


def test_a_packed_recording_is_unpacked_once(tmp_path, monkeypatch):
    write(tmp_path / 'bag', 'mcap', CompressionMode.FILE, frames=2)
    unpacked = []

    class Unpacked(recording._Unpacked):
        def __init__(self, file):
            super().__init__(file)
            unpacked.append(self.plain)

    monkeypatch.setattr(recording, '_Unpacked', Unpacked)
    assert run('replay', tmp_path / 'bag', '--out', tmp_path / 'out', '--no-video') == 0
    assert len(unpacked) == 1
    assert not unpacked[0].parent.exists()


@pytest.mark.parametrize(
    'error',
    [
        OSError(errno.ENOSPC, 'No space left on device'),
        sqlite3.OperationalError('database or disk is full'),
    ],
)
def test_a_full_disk_is_said_and_gone_on_from(tmp_path, monkeypatch, error):
    write(tmp_path / 'bag', 'mcap', frames=4)
    monkeypatch.setattr(enhance, 'PART_FRAMES', 2)
    words = ['replay', tmp_path / 'bag', '--out', tmp_path / 'out', '--topic', '/front/image_raw']
    write_message = segments.Segment.write

    def full(segment, *arguments):
        if segment.index == 1:
            raise error
        write_message(segment, *arguments)

    with monkeypatch.context() as patch, pytest.raises(OSError, match='no space is left: free'):
        patch.setattr(segments.Segment, 'write', full)
        run(*words)
    assert run(*words, '--resume') == 0
    assert len(read_with_rosbags(tmp_path / 'out' / 'bag')[0]['/front/enhanced/image_raw']) == 4


def test_a_track_outlives_an_interruption(tmp_path, monkeypatch):
    monkeypatch.setattr(enhance, 'PART_FRAMES', 4)
    write(tmp_path / 'bag', 'mcap')
    words = ['replay', tmp_path / 'bag', '--out', tmp_path / 'out', '--topic', '/front/image_raw']
    words += ['--no-features', '--no-video', '--detect', 'a.onnx']

    class Finder:
        """Finds one car in every frame; Ctrl-C comes at the tenth."""

        model, digest, frames, last = 'a.onnx', '0', 0, 10

        def __init__(self, *_):
            pass

        def measure(self, pair):
            Finder.frames += 1
            if Finder.frames == self.last:
                raise KeyboardInterrupt
            cars = [['car', 0.9, 10.0, 10.0, 40.0, 40.0]]
            count = {'detections': 1.0, 'confidence': 0.9}
            objects = {'objects_before': cars, 'objects_after': cars}
            return {'before': dict(count), 'after': dict(count), **objects}

    monkeypatch.setattr(replay, 'Detection', Finder)
    with pytest.raises(KeyboardInterrupt):
        run(*words)
    assert run(*words, '--resume') == 0
    content = json.loads((tmp_path / 'out' / 'report.json').read_text())
    car = content['topics']['/front/image_raw']['classes']['car']['after']
    assert (car['detections'], car['track']) == (FRAMES, FRAMES)


def test_a_segment_for_each_frame(tmp_path, monkeypatch):
    written = write(tmp_path / 'bag', 'mcap', frames=2)
    monkeypatch.setattr(enhance, 'PART_FRAMES', 1)
    monkeypatch.setattr(enhance, '_METADATA', 1e9)  # written once more, at the end
    out = tmp_path / 'out'
    assert run('replay', tmp_path / 'bag', '--out', out, '--topic', '/front/image_raw') == 0
    found, _ = read_with_rosbags(out / 'bag')
    assert all(found[topic] == written[topic] for topic in TOPICS)
    content = json.loads((out / 'report.json').read_text())
    assert 'change' in content['topics']['/front/image_raw']['measures']


def test_a_kill_between_journal_and_metadata_costs_nothing(tmp_path, monkeypatch):
    write(tmp_path / 'bag', 'mcap', frames=3)
    words = ['replay', tmp_path / 'bag', '--out', tmp_path / 'out', '--no-video', '--no-features']
    words += ['--topic', '/front/image_raw']

    def die(out):
        if (out / 'segments').exists():
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(enhance.segments, 'write_metadata', die)
        run(*words)
    assert run(*words, '--resume') == 0
    found, _ = read_with_rosbags(tmp_path / 'out' / 'bag')
    assert len(found['/front/enhanced/image_raw']) == 3


def test_a_frame_that_cannot_be_encoded_is_passed_through(tmp_path, monkeypatch):
    written = write(tmp_path / 'bag', 'mcap', frames=3)
    encode, calls = enhance.encode, []

    def encode_but_the_second(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise image_codec.UnsupportedEncodingError('no such size')
        return encode(*arguments)

    monkeypatch.setattr(enhance, 'encode', encode_but_the_second)
    out = tmp_path / 'out'
    options = ['--topic', '/front/image_raw', '--no-video', '--no-features']
    assert run('replay', tmp_path / 'bag', '--out', out, *options) == 0
    topic = json.loads((out / 'report.json').read_text())['topics']['/front/image_raw']
    assert (topic['frames']['enhanced'], topic['why']) == (2, {'no such size': 1})
    found, _ = read_with_rosbags(out / 'bag')
    assert found['/front/enhanced/image_raw'][1] == written['/front/image_raw'][1]


def test_frames_that_came_back_as_they_were_are_counted(tmp_path, monkeypatch, capsys):
    """Enhanced at full weight and bit-identical; the JPEG is not written anew either."""
    written = write(tmp_path / 'bag', 'mcap')
    network, calls = Enhancer.network, []

    def every_third(enhancer, frame, heatmap=None, past=None):
        enhanced, milliseconds = network(enhancer, frame, heatmap, past)
        calls.append(frame)
        return (enhanced if len(calls) % 3 == 0 else frame), milliseconds

    monkeypatch.setattr(Enhancer, 'network', every_third)
    monkeypatch.setattr(replay._Alone, 'measure', lambda alone: None)
    monkeypatch.setattr(Stream, '_share', lambda *_: 1.0)
    topic, out = '/rear/image_raw/compressed', tmp_path / 'out'
    assert run('replay', tmp_path / 'bag', '--out', out, '--topic', topic, '--no-video') == 0
    of = json.loads((out / 'report.json').read_text())['topics'][topic]
    assert (of['frames']['enhanced'], of['unchanged']) == (FRAMES, 8)
    assert of['frames']['read'] == sum(of['frames'][name] for name in tally.OUTCOMES)
    assert of['verdict']['unchanged']['share'] == pytest.approx(100 * 8 / 12)
    assert f'{FRAMES} enhanced (8 of them unchanged)' in capsys.readouterr().out
    assert '(8 of them unchanged)' in (out / 'report.html').read_text()
    copies = read_with_rosbags(out / 'bag')[0][codec.enhanced_name(topic)]
    same = [copy == original for copy, original in zip(copies, written[topic], strict=True)]
    assert same.count(True) == 8
    assert run('compare', out, out) == 0
    assert capsys.readouterr().out.count('(8 of them unchanged)') == 2


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_a_truncated_recording_is_read_as_far_as_it_goes(tmp_path, storage, capsys):
    frames = 60
    written = write(tmp_path / 'whole', storage, frames=frames)
    (tmp_path / 'bag').mkdir()
    file = next((tmp_path / 'whole').glob('whole.*'))
    content = file.read_bytes()
    (tmp_path / 'bag' / file.name).write_bytes(content[: len(content) * 6 // 10])
    out = tmp_path / 'out'
    options = ['--topic', '/front/image_raw', '--no-video', '--no-features']
    assert run('replay', tmp_path / 'bag', '--out', out, *options) == 0
    found, _ = read_with_rosbags(out / 'bag')
    front = found['/front/image_raw']
    assert frames / 4 < len(front) < frames
    for topic in TOPICS:
        assert found[topic] == written[topic][: len(found[topic])]
    assert len(found['/front/enhanced/image_raw']) == len(front)
    said = capsys.readouterr().err
    total = sum(len(found[topic]) for topic in TOPICS)
    assert f'{file.name} is damaged: {total} messages can be read' in said
    assert any(f'{total} messages' in line for line in json.loads(
        (out / 'report.json').read_text()
    )['trouble'])  # fmt: skip


@pytest.mark.parametrize('how', [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_is_whole_and_goes_on(tmp_path, how, monkeypatch):
    monkeypatch.setattr(enhance, 'PART_FRAMES', 5)
    written = write(tmp_path / 'bag', 'mcap', frames=60)
    out = tmp_path / 'out'
    words = ['replay', tmp_path / 'bag', '--out', out, '--topic', '/front/image_raw']
    words += ['--no-video', '--no-features']
    program = (
        'import sys, runpy; sys.path.insert(0, sys.argv.pop(1)); import test_replay; '
        'test_replay.enhance.PART_FRAMES = 5; sys.exit(test_replay.run(*sys.argv[1:]))'
    )
    process = subprocess.Popen(
        [sys.executable, '-c', program, str(Path(__file__).parent), *map(str, words)],
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (out / 'segments' / '1.json').is_file():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(how)
    said = process.communicate(timeout=120)[1]
    if how == signal.SIGINT:
        assert process.returncode == 1
        assert '--resume goes on' in said
        assert any('interrupted' in line for line in json.loads(
            (out / 'report.json').read_text()
        )['trouble'])  # fmt: skip
    part, _ = read_with_rosbags(out / 'bag')
    front = len(part['/front/image_raw'])
    assert 0 < front < 60
    assert len(part['/front/enhanced/image_raw']) == front
    with pytest.raises(ValueError, match='add --resume'):
        run(*words)
    with pytest.raises(ValueError, match='another model'):
        run(*words, '--resume', '--model', 'other')
    assert run(*words, '--resume') == 0
    found, connections = read_with_rosbags(out / 'bag')
    assert all(found[topic] == written[topic] for topic in TOPICS)
    assert len(found['/front/enhanced/image_raw']) == 60
    assert sum(connection.msgcount for connection in connections.values()) == sum(
        map(len, found.values())
    )
    content = json.loads((out / 'report.json').read_text())
    assert content['topics']['/front/image_raw']['frames']['enhanced'] == 60
    assert content['trouble'] == []


def test_wrong_input_gets_one_clear_line(tmp_path, done, capsys):
    bag, out, _ = done
    elsewhere = ('--out', tmp_path / 'new')
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'mine.txt').write_text('mine')
    (tmp_path / 'no.mcap').write_bytes(b'no mcap')
    for words, said in (
        ((tmp_path / 'nothing', *elsewhere), 'does not exist'),
        ((tmp_path / 'empty', *elsewhere), 'is no bag'),
        ((tmp_path / 'no.mcap', *elsewhere), 'has no messages. no.mcap is damaged'),
        ((bag, '--out', tmp_path / 'full'), 'is not empty and holds no run'),
        ((bag, *elsewhere, '--topic', '/nowhere'), 'has no image topic /nowhere; it has: /depth'),
        ((out / 'bag', *elsewhere, '--topic', '/front/image_raw'), 'already has /front/enhanced'),
        ((bag, *elsewhere, '--reference', '/front/reference'), 'say which camera'),
        ((bag, '--out', tmp_path / 'no.mcap' / 'out'), 'no.mcap/out: Not a directory'),
    ):
        with pytest.raises((ValueError, OSError), match=re.escape(said)):
            run('replay', *words)
    with pytest.raises(SystemExit):
        run('replay', 's3://bucket/drive.mcap', *elsewhere)
    assert 's3://bucket/drive.mcap is no path: mount' in capsys.readouterr().err
    assert (tmp_path / 'full' / 'mine.txt').read_text() == 'mine'
    assert not (tmp_path / 'new').exists()


def test_all_cameras_but_depth_and_references_are_enhanced(done):
    cameras = replay.plan(Recording(done[0]), [], ['/front/reference']).cameras
    assert {topic.name for topic in cameras} == set(CAMERAS)


@pytest.mark.parametrize(
    ('topic', 'enhanced', 'info'),
    [
        ('/front/image_raw', '/front/enhanced/image_raw', '/front/camera_info'),
        ('/image', '/enhanced/image', '/camera_info'),
        ('/a/b/compressed', '/a/enhanced/b/compressed', '/a/camera_info'),
    ],
)
def test_names_are_those_of_the_node(topic, enhanced, info):
    assert codec.enhanced_name(topic) == enhanced
    assert codec.camera_info_name(topic) == info


def test_a_stage_runs_ahead_by_a_few_and_passes_errors_on():
    made = []

    def make():
        for index in range(1000):
            made.append(index)
            yield index
            if index == 500:
                raise OSError('the disk is gone')

    items = in_background(make(), ahead=3)
    assert next(items) == 0
    time.sleep(0.2)
    assert len(made) <= 6
    with pytest.raises(OSError, match='the disk is gone'):
        list(items)
    assert len(made) == 501
