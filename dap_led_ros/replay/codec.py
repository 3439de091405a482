"""Messages and names of cameras, before and after enhancement."""

from __future__ import annotations

from array import array
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from dap_led_ros import image_codec
from dap_led_ros.replay import video_topics
from dap_led_ros.replay.topics import COMPRESSED_IMAGE, IMAGE, STORE, Topic, complete


def enhanced_name(topic: str) -> str:
    """Name of the enhanced topic, as the node has it: /front/enhanced/image_raw.

    A transport stays at the end: /front/enhanced/image_raw/compressed.
    """
    base, transport = _without_transport(topic)
    namespace, _, name = base.rpartition('/')
    return f'{namespace}/enhanced/{name}{transport}'


def camera_info_name(topic: str) -> str:
    """Name of the camera_info beside an image topic."""
    return _without_transport(topic)[0].rpartition('/')[0] + '/camera_info'


def _without_transport(topic: str) -> tuple[str, str]:
    """Name of the image topic, and that of its transport; video is written as pictures."""
    for transport in ('/compressed', '/ffmpeg'):
        if topic.endswith(transport):
            return topic.removesuffix(transport), '/compressed'
    return topic, ''


def is_camera(topic: Topic) -> bool:
    """Whether messages of a topic may be pictures or video."""
    return (topic.is_ros and topic.kind in (IMAGE, COMPRESSED_IMAGE)) or video_topics.is_camera(
        topic
    )


def enhanced_topic(topic: Topic) -> Topic:
    """The topic of a camera's enhanced copies: always of sensor_msgs."""
    name = enhanced_name(topic.name)
    if topic.is_ros and topic.kind in (IMAGE, COMPRESSED_IMAGE):
        return replace(topic, name=name)
    return complete(name, video_topics.KINDS[topic.kind], qos=topic.qos)


class Decoder:
    """Frames of one camera's messages, which come in their order."""

    def __init__(self, topic: Topic) -> None:
        """Begin before the first message."""
        self.topic = topic
        self._ours = topic.is_ros and topic.kind in (IMAGE, COMPRESSED_IMAGE)
        self.copies = self._ours
        """A message can stand for its own enhanced copy, as it is."""
        self.is_video = topic.kind in video_topics.VIDEO_KINDS
        """Frames need those before them."""
        self._read: Any = None
        self._video: video_topics.VideoDecoder | None = None

    def decode(self, data: bytes) -> tuple[Any, np.ndarray, str]:
        """The message, its frame ((H, W, 3) RGB uint8 or uint16), and the encoding to write it in.

        :raises image_codec.ImageError: this is no frame; the text says why.
        """
        if self._ours:
            message = _message(self.topic.kind, data)
            if self.topic.kind == IMAGE or not video_topics.codec_of(message.format):
                return _decoded(message)
        else:
            self._read = self._read or video_topics.reader_of(self.topic)
            message = self._read(data)
        codec = video_topics.codec_of(getattr(message, 'format', ''))
        if not codec:
            return _decoded(message)
        self.copies, self.is_video = False, True
        self._video = self._video or video_topics.VideoDecoder(codec)
        frame = self._video.decode(message.data.tobytes())
        return replace(message, format='jpeg'), frame, 'bgr8'


def decode(kind: str, data: bytes) -> tuple[Any, np.ndarray, str]:
    """The same of a single message of sensor_msgs.

    :raises image_codec.ImageError: this is no frame; the text says why.
    """
    return _decoded(_message(kind, data))


def _message(kind: str, data: bytes) -> Any:
    try:
        return STORE.deserialize_cdr(data, kind)
    except Exception as error:  # of struct, of NumPy, of the decoder of texts
        raise image_codec.MalformedImageError(f'the message cannot be read: {error}') from None


def _decoded(message: Any) -> tuple[Any, np.ndarray, str]:
    if hasattr(message, 'format'):
        return message, *image_codec.decode_compressed(message)
    return message, image_codec.decode(message), image_codec.output_encoding(message.encoding)


def encode(frame: np.ndarray, encoding: str, like: Any) -> bytes | memoryview:
    """CDR bytes of a frame: type, header and format are those of the message that it came from."""
    target = SimpleNamespace(data=array('B'))
    if hasattr(like, 'format'):
        compression = 'png' if 'png' in like.format else 'jpeg'
        image_codec.encode_compressed(frame, compression, target, encoding=encoding)
        kind = COMPRESSED_IMAGE
    else:
        image_codec.encode(frame, encoding, target, like)
        kind = IMAGE
    target.data = np.frombuffer(target.data, np.uint8)
    return STORE.serialize_cdr(replace(like, **vars(target)), kind)
