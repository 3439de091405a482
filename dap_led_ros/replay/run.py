"""dap-led replay: a recording in; the same recording with enhanced cameras, and a report, out.

What is to be enhanced is found first; enhance.py writes it, measure.py measures what was
written, video.py and report.py show it.
"""

from __future__ import annotations

import hashlib
import shutil
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import astuple, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from dap_led_ros import image_codec
from dap_led_ros.inference import Enhancer, fastest, weights
from dap_led_ros.replay import (
    enhance as enhancing,
)
from dap_led_ros.replay import (
    no_reference,
    odometry,
    report,
    requirements,
    segments,
)
from dap_led_ros.replay.codec import (
    Decoder,
    camera_info_name,
    enhanced_name,
    enhanced_topic,
    is_camera,
)
from dap_led_ros.replay.enhance import Plan, Work, enhance_recording
from dap_led_ros.replay.measure import Detection, Measuring, measure_run
from dap_led_ros.replay.options import ReplayOptions
from dap_led_ros.replay.recording import Recording
from dap_led_ros.replay.topics import CAMERA_INFO, Topic
from dap_led_ros.replay.video import write_videos
from dap_led_ros.stopping import stop_wished

ALONE_FRAMES, ALONE_SECONDS = 10, 0.5
"""For so long at least the model's own rate is measured, before a run and after it."""


@dataclass
class Job:
    """One recording to replay; other processes may do parts of it."""

    options: ReplayOptions
    what: Plan
    references: dict[str, str]
    """Topic of the reference by topic of the camera."""
    asked: dict[str, Any]
    """What run.json says of the run."""

    @property
    def out(self) -> Path:
        """Folder of the run."""
        return self.options.out

    def begin(self) -> None:
        """Make the folder of the run."""
        segments.write_json(self.out / 'run.json', self.asked)

    def left(self) -> list[int]:
        """Segments that are still to be written."""
        numbers = range(len(self.what.parts))
        return [number for number in numbers if not segments.is_whole(self.out, number)]

    def enhance(self, enhancer: Enhancer, todo: list[int], stopped: threading.Event) -> Work:
        """Write segments."""
        storage = self.options.storage or self.what.recording.storage
        version = 8 if self.options.humble else 9
        return enhance_recording(self.what, enhancer, self.out, todo, storage, version, stopped)

    def measuring(self) -> Measuring:
        """What to measure, ready to do it: detector and metrics are loaded."""
        options = self.options
        detection = Detection(options.detect, options.allow_pickle) if options.detect else None
        names = no_reference.available()[0] if options.iqa else []
        metrics = no_reference.NoReference(names) if names else None
        cameras = list(self.what.cameras)
        known = odometry.read(self.what.recording, cameras) if options.odometry else None
        return Measuring(self.references, options.features, detection, metrics, known)


def prepare(options: ReplayOptions) -> Job:
    """Look at the recording and at the options; nothing is written yet.

    :raises ValueError: they do not fit, or OUT holds something else.
    :raises OSError: the recording cannot be read.
    """
    out: Path = options.out
    asked = {
        'bag': str(options.bag.resolve()),
        'topics': list(options.topics),
        # Without topics they decide which cameras there are.
        'references': [] if options.topics else list(options.references),
        'model': options.model,
        'format': options.storage,
        'humble': options.humble,
    }
    before = _may_write(out, asked, options.resume)
    if options.device == 'auto':
        # Another runtime rounds otherwise: the whole run, and all its workers, have the same.
        device = before.get('device') or _fastest(options.model)
        options = replace(options, device=device)
    asked['device'] = options.device
    # Here, since a cluster's workers load it too late to tell.
    model = weights.find(options.model)
    recording = Recording(options.bag)
    _note_left_out(recording, options.storage or recording.storage)
    for line in recording.trouble:
        print(f'dap-led: {line}', file=sys.stderr)
    what = plan(recording, options.topics, [_camera_of(name)[1] for name in options.references])
    # A recorder may still write the bag, a training the model: segments would not fit together.
    files = {
        'weights': (model, hashlib.sha256(model.read_bytes()).hexdigest()[:12]),
        'messages': (options.bag, recording.counts.total()),
        'parts': (options.bag, [list(astuple(part)) for part in what.parts]),
    }
    for name, (path, value) in files.items():
        if before and before.get(name) != value:
            raise ValueError(f'{path} has changed since {out} was begun: choose another --out')
        asked[name] = value
    asked['no_reference'] = options.iqa
    asked['others'] = what.reasons
    return Job(options, what, _references(options.references, recording, what), asked)


def _fastest(model: str) -> str:
    """The device that auto stands for on this machine."""
    choice = fastest.choose(model)
    return choice.device if choice else 'auto'


