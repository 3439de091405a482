"""Image and CompressedImage messages to numpy and back, against formulae of their own."""

from __future__ import annotations

import random
import struct
import sys
import tracemalloc
from array import array
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from dap_led_ros import image_codec

CHANNELS = {'rgb': [0, 1, 2], 'bgr': [2, 1, 0], 'rgba': [0, 1, 2, 3], 'bgra': [2, 1, 0, 3]}
# Where the colours of a pattern are: (row, column, channel).
BAYER = {
    'rggb': ((0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 2)),
    'bggr': ((0, 0, 2), (0, 1, 1), (1, 0, 1), (1, 1, 0)),
    'gbrg': ((0, 0, 1), (0, 1, 2), (1, 0, 0), (1, 1, 1)),
    'grbg': ((0, 0, 1), (0, 1, 0), (1, 0, 2), (1, 1, 1)),
}
YUV = ('uyvy', 'yuv422', 'yuyv', 'yuv422_yuy2', 'nv12', 'nv21')


def message(
    image: np.ndarray, encoding: str, padding: int = 0, big_endian: bool = False, height: int = 0
) -> SimpleNamespace:
    """An object with the fields of sensor_msgs/Image; rows may be padded."""
    rows = np.ascontiguousarray(image.astype(image.dtype.newbyteorder('>' if big_endian else '<')))
    rows = rows.reshape(len(image), -1).view(np.uint8)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=170)
    return SimpleNamespace(
        height=height or image.shape[0],
        width=image.shape[1],
        encoding=encoding,
        is_bigendian=int(big_endian),
        step=rows.shape[1],
        data=array('B', rows.tobytes()),
    )


def empty() -> SimpleNamespace:
    return SimpleNamespace(data=array('B'))


def encoded(frame: np.ndarray, encoding: str, source: Any = None) -> SimpleNamespace:
    """What encode() makes of a frame; the fields that are the same for all are checked."""
    result = empty()
    image_codec.encode(frame, encoding, result, source)
    assert (result.height, result.width) == frame.shape[:2]
    assert (result.encoding, result.is_bigendian) == (encoding, int(sys.byteorder == 'big'))
    return result


def assert_same(actual: np.ndarray, expected: np.ndarray) -> None:
    assert actual.dtype == expected.dtype
    np.testing.assert_array_equal(actual, expected)


def compressed(data: bytes | np.ndarray, format: str) -> SimpleNamespace:
    return SimpleNamespace(data=array('B', bytes(data)), format=format)


def sixteen_bit(picture: np.ndarray) -> np.ndarray:
    """A picture that uses all 16 bits."""
    noise = np.random.default_rng(0).integers(0, 256, picture.shape)
    return (picture.astype(np.uint16) << 8) + noise.astype(np.uint16)


def yuv_of(picture: np.ndarray) -> np.ndarray:
    """BT.601 with limited range in float: (H, W, 3) of Y, U, V."""
    red, green, blue = np.moveaxis(picture / 255, 2, 0)
    y = 0.299 * red + 0.587 * green + 0.114 * blue
    colours = ((blue - y) / 1.772, (red - y) / 1.402)
    return np.stack([16 + 219 * y, *(128 + 224 * colour for colour in colours)], axis=2)


