"""Write a run's recording in segments, so that it is whole after every one of them.

    OUT/run.json                 what was asked for
    OUT/bag/metadata.yaml        the enhanced recording, a split rosbag2
    OUT/bag/bag_0.mcap           one file per segment, of the recording's part of that number
    OUT/segments/0.frames.json   what became of its frames; their indices count from 0 in each
    OUT/segments/0.json          journal: how many they are, what the segment cost

A segment counts once its journal is there; what a killed process leaves half written is written
again, and so is a segment that Ctrl-C ended early. After a kill metadata.yaml may not name the
last segments yet; --resume writes it first. Rows of two segments are never held at once.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import tempfile
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

from rosbags.rosbag2.metadata import dump_qos_v8, dump_qos_v9
from ruamel.yaml import YAML

from dap_led_ros.replay.bag_writers import McapWriter, SqliteWriter
from dap_led_ros.replay.topics import Sent, Topic

_WRITERS = {'mcap': (McapWriter, '.mcap'), 'sqlite3': (SqliteWriter, '.db3')}


def write_json(path: Path, value: Any, indent: int | None = 1) -> None:
    """Write a file that is either whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _replace(path, json.dumps(value, indent=indent))


def _replace(path: Path, text: str) -> None:
    # A name of its own: processes of several machines may write it, and process ids repeat there.
    part = path.with_name(f'.part-{uuid.uuid4().hex}-{path.name}')
    part.write_text(text)
    os.replace(part, path)


def read_json(path: Path) -> Any:
    """What write_json() wrote.

    :raises ValueError: something else is there.
    """
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f'{path} is damaged: choose another --out ({error})') from None


class Segment:
    """One file of the recording while it is written; commit() makes it part of the run."""

    def __init__(self, out: Path, index: int, storage: str, version: int) -> None:
        """Begin the file.

        :param storage: mcap or sqlite3.
        :param version: of metadata.yaml: 9 for Jazzy and later, 8 for Humble and Iron.
        """
        self.out = out
        self.index = index
        parts = out / '.part'
        parts.mkdir(parents=True, exist_ok=True)
        # A folder of its own: a process that is taken for dead may still write.
        self._folder = Path(tempfile.mkdtemp(dir=parts))
        self._storage, self._version = storage, version
        write, suffix = _WRITERS[storage]
        self._file = self._folder / f'bag_{index}{suffix}'
        self._writer = write(self._file)
        self._ids: dict[tuple[str, str], int] = {}
        self._topics: list[dict[str, Any]] = []
        self._counts: Counter[int] = Counter()
        self._times: list[int] = []

    def add(self, topic: Topic) -> None:
        """Announce a topic, with or without messages to come."""
        qos = (dump_qos_v9 if self._version >= 9 else dump_qos_v8)(list(topic.qos))
        text = qos if isinstance(qos, str) else _as_yaml(qos).strip()
        self._ids[topic.name, topic.kind] = self._writer.add(topic, text)
        self._topics.append(
            {
                'name': topic.name,
                'type': topic.kind,
                'serialization_format': topic.encoding,
                'offered_qos_profiles': qos,
                'type_description_hash': topic.digest,
            }
        )

    def holds(self, topic: Topic) -> bool:
        """Whether the topic was announced."""
        return (topic.name, topic.kind) in self._ids

    def write(
        self, topic: Topic, time: int, data: bytes | memoryview, sent: Sent | None = None
    ) -> None:
        """Append a message at its time (ns), and with what mcap knows of its sending."""
        number = self._ids[topic.name, topic.kind]
        self._writer.write(number, time, data, sent or (time, 0))
        self._counts[number] += 1
        limits = self._times or [time, time]
        self._times = [min(limits[0], time), max(limits[1], time)]

    def keep(self, record: Any) -> None:
        """Append an attachment or a metadata record of mcap."""
        self._writer.keep(record)

    def _metadata(self) -> dict[str, Any]:
        """What metadata.yaml says of the file."""
        start, end = self._times or (0, 0)
        span = {
            'duration': {'nanoseconds': end - start},
            'starting_time': {'nanoseconds_since_epoch': start},
            'message_count': self._counts.total(),
        }
        return {
            'version': self._version,
            'storage_identifier': self._storage,
            **span,
            'relative_file_paths': [self._file.name],
            'topics_with_message_count': [
                {'topic_metadata': topic, 'message_count': self._counts[number]}
                for topic, number in zip(self._topics, self._ids.values())
            ],
            'compression_format': '',
            'compression_mode': '',
            'files': [{'path': self._file.name, **span}],
            'custom_data': None,
            'ros_distro': 'rosbags',
        }

    def commit(self, journal: dict[str, Any], frames: list[dict[str, Any]]) -> None:
        """Close the file, put it beside the others and journal it.

        :param frames: what became of each: topic, index in the segment, outcome and so on.
        """
        metadata = self._metadata()
        self._writer.close(self._version, _as_yaml(metadata).strip())
        file = self._file
        bag = self.out / 'bag'
        bag.mkdir(exist_ok=True)
        os.replace(file, bag / file.name)
        measured_path(self.out, self.index).unlink(missing_ok=True)  # of an earlier attempt
        write_json(_frames_path(self.out, self.index), frames, None)
        read = Counter(row['topic'] for row in frames)
        refused = Counter(row['topic'] for row in frames if row['outcome'] == 'refused')
        write_json(
            _path(self.out, self.index),
            {**journal, 'read': read, 'refused': refused, 'metadata': metadata},
        )
        shutil.rmtree(self._folder, ignore_errors=True)

    def abort(self) -> None:
        """Close the file and leave it out of the run."""
        self._writer.abort()
        shutil.rmtree(self._folder, ignore_errors=True)


