"""Write a recording again with enhanced cameras, segment by segment.

Messages flow through three stages that overlap, with a few messages between them: read and decode
-> enhance -> encode and write. Memory stays the same however long the recording is.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dap_led_ros import image_codec
from dap_led_ros.evaluation import segments
from dap_led_ros.evaluation.background import in_background
from dap_led_ros.evaluation.codec import decode, encode
from dap_led_ros.evaluation.recording import Recording, Topic

SEGMENT_BYTES = 2**29
"""A segment of the output ends with the message that makes it this large."""


@dataclass
class Camera:
    """One image topic on its way through."""

    topic: Topic
    enhanced: Topic
    stream: Any
    read: int = 0


@dataclass
class Plan:
    """What to enhance of a recording."""

    recording: Recording
    cameras: dict[Topic, Camera]
    infos: dict[Topic, Topic]
    """camera_info topics and the names of their copies."""
    alone: dict[str, float]
    """Milliseconds per frame of the model alone, by topic."""

    @property
    def topics(self) -> list[Topic]:
        """Of the output."""
        enhanced = [camera.enhanced for camera in self.cameras.values()]
        return [*self.recording.topics, *enhanced, *self.infos.values()]


@dataclass
class Item:
    """A message between the stages."""

    topic: Topic
    time: int
    """Of the bag, ns."""
    data: bytes
    camera: Camera | None = None
    """For frames of a camera that is enhanced; else the message is only copied."""
    message: Any = None
    frame: np.ndarray | None = None
    encoding: str = ''
    row: dict[str, Any] = field(default_factory=dict)
    """What becomes of a frame."""


# --- the three stages --------------------------------------------------------------------------


def _read(
    recording: Recording, cameras: dict[Topic, Camera], first: int, seconds: Counter[str]
) -> Generator[Item, None, None]:
    """Messages from number `first` on; frames of the cameras decoded, or refused."""
    for number, (topic, stamp, data) in enumerate(recording.messages()):
        camera = cameras.get(topic)
        if number < first:
            if camera is not None:
                camera.read += 1
            continue
        item = Item(topic, stamp, data, camera)
        if camera is not None:
            start = time.perf_counter()
            item.row = {'topic': topic.name, 'index': camera.read, 'time': stamp}
            camera.read += 1
            try:
                item.message, item.frame, item.encoding = decode(topic.kind, data)
            except image_codec.UnsupportedEncodingError as error:
                item.row |= {'outcome': 'passed_through', 'why': str(error)}
            except image_codec.ImageError as error:
                item.row |= {'outcome': 'refused', 'why': str(error)}
            seconds['read'] += time.perf_counter() - start
        yield item


def _enhance(items: Iterator[Item], seconds: Counter[str]) -> Generator[Item, None, None]:
    """Replace frames by enhanced ones; a frame for which that fails is passed through."""
    for item in items:
        if item.frame is not None:
            start = time.perf_counter()
            stamp = item.message.header.stamp
            nanoseconds = stamp.sec * 10**9 + stamp.nanosec
            height, width = item.frame.shape[:2]
            item.row |= {'stamp': nanoseconds, 'width': width, 'height': height}
            try:
                enhanced = item.camera.stream.enhance(item.frame, nanoseconds)
            except Exception as error:  # of the runtime, in many classes: a frame is never lost
                item.frame = None
                item.row |= {'outcome': 'passed_through', 'why': str(error)}
            else:
                item.frame = enhanced.frame
                item.row |= enhanced.degradation | {'weight': enhanced.weight}
                item.row['outcome'] = 'enhanced' if enhanced.weight else 'passed_through'
                if not enhanced.weight:
                    item.frame = None
                    item.row['why'] = 'neither dark nor blurred'
            taken = time.perf_counter() - start
            item.row['latency'] = taken * 1e3
            seconds['enhance'] += taken
        yield item


def _write(segment: segments.Segment, item: Item, infos: dict[Topic, Topic]) -> None:
    """Write the message as it came and, behind it and at the same time, its enhanced copy."""
    segment.write(item.topic, item.time, item.data)
    if item.topic in infos:
        segment.write(infos[item.topic], item.time, item.data)
    if item.camera is None or item.row['outcome'] == 'refused':
        return
    data: bytes | memoryview = item.data
    if item.frame is not None:
        try:
            data = encode(item.frame, item.encoding, item.message)
        except image_codec.ImageError as error:
            item.row |= {'outcome': 'passed_through', 'why': str(error)}
    segment.write(item.camera.enhanced, item.time, data)


def enhance_recording(
    what: Plan, out: Path, storage: str, version: int, stopped: threading.Event
) -> bool:
    """Write the segments that are still missing; False when stopped before the end."""
    done = segments.journals(out)
    if done:
        segments.write_metadata(out)  # a kill may have come between journal and metadata
    if done and done[-1]['last']:
        return True
    first = done[-1]['end'] if done else 0
    total = sum(what.recording.counts[topic] for topic in what.cameras)
    before = sum(len(journal['frames']) for journal in done)
    # Never a new key from here on: three threads count in it.
    seconds = Counter(read=0.0, enhance=0.0, write=0.0, wall=0.0)
    items = in_background(
        _enhance(in_background(_read(what.recording, what.cameras, first, seconds)), seconds)
    )
    with (
        contextlib.closing(items),
        tqdm(total=total, initial=before, unit='frame', desc='enhance') as bar,
    ):
        ended = False
        for index in range(len(done), sys.maxsize):
            if ended or stopped.is_set():
                break
            ended, first = _write_segment(
                what,
                segments.Segment(out, index, storage, version),
                items,
                first,
                seconds,
                stopped,
                bar,
            )
    return ended


def _write_segment(
    what: Plan,
    segment: segments.Segment,
    items: Iterator[Item],
    first: int,
    seconds: Counter[str],
    stopped: threading.Event,
    bar: tqdm,
) -> tuple[bool, int]:
    """Fill and commit a segment; whether it is the last, and the number of the next message."""
    rows: list[dict[str, Any]] = []
    number, ended = first, True
    before, begin = dict(seconds), time.perf_counter()
    try:
        for topic in what.topics:
            segment.add(topic)
        for item in items:
            start = time.perf_counter()
            _write(segment, item, what.infos)
            number += 1
            seconds['write'] += time.perf_counter() - start
            if item.row:
                rows.append(item.row)
                bar.update()
            if segment.bytes >= SEGMENT_BYTES or stopped.is_set():
                ended = False
                break
        seconds['wall'] += time.perf_counter() - begin
        segment.commit(
            {
                'end': number,
                'last': ended,
                'trouble': what.recording.trouble,
                'alone': what.alone,
                'seconds': {name: seconds[name] - before[name] for name in before},
                'frames': rows,
            }
        )
    except BaseException:
        segment.abort()
        raise
    return ended, number
