"""Image and CompressedImage of sensor_msgs <-> numpy, without ROS: any object with their fields.

Conversions are those of cv_bridge (bilinear Bayer, YUV of BT.601 with limited range), one copy
each way at the most. cv_bridge itself copies twice and breaks where NumPy is not the one that it
was compiled for, so it is asked only about encodings that are not known here.
"""

from __future__ import annotations

import contextlib
import functools
import operator
import re
import struct
import sys
from typing import Any, NamedTuple

import cv2
import numpy as np

from dap_led_ros.bit_depth import BitDepth, narrow


class ImageError(ValueError):
    """A message that cannot be decoded, or a frame that cannot be encoded as asked."""


class MalformedImageError(ImageError):
    """The fields contradict one another: nobody can use this message."""


class NotAPictureError(ImageError):
    """An encoding of something else than colour or grey, such as depth."""


class UnsupportedEncodingError(ImageError):
    """Colour or grey, but not in an encoding that is known here."""


class _Layout(NamedTuple):
    """Pixels in memory, and OpenCV's conversions (None: the pixels are RGB, or there is none)."""

    dtype: type
    channels: int
    to_rgb: int | None = None
    from_rgb: int | None = None


_COLOURS = {
    'rgb': (3,),
    'bgr': (3, cv2.COLOR_BGR2RGB, cv2.COLOR_RGB2BGR),
    'rgba': (4, cv2.COLOR_RGBA2RGB, cv2.COLOR_RGB2RGBA),
    'bgra': (4, cv2.COLOR_BGRA2RGB, cv2.COLOR_RGB2BGRA),
    'mono': (1, cv2.COLOR_GRAY2RGB, cv2.COLOR_RGB2GRAY),
    # ROS names a pattern by its first two rows, OpenCV by the second and third pixel of row two.
    'bayer_rggb': (1, cv2.COLOR_BayerBG2RGB),
    'bayer_bggr': (1, cv2.COLOR_BayerRG2RGB),
    'bayer_gbrg': (1, cv2.COLOR_BayerGR2RGB),
    'bayer_grbg': (1, cv2.COLOR_BayerGB2RGB),
}
_LAYOUTS = {
    f'{colour}{bits}': _Layout(dtype, *layout)
    for bits, dtype in ((8, np.uint8), (16, np.uint16))
    for colour, layout in _COLOURS.items()
}
_LAYOUTS |= {
    'uyvy': _Layout(np.uint8, 2, cv2.COLOR_YUV2RGB_UYVY),
    'yuv422': _Layout(np.uint8, 2, cv2.COLOR_YUV2RGB_UYVY),
    'yuyv': _Layout(np.uint8, 2, cv2.COLOR_YUV2RGB_YUY2),
    'yuv422_yuy2': _Layout(np.uint8, 2, cv2.COLOR_YUV2RGB_YUY2),
    # A plane of brightness, and below it half as many rows of colour: one for 2x2 pixels.
    'nv12': _Layout(np.uint8, 1, cv2.COLOR_YUV2RGB_NV12),
    'nv21': _Layout(np.uint8, 1, cv2.COLOR_YUV2RGB_NV21),
    # As OpenCV's users mean them.
    '8UC1': _LAYOUTS['mono8'],
    '8UC3': _LAYOUTS['bgr8'],
    '8UC4': _LAYOUTS['bgra8'],
}
_WITH_ALPHA = ('rgba8', 'bgra8', 'rgba16', 'bgra16', '8UC4')
_YUV420 = ('nv12', 'nv21')
_YUV = ('uyvy', 'yuv422', 'yuyv', 'yuv422_yuy2', *_YUV420)

ENCODINGS = tuple(_LAYOUTS)
"""Encodings that decode() knows."""
WRITABLE = tuple(encoding for encoding in ENCODINGS if not encoding.startswith('bayer_'))
"""Encodings that encode() can write."""
FORMATS = ('jpeg', 'png')
"""Compressions that encode_compressed() can write."""

_NOT_PICTURES = ('8UC', '8SC', '16UC', '16SC', '32SC', '32FC', '64FC')

