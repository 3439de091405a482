"""Write one file of a recording, .mcap or .db3, at exactly the given path."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from mcap.records import Attachment, Metadata
from mcap.writer import CompressionType
from mcap.writer import Writer as Mcap
from rosbags.rosbag2.storage_sqlite3 import Sqlite3Writer

from dap_led_ros.replay.topics import Sent, Topic

_IDL = '=' * 80 + '\nIDL: '


def schema_encoding(topic: Topic) -> str:
    """ros2msg or ros2idl, of a topic's definition."""
    return 'ros2idl' if topic.definition.startswith(_IDL) else 'ros2msg'


class McapWriter:
    """An .mcap file; its chunks are not compressed."""

    def __init__(self, path: Path) -> None:
        """Begin the file."""
        self._stream = path.open('wb')
        self._writer = Mcap(self._stream, compression=CompressionType.NONE)
        self._writer.start('ros2', 'dap_led_ros')
        self._schemas: dict[tuple[str, str, bytes], int] = {}

    def add(self, topic: Topic, qos: str) -> int:
        """Announce a topic; the number to write its messages with.

        :param qos: its QoS profiles as YAML.
        """
        encoding, data = topic.schema
        metadata = dict(topic.metadata)
        if topic.is_ros:
            encoding, data = schema_encoding(topic), topic.definition.encode()
            metadata['offered_qos_profiles'] = qos
            metadata['topic_type_hash'] = topic.digest
        key = topic.kind, encoding, data
        if topic.kind and key not in self._schemas:
            self._schemas[key] = self._writer.register_schema(*key)
        schema = self._schemas.get(key, 0)
        return self._writer.register_channel(topic.name, topic.encoding, schema, metadata)

    def write(self, channel: int, time: int, data: bytes | memoryview, sent: Sent) -> None:
        """Append a message at its time (ns)."""
        self._writer.add_message(channel, time, bytes(data), *sent)

    def keep(self, record: Attachment | Metadata) -> None:
        """Append an attachment or a metadata record."""
        if isinstance(record, Metadata):
            self._writer.add_metadata(record.name, record.metadata)
        else:
            self._writer.add_attachment(
                record.create_time, record.log_time, record.name, record.media_type, record.data
            )

    def close(self, version: int, metadata: str) -> None:
        """Finish the file.

        :param metadata: what metadata.yaml says of it, as YAML.
        """
        self._writer.add_metadata('rosbag2', {'serialized_metadata': metadata})
        self._writer.finish()
        self._stream.close()

    def abort(self) -> None:
        """Close the file as it is."""
        self._stream.close()


class SqliteWriter:
    """A .db3 file; it has no place for attachments and sequence numbers."""

    def __init__(self, path: Path) -> None:
        """Begin the file."""
        self._database = sqlite3.connect(path, check_same_thread=False)
        self._database.executescript(Sqlite3Writer.SQLITE_SCHEMA)
        self._count = 0
        self._types: set[str] = set()

    def add(self, topic: Topic, qos: str) -> int:
        """Announce a topic; the number to write its messages with.

        :param qos: its QoS profiles as YAML.
        """
        self._count += 1
        values = (topic.name, topic.kind, topic.encoding, qos, topic.digest)
        self._database.execute(
            'INSERT INTO topics VALUES(?, ?, ?, ?, ?, ?)', (self._count, *values)
        )
        # As Humble does: no row for a type whose definition nobody knows.
        if topic.definition and topic.kind not in self._types:
            self._types.add(topic.kind)
            self._database.execute(
                'INSERT INTO message_definitions (topic_type, encoding, '
                'encoded_message_definition, type_description_hash) VALUES(?, ?, ?, ?)',
                (topic.kind, schema_encoding(topic), topic.definition, topic.digest),
            )
        return self._count

    def write(self, topic: int, time: int, data: bytes | memoryview, sent: Sent) -> None:
        """Append a message at its time (ns)."""
        self._database.execute(
            'INSERT INTO messages (topic_id, timestamp, data) VALUES(?, ?, ?)', (topic, time, data)
        )

    def keep(self, record: Any) -> None:
        """Leave it out; replay has said so."""

    def close(self, version: int, metadata: str) -> None:
        """Finish the file.

        :param metadata: what metadata.yaml says of it, as YAML; `version` is its version.
        """
        self._database.execute(
            'INSERT INTO metadata(metadata_version, metadata) VALUES(?, ?)', (version, metadata)
        )
        self._database.commit()
        self._database.close()

    def abort(self) -> None:
        """Close the file as it is."""
        self._database.close()
