"""Pictures and videos: found, read and written."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dap_led_ros import pictures, video_file

# FFmpeg reads this once, at the first video; our own messages say what is wrong with a file.
os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')

IMAGE_SUFFIXES = pictures.SUFFIXES
_VIDEO_CODES = {'.avi': 'MJPG', '.mkv': 'mp4v', '.mov': 'mp4v', '.mp4': 'mp4v', '.webm': 'VP80'}
_BAG_SUFFIXES = ('.mcap', '.db3', '.bag')


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
