"""ROS 1 in .bag and .mcap files, as the same messages of ROS 2.

Message types are those of ROS 2 where it has one of the name; others keep their definition.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rosbags.convert.converter import (
    LATCH,
    STATIC_MSGTYPE_RENAMES,
    is_same_wireformat,
    migrate_bytes,
)
from rosbags.rosbag1 import Reader
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from dap_led_ros.replay.topics import (
    STORE,
    Contents,
    SentRecord,
    Topic,
    complete,
    full_name,
    short,
)

Convert = Callable[[bytes], Any]


def from_ros1(name: str, kind: str, definition: str, qos: Any = ()) -> tuple[Topic, Convert]:
    """The topic of ROS 2 for one of ROS 1, and what converts its messages.

    :raises ValueError: the definition cannot be understood.
    """
    kind = full_name(kind)
    try:
        theirs = get_typestore(Stores.EMPTY)
        theirs.register(get_types_from_msg(definition, kind))
        renamed = STATIC_MSGTYPE_RENAMES.get(kind, kind)
        ours = STORE
        if renamed not in STORE.fielddefs:
            ours = get_typestore(Stores.EMPTY)
            header = {'std_msgs/msg/Header': STORE.fielddefs['std_msgs/msg/Header']}
            ours.register({**theirs.fielddefs, **header})
        text = '' if ours is STORE else ours.generate_msgdef(renamed, ros_version=2)[0]
        if is_same_wireformat(theirs, ours, kind, renamed):
            return complete(name, renamed, text, qos=qos), lambda data: ours.ros1_to_cdr(
                data, renamed
            )
        cache: dict[str, object] = {}
        return complete(name, renamed, text, qos=qos), lambda data: migrate_bytes(
            theirs, ours, kind, renamed, cache, data, src_is2=False, dst_is2=True
        )
    except Exception as error:  # of the parser of definitions, in many classes
        raise ValueError(
            f'{name} is left out: {kind} of ROS 1 is not understood ({short(error)})'
        ) from None


class Ros1File:
    """A .bag file that is open for reading."""

    def __init__(self, path: Path) -> None:
        """Open it.

        :raises ValueError: it is damaged, or its recorder did not close it.
        """
        self._path = path
        self._reader = Reader(path)
        try:
            self._reader.open()
        except Exception as error:  # ReaderError, struct.error, of the decompressors
            raise ValueError(
                f'{path.name} cannot be read as a bag of ROS 1 ({short(error)}): '
                '`rosbag reindex` mends one whose recorder was killed'
            ) from None
        self._topics: dict[int, tuple[Topic, Convert]] = {}
        self._trouble: list[str] = []
        for connection in self._reader.connections:
            try:
                self._topics[connection.id] = from_ros1(
                    connection.topic,
                    connection.msgtype,
                    connection.msgdef.data,
                    LATCH if getattr(connection.ext, 'latching', None) else [],
                )
            except ValueError as error:
                self._trouble.append(f'{error}: {connection.msgcount} messages')

    def contents(self) -> Contents:
        """Numbers of messages and where they are."""
        counts: Counter[Topic] = Counter()
        for connection in self._reader.connections:
            if connection.id in self._topics:
                counts[self._topics[connection.id][0]] += connection.msgcount
        if not counts.total():
            return Contents(counts, trouble=self._trouble)
        return Contents(counts, (self._reader.start_time, self._reader.end_time), self._trouble)

    def messages(self, start: int | None, stop: int | None, by_time: bool) -> Iterator[SentRecord]:
        """Messages from start to before stop (ns), by time.

        :raises Exception: here it is damaged.
        """
        known = [of for of in self._reader.connections if of.id in self._topics]
        for connection, time, data in self._reader.messages(known, start, stop):
            topic, convert = self._topics[connection.id]
            yield topic, time, bytes(convert(data)), (time, 0)

    def close(self) -> None:
        """Close it."""
        self._reader.close()
