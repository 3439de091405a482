"""One camera's stream, with the model that ships."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import pytest

from dap_led_ros import sample
from dap_led_ros.inference import Enhancer
from dap_led_ros.inference.stream import Stream, StreamSettings
from dap_led_ros.photometry import linear_to_srgb, srgb_to_linear, to_uint8

MS = 1_000_000


@pytest.fixture(scope='module')
def enhancer() -> Enhancer:
    return Enhancer.load()


@pytest.fixture(scope='module')
def day(night) -> np.ndarray:
    return cv2.resize(night[1], (320, 240), interpolation=cv2.INTER_AREA)


def take(day: np.ndarray, exposure: float, seed: int = 0) -> np.ndarray:
    """A noisy frame of a camera that stands still."""
    light = srgb_to_linear(day) * exposure
    noise = np.random.default_rng(seed).standard_normal(light.shape, dtype=np.float32)
    return to_uint8(linear_to_srgb(light + noise * np.sqrt(light * 2e-3 + 4e-6)))


def level(enhancer: Enhancer, frame: np.ndarray) -> float:
    return max(enhancer.score(frame).values())


def change(frames: list[np.ndarray]) -> float:
    return float(np.mean([cv2.absdiff(a, b).mean() for a, b in pairwise(frames)]))


def largest_step(values: list[float]) -> float:
    return float(np.abs(np.diff(values) / values[:-1]).max())


def test_a_good_frame_comes_back_as_the_same_array_without_the_network(enhancer, day):
    for settings in (StreamSettings(), StreamSettings('off'), StreamSettings(strength=0)):
        result = Stream(enhancer, settings).enhance(day)
        assert result.frame is day
        assert result.weight == 0
        assert 'infer' not in result.milliseconds
    assert Stream(enhancer).enhance(day).degradation == enhancer.score(day)
    assert Stream(enhancer, StreamSettings('off')).enhance(take(day, 0.05)).weight == 0


def test_a_night_frame_is_the_networks_own(enhancer, day):
    frame = take(day, 0.05)
    for pixels in (frame, frame.astype(np.uint16) * 257):
        result = enhancer.stream().enhance(pixels, 0)
        assert result.weight == 1
        np.testing.assert_array_equal(result.frame, enhancer.network(pixels)[0])


def test_settings_take_effect_from_the_next_frame(enhancer, day):
    frame = take(day, 0.05)
    stream, network = Stream(enhancer), enhancer.network(frame)[0]
    assert stream.enhance(frame).weight == 1
    stream.settings = StreamSettings('off')
    assert stream.enhance(frame).frame is frame
    stream.settings = StreamSettings('always', strength=0.5)
    half = stream.enhance(frame)
    assert half.weight == 0.5
    assert np.abs(half.frame - (frame / 2 + network / 2)).max() <= 1


def test_between_the_thresholds_frame_and_result_are_blended(enhancer, day):
    frame = take(day, 0.05)
    middle = level(enhancer, frame)
    width = (1 - middle) / 2
    result = Stream(
        enhancer, StreamSettings(pass_below=middle - width, enhance_above=middle + width)
    ).enhance(frame)
    assert result.weight == pytest.approx(0.5)
    expected = frame / 2 + enhancer.network(frame)[0] / 2
    assert np.abs(result.frame - expected).max() <= 1


def test_luminance_alone_does_not_decide(enhancer, day):
    """As bright as a frame that passes, but blurred: enhanced. As dark as a night, but clean."""
    shaken = cv2.blur(day, (1, 21))
    assert shaken.mean() == pytest.approx(day.mean(), rel=0.02)
    assert level(enhancer, shaken) > level(enhancer, day) + 0.1


def follows_on(enhancer: Enhancer, day: np.ndarray, frame: np.ndarray, stamp_ns: int) -> bool:
    """Whether a frame is enhanced in another way after a video than alone."""
    stream = Stream(enhancer)
    for index in range(4):
        stream.enhance(take(day, 0.05, index), (1000 + 66 * index) * MS)
    alone = enhancer.network(frame)[0]
    return not np.array_equal(stream.enhance(frame, stamp_ns).frame, alone)


def test_state_ends_with_a_jump_in_time_another_size_and_a_cut(enhancer, day):
    dimmer = take(day, 0.045)
    assert follows_on(enhancer, day, dimmer, 1264 * MS)
    assert follows_on(enhancer, day, dimmer, 2100 * MS)
    assert not follows_on(enhancer, day, dimmer, 2300 * MS)  # more than a second later
    assert not follows_on(enhancer, day, dimmer, 1100 * MS)  # backwards
    assert not follows_on(enhancer, day, dimmer[:-2], 1264 * MS)
    assert not follows_on(enhancer, day, np.ascontiguousarray(dimmer[::-1]), 1264 * MS)


def test_steady_off_means_each_frame_alone(enhancer, day):
    stream = Stream(enhancer, StreamSettings(steady=False))
    for index, exposure in enumerate((0.05, 0.045, 0.06)):
        frame = take(day, exposure, index)
        result = stream.enhance(frame, index * 66 * MS)
        np.testing.assert_array_equal(result.frame, enhancer.network(frame)[0])


def test_a_gate_at_its_threshold_does_not_flicker(enhancer, day):
    frames = [take(day, exposure, i) for i, exposure in enumerate((0.2, 0.3) * 6)]
    levels = [level(enhancer, frame) for frame in frames]
    assert np.ptp(levels) > 0.01
    settings = {'pass_below': min(levels) - 0.001, 'enhance_above': max(levels) + 0.001}
    weights = {}
    for steady in (False, True):
        stream = Stream(enhancer, StreamSettings(**settings, steady=steady))
        weights[steady] = [stream.enhance(f, i * 66 * MS).weight for i, f in enumerate(frames)]
    steps = {steady: np.abs(np.diff(w)).mean() for steady, w in weights.items()}
    assert steps[True] < 0.5 * steps[False]


def test_a_static_scene_is_steadier_than_a_gain_would_leave_it(enhancer, day):
    for exposure in (0.03, 0.06, 0.3):
        frames, stream = [take(day, exposure, seed) for seed in range(6)], Stream(enhancer)
        enhanced = [stream.enhance(f, i * 66 * MS).frame for i, f in enumerate(frames)]
        gain = np.mean(enhanced) / np.mean(frames)
        assert change(enhanced) <= gain * change(frames) * 1.0001


def test_brightness_does_not_pump_when_the_camera_moves(enhancer):
    gains, quality = {}, {}
    for steady in (False, True):
        stream, gains[steady], quality[steady] = (
            Stream(enhancer, StreamSettings(steady=steady, temporal=False)),
            [],
            [],
        )
        for index, (camera, reference) in enumerate(sample.night_sequence(10)):
            frame = stream.enhance(camera, index * 66 * MS).frame
            gains[steady].append(frame.mean() / camera.mean())
            quality[steady].append(cv2.PSNR(frame, reference))
    assert largest_step(gains[True]) < min(0.01, largest_step(gains[False]))
    assert np.mean(quality[True]) > np.mean(quality[False]) - 0.05


@pytest.mark.parametrize(('before', 'after'), [(0.04, 0.5), (1.0, 0.04)])
def test_a_light_switched_on_does_not_dazzle_and_off_does_not_blind(enhancer, day, before, after):
    stream = Stream(enhancer)
    for index in range(4):
        stream.enhance(take(day, before, index), index * 66 * MS)
    changed = take(day, after)
    first = stream.enhance(changed, 4 * 66 * MS).frame
    assert first.mean() == pytest.approx(enhancer.network(changed)[0].mean(), rel=0.15)


@pytest.mark.parametrize(
    ('values', 'said'),
    [
        ({'mode': 'on'}, "mode is 'on': use one of auto, always, off"),
        ({'strength': 1.5}, 'strength is 1.5: use a number from 0 to 1'),
        ({'strength': float('nan')}, 'strength is nan'),
        ({'pass_below': 0.7, 'enhance_above': 0.7}, 'the first below the second'),
        ({'enhance_above': 1.2}, 'enhance_above 1.2'),
    ],
)
def test_settings_without_meaning_are_refused_in_words(values, said):
    with pytest.raises(ValueError, match=said):
        StreamSettings(**values)


def test_what_is_no_frame_is_refused(enhancer):
    with pytest.raises(ValueError, match='expected uint8 or uint16'):
        Stream(enhancer).enhance(np.zeros((48, 64), np.uint8))