# Y, U and V from R, G, B and 1, all 0 to 255: BT.601 with limited range.
_YUV_FROM_RGB = np.array(
    [
        (65.481, 128.553, 24.966, 16 * 255),
        (-37.797, -74.203, 112.0, 128 * 255),
        (112.0, -93.786, -18.214, 128 * 255),
    ]
)
_YUV_FROM_RGB /= 255

_PNG = b'\x89PNG\r\n\x1a\n'
_JPEG = b'\xff\xd8\xff'
_JPEG_SEGMENT = re.compile(rb'\xff([^\x00\xff])')
_JPEG_ALONE = (0x01, *range(0xD0, 0xD8))  # markers within a scan, without a segment
# DEFLATE packs 1032 bytes into one, JPEG less. A header that promises more lies, and OpenCV would
# allocate what it promises.
_MOST_PIXELS_PER_BYTE = 1032
MOST_PIXELS = 2**25
"""Pixels of a frame; 8K has fewer. Larger ones are refused before memory is taken for them."""


def decode(message: Any, depth: BitDepth | None = None) -> np.ndarray:
    """(H, W, 3) RGB of an Image message: uint8, or uint16 where the encoding has 16 bits.

    Row padding (step) and is_bigendian are honoured. The array may be a view of the message.

    :param depth: of the camera, to scale 16-bit frames of fewer bits to the full range.
    :raises ImageError: one of its three kinds; the text says what is wrong.
    """
    encoding = message.encoding
    if not isinstance(encoding, str):
        raise MalformedImageError(f'malformed message: encoding {encoding!r} is no text')
    if encoding not in _LAYOUTS:
        if encoding.startswith(_NOT_PICTURES):
            raise NotAPictureError(f'encoding {_short(encoding)} is not colour or grey')
        return _decode_with_cv_bridge(message)
    pixels, to_rgb = _full(_pixels(message), message, depth), _LAYOUTS[encoding].to_rgb
    return pixels if to_rgb is None else cv2.cvtColor(pixels, to_rgb)


def output_encoding(encoding: str) -> str:
    """The encoding in which to publish what came in this one: the same, if encode() can write it.

    Bayer becomes colour of as many bits; what cv_bridge decoded is rgb8.
    """
    if encoding in WRITABLE:
        return encoding
    return 'rgb16' if encoding in ENCODINGS and encoding.endswith('16') else 'rgb8'


def encode(
    frame: np.ndarray, encoding: str, message: Any, source: Any = None, bits: int = 16
) -> None:
    """Fill a fresh Image message with a frame; its header is left alone.

    :param frame: (H, W, 3) RGB, uint8 or uint16; brought to the bits of the encoding, rounded.
    :param encoding: one of WRITABLE.
    :param source: the Image message that the frame came from: its transparency, if it has any, is
        kept. Without it pictures are opaque.
    :param bits: significant ones of a 16-bit encoding, 8 to 16, as BitDepth.bits has them.
    :raises UnsupportedEncodingError: the encoding cannot be written, or not in this size.
    """
    height, width = frame.shape[:2]
    if encoding not in WRITABLE or not _has_whole_colours(encoding, height, width):
        raise UnsupportedEncodingError(
            f'encoding {_short(encoding)} cannot be written in {width}x{height}: use one of '
            f'{", ".join(WRITABLE)}; YUV needs even sides'
        )
    layout = _LAYOUTS[encoding]
    frame = _to_depth(frame, layout.dtype, bits)
    if encoding in _YUV:
        frame = _to_yuv(frame, encoding)
    elif layout.from_rgb is not None:
        frame = cv2.cvtColor(frame, layout.from_rgb)
    if encoding in _WITH_ALPHA and getattr(source, 'encoding', None) in _WITH_ALPHA:
        alpha = cv2.extractChannel(_pixels(source), 3)
        cv2.insertChannel(_to_depth(alpha, layout.dtype), frame, 3)
    message.height, message.width = height, width
    message.encoding = encoding
    message.is_bigendian = int(sys.byteorder == 'big')
    message.step = width * layout.channels * frame.itemsize
    # The fast way into a message: assigning an array or bytes is up to 2500 times slower.
    message.data.frombytes(np.ascontiguousarray(frame).view(np.uint8).data)


