"""Read recordings message by message, as far as each file goes.

Reads folders with or without metadata.yaml and single .mcap, .db3 and (ROS 1) .bag files; split,
compressed by file or by message, or damaged. mcap_file.py, sqlite_file.py and ros1_file.py read
one file each.

A recording can be cut into parts that are read apart, by several processes too: all of them
together are its messages, in their order. Where a file has an index, a part is found by time; one
without is read from its start and its messages are counted.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
import weakref
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

try:
    import zstandard
    from ruamel.yaml import YAML

    from dap_led_ros.replay.mcap_file import McapFile
    from dap_led_ros.replay.ros1_file import Ros1File
    from dap_led_ros.replay.sqlite_file import SqliteFile, unfinished
except ImportError as error:
    raise ImportError(
        f"reading bags needs rosbags and mcap: pip install 'dap_led_ros[bags]' ({error})"
    ) from None
from dap_led_ros.replay.topics import (
    CAMERA_INFO,
    COMPRESSED_IMAGE,
    IMAGE,
    STORE,
    Contents,
    Record,
    SentRecord,
    Topic,
    short,
)

__all__ = [
    'CAMERA_INFO',
    'COMPRESSED_IMAGE',
    'IMAGE',
    'LEAD_NS',
    'STORE',
    'Part',
    'Record',
    'Recording',
    'Topic',
]

STORAGES = {'.mcap': 'mcap', '.db3': 'sqlite3', '.bag': 'mcap'}
"""How a recording of such files is written again."""
_FILES = {'.mcap': McapFile, '.db3': SqliteFile, '.bag': Ros1File}
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
        self._unpacked: _Unpacked | None = None
        self._opened: tuple[Path, Any] | None = None
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

    @property
    def seconds(self) -> float | None:
        """From the first message to the last; None where a file has no index."""
        times = [contents.times for contents in self._contents if contents.counts.total()]
        if None in times:
            return None
        return (max(end for _, end in times) - min(start for start, _ in times)) / 1e9

    def messages(self, since: int | None = None) -> Iterator[Record]:
        """All messages, file by file, each file by time; always in the same order.

        :param since: leave out messages before this time, ns.
        """
        for file in self._files:
            for topic, time, data, _ in self._as_far_as_it_goes(file, since):
                yield topic, time, data

    def parts(self, topics: Collection[Topic], frames: int, whole: bool = False) -> list[Part]:
        """Cut the recording into parts of about so many messages of each of the topics.

        Equal times in a file are equal numbers of messages only as far as its rate is steady.

        :param whole: each file is one part: its frames need those before them, as in a video.
        """
        found = []
        for number, contents in enumerate(self._contents):
            of_topics = sum(
                count
                for topic, count in contents.counts.items()
                if self._known[topic.name, topic.kind] in topics
            )
            count = max(1, -(-of_topics // (frames * max(1, len(topics)))))
            counted = contents.times is None
            start, end = contents.times or (0, contents.counts.total())
            count = min(count, _COUNTED_PARTS) if counted else count
            count = 1 if whole else count
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
            file = self._files[part.file]
            alone = not (part.counted or file.suffix == '.zstd' or unfinished(file))
            groups.setdefault((part.file, number if alone else -1), []).append(number)
        return list(groups.values())

    def read(self, part: Part) -> Iterator[tuple[bool, SentRecord]]:
        """The messages of a part, marked True; before them, marked False, some that precede it.

        Those are of the LEAD_NS before it at least, and of the file before where it begins one.
        """
        file = self._files[part.file]
        if part.counted:
            for number, record in enumerate(self._as_far_as_it_goes(file)):
                if part.stop is not None and number >= part.stop:
                    return
                yield number >= (part.start or 0), record
            return
        with contextlib.suppress(Exception):  # of the readers; damage there is another part's
            if part.start is not None:
                lead = self._read(file, part.start - LEAD_NS, part.start)
            elif part.file and (times := self._contents[part.file - 1].times):
                lead = self._read(self._files[part.file - 1], times[1] - LEAD_NS)
            else:
                lead = iter(())
            for record in lead:
                yield False, record
        for record in self._as_far_as_it_goes(file, part.start, part.stop):
            yield True, record

    def extras(self, part: Part) -> list[Any]:
        """Attachments and metadata records that go with the first part of a file."""
        if part.start is not None:
            return []
        plain = self._plain(self._files[part.file])
        opened = self._open(plain)
        return list(opened.extras()) if isinstance(opened, McapFile) else []

    def __getstate__(self) -> dict[str, Any]:
        """What another process may have: what is unpacked here is not there."""
        return self.__dict__ | {'_unpacked': None, '_opened': None}

    def _as_far_as_it_goes(
        self, file: Path, start: int | None = None, stop: int | None = None
    ) -> Iterator[SentRecord]:
        """Messages of a file until one cannot be read."""
        self._plain(file)  # no room to unpack it is no damage
        contents = self._contents[self._files.index(file)]
        read = 0
        try:
            for record in self._read(file, start, stop):
                yield record
                read += 1
        except Exception as error:  # of the readers, in many classes
            times = contents.times
            where = (
                f', {(start - times[0]) / 1e9:.1f} s after its start' if start and times else ''
            )
            # Each part of a file without index ends in the same damage, which is known.
            if not contents.damaged:
                self._say(
                    f'{file.name} is damaged{where}: read {read} messages, then {short(error)}'
                )
        if self._opened:
            for line in getattr(self._opened[1], 'lost', ()):
                self._say(line)

    def _say(self, line: str) -> None:
        if line not in self.trouble:
            self.trouble.append(line)

    def _find_files(self) -> list[Path]:
        metadata = self.path / 'metadata.yaml'
        if self.path.is_file():
            files = [self.path]
        elif metadata.is_file():
            files = self._files_of(metadata)
        else:
            # A recorder that was killed leaves no metadata; a folder of ROS 1 has none.
            files = sorted((f for f in self.path.iterdir() if _kind(f)), key=_by_number)
            if any(_kind(file) != '.bag' for file in files):
                self.trouble.append('metadata.yaml is missing: took the files as they are')
        files = [file for file in files if _kind(file)]
        if not files:
            raise ValueError(f'{self.path} is no bag: it has no .mcap, .db3 or .bag file')
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

    def _look_through(self, file: Path) -> Contents:
        """Numbers of messages and where they are; of a damaged file by reading it."""
        try:
            contents = self._open(self._plain(file)).contents()
        except ValueError as error:
            contents = Contents(Counter(), trouble=[str(error)], damaged=True)
        for line in contents.trouble:
            self._say(line)
        return contents

    def _read(
        self, file: Path, start: int | None = None, stop: int | None = None
    ) -> Iterator[SentRecord]:
        """The messages of a file from start to before stop (ns).

        :raises Exception: whatever its reader does where it is damaged.
        """
        expand = zstandard.ZstdDecompressor()
        contents = self._contents[self._files.index(file)]
        if not contents.counts.total():
            return
        by_time = contents.times is not None
        records = self._open(self._plain(file)).messages(start, stop, by_time)
        for topic, time, data, sent in records:
            if not by_time and not (
                (start is None or start <= time) and (stop is None or time < stop)
            ):
                continue
            if data[:4] == zstandard.FRAME_HEADER:  # by message; CDR begins with a zero
                data = expand.decompressobj().decompress(data)
            yield self._known[topic.name, topic.kind], time, data, sent

    def _plain(self, file: Path) -> Path:
        """The file itself, or what its .zstd holds; of these the last one stays unpacked."""
        if file.suffix != '.zstd':
            return file
        if self._unpacked is None or self._unpacked.file != file:
            self._close()
            self._unpacked = None  # the one before goes first: they may be large
            self._unpacked = _Unpacked(file)
        return self._unpacked.plain

    def _open(self, plain: Path) -> Any:
        """The reader of a file; the last one stays open.

        To open it takes the longer the longer the file is, and each part would.
        """
        if self._opened is None or self._opened[0] != plain:
            self._close()
            self._opened = plain, _FILES[plain.suffix](plain)
        return self._opened[1]

    def _close(self) -> None:
        opened, self._opened = self._opened, None
        if opened:
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
    """.mcap, .db3 or .bag, also below .zstd; empty for other files."""
    suffix = Path(file.stem).suffix if file.suffix == '.zstd' else file.suffix
    return suffix if suffix in STORAGES else ''


def _by_number(file: Path) -> list[Any]:
    """bag_2 before bag_10."""
    return [int(part) if part.isdigit() else part for part in re.split(r'(\d+)', file.name)]
