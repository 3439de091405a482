"""Read a .db3 file: by time while it is whole, else until it breaks off.

What a recorder that was killed left beside it (.db3-wal, .db3-journal) is part of the database:
SQLite itself brings both together, in a copy.
"""

from __future__ import annotations

import contextlib
import filecmp
import shutil
import sqlite3
import tempfile
import weakref
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from rosbags.rosbag2.metadata import parse_qos

from dap_led_ros.replay.topics import Contents, SentRecord, Topic, complete, short

_BESIDE = ('-wal', '-journal')


def unfinished(file: Path) -> bool:
    """Whether a recorder's last messages are in a file beside the database."""
    return any(_size(file.with_name(file.name + ending)) for ending in _BESIDE)


def _size(file: Path) -> int:
    return file.stat().st_size if file.is_file() else 0


class SqliteFile:
    """A database that is open for reading."""

    def __init__(self, path: Path) -> None:
        """Open it; damage shows when it is read."""
        self._path = path
        plain = path
        self._lost: list[str] = []
        if unfinished(path):
            folder = Path(tempfile.mkdtemp(prefix='dap_led_'))
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
            plain = self._brought_together(folder)
        self._database = sqlite3.connect(
            f'{plain.resolve().as_uri()}?immutable=1', uri=True, check_same_thread=False
        )
        self._database.row_factory = sqlite3.Row

    def _brought_together(self, folder: Path) -> Path:
        """A copy that SQLite has finished: all that was committed is in one file."""
        copy = folder / 'bag.db3'
        shutil.copyfile(self._path, copy)
        for ending in _BESIDE:
            beside = self._path.with_name(self._path.name + ending)
            if _size(beside):
                shutil.copyfile(beside, f'{copy}{ending}')
        log = Path(f'{copy}-wal')
        there = _size(log)
        try:
            with contextlib.closing(sqlite3.connect(copy)) as database:
                _, pages, moved = database.execute('PRAGMA wal_checkpoint(TRUNCATE)').fetchone()
                database.execute('SELECT count(*) FROM sqlite_master').fetchone()
            unused = there > 32 and pages == 0 and moved == 0 and _size(copy) == _size(self._path)
        except sqlite3.DatabaseError as error:
            self._lost.append(
                f'{self._path.name}-wal cannot be read: its messages are left out ({error})'
            )
            shutil.copyfile(self._path, copy)
            return copy
        if unused and filecmp.cmp(copy, self._path, shallow=False):
            self._lost.append(
                f'{self._path.name}-wal is damaged or of another bag: its messages are left out'
            )
        return copy

    def contents(self) -> Contents:
        """Numbers of messages and where they are; of a damaged file by reading it."""
        try:
            topics = self._topics()
            found = self._database.execute(
                'SELECT topic_id, count(*), min(timestamp), max(timestamp) '
                'FROM messages GROUP BY topic_id'
            ).fetchall()
            counts = Counter(dict.fromkeys(topics.values(), 0))
            for topic, count, _, _ in found:
                counts[topics[topic]] += count
            if not found:
                return Contents(counts, trouble=[*self._lost])
            times = min(row[2] for row in found), max(row[3] for row in found) + 1
            return Contents(counts, times, [*self._lost])
        except (sqlite3.Error, KeyError, TypeError) as error:
            return self._salvaged(short(error))

    def _salvaged(self, damage: str) -> Contents:
        counts: Counter[Topic] = Counter()
        times: list[int] = []
        with contextlib.suppress(sqlite3.Error, KeyError):  # the end of what can be read
            for topic, time, _, _ in self._rows():
                counts[topic] += 1
                times = [min(times[0], time), max(times[1], time)] if times else [time, time]
        span = f', {(times[1] - times[0]) / 1e9:.1f} s of recording' if times else ''
        said = f'{self._path.name} is damaged: {counts.total()} messages can be read{span}'
        return Contents(counts, None, [*self._lost, f'{said} ({damage})'], damaged=True)

    def messages(self, start: int | None, stop: int | None, by_time: bool) -> Iterator[SentRecord]:
        """Messages from start to before stop (ns).

        :param by_time: of a whole file; else in the order in which they were written.
        :raises sqlite3.DatabaseError: here it is damaged.
        """
        if not by_time:
            yield from self._rows()
            return
        topics = self._topics()
        rows = self._database.execute(
            'SELECT topic_id, timestamp, data FROM messages WHERE timestamp >= ? AND '
            'timestamp < ? ORDER BY timestamp, id',
            (-(2**63) if start is None else start, 2**63 - 1 if stop is None else stop),
        )
        for topic, time, data in rows:
            yield topics[topic], time, data, (time, 0)

    def _rows(self) -> Iterator[SentRecord]:
        # Without it SQLite refuses every file that is shorter than its header says.
        self._database.execute('PRAGMA writable_schema = 1')
        topics = self._topics()
        rows = self._database.execute('SELECT topic_id, timestamp, data FROM messages ORDER BY id')
        for topic, time, data in rows:
            yield topics[topic], time, data, (time, 0)

    def _topics(self) -> dict[int, Topic]:
        definitions: dict[str, str] = {}
        with contextlib.suppress(sqlite3.DatabaseError):  # recordings before Iron have none
            for row in self._database.execute('SELECT * FROM message_definitions'):
                definitions[row['topic_type']] = row['encoded_message_definition']
        return {
            row['id']: complete(
                row['name'],
                row['type'],
                definitions.get(row['type'], ''),
                row.get('type_description_hash', ''),
                parse_qos(row.get('offered_qos_profiles', '')),
            )
            for row in map(dict, self._database.execute('SELECT * FROM topics'))
        }

    def close(self) -> None:
        """Close it."""
        self._database.close()