def yuv_memory(picture: np.ndarray, encoding: str) -> np.ndarray:
    """Bytes of a picture in a YUV encoding, by its definition; a colour is its pixels' mean."""
    yuv = yuv_of(picture)
    height, width = picture.shape[:2]
    if encoding in ('nv12', 'nv21'):
        colour = yuv[..., 1:].reshape(height // 2, 2, width // 2, 2, 2).mean((1, 3))
        colour = colour if encoding == 'nv12' else colour[..., ::-1]
        memory = np.vstack([yuv[..., 0], colour.reshape(height // 2, width)])
    else:
        colour = yuv[..., 1:].reshape(height, width // 2, 2, 2).mean(2).reshape(height, width)
        both = (yuv[..., 0], colour)
        memory = np.stack(both if encoding.startswith(('yuyv', 'yuv422_')) else both[::-1], 2)
    return memory.round().astype(np.uint8)


@pytest.fixture
def picture(night) -> np.ndarray:
    return np.ascontiguousarray(night[1][:97, :131])


@pytest.mark.parametrize('bits', [8, 16])
@pytest.mark.parametrize('colours', CHANNELS)
def test_colour_round_trips_exactly(picture, colours, bits):
    picture = picture if bits == 8 else sixteen_bit(picture)
    alpha = picture[..., ::-1].max(2, keepdims=True) // 2
    pixels = np.dstack([picture, alpha])[..., CHANNELS[colours]]
    encoding = f'{colours}{bits}'
    for padding in (0, 5, 6):
        for big_endian in (False, True):
            sent = message(pixels, encoding, padding, big_endian)
            decoded = image_codec.decode(sent)
            assert_same(decoded, picture)
            again = encoded(decoded, image_codec.output_encoding(encoding), sent)
            assert again.step == 131 * len(CHANNELS[colours]) * bits // 8
            assert again.data.tobytes() == np.ascontiguousarray(pixels).tobytes()


@pytest.mark.parametrize('bits', [8, 16])
def test_grey_round_trips_exactly_and_weighs_colours_by_their_brightness(picture, bits):
    picture = picture if bits == 8 else sixteen_bit(picture)
    grey = picture[..., 1]
    for padding in (0, 3):
        for big_endian in (False, True):
            decoded = image_codec.decode(message(grey, f'mono{bits}', padding, big_endian))
            assert_same(decoded, np.dstack([grey] * 3))
            again = encoded(decoded, f'mono{bits}')
            assert again.step == 131 * bits // 8
            assert again.data.tobytes() == np.ascontiguousarray(grey).tobytes()
    brightness = picture @ [0.299, 0.587, 0.114]
    written = np.frombuffer(encoded(picture, f'mono{bits}').data, grey.dtype)
    assert np.abs(written.reshape(grey.shape) - brightness).max() < 1.1


@pytest.mark.parametrize('bits', [8, 16])
@pytest.mark.parametrize('pattern', BAYER)
def test_bayer_becomes_colour_of_as_many_bits(pattern, bits):
    """Colours that change evenly are interpolated exactly; a wrong pattern or phase is far off."""
    row, column = np.mgrid[:48, :64]
    scene = np.stack([20 + 2 * column, 60 + 3 * row, 230 - 2 * column - row], axis=2)
    scene = scene.astype(np.uint8) if bits == 8 else (scene * 251).astype(np.uint16)
    mosaic = np.empty(scene.shape[:2], scene.dtype)
    for y, x, channel in BAYER[pattern]:
        mosaic[y::2, x::2] = scene[y::2, x::2, channel]
    encoding = f'bayer_{pattern}{bits}'
    for padding, big_endian in ((0, False), (7, True)):
        decoded = image_codec.decode(message(mosaic, encoding, padding, big_endian))
        assert decoded.dtype == scene.dtype
        inner = (slice(2, -2), slice(2, -2))
        assert np.abs(decoded[inner].astype(int) - scene[inner]).max() <= 1
    assert image_codec.output_encoding(encoding) == f'rgb{bits}'
    with pytest.raises(image_codec.UnsupportedEncodingError, match='cannot be written'):
        image_codec.encode(decoded, encoding, empty())


@pytest.mark.parametrize('padding', [0, 6])
@pytest.mark.parametrize('encoding', YUV)
def test_yuv_is_what_its_definition_says(picture, encoding, padding):
    picture = cv2.GaussianBlur(picture, (0, 0), 4)[:96, :130]  # half the colour is enough for it
    memory = yuv_memory(picture, encoding)
    sent = message(memory, encoding, padding, height=96)
    decoded = image_codec.decode(sent)
    assert decoded.dtype == np.uint8
    difference = np.abs(decoded.astype(int) - picture)
    assert difference.mean() < 1.5
    assert np.percentile(difference, 99.9) <= 6
    again = encoded(picture, image_codec.output_encoding(encoding))
    assert again.step == memory.strides[0]
    assert np.abs(np.frombuffer(again.data, np.uint8) - memory.ravel().astype(int)).max() <= 1


def test_opencv_names_are_taken_as_opencv_means_them(picture):
    opaque = np.dstack([picture, np.full(picture.shape[:2], 255, np.uint8)])
    for encoding, pixels in (
        ('8UC1', picture[..., 1]),
        ('8UC3', picture[..., ::-1]),
        ('8UC4', opaque[..., [2, 1, 0, 3]]),
    ):
        decoded = image_codec.decode(message(pixels, encoding))
        expected = np.dstack([pixels] * 3) if encoding == '8UC1' else picture
        np.testing.assert_array_equal(decoded, expected)
        again = encoded(decoded, image_codec.output_encoding(encoding))
        assert again.data.tobytes() == np.ascontiguousarray(pixels).tobytes()


def test_bits_are_converted_by_rounding():
    wide = np.arange(65536, dtype=np.uint16).repeat(3).reshape(256, 256, 3)
    narrow = np.frombuffer(encoded(wide, 'rgb8').data, np.uint8)
    np.testing.assert_array_equal(narrow, np.round(wide.ravel() / 257))
    eight = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    widened = np.frombuffer(encoded(eight, 'bgr16').data, np.uint16)
    np.testing.assert_array_equal(widened, eight.ravel() * 257.0)


def test_transparency_is_that_of_the_source_or_none(picture):
    alpha = sixteen_bit(picture)[..., 0]
    source = message(np.dstack([sixteen_bit(picture), alpha]), 'rgba16', 3, big_endian=True)
    kept = np.frombuffer(encoded(picture, 'bgra8', source).data, np.uint8)[3::4]
    np.testing.assert_array_equal(kept, np.round(alpha.ravel() / 257))
    for other in (None, message(picture, 'rgb8'), compressed(b'', 'jpeg')):
        assert (
            np.frombuffer(encoded(picture, 'rgba16', other).data, np.uint16)[3::4] == 2**16 - 1
        ).all()


@pytest.mark.parametrize('padding', [0, 6])
def test_rgb_is_not_copied(picture, padding):
    for pixels, encoding in ((picture, 'rgb8'), (sixteen_bit(picture), 'rgb16')):
        sent = message(pixels, encoding, padding)
        assert np.shares_memory(image_codec.decode(sent), np.frombuffer(sent.data, np.uint8))


@pytest.mark.parametrize(
    ('encoding', 'field', 'value'),
    [
        ('rgb8', 'data', array('B')),
        ('rgb8', 'data', [1, 2, 3]),
        ('rgb8', 'step', 10),
        ('rgb8', 'step', 0),
        ('rgb8', 'height', 97),
        ('rgb8', 'width', 0),
        ('rgb8', 'width', 2**32 - 1),
        ('rgb8', 'height', 0),
        ('rgb8', 'height', -96),
        ('rgb8', 'height', 96.0),
        ('rgb8', 'encoding', 'rgb16'),
        ('rgb8', 'encoding', b'rgb8'),
        ('uyvy', 'width', 129),
        ('nv12', 'height', 66),  # no room for the colours
        ('nv12', 'height', 63),
    ],
)
def test_fields_that_contradict_are_named(picture, encoding, field, value):
    channels = {'rgb8': 3, 'uyvy': 2, 'nv12': 1}[encoding]
    broken = message(picture[:96, :130, :channels], encoding, height=64 if channels == 1 else 96)
    image_codec.decode(broken)
    setattr(broken, field, value)
    with pytest.raises(image_codec.MalformedImageError, match='malformed message: '):
        image_codec.decode(broken)


def test_more_data_than_needed_is_fine(picture):
    longer = message(picture, 'rgb8')
    longer.data.extend(b'xyz')
    np.testing.assert_array_equal(image_codec.decode(longer), picture)


@pytest.mark.parametrize('encoding', ['16UC1', '32FC1', '8SC3', '64FC4', '8UC2'])
def test_depth_is_no_picture(picture, encoding):
    with pytest.raises(image_codec.NotAPictureError, match=f"'{encoding}' is not colour or grey"):
        image_codec.decode(message(picture, encoding))


BROKEN_CV_BRIDGES = {
    'missing': None,
    'of another NumPy': "raise AttributeError('_ARRAY_API not found')",
    'half loaded': "raise SystemError('initialization of cv_bridge_boost raised')",
    'without the encoding': 'class CvBridge:\n    def imgmsg_to_cv2(self, *_): raise RuntimeError',
}


@pytest.mark.parametrize('state', BROKEN_CV_BRIDGES)
def test_a_broken_cv_bridge_does_not_reach_us(picture, state, tmp_path, monkeypatch):
    """And is imported once: such an import is slow and prints a page."""
    log = tmp_path / 'imports'
    monkeypatch.setitem(sys.modules, 'cv_bridge', None)  # as where it is not installed
    if BROKEN_CV_BRIDGES[state]:
        count = f'open({str(log)!r}, "a").write("x")\n'
        (tmp_path / 'cv_bridge.py').write_text(count + BROKEN_CV_BRIDGES[state])
        monkeypatch.delitem(sys.modules, 'cv_bridge')
        monkeypatch.syspath_prepend(tmp_path)
    image_codec._cv_bridge.cache_clear()
    for encoding in ('nv24', '', 'nonsense', '\udcff\u65e5'):
        with pytest.raises(image_codec.UnsupportedEncodingError, match='use one of rgb8, bgr8'):
            image_codec.decode(message(picture, encoding))
        assert image_codec.output_encoding(encoding) == 'rgb8'
    assert not log.exists() or log.read_text() == 'x'
    image_codec._cv_bridge.cache_clear()


@pytest.mark.parametrize(
    'encoding', ['rgba8', 'mono8', 'yuv422', 'yuv422_yuy2', *(f'bayer_{name}8' for name in BAYER)]
)
def test_cv_bridge_decodes_the_same(picture, encoding):
    """Also that it is found and used where it is installed and works."""
    channels = {'rgba8': 4, 'yuv422': 2, 'yuv422_yuy2': 2}.get(encoding, 1)
    sent = message(np.dstack([picture, picture])[:96, :130, :channels], encoding)
    try:
        from cv_bridge import CvBridge

        theirs = CvBridge().imgmsg_to_cv2(sent, 'rgb8')
    except Exception as error:  # another NumPy's raises whatever it likes
        pytest.skip(f'no cv_bridge that works here: {error!r}')
    image_codec._cv_bridge.cache_clear()
    np.testing.assert_array_equal(image_codec._decode_with_cv_bridge(sent), theirs)
    assert np.abs(image_codec.decode(sent) - theirs.astype(int)).max() <= 1


@pytest.mark.parametrize(
    ('encoding', 'jpeg', 'png'),
    [
        ('rgb8', 'rgb8; jpeg compressed bgr8', 'rgb8; png compressed bgr8'),
        ('bgra8', 'bgra8; jpeg compressed bgr8', 'bgra8; png compressed bgr8'),
        ('mono8', 'mono8; jpeg compressed mono8', 'mono8; png compressed '),
        ('bgr16', 'bgr16; jpeg compressed bgr8', 'bgr16; png compressed bgr16'),
        ('mono16', 'mono16; jpeg compressed mono8', 'mono16; png compressed '),
        ('yuyv', 'bgr8; jpeg compressed bgr8', 'bgr8; png compressed bgr8'),
    ],
)
def test_compressed_round_trips(picture, encoding, jpeg, png):
    """With the format strings of image_transport; OpenCV alone reads what is written."""
    picture = picture if '16' not in encoding else sixteen_bit(picture)
    if 'mono' in encoding:
        picture = np.dstack([picture[..., 1]] * 3)
    kept = 'bgr8' if encoding == 'yuyv' else encoding
    written = empty()
    image_codec.encode_compressed(picture, 'png', written, encoding=encoding)
    assert written.format == png
    there = cv2.imdecode(np.frombuffer(written.data, np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(
        there, picture[..., 1] if there.ndim == 2 else picture[..., ::-1]
    )
    assert (there.ndim == 2) == ('mono' in encoding)
    decoded, stands_for = image_codec.decode_compressed(written)
    assert_same(decoded, picture)
    assert stands_for == kept
    sizes = []
    for quality in (60, 95):
        written = empty()
        image_codec.encode_compressed(picture, 'jpeg', written, quality, encoding)
        assert written.format == jpeg
        decoded, stands_for = image_codec.decode_compressed(written)
        expected = picture / (257 if picture.dtype == np.uint16 else 1)
        assert np.abs(decoded - expected).mean() < 12  # fine texture
        assert np.abs(decoded.mean((0, 1)) - expected.mean((0, 1))).max() < 1
        assert (decoded.dtype, stands_for) == (np.uint8, kept)
        sizes.append(len(written.data))
    assert sizes[0] < sizes[1]


def test_what_other_publishers_compress(picture):
    def png(image: np.ndarray, format: str) -> tuple[np.ndarray, str]:
        return image_codec.decode_compressed(compressed(cv2.imencode('.png', image)[1], format))

    swapped, wide = np.ascontiguousarray(picture[..., ::-1]), sixteen_bit(picture)[..., 1]
    alpha = np.dstack([swapped, picture[..., 0]])
    grey = np.dstack([wide] * 3)
    for image, format, expected, encoding in (
        (swapped, 'png', picture, 'bgr8'),
        (swapped, '', picture, 'bgr8'),
        (swapped, 'nonsense; ;', picture, 'bgr8'),
        (picture, 'rgb8; png compressed rgb8', picture, 'rgb8'),
        (alpha, 'rgba8; png compressed', picture, 'rgba8'),
        (wide, 'png', grey, 'mono16'),
        (wide, 'mono16; png compressed ', grey, 'mono16'),
        (wide, 'bayer_rggb8; png compressed ', grey, 'mono16'),  # contradicts itself
        (wide, 'bayer_nonsense; png compressed ', grey, 'mono16'),
    ):
        decoded, stands_for = png(image, format)
        assert_same(decoded, expected)
        assert stands_for == encoding
    mosaic = message(wide, 'bayer_gbrg16')
    decoded, stands_for = png(wide, 'bayer_gbrg16; png compressed ')
    assert_same(decoded, image_codec.decode(mosaic))
    assert stands_for == 'rgb16'


def test_compressed_garbage_is_named(picture, monkeypatch):
    jpeg, png = (cv2.imencode(suffix, picture)[1].tobytes() for suffix in ('.jpg', '.png'))
    huge = png[:16] + struct.pack('>II', 30000, 30000) + png[24:]
    frame = jpeg.index(b'\xff\xc0')
    huge_jpeg = jpeg[: frame + 5] + struct.pack('>HH', 65000, 65000) + jpeg[frame + 9 :]
    for data in (jpeg[:-400], jpeg[:20], jpeg[:3], png[:-400], png[:20]):
        with pytest.raises(image_codec.MalformedImageError, match='cannot be made of its'):
            image_codec.decode_compressed(compressed(data, 'jpeg'))
    with monkeypatch.context() as patch:
        patch.delattr(cv2, 'imdecode')  # it would allocate what is promised
        for data in (huge, huge_jpeg):
            with pytest.raises(image_codec.MalformedImageError, match=r'000x\d+000 is more than'):
                image_codec.decode_compressed(compressed(data, 'jpeg'))
    with pytest.raises(image_codec.MalformedImageError, match='malformed compressed message'):
        image_codec.decode_compressed(SimpleNamespace(data=None, format='jpeg'))
    for data in (b'\0\0\0\1h264', jpeg[2:]):
        with pytest.raises(image_codec.UnsupportedEncodingError, match=r"'h264'.*use JPEG or PNG"):
            image_codec.decode_compressed(compressed(data, 'h264'))
    for depth in (
        '16UC1; compressedDepth png',
        '16UC1; png compressed ',
        '32FC1; compressedDepth',
    ):
        with pytest.raises(image_codec.NotAPictureError, match='not colour or grey'):
            image_codec.decode_compressed(compressed(png, depth))
    for format, encoding in (('webp', 'bgr8'), ('png', 'bayer_rggb8')):
        with pytest.raises(image_codec.UnsupportedEncodingError, match='use one of jpeg, png'):
            image_codec.encode_compressed(picture, format, empty(), encoding=encoding)


SIZES = [0, 1, 3, 16, 31, 255, 2**31 - 1, 2**31, 2**32 - 1, -1, 2**64, 2.5, None, '8']
TEXTS = ['', 'rgb', 'RGB8', '16UC1', '32FC', 'nv24', '\udcff\u65e5', 'x' * 10000, None, 8, b'rgb8']
DATA = [array('B'), array('d', [1.5] * 9), np.zeros((9, 9), np.uint16), np.zeros((9, 9))[:, ::2]]
DATA += [None, [1, 2], 'text']


def garbage(random: random.Random) -> SimpleNamespace:
    """An Image message that was in order until something happened to some of its fields."""
    encoding = random.choice(image_codec.ENCODINGS)
    height, width = random.randrange(2, 24, 2), random.randrange(2, 24, 2)
    step = width * random.choice([1, 2, 3, 4, 6, 8]) + random.randrange(4)
    fields = {
        'height': lambda: random.choice([*SIZES, random.randrange(40)]),
        'width': lambda: random.choice([*SIZES, random.randrange(40)]),
        'step': lambda: random.choice([*SIZES, random.randrange(200)]),
        'encoding': lambda: random.choice([*TEXTS, *image_codec.ENCODINGS]),
        'is_bigendian': lambda: random.randrange(256),
        'data': lambda: random.choice([*DATA, random.randbytes(random.randrange(4000))]),
    }
    data = array('B', random.randbytes(height * step * 3 // 2))
    result = SimpleNamespace(
        height=height, width=width, step=step, encoding=encoding, is_bigendian=0, data=data
    )
    for name in random.sample(list(fields), random.choice([0, 1, 1, 2, 6])):
        setattr(result, name, fields[name]())
    return result


def test_ten_thousand_fuzzed_messages():
    """Each is a frame that can be published again, or an ImageError; memory stays in bounds."""
    chance = random.Random(7)
    outcomes = dict.fromkeys(['frame', 'Malformed', 'NotAPicture', 'UnsupportedEncoding'], 0)
    tracemalloc.start()
    for _ in range(10_000):
        sent = garbage(chance)
        size = len(sent.data) * getattr(sent.data, 'itemsize', 1) if sent.data is not None else 0
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        try:
            frame = image_codec.decode(sent)
            assert frame.shape == (sent.height, sent.width, 3)
            assert frame.dtype in (np.uint8, np.uint16)
            encoded(frame, image_codec.output_encoding(sent.encoding), sent)
            outcomes['frame'] += 1
        except image_codec.ImageError as error:
            assert len(str(error)) < 500
            outcomes[type(error).__name__.removesuffix('ImageError').removesuffix('Error')] += 1
        assert tracemalloc.get_traced_memory()[1] - before < 10 * size + 50_000
    tracemalloc.stop()
    assert all(count > 100 for count in outcomes.values()), outcomes


def test_a_thousand_fuzzed_compressed_messages(picture):
    chance = random.Random(7)
    whole = [cv2.imencode(s, picture[:32, :48])[1].tobytes() for s in ('.jpg', '.png')]
    frames = errors = 0
    for _ in range(1000):
        data = bytearray(chance.choice(whole))
        for _ in range(chance.choice([0, 1, 3, 30])):
            data[chance.randrange(len(data))] = chance.randrange(256)
        del data[chance.choice([len(data), chance.randrange(len(data))]) :]
        format = chance.choice(['jpeg', 'rgb16; jpeg compressed bgr8', *TEXTS])
        try:
            frame, encoding = image_codec.decode_compressed(compressed(data, format))
            assert frame.ndim == 3
            assert frame.shape[2] == 3
            encoded(frame, encoding)
            frames += 1
        except image_codec.ImageError:
            errors += 1
    assert frames > 100
    assert errors > 100
