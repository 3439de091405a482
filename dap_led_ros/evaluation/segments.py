"""Write a run's recording in segments, so that it is whole after every one of them.

    OUT/run.json                 what was asked for
    OUT/bag/metadata.yaml        the enhanced recording, a split rosbag2
    OUT/bag/bag_0.mcap           one file per segment
    OUT/segments/0.json          journal: which messages the segment holds, what became of frames

A segment counts once its journal is there; what a killed process leaves half written is written
again.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from rosbags.rosbag2 import StoragePlugin, Writer
from ruamel.yaml import YAML

from dap_led_ros.evaluation.recording import Topic

_PLUGINS = {'mcap': StoragePlugin.MCAP, 'sqlite3': StoragePlugin.SQLITE3}
_UNKNOWN_DIGEST = 'RIHS01_' + '0' * 64
"""For the writer, which insists on one; left out of metadata.yaml again."""


def write_json(path: Path, value: Any) -> None:
    """Write a file that is either whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'.part-{path.name}')
    part.write_text(json.dumps(value, indent=1))
    os.replace(part, path)


class Segment:
    """One file of the recording while it is written; commit() makes it part of the run."""

    def __init__(self, out: Path, index: int, storage: str, version: int) -> None:
        """Begin the file; what an earlier attempt left of it is removed.

        :param storage: mcap or sqlite3.
        :param version: of metadata.yaml: 9 for Jazzy and later, 8 for Humble and Iron.
        """
        self.out = out
        self.index = index
        self.bytes = 0
        self._folder = out / '.part' / f'bag_{index}'
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.parent.mkdir(parents=True, exist_ok=True)
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
        self.bytes += len(data)

    def commit(self, journal: dict[str, Any]) -> None:
        """Close the file, put it beside the others and journal it."""
        self._writer.close()
        metadata = _load_metadata(self._folder)
        file = self._folder / metadata['relative_file_paths'][0]
        bag = self.out / 'bag'
        bag.mkdir(exist_ok=True)
        os.replace(file, bag / file.name)
        write_json(self.out / 'segments' / f'{self.index}.json', {**journal, 'metadata': metadata})
        write_metadata(self.out)
        shutil.rmtree(self._folder)

    def abort(self) -> None:
        """Close the file and leave it out of the run."""
        self._writer.abort()
        shutil.rmtree(self._folder, ignore_errors=True)


def journals(out: Path) -> list[dict[str, Any]]:
    """Of the segments that are done, in order."""
    found = []
    while (path := out / 'segments' / f'{len(found)}.json').is_file():
        found.append(json.loads(path.read_text()))
    return found


def write_metadata(out: Path) -> None:
    """metadata.yaml of all segments that are done."""
    parts = [journal['metadata'] for journal in journals(out)]
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
    path = out / 'bag' / 'metadata.yaml'
    part_path = path.with_name('.part-metadata.yaml')
    with part_path.open('w') as stream:
        yaml.dump({'rosbag2_bagfile_information': merged}, stream)
    os.replace(part_path, path)


def _load_metadata(folder: Path) -> dict[str, Any]:
    return YAML(typ='safe').load((folder / 'metadata.yaml').read_text())[
        'rosbag2_bagfile_information'
    ]


def _start(part: dict[str, Any]) -> int:
    return part['starting_time']['nanoseconds_since_epoch']
