"""Write a recording again with enhanced cameras, segment by segment.

Messages flow through three stages that overlap, with a few messages between them: read and decode
-> enhance -> encode and write. Memory stays the same however long the recording is.

Each segment is a part of the recording, and the same bytes whoever writes it: at its start every
camera's stream begins anew and sees the last WARM_UP frames before it, so that gate, brightness
and history are about where they would be; stream.py says what is lost of their memory.
"""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import sqlite3
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Generator, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from tqdm import tqdm

from dap_led_ros import image_codec
from dap_led_ros.inference.stream import WARM_UP
from dap_led_ros.replay import segments
from dap_led_ros.replay.background import in_background
from dap_led_ros.replay.codec import Decoder, encode
from dap_led_ros.replay.recording import LEAD_NS, Part, Recording
from dap_led_ros.replay.topics import Sent, Topic

if TYPE_CHECKING:
    from dap_led_ros.inference import Enhanced, Enhancer
    from dap_led_ros.inference.stream import Stream

PART_FRAMES = 300
"""Frames of each camera in a part of the recording, and so in a segment, about."""
_METADATA = 50
"""So many times as long as metadata.yaml takes, which grows, it is left as it is."""


@dataclass
class Plan:
    """What to enhance of a recording, in which parts."""

    recording: Recording
    cameras: dict[Topic, Topic]
    """Image topics and their enhanced copies."""
    videos: set[Topic]
    """Those of the cameras whose frames need the ones before them."""
    infos: dict[Topic, Topic]
    """camera_info topics and their copies."""
    parts: list[Part]
    reasons: dict[str, str] = field(default_factory=dict)
    """Why each other topic is not enhanced, by name."""

    def topics(self, storage: str) -> list[Topic]:
        """Of the output; sqlite3 has no place for what is not of ROS 2."""
        originals = [of for of in self.recording.topics if of.is_ros or storage == 'mcap']
        return [*originals, *self.cameras.values(), *self.infos.values()]


@dataclass
class Item:
    """A message between the stages, or, without topic, the begin of a segment."""

    segment: int
    topic: Topic | None = None
    time: int = 0
    """Of the bag, ns."""
    data: bytes = b''
    sent: Sent = (0, 0)
    warm_up: bool = False
    """Of the segment before: enhanced, for the stream's sake, and not written."""
    message: Any = None
    frame: np.ndarray | None = None
    encoding: str = ''
    copies: bool = True
    """The message may stand for its own enhanced copy, as it is."""
    row: dict[str, Any] = field(default_factory=dict)
    """What becomes of a frame of a camera; empty: the message is only copied."""
    extras: list[Any] = field(default_factory=list)
    """At the begin of a segment: attachments and metadata records to keep."""


@dataclass
class Work:
    """What a call of enhance_recording() did."""

    whole: bool
    """It was not stopped."""
    wall: float
    """Seconds."""
    cpu: float
    """Seconds of all threads."""
    enhanced: Counter[str]
    """Frames by topic."""


# --- the three stages --------------------------------------------------------------------------


def _read(what: Plan, todo: Collection[int], seconds: Counter[str]) -> Generator[Item, None, None]:
    """Messages of the parts; frames of the cameras decoded, or refused."""
    for segment in todo:
        yield Item(segment, extras=what.recording.extras(what.parts[segment]))
        decoders = {topic: Decoder(topic) for topic in what.cameras}
        before: dict[Topic, deque[Item]] = defaultdict(deque)
        read: Counter[Topic] = Counter()
        begun = False
        for inside, (topic, stamp, data, sent) in what.recording.read(what.parts[segment]):
            item = Item(segment, topic, stamp, data, sent, not inside)
            if not inside:
                if topic in decoders:
                    before[topic].append(item)
                    if len(before[topic]) > WARM_UP and topic not in what.videos:
                        before[topic].popleft()
                continue
            if not begun:
                begun = True
                for topic_before, items in before.items():
                    yield from _warm_up(items, decoders[topic_before], stamp, seconds)
            if topic in decoders:
                item = _decoded(item, decoders[topic], read[topic], seconds)
                read[topic] += 1
            yield item


