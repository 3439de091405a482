"""All frames of a run in little memory: a column of numbers for each measure, and counts.

Rows are read segment by segment and forgotten. A frame leaves about 340 bytes.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dap_led_ros.metrics import matching
from dap_led_ros.replay import measure, measures, segments
from dap_led_ros.replay.measure import SIDES
from dap_led_ros.replay.verdict import OUTCOMES

NUMBERS = (
    *('width', 'height', 'joint', *measures.PER_PAIR, 'weight'),
    *(f'{name}_{side}' for name in measures.PER_FRAME for side in SIDES),
)
"""Columns of a camera; not a number where a frame has none."""

Row = dict[str, Any]


class Tally:
    """The frames of one camera; a frame's index is its place in every column."""

    def __init__(self) -> None:
        """Begin without frames."""
        self.why: Counter[str] = Counter()
        """Why frames were not enhanced; of reasons that differ in numbers only, the first one."""
        self._kinds: dict[str, str] = {}
        self.sizes: Counter[str] = Counter()
        self.scores: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0, 0.0])
        """Number of detections and sum of their scores, by side and class."""
        self.lengths: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
        """Number of tracks and sum of their frames, by side and class."""
        self.judged: dict[str, Counter[tuple[float, bool]]] = {side: Counter() for side in SIDES}
        """Number of detections by score and whether they are true, by side."""
        self.with_reference = self.objects = 0
        """Frames in which objects were looked for on the reference, too; those objects."""
        self.losses: list[str] = ['']
        """What may have got worse, the most of it; the column `loss` has places in this list."""
        self._integers = {'time': array('q'), 'outcome': array('b'), 'loss': array('b')}
        self._numbers = {name: array('f') for name in NUMBERS}
        self._tracks = {side: matching.Tracks() for side in SIDES}
        self._brightness: dict[str, float] = {}

    def __len__(self) -> int:
        """Number of frames."""
        return len(self._integers['time'])

    def __getitem__(self, name: str) -> np.ndarray:
        """A column, (frames,): of NUMBERS, or time (ns), outcome (of OUTCOMES), loss."""
        column = self._numbers.get(name, self._integers.get(name))
        return np.array(column)

    def add(self, row: Row) -> Row:
        """Take the next frame; returns its row, flat: brightness_before, brightness_after."""
        row = self._flat(row)
        self._integers['time'].append(row['time'])
        self._integers['outcome'].append(OUTCOMES.index(row['outcome']))
        if (loss := row.get('harm_why', '')) not in self.losses:
            self.losses.append(loss)
        self._integers['loss'].append(self.losses.index(loss))
        for name, column in self._numbers.items():
            column.append(row.get(name, np.nan))
        if 'why' in row:
            kind = re.sub(r'\d+', '#', row['why'])  # one reason, whatever its numbers
            self.why[self._kinds.setdefault(kind, row['why'])] += 1
        if 'width' in row:
            self.sizes[f'{row["width"]}x{row["height"]}'] += 1
        if 'objects_before' in row:
            self._count_objects(row)
        return row

    def end(self) -> None:
        """End the tracks that still go on, with the recording."""
        for side in SIDES:
            self._note(side, self._tracks[side].end())

    def _flat(self, row: Row) -> Row:
        flat = dict(row)
        for side in SIDES:
            values = flat.pop(side, {})
            flat |= {f'{name}_{side}': value for name, value in values.items()}
            if (brightness := values.get('brightness')) is not None:
                if side in self._brightness:
                    change = measures.flicker(brightness, self._brightness[side])
                    flat[f'flicker_{side}'] = change
                self._brightness[side] = brightness
        # One gain for both frames: a gain of each frame's own would have the flicker of after.
        if 'flicker_before' in flat and 'flicker_auto' in flat:
            flat['flicker_auto'] = flat['flicker_before']
        return flat

    def _count_objects(self, row: Row) -> None:
        for side in SIDES:
            sure = matching.sure(row.get(f'objects_{side}', ()))
            for label, score, *_ in sure:
                self.scores[side, label][0] += 1
                self.scores[side, label][1] += score
            boxes = [np.array(thing[2:]) for thing in sure]
            labels = [thing[0] for thing in sure]
            self._note(side, self._tracks[side].follow(boxes, labels))
        if (truth := row.get('objects_reference')) is not None:
            self.with_reference += 1
            self.objects += sum(thing[1] >= matching.TRUE for thing in truth)
            for side in SIDES:
                self.judged[side].update(
                    matching.true_positives(row.get(f'objects_{side}', ()), truth)
                )

    def _note(self, side: str, ended: list[tuple[str, int]]) -> None:
        for label, length in ended:
            self.lengths[side, label][0] += 1
            self.lengths[side, label][1] += length


def read(
    out: Path, journals: list[dict[str, Any]], each: Callable[[Row], Any] = lambda row: None
) -> tuple[dict[str, Tally], list[dict[str, Any]]]:
    """The frames of a run by topic, and what was asked and spent to measure each segment.

    What was measured with other stages than the first segment counts as not measured.

    :param each: called with the flat row of every frame, in order.
    """
    tallies: dict[str, Tally] = {}
    measured = []
    asked: Any = None
    for journal in journals:
        found = measure.load(out, journal)
        # Measuring anew, with another detector, may have been interrupted: never both in one.
        if found and asked not in (None, found['asked']):
            found = {}
        asked = asked or found.get('asked')
        rows = {(row['topic'], row['index']): row for row in found.pop('frames', ())}
        measured.append(found | {'frames': len(rows)})
        for row in segments.frames(out, journal):
            tally = tallies.setdefault(row['topic'], Tally())
            each(tally.add(row | rows.get((row['topic'], row['index']), {})))
    for tally in tallies.values():
        tally.end()
    return dict(sorted(tallies.items())), measured
