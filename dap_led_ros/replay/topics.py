"""Topics of recordings and their messages, as every file format gives them."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from rosbags.typesys import Stores, get_types_from_msg, get_typestore

IMAGE = 'sensor_msgs/msg/Image'
COMPRESSED_IMAGE = 'sensor_msgs/msg/CompressedImage'
CAMERA_INFO = 'sensor_msgs/msg/CameraInfo'
STORE = get_typestore(Stores.ROS2_HUMBLE)
"""Message types; those read here are the same in every ROS 2 since Foxy."""


@dataclass(frozen=True)
class Topic:
    """A topic of a recording, with all that a copy of the recording needs."""

    name: str
    kind: str
    """Message type, such as sensor_msgs/msg/Image; empty: its channel has no schema."""
    definition: str
    """Text of the message definition; empty: neither the recording nor we know it."""
    digest: str
    """RIHS01 hash of the type; empty where the definition is."""
    qos: tuple[Any, ...]
    encoding: str = 'cdr'
    """Of its messages: cdr is ROS 2; others (protobuf, json) are in mcap files alone."""
    schema: tuple[str, bytes] = ('', b'')
    """Encoding and data of the schema of what is not ROS 2."""
    metadata: tuple[tuple[str, str], ...] = ()
    """Further words of an mcap's channel."""

    @property
    def is_ros(self) -> bool:
        """Whether a ROS 2 node could subscribe to it."""
        return self.encoding == 'cdr' and bool(self.kind) and self.schema == ('', b'')

    @property
    def said(self) -> str:
        """Its type for people: std_msgs/msg/String, or protobuf foxglove.PointCloud."""
        if self.is_ros:
            return self.kind
        return f'{self.encoding or "no encoding"} {self.kind or "without schema"}'


Sent = tuple[int, int]
"""Time of publishing (ns) and sequence number."""
Record = tuple[Topic, int, bytes]
"""A message: its topic, its time in the bag (ns), its bytes."""
SentRecord = tuple[Topic, int, bytes, Sent]


@dataclass
class Contents:
    """What looking through a file has found."""

    counts: Counter[Topic]
    times: tuple[int, int] | None = None
    """Of the first message and behind the last one, ns; None: it has no index to search."""
    trouble: list[str] = field(default_factory=list)
    """One line for each thing that is lost."""
    damaged: bool = False
    """It ends in damage that is known already."""


def complete(
    name: str,
    kind: str,
    definition: str = '',
    digest: str = '',
    qos: Any = (),
    metadata: tuple[tuple[str, str], ...] = (),
) -> Topic:
    """A topic of ROS 2; what its recording lacks is added where we know it."""
    kind = full_name(kind)
    if not definition and kind in STORE.fielddefs:
        definition = STORE.generate_msgdef(kind, ros_version=2)[0]
    if definition and not digest:
        with contextlib.suppress(Exception):  # a definition that nobody can parse has no hash
            store = get_typestore(Stores.EMPTY)
            store.register(get_types_from_msg(definition, kind))
            digest = store.hash_rihs01(kind)
    return Topic(name, kind, definition, digest, tuple(qos), metadata=metadata)


def full_name(kind: str) -> str:
    """sensor_msgs/msg/Image of sensor_msgs/Image, as some recorders write it."""
    package, slash, name = kind.partition('/')
    return f'{package}/msg/{name}' if slash and '/' not in name else kind


def short(error: BaseException) -> str:
    """One line of an error; the mcap reader's end of file has no text."""
    lines = str(error).splitlines()
    return lines[0] if lines else 'the file ends early'
