"""H.264 and H.265 as cameras stream them: packets to frames and back, with PyAV and without ROS.

A packet needs all packets since the last keyframe, so that one that is lost spoils the rest until
the next: VideoDecoder sees the gap, and waits. PyAV is the extra `video`, imported where used.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from dap_led_ros.image_codec import MOST_PIXELS, MalformedImageError, UnsupportedEncodingError

CODECS = {'h264': 'h264', 'avc': 'h264', 'libx264': 'h264'}
CODECS |= {'h265': 'hevc', 'hevc': 'hevc', 'libx265': 'hevc'}
"""Names that messages give to formats, lower case, and FFmpeg's names of them."""
THREADS = 2
"""Of one decoder or encoder: slices of one frame, which delays none."""
KEYFRAME_EVERY = 30
"""Frames between keyframes of what is encoded: a new listener waits for the next."""
_MISSING = 'Error constructing the frame RPS'  # FFmpeg's words for a loss in H.265
_SLICE, _IDR, _SPS = 1, 5, 7  # H.264's types of units
_HEVC_KEY = (*range(16, 22), 33)  # H.265's: pictures to enter at, and the sequence's header
_CHROMA_PROFILES = (100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135)


def codec_of(format: str) -> str:
    """FFmpeg's name of a message's format, 'h264' or 'hevc'; empty: it is no video."""
    words = format.lower().replace(';', ' ').replace('/', ' ').replace('_', ' ').split()
    return next((CODECS[word] for word in words if word in CODECS), '')


def check_installed() -> None:
    """Refuse to go on without PyAV.

    :raises RuntimeError: it is missing; says what to install.
    """
    _av()


class VideoDecoder:
    """One camera's stream: packets in their order, from one thread."""

    def __init__(self) -> None:
        """Begin with no stream.

        :raises RuntimeError: PyAV is missing.
        """
        self.lost = 0
        """Packets that were missing between those that came."""
        self.waiting = True
        """The next frame needs a keyframe: at the beginning, and after a loss."""
        self.fed = 0
        """Packets so far; the next one's number in `sources`."""
        self.sources: list[int] = []
        """Which packets the frames of the last feed() are of; the first that was fed is 0."""
        self._av = _av()
        self._codec, self._context = '', None
        self._gaps = _FrameNumbers()
        self._number: int | None = None
        self._in_step = 0  # numbers in a row that were one more than the number before

    def feed(self, packet: bytes, format: str, number: int | None = None) -> list[np.ndarray]:
        """Frames, (H, W, 3) RGB uint8, that come with a packet: one, or none.

        :param format: of the message: h264, h265 or hevc, in any spelling of codec_of().
        :param number: counts the packets, where the message has such a field; shows losses.
        :raises UnsupportedEncodingError: another format.
        :raises MalformedImageError: no such packet; the next frame needs a keyframe.
        """
        index, self.fed, self.sources = self.fed, self.fed + 1, []
        codec = codec_of(format)
        if not codec:
            raise UnsupportedEncodingError(f'video of format {format[:60]!r}: use H.264 or H.265')
        if not packet:
            raise MalformedImageError('malformed video: the packet has no data')
        if codec != self._codec:
            self._codec, self.waiting = codec, True
        missing = self._missing(packet, number)
        self.lost += missing
        self.waiting = self.waiting or missing > 0
        if self.waiting:
            if not _is_key(packet, codec):
                return []
            self._restart()
        given = self._av.Packet(packet)
        given.pts = index
        try:
            decoded = self._context.decode(given)
            if any(frame.is_corrupt for frame in decoded):
                raise ValueError('a picture is torn')
            frames = [frame.to_ndarray(format='rgb24') for frame in decoded]
        except (self._av.error.FFmpegError, ValueError, MemoryError) as error:
            self.waiting = True
            if _MISSING in str(error):
                self.lost += 1
                return []
            raise MalformedImageError(f'malformed video: {error}') from None
        self.waiting = False
        self.sources = [frame.pts for frame in decoded]
        return frames

    def _restart(self) -> None:
        """Forget all frames: what refers to them would be grey or torn."""
        context = self._av.CodecContext.create(self._codec, 'r')
        context.thread_type, context.thread_count = 'SLICE', THREADS
        context.flags |= self._av.codec.context.Flags.low_delay
        # A torn packet of H.264 is marked in its frame; of H.265 only this shows it.
        detect = {'err_detect': 'explode'} if self._codec == 'hevc' else {}
        context.options = {'max_pixels': str(MOST_PIXELS), **detect}
        self._context = context

    def _missing(self, packet: bytes, number: int | None) -> int:
        """Packets missing before this one, by its number or by what H.264 counts itself.

        Numbers count only where they go up in ones: they may be times, or out of order.
        """
        found = self._gaps.missing(packet) if self._codec == 'h264' else 0
        before, self._number = self._number, number
        if before is None or number is None:
            return found
        step = number - before
        if step == 1:
            self._in_step += 1
            return found
        was_in_step, self._in_step = self._in_step >= 3, 0
        return max(found, step - 1 if was_in_step else 0)