def _note_left_out(recording: Recording, storage: str) -> None:
    """Name what the bag that is written has no place for."""
    if storage == 'mcap':
        return
    for topic in recording.topics:
        if not topic.is_ros:
            recording.trouble.append(
                f'{topic.name} is left out: {storage} has no place for {topic.said}; '
                '--format mcap has'
            )
    if any(recording.extras(part) for part in recording.parts([], 1, whole=True)):
        recording.trouble.append(
            f'attachments and metadata records are left out: {storage} has no place for them; '
            '--format mcap has'
        )


def plan(recording: Recording, names: Sequence[str], leave_out: Collection[str] = ()) -> Plan:
    """Find the cameras.

    :param names: image topics; none: all whose first frame is colour or grey, but for `leave_out`.
    :raises ValueError: there is no such topic, or nothing to enhance.
    """
    images = [topic for topic in recording.topics if is_camera(topic)]
    there = ', '.join(topic.name for topic in images) or 'none'
    for name in names:
        if name not in [topic.name for topic in images]:
            raise ValueError(f'{recording.path} has no image topic {name}; it has: {there}')
    wanted = [
        topic
        for topic in images
        if topic.name in names or (not names and topic.name not in leave_out)
    ]
    firsts = first_frames(recording, wanted)
    wanted = [topic for topic in wanted if firsts[topic].frame is not None]
    reasons = _reasons(recording, wanted, firsts)
    unread = [f'{name} ({reasons[name]})' for name in names if name in reasons]
    if unread or not wanted:
        listed = unread or [f'{name} ({why})' for name, why in reasons.items()]
        raise ValueError(f'{recording.path} has no frames of colour or grey: {"; ".join(listed)}')
    cameras = {topic: enhanced_topic(topic) for topic in wanted}
    by_name = {topic.name: topic for topic in recording.topics}
    infos = {}
    for topic in cameras:
        info = by_name.get(camera_info_name(topic.name))
        if info is not None and info.kind == CAMERA_INFO:
            infos[info] = replace(info, name=enhanced_name(info.name))
    for copy in [*cameras.values(), *infos.values()]:
        if copy.name in by_name:
            raise ValueError(
                f'{recording.path} already has {copy.name}: choose other topics with --topic'
            )
    videos = {topic for topic in wanted if firsts[topic].video}
    parts = recording.parts(list(cameras), enhancing.PART_FRAMES, bool(videos))
    return Plan(recording, cameras, videos, infos, parts, reasons)


def _reasons(
    recording: Recording, wanted: list[Topic], firsts: dict[Topic, First]
) -> dict[str, str]:
    """Why each topic that is not enhanced is not, by name."""
    reasons = {}
    for topic in recording.topics:
        if topic in wanted:
            continue
        if topic in firsts:
            reasons[topic.name] = firsts[topic].why
        elif is_camera(topic):
            reasons[topic.name] = 'not asked for'
        elif any(word in topic.kind.lower() for word in ('image', 'video', 'packet')):
            reasons[topic.name] = f'{topic.said} is of a kind that is not read'
        else:
            reasons[topic.name] = f'{topic.said} is no picture'
    return reasons


@dataclass
class First:
    """The first whole frame of a topic, or why there is none."""

    frame: np.ndarray | None = None
    why: str = 'it has no messages'
    video: bool = False


def first_frames(recording: Recording, wanted: list[Topic]) -> dict[Topic, First]:
    """The first whole frame of each topic, or why there is none."""
    found = {topic: First() for topic in wanted}
    decoders = {topic: Decoder(topic) for topic in wanted if recording.counts[topic]}
    tried: Counter[Topic] = Counter()
    for topic, _, data in recording.messages():
        if topic in decoders:
            tried[topic] += 1
            try:
                found[topic].frame = decoders[topic].decode(data)[1]
            except image_codec.MalformedImageError as error:
                found[topic].why = f'none of {tried[topic]} frames can be decoded: {error}'
                continue  # the next one may be whole
            except image_codec.ImageError as error:
                found[topic].why = str(error)
            found[topic].video = decoders.pop(topic).is_video
        if not decoders:
            break
    return found


