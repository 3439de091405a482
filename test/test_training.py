"""Synthesis, losses, configuration, and a whole small training on real pictures."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason="no torch: pip install 'dap_led_ros[train]'")
yaml = pytest.importorskip('yaml')

from dap_led_ros import export, photometry
from dap_led_ros.export import untrained
from dap_led_ros.inference import Enhancer
from dap_led_training import configuration, losses
from dap_led_training.data import photographs
from dap_led_training.data.batches import Batches, Stage
from dap_led_training.data.config import DataConfig
from dap_led_training.data.photographs import NightBlurPairs
from dap_led_training.loop import LoopConfig
from dap_led_training.losses import LossWeights
from dap_led_training.night import independent, night_blur
from dap_led_training.night.night_blur import NightBlurConfig, degrade, margin
from dap_led_training.trainers.clip import ClipConfig
from dap_led_training.trainers.clip_lit import ClipLitConfig
from dap_led_training.trainers.da_clip import DaClipConfig
from dap_led_training.trainers.devudp import DevudpTraining
from dap_led_training.trainers.distilled import DistilConfig
from dap_led_training.trainers.exposure_first import ExposureFirstRecipe
from dap_led_training.trainers.paired import TrainConfig, train
from dap_led_training.trainers.ptg_rm import RefinerRecipe

RECIPES = configuration.RECIPES


@pytest.fixture(scope='module')
def sharp(folder) -> np.ndarray:
    return photographs.read_rgb(Path(folder) / '0.png')


# --- synthesis --------------------------------------------------------------------------------


def test_validation_photographs_are_not_trained_on(folder):
    split = [photographs.find_photographs([folder], validation=v) for v in (True, False)]
    assert [len(part) for part in split] == [1, 7]
    assert not set(split[0]) & set(split[1])
    inner = Path(folder)
    assert photographs.find_photographs([str(inner.parent)], validation=True) == split[0]
    with pytest.raises(FileNotFoundError, match='no photographs in'):
        photographs.find_photographs([folder + '/none'], validation=False)


def test_degraded_is_darker_and_the_target_is_the_photograph(sharp):
    config = NightBlurConfig(daylight=0, lamps=0, keep_highlights=0)
    inner = sharp[margin(config) : -margin(config), margin(config) : -margin(config)]
    laws = set()
    for seed in range(24):
        degraded, target, drawn = degrade(sharp, config, np.random.default_rng(seed))
        assert np.abs(target.astype(int) - inner).max() <= 1
        assert degraded.shape == target.shape
        assert degraded.mean() < 0.85 * target.mean()
        laws.add(drawn['law'])
    assert laws == {'linear', 'gamma', 'curve'}


def test_daylight_is_blurred_but_not_darkened(sharp):
    config = NightBlurConfig(daylight=1.0, blur=1.0, path_length=(12, 16), jpeg=0)
    degraded, target, drawn = degrade(sharp, config, np.random.default_rng(0))
    assert 'law' not in drawn
    assert 12 <= drawn['path_length'] <= 16
    assert abs(degraded.mean() / target.mean() - 1) < 0.1
    assert cv2.Laplacian(degraded, cv2.CV_32F).std() < cv2.Laplacian(target, cv2.CV_32F).std()


def test_lamps_still_clip_after_the_exposure_cut(sharp):
    only_lamps = {'blur': 0, 'defocus': 0, 'smoothing': 0, 'jpeg': 0, 'keep_highlights': 0}
    config = NightBlurConfig(daylight=0, lamps=1.0, lamp_radius=(4, 6), **only_lamps)
    with_lamps_in_view = 0
    for seed in range(12):
        degraded, target, drawn = degrade(sharp, config, np.random.default_rng(seed))
        clips = (degraded >= 250).any(axis=2)
        assert drawn['lamps'] >= 1
        assert np.median(degraded) < 128
        if clips.any():
            with_lamps_in_view += 1
            assert np.median(target.max(axis=2)[clips]) >= 250
    assert with_lamps_in_view >= 8


def test_a_fifth_of_the_recipes_pairs_have_lamps_that_clip(folder):
    recipe = configuration.load(RECIPES / 'nano_0_1' / '1_night.yaml', TrainConfig)
    paths = photographs.find_photographs([folder], validation=False)
    stage = dataclasses.replace(recipe.stages[0], steps=12)
    batches = Batches(NightBlurPairs(paths, recipe.night_blur), [stage], seed=1)
    clipping = []
    for step in range(stage.steps):
        degraded, target = batches[step]
        dark = degraded.float().mean((1, 2, 3)) < 0.8 * target.float().mean((1, 2, 3))
        clipping.append(dark & (degraded.amax(-1).flatten(1) >= 250).any(1))
    assert torch.cat(clipping).float().mean() >= 0.2


@pytest.mark.parametrize('straight', [True, False])
def test_a_camera_path_has_its_length_and_its_middle(straight):
    for length in (0.5, 7.0, 22.0):
        path = night_blur.camera_path(length, 16, straight, np.random.default_rng(3))
        assert np.hypot(*np.diff(path, axis=0).T).sum() == pytest.approx(length)
        np.testing.assert_allclose(path.mean(axis=0), 0, atol=1e-9)


def test_averaging_over_a_path_keeps_the_light(sharp):
    light = photometry.srgb_to_linear(sharp)
    still = photometry.average_over_path(light, np.zeros((3, 2)), np.zeros(3))
    np.testing.assert_allclose(still, light, atol=1e-6)
    path = night_blur.camera_path(10, 10, True, np.random.default_rng(0))
    moved = photometry.average_over_path(light, path, np.zeros(10))
    assert moved.mean() == pytest.approx(light.mean(), rel=0.02)


def test_srgb_is_the_standard_and_round_trips():
    codes = np.arange(256, dtype=np.uint8)
    linear = photometry.srgb_to_linear(codes)
    assert linear[[0, 10, 188, 255]] == pytest.approx([0, 0.003035, 0.502886, 1], abs=1e-5)
    np.testing.assert_array_equal(photometry.to_uint8(photometry.linear_to_srgb(linear)), codes)
    np.testing.assert_allclose(photometry.srgb_to_linear(codes / 255), linear, atol=1e-4)


def test_the_curve_law_reaches_its_mean(sharp):
    lightness = sharp.max(axis=2).astype(np.float32) / 255
    for mean in (0.05, 0.2):
        table = night_blur._darkening_curve(lightness, mean)
        assert (np.diff(table) >= 0).all()
        assert photometry.look_up(table, lightness).mean() == pytest.approx(mean, abs=0.02)


def test_the_independent_night_is_dark_blurred_and_repeatable(sharp):
    make = [independent.night(sharp, np.random.default_rng(1), lamps) for lamps in (0, 0, 1)]
    np.testing.assert_array_equal(make[0][0], make[1][0])
    np.testing.assert_array_equal(make[0][1], sharp)
    assert make[0][0].mean() < 0.5 * sharp.mean()
    assert (make[2][0] >= 250).any()


# --- losses and metrics -----------------------------------------------------------------------


@pytest.mark.parametrize('name', ['charbonnier', 'gradient', 'dissimilarity', 'contrast', 'grid'])
def test_losses_vanish_on_equal_frames_and_grow_with_the_error(name):
    torch.manual_seed(0)
    target, noise = torch.rand(2, 3, 112, 112), torch.randn(2, 3, 112, 112)
    values = [float(getattr(losses, name)(target + k * noise, target)) for k in (0, 0.05, 0.2)]
    assert values[0] == pytest.approx(0, abs=2e-3)
    assert values[0] < values[1] < values[2]


def test_losses_by_hand():
    flat = torch.full((1, 3, 16, 16), 0.5)
    assert float(losses.charbonnier(flat + 0.25, flat)) == pytest.approx(0.25, abs=1e-4)
    assert float(losses.gradient(flat + 0.25, flat)) == pytest.approx(0, abs=1e-6)
    ramp = flat + torch.arange(16) * 0.01
    assert float(losses.gradient(ramp, flat)) == pytest.approx(0.01, abs=1e-6)
    grid = flat.clone()
    grid[..., ::4, ::4] += 0.16  # mean 0.01; one of 16 places is 0.15 above it, the others 0.01
    assert float(losses.grid(grid, flat)) == pytest.approx((0.15 + 15 * 0.01) / 16, abs=1e-6)
    assert float(losses.grid(flat + 0.3, flat)) == pytest.approx(0, abs=1e-6)


def test_contrast_asks_for_as_much_as_the_target_has_at_any_brightness():
    torch.manual_seed(0)
    known, unknown = 0.1 * torch.randn(2, 1, 3, 128, 128)
    target, guesses = 0.5 + known + unknown, {k: 0.5 + k * known for k in (0.7, 1.0, 1.4, 2.0)}
    nearest, best = (
        min(guesses, key=lambda k: loss(guesses[k], target))
        for loss in (losses.charbonnier, losses.contrast)
    )
    assert (nearest, best) == (1.0, 1.4)
    assert float(losses.contrast(target - 0.3, target)) == pytest.approx(0, abs=1e-4)


def test_the_gate_shall_be_open_where_something_is_degraded():
    target = torch.rand(2, 3, 16, 16)
    degraded = target.clone()
    degraded[1] *= 0.5
    right, wrong = torch.tensor([-9.0, 9.0]), torch.tensor([9.0, -9.0])
    assert float(losses.gate_error(right, degraded, target)) < 1e-3
    assert float(losses.gate_error(wrong, degraded, target)) == pytest.approx(9, abs=1e-2)


# --- configuration ----------------------------------------------------------------------------


def test_an_unknown_network_names_the_known_ones(folder, tmp_path):
    with pytest.raises(ValueError, match='use one of nano, nano-large, nano-tiny, dap-led-paper'):
        dataclasses.replace(recipe(folder, 8), network='nanoo')
    assert configuration.load(RECIPES / 'dap_led' / 'paper.yaml', TrainConfig).prior.clip.endswith(
        'quickgelu'
    )


def test_presets_of_the_first_release_warn_and_mean_today_s(folder):
    with pytest.warns(FutureWarning, match="preset 'small' is 'dap-led-small' now"):
        assert dataclasses.replace(recipe(folder, 8), network='small').network == 'dap-led-small'
    with pytest.warns(FutureWarning, match="'tiny' is 'dap-led-tiny'"):
        untrained('tiny')


def test_contrast_needs_crops_that_hold_its_windows(folder):
    least = losses.CONTRAST_LEAST
    frame = torch.rand(1, 3, least, least)
    assert float(losses.contrast(frame, frame)) == pytest.approx(0, abs=1e-4)
    stages = [Stage(least - 1, 2, 1)]
    with pytest.raises(ValueError, match=f'a crop of {least - 1} is too small .* use {least}'):
        dataclasses.replace(recipe(folder, 8), losses=LossWeights(contrast=1), stages=stages)


def test_every_recipe_loads():
    recipes = sorted(RECIPES.rglob('*.yaml'))
    assert recipes
    kinds = {
        'exposure_first': ExposureFirstRecipe,
        'paired': TrainConfig,
        'clip': ClipConfig,
        'distilled': DistilConfig,
        'clip_lit': ClipLitConfig,
        'da_clip': DaClipConfig,
        'devudp': DevudpTraining,
        'ptg_rm': RefinerRecipe,
    }
    for recipe in recipes:
        kind = kinds[configuration.kind_of(recipe)]
        assert isinstance(configuration.load(recipe, kind), kind)


def test_keys_of_the_first_release_warn_and_mean_today_s(tmp_path):
    given = tmp_path / 'c.yaml'
    given.write_text(
        '{network: nano, data: {photographs: [a]}, stages: [], keep: 0.5, only: [up]}'
    )
    with pytest.warns(FutureWarning, match='keep is keep_input now') as said:
        config = configuration.load(given, TrainConfig)
    assert 'only is train_only now' in str(said[1].message)
    assert (config.keep_input, config.train_only) == (0.5, ['up'])


@pytest.mark.parametrize(
    ('text', 'said'),
    [
        ('netwrok: nano', "no key 'netwrok'; did you mean 'network'"),
        ('night_blur: {lamp: 1}', "night_blur: no key 'lamp'; did you mean 'lamps'"),
        ('stages: [{crop: 1, batch: 2}]', 'steps'),
        ('stages: 3', 'expected a list'),
        ('loop: {seed: one}', 'seed: expected int'),
        ('loop: {optimizer: sgd}', "optimizer: 'sgd' is not one of"),
        ('losses: {polarity: up}', "losses.polarity: 'up'"),
        ('prior: {prompts: dark}', "prior.prompts: 'dark'"),
        ('data: {}', 'give either photographs'),
        ('night_blur: {gamma: [1, 2, 3]}', 'gamma: expected 2 values'),
        ('network: nano', 'data'),
        ('- 1', 'expected a mapping'),
    ],
)
def test_a_wrong_configuration_is_explained(tmp_path, text, said):
    (tmp_path / 'c.yaml').write_text(text)
    with pytest.raises(ValueError, match=said):
        configuration.load(tmp_path / 'c.yaml', TrainConfig)


def test_numbers_and_tuples_are_converted(tmp_path):
    (tmp_path / 'c.yaml').write_text(
        'network: nano\ndata: {photographs: [a]}\nstages: [{crop: 8, batch: 1, steps: 1}]\n'
        'loop: {learning_rate: 1}\nnight_blur: {gamma: [1, 2], jpeg_quality: [50, 60]}\n'
    )
    config = configuration.load(tmp_path / 'c.yaml', TrainConfig)
    assert config.night_blur.gamma == (1.0, 2.0)
    assert isinstance(config.loop.learning_rate, float)


# --- the whole way ----------------------------------------------------------------------------


def recipe(folder: str, steps: int) -> TrainConfig:
    return TrainConfig(
        network='nano-tiny',
        data=DataConfig(photographs=[folder]),
        stages=[Stage(32, 4, 4), Stage(48, 2, steps - 4)],
        losses=LossWeights(gradient=0.1, dissimilarity=0.1, grid=0.5, gate=0.03),
        loop=LOOP,
    )


LOOP = LoopConfig(
    optimizer='adamw',
    schedule='cosine',
    learning_rate=8e-4,
    warmup_steps=2,
    ema_decay=0.9,
    workers=0,
    checkpoint_every=4,
)


def test_train_resume_export_enhance(folder, tmp_path, monkeypatch):
    config = recipe(folder, steps=12)
    whole = train(config, tmp_path / 'whole')

    calls = []
    original = Batches.__getitem__

    def interrupted(self, step):
        calls.append(step)
        if step == 6 and calls.count(6) == 1:
            raise KeyboardInterrupt
        return original(self, step)

    monkeypatch.setattr(Batches, '__getitem__', interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / 'broken')
    resumed = train(config, tmp_path / 'broken')
    assert calls[:7] == list(range(7))
    assert calls[7:] == list(range(4, 12))  # from the checkpoint at step 4 on
    assert whole.read_bytes() == resumed.read_bytes()

    network = export.load_network(whole)
    assert export.export(network, tmp_path / 'tiny.onnx') <= export.TOLERANCE
    picture = photographs.read_rgb(Path(folder) / '1.png')
    enhanced = Enhancer.load(str(tmp_path / 'tiny.onnx')).enhance(picture).frame
    assert enhanced.shape == picture.shape
    assert not np.array_equal(enhanced, picture)
    (log,) = (tmp_path / 'whole' / 'logs').glob('*/metrics.csv')
    with log.open() as file:
        assert [row['step'] for row in csv.DictReader(file)] == ['4', '8', '12']
    environment = json.loads((tmp_path / 'whole' / 'environment.json').read_text())
    assert environment['torch'] == torch.__version__.split('+')[0] and environment['seed'] == 1
    saved = configuration.load(tmp_path / 'whole' / 'config.yaml', TrainConfig)
    assert saved == config


def test_fine_tuning_begins_with_the_weights_it_is_given(folder, tmp_path, capsys):
    config = dataclasses.replace(
        recipe(folder, 8), loop=dataclasses.replace(LOOP, learning_rate=0.0)
    )
    first = train(recipe(folder, 8), tmp_path / 'first')
    second = train(config, tmp_path / 'second', initial=first)
    assert 'anew: -; left: -' in capsys.readouterr().out
    for name, tensor in export.load_network(first).state_dict().items():
        torch.testing.assert_close(tensor, export.load_network(second).state_dict()[name])


def test_only_the_named_parts_learn(folder, tmp_path):
    first = export.load_network(train(recipe(folder, 8), tmp_path / 'first'))
    config = dataclasses.replace(recipe(folder, 8), train_only=['gate', 'head'])
    second = train(config, tmp_path / 'second', initial=tmp_path / 'first/weights.safetensors')
    changed = {
        name.split('.')[0]
        for name, tensor in export.load_network(second).state_dict().items()
        if not torch.equal(tensor, first.state_dict()[name])
    }
    assert changed == {'gate', 'head'}
    with pytest.raises(ValueError, match="no parameter of nano-tiny begins with 'haed'"):
        train(dataclasses.replace(config, train_only=['gate', 'haed']), tmp_path / 'third')


def test_training_learns(folder, tmp_path):
    """Forty steps on few pictures already beat the input."""
    config = dataclasses.replace(
        recipe(folder, 60),
        stages=[Stage(32, 8, 60, clean=0.0)],
        loop=dataclasses.replace(LOOP, learning_rate=4e-3),
        night_blur=NightBlurConfig(daylight=0, law_linear=1.0, law_gamma=0, exposure=(0.05, 0.06)),
    )
    network = export.load_network(train(config, tmp_path))
    paths = photographs.find_photographs([folder], validation=True)
    pairs = NightBlurPairs(paths, config.night_blur)
    batches = Batches(pairs, [Stage(64, 8, 1, clean=0.0)], seed=9)
    degraded, target = (t.permute(0, 3, 1, 2) / 255 for t in batches[0])
    with torch.inference_mode():
        errors = [float((x - target).abs().mean()) for x in (degraded, network(degraded))]
    assert errors[1] < 0.7 * errors[0]


def test_a_loss_that_is_no_number_stops_and_keeps_the_checkpoint(folder, tmp_path, monkeypatch):
    original = losses.charbonnier
    steps = iter(range(100))
    monkeypatch.setattr(
        losses, 'charbonnier', lambda *a: original(*a) * (float('nan') if next(steps) > 5 else 1)
    )
    with pytest.raises(FloatingPointError, match='step 6'):
        train(recipe(folder, 12), tmp_path)
    state = torch.load(tmp_path / 'checkpoint.pt', weights_only=True)
    assert state['step'] == 4
    assert all(torch.isfinite(v).all() for v in state['recipe'].values())