def decode_compressed(message: Any, depth: BitDepth | None = None) -> tuple[np.ndarray, str]:
    """(H, W, 3) RGB of a CompressedImage message, and the encoding of the raw image it stands for.

    JPEG (uint8) and PNG (uint8 or uint16) are told apart by their data. The encoding is the one
    that the message's format begins with, as image_transport writes it ('rgb8; jpeg compressed
    bgr8'), if encode() can write that; else it follows from the picture: bgr8, mono16 ...

    :param depth: as of decode().
    :raises ImageError: one of its three kinds; the text says what is wrong.
    """
    try:
        data = np.frombuffer(message.data, np.uint8).tobytes()
        encoding, compression = (part.strip() for part in (message.format + ';').split(';')[:2])
    except (TypeError, ValueError, BufferError) as error:
        raise MalformedImageError(f'malformed compressed message: {error}') from None
    if not data:
        raise MalformedImageError(
            'malformed compressed message: the message has no data: does the camera deliver?'
        )
    no_picture = encoding.startswith(_NOT_PICTURES) and encoding not in _LAYOUTS
    if no_picture or compression.startswith('compressedDepth'):
        raise NotAPictureError(f'format {_short(message.format)} is not colour or grey')
    image = _full(_decompress(data, message.format), message, depth)
    known, bits = _LAYOUTS.get(encoding), 8 * image.itemsize
    if image.ndim == 2:
        # A PNG may hold a Bayer mosaic as it is; for JPEG image_transport makes it grey.
        mosaic = encoding.startswith('bayer_') and compression == 'png compressed'
        if mosaic and known and known.dtype == image.dtype:
            return cv2.cvtColor(image, known.to_rgb), output_encoding(encoding)
        frame = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
        return frame, encoding if encoding in WRITABLE else f'mono{bits}'
    if 'compressed rgb' in compression:  # old publishers: red and blue are exchanged
        frame = np.ascontiguousarray(image[..., :3])
    else:
        code = cv2.COLOR_BGRA2RGB if image.shape[2] == 4 else cv2.COLOR_BGR2RGB
        frame = cv2.cvtColor(image, code)
    return frame, encoding if encoding in WRITABLE else f'bgr{bits}'


def encode_compressed(
    frame: np.ndarray,
    format: str,
    message: Any,
    quality: int = 95,
    encoding: str = 'bgr8',
    bits: int = 16,
) -> None:
    """Fill a fresh CompressedImage message with a frame; its header is left alone.

    :param frame: (H, W, 3) RGB, uint8 or uint16.
    :param format: one of FORMATS: jpeg (8 bits) or png (lossless, as many bits as the encoding).
    :param quality: of JPEG, 1 to 100.
    :param encoding: one of WRITABLE, of the raw image that this stands for. Grey stays grey;
        transparency is left out, as image_transport does.
    :param bits: as of encode().
    :raises UnsupportedEncodingError: the encoding or the format cannot be written.
    """
    if format not in FORMATS or encoding not in WRITABLE:
        raise UnsupportedEncodingError(
            f'{_short(encoding)} cannot be compressed as {_short(format)}: use one of '
            f'{", ".join(FORMATS)}, and one of {", ".join(WRITABLE)}'
        )
    layout = _LAYOUTS[encoding]
    if encoding in _YUV:  # image_transport's subscribers would take the picture itself for YUV
        encoding = 'bgr8'
    dtype = np.uint8 if format == 'jpeg' else layout.dtype
    grey = layout.from_rgb == cv2.COLOR_RGB2GRAY
    image = cv2.cvtColor(
        _to_depth(frame, dtype, bits), cv2.COLOR_RGB2GRAY if grey else cv2.COLOR_RGB2BGR
    )
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if format == 'jpeg' else []
    _, data = cv2.imencode(f'.{format}', image, options)
    target = f'{"mono" if grey else "bgr"}{8 * image.itemsize}'
    if grey and format == 'png':
        target = ''  # so does image_transport
    message.format = f'{encoding}; {format} compressed {target}'
    message.data.frombytes(data.data)


