"""Make a rosbag2 of a night drive from videos by day, which are its reference.

    python -m dap_led_training make night_bag highway.mp4 vehicles.mp4 --out night_bag
    dap-led replay night_bag --topic /camera/image_raw --reference /camera/reference \
        --detect yolov8n.onnx --out night_report

Each frame is darkened and blurred by night/independent.py, which no model here was trained
on. Detections on the reference then tell which of those at night are true.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer

from dap_led_ros.replay.recording import IMAGE, STORE
from dap_led_ros.sources import open_source
from dap_led_training import configuration
from dap_led_training.night.independent import night

TOPICS = ('/camera/image_raw', '/camera/reference')
GAP = 10**10
"""Nanoseconds between two videos."""


def write_night_bag(videos: list[Path], out: Path, every: int, width: int) -> int:
    """Write the recording; returns how many frames it has.

    :param every: take one frame of so many.
    :param width: scale frames to it, in pixels.
    :raises ValueError: a file is no video, or the output cannot be written.
    """
    if out.exists():
        raise ValueError(f'{out} exists: choose another --out')
    if every < 1 or width < 16:
        raise ValueError(f'--every is {every} and --width {width}: use at least 1 and 16')
    # What is no video shows before the bag is begun.
    sources = [open_source(video) for video in videos]
    count, now = 0, 10**18
    rng = np.random.default_rng(0)
    with Writer(out, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connections = [writer.add_connection(name, IMAGE, typestore=STORE) for name in TOPICS]
        for source in sources:
            step = round(10**9 / (source.rate or 25))
            for index, frame in enumerate(source.frames):
                now += step
                if index % every:
                    continue
                height = round(frame.shape[0] * width / frame.shape[1])
                day = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
                for connection, picture in zip(connections, night(day, rng)):
                    writer.write(connection, now, _message(picture, now))
                count += 1
            now += GAP
    return count


def _message(frame: np.ndarray, stamp: int) -> memoryview:
    """CDR bytes of an rgb8 Image."""
    time = STORE.types['builtin_interfaces/msg/Time'](stamp // 10**9, stamp % 10**9)
    header = STORE.types['std_msgs/msg/Header'](time, 'camera')
    height, width = frame.shape[:2]
    image = STORE.types[IMAGE](header, height, width, 'rgb8', 0, 3 * width, frame.ravel())
    return STORE.serialize_cdr(image, IMAGE)


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line."""
    parser = configuration.parser('make night_bag', __doc__)
    parser.add_argument('videos', type=Path, nargs='+', metavar='VIDEO')
    parser.add_argument('--out', type=Path, required=True, help='folder of the bag')
    parser.add_argument('--every', type=int, default=1, help='take one frame of so many')
    parser.add_argument('--width', type=int, default=640, help='of the frames, in pixels')
    options = parser.parse_args(arguments)
    try:
        count = write_night_bag(options.videos, options.out, options.every, options.width)
    except (ValueError, OSError) as error:
        print(f'night_bag: {error}', file=sys.stderr)
        return 1
    print(f'{options.out}: {count} frames of {TOPICS[0]} and {TOPICS[1]}')
    return 0
