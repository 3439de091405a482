"""Videos by PyAV (extra `video`): time stamps, sound, shape of pixels and colours are kept.

Frames are turned upright, as their file says. What is written is H.264 (in .webm VP9), which
browsers play; without B frames, so that a video that was interrupted can be gone on with.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

SUFFIXES = ('.mkv', '.mov', '.mp4', '.webm')
"""Of the videos that are written with all of it; .avi has no time stamps."""
_OPTIONS = {
    'libx264': {'crf': '18', 'preset': 'veryfast', 'bf': '0'},
    'libvpx-vp9': {'crf': '24', 'b': '0', 'deadline': 'realtime', 'cpu-used': '6', 'row-mt': '1'},
}
_SCALERS = {1: 1, 5: 5, 6: 5, 7: 7, 9: 9}
"""Numbers of FFmpeg's scaler for the matrices that tags name; 5 is BT.601, as without a tag."""
_COLOURS = ('color_range', 'color_primaries', 'color_trc', 'colorspace')


def available() -> bool:
    """Whether PyAV can be imported."""
    try:
        import av  # noqa: F401
    except ImportError:
        return False
    return True


@dataclass
class Done:
    """What became of a video."""

    frames: int = 0
    """Frames that are in the new one."""
    expected: int = 0
    """Frames that the file says it has; 0: it does not say."""
    seconds: float = 0.0
    """What the file says of its length; 0: nothing."""
    last: float = 0.0
    """Time of the last frame, seconds."""
    stopped: bool = False
    notes: list[str] = field(default_factory=list)
    """One line for each thing that was left out."""

    @property
    def short(self) -> str:
        """Where the file ended before it should; empty: it did not."""
        if self.expected:
            lacking = self.frames < self.expected
            return f'{self.frames} of {self.expected} frames' if lacking else ''
        # Sound may be longer, and frames may be far apart.
        lacking = 1.1 * self.last + 1 < self.seconds
        return f'{self.last:.1f} of {self.seconds:.1f} s' if lacking else ''


