"""dap-led replay: a recording in; the same recording with enhanced cameras, and a report, out.

What is to be enhanced is found first; enhancing.py writes it, measuring.py measures what was
written, video.py and report.py show it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import statistics
import sys
import threading
import time
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dap_led_ros import image_codec
from dap_led_ros.evaluation import report, segments
from dap_led_ros.evaluation.codec import camera_info_name, decode, enhanced_name
from dap_led_ros.evaluation.enhancing import Camera, Plan, enhance_recording
from dap_led_ros.evaluation.measuring import Detection, measure_run
from dap_led_ros.evaluation.recording import (
    CAMERA_INFO,
    COMPRESSED_IMAGE,
    IMAGE,
    Recording,
    Topic,
)
from dap_led_ros.evaluation.video import write_videos
from dap_led_ros.inference import Enhancer

ALONE_SECONDS = 0.5
"""How long the model's own rate is measured for each camera."""


def plan(
    recording: Recording, names: list[str], enhancer: Enhancer, leave_out: Collection[str] = ()
) -> Plan:
    """Find the cameras and how fast the model is on their frames.

    :param names: image topics; none: all whose first frame is colour or grey, but for `leave_out`.
    :raises ValueError: there is no such topic, or nothing to enhance.
    """
    images = [topic for topic in recording.topics if topic.kind in (IMAGE, COMPRESSED_IMAGE)]
    there = ', '.join(topic.name for topic in images) or 'none'
    for name in names:
        if name not in [topic.name for topic in images]:
            raise ValueError(f'{recording.path} has no image topic {name}; it has: {there}')
    wanted = [
        topic
        for topic in images
        if topic.name in names or (not names and topic.name not in leave_out)
    ]
    cameras, alone = {}, {}
    for topic, frame in _first_frames(recording, wanted).items():
        if frame is None and not names:
            continue
        cameras[topic] = Camera(
            topic, replace(topic, name=enhanced_name(topic.name)), enhancer.stream()
        )
        if frame is not None and min(frame.shape[:2]) >= 16:
            alone[topic.name] = _alone(enhancer, frame)
    if not cameras:
        raise ValueError(f'{recording.path} has no frames of colour or grey in: {there}')
    by_name = {topic.name: topic for topic in recording.topics}
    infos = {}
    for camera in cameras.values():
        info = by_name.get(camera_info_name(camera.topic.name))
        if info is not None and info.kind == CAMERA_INFO:
            infos[info] = replace(info, name=enhanced_name(info.name))
    for copy in [*(camera.enhanced for camera in cameras.values()), *infos.values()]:
        if copy.name in by_name:
            raise ValueError(
                f'{recording.path} already has {copy.name}: choose other topics with --topic'
            )
    return Plan(recording, cameras, infos, alone)


def _first_frames(recording: Recording, wanted: list[Topic]) -> dict[Topic, np.ndarray | None]:
    """The first frame of each topic; None where it cannot be decoded or there is none."""
    frames: dict[Topic, np.ndarray | None] = dict.fromkeys(wanted)
    missing = {topic for topic in wanted if recording.counts[topic]}
    for topic, _, data in recording.messages():
        if topic in missing:
            with contextlib.suppress(image_codec.ImageError):
                frames[topic] = decode(topic.kind, data)[1]
            missing.discard(topic)
        if not missing:
            break
    return frames


def _alone(enhancer: Enhancer, frame: np.ndarray) -> float:
    """Milliseconds for a frame with nothing else going on: the median after a warm-up."""
    enhancer.enhance(frame)
    times: list[float] = []
    while sum(times) < ALONE_SECONDS:
        start = time.perf_counter()
        enhancer.enhance(frame)
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e3


@contextlib.contextmanager
def _ctrl_c() -> Iterator[threading.Event]:
    """Ctrl-C sets the event, so that what is written ends well; a second one interrupts."""
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield pressed
        return

    def press(*_: Any) -> None:
        pressed.set()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, press)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


def run(options: argparse.Namespace) -> int:
    """Replay, measure and report; 0 when done, 1 when stopped by Ctrl-C."""
    report.check_libraries()
    out: Path = options.out
    asked = _asked(options)
    _may_write(out, asked, options.resume)
    recording = Recording(options.bag)
    told = list(recording.trouble)
    for line in told:
        print(f'dap-led: {line}', file=sys.stderr)
    enhancer = Enhancer.load(options.model, options.device)
    what = plan(recording, options.topic, enhancer, [_camera_of(r)[1] for r in options.reference])
    references = _references(options.reference, recording, what)
    # Before the long work: what is wrong with it shall show now.
    detection = Detection(options.detect, options.allow_pickle) if options.detect else None
    segments.write_json(out / 'run.json', {**asked, 'provider': enhancer.provider})
    with _ctrl_c() as stopped:
        storage, version = options.format or recording.storage, 8 if options.humble else 9
        whole = enhance_recording(what, out, storage, version, stopped)
        if whole:
            whole = measure_run(out, references, options.features, detection, stopped)
        if whole and options.video:
            whole = write_videos(out, stopped)
    written = report.write(out)
    for line in written['trouble']:
        if line not in told:  # found out while it was read
            print(f'dap-led: {line}', file=sys.stderr)
    print(report.summary(written))
    print(f'report    {out / "report.html"}')
    if not whole:
        print(
            'dap-led: interrupted; what was written is whole, and --resume goes on',
            file=sys.stderr,
        )
    return 0 if whole else 1


def _asked(options: argparse.Namespace) -> dict[str, Any]:
    """What makes a run what it is: the same for the run that resumes it."""
    return {
        'bag': str(options.bag.resolve()),
        'topics': options.topic,
        # Without topics they decide which cameras there are.
        'references': [] if options.topic else options.reference,
        'model': options.model,
        'format': options.format,
        'humble': options.humble,
    }


def _may_write(out: Path, asked: dict[str, Any], resume: bool) -> None:
    path = out / 'run.json'
    if not path.is_file():
        if out.exists() and any(out.iterdir()):
            raise ValueError(f'{out} is not empty and holds no run: choose another --out')
        return
    if not resume:
        raise ValueError(f'{out} holds a run: add --resume to go on with it, or choose another')
    before = json.loads(path.read_text())
    other = [name for name, value in asked.items() if before.get(name) != value]
    if other:
        raise ValueError(
            f'{out} holds a run with another {other[0]} ({before.get(other[0])!r}): resume with '
            'what it began with, or choose another --out'
        )


def _camera_of(reference: str) -> tuple[str, str]:
    """Camera and topic of CAMERA=TOPIC, or '' and the topic."""
    camera, _, topic = reference.rpartition('=')
    return camera, topic


def _references(given: list[str], recording: Recording, what: Plan) -> dict[str, str]:
    """Topic of the reference by topic of the camera, from TOPIC or CAMERA=TOPIC."""
    cameras = [topic.name for topic in what.cameras]
    images = [topic.name for topic in recording.topics if topic.kind in (IMAGE, COMPRESSED_IMAGE)]
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
