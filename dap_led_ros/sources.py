"""Frames one after the other, whatever holds them: pictures, folders of them, videos, bags."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dap_led_ros import image_codec
from dap_led_ros.media import IMAGE_SUFFIXES, find_images, is_bag, read_image


@dataclass
class Source:
    """Frames to read one after the other."""

    kind: str
    """image, folder, video or bag."""
    count: int
    """Number of frames; of a video it is what the file says of itself."""
    rate: float | None
    """Frames per second, where the source has a rate."""
    frames: Iterator[np.ndarray]
    """(H, W, 3) RGB, uint8 (pictures of 16 bit: uint16)."""


def open_source(path: str | Path, topic: str | None = None) -> Source:
    """Open a picture, a folder of pictures, a video or a rosbag2 folder.

    :param topic: which image topic of a bag; by default its first one.
    :raises FileNotFoundError: nothing is there.
    :raises ValueError: something is there that has no frames.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f'{path} does not exist')
    if path.is_dir():
        if is_bag(path):
            return _open_bag(path, topic)
        found = find_images(path)
        if not found:
            raise ValueError(f'{path} has no pictures ({", ".join(IMAGE_SUFFIXES)}) and is no bag')
        return Source('folder', len(found), None, (read_image(p) for p in found))
    if is_bag(path):
        return _open_bag(path, topic)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return Source('image', 1, None, iter([read_image(path)]))
    return _open_video(path)


def _open_video(path: Path) -> Source:
    capture = cv2.VideoCapture(str(path))
    ok, first = capture.read()
    if not ok:
        raise ValueError(f'{path} is neither a picture nor a video that OpenCV can read')

    def frames() -> Iterator[np.ndarray]:
        ok, image = True, first
        while ok:
            yield cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
            ok, image = capture.read()
        capture.release()

    rate = capture.get(cv2.CAP_PROP_FPS)
    count = max(1, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
    return Source('video', count, rate if 0 < rate <= 1000 else None, frames())


def _open_bag(path: Path, topic: str | None) -> Source:
    try:
        from dap_led_ros.replay.recording import Recording
    except ImportError:
        raise ValueError(f"{path} is a bag: pip install 'dap_led_ros[bags]' to read it") from None
    from dap_led_ros.replay.codec import Decoder, is_camera

    try:
        recording = Recording(path)
    except ValueError as error:
        raise ValueError(f'{path} cannot be read as a bag: {error}') from None
    cameras = [of for of in recording.counts if is_camera(of)]  # in the order of the file
    there = ', '.join(sorted({of.name for of in cameras})) or 'none'
    candidates = [of for of in cameras if topic in (None, of.name)]
    chosen = next((of for of in candidates if _first_frame_decodes(recording, of)), None)
    if chosen is None:
        which = f'topic {topic} with frames' if topic else 'topic with frames'
        raise ValueError(f'{path} has no {which} of colour or grey; its image topics: {there}')
    seconds, count = recording.seconds, recording.counts[chosen]

    def frames() -> Iterator[np.ndarray]:
        skipped = 0
        decoder = Decoder(chosen)
        for of, _, data in recording.messages():
            if of == chosen:
                try:
                    yield decoder.decode(data)[1]
                except image_codec.ImageError:
                    skipped += 1
        if skipped:
            warnings.warn(f'{skipped} frames of {chosen.name} cannot be decoded', stacklevel=2)

    return Source('bag', count, (count - 1) / seconds if count > 1 and seconds else None, frames())


def _first_frame_decodes(recording: Any, topic: Any) -> bool:
    from dap_led_ros.replay.codec import Decoder

    decoder = Decoder(topic)
    for of, _, data in recording.messages():
        if of == topic:
            try:
                decoder.decode(data)
            except image_codec.MalformedImageError:
                continue  # the next one may be whole, or a key frame
            except image_codec.ImageError:
                return False
            return True
    return False