def even(frame: np.ndarray) -> np.ndarray:
    """A frame with even sides: of odd ones the last column or row comes twice."""
    height, width = frame.shape[:2]
    if height % 2 or width % 2:
        return cv2.copyMakeBorder(frame, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
    return frame


class Writer:
    """The picture of a video that is written, with the time stamps given."""

    def __init__(self, container: Any, codec: str, time_base: Fraction, rate: Fraction) -> None:
        """Add the stream; the first frame decides the size."""
        self.stream = container.add_stream(codec, rate=rate)
        self.stream.time_base = time_base
        self._context = self.stream.codec_context
        self._context.time_base = time_base
        self._context.pix_fmt = 'yuv420p'
        self._context.options = _OPTIONS[codec]
        self._container, self._time_base = container, time_base
        self._step = max(1, round(1 / (rate * time_base)))
        self._last: int | None = None

    def shape(self, frame: np.ndarray, like: Any = None, turned: bool = False) -> None:
        """Take size, and of the stream `like` shape of pixels and colours.

        :param turned: width and height have changed places since.
        """
        self._context.height, self._context.width = even(frame).shape[:2]
        if like is None:
            return
        ratio = like.codec_context.sample_aspect_ratio
        if ratio:
            ratio = 1 / ratio if turned else ratio
            self._context.sample_aspect_ratio = self.stream.sample_aspect_ratio = ratio
        for name in _COLOURS:
            with contextlib.suppress(AttributeError, ValueError):
                setattr(self._context, name, getattr(like.codec_context, name))

    def write(self, frame: np.ndarray, pts: int | None) -> None:
        """Append (H, W, 3) RGB uint8 at `pts` (time bases; None: behind the last)."""
        import av

        if pts is None or (self._last is not None and pts <= self._last):
            pts = 0 if self._last is None else self._last + self._step
        self._last = pts
        picture = av.VideoFrame.from_ndarray(even(frame), format='rgb24')
        picture = picture.reformat(
            format='yuv420p',
            dst_colorspace=_SCALERS.get(int(self._context.colorspace), 5),
            dst_color_range=int(self._context.color_range) or 1,
        )
        # The stream's own time base changes when the file is begun.
        picture.pts, picture.time_base = pts, self._time_base
        for packet in self.stream.encode(picture):
            self._container.mux(packet)

    def copy(self, packet: Any) -> None:
        """Append a packet of an earlier run."""
        self._last = round(packet.pts * packet.time_base / self._time_base)
        packet.stream = self.stream
        self._container.mux(packet)

    def finish(self) -> None:
        """Append what the encoder still holds."""
        for packet in self.stream.encode(None):
            self._container.mux(packet)


def enhance_video(
    source: Path,
    output: Path,
    enhance: Callable[[np.ndarray], np.ndarray],
    label: str,
    resume: bool,
    stopped: threading.Event,
    warm_up: int = 0,
) -> Iterator[Done]:
    """Write a video anew, frame by frame; yields after each one, the same object.

    The file appears under its name when it is complete, or when it is stopped as far as it is.

    :param enhance: (H, W, 3) RGB uint8 to the same.
    :param label: what makes the frames what they are; of an earlier run it must be the same.
    :param warm_up: frames of an earlier run that `enhance` sees again, for what it remembers.
    :raises ValueError: no video, or OUTPUT is of another run.
    """
    import av

    done = Done()
    part = output.with_name(f'.part-{output.name}')
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        with contextlib.ExitStack() as stack:
            given = stack.enter_context(_open(source))
            video = given.streams.video[0]
            video.thread_type = 'AUTO'
            before: deque[np.ndarray] = deque(maxlen=warm_up)
            earlier = _earlier(stack, output, label) if resume and output.exists() else iter(())
            target = stack.enter_context(create(part, label))
            rate = video.average_rate or Fraction(25)
            writer = Writer(target, codec_for(output), video.time_base, rate)
            sound = _sound(given, target, done)
            done.expected = video.frames
            done.seconds = (given.duration or 0) / 1e6
            for picture in _pictures(given, target, sound, done):
                frame, turned = _upright(picture)
                if not done.frames:
                    writer.shape(frame, video, turned)
                done.frames += 1
                if picture.pts is not None:
                    done.last = float(picture.pts * video.time_base)
                if (copied := next(earlier, None)) is not None:
                    writer.copy(copied)
                    before.append(frame)
                else:
                    while before:
                        enhance(before.popleft())
                    writer.write(enhance(frame), picture.pts)
                yield done
                if stopped.is_set():
                    done.stopped = True
                    break
            if not done.frames:
                raise ValueError(f'{source} has no frames that can be read')
            writer.finish()
        part.replace(output)
    except av.error.FFmpegError as error:
        raise ValueError(f'{output} cannot be written: {error}') from None
    finally:
        part.unlink(missing_ok=True)


def _pictures(given: Any, target: Any, sound: dict[Any, Any], done: Done) -> Iterator[Any]:
    """Decoded frames, in their order; the sound between them is copied."""
    waiting: list[Any] = []  # sound that comes before the first frame, and so the size
    for packet in given.demux([given.streams.video[0], *sound]):
        if packet.stream not in sound:
            yield from _decoded(packet, done)
            continue
        if packet.dts is not None:  # None: the end of the stream
            packet.stream = sound[packet.stream]
            waiting.append(packet)
        if done.frames:
            target.mux(waiting)
            waiting.clear()
    if done.frames:
        target.mux(waiting)


def _open(source: Path) -> Any:
    import av

    try:
        container = av.open(str(source))
    except av.error.FFmpegError:
        raise ValueError(f'{source} is neither a picture nor a video that can be read') from None
    if not container.streams.video:
        container.close()
        raise ValueError(f'{source} has no picture: it has sound alone')
    return container


def codec_for(path: Path) -> str:
    """FFmpeg's name of the encoder for a file of this suffix."""
    return 'libvpx-vp9' if path.suffix.lower() == '.webm' else 'libx264'


def create(part: Path, label: str = '') -> Any:
    """A container to write; its tag `label` says what makes its frames what they are."""
    import av

    quick = part.suffix.lower() in ('.mp4', '.mov')
    options = {'movflags': '+faststart'} if quick else {}
    container = av.open(str(part), 'w', options=options)
    container.metadata['comment'] = label
    return container


def _sound(given: Any, target: Any, done: Done) -> dict[Any, Any]:
    """Streams of sound and their copies; those without a place are noted."""
    import av

    copies = {}
    for stream in given.streams.audio:
        name = stream.codec_context.name
        try:
            if name not in target.supported_codecs:
                raise ValueError(f'{target.format.name} has no place for it')
            copies[stream] = target.add_stream_from_template(stream)
        except (ValueError, av.error.FFmpegError) as error:
            done.notes.append(f'sound ({name}) is left out: {error}; use .mkv')
    others = [of.type for of in given.streams if of.type not in ('video', 'audio')]
    if others or len(given.streams.video) > 1:
        more = ['video'] * (len(given.streams.video) - 1)
        done.notes.append(f'further streams are left out: {", ".join([*more, *others])}')
    return copies


def _decoded(packet: Any, done: Done) -> list[Any]:
    """Frames of a packet; a damaged one has none, which is noted."""
    import av

    try:
        return packet.decode()
    except av.error.FFmpegError as error:
        note = f'a part of the video cannot be decoded: {error}'
        if note not in done.notes:
            done.notes.append(note)
        return []


def _upright(picture: Any) -> tuple[np.ndarray, bool]:
    """A decoded frame turned as its file says, and whether width and height changed places."""
    frame = picture.to_ndarray(format='rgb24')
    turns = round(getattr(picture, 'rotation', 0) / 90) % 4  # counter-clockwise
    return np.ascontiguousarray(np.rot90(frame, turns)), turns % 2 == 1


def _earlier(stack: contextlib.ExitStack, output: Path, label: str) -> Iterator[Any]:
    """Packets of the picture of an interrupted run.

    :raises ValueError: it was made of something else.
    """
    import av

    container = stack.enter_context(_open(output))
    # Matroska writes the names of tags in capitals.
    if label not in (container.metadata.get(name) for name in ('comment', 'COMMENT')):
        raise ValueError(
            f'{output} was not made by this model of this video: choose another OUTPUT or add '
            '--overwrite'
        )
    stream = container.streams.video[0]
    convert = None
    if stream.codec_context.name == 'h264':  # as the encoder writes it, not as files store it
        convert = av.bitstream.BitStreamFilterContext('h264_mp4toannexb', stream)
    for packet in container.demux(stream):
        if packet.dts is not None:
            yield from convert.filter(packet) if convert else [packet]