class VideoEncoder:
    """One stream of H.264 for whoever listens; each frame becomes a packet at once."""

    def __init__(self, height: int, width: int) -> None:
        """Begin a stream of frames of one size.

        :raises RuntimeError: PyAV is missing, or has no encoder of H.264.
        """
        av = _av()
        self.size = height, width
        try:
            context = av.CodecContext.create('libx264', 'w')
        except av.error.FFmpegError as error:
            raise RuntimeError(f'this PyAV cannot encode H.264: {error}') from None
        context.height, context.width = height, width
        # Every player knows 4:2:0, but it has no odd sides.
        context.pix_fmt = 'yuv444p' if height % 2 or width % 2 else 'yuv420p'
        context.time_base, context.gop_size = Fraction(1, 30), KEYFRAME_EVERY
        context.thread_type, context.thread_count = 'SLICE', THREADS
        context.options = {
            'preset': 'ultrafast',
            'tune': 'zerolatency',
            'x264-params': 'repeat-headers=1',
            'forced-idr': '1',
        }
        self._av, self._context, self._count = av, context, 0

    def encode(self, frame: np.ndarray, key: bool = False) -> bytes:
        """The packet of an (H, W, 3) RGB uint8 frame; keyframes carry all headers.

        :param key: make it a keyframe.
        """
        picture = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(frame))
        picture.pts, self._count = self._count, self._count + 1
        if key:
            picture.pict_type = self._av.video.frame.PictureType.I
        return b''.join(bytes(packet) for packet in self._context.encode(picture))


class _Sequence(NamedTuple):
    """What a header of H.264 says of the numbers of its frames."""

    bits: int
    has_planes: bool


class _FrameNumbers:
    """H.264 numbers its frames: a jump is a loss. FFmpeg conceals it without a word."""

    def __init__(self) -> None:
        self._sequence: _Sequence | None = None
        self._last: int | None = None

    def missing(self, packet: bytes) -> int:
        """Frames that are missing before those of a packet."""
        found = 0
        for unit in _units(packet):
            kind = unit[0] & 31
            if kind == _SPS:
                self._sequence = _sequence(unit)
            if kind in (_SLICE, _IDR) and self._sequence is not None:
                bits = _Bits(unit[1:40])
                bits.golomb(), bits.golomb(), bits.golomb()  # macroblock, type, picture's header
                bits.read(2 * self._sequence.has_planes)
                number = bits.read(self._sequence.bits)
                if kind == _SLICE and self._last is not None:
                    step = (number - self._last) % (1 << self._sequence.bits)
                    found += max(0, step - 1)
                self._last = number
        return found


class _Bits:
    """Reads an H.264 unit bit by bit; beyond its end there are zeros."""

    def __init__(self, data: bytes) -> None:
        data = data.replace(b'\0\0\3', b'\0\0')  # escapes
        self._text = ''.join(f'{byte:08b}' for byte in data)
        self._at = 0

    def read(self, count: int) -> int:
        """The next bits as a number."""
        text = self._text[self._at : self._at + count]
        self._at += count
        return int(text or '0', 2)

    def golomb(self) -> int:
        """The next number in Exp-Golomb code."""
        one = self._text.find('1', self._at)
        zeros = max(0, one - self._at)
        self._at += zeros
        return self.read(zeros + 1) - 1


def _sequence(unit: bytes) -> _Sequence | None:
    """What a sequence's header says; None: it has matrices, behind which nothing is read."""
    bits = _Bits(unit[1:80])
    profile = bits.read(24) >> 16
    bits.golomb()
    has_planes = False
    if profile in _CHROMA_PROFILES:
        if bits.golomb() == 3:
            has_planes = bool(bits.read(1))
        bits.golomb(), bits.golomb(), bits.read(1)
        if bits.read(1):
            return None
    return _Sequence(bits.golomb() + 4, has_planes)


def _units(packet: bytes) -> list[bytes]:
    """Units of a packet in the byte stream format, without start codes."""
    return [unit for unit in packet.split(b'\0\0\1')[1:] if unit]


def _is_key(packet: bytes, codec: str) -> bool:
    """Whether decoding may begin with a packet."""
    if codec == 'h264':
        return any(unit[0] & 31 in (_IDR, _SPS) for unit in _units(packet))
    return any(unit[0] >> 1 & 63 in _HEVC_KEY for unit in _units(packet))


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise RuntimeError(
            f"video needs PyAV, which is not installed: pip install 'av>=12,<19' ({error})"
        ) from None
    av.logging.set_level(av.logging.PANIC)  # what is wrong is raised
    return av
