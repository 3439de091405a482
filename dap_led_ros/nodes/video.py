"""Cameras that send H.264 or H.265: what the messages are, and their packets as pictures.

Every packet is decoded as it comes, on the executor's thread, since the next needs it; what waits
for the worker is the picture.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header

from dap_led_ros import video_stream
from dap_led_ros.image_codec import ImageError
from dap_led_ros.nodes.health import End

MESSAGES = {
    'ffmpeg': ('ffmpeg_image_transport_msgs', 'FFMPEGPacket', 'ffmpeg-image-transport-msgs'),
    'foxglove': ('foxglove_msgs', 'CompressedVideo', 'foxglove-msgs'),
}
"""Package, message and Debian name of the input_transports that ROS itself has no message for."""
MOST_DELAYED = 16  # packets that a decoder may keep, for pictures that come out of order


@dataclass(frozen=True)
class Picture:
    """A decoded packet, in place of its message."""

    header: Header
    frame: np.ndarray
    """(H, W, 3) RGB uint8."""


def message_class(transport: str) -> type:
    """The class of messages of an input_transport of MESSAGES.

    :raises RuntimeError: its package or PyAV is missing; says what to install.
    """
    package, name, debian = MESSAGES[transport]
    video_stream.check_installed()
    try:
        return getattr(importlib.import_module(f'{package}.msg'), name)
    except ImportError as error:
        raise RuntimeError(
            f'input_transport is {transport} and {package} is missing: sudo apt install '
            f'ros-$ROS_DISTRO-{debian} ({error})'
        ) from None


def is_video(message: Any) -> bool:
    """Whether a message is a packet of a stream, not a whole picture."""
    return hasattr(message, 'pts') or bool(video_stream.codec_of(getattr(message, 'format', '')))


class VideoInput:
    """The packets of one camera, in their order."""

    def __init__(self) -> None:
        """Begin with no stream.

        :raises RuntimeError: PyAV is missing.
        """
        self.decoder = video_stream.VideoDecoder()
        self._pending: dict[int, Header] = {}

    def take(self, message: Any) -> tuple[list[Picture], list[End]]:
        """Pictures that come with the next packet, and how packets ended that brought none."""
        header, format, number = _fields(message)
        index = self.decoder.fed
        try:
            frames = self.decoder.feed(bytes(message.data), format, number)
        except Exception as error:  # whatever a decoder may raise, the node goes on
            outcome = 'refused' if isinstance(error, ImageError) else 'dropped'
            return [], [*self.end(), End(outcome, type(error).__name__, str(error))]
        if self.decoder.waiting:
            text = f'waiting for a keyframe ({self.decoder.lost} packets lost so far)'
            return [], [*self.end(), End('dropped', 'waiting for a keyframe', text)]
        self._pending[index] = header
        pictures = [
            Picture(self._pending.pop(source), frame)
            for frame, source in zip(frames, self.decoder.sources)
            if source in self._pending
        ]
        late = [source for source in self._pending if source <= index - MOST_DELAYED]
        return pictures, [self._give_up(source) for source in late]

    def end(self) -> list[End]:
        """How the packets ended that are still in the decoder, which ends."""
        return [self._give_up(source) for source in list(self._pending)]

    def _give_up(self, source: int) -> End:
        del self._pending[source]
        return End('dropped', 'undecoded', 'the decoder made no picture of it')


class VideoOutput:
    """The stream of H.264 that goes out for one camera."""

    def __init__(self) -> None:
        """Begin with the first frame.

        :raises RuntimeError: PyAV is missing.
        """
        video_stream.check_installed()
        self._encoder: video_stream.VideoEncoder | None = None
        self._listeners = 0

    def encode(self, frame: np.ndarray, header: Header, listeners: int) -> CompressedImage:
        """The packet of an (H, W, 3) RGB uint8 frame; a keyframe for new listeners."""
        if self._encoder is None or self._encoder.size != frame.shape[:2]:
            self._encoder = video_stream.VideoEncoder(*frame.shape[:2])
        has_come, self._listeners = listeners > self._listeners, listeners
        message = CompressedImage(header=header, format='h264')
        message.data.frombytes(self._encoder.encode(frame, has_come))
        return message


def _fields(message: Any) -> tuple[Header, str, int | None]:
    """Header, format and number of a packet of any of the three messages."""
    if hasattr(message, 'pts'):  # FFMPEGPacket
        return message.header, message.encoding, message.pts
    if hasattr(message, 'timestamp'):  # CompressedVideo
        return Header(stamp=message.timestamp, frame_id=message.frame_id), message.format, None
    return message.header, message.format, None
