"""Messages and names of cameras, before and after enhancement."""

from __future__ import annotations

from array import array
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from dap_led_ros import image_codec
from dap_led_ros.evaluation.recording import COMPRESSED_IMAGE, IMAGE, STORE


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
    transport = '/compressed' if topic.endswith('/compressed') else ''
    return topic.removesuffix('/compressed'), transport


def decode(kind: str, data: bytes) -> tuple[Any, np.ndarray, str]:
    """The message, its frame ((H, W, 3) RGB uint8 or uint16), and the encoding to write it in.

    :raises image_codec.ImageError: this is no frame; the text says why.
    """
    try:
        message = STORE.deserialize_cdr(data, kind)
    except Exception as error:  # garbage bytes fail in many ways
        raise image_codec.MalformedImageError(f'the message cannot be read: {error}') from None
    if kind == COMPRESSED_IMAGE:
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
