"""Frames from and to files: pictures, folders of pictures, videos, rosbag2 folders."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dap_led_ros import image_codec, pictures, video_file

# FFmpeg reads this once, at the first video; our own messages say what is wrong with a file.
os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')

IMAGE_SUFFIXES = pictures.SUFFIXES
_VIDEO_CODES = {'.avi': 'MJPG', '.mkv': 'mp4v', '.mov': 'mp4v', '.mp4': 'mp4v', '.webm': 'VP80'}
_BAG_SUFFIXES = ('.mcap', '.db3', '.bag')


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
        pictures = find_images(path)
        if not pictures:
            raise ValueError(f'{path} has no pictures ({", ".join(IMAGE_SUFFIXES)}) and is no bag')
        return Source('folder', len(pictures), None, (read_image(p) for p in pictures))
    if is_bag(path):
        return _open_bag(path, topic)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return Source('image', 1, None, iter([read_image(path)]))
    return _open_video(path)


def is_bag(path: Path) -> bool:
    """Whether a path is a recording: a file of one, or a folder with one."""
    if path.is_dir():
        return (path / 'metadata.yaml').exists() or any(map(_of_a_bag, path.iterdir()))
    return _of_a_bag(path)


def _of_a_bag(path: Path) -> bool:
    return path.name.removesuffix('.zstd').endswith(_BAG_SUFFIXES)


def find_images(folder: Path) -> list[Path]:
    """Pictures of a folder, by name; folders inside it are not searched."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)


def read_image(path: Path) -> np.ndarray:
    """(H, W, 3) RGB uint8 or uint16 of a picture, upright; grey becomes RGB.

    :raises ValueError: the file is no picture that can be read.
    """
    return pictures.read(path).frame


def write_image(path: Path, frame: np.ndarray) -> None:
    """Write (H, W, 3) RGB; the suffix decides the format, and whether 16 bit stay 16.

    :raises ValueError: this format cannot be written here.
    """
    pictures.write(path, pictures.Picture(frame))


class VideoFile:
    """A video of a steady rate, that appears under its name when it is complete.

    H.264 where PyAV is installed, which browsers play; else, and in .avi, a codec of OpenCV.
    Video codecs want even sides: a frame of odd width or height gets its last column or row twice.
    """

    def __init__(self, path: Path, rate: float) -> None:
        """Prepare to write; the first frame decides the size.

        :raises ValueError: the suffix is not one that can be written.
        """
        if path.suffix.lower() not in _VIDEO_CODES:
            raise ValueError(f'{path} is no video: use one of {", ".join(_VIDEO_CODES)}')
        self.path = path
        self.rate = round(rate, 2) if rate < 650 else round(rate)  # MPEG-4 takes no finer ones
        self._part = path.with_name(f'.part-{path.name}')
        self._writer: Any = None
        self._container: Any = None

    def write(self, frame: np.ndarray) -> None:
        """Append (H, W, 3) RGB uint8; all frames have the size of the first."""
        if self._writer is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            by_pyav = self.path.suffix.lower() in video_file.SUFFIXES and video_file.available()
            (self._begin if by_pyav else self._begin_with_opencv)(frame)
        if self._container is not None:
            self._writer.write(frame, None)
        else:
            self._writer.write(cv2.cvtColor(video_file.even(frame), cv2.COLOR_RGB2BGR))

    def _begin(self, frame: np.ndarray) -> None:
        self._container = video_file.create(self._part)
        rate = Fraction(self.rate).limit_denominator(1001)
        codec = video_file.codec_for(self.path)
        self._writer = video_file.Writer(self._container, codec, 1 / rate, rate)
        self._writer.shape(frame)

    def _begin_with_opencv(self, frame: np.ndarray) -> None:
        code = cv2.VideoWriter_fourcc(*_VIDEO_CODES[self.path.suffix.lower()])
        size = video_file.even(frame).shape[1::-1]
        self._writer = cv2.VideoWriter(str(self._part), code, self.rate, size)
        if not self._writer.isOpened():
            raise ValueError(f'{self.path} cannot be written: OpenCV lacks the video codec')

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if self._writer is None:
            return
        try:
            if self._container is None:
                self._writer.release()
            else:
                if kind is None:
                    self._writer.finish()
                self._container.close()
            if kind is None:
                self._part.replace(self.path)
        finally:
            self._part.unlink(missing_ok=True)


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
