"""Side-by-side videos of a run, one for each camera: OUT/video/front__image_raw.mp4."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from array import array
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from dap_led_ros import video_file
from dap_led_ros.media import VideoFile
from dap_led_ros.replay import segments
from dap_led_ros.replay.background import in_background
from dap_led_ros.replay.pairs import pairs

SIZE = (640, 480)
"""The most that a frame takes of the video, in pixels."""


class _Stopped(Exception):
    """Leaves the files as after any error: not there."""


def video_path(out: Path, topic: str) -> Path:
    """Where the video of a topic is."""
    return out / 'video' / f'{topic.strip("/").replace("/", "__")}.mp4'  # no name has two


def cost_path(out: Path) -> Path:
    """Where frames and seconds of writing the videos are."""
    return out / 'segments' / 'video.json'


def write_videos(out: Path, stopped: threading.Event) -> bool:
    """Write the videos that are not there yet; False when stopped, with none of them written.

    Frames follow one another at the camera's median rate. A frame of another size than the first
    one of its topic is fitted in, with black around it.
    """
    journals = segments.journals(out)
    times: dict[str, array] = defaultdict(lambda: array('q'))
    for journal in journals:
        for row in segments.frames(out, journal):
            times[row['topic']].append(row['time'])
    missing = {topic for topic in times if not video_path(out, topic).exists()}
    if not missing:
        return True
    if not video_file.available():
        print(
            "dap-led: browsers do not play the side-by-side videos: pip install 'dap_led_ros"
            "[video]' for H.264",
            file=sys.stderr,
        )
    total = sum(
        journal['read'][topic] - journal['refused'].get(topic, 0)
        for journal in journals
        for topic in missing & journal['read'].keys()
    )
    sizes: dict[str, tuple[int, int]] = {}
    with contextlib.suppress(_Stopped), contextlib.ExitStack() as stack:
        bar = stack.enter_context(tqdm(total=total, unit='frame', desc='video'))
        files = {
            topic: stack.enter_context(VideoFile(video_path(out, topic), _rate(times[topic])))
            for topic in missing
        }
        begin = time.perf_counter()
        for journal in journals:
            with contextlib.closing(in_background(pairs(out, journal))) as found:
                for pair in found:
                    if stopped.is_set():
                        raise _Stopped
                    topic = pair.row['topic']
                    if topic not in missing:
                        continue
                    size = sizes.setdefault(topic, _fit(pair.before.shape, SIZE))
                    sides = [_inside(frame, size) for frame in (pair.before, pair.after)]
                    files[topic].write(np.hstack(sides))
                    bar.update()
        cost = {'frames': total, 'seconds': time.perf_counter() - begin}
        segments.write_json(cost_path(out), cost)
        return True
    return False


def _rate(times: Sequence[int]) -> float:
    """Frames per second of times in ns, by the median distance; 10 where there is none."""
    distance = float(np.median(np.diff(times))) / 1e9 if len(times) > 1 else 0.0
    return min(max(1 / distance, 1.0), 120.0) if distance > 0 else 10.0


def _fit(shape: tuple[int, ...], most: tuple[int, int]) -> tuple[int, int]:
    """Width and height of a frame in at most this size, even and never enlarged."""
    height, width = shape[:2]
    scale = min(1.0, most[0] / width, most[1] / height)
    return max(2, int(width * scale) // 2 * 2), max(2, int(height * scale) // 2 * 2)


def _inside(frame: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The frame in the middle of a picture of this (width, height)."""
    width, height = _fit(frame.shape, size)
    picture = np.zeros((size[1], size[0], 3), np.uint8)
    top, left = (size[1] - height) // 2, (size[0] - width) // 2
    picture[top : top + height, left : left + width] = cv2.resize(
        frame, (width, height), interpolation=cv2.INTER_AREA
    )
    return picture
