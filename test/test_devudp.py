"""DEvUDP: its equations, from unpaired pictures to the node, and what may go wrong on the way."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason="no torch: pip install 'dap_led_ros[train]'")
pytest.importorskip('lightning_fabric', reason="no fabric: pip install 'dap_led_ros[train]'")

from safetensors.torch import load_file

from dap_led_ros import sample
from dap_led_ros.checkpoints import checkpoint
from dap_led_ros.inference import Enhancer
from dap_led_ros.models.devudp import PRESETS, Devudp, DevudpConfig
from dap_led_training import configuration, loop
from dap_led_training.data.batches import Stage
from dap_led_training.data.unpaired import UnpairedConfig
from dap_led_training.measure import brightness, metrics
from dap_led_training.night.night_blur import NightBlurConfig
from dap_led_training.trainers import devudp as train_devudp
from dap_led_training.trainers.devudp import DevudpRecipe, DevudpTraining, train

ROS = importlib.util.find_spec('rclpy') is not None
if ROS:
    from ros_graph import graph, run_in_the_node

    __all__ = ['graph']

RECIPES = configuration.RECIPES


@pytest.fixture(scope='module')
def pieces() -> list[np.ndarray]:
    """Twenty real pictures: pieces of the sample photograph, in full light."""
    picture = cv2.imread(str(Path(sample.__file__).parent / 'garage.jpg'))
    height, width = picture.shape[:2]
    corners = [
        (y, x) for y in np.linspace(0, height - 200, 4) for x in np.linspace(0, width - 200, 5)
    ]
    return [picture[int(y) : int(y) + 200, int(x) : int(x) + 200] for y, x in corners]


def write(folder: Path, pictures: list[np.ndarray]) -> str:
    folder.mkdir(parents=True)
    for index, picture in enumerate(pictures):
        cv2.imwrite(str(folder / f'{index:02}.png'), picture)
    return str(folder)


@pytest.fixture
def sets(tmp_path, pieces) -> UnpairedConfig:
    """Two folders of other pictures, the first ones blurred; no name says which is which."""
    blurred = [cv2.blur(picture, (1, 9)) for picture in pieces[::2]]
    return UnpairedConfig([write(tmp_path / 'a', blurred)], [write(tmp_path / 'b', pieces[1::2])])


def recipe(sets: UnpairedConfig, steps: int = 6, **changes) -> DevudpTraining:
    fast = loop.LoopConfig(
        learning_rate=1e-3, ema_decay=0.5, workers=0, checkpoint_every=2, precision='32-true'
    )
    config = DevudpTraining(sets, [Stage(32, 2, steps)], 'devudp-tiny', loop=fast)
    return dataclasses.replace(config, **changes)


# --- equations --------------------------------------------------------------------------------


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    both = torch.randint(0, 256, (2, 3, 32, 48, 3), dtype=torch.uint8, generator=generator)
    return both[0], both[1]


def made(**changes) -> DevudpRecipe:
    torch.manual_seed(1)
    return DevudpRecipe(recipe(UnpairedConfig(photographs=['none']), **changes))


def test_every_term_is_the_papers():
    """Eq. 2 to 10 one by one, on values in [-1, 1]; weights of 10 and 5."""
    module, (degraded, clean) = made(), batch()
    with torch.no_grad():
        terms = module(degraded, clean)
        halved = made(reconstruction=5.0, regression=1.0)(degraded, clean)
    a, b = (x.numpy().transpose(0, 3, 1, 2) / 127.5 - 1 for x in (degraded, clean))
    a, b = (torch.from_numpy(x).float() for x in (a, b))
    with torch.no_grad():
        latent = module.network(a / 2 + 0.5) * 2 - 1
        found, same_a = (module.inverse(x / 2 + 0.5) * 2 - 1 for x in (latent, a))
        same_b = module.network(b / 2 + 0.5) * 2 - 1
        real, fake = (module.discriminator(x).numpy() for x in (b, latent))
    expected = {
        'adversarial': np.mean((fake - 1) ** 2),
        'reconstruction': 10 * np.mean(np.abs((found - a).numpy())),
        'regression': 5
        * sum(np.mean(np.abs((x - y).numpy())) for x, y in ((same_a, a), (same_b, b))),
        'discriminator': 0.5 * np.mean((real - 1) ** 2) + 0.5 * np.mean(fake**2),
    }
    assert set(terms) == set(expected)
    for name, value in expected.items():
        assert float(terms[name]) == pytest.approx(float(value), rel=1e-4), name
    assert float(halved['reconstruction']) == pytest.approx(float(terms['reconstruction']) / 2)
    assert float(halved['regression']) == pytest.approx(float(terms['regression']) / 5)


def test_each_term_trains_what_it_is_for():
    module = made()
    for name, trained in {
        'adversarial': {'network'},
        'reconstruction': {'network', 'inverse'},
        'regression': {'network', 'inverse'},
        'discriminator': {'discriminator'},
    }.items():
        module.zero_grad(set_to_none=True)
        module(*batch())[name].backward()
        reached = {
            part
            for part, child in module.named_children()
            if any(p.grad is not None and p.grad.abs().max() > 0 for p in child.parameters())
        }
        assert reached == trained, name


@pytest.mark.parametrize('unshuffle', [1, 2])
def test_the_perceptual_network_cannot_see_how_bright_a_frame_is(unshuffle):
    """Why it brightens (section 3.2): no trace of gain and offset passes its first layer."""
    frame = torch.rand(2, 3, 37, 51, generator=torch.Generator().manual_seed(0))
    dark = 0.2 * frame + 0.01
    changed = {}
    for mode in ('perceptual', 'distortion'):
        torch.manual_seed(0)
        network = Devudp(DevudpConfig(8, 1, unshuffle, mode)).eval()
        with torch.no_grad():
            bright, from_dark = network(frame), network(dark)
        assert bright.shape == frame.shape
        assert float(bright.std()) > 0.05
        changed[mode] = float((bright - from_dark).abs().max())
    assert changed['perceptual'] < 0.02 < 0.2 < changed['distortion']


def test_presets_have_the_sizes_that_the_page_says():
    count = {name: sum(p.numel() for p in Devudp(c).parameters()) for name, c in PRESETS.items()}
    assert count['devudp'] == pytest.approx(2.76e6, rel=5e-3)  # FCL-GAN says 2.77 M for its LED
    assert count['devudp-small'] == pytest.approx(0.59e6, rel=5e-3)
    with pytest.raises(ValueError, match=r"mode: 'both' is not one of"):
        DevudpConfig(mode='both')


# --- from pictures to the node ----------------------------------------------------------------


@pytest.fixture(scope='module')
def trained(pieces, tmp_path_factory) -> Path:
    """What recipes/tiny/devudp.yaml makes of the pieces."""
    folder = tmp_path_factory.mktemp('devudp')
    photographs = write(folder / 'photographs', pieces)
    arguments = [str(RECIPES / 'tiny' / 'devudp.yaml'), '--out', str(folder / 'run')]
    train_devudp.main([*arguments, '--photographs', photographs])
    return folder / 'run' / loop.WEIGHTS


@pytest.fixture(scope='module')
def exported(trained) -> Path:
    pytest.importorskip('onnxscript', reason="no onnxscript: pip install 'dap_led_ros[train]'")
    from dap_led_ros import export

    path = trained.with_name('devudp.onnx')
    # Compares with torch at odd sizes, and raises if they differ.
    assert export.export(checkpoint.load(trained), path) < export.TOLERANCE
    return path


def test_the_tiny_recipe_learns_and_brightens_what_it_never_saw(trained, night):
    (log,) = trained.parent.glob('logs/*/metrics.csv')
    names, *rows = (line.split(',') for line in log.read_text().split())
    fell = [float(row[names.index('reconstruction')]) for row in rows]
    assert fell == sorted(fell, reverse=True) and fell[-1] < 0.8 * fell[0]
    enhanced = Enhancer.load(str(trained)).enhance(night[0]).frame
    assert enhanced.mean() > 2 * night[0].mean()
    assert metrics.psnr(enhanced, night[1]) > metrics.psnr(night[0], night[1]) + 1
    torch.manual_seed(0)
    untrained = Devudp(PRESETS['devudp-tiny']).eval()
    day = torch.from_numpy(night[1]).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        errors = [
            float((n(day) - day).abs().mean()) for n in (untrained, checkpoint.load(trained))
        ]
    assert errors[1] < 0.7 * errors[0]


def test_the_export_runs_at_every_size(exported, trained, night):
    one, other = Enhancer.load(str(exported)), Enhancer.load(str(trained))
    for width, height in ((16, 16), (17, 31), (333, 241)):
        frame = cv2.resize(night[0], (width, height), interpolation=cv2.INTER_AREA)
        results = [enhancer.enhance(frame).frame.astype(int) for enhancer in (one, other)]
        assert results[0].shape == frame.shape
        assert np.abs(results[0] - results[1]).max() <= 1


@pytest.mark.skipif(not ROS, reason='no ROS 2 here: source one, or let make test install it')
def test_the_export_runs_in_the_node(exported, graph, start_node, night):
    always = ['-p', 'mode:=always']
    picture, expected, _ = run_in_the_node(graph, start_node, exported, night[0], always)
    assert expected.mean() > 1.5 * picture.mean()


def test_the_sets_of_light_are_what_they_are_called(pieces):
    sets = brightness.light_sets([piece[..., ::-1] for piece in pieces[7:9]])
    for index, (day, _) in enumerate(sets['day']):
        means = {name: pairs[index][0].mean() for name, pairs in sets.items()}
        assert means['blur by day'] == pytest.approx(day.mean(), abs=4)
        assert not np.array_equal(sets['blur by day'][index][0], day)
        for name in ('dark', 'dark, blur', 'dark, blur, noise'):
            assert means[name] < 0.6 * day.mean()
            assert metrics.psnr(sets[name][index][1], day) > 20  # lamps apart
        sharpness = [cv2.Laplacian(sets[n][index][0], cv2.CV_64F).std() for n in sets]
        assert sharpness[1] < sharpness[0] and sharpness[3] < sharpness[2]


# --- faults -----------------------------------------------------------------------------------


def test_sets_that_are_none_are_refused(sets, tmp_path, pieces):
    (tmp_path / 'empty').mkdir()
    with pytest.raises(FileNotFoundError, match=r'no photographs in .*empty'):
        train(recipe(UnpairedConfig(sets.degraded, [str(tmp_path / 'empty')])), tmp_path / 'run')
    with pytest.raises(ValueError, match=r'pictures are in degraded and in clean: .*a/01.png'):
        train(recipe(UnpairedConfig(sets.degraded, sets.degraded)), tmp_path / 'run')
    with pytest.raises(ValueError, match=r'give either degraded'):
        UnpairedConfig(degraded=sets.degraded)
    with pytest.raises(ValueError, match=r'too few pictures for two sets'):
        few = UnpairedConfig(photographs=[write(tmp_path / 'few', pieces[:2])])
        train(recipe(few), tmp_path / 'run')
    with pytest.raises(ValueError, match=r'trained in normal light: set daylight: 1.0'):
        recipe(sets, night_blur=NightBlurConfig())
    with pytest.raises(ValueError, match=r"no network 'nano': use one of devudp"):
        recipe(sets, network='nano')
    for path in RECIPES.rglob('devudp*.yaml'):
        configuration.load(path, DevudpTraining)


def test_a_picture_that_breaks_during_the_training_is_left_out(sets, tmp_path, monkeypatch):
    """All blurred pictures but one break at the first checkpoint; the run goes on to its end."""
    save = checkpoint.save

    def save_and_break(network, path):
        save(network, path)
        for picture in sorted(Path(sets.degraded[0]).iterdir())[2:]:
            picture.write_bytes(b'no picture')

    monkeypatch.setattr(train_devudp.checkpoint, 'save', save_and_break)
    with pytest.warns(UserWarning, match=r'left out: .*a/0.\.png'):
        path = train(recipe(sets, steps=12), tmp_path / 'run')
    assert torch.load(path.with_name('checkpoint.pt'), weights_only=True)['step'] == 12
    assert checkpoint.load(path)(torch.rand(1, 3, 20, 20)).isfinite().all()


def test_a_loss_that_is_not_finite_stops_and_what_is_there_stays(sets, tmp_path, monkeypatch):
    """The last good checkpoint goes on to what an unbroken run comes to."""
    unbroken = train(recipe(sets), tmp_path / 'unbroken')
    discrimination, calls = DevudpRecipe.discrimination, []

    def overflow(self, sharp, latent):
        calls.append(1)
        return discrimination(self, sharp, latent) * (float('nan') if len(calls) == 4 else 1)

    with monkeypatch.context() as patch:
        patch.setattr(DevudpRecipe, 'discrimination', overflow)
        with pytest.raises(
            FloatingPointError, match=r'the loss is nan at step 3; what .* is from'
        ):
            train(recipe(sets), tmp_path / 'broken')
    kept = tmp_path / 'broken' / loop.WEIGHTS
    assert torch.load(kept.with_name('checkpoint.pt'), weights_only=True)['step'] == 2
    assert all(tensor.isfinite().all() for tensor in load_file(kept).values())
    assert checkpoint.load(kept).config == PRESETS['devudp-tiny']
    train(recipe(sets), tmp_path / 'broken')
    found, expected = load_file(kept), load_file(unbroken)
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_both_modes_are_kept_in_the_checkpoint(sets, tmp_path):
    path = train(recipe(sets, steps=2, mode='distortion'), tmp_path / 'run')
    network = checkpoint.load(path)
    assert network.config.mode == 'distortion'
    described = re.findall(r'BatchNorm|InstanceNorm', str(network))
    assert set(described) == {'BatchNorm'}
