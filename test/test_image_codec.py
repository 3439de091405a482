"""Image messages to numpy and back."""

from __future__ import annotations

from array import array
from types import SimpleNamespace

import numpy as np
import pytest

from dap_led_ros import image_codec


def message(image: np.ndarray, encoding: str, padding: int = 0) -> SimpleNamespace:
    """An object with the fields of sensor_msgs/Image; rows may be padded."""
    height, width = image.shape[:2]
    rows = image.reshape(height, -1)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=170)
    return SimpleNamespace(
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=0,
        step=rows.shape[1],
        data=array('B', rows.tobytes()),
    )


def empty() -> SimpleNamespace:
    return SimpleNamespace(data=array('B'))


@pytest.fixture
def picture(night) -> np.ndarray:
    return night[1][:97, :131]


@pytest.mark.parametrize('padding', [0, 5])
def test_rgb8_and_bgr8_round_trip(picture, padding):
    swapped = picture[..., ::-1]
    for encoding, pixels in (('rgb8', picture), ('bgr8', swapped)):
        decoded = image_codec.decode(message(pixels, encoding, padding))
        np.testing.assert_array_equal(decoded, picture)
        encoded = empty()
        image_codec.encode(decoded, encoding, encoded)
        assert (encoded.height, encoded.width, encoded.step) == (97, 131, 393)
        assert (encoded.encoding, encoded.is_bigendian) == (encoding, 0)
        assert encoded.data.tobytes() == pixels.tobytes()


@pytest.mark.parametrize('padding', [0, 3])
def test_mono8_round_trip(picture, padding):
    grey = picture[..., 1]
    decoded = image_codec.decode(message(grey, 'mono8', padding))
    np.testing.assert_array_equal(decoded, np.stack([grey] * 3, axis=2))
    encoded = empty()
    image_codec.encode(decoded, 'mono8', encoded)
    assert encoded.step == 131
    assert encoded.data.tobytes() == grey.tobytes()


@pytest.mark.parametrize(
    ('field', 'value'),
    [('data', array('B')), ('step', 10), ('height', 98), ('width', 0), ('height', 0)],
)
def test_fields_that_contradict_are_named(picture, field, value):
    broken = message(picture, 'rgb8')
    setattr(broken, field, value)
    with pytest.raises(image_codec.MalformedImageError, match='malformed message'):
        image_codec.decode(broken)


def test_more_data_than_needed_is_fine(picture):
    longer = message(picture, 'rgb8')
    longer.data.extend(b'xyz')
    np.testing.assert_array_equal(image_codec.decode(longer), picture)


@pytest.mark.parametrize('encoding', ['16UC1', '32FC1', '8SC3', '64FC4'])
def test_depth_is_no_picture(picture, encoding):
    with pytest.raises(image_codec.NotAPictureError, match=encoding):
        image_codec.decode(message(picture, encoding))


@pytest.mark.parametrize('encoding', ['bayer_rggb8', 'yuv422', 'nv12', '', 'nonsense'])
def test_other_encodings_are_unsupported(picture, encoding):
    with pytest.raises(image_codec.UnsupportedEncodingError, match='use one of rgb8, bgr8, mono8'):
        image_codec.decode(message(picture, encoding))