def _pixels(message: Any) -> np.ndarray:
    """(rows, W, channels) view of the data in this machine's byte order; a copy if it must be."""
    height, width, step, data = _fields(message)
    layout = _LAYOUTS[message.encoding]
    size = np.dtype(layout.dtype).itemsize
    rows = _rows(message.encoding, height)
    dtype = np.dtype(layout.dtype).newbyteorder('>' if message.is_bigendian else '<')
    strides = (step, layout.channels * size, size)
    pixels = np.ndarray((rows, width, layout.channels), dtype, data, strides=strides)
    if dtype.isnative and pixels.flags.aligned:
        return pixels
    return pixels.astype(layout.dtype)


def _fields(message: Any) -> tuple[int, int, int, np.ndarray]:
    """Height, width, step and bytes of an Image message that fit together.

    :raises MalformedImageError: they do not.
    """
    numbers = (message.height, message.width, message.step)
    try:
        height, width, step = (operator.index(number) for number in numbers)
        data = np.frombuffer(message.data, np.uint8)
    except (TypeError, ValueError, BufferError) as error:
        raise MalformedImageError(f'malformed message: {error}') from None
    encoding = message.encoding
    layout = _LAYOUTS.get(encoding, _Layout(np.uint8, 1))
    row = width * layout.channels * np.dtype(layout.dtype).itemsize
    if not data.size:
        raise MalformedImageError(
            f'malformed message: {width}x{height} {_short(encoding)} has no data: does the camera '
            'deliver?'
        )
    if min(height, width) < 1 or step < row or data.size < _rows(encoding, height) * step:
        raise MalformedImageError(
            f'malformed message: {width}x{height} {_short(encoding)} with step {step} cannot have '
            f'{data.size} bytes of data'
        )
    check_size(height, width)
    if not _has_whole_colours(encoding, height, width):
        raise MalformedImageError(
            f'malformed message: {width}x{height} {encoding} cannot be: YUV needs even sides'
        )
    return height, width, step, data


def _rows(encoding: str, height: int) -> int:
    """Rows in memory, those of a second plane included."""
    return height + height // 2 if encoding in _YUV420 else height


def _has_whole_colours(encoding: str, height: int, width: int) -> bool:
    """False where pixels that share their colour would be cut apart."""
    if encoding in _YUV420 and height % 2:
        return False
    return encoding not in _YUV or width % 2 == 0


def _full(pixels: np.ndarray, message: Any, depth: BitDepth | None) -> np.ndarray:
    """Pixels in the full range of their type, where their depth is known."""
    if depth is None or pixels.dtype != np.uint16:
        return pixels
    stamp = message.header.stamp
    return depth.widen(pixels, stamp.sec * 10**9 + stamp.nanosec)


def _to_depth(frame: np.ndarray, dtype: type, bits: int = 16) -> np.ndarray:
    """The same brightness in uint8, or in uint16 of so many bits, rounded."""
    if dtype == np.uint16:
        wide = frame if frame.dtype == dtype else np.multiply(frame, 257, dtype=np.uint16)
        return narrow(wide, bits)
    if frame.dtype == dtype:
        return frame
    return cv2.convertScaleAbs(frame, alpha=1 / 257)