def _warm_up(
    items: deque[Item], decoder: Decoder, stamp: int, seconds: Counter[str]
) -> Iterator[Item]:
    """The last frames of a camera before a segment, decoded."""
    decoded = [
        _decoded(item, decoder, 0, seconds)
        for item in items
        if decoder.is_video or item.time > stamp - LEAD_NS
    ]
    yield from decoded[-WARM_UP:]


def _decoded(item: Item, decoder: Decoder, index: int, seconds: Counter[str]) -> Item:
    start = time.perf_counter()
    item.row = {'topic': item.topic.name, 'index': index, 'time': item.time}
    try:
        item.message, item.frame, item.encoding = decoder.decode(item.data)
    except image_codec.UnsupportedEncodingError as error:
        item.row |= {'outcome': 'passed_through', 'why': str(error)}
    except image_codec.ImageError as error:
        item.row |= {'outcome': 'refused', 'why': str(error)}
    item.copies = decoder.copies
    if decoder.is_video:
        item.row['video'] = True
    if not item.copies and item.frame is None:  # there is nothing to pass on
        item.row['outcome'] = 'refused'
    seconds['read'] += time.perf_counter() - start
    return item


def _enhance(
    items: Iterator[Item], enhancer: Enhancer, seconds: Counter[str]
) -> Generator[Item, None, None]:
    """Replace frames by enhanced ones; a frame for which that fails is passed through."""
    streams: dict[Topic, Stream] = {}
    for item in items:
        if item.topic is None:
            streams.clear()
        if item.frame is not None:
            start = time.perf_counter()
            stamp = item.message.header.stamp
            nanoseconds = stamp.sec * 10**9 + stamp.nanosec
            height, width = item.frame.shape[:2]
            item.row |= {'stamp': nanoseconds, 'width': width, 'height': height}
            stream = streams.setdefault(item.topic, enhancer.stream())
            before = item.frame
            try:
                enhanced = stream.enhance(before, nanoseconds)
            except Exception as error:  # of the runtime, in many classes: a frame is never lost
                item.row |= {'outcome': 'passed_through', 'why': str(error)}
            else:
                item.row |= enhanced.degradation | {'weight': enhanced.weight}
                item.frame = enhanced.frame
                item.row |= _outcome(before, enhanced)
            if item.copies and item.row.get('changed', 0.0) == 0:
                item.frame = None  # the message as it came
            taken = time.perf_counter() - start
            item.row['latency'] = taken * 1e3
            seconds['enhance'] += taken
        if not item.warm_up:
            yield item


def _announce(segment: segments.Segment, begin: Item, topics: list[Topic]) -> None:
    """Begin a segment with its topics, attachments and metadata records."""
    for topic in topics:
        segment.add(topic)
    for record in begin.extras:
        segment.keep(record)


def _as_the_system_says(error: sqlite3.OperationalError, out: Path) -> OSError:
    """What others call OSError and SQLite has words of its own for."""
    code = errno.ENOSPC if 'full' in str(error) else errno.EIO
    return OSError(code, str(error), str(out))


def _outcome(before: np.ndarray, enhanced: Enhanced) -> dict[str, Any]:
    """What became of a frame, and how much it changed: mean absolute difference, grey levels."""
    if not enhanced.weight:
        return {'outcome': 'passed_through', 'why': 'neither dark nor blurred'}
    levels = 1 if before.dtype == np.uint8 else 257
    change = cv2.norm(before, enhanced.frame, cv2.NORM_L1) / before.size / levels
    return {'outcome': 'enhanced', 'changed': change}


