"""Frames before and after, read back from the recording of a run."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Collection, Generator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dap_led_ros import image_codec
from dap_led_ros.pictures import eight_bit
from dap_led_ros.replay import segments, verdict
from dap_led_ros.replay.codec import Decoder, enhanced_name, is_camera
from dap_led_ros.replay.recording import Recording

_WAIT = 30
"""So many frames wait for their reference, at the most."""


@dataclass
class Pair:
    """A frame and its enhanced copy, (H, W, 3) RGB uint8."""

    row: dict[str, Any]
    """What the journal says of the frame."""
    before: np.ndarray
    after: np.ndarray
    reference: np.ndarray | None = None

    @cached_property
    def auto(self) -> np.ndarray:
        """The frame before, as bright as the one after."""
        return verdict.auto(self.before, self.after)


def pairs(
    out: Path,
    journal: dict[str, Any],
    references: dict[str, str] | None = None,
    only: Collection[tuple[str, int]] | None = None,
) -> Generator[Pair, None, None]:
    """The pairs of a segment, those passed through too, in the order of the recording.

    :param references: image topics and the topic of their reference, which has equal stamps.
    :param only: topics and indices of the frames to decode; by default all.
    """
    found = segments.frames(out, journal)
    times = [row['time'] for row in found if only is None or (row['topic'], row['index']) in only]
    if not times:
        return
    references = references or {}
    # By time and not by order: a reader sorts by time, the recording need not have been.
    rows: dict[tuple[str, int], deque[dict[str, Any]]] = defaultdict(deque)
    for row in found:
        rows[row['topic'], row['time']].append(row)
    originals = {enhanced_name(topic): topic for topic in journal['read']}
    befores: dict[tuple[str, int], deque[Pair]] = defaultdict(deque)
    waiting: dict[str, deque[Pair]] = {name: deque() for name in references}
    frames: dict[str, deque[tuple[int, np.ndarray]]] = {
        name: deque(maxlen=_WAIT) for name in references.values()
    }
    file = out / 'bag' / journal['metadata']['relative_file_paths'][0]
    recording = Recording(file)
    decoders = {topic: Decoder(topic) for topic in recording.topics if is_camera(topic)}
    # Frames of a video need all before them; one that is asked for may be anywhere.
    videos = {row['topic'] for row in found if row.get('video')}
    first = None if only is None or videos else min(times)
    for topic, time, data in recording.messages(first):
        if (topic.name, time) in rows:
            row = rows[topic.name, time].popleft()
            asked = only is None or (row['topic'], row['index']) in only
            if topic.name in videos or (asked and row['outcome'] != 'refused'):
                frame = _frame(decoders[topic], data)
                if frame and asked:
                    befores[topic.name, time].append(Pair(row, frame[1], frame[1]))
        if topic.name in frames:
            frame = _frame(decoders[topic], data)
            if frame:
                frames[topic.name].append(frame)
                for camera, reference in references.items():
                    if reference == topic.name:
                        yield from _matched(waiting[camera], frames[reference], _WAIT)
        camera = originals.get(topic.name, '')
        if (camera, time) not in befores:
            continue
        pair = befores[camera, time].popleft()
        if not befores[camera, time]:
            del befores[camera, time]
        if pair.row['outcome'] == 'enhanced':
            enhanced = _frame(decoders[topic], data)
            if enhanced is None:
                continue
            pair.after = enhanced[1]
        if camera in references:
            waiting[camera].append(pair)
            yield from _matched(waiting[camera], frames[references[camera]], _WAIT)
        else:
            yield pair
    for camera, reference in references.items():
        yield from _matched(waiting[camera], frames[reference], 0)


def _frame(decoder: Decoder, data: bytes) -> tuple[int, np.ndarray] | None:
    """Stamp (ns) and frame of a message; None if it cannot be decoded."""
    try:
        message, frame, _ = decoder.decode(data)
    except image_codec.ImageError:
        return None
    stamp = message.header.stamp
    return stamp.sec * 10**9 + stamp.nanosec, eight_bit(frame)


def _matched(
    waiting: deque[Pair], frames: deque[tuple[int, np.ndarray]], most: int
) -> Generator[Pair, None, None]:
    """Pairs whose reference is there, or which have waited for `most` others."""
    by_stamp = dict(frames)
    while waiting:
        pair = waiting[0]
        reference = by_stamp.get(pair.row.get('stamp', -1))
        if reference is None and len(waiting) <= most:
            return
        if reference is not None and reference.shape == pair.before.shape:
            pair.reference = reference
        yield waiting.popleft()