def load(out: Path, index: int) -> dict[str, Any] | None:
    """Journal of one segment; None where it is not written."""
    path = _path(out, index)
    return {**read_json(path), 'index': index} if path.is_file() else None


def is_whole(out: Path, index: int) -> bool:
    """Whether a segment is written to its end."""
    found = load(out, index)
    return found is not None and found['whole']


def journals(out: Path) -> list[dict[str, Any]]:
    """Of the segments that are written, in order; `first` is the number of frames before each."""
    first: Counter[str] = Counter()
    found = []
    stems = [path.stem for path in (out / 'segments').glob('*.json')]
    for index in sorted(int(stem) for stem in stems if stem.isdigit()):
        found.append({**(load(out, index) or {}), 'first': dict(first)})
        first.update(found[-1]['read'])
    return found


def frames(out: Path, journal: dict[str, Any]) -> list[dict[str, Any]]:
    """What became of the frames of a segment."""
    return numbered(read_json(_frames_path(out, journal['index'])), journal)


def numbered(rows: list[dict[str, Any]], journal: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of a segment's frames with indices that count from the recording's first."""
    first = journal.get('first', {})
    for row in rows:
        row['index'] += first.get(row['topic'], 0)
    return rows


def add_session(out: Path, began: str, seconds: float) -> None:
    """Note that somebody worked on the run; began: date and time, ISO 8601."""
    write_json(_sessions_path(out), [*sessions(out), {'began': began, 'seconds': seconds}])


def sessions(out: Path) -> list[dict[str, Any]]:
    """What add_session() noted, in order."""
    path = _sessions_path(out)
    return read_json(path) if path.is_file() else []


def _sessions_path(out: Path) -> Path:
    return out / 'segments' / 'sessions.json'


def _path(out: Path, index: int) -> Path:
    return out / 'segments' / f'{index}.json'


def _frames_path(out: Path, index: int) -> Path:
    return out / 'segments' / f'{index}.frames.json'


def measured_path(out: Path, index: int) -> Path:
    """Where measure.py writes what it measured of a segment."""
    return out / 'segments' / f'{index}.measures.json'


def write_metadata(out: Path) -> None:
    """metadata.yaml of all segments that are done."""
    parts = [journal['metadata'] for journal in journals(out)]
    if not parts:
        return
    with_messages = [part for part in parts if part['message_count']] or parts[:1]
    start = min(_start(part) for part in with_messages)
    end = max(_start(part) + part['duration']['nanoseconds'] for part in with_messages)
    counts: dict[tuple[str, str], int] = {}
    topics: dict[tuple[str, str], dict[str, Any]] = {}
    for part in parts:
        for topic in part['topics_with_message_count']:
            key = topic['topic_metadata']['name'], topic['topic_metadata']['type']
            topics[key] = topic['topic_metadata']
            counts[key] = counts.get(key, 0) + topic['message_count']
    merged = {
        **parts[0],
        'relative_file_paths': [name for part in parts for name in part['relative_file_paths']],
        'files': [file for part in parts for file in part['files']],
        'starting_time': {'nanoseconds_since_epoch': start},
        'duration': {'nanoseconds': end - start},
        'message_count': sum(part['message_count'] for part in parts),
        'topics_with_message_count': [
            {'topic_metadata': topics[key], 'message_count': counts[key]} for key in topics
        ],
    }
    text = _as_yaml({'rosbag2_bagfile_information': merged})
    _replace(out / 'bag' / 'metadata.yaml', text)


def _as_yaml(value: Any) -> str:
    yaml = YAML(typ='safe')
    yaml.default_flow_style = False
    stream = io.StringIO()
    yaml.dump(value, stream)
    return stream.getvalue()


def _start(part: dict[str, Any]) -> int:
    return part['starting_time']['nanoseconds_since_epoch']
