"""Image messages of all kinds <-> frames, as the parameters want them."""

from __future__ import annotations

import numpy as np
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from dap_led_ros import image_codec
from dap_led_ros.bit_depth import BitDepth
from dap_led_ros.nodes.parameters import Parameters
from dap_led_ros.nodes.video import Picture, is_video

Message = Image | CompressedImage | Picture
HEADER = 65536  # bytes in which a JPEG or PNG says its size


def decode(message: Message, depth: BitDepth) -> tuple[np.ndarray, str]:
    """(H, W, 3) RGB, uint8 or uint16, and the encoding that the result shall have.

    :param depth: of the camera; learns from the frame.
    :raises image_codec.ImageError: it is no picture that can be read.
    """
    if isinstance(message, Picture):
        return message.frame, 'bgr8'
    if isinstance(message, CompressedImage):
        return image_codec.decode_compressed(message, depth)
    return image_codec.decode(message, depth), image_codec.output_encoding(message.encoding)


def encode(
    frame: np.ndarray, encoding: str, source: Message, wanted: Parameters, bits: int
) -> Message:
    """The message that goes out for `source`, in the transport of the parameters.

    :param bits: significant ones of a 16-bit encoding.
    """
    if wanted.output_transport == 'raw':
        return image(frame, encoding, source.header, source, bits)
    result = CompressedImage(header=source.header)
    image_codec.encode_compressed(
        frame, wanted.output_transport, result, encoding=encoding, bits=bits
    )
    return result


def image(
    frame: np.ndarray,
    encoding: str,
    header: Header,
    source: Message | None = None,
    bits: int = 16,
) -> Image:
    """A raw image; its transparency, if the encoding has any, is that of the source."""
    result = Image(header=header)
    raw = source if isinstance(source, Image) else None
    image_codec.encode(frame, encoding, result, raw, bits)
    return result


def can_go_as_it_came(message: Message, wanted: Parameters) -> bool:
    """Whether the message itself may go out: same transport, same encoding."""
    if isinstance(message, Picture) or wanted.output_transport == 'h264':
        return False
    if isinstance(message, CompressedImage):
        return (
            wanted.output_transport != 'raw'
            and not wanted.output_encoding
            and not is_video(message)
        )
    if wanted.output_transport != 'raw':
        return False
    if message.encoding not in image_codec.ENCODINGS:  # nobody knows a better one
        return not wanted.output_encoding
    encoding = wanted.output_encoding or image_codec.output_encoding(message.encoding)
    return message.encoding == encoding


def size_of(message: Message) -> tuple[int, int] | None:
    """Height and width as the message says them, undecoded; None: it does not."""
    if isinstance(message, Picture):
        return message.frame.shape[:2]
    if isinstance(message, Image):
        return message.height, message.width
    height, width = image_codec.promised_size(bytes(message.data[:HEADER]))
    return (height, width) if height and width else None


def stamp_ns(message: Message) -> int:
    """Stamp in nanoseconds."""
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
