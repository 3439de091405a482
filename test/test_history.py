"""The history: noise goes, and nothing that is no longer there stays."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from dap_led_ros.inference.history import LEAST_SIDE, MOST, History
from dap_led_ros.photometry import linear_to_srgb, srgb_to_linear, to_uint8

SIZE = (240, 320)


@pytest.fixture(scope='module')
def scene(night) -> np.ndarray:
    """(360, 480, 3) linear light: a photograph by day, larger than the frames."""
    return srgb_to_linear(cv2.resize(night[1], (480, 360), interpolation=cv2.INTER_AREA))


def sharp(scene: np.ndarray, x: float = 60, y: float = 60, gain: float = 0.06) -> np.ndarray:
    """What the camera would see there without noise, in light."""
    moved = cv2.warpAffine(
        scene, np.float32([[1, 0, -x], [0, 1, -y]]), SIZE[::-1], flags=cv2.INTER_CUBIC
    )
    return np.maximum(moved, 0) * gain


def take(light: np.ndarray, seed: int, depth: type = np.uint8) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(light.shape, dtype=np.float32)
    value = linear_to_srgb(light + noise * np.sqrt(light * 2e-3 + 4e-6))
    return np.rint(value * np.iinfo(depth).max).astype(depth)


def error(value: np.ndarray, light: np.ndarray) -> np.ndarray:
    """(H, W) distance of display values from what is there, without the noise of a pixel."""
    return np.abs(cv2.GaussianBlur(value - linear_to_srgb(light), (0, 0), 2)).mean(2)


def alone(frame: np.ndarray) -> np.ndarray:
    return np.multiply(frame, np.float32(1 / np.iinfo(frame.dtype).max), dtype=np.float32)


def rms(value: np.ndarray, light: np.ndarray) -> float:
    return float(np.sqrt(np.mean((value - linear_to_srgb(light)) ** 2)))


@pytest.mark.parametrize('depth', [np.uint8, np.uint16])
@pytest.mark.parametrize('speed', [0.0, 3.3])
def test_noise_goes_while_a_camera_looks(scene, depth, speed):
    history = History()
    for index in range(MOST + 4):
        light = sharp(scene, 20 + speed * index)
        frame = take(light, index, depth)
        fused = history.fuse(frame)
        if not index:
            np.testing.assert_array_equal(fused.frame, alone(frame))
            assert not fused.count.any()
    assert fused.frame.dtype == np.float32 and fused.frame.shape == frame.shape
    assert fused.count.shape == SIZE and fused.count.min() >= 0 and fused.count.max() <= MOST
    inside = np.s_[20:-20, 20:-80]
    assert np.median(fused.count[inside]) > 4
    assert rms(fused.frame[inside], light[inside]) < 0.6 * rms(alone(frame)[inside], light[inside])


def test_an_object_that_leaves_and_a_wiper_leave_no_ghost(scene):
    history, light = History(), sharp(scene)
    other = np.rot90(scene, 2)[100:180, 60:160] * 0.06
    for index in range(12):
        now = light.copy()
        x = 30 + 14 * index
        if index < 10:
            now[80:160, x : x + 100] = other
        if index % 4 == 2:  # a wiper, in one frame of four
            now[:, 200 + 10 * index : 216 + 10 * index] = 0.001
        fused = history.fuse(frame := take(now, index))
    # In the last frame neither is there; they were under these pixels shortly before.
    for under in (np.s_[80:160, 156:256], np.s_[20:220, 216:230], np.s_[80:160, 170:184]):
        assert (
            error(fused.frame, light)[under].mean()
            < 1.1 * error(alone(frame), light)[under].mean() + 0.5 / 255
        )


def test_a_lamp_that_is_switched_on_is_there_at_once(scene):
    history, light = History(), sharp(scene)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    glow = 1 + 5 * np.exp(-((x - 160) ** 2 + (y - 120) ** 2) / (2 * 40**2))[..., None]
    for index in range(6):
        history.fuse(take(light, index))
    lit = (light * glow).astype(np.float32)
    fused = history.fuse(frame := take(lit, 6))
    bright = glow[..., 0] > 2
    assert fused.count[bright].mean() < 0.5
    assert error(fused.frame, lit)[bright].mean() < 1.1 * error(alone(frame), lit)[bright].mean()


@pytest.mark.parametrize('gain', [0.03, 0.15])
def test_a_step_of_the_exposure_keeps_the_history(scene, gain):
    history = History()
    for index in range(8):
        before = history.fuse(take(sharp(scene), index))
    light = sharp(scene, gain=gain)
    fused = history.fuse(frame := take(light, 8))
    assert np.median(fused.count) > 0.7 * np.median(before.count)
    assert fused.frame.mean() == pytest.approx(alone(frame).mean(), rel=0.05)
    assert rms(fused.frame, light) < 0.7 * rms(alone(frame), light)


def test_a_cut_begins_anew_and_so_does_another_size(scene):
    history = History()
    for index in range(6):
        history.fuse(take(sharp(scene), index))
    other = np.ascontiguousarray(np.rot90(sharp(scene), 2))
    fused = history.fuse(frame := take(other, 6))
    assert fused.count.mean() < 0.3
    assert rms(fused.frame, other) < 1.02 * rms(alone(frame), other)
    smaller = frame[:200]
    fused = history.fuse(smaller)
    assert not fused.count.any()
    np.testing.assert_array_equal(fused.frame, alone(smaller))


def test_a_camera_that_drops_frames_is_no_worse_for_it(scene):
    history = History()
    for index, moment in enumerate((0, 1, 2, 7, 8, 14, 15, 16, 24)):
        light = sharp(scene, 10 + 4 * moment)
        fused = history.fuse(frame := take(light, index))
        assert rms(fused.frame, light) < 1.01 * rms(alone(frame), light)


def test_rolling_exposure_under_mains_light_leaves_no_bands(scene):
    """Bands of light that wander through the picture, as under lamps on alternating current."""
    history = History()
    rows = np.arange(SIZE[0])[:, None, None]
    for index in range(10):
        bands = (1 + 0.4 * np.sin(rows / 18 + 2.1 * index)).astype(np.float32)
        light = sharp(scene) * bands
        fused = history.fuse(frame := take(light, index))
    assert error(fused.frame, light).mean() < 1.3 * error(alone(frame), light).mean()


def test_small_frames_stand_alone():
    history = History()
    for seed in range(3):
        frame = np.random.default_rng(seed).integers(0, 60, (16, LEAST_SIDE, 3), np.uint8)
        assert not history.fuse(frame).count.any()
    for side in (LEAST_SIDE, LEAST_SIDE + 1):
        frame = np.random.default_rng(0).integers(0, 60, (side, side, 3), np.uint8)
        history.fuse(frame)
        assert history.fuse(frame).frame.shape == (side, side, 3)


def test_black_and_white_frames_do_no_harm():
    for value in (0, 255):
        history, frame = History(), np.full((*SIZE, 3), value, np.uint8)
        for _ in range(3):
            fused = history.fuse(frame)
        np.testing.assert_array_equal(to_uint8(fused.frame), frame)


def test_cameras_do_not_mix(scene):
    lights = [sharp(scene, 20, 20), sharp(scene, 130, 90), np.rot90(sharp(scene), 2)]
    alone_first, together = History(), [History() for _ in lights]
    for index in range(4):
        frames = [take(np.ascontiguousarray(one), 10 * k + index) for k, one in enumerate(lights)]
        fused = [history.fuse(frame) for history, frame in zip(together, frames)]
        expected = alone_first.fuse(frames[0])
    np.testing.assert_array_equal(fused[0].frame, expected.frame)
