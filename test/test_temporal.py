"""What came before, in the network, its graph and a stream."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason="no torch: pip install 'dap_led_ros[train]'")

from dap_led_ros import enhance_files, export, media
from dap_led_ros.checkpoints import checkpoint
from dap_led_ros.cli import main
from dap_led_ros.inference import Enhancer
from dap_led_ros.inference.history import History
from dap_led_ros.inference.stream import StreamSettings
from dap_led_ros.models.exposure_first import PRESETS, ExposureFirst

MS = 1_000_000
ALWAYS = StreamSettings(mode='always')


def tiny(history: bool, trained: bool = False) -> ExposureFirst:
    """A network whose residual is not zero; `trained`: nor is what sees the past."""
    torch.manual_seed(0)
    config = dataclasses.replace(PRESETS['exposure-first-tiny'], history=history)
    network = ExposureFirst(config)
    layers = [network.head, network.told, network.exposure.head[-1]]
    if trained:
        layers += [network.past_stem, network.past_detail, network.past_head]
    for layer in layers:
        torch.nn.init.normal_(layer.weight, std=0.05)
    return network.eval()


@pytest.fixture(scope='module')
def model(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp('models') / 'remembers.onnx'
    export.export(tiny(True, trained=True), path)  # raises where it differs from torch
    return str(path)


@pytest.fixture(scope='module')
def enhancer(model) -> Enhancer:
    return Enhancer.load(model, 'cpu', 1)


@pytest.fixture(scope='module')
def frames(night) -> list[np.ndarray]:
    """A camera that stands still by night: only the noise changes."""
    small = cv2.resize(night[0], (160, 120), interpolation=cv2.INTER_AREA).astype(np.float32)
    noise = np.random.default_rng(3).normal(0, 4, (8, 120, 160, 3))
    return list(np.clip(small + noise, 0, 255).astype(np.uint8))


def run(enhancer: Enhancer, frames: list[np.ndarray], stamps: list[int] | None = None) -> list:
    stream = enhancer.stream(ALWAYS)
    stamps = stamps or [i * 33 * MS for i in range(len(frames))]
    return [stream.enhance(frame, stamp).frame for frame, stamp in zip(frames, stamps)]


# --- the network -------------------------------------------------------------------------------


def test_it_begins_as_the_network_of_single_frames():
    single, network = tiny(False), tiny(True)
    missing, unknown = network.load_state_dict(single.state_dict(), strict=False)
    assert {name.split('.')[0] for name in missing} == {'past_stem', 'past_detail', 'past_head'}
    assert not unknown
    frame, fused = torch.rand(2, 3, 37, 50) * 0.2, torch.rand(2, 3, 37, 50) * 0.2
    none, some = torch.zeros(2, 1, 37, 50), torch.full((2, 1, 37, 50), 3.0)
    torch.testing.assert_close(network(frame), single(frame), rtol=0, atol=0)
    torch.testing.assert_close(network(frame, frame, none), single(frame), rtol=0, atol=1e-6)
    # Behind a mean it shows the mean, by the frame's own curve.
    assert float((network(frame, fused, some) - single(frame)).abs().mean()) > 0.01


def test_no_past_is_no_past_when_it_is_trained():
    network = tiny(True, trained=True)
    frame, none = torch.rand(1, 3, 40, 56) * 0.2, torch.zeros(1, 1, 40, 56)
    torch.testing.assert_close(network(frame, frame, none), network(frame), rtol=0, atol=1e-6)


def test_every_layer_of_the_past_learns():
    network = tiny(True, trained=True).train()
    frame = torch.rand(2, 3, 48, 64) * 0.2
    fused, count = torch.rand(2, 3, 48, 64) * 0.2, torch.rand(2, 1, 48, 64) * 4
    (network(frame, fused, count) - torch.rand(2, 3, 48, 64)).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_checkpoints_of_both_kinds_load(tmp_path):
    for history in (False, True):
        path = tmp_path / f'{history}.safetensors'
        checkpoint.save(tiny(history, trained=history), path)
        loaded = Enhancer.load(str(path), 'cpu', 1)
        assert loaded.remembers is history
    old = checkpoint.load(tmp_path / 'False.safetensors')
    assert not old.config.history


@pytest.mark.slow
def test_export_of_weights_for_single_frames_in_front_of_a_history(tmp_path):
    path = tmp_path / 'tiny.onnx'
    network = export.remembering(tiny(False))
    export.export(network, path, 'fp16')  # raises where it differs, with a past and without
    loaded = Enhancer.load(str(path), 'cpu', 1)
    assert loaded.remembers
    frame = (np.random.default_rng(0).random((37, 53, 3)) * 40).astype(np.uint8)
    assert loaded.enhance(frame).frame.mean() > frame.mean() + 20


@pytest.mark.slow
def test_a_wrapper_of_bytes_is_for_single_frames(tmp_path):
    path = tmp_path / 'frames.onnx'
    export.export(tiny(True, trained=True), path, frames=True)
    assert not Enhancer.load(str(path), 'cpu', 1).remembers


def test_torch_and_onnx_agree_in_a_stream(tmp_path, enhancer, frames):
    path = tmp_path / 'remembers.safetensors'
    checkpoint.save(tiny(True, trained=True), path)
    other = Enhancer.load(str(path), 'cpu', 1)
    for one, same in zip(run(enhancer, frames[:3]), run(other, frames[:3])):
        assert cv2.absdiff(one, same).max() <= 1


# --- the stream --------------------------------------------------------------------------------


def test_the_first_frame_is_that_of_enhance_and_later_ones_are_steadier(enhancer, frames):
    streamed = run(enhancer, frames)
    alone = [enhancer.enhance(frame).frame for frame in frames]
    np.testing.assert_array_equal(streamed[0], alone[0])
    assert not np.array_equal(streamed[1], alone[1])
    change = [cv2.absdiff(some[-1], some[-2]).mean() for some in (streamed, alone)]
    assert change[0] < 0.7 * change[1]
    # Enhancer.enhance itself remembers nothing.
    np.testing.assert_array_equal(enhancer.enhance(frames[-1]).frame, alone[-1])


def test_temporal_may_be_switched_off_and_on(enhancer, frames):
    stream = enhancer.stream(dataclasses.replace(ALWAYS, temporal=False))
    assert 'history' not in stream.enhance(frames[0], 0).milliseconds
    without = stream.enhance(frames[1], 33 * MS)
    # All that is left is the steadiness of the brightness.
    close = np.abs(without.frame.astype(int) - enhancer.enhance(frames[1]).frame)
    assert close.mean() < 1.5
    stream.settings = ALWAYS
    assert 'history' in stream.enhance(frames[2], 66 * MS).milliseconds


@pytest.mark.parametrize('event', ['time jump', 'backwards', 'another size', 'cut'])
def test_what_ends_a_scene_ends_its_history(enhancer, frames, event):
    last = {'time jump': 3000, 'backwards': 10}.get(event, 133) * MS
    frame = frames[4]
    if event == 'another size':
        frame = np.ascontiguousarray(frame[:100])
    if event == 'cut':
        frame = np.ascontiguousarray(255 - frame[::-1])
    stamps = [*(i * 33 * MS for i in range(4)), last]
    streamed = run(enhancer, [*frames[:4], frame], stamps)
    np.testing.assert_array_equal(streamed[-1], enhancer.enhance(frame).frame)


def test_three_cameras_do_not_mix(enhancer, frames):
    cameras = [frames, [np.ascontiguousarray(f[::-1]) for f in frames], [f // 2 for f in frames]]
    streams = [enhancer.stream(ALWAYS) for _ in cameras]
    together: list[list[np.ndarray]] = [[] for _ in cameras]
    for index in range(4):
        for stream, camera, shown in zip(streams, cameras, together):
            shown.append(stream.enhance(camera[index], index * 33 * MS).frame)
    for camera, shown in zip(cameras, together):
        for one, same in zip(run(enhancer, camera[:4]), shown):
            np.testing.assert_array_equal(one, same)


def test_a_model_of_single_frames_takes_no_past(frames):
    single = Enhancer.load('nano-0.1', 'cpu', 1)
    assert not single.remembers
    assert 'history' not in single.stream(ALWAYS).enhance(frames[0]).milliseconds
    with pytest.raises(ValueError, match='sees single frames'):
        single.network(frames[0], None, History().fuse(frames[0]))


def test_the_nodes_parameter_reaches_the_stream():
    pytest.importorskip('rclpy', reason='no ROS')
    from dap_led_ros.nodes.parameters import Parameters

    assert Parameters().stream.temporal
    assert not Parameters(temporal=False).stream.temporal


# --- files -------------------------------------------------------------------------------------


def test_a_video_remembers_and_a_folder_only_if_told(tmp_path, model, enhancer, frames):
    folder = tmp_path / 'frames'
    folder.mkdir()
    for index, frame in enumerate(frames[:3]):
        cv2.imwrite(str(folder / f'{index}.png'), frame[..., ::-1])

    def enhanced(*options: str) -> list[np.ndarray]:
        out = tmp_path / f'out{"".join(options)}'
        arguments = ['enhance', str(folder), str(out), '--model', model, '--device', 'cpu']
        assert main([*arguments, *options]) == 0
        return [media.read_image(out / f'{index}.png') for index in range(3)]

    for one, frame in zip(enhanced(), frames):
        np.testing.assert_array_equal(one, enhancer.enhance(frame).frame)
    told = enhanced('--temporal')
    for one, same in zip(told, run(enhancer, frames[:3])):
        assert cv2.absdiff(one, same).max() <= 1
    enhance = enhance_files._frame_by_frame(enhancer, True)
    for frame, same in zip(frames, told):
        np.testing.assert_array_equal(enhance(frame), same)


# --- the training ------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def batches(tmp_path_factory):
    crops = pytest.importorskip('dap_led_training.data.crops')
    from conftest import cut

    from dap_led_training.data.batches import Stage
    from dap_led_training.night.night_batches import NightConfig
    from dap_led_training.night.night_clips import ClipConfig

    folder = cut(tmp_path_factory.mktemp('sharp'), 4, 2, (240, 160))
    photographs = crops.load([str(folder)], validation=False)
    return crops.NightBatches(
        photographs, [Stage(64, 3, 4)], NightConfig(), seed=3, clips=ClipConfig(frames=4)
    )


def test_a_clip_is_a_function_of_seed_step_and_index_alone(batches):
    given, *drawn = batches[2]
    assert given.shape[:2] == (3, 4) and all(one.shape[:2] == (3, 4) for one in drawn)
    part = type(batches)(
        batches.photographs, batches.stages, batches.config, 3, 1, 3, clips=batches.clips
    )
    some, *of_some = part[2]
    assert torch.equal(given[1:2], some)
    for one, same in zip(drawn, of_some):
        assert torch.equal(one[1:2], same)
    assert not torch.equal(given, batches[3][0])


def test_clips_have_the_past_that_a_stream_would_have(batches):
    from dap_led_training.night.night_batches import Drawn
    from dap_led_training.trainers.exposure_first import clips_of, tone_clips

    given, *drawn = batches[0]
    clips = clips_of(given, Drawn(*drawn))
    count = len(clips.seed)
    assert count == 6 and clips.fused.shape == clips.made.degraded.shape == (count, 3, 64, 64)
    assert clips.count.shape == (count, 1, 64, 64) and 0 < float(clips.count.max()) <= 3
    alone = clips_of(given, Drawn(*drawn), alone=1.0)
    assert not alone.count.any()
    torch.testing.assert_close(alone.fused, alone.made.degraded, rtol=0, atol=1e-6)
    level = torch.full((count,), 0.41)
    toned, _, target, past = tone_clips(alone, level, level)
    assert toned.shape == target.shape == (count, 3, 64, 64)
    assert past.shape == (count, 4, 32, 32)
    assert float(past.abs().max()) < 1e-5  # neither a difference nor a past


def test_time_is_trained_from_weights_for_single_frames(tmp_path, capsys):
    pytest.importorskip('lightning_fabric', reason="no fabric: pip install 'dap_led_ros[train]'")
    from conftest import cut

    from dap_led_training import configuration, loop
    from dap_led_training.trainers.exposure_first import ExposureFirstRecipe, train

    folder = cut(tmp_path / 'sharp', 9, 3, (240, 160))
    recipe = {
        'part': 'time',
        'photographs': [str(folder)],
        'network': 'exposure-first-tiny',
        'losses': {'charbonnier': 1.0},
        'stages': [{'crop': 64, 'batch': 2, 'steps': 2}],
        'clips': {'frames': 3},
        'loop': {'checkpoint_every': 2, 'workers': 0, 'learning_rate': 1e-3},
    }
    with pytest.raises(ValueError, match='history: true'):
        configuration.build(recipe, ExposureFirstRecipe, 'recipe')
    recipe['options'] = {'history': True}
    begun = tmp_path / 'begun.safetensors'
    checkpoint.save(tiny(False), begun)
    weights = train(
        configuration.build(recipe, ExposureFirstRecipe, 'recipe'), tmp_path / 'run', begun
    )
    printed = capsys.readouterr()
    assert 'gain, clips (dB)' in printed.out + printed.err
    network, before = checkpoint.load(weights), tiny(False).state_dict()
    assert isinstance(loop.as_plain(network.config), dict) and network.config.history
    changed = {n for n, t in network.state_dict().items() if not torch.equal(t, before.get(n, t))}
    assert any(name.startswith('encoder4') for name in changed)
    assert not any(name.startswith(('exposure', 'gate')) for name in changed)
    assert network.past_head.weight.any()
