"""Exposure first: the tone curve, the network behind it, its synthesis and its training."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import onnxruntime
import pytest

torch = pytest.importorskip('torch', reason="no torch: pip install 'dap_led_ros[train]'")
pytest.importorskip('lightning_fabric', reason="no fabric: pip install 'dap_led_ros[train]'")

import onnx
import yaml
from conftest import cut

from dap_led_ros import export, sample
from dap_led_ros.checkpoints import checkpoint
from dap_led_ros.checkpoints.priors import build_prior
from dap_led_ros.export.graphs import ExposureFirstGraph
from dap_led_ros.inference import Enhancer, weights
from dap_led_ros.inference.frames import to_tensor
from dap_led_ros.models import dap_led, exposure
from dap_led_ros.models.dap_led import DapLed
from dap_led_ros.models.exposure import Exposure, ToneCurve
from dap_led_ros.models.exposure_first import PRESETS, ExposureFirst
from dap_led_ros.photometry import linear_to_srgb, srgb_to_linear
from dap_led_ros.priors import PriorConfig
from dap_led_training import configuration, loop
from dap_led_training.data import crops, judge_photographs
from dap_led_training.data.batches import Stage
from dap_led_training.make import equalized
from dap_led_training.night.night_batches import MARGIN, Drawn, NightConfig, degrade, draw
from dap_led_training.trainers import exposure_first as train_exposure_first
from dap_led_training.trainers.exposure_first import ExposureFirstRecipe, tone_pair, train
from dap_led_training.trainers.paired import TrainConfig, shipped_exposure
from dap_led_training.trainers.paired import train as train_network

NANO = configuration.RECIPES / 'nano'


def random_tiny() -> ExposureFirst:
    """A network whose residual is not zero."""
    torch.manual_seed(0)
    network = ExposureFirst(PRESETS['exposure-first-tiny'])
    for layer in (network.head, network.told, network.exposure.head[-1]):
        torch.nn.init.normal_(layer.weight, std=0.05)
    return network.eval()


def darkened(picture: np.ndarray, factor: float) -> torch.Tensor:
    """(1, 3, H, W) sRGB in [0, 1], in steps of 16 bit."""
    value = linear_to_srgb(srgb_to_linear(picture) * np.float32(factor))
    return torch.from_numpy(np.rint(value * 65535) / 65535).permute(2, 0, 1)[None].float()


# --- the curve ---------------------------------------------------------------------------------


def test_log_light_is_that_of_srgb():
    values = np.linspace(0.005, 1, 996, dtype=np.float32)
    expected = np.log(srgb_to_linear(values))
    found = exposure.log_light(torch.from_numpy(values)).numpy()
    np.testing.assert_allclose(found, expected, atol=3e-3)  # photometry looks up a table


def test_no_exposure_changes_nothing_but_the_last_blacks():
    one = torch.ones(1, 1, 1, 1)
    curve = ToneCurve(0 * one, one * exposure.SRGB_CONTRAST, one * exposure.SRGB_BLACK, one)
    values = torch.linspace(0, 1, 256).view(1, 1, 1, -1)
    shown = exposure.apply(curve, values)
    torch.testing.assert_close(shown[..., 12:], values[..., 12:], rtol=0, atol=1e-5)
    assert (shown.clamp(min=0) - values).abs().max() * 255 < 4


@pytest.mark.parametrize('contrast', [0.15, 0.25, 1 / 2.4])
@pytest.mark.parametrize('log_mean', [-8.0, -5.0, -2.0])
def test_a_curve_is_monotone_shows_its_level_and_keeps_black_black(contrast, log_mean):
    level, mean = torch.tensor([0.41]), torch.tensor([log_mean])
    curve, _ = Exposure.curve(level, torch.tensor([contrast]), mean, 0 * mean)
    values = torch.linspace(0, 1, 1001).view(1, 1, 1, -1)
    shown = exposure.apply(curve, values)
    assert (shown.diff() >= 0).all()
    assert float(shown[..., 0]) < 0.04 and float(shown[..., -1]) <= 1.001
    at_mean = linear_to_srgb(np.exp(mean.numpy())).reshape(1, 1, 1, 1)
    if float(curve.exposure) > 0:
        assert float(exposure.apply(curve, torch.from_numpy(at_mean))) == pytest.approx(
            0.41, abs=0.02
        )


def test_what_is_brighter_than_white_is_rolled_off():
    brightest = torch.tensor([-1.0])
    curve, _ = Exposure.curve(
        torch.tensor([0.41]), torch.tensor([1 / 2.4]), torch.tensor([-6.0]), brightest
    )
    assert float(curve.white) > 2
    code = linear_to_srgb(np.exp(brightest.numpy())).reshape(1, 1, 1, 1)
    assert float(exposure.apply(curve, torch.from_numpy(code))) == pytest.approx(1, abs=2e-3)
    half = linear_to_srgb(np.exp(brightest.numpy()) / 2).reshape(1, 1, 1, 1)
    assert 0.8 < float(exposure.apply(curve, torch.from_numpy(half))) < 0.995


@pytest.mark.parametrize('factor', [0.03, 0.06, 0.1])
def test_equal_scene_equal_tone(night, factor):
    """The light of a scene, by whatever factor: the same picture."""
    first, second = (
        exposure.apply(Exposure()(frame)[0], frame)
        for frame in (darkened(night[1], 0.2), darkened(night[1], factor))
    )
    assert float((first - second).detach().abs().mean()) * 255 < 2


def test_a_bright_frame_is_never_darkened(night):
    frame = darkened(night[1], 1.0).clamp(0.3, 1)
    curve, _ = Exposure()(frame)
    assert float(curve.exposure.min()) == 0
    assert (exposure.apply(curve, frame) >= frame - 1e-3).all()


def test_a_power_of_the_display_value_is_undone_by_the_contrast(night):
    """A camera that crushes its shadows, and the contrast that lifts them again."""
    sharp = darkened(night[1], 1.0).clamp(min=0.02)
    crushed = 0.3 * sharp**2
    _, log_mean, brightest = exposure.statistics(crushed)

    def error(contrast: float) -> float:
        """Mean distance from the sharp frame, its mean made equal."""
        curve, _ = Exposure.curve(
            torch.tensor([0.41]), torch.tensor([contrast]), log_mean, brightest
        )
        shown = exposure.apply(curve, crushed)
        return float((shown * (sharp.mean() / shown.mean()) - sharp).abs().mean()) * 255

    assert error(0.3) < 0.8 * error(1 / 2.4)


# --- the network -------------------------------------------------------------------------------


@pytest.mark.parametrize('size', [(16, 16), (17, 31), (95, 130)])
def test_untrained_it_shows_the_frame_by_its_curve(size):
    network = ExposureFirst(PRESETS['exposure-first-tiny']).eval()
    parts = network.parts(torch.rand(2, 3, *size) * 0.2)
    torch.testing.assert_close(parts.sharp, parts.toned, rtol=0, atol=0)
    assert network(torch.rand(2, 3, *size)).shape == (2, 3, *size)


def test_every_parameter_learns():
    network = random_tiny().train()
    frame = torch.rand(2, 3, 48, 64) * 0.2
    (network(frame) - torch.rand(2, 3, 48, 64)).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_frames_of_a_batch_do_not_see_one_another():
    network, frames = (
        random_tiny(),
        torch.rand(3, 3, 40, 56) * torch.tensor([1, 0.3, 0.05]).view(3, 1, 1, 1),
    )
    together = network(frames)
    for index in range(3):
        torch.testing.assert_close(
            together[index], network(frames[index : index + 1])[0], rtol=0, atol=1e-5
        )


@pytest.mark.parametrize(('precision', 'frames'), [('fp32', 0), ('fp32', 1), ('fp16', 0)])
def test_export_and_its_parity(tmp_path, precision, frames):
    path = tmp_path / 'tiny.onnx'
    export.export(random_tiny(), path, precision, bool(frames))  # raises where it differs
    frame = (np.random.default_rng(0).random((37, 53, 3)) * 40).astype(np.uint8)
    enhanced = Enhancer.load(str(path)).enhance(frame).frame
    assert enhanced.shape == frame.shape and enhanced.mean() > frame.mean() + 20


@pytest.mark.parametrize('int8', [False, True])
def test_the_graph_is_the_network(night, int8):
    network = checkpoint.load(weights.checkpoint('nano'))
    graph = ExposureFirstGraph(network, int8=int8).eval()
    names = {'stem.weight', 'encoder4.0.conv1.weight', 'up4.weight', 'head.bias'}
    assert names <= set(graph.state_dict())
    pair = torch.from_numpy(np.concatenate([to_tensor(frame) for frame in night]))
    for height, width in ((37, 51), (120, 160)):
        frames = torch.nn.functional.interpolate(pair, (height, width), mode='area')
        with torch.inference_mode():
            expected = network(frames)
            given = frames, frames, torch.zeros_like(frames[:, :1])  # without a past
            torch.testing.assert_close(graph(*given), expected, atol=1e-5, rtol=0)
        assert (expected - frames).abs().max() > 0.1


def test_int8_is_left_where_the_picture_is_added_up(tmp_path):
    """No sum, and no shuffle of features, between the first and the last layer in int8."""
    frames = [camera for camera, _ in sample.night_sequence(3)]
    network = checkpoint.load(weights.checkpoint('nano'))
    export.export(network, tmp_path / 'int8.onnx', 'int8', calibration=frames)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / 'optimized.onnx')
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(tmp_path / 'int8.onnx'), options)
    run = [node.op_type for node in onnx.load(tmp_path / 'optimized.onnx').graph.node]
    inside = run[run.index('QLinearConv') : len(run) - run[::-1].index('QLinearConv')]
    sums = sum(network.config.encoder_blocks) + sum(network.config.decoder_blocks) + 2
    # The last block is one with the growing behind it; one sum is told.
    assert inside.count('QLinearAdd') >= sums - 3
    assert inside.count('Transpose') <= 3
    full = Enhancer.load(str(weights.find('nano')))
    small = Enhancer.load(str(tmp_path / 'int8.onnx'))
    one, other = (enhancer.network(frames[1])[0] for enhancer in (full, small))
    assert cv2.PSNR(one, other) > 32


def test_a_checkpoint_keeps_the_function(tmp_path):
    network, frame = random_tiny(), torch.rand(1, 3, 40, 56)
    checkpoint.save(network, tmp_path / 'one.safetensors')
    loaded = checkpoint.load(tmp_path / 'one.safetensors')
    torch.testing.assert_close(loaded(frame), network(frame), rtol=0, atol=0)


def test_other_networks_take_exposure_first(tmp_path):
    """DAP-LED behind the same tone curve: kept, exported, and equally bright for less light."""
    torch.manual_seed(0)
    prior = PriorConfig(kind='handcrafted')
    network = DapLed(dataclasses.replace(dap_led.PRESETS['dap-led-tiny'], prior=prior)).eval()
    exposed = checkpoint.Exposed(network, Exposure())
    path = tmp_path / 'exposed.safetensors'
    checkpoint.save(exposed, path, build_prior(prior))
    loaded = checkpoint.load(path)
    assert isinstance(loaded.network, checkpoint.Exposed)
    frame = torch.rand(1, 3, 48, 64) * 0.1
    guide = loaded.prior(frame).heatmaps[:, prior.guide : prior.guide + 1]
    torch.testing.assert_close(loaded(frame), exposed(frame, guide), rtol=0, atol=1e-6)
    assert float(loaded(frame).detach().mean()) > float(frame.mean()) + 0.1
    export.export(loaded, tmp_path / 'exposed.onnx')  # raises where it differs
    with pytest.raises(ValueError, match='whole frames'):
        Enhancer.load(str(path), 'cpu', tile=256)


def test_a_recipe_may_ask_for_exposure_first():
    recipe = {'network': 'nano-tiny', 'data': {'photographs': ['a']}, 'stages': []}
    with pytest.raises(ValueError, match='takes frames as they come'):
        configuration.build({**recipe, 'exposure': 'first'}, TrainConfig, 'recipe')
    with pytest.raises(ValueError, match='use first'):
        configuration.build({**recipe, 'exposure': 'last'}, TrainConfig, 'recipe')
    recipe |= {'network': 'dap-led-tiny', 'night': {}}
    with pytest.raises(ValueError, match='night needs exposure: first'):
        configuration.build(recipe, TrainConfig, 'recipe')
    recipe |= {'exposure': 'first', 'data': {'degraded': 'a', 'target': 'b'}}
    with pytest.raises(ValueError, match=r'give data\.photographs'):
        configuration.build(recipe, TrainConfig, 'recipe')


# --- the synthesis -----------------------------------------------------------------------------


@pytest.fixture(scope='module')
def batches(tmp_path_factory) -> crops.NightBatches:
    folder = cut(tmp_path_factory.mktemp('sharp'), 4, 2, (240, 160))
    photographs = crops.load([str(folder)], validation=False)
    return crops.NightBatches(photographs, [Stage(64, 12, 5)], NightConfig(), seed=3)


def planes(photographs: torch.Tensor) -> torch.Tensor:
    return photographs.permute(0, 3, 1, 2)


def test_a_sample_is_a_function_of_seed_step_and_index_alone(batches):
    given, *drawn = batches[3]
    whole = degrade(planes(given), Drawn(*drawn))
    for rank in range(3):
        part = crops.NightBatches(batches.photographs, batches.stages, batches.config, 3, rank, 3)
        some, *of_some = part[3]
        made = degrade(planes(some), Drawn(*of_some))
        for field in ('degraded', 'clean', 'day'):
            expected = getattr(whole, field)[rank * 4 : rank * 4 + 4]
            torch.testing.assert_close(getattr(made, field), expected, rtol=0, atol=1e-4)
    again, *_ = batches[3]
    other, *_ = batches[4]
    assert torch.equal(given, again) and not torch.equal(given, other)


def test_nothing_drawn_is_nothing_done(batches):
    given, *_ = batches[0]
    config = NightConfig(daylight=1, clean=1)
    drawn = crops.stack([draw(config, np.random.default_rng(i), 64) for i in range(len(given))])
    made = degrade(planes(given), drawn)
    inner = planes(given)[..., MARGIN:-MARGIN, MARGIN:-MARGIN] / 255
    for one in (made.degraded, made.clean, made.day):
        torch.testing.assert_close(one, inner, rtol=0, atol=1e-6)


def test_blur_keeps_the_light_and_only_dark_loses_nothing_else(batches):
    given, *_ = batches[1]
    config = NightConfig(
        daylight=0, clean=0, blur=0, defocus=0, noise_free=1, law_gamma=0, uneven_light=0,
        colour_cast=0, sodium=0, lamps=0, curve=0, exposure=(0.1, 0.1),
    )  # fmt: skip
    drawn = crops.stack([draw(config, np.random.default_rng(i), 64) for i in range(len(given))])
    made = degrade(planes(given), drawn)
    assert float((made.degraded - made.clean).abs().max()) <= 0.5001 / 255
    light = srgb_to_linear(made.day.numpy()) * np.float32(0.1)
    np.testing.assert_allclose(made.clean.numpy(), linear_to_srgb(light), atol=2e-3)
    # A blurred picture has the same light as the sharp one, but for what crosses the border.
    moved = NightConfig(daylight=1, clean=0, blur=1, noise_free=1, curve=0, defocus=0)
    drawn = crops.stack([draw(moved, np.random.default_rng(i), 64) for i in range(len(given))])
    made = degrade(planes(given), drawn)
    means = [srgb_to_linear(p.numpy()).mean() for p in (made.degraded, made.clean)]
    assert means[0] == pytest.approx(means[1], rel=0.05)
    assert float((made.degraded - made.clean).abs().mean()) > 0.01


def test_structure_is_taught_without_brightness(batches):
    """Degraded and clean come out equally bright, whatever the light, curve and level."""
    given, *drawn = batches[2]
    made = degrade(planes(given), Drawn(*drawn))
    level = torch.full((len(given),), 0.41)
    toned, _, target = tone_pair(made, level, exposure.SRGB_CONTRAST * made.power.clamp(0.5, 1))
    difference = (toned - target).mean((1, 2, 3)).abs() * 255
    assert float(difference.median()) < 6


# --- the training ------------------------------------------------------------------------------


@pytest.mark.parametrize('part', ['structure', 'exposure', 'gate'])
def test_a_part_learns_alone_and_a_killed_run_goes_on(part, tmp_path, capsys):
    folder = cut(tmp_path / 'sharp', 9, 3, (240, 160))
    config = ExposureFirstRecipe(
        part=part,
        photographs=[str(folder)],
        network='exposure-first-tiny',
        stages=[Stage(64, 4, 4)],
        losses=loop_losses(),
        loop=loop.LoopConfig(checkpoint_every=2, workers=0, learning_rate=1e-3),
    )
    begun = tmp_path / 'begun.safetensors'
    checkpoint.save(random_tiny(), begun)
    weights = train(config, tmp_path / 'run', begun)
    printed = capsys.readouterr()
    assert 'gain, day blur (dB)' in printed.out + printed.err
    before, network = checkpoint.load(begun).state_dict(), checkpoint.load(weights)
    begins = train_exposure_first.PARTS
    changed = {
        next((p for p, b in begins.items() if b and name.startswith(b)), 'structure')
        for name, _ in network.named_parameters()
        if not torch.equal(network.state_dict()[name], before[name])
    }
    assert changed == {part}
    capsys.readouterr()
    train(config, tmp_path / 'run')  # ended: nothing is left to do
    assert 'resuming' in capsys.readouterr().out


def test_dap_led_trains_on_the_same_night_behind_the_same_curve(tmp_path, capsys):
    folder = cut(tmp_path / 'sharp', 9, 3, (240, 160))
    recipe = configuration.build(
        {
            'network': 'dap-led-tiny',
            'exposure': 'first',
            'prior': {'kind': 'handcrafted'},
            'data': {'photographs': [str(folder)]},
            'night': {'daylight': 0.2},
            'losses': {'charbonnier': 1.0},
            'stages': [{'crop': 64, 'batch': 2, 'steps': 3}],
            'loop': {'checkpoint_every': 3, 'workers': 0},
        },
        TrainConfig,
        'recipe',
    )
    weights = train_network(recipe, tmp_path / 'run')
    printed = capsys.readouterr()
    assert 'gain, night (dB)' in printed.out + printed.err
    network = checkpoint.load(weights)
    exposed = network.network
    shipped = shipped_exposure().state_dict()
    assert all(torch.equal(one, shipped[n]) for n, one in exposed.exposure.state_dict().items())
    frame = torch.rand(1, 3, 64, 64) * 0.1
    guide = network.prior(frame).heatmaps[:, :1]
    shown = exposure.apply(exposed.exposure(frame)[0], frame)
    assert not torch.equal(exposed.network(shown, guide), shown)  # it has learned something


def loop_losses():
    return configuration.build(
        {'charbonnier': 1.0, 'gradient': 0.5}, train_exposure_first.LossWeights, ''
    )


def test_a_run_that_has_died_stops_and_says_so(tmp_path, monkeypatch):
    folder = cut(tmp_path / 'sharp', 9, 3, (240, 160))
    monkeypatch.setattr(
        train_exposure_first.Validation,
        '__call__',
        lambda self, network: {'gain, night (dB)': 0.001},
    )
    config = ExposureFirstRecipe(
        part='structure',
        photographs=[str(folder)],
        network='exposure-first-tiny',
        stages=[Stage(64, 2, 9)],
        losses=loop_losses(),
        loop=loop.LoopConfig(checkpoint_every=1, workers=0),
    )
    with pytest.raises(FloatingPointError, match='smaller learning_rate'):
        train(config, tmp_path / 'run')


def test_every_recipe_of_the_default_is_one(tmp_path):
    recipes = sorted(NANO.glob('*.yaml'))
    assert len(recipes) >= 3
    for path in recipes:
        configuration.load(path, ExposureFirstRecipe)
    wrong = tmp_path / 'wrong.yaml'
    wrong.write_text(yaml.safe_dump({'part': 'colour', 'photographs': ['a'], 'stages': []}))
    with pytest.raises(ValueError, match='structure, exposure, gate'):
        configuration.load(wrong, ExposureFirstRecipe)


def test_judges_are_in_no_training(tmp_path, monkeypatch):
    folder = cut(tmp_path / 'sharp', 9, 3, (240, 160))
    listed = tmp_path / 'list.txt'
    listed.write_text(f'{judge_photographs.digest(folder / "3.png")}  here/3.png\n')
    monkeypatch.setattr(judge_photographs, 'LIST', listed)
    judge_photographs.hashes.cache_clear()
    try:
        assert len(crops.load([str(folder)], False)) + len(crops.load([str(folder)], True)) == 8
        counts = crops.pack([str(folder)], tmp_path / 'packed.pt')
        packed = crops.load([str(tmp_path / 'packed.pt')], False)
        assert len(packed) == counts['training']
        assert np.array_equal(packed[0], crops.load([str(folder)], False)[0])
    finally:
        judge_photographs.hashes.cache_clear()


def test_equalized_weights_are_the_same_function_with_even_channels():
    torch.manual_seed(1)
    config = dataclasses.replace(PRESETS['exposure-first-tiny'], history=True)
    network = ExposureFirst(config).eval()
    torch.nn.init.normal_(network.head.weight, std=0.1)
    with torch.no_grad():
        network.encoder8[0].conv2.weight[:2] *= 30  # two channels far larger than the others
    frames = [torch.rand(2, 3, 64, 64) * 0.2]
    readers = {'8': (network.up4, network.down16)}
    uneven = equalized._ranges(network, frames, readers)['8']
    with torch.no_grad():
        before = network(frames[0])
        equalized.equalize(network, frames)
        torch.testing.assert_close(network(frames[0]), before, rtol=0, atol=1e-4)
    even = equalized._ranges(network, frames, readers)['8']
    assert float(even.max() / even.median()) < 0.5 * float(uneven.max() / uneven.median())
