"""Bags as other people have them: nothing of them is lost, and nothing is lost in silence."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections import defaultdict
from pathlib import Path

import pytest

pytest.importorskip('rosbags', reason='rosbags is not installed')
pytest.importorskip('mcap', reason='mcap is not installed')
pytest.importorskip('plotly', reason='plotly is not installed')

from mcap.reader import make_reader
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter
from test_replay import IMAGE, STORE, image, run, small_frames, write

from dap_led_ros.replay.recording import Recording

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
        idl = writer.register_schema('Speed', 'omgidl', b'struct Speed { float v; };')
        speed = writer.register_channel('/speed', 'cdr', idl)
        front = camera(writer)
        for n in range(3):
            writer.add_message(status, n * 10**8, b'{"n": 1}', n * 10**8 + 5, n)
            writer.add_message(bare, n * 10**8, b'{}', n, 7)
            writer.add_message(speed, n * 10**8, b'\0\1\0\0\0\0\0\0', n, n)
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
        assert 'omgidl' in {schema.encoding for schema in summary.schemas.values()}


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
        '/speed is left out: sqlite3 has no place for cdr Speed',
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
