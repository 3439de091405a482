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

from rosbags.rosbag2 import StoragePlugin, Writer
from ruamel.yaml import YAML

from dap_led_ros.evaluation.recording import Topic

_PLUGINS = {'mcap': StoragePlugin.MCAP, 'sqlite3': StoragePlugin.SQLITE3}
_UNKNOWN_DIGEST = 'RIHS01_' + '0' * 64
"""For the writer, which insists on one; left out of metadata.yaml again."""


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
        self._folder = Path(tempfile.mkdtemp(dir=parts)) / f'bag_{index}'
        self._storage = storage
        self._writer = Writer(self._folder, version=version, storage_plugin=_PLUGINS[storage])
        self._writer.open()
        self._connections: dict[tuple[str, str], Any] = {}

    def add(self, topic: Topic) -> None:
        """Announce a topic, with or without messages to come."""
        if not topic.definition and self._storage == 'sqlite3':
            self._writer.added_types.add(topic.kind)  # as Humble does: no row of definition
        self._connections[topic.name, topic.kind] = self._writer.add_connection(
            topic.name,
            topic.kind,
            msgdef=topic.definition,
            rihs01=topic.digest or _UNKNOWN_DIGEST,
            offered_qos_profiles=topic.qos,
        )

    def write(self, topic: Topic, time: int, data: bytes | memoryview) -> None:
        """Append a message at its time (ns)."""
        self._writer.write(self._connections[topic.name, topic.kind], time, data)

    def commit(self, journal: dict[str, Any], frames: list[dict[str, Any]]) -> None:
        """Close the file, put it beside the others and journal it.

        :param frames: what became of each: topic, index in the segment, outcome and so on.
        """
        self._writer.close()
        metadata = _load_metadata(self._folder)
        file = self._folder / metadata['relative_file_paths'][0]
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
        shutil.rmtree(self._folder.parent, ignore_errors=True)

    def abort(self) -> None:
        """Close the file and leave it out of the run."""
        self._writer.abort()
        shutil.rmtree(self._folder.parent, ignore_errors=True)


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


def _path(out: Path, index: int) -> Path:
    return out / 'segments' / f'{index}.json'


def _frames_path(out: Path, index: int) -> Path:
    return out / 'segments' / f'{index}.frames.json'


def measured_path(out: Path, index: int) -> Path:
    """Where measuring.py writes what it measured of a segment."""
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
            if topics[key]['type_description_hash'] == _UNKNOWN_DIGEST:
                topics[key]['type_description_hash'] = ''
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
    yaml = YAML(typ='safe')
    yaml.default_flow_style = False
    stream = io.StringIO()
    yaml.dump({'rosbag2_bagfile_information': merged}, stream)
    _replace(out / 'bag' / 'metadata.yaml', stream.getvalue())


def _load_metadata(folder: Path) -> dict[str, Any]:
    return YAML(typ='safe').load((folder / 'metadata.yaml').read_text())[
        'rosbag2_bagfile_information'
    ]


def _start(part: dict[str, Any]) -> int:
    return part['starting_time']['nanoseconds_since_epoch']