def _to_yuv(frame: np.ndarray, encoding: str) -> np.ndarray:
    """(H, W, 2) or, of two planes, (3/2 H, W) uint8 of (H, W, 3) RGB uint8 with even sides."""
    height, width = frame.shape[:2]
    rows = height // 2 if encoding in _YUV420 else height
    yuv = cv2.transform(frame, _YUV_FROM_RGB)
    brightness = cv2.extractChannel(yuv, 0)
    # Halving by linear interpolation is the mean of the pixels that share a colour.
    halved = cv2.resize(yuv, (width // 2, rows), interpolation=cv2.INTER_LINEAR)
    order = (2, 1) if encoding == 'nv21' else (1, 2)
    colour = cv2.merge([cv2.extractChannel(halved, i) for i in order]).reshape(rows, width)
    if encoding in _YUV420:
        return np.vstack((brightness, colour))
    uyvy = encoding in ('uyvy', 'yuv422')
    return cv2.merge((colour, brightness) if uyvy else (brightness, colour))


def _decompress(data: bytes, format: str) -> np.ndarray:
    """(H, W) or (H, W, channels) of a JPEG or PNG, as OpenCV has them.

    What lies behind its end is not read: cameras that reuse a buffer send zeros there, or what is
    left of an older frame.
    """
    if not data.startswith((_JPEG, _PNG)):
        raise UnsupportedEncodingError(
            f'compressed image of format {_short(format)} cannot be enhanced: use JPEG or PNG'
        )
    image = None
    height, width = promised_size(data)
    check_size(height, width)
    # Cut short, it would be grey from somewhere on.
    end = _end_of_jpeg(data) if data.startswith(_JPEG) else data.rfind(b'IEND') + 8
    if 0 < height * width <= end * _MOST_PIXELS_PER_BYTE and end > 8:
        with contextlib.suppress(cv2.error):
            whole = np.frombuffer(data, np.uint8, min(end, len(data)))
            image = cv2.imdecode(whole, cv2.IMREAD_UNCHANGED)
    if image is None:
        raise MalformedImageError(
            f'malformed compressed message: {width}x{height} of format {_short(format)} cannot be '
            f'made of its {len(data)} bytes of data'
        )
    return image


def check_size(height: int, width: int) -> None:
    """Refuse a size that would take gigabytes.

    :raises MalformedImageError: more than MOST_PIXELS.
    """
    if height * width > MOST_PIXELS:
        raise MalformedImageError(
            f'malformed message: {width}x{height} is more than the {MOST_PIXELS} pixels that are '
            'decoded at most'
        )


def _end_of_jpeg(data: bytes) -> int:
    """Bytes of a JPEG up to its end-of-image marker; 0 where it is cut short.

    A marker within a header's segment, such as a thumbnail's, or of another frame is none.
    """
    position = 2
    while found := _JPEG_SEGMENT.search(data, position):
        kind, position = found[1][0], found.end()
        if kind == 0xD9:
            return position
        if kind == 0xD8 or position + 2 > len(data):  # another frame begins
            return 0
        if kind not in _JPEG_ALONE:
            position += int.from_bytes(data[position : position + 2], 'big')
    return 0


def promised_size(data: bytes) -> tuple[int, int]:
    """Height and width in the header of a JPEG or PNG; 0 by 0 if it ends before."""
    if data.startswith(_PNG):
        width, height = struct.unpack('>II', data[16:24]) if len(data) >= 24 else (0, 0)
        return height, width
    position = 2
    while position + 9 <= len(data) and data[position] == 0xFF:
        kind, length = struct.unpack_from('>xBH', data, position)
        if kind in range(0xC0, 0xD0) and kind not in (0xC4, 0xC8, 0xCC):  # start of frame
            return struct.unpack_from('>HH', data, position + 5)
        position += 1 if kind == 0xFF else 2 + length
    return 0, 0


def _decode_with_cv_bridge(message: Any) -> np.ndarray:
    """(H, W, 3) uint8 RGB, of what cv_bridge knows; whatever it raises does not leave here."""
    height, width, _, _ = _fields(message)
    with contextlib.suppress(Exception):
        frame = _cv_bridge().imgmsg_to_cv2(message, 'rgb8')
        if frame.shape == (height, width, 3) and frame.dtype == np.uint8:
            return frame
    raise UnsupportedEncodingError(
        f'encoding {_short(message.encoding)} cannot be enhanced: use one of '
        f'{", ".join(ENCODINGS)}'
    )


@functools.cache
def _cv_bridge() -> Any:
    """cv_bridge, tried once; None where it is missing or compiled for another NumPy."""
    with contextlib.suppress(Exception):  # ImportError, AttributeError, SystemError have been seen
        from cv_bridge import CvBridge

        return CvBridge()
    return None


def _short(text: str) -> str:
    """For messages: garbage may be long."""
    return repr(text if len(text) <= 60 else f'{text[:57]}...')
