"""Read rosbag2 recordings message by message, as far as each file goes.

Reads folders with or without metadata.yaml and single .mcap and .db3 files; split, compressed by
file or by message, or damaged. A file is read by rosbags; one that rosbags refuses is salvaged
from its start to the damage: an mcap by its records, a db3 by its row ids.

A recording can be cut into parts that are read apart, by several processes too: all of them
together are its messages, in their order. Where a file has an index, a part is found by time; one
without is read from its start and its messages are counted.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import sqlite3
import tempfile
import weakref
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

try:
    import zstandard
    from mcap.reader import make_reader
    from mcap.records import Channel, Message, Schema
    from mcap.stream_reader import StreamReader
    from rosbags.rosbag2 import Reader
    from rosbags.rosbag2.metadata import parse_qos
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore
    from ruamel.yaml import YAML
except ImportError as error:
    raise ImportError(
        f"reading bags needs rosbags and mcap: pip install 'dap_led_ros[bags]' ({error})"
    ) from None

IMAGE = 'sensor_msgs/msg/Image'
COMPRESSED_IMAGE = 'sensor_msgs/msg/CompressedImage'
CAMERA_INFO = 'sensor_msgs/msg/CameraInfo'
STORAGES = {'.mcap': 'mcap', '.db3': 'sqlite3'}
STORE = get_typestore(Stores.ROS2_HUMBLE)
"""Message types; those read here are the same in every ROS 2 since Foxy."""


@dataclass(frozen=True)
class Topic:
    """A topic of a recording, with all that a copy of the recording needs."""

    name: str
    kind: str
    """Message type, such as sensor_msgs/msg/Image."""
    definition: str
    """Text of the message definition; empty: neither the recording nor we know it."""
    digest: str
    """RIHS01 hash of the type; empty where the definition is."""
    qos: tuple[Any, ...]


Record = tuple[Topic, int, bytes]
"""A message: its topic, its time in the bag (ns), its CDR bytes."""

LEAD_NS = 2 * 10**9
"""What came so shortly before a part is read with it."""
_COUNTED_PARTS = 8
"""Parts of a file without index at the most: each is read from the file's start."""


@dataclass(frozen=True)
class Part:
    """Messages of a file from `start` on and before `stop`; None: from its first, to its last."""

    file: int
    """Number of the file in the recording."""
    start: int | None
    stop: int | None
    counted: bool
    """start and stop are numbers of messages; else they are times, ns."""


@dataclass
class _Contents:
    """What looking through a file has found."""

    counts: Counter[Topic]
    times: tuple[int, int] | None = None
    """Of the first message and behind the last one, ns; None: it has no index to search."""


