"""Cameras of other types than sensor_msgs: of Foxglove (protobuf or ROS), and H.264 topics.

Each becomes an Image or a CompressedImage, so that the rest of the package knows only those.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from dap_led_ros import image_codec
from dap_led_ros.replay.topics import COMPRESSED_IMAGE, IMAGE, STORE, Topic, short

_FOXGLOVE = {
    'CompressedImage': COMPRESSED_IMAGE,
    'RawImage': IMAGE,
    'CompressedVideo': COMPRESSED_IMAGE,
}
KINDS = {
    **{f'foxglove.{name}': kind for name, kind in _FOXGLOVE.items()},
    **{f'foxglove_msgs/msg/{name}': kind for name, kind in _FOXGLOVE.items()},
    'ffmpeg_image_transport_msgs/msg/FFMPEGPacket': COMPRESSED_IMAGE,
}
"""Types of cameras, and those of their enhanced copies."""
VIDEO_KINDS = tuple(kind for kind in KINDS if kind.endswith(('CompressedVideo', 'FFMPEGPacket')))
_CODECS = {'h264': 'h264', 'h265': 'hevc', 'hevc': 'hevc', 'vp9': 'vp9', 'av1': 'av1'}


def is_camera(topic: Topic) -> bool:
    """Whether a topic is of one of these types, and can be read."""
    return topic.kind in KINDS and topic.encoding in ('cdr', 'protobuf')


def codec_of(format: str) -> str:
    """FFmpeg's name of the codec in a message's format; empty: no video."""
    words = format.lower().replace(';', ' ').replace('.', '').split()
    return next((_CODECS[word] for word in words if word in _CODECS), '')


def reader_of(topic: Topic) -> Callable[[bytes], Any]:
    """What makes an Image or a CompressedImage of a message's bytes.

    :raises image_codec.UnsupportedEncodingError: the type's definition cannot be understood, or
        protobuf is not installed.
    """
    read = _from_protobuf(topic) if topic.encoding == 'protobuf' else _from_cdr(topic)

    def as_ros(data: bytes) -> Any:
        try:
            return _as_ros(topic.kind, read(data))
        except image_codec.ImageError:
            raise
        except Exception as error:  # of the parsers, in many classes
            raise image_codec.MalformedImageError(f'malformed message: {short(error)}') from None

    return as_ros


def _from_protobuf(topic: Topic) -> Callable[[bytes], Any]:
    try:
        from mcap.records import Schema
        from mcap_protobuf.decoder import DecoderFactory
    except ImportError as error:
        raise image_codec.UnsupportedEncodingError(
            f"protobuf needs mcap-protobuf-support: pip install 'dap_led_ros[video]' ({error})"
        ) from None
    encoding, data = topic.schema
    schema = Schema(id=1, data=data, encoding=encoding, name=topic.kind)
    try:
        read = DecoderFactory().decoder_for('protobuf', schema)
    except Exception as error:  # of protobuf and the factory
        read, why = None, f': {short(error)}'
    else:
        why = ''
    if read is None:
        raise image_codec.UnsupportedEncodingError(f'its protobuf schema is not understood{why}')
    return read


def _from_cdr(topic: Topic) -> Callable[[bytes], Any]:
    store = get_typestore(Stores.EMPTY)
    try:
        store.register(get_types_from_msg(topic.definition, topic.kind))
    except Exception as error:  # of the parser, in many classes
        raise image_codec.UnsupportedEncodingError(
            f'its message definition is not understood: {short(error)}'
        ) from None
    return lambda data: store.deserialize_cdr(data, topic.kind)


def _as_ros(kind: str, message: Any) -> Any:
    """The Image or CompressedImage that stands for a message."""
    if hasattr(message, 'header'):
        stamp, frame_id = message.header.stamp, message.header.frame_id
    else:
        stamp, frame_id = message.timestamp, message.frame_id
    seconds = getattr(stamp, 'sec', getattr(stamp, 'seconds', 0))
    nanoseconds = getattr(stamp, 'nanosec', getattr(stamp, 'nanos', 0))
    time = STORE.types['builtin_interfaces/msg/Time'](seconds, nanoseconds)
    header = STORE.types['std_msgs/msg/Header'](time, frame_id)
    data = np.frombuffer(message.data, np.uint8)
    if KINDS[kind] == IMAGE:
        return STORE.types[IMAGE](
            header, message.height, message.width, message.encoding, 0, message.step, data
        )
    format = getattr(message, 'format', None) or message.encoding
    return STORE.types[COMPRESSED_IMAGE](header, format, data)


class VideoDecoder:
    """Packets of one topic, in their order, to frames: each message holds one frame."""

    def __init__(self, codec: str) -> None:
        """Prepare to decode.

        :param codec: FFmpeg's name of it.
        :raises image_codec.UnsupportedEncodingError: PyAV is not installed, or lacks the codec.
        """
        try:
            import av
        except ImportError as error:
            raise image_codec.UnsupportedEncodingError(
                f"{codec} needs PyAV: pip install 'dap_led_ros[video]' ({error})"
            ) from None
        self._av = av
        try:
            self._context = av.CodecContext.create(codec, 'r')
        except Exception as error:  # of FFmpeg
            raise image_codec.UnsupportedEncodingError(
                f'this PyAV cannot decode {codec}: {short(error)}'
            ) from None
        self._context.thread_count = 1  # threads would keep frames back
        self._context.flags |= av.codec.context.Flags.low_delay
        self._count = 0

    def decode(self, data: bytes) -> np.ndarray:
        """(H, W, 3) uint8 RGB of the next packet.

        :raises image_codec.MalformedImageError: no frame comes of it, as before a key frame.
        """
        self._count += 1
        packet = self._av.Packet(data)
        packet.pts = packet.dts = self._count
        try:
            frames = [of for of in self._context.decode(packet) if of.pts == self._count]
        except self._av.error.FFmpegError as error:
            raise image_codec.MalformedImageError(
                f'no frame: {short(error)}; video needs a key frame to begin with'
            ) from None
        if not frames:
            raise image_codec.MalformedImageError(
                'no frame: the packet waits for a key frame, or for later packets (B frames)'
            )
        return _to_rgb(frames[0])


def _to_rgb(frame: Any) -> np.ndarray:
    """RGB by the frame's own colour tags."""
    if frame.format.name == 'gray':
        return cv2.cvtColor(frame.to_ndarray(), cv2.COLOR_GRAY2RGB)
    return frame.to_ndarray(format='rgb24')