def _write(segment: segments.Segment, item: Item, what: Plan) -> None:
    """Write the message as it came and, behind it and at the same time, its enhanced copy."""
    if segment.holds(item.topic):
        segment.write(item.topic, item.time, item.data, item.sent)
    if item.topic in what.infos:
        segment.write(what.infos[item.topic], item.time, item.data, item.sent)
    if not item.row or item.row['outcome'] == 'refused':
        return
    data: bytes | memoryview = item.data
    if item.frame is not None:
        try:
            data = encode(item.frame, item.encoding, item.message)
        except image_codec.ImageError as error:
            item.row |= {'outcome': 'passed_through', 'why': str(error)}
            item.row.pop('changed', None)
    segment.write(what.cameras[item.topic], item.time, data, item.sent)


def what_runs(enhancer: Enhancer) -> dict[str, str]:
    """The model that really runs, its provider, the machine, and the versions of libraries."""
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):  # not Linux
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        name = next(line for line in lines if line.startswith('model name'))
        processor = name.split(':')[1].strip()
    versions = [f'Python {platform.python_version()}', f'OpenCV {cv2.__version__}']
    for package in ('dap_led_ros', 'onnxruntime', 'onnxruntime-gpu', 'numpy'):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions.append(f'{package} {metadata.version(package)}')
    return {
        'model': enhancer.model,
        'provider': enhancer.provider,
        'machine': f'{processor}, {os.cpu_count()} cores',
        'versions': ', '.join(versions),
    }


# --- segments ----------------------------------------------------------------------------------


def enhance_recording(
    what: Plan,
    enhancer: Enhancer,
    out: Path,
    todo: Collection[int],
    storage: str,
    version: int,
    stopped: threading.Event,
) -> Work:
    """Write segments, by the numbers of their parts; when stopped, the last one as far as it got.

    :param storage: mcap or sqlite3.
    :param version: of metadata.yaml; see Segment.
    """
    # Never a new key from here on: three threads count in it.
    seconds = Counter(read=0.0, enhance=0.0, write=0.0)
    enhanced: Counter[str] = Counter()
    begin, cpu = time.perf_counter(), time.process_time()
    ran = what_runs(enhancer)
    items = in_background(_enhance(in_background(_read(what, todo, seconds)), enhancer, seconds))
    total = sum(what.recording.counts[topic] for topic in what.cameras)
    done = sum(sum(of['read'].values()) for of in segments.journals(out) if of['whole'])
    with (
        contextlib.closing(items),
        tqdm(total=total, initial=done, unit='frame', desc='enhance') as bar,
    ):
        item = next(items, None)
        due = 0.0
        while item is not None and not stopped.is_set():
            segment = segments.Segment(out, item.segment, storage, version)
            rows: list[dict[str, Any]] = []
            before = dict(seconds)
            try:
                _announce(segment, item, what.topics(storage))
                while (item := next(items, None)) is not None and item.topic is not None:
                    start = time.perf_counter()
                    _write(segment, item, what)
                    seconds['write'] += time.perf_counter() - start
                    if item.row:
                        rows.append(item.row)
                        enhanced[item.topic.name] += item.row['outcome'] == 'enhanced'
                        bar.update()
                    if stopped.is_set():
                        break
                journal = {
                    'whole': item is None or item.topic is None,
                    'trouble': what.recording.trouble,
                    'ran': ran,
                    'seconds': {name: seconds[name] - before[name] for name in before},
                }
                segment.commit(journal, rows)
            except BaseException as error:
                segment.abort()
                if isinstance(error, sqlite3.OperationalError):
                    raise _as_the_system_says(error, out) from error
                raise
            if item is not None and time.perf_counter() >= due:  # at the end it follows anyway
                start = time.perf_counter()
                segments.write_metadata(out)
                due = time.perf_counter() + _METADATA * (time.perf_counter() - start)
    segments.write_metadata(out)
    wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
    return Work(item is None, wall, cpu, enhanced)