class Recording:
    """A recording: topics, numbers of messages, what is wrong with it, and the messages."""

    def __init__(self, path: Path) -> None:
        """Look through the files; damaged ones are read to the damage to know what they hold.

        :raises FileNotFoundError: nothing is there.
        :raises ValueError: something is there that is no recording, or all of it is lost.
        """
        if not path.exists():
            raise FileNotFoundError(f'{path} does not exist')
        self.path = path
        self.trouble: list[str] = []
        """One line for each thing that was lost."""
        self._damaged: set[Path] = set()
        self._unpacked: _Unpacked | None = None
        self._opened: tuple[Path, Reader | None] | None = None
        self._files = self._find_files()
        self.storage = STORAGES[_kind(self._files[0])]
        self.counts: Counter[Topic] = Counter()
        self._known: dict[tuple[str, str], Topic] = {}
        self._contents = [self._look_through(file) for file in self._files]
        for contents in self._contents:
            for topic, count in contents.counts.items():
                # Files of a split recording may differ in QoS: the first one's stands.
                self.counts[self._known.setdefault((topic.name, topic.kind), topic)] += count
        if not self.counts.total():
            raise ValueError(f'{path} has no messages. ' + ' '.join(self.trouble))

    @property
    def topics(self) -> list[Topic]:
        """All topics, those without messages too, by name."""
        return sorted(self.counts, key=lambda topic: (topic.name, topic.kind))

    def messages(self, since: int | None = None) -> Iterator[Record]:
        """All messages, file by file, each file by time; always in the same order.

        :param since: leave out messages before this time, ns.
        """
        for file in self._files:
            yield from self._as_far_as_it_goes(file, since)

    def parts(self, topics: Collection[Topic], frames: int) -> list[Part]:
        """Cut the recording into parts of about so many messages of each of the topics.

        Equal times in a file are equal numbers of messages only as far as its rate is steady.
        """
        found = []
        for number, contents in enumerate(self._contents):
            of_topics = sum(
                count
                for topic, count in contents.counts.items()
                if self._known[topic.name, topic.kind] in topics
            )
            count = max(1, -(-of_topics // (frames * len(topics))))
            counted = contents.times is None
            start, end = contents.times or (0, contents.counts.total())
            count = min(count, _COUNTED_PARTS) if counted else count
            cuts = [start + (end - start) * cut // count for cut in range(1, count)]
            found += [
                Part(number, *limits, counted) for limits in zip([None, *cuts], [*cuts, None])
            ]
        return found

    def apart(self, parts: list[Part]) -> list[list[int]]:
        """Numbers of the parts, in groups: those of a group are better read by one process.

        A file that is packed would be unpacked, and one without index read, for each of them.
        """
        groups: dict[Any, list[int]] = {}
        for number, part in enumerate(parts):
            alone = not part.counted and self._files[part.file].suffix != '.zstd'
            groups.setdefault((part.file, number if alone else -1), []).append(number)
        return list(groups.values())

    def read(self, part: Part) -> Iterator[tuple[bool, Topic, int, bytes]]:
        """The messages of a part, marked True; before them, marked False, some that precede it.

        Those are of the LEAD_NS before it at least, and of the file before where it begins one.
        """
        file = self._files[part.file]
        if part.counted:
            for number, record in enumerate(self._as_far_as_it_goes(file)):
                if part.stop is not None and number >= part.stop:
                    return
                yield number >= (part.start or 0), *record
            return
        with contextlib.suppress(Exception):  # of the readers; damage there is another part's
            if part.start is not None:
                lead = self._read(file, part.start - LEAD_NS, part.start)
            elif part.file and (times := self._contents[part.file - 1].times):
                lead = self._read(self._files[part.file - 1], times[1] - LEAD_NS)
            else:
                lead = iter(())
            for topic, time, data in lead:
                yield False, self._known[topic.name, topic.kind], time, data
        for record in self._as_far_as_it_goes(file, part.start, part.stop):
            yield True, *record

    def __getstate__(self) -> dict[str, Any]:
        """What another process may have: what is unpacked here is not there."""
        return self.__dict__ | {'_unpacked': None, '_opened': None}

    def _as_far_as_it_goes(
        self, file: Path, start: int | None = None, stop: int | None = None
    ) -> Iterator[Record]:
        """Messages of a file until one cannot be read."""
        self._plain(file)  # no room to unpack it is no damage
        read = 0
        try:
            for topic, time, data in self._read(file, start, stop):
                yield self._known[topic.name, topic.kind], time, data
                read += 1
        except Exception as error:  # of the readers, in many classes
            times = self._contents[self._files.index(file)].times
            where = (
                f', {(start - times[0]) / 1e9:.1f} s after its start' if start and times else ''
            )
            said = f'{file.name} is damaged{where}: read {read} messages, then {_short(error)}'
            # Each part of a file without index ends in the same damage, which is known.
            if file not in self._damaged and said not in self.trouble:
                self.trouble.append(said)

    def _find_files(self) -> list[Path]:
        metadata = self.path / 'metadata.yaml'
        if self.path.is_file():
            files = [self.path]
        elif metadata.is_file():
            files = self._files_of(metadata)
        else:
            # A recorder that was killed leaves no metadata.
            files = sorted((f for f in self.path.iterdir() if _kind(f)), key=_by_number)
            if files:
                self.trouble.append('metadata.yaml is missing: took the files as they are')
        files = [file for file in files if _kind(file)]
        if not files:
            raise ValueError(f'{self.path} is no bag: it has no .mcap and no .db3 file')
        return files

    def _files_of(self, metadata: Path) -> list[Path]:
        try:
            described = YAML(typ='safe').load(metadata.read_text())
            information = described['rosbag2_bagfile_information']
            names = [Path(name).name for name in information['relative_file_paths']]
        except Exception as error:  # YAML, decoding, keys
            raise ValueError(
                f'{metadata} cannot be read: remove it to read the files as they are ({error!r})'
            ) from None
        there = [self.path / name for name in names if (self.path / name).is_file()]
        if len(there) < len(names):
            lost = ', '.join(sorted(set(names) - {file.name for file in there}))
            self.trouble.append(f'files are missing: {lost}')
        return there

    def _look_through(self, file: Path) -> _Contents:
        """Numbers of messages and where they are; of a damaged file by reading it."""
        counts: Counter[Topic] = Counter()
        plain = self._plain(file)
        try:
            with Reader(plain) as reader:
                for connection in reader.connections:
                    counts[_topic(connection)] += connection.msgcount
                if counts.total() and (plain.suffix != '.mcap' or _has_chunks(plain)):
                    return _Contents(counts, (reader.start_time, reader.end_time))
            return _Contents(counts)
        except Exception as error:  # apsw, rosbags, zstandard and struct raise many classes
            damage = _short(error)
        counts.clear()
        first, last = None, 0
        with contextlib.suppress(Exception):  # as above, and now the end of what can be read
            for topic, time, _ in self._read(file):
                counts[topic] += 1
                first, last = time if first is None else min(first, time), max(last, time)
        self._damaged.add(file)
        span = '' if first is None else f', {(last - first) / 1e9:.1f} s of recording'
        self.trouble.append(
            f'{file.name} is damaged: {counts.total()} messages can be read{span} ({damage})'
        )
        return _Contents(counts)

    def _read(
        self, file: Path, start: int | None = None, stop: int | None = None
    ) -> Iterator[Record]:
        """The messages of a file from start to before stop (ns).

        :raises Exception: whatever its reader does where it is damaged.
        """
        expand = zstandard.ZstdDecompressor()
        plain = self._plain(file)
        for topic, time, data in _records(plain, self._reader(plain), start, stop):
            if data[:4] == zstandard.FRAME_HEADER:  # by message; CDR begins with a zero
                data = expand.decompressobj().decompress(data)
            yield topic, time, data

    def _plain(self, file: Path) -> Path:
        """The file itself, or what its .zstd holds; of these the last one stays unpacked."""
        if file.suffix != '.zstd':
            return file
        if self._unpacked is None or self._unpacked.file != file:
            self._close()
            self._unpacked = None  # the one before goes first: they may be large
            self._unpacked = _Unpacked(file)
        return self._unpacked.plain

    def _reader(self, plain: Path) -> Reader | None:
        """The reader of a file, or None where it must be salvaged; the last one stays open.

        To open it takes the longer the longer the file is, and each part would.
        """
        if self._opened is None or self._opened[0] != plain:
            self._close()
            self._opened = plain, _opened(plain)
        return self._opened[1]

    def _close(self) -> None:
        opened, self._opened = self._opened, None
        if opened and opened[1]:
            opened[1].close()


class _Unpacked:
    """A .zstd file unpacked, as far as that goes, as long as this lives."""

    def __init__(self, file: Path) -> None:
        self.file = file
        folder = tempfile.mkdtemp(prefix='dap_led_')
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.plain = Path(folder) / file.stem
        with (
            file.open('rb') as packed,
            self.plain.open('wb') as unpacked,
            contextlib.suppress(zstandard.ZstdError),  # what is lost will be missed by the reader
        ):
            zstandard.ZstdDecompressor().copy_stream(packed, unpacked)


def _kind(file: Path) -> str:
    """.mcap or .db3, also below .zstd; empty for other files."""
    suffix = Path(file.stem).suffix if file.suffix == '.zstd' else file.suffix
    return suffix if suffix in STORAGES else ''


def _by_number(file: Path) -> list[Any]:
    """bag_2 before bag_10."""
    return [int(part) if part.isdigit() else part for part in re.split(r'(\d+)', file.name)]


def _short(error: Exception) -> str:
    """One line of an error; the mcap reader's end of file has no text."""
    lines = str(error).splitlines()
    return lines[0] if lines else 'the file ends early'


def _opened(file: Path) -> Reader | None:
    if file.suffix == '.mcap' and not _has_chunks(file):
        return None
    reader = Reader(file)
    with contextlib.suppress(Exception):  # as in Recording: whatever it is, salvage what can be
        reader.open()
        return reader
    return None


def _records(
    file: Path, reader: Reader | None, start: int | None, stop: int | None
) -> Iterator[Record]:
    if reader is None:
        salvage = _salvage_mcap if file.suffix == '.mcap' else _salvage_sqlite
        yield from _within(salvage(file), start, stop)
        return
    topics = {connection.id: _topic(connection) for connection in reader.connections}
    for connection, time, data in reader.messages(start=start, stop=stop):
        yield topics[connection.id], time, data


def _within(records: Iterator[Record], start: int | None, stop: int | None) -> Iterator[Record]:
    return (
        record
        for record in records
        if (start is None or start <= record[1]) and (stop is None or record[1] < stop)
    )


def _has_chunks(file: Path) -> bool:
    """Whether rosbags can search an mcap by time.

    Without chunks it reads only as long as messages are in order, without their index nothing.
    """
    with file.open('rb') as stream, contextlib.suppress(Exception):  # damaged in many ways
        summary = make_reader(stream).get_summary()
        chunks = summary.chunk_indexes if summary else []
        return bool(chunks) and all(chunk.message_index_offsets for chunk in chunks)
    return False


def _salvage_mcap(file: Path) -> Iterator[Record]:
    """Records in the order of the file until it ends or breaks off."""
    schemas: dict[int, Schema] = {}
    topics: dict[int, Topic] = {}
    with file.open('rb') as stream:
        for record in StreamReader(stream).records:
            if isinstance(record, Schema):
                schemas[record.id] = record
            elif isinstance(record, Channel) and record.id not in topics:
                schema = schemas[record.schema_id]
                qos = parse_qos(record.metadata.get('offered_qos_profiles', ''))
                topics[record.id] = _complete(
                    record.topic, schema.name, schema.data.decode(), '', qos
                )
            elif isinstance(record, Message):
                yield topics[record.channel_id], record.log_time, record.data


def _salvage_sqlite(file: Path) -> Iterator[Record]:
    """Rows in the order in which they were written until a page is missing."""
    with contextlib.closing(
        sqlite3.connect(f'{file.resolve().as_uri()}?immutable=1', uri=True)
    ) as database:
        database.row_factory = sqlite3.Row
        # Without it SQLite refuses every file that is shorter than its header says.
        database.execute('PRAGMA writable_schema = 1')
        definitions: dict[str, str] = {}
        with contextlib.suppress(sqlite3.DatabaseError):  # recordings before Iron have none
            for row in database.execute('SELECT * FROM message_definitions'):
                definitions[row['topic_type']] = row['encoded_message_definition']
        topics = {}
        for row in map(dict, database.execute('SELECT * FROM topics')):
            qos = parse_qos(row.get('offered_qos_profiles', ''))
            topics[row['id']] = _complete(
                row['name'],
                row['type'],
                definitions.get(row['type'], ''),
                row.get('type_description_hash', ''),
                qos,
            )
        rows = database.execute('SELECT topic_id, timestamp, data FROM messages ORDER BY id')
        for topic, time, data in rows:
            yield topics[topic], time, data


def _topic(connection: Any) -> Topic:
    return _complete(
        connection.topic,
        connection.msgtype,
        connection.msgdef.data,
        connection.digest,
        connection.ext.offered_qos_profiles,
    )


def _complete(name: str, kind: str, definition: str, digest: str, qos: list[Any]) -> Topic:
    """A topic; a definition and a hash that the recording lacks are added where we know them."""
    if not definition and kind in STORE.fielddefs:
        definition = STORE.generate_msgdef(kind, ros_version=2)[0]
    if definition and not digest:
        with contextlib.suppress(Exception):  # a definition that nobody can parse has no hash
            store = get_typestore(Stores.EMPTY)
            store.register(get_types_from_msg(definition, kind))
            digest = store.hash_rihs01(kind)
    return Topic(name, kind, definition, digest, tuple(qos))