class _Alone:
    """What the model takes for a frame of each camera with nothing else going on."""

    def __init__(self, enhancer: Enhancer, frames: dict[Topic, First]) -> None:
        self._enhancer = enhancer
        self._frames = {
            topic.name: first.frame
            for topic, first in frames.items()
            if first.frame is not None and min(first.frame.shape[:2]) >= 16
        }
        self._times: dict[str, list[tuple[float, float]]] = {name: [] for name in self._frames}

    def measure(self) -> None:
        """Time it once more, after a warm-up."""
        for name, frame in self._frames.items():
            self._enhancer.enhance(frame)
            begin = time.perf_counter()
            count = 0
            while count < ALONE_FRAMES or time.perf_counter() - begin < ALONE_SECONDS:
                count += 1
                start, cpu = time.perf_counter(), time.process_time()
                self._enhancer.enhance(frame)
                taken = time.perf_counter() - start, time.process_time() - cpu
                self._times[name].append(taken)

    def of(self, work: Work) -> dict[str, float]:
        """What report.py adds up: seconds of the work, and of the model alone for its frames."""
        known = {name: count for name, count in work.enhanced.items() if self._times.get(name)}
        wall, cpu = (
            sum(
                count * statistics.median(taken[which] for taken in self._times[name])
                for name, count in known.items()
            )
            for which in (0, 1)
        )
        frames = sum(known.values())
        return {
            'frames': frames,
            'wall': work.wall,
            'cpu': work.cpu,
            'alone': wall,
            'alone_cpu': cpu,
        }


def replay(options: ReplayOptions) -> int:
    """Replay, measure and report; 0: done, 1: stopped, 3: a requirement is missed."""
    report.check_libraries()
    required = [requirements.parse(text) for text in options.require]
    job = prepare(options)
    # Before the long work: what is wrong with it shall show now.
    enhancer = Enhancer.load(options.model, job.options.device)
    measuring = job.measuring()
    if measuring.known:
        names = [topic.name for topic in job.what.cameras]
        job.asked['limits'] = odometry.limits(measuring.known, names)
    job.begin()
    began, start = datetime.now().astimezone().isoformat(timespec='seconds'), time.perf_counter()
    told = set(job.what.recording.trouble)
    with stop_wished() as stopped:
        whole = _enhance(job, enhancer, stopped)
        whole = whole and measure_run(job.out, measuring, range(len(job.what.parts)), stopped)
        whole = whole and (not options.video or write_videos(job.out, stopped))
    shutil.rmtree(job.out / '.part', ignore_errors=True)
    segments.add_session(job.out, began, time.perf_counter() - start)
    written = report.write(job.out)
    for line in written['trouble']:
        if line not in told:  # found out while it was read
            print(f'dap-led: {line}', file=sys.stderr)
    print(report.summary(written))
    print(f'report    {job.out / "report.html"}')
    if not whole:
        print(
            'dap-led: interrupted; what was written is whole, and --resume goes on',
            file=sys.stderr,
        )
        return 1
    lines = requirements.missed(written, required)
    for line in lines:
        print(f'dap-led: {line}', file=sys.stderr)
    return requirements.FAILED if lines else 0


def _enhance(job: Job, enhancer: Enhancer, stopped: threading.Event) -> bool:
    """Write the segments that are left, and note how fast that was."""
    segments.write_metadata(job.out)  # a kill may have come between journal and metadata
    todo = job.left()
    if not todo:
        return True
    alone = _Alone(enhancer, first_frames(job.what.recording, list(job.what.cameras)))
    alone.measure()
    work = job.enhance(enhancer, todo, stopped)
    if not stopped.is_set():
        alone.measure()
    path = report.speed_path(job.out)
    sessions = segments.read_json(path) if path.is_file() else []
    segments.write_json(path, [*sessions, alone.of(work)])
    return work.whole


def _may_write(out: Path, asked: dict[str, Any], resume: bool) -> dict[str, Any]:
    """What run.json says of the run that is to be resumed; nothing of a new one."""
    path = out / 'run.json'
    if not path.is_file():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ValueError(f'{out} is not empty and holds no run: choose another --out')
        return {}
    if not resume:
        raise ValueError(f'{out} holds a run: add --resume to go on with it, or choose another')
    before = segments.read_json(path)
    other = [name for name, value in asked.items() if before.get(name) != value]
    if other:
        raise ValueError(
            f'{out} holds a run with another {other[0]} ({before.get(other[0])!r}): resume with '
            'what it began with, or choose another --out'
        )
    return before


def _camera_of(reference: str) -> tuple[str, str]:
    """Camera and topic of CAMERA=TOPIC, or '' and the topic."""
    camera, _, topic = reference.rpartition('=')
    return camera, topic


def _references(given: Sequence[str], recording: Recording, what: Plan) -> dict[str, str]:
    """Topic of the reference by topic of the camera, from TOPIC or CAMERA=TOPIC."""
    cameras = [topic.name for topic in what.cameras]
    images = [topic.name for topic in recording.topics if is_camera(topic)]
    references = {}
    for text in given:
        camera, name = _camera_of(text)
        if not camera and len(cameras) > 1:
            raise ValueError(f'--reference {name}: say which camera it is of: CAMERA={name}')
        camera = camera or cameras[0]
        if camera not in cameras:
            raise ValueError(f'--reference {text}: {camera} is not enhanced')
        if name not in images:
            raise ValueError(f'{recording.path} has no image topic {name}')
        references[camera] = name
    return references
