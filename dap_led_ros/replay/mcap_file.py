"""Read an .mcap file: by time where its index is whole, else record by record.

A damaged chunk costs its own messages, and they are counted. Channels of other encodings than
those of ROS (json, protobuf) are given as they are.
"""

from __future__ import annotations

import contextlib
import heapq
import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mcap.reader import make_reader
from mcap.records import (
    Attachment,
    Channel,
    Chunk,
    ChunkIndex,
    Message,
    MessageIndex,
    Metadata,
    Schema,
    Statistics,
)
from mcap.stream_reader import StreamReader, breakup_chunk
from mcap.summary import Summary
from rosbags.rosbag2.metadata import parse_qos

from dap_led_ros.replay.ros1_file import from_ros1
from dap_led_ros.replay.topics import Contents, SentRecord, Topic, complete, short

_QOS, _DIGEST = 'offered_qos_profiles', 'topic_type_hash'
_RECORD_HEAD = 9
"""Bytes before each record: what it is, and its length."""


class McapFile:
    """A file that is open for reading."""

    def __init__(self, path: Path) -> None:
        """Open it; damage shows when it is read."""
        self._path = path
        self._stream = path.open('rb')
        self._schemas: dict[int, Schema] = {}
        self._topics: dict[int, tuple[Topic, Any]] = {}
        self._refused: dict[int, str] = {}
        self._chunks: list[ChunkIndex] = []
        self.lost: list[str] = []
        """What reading has found to be lost."""
        self._extras: list[Attachment | Metadata] | None = None
        try:
            self._summary: Summary | None = make_reader(self._stream).get_summary()
        except Exception:  # of the reader, in many classes; it is read from the start then
            self._summary = None
        if self._summary:
            self._chunks = sorted(
                self._summary.chunk_indexes,
                key=lambda chunk: (chunk.message_start_time, chunk.chunk_start_offset),
            )
            for record in (*self._summary.schemas.values(), *self._summary.channels.values()):
                self._learn(record)

    # --- what is in it ------------------------------------------------------------------------

    def contents(self) -> Contents:
        """Numbers of messages and where they are; without an index by reading the file."""
        try:
            counts = self._indexed() if self._chunks else None
        except Exception:  # of the reader, in many classes
            counts = None
        if counts is None:
            return self._read_through()
        start = min((c.message_start_time for c, n in counts.values() if n.total()), default=None)
        end = max((c.message_end_time for c, n in counts.values() if n.total()), default=0)
        by_channel = sum((n for _, n in counts.values()), Counter())
        times = None if start is None else (start, end + 1)
        return self._contents(by_channel, times)

    def _indexed(self) -> dict[int, tuple[ChunkIndex, Counter[int]]] | None:
        """Chunks and their numbers of messages by channel; None: there are messages outside."""
        if any(isinstance(record, (Message, Chunk)) for record in self._outside()):
            return None
        found = {}
        for chunk in self._chunks:
            counts = self._count(chunk)
            if not chunk.message_index_offsets:
                messages = (of for of in self._records_of(chunk) if isinstance(of, Message))
                counts = Counter(message.channel_id for message in messages)
            found[chunk.chunk_start_offset] = chunk, counts
        known = self._topics.keys() | self._refused.keys()
        return found if all(n.keys() <= known for _, n in found.values()) else None

    def _count(self, chunk: ChunkIndex) -> Counter[int]:
        """Number of messages of a chunk by channel, as its index says."""
        counts: Counter[int] = Counter()
        self._stream.seek(chunk.chunk_start_offset + chunk.chunk_length)
        index = io.BytesIO(self._stream.read(chunk.message_index_length))
        reader = StreamReader(index, skip_magic=True, emit_chunks=True).records
        while index.tell() < chunk.message_index_length:
            record = next(reader)
            if isinstance(record, MessageIndex):
                counts[record.channel_id] += len(record.records)
        return counts

    def _outside(self) -> Iterator[Any]:
        """Records between the chunks of a file that has an index."""
        place = 8  # behind the magic
        in_order = sorted(self._chunks, key=lambda chunk: chunk.chunk_start_offset)
        ends = [chunk.chunk_start_offset for chunk in in_order]
        begins = [
            chunk.chunk_start_offset + chunk.chunk_length + chunk.message_index_length
            for chunk in in_order
        ]
        for begin, end in zip([place, *begins], [*ends, self._data_end()]):
            self._stream.seek(begin)
            records = StreamReader(self._stream, skip_magic=True, emit_chunks=True).records
            place = begin
            while place < end:
                record = next(records, None)
                if record is None:
                    break
                place = self._stream.tell()
                if place <= end:
                    yield record
                self._stream.seek(place)  # whoever takes the record may read elsewhere

    def _data_end(self) -> int:
        """Where the summary begins."""
        size = self._path.stat().st_size
        self._stream.seek(size - 8 - 20 - _RECORD_HEAD)  # magic, footer
        footer = next(StreamReader(self._stream, skip_magic=True).records)
        return footer.summary_start

    def _read_through(self) -> Contents:
        self._chunks = []
        self._extras = []
        counts: Counter[int] = Counter()
        times: list[int] = []
        damage = ''
        try:
            for record in self._linear(keep=True):
                counts[record.channel_id] += 1
                time = record.log_time
                times = [min(times[0], time), max(times[1], time)] if times else [time, time]
        except Exception as error:  # of the reader, in many classes
            damage = short(error)
        contents = self._contents(counts, None)
        if damage:
            span = f', {(times[1] - times[0]) / 1e9:.1f} s of recording' if times else ''
            contents.trouble.insert(
                0,
                f'{self._path.name} is damaged: {contents.counts.total()} messages can be read'
                f'{span} ({damage})',
            )
            contents.damaged = True
        return contents

    def _contents(self, by_channel: Counter[int], times: tuple[int, int] | None) -> Contents:
        counts: Counter[Topic] = Counter({topic: 0 for topic, _ in self._topics.values()})
        trouble = list(dict.fromkeys(self.lost))
        for channel, count in by_channel.items():
            if channel in self._topics:
                counts[self._topics[channel][0]] += count
            elif count:
                why = self._refused.get(channel, f'channel {channel} is not described')
                trouble.append(f'{self._path.name}: {why}: {count} messages are left out')
        said: Statistics | None = self._summary.statistics if self._summary else None
        if said and said.message_count != by_channel.total():
            trouble.append(
                f'{self._path.name} says of itself that it has {said.message_count} messages: '
                f'{by_channel.total()} are there'
            )
        return Contents(counts, times, trouble)

    # --- messages -----------------------------------------------------------------------------

    def messages(self, start: int | None, stop: int | None, by_time: bool) -> Iterator[SentRecord]:
        """Messages from start to before stop (ns).

        :param by_time: of a file with an index; else in the order of the file.
        :raises Exception: here it is damaged, and nothing behind can be found.
        """
        for message in self._by_time(start, stop) if by_time else self._linear():
            if message.channel_id in self._topics:
                topic, convert = self._topics[message.channel_id]
                data = convert(message.data) if convert else message.data
                sent = message.publish_time, message.sequence
                yield topic, message.log_time, data, sent

    def _by_time(self, start: int | None, stop: int | None) -> Iterator[Message]:
        """Messages of the chunks in the order of their times; chunks may overlap."""
        heap: list[tuple[int, int, int, Message]] = []
        for chunk in self._chunks:
            if start is not None and chunk.message_end_time < start:
                continue
            if stop is not None and chunk.message_start_time >= stop:
                continue
            while heap and heap[0][0] < chunk.message_start_time:
                yield heapq.heappop(heap)[-1]
            for number, record in enumerate(self._records_of(chunk)):
                if (
                    isinstance(record, Message)
                    and (start is None or start <= record.log_time)
                    and (stop is None or record.log_time < stop)
                ):
                    key = record.log_time, chunk.chunk_start_offset, number
                    heapq.heappush(heap, (*key, record))
        while heap:
            yield heapq.heappop(heap)[-1]

    def _records_of(self, chunk: ChunkIndex) -> list[Any]:
        """Records of a chunk; none of a damaged one, and that is noted."""
        try:
            self._stream.seek(chunk.chunk_start_offset)
            reader = StreamReader(self._stream, skip_magic=True, emit_chunks=True)
            found = next(reader.records)
        except Exception as error:  # of the reader, in many classes
            self._note_lost(chunk, error)
            return []
        return self._broken_up(found, chunk) if isinstance(found, Chunk) else []

    def _broken_up(self, chunk: Chunk, index: ChunkIndex | None = None) -> list[Any]:
        """Records of a chunk; none of a damaged one, and that is noted."""
        try:
            records = breakup_chunk(chunk, validate_crc=True)
        except Exception as error:  # of the decompressors and the reader
            self._note_lost(index, error)
            return []
        for record in records:
            self._learn(record)
        return records

    def _note_lost(self, chunk: ChunkIndex | None, error: Exception) -> None:
        """Say that a chunk is lost, and where it is in the recording."""
        line = f'{self._path.name} is damaged: all messages of a chunk are lost'
        if chunk:
            seconds = (chunk.message_start_time - self._chunks[0].message_start_time) / 1e9
            count = self._count(chunk).total() if chunk.message_index_offsets else 'all'
            line = (
                f'{self._path.name} is damaged, {seconds:.1f} s after its start: {count} messages '
                'of a chunk are lost'
            )
        line = f'{line} ({short(error)})'
        if line not in self.lost:
            self.lost.append(line)

    def _linear(self, keep: bool = False) -> Iterator[Message]:
        """Messages in the order of the file; with `keep` what is beside them is remembered."""
        self._stream.seek(0)
        for record in StreamReader(self._stream, emit_chunks=True).records:
            place = self._stream.tell()
            if isinstance(record, Chunk):
                yield from (of for of in self._broken_up(record) if isinstance(of, Message))
            elif isinstance(record, Message):
                yield record
            elif keep:
                self._keep(record)
            self._learn(record)
            self._stream.seek(place)

    def extras(self) -> list[Attachment | Metadata]:
        """Attachments and metadata records, but for rosbag2's own; as far as they can be read."""
        if self._extras is None and self._chunks:
            self._extras = []
            with contextlib.suppress(Exception):  # of the reader; contents() says it is damaged
                for record in self._outside():
                    self._keep(record)
        elif self._extras is None:
            self._read_through()
        return self._extras or []

    def _keep(self, record: Any) -> None:
        """Remember what is beside the messages."""
        if isinstance(record, Attachment) or (
            isinstance(record, Metadata) and record.name != 'rosbag2'
        ):
            self._extras = [*(self._extras or []), record]

    def _learn(self, record: Any) -> None:
        """Know a schema or a channel."""
        if isinstance(record, Schema):
            self._schemas[record.id] = record
        elif isinstance(record, Channel) and record.id not in self._topics:
            try:
                self._topics[record.id] = _topic(record, self._schemas.get(record.schema_id))
            except ValueError as error:
                self._refused[record.id] = str(error)

    def close(self) -> None:
        """Close it."""
        self._stream.close()


def _topic(channel: Channel, schema: Schema | None) -> tuple[Topic, Any]:
    """The topic of a channel, and for ROS 1 what makes CDR of its messages.

    :raises ValueError: it is of ROS 1, and its definition cannot be understood.
    """
    words = channel.metadata
    rest = tuple((name, text) for name, text in words.items() if name not in (_QOS, _DIGEST))
    qos = parse_qos(words.get(_QOS, ''))
    encoding = channel.message_encoding
    if encoding == 'ros1' and schema:
        return from_ros1(channel.topic, schema.name, schema.data.decode(errors='replace'), qos)
    if encoding == 'cdr' and schema and schema.encoding in ('ros2msg', 'ros2idl', ''):
        text = schema.data.decode(errors='replace')
        return complete(channel.topic, schema.name, text, words.get(_DIGEST, ''), qos, rest), None
    name, given = (schema.name, (schema.encoding, schema.data)) if schema else ('', ('', b''))
    return Topic(channel.topic, name, '', '', tuple(qos), encoding, given, rest), None
