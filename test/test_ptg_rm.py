"""PTG-RM: each equation by hand, no change at first, from pictures to the node, faults."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason="no torch: pip install 'dap_led_ros[train]'")
pytest.importorskip('open_clip', reason="no open_clip: pip install 'dap_led_ros[train]'")
onnx = pytest.importorskip('onnx', reason="no onnx: pip install 'dap_led_ros[train]'")

from safetensors.torch import load_file
from torch.nn import functional

from dap_led_ros import export
from dap_led_ros.checkpoints import checkpoint
from dap_led_ros.checkpoints.priors import build_prior
from dap_led_ros.checkpoints.refined import Refined, embed
from dap_led_ros.inference import Enhancer, info
from dap_led_ros.models.nano import PRESETS as NANO
from dap_led_ros.models.nano import Nano
from dap_led_ros.models.refiner import PRESETS, Refiner, RefinerConfig, convolve_each_place
from dap_led_ros.priors import PriorConfig
from dap_led_training import configuration, loop, losses
from dap_led_training.data.batches import Batches
from dap_led_training.data.config import DataConfig, source
from dap_led_training.make.tone_curve import tone_curve
from dap_led_training.trainers.ptg_rm import BAKED, RefineRecipe, RefinerRecipe, load_base, train

try:
    from ros_graph import graph, run_in_the_node

    __all__ = ['graph']
except pytest.skip.Exception:  # the test of the node says why
    pass

RECIPES = configuration.RECIPES
ODD = (37, 51)
HALVING = """
<ir_version: 8, opset_import: ["" : 17]>
halving (float[N, 3, rows, columns] picture) => (float[N, 3, half, halves] result)
{
    result = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (picture)
}
"""


@pytest.fixture(scope='module')
def outside(tmp_path_factory) -> str:
    """An enhancer of somebody else's, which takes one frame at a time, as many do."""
    path = tmp_path_factory.mktemp('outside') / 'tone_curve.onnx'
    onnx.save(with_sizes(tone_curve(), {0: 1}), path)
    return str(path)


def with_sizes(model: onnx.ModelProto, sizes: dict[int, int]) -> onnx.ModelProto:
    """The same with some sides of input and output fixed."""
    for tensor in (*model.graph.input, *model.graph.output):
        for side, size in sizes.items():
            tensor.type.tensor_type.shape.dim[side].dim_value = size
    return model


@pytest.fixture(scope='module')
def recipe(outside, folder) -> RefinerRecipe:
    """The tiny recipe, on the outside enhancer."""
    config = configuration.load(RECIPES / 'tiny' / 'ptg_rm.yaml', RefinerRecipe)
    return dataclasses.replace(config, base=outside, data=DataConfig(photographs=[folder]))


def short(recipe: RefinerRecipe, steps: int, **changes) -> RefinerRecipe:
    """A recipe of so many steps, written after every second one."""
    return dataclasses.replace(
        recipe,
        stages=[dataclasses.replace(recipe.stages[0], crop=32, batch=1, steps=steps)],
        loop=dataclasses.replace(recipe.loop, checkpoint_every=2),
        **changes,
    )


@pytest.fixture(scope='module')
def prior():
    return build_prior(PriorConfig())


def refiner(seed: int = 0, **changes) -> Refiner:
    """A tiny refiner that has left its beginning."""
    torch.manual_seed(seed)
    made = Refiner(dataclasses.replace(PRESETS['refiner-tiny'], **changes))
    torch.nn.init.normal_(made.head.weight, std=0.1)
    made.observe(functional.normalize(torch.randn(5, made.config.prior_width), dim=-1))
    return made.eval()


# --- equations --------------------------------------------------------------------------------


def test_equation_1_by_hand():
    """Mask and residual of the last layer's biases: I_d + (I_c - I_d) * I_m + I_r."""
    made = refiner()
    frame, enhanced = torch.rand(2, 2, 3, *ODD)
    mask, residual = torch.tensor([0.5, 1.0, 2.0]), torch.tensor([0.1, 0.0, -0.2])
    with torch.no_grad():
        made.head.weight.zero_()
        made.head.bias.copy_(torch.cat([mask - 1, residual]).repeat_interleave(4))
        found = made(frame, enhanced)
    mask, residual = (values[:, None, None] for values in (mask, residual))
    torch.testing.assert_close(found, frame + (enhanced - frame) * mask + residual)


def test_equations_2_and_3_by_hand():
    """M blends: M * short + (1 - M) * long, as the paper has it (its code has it turned round)."""
    part = refiner().spatial_varying
    features, g = torch.randn(2, 8, 5, 7), functional.normalize(torch.randn(2, 128), dim=-1)
    with torch.no_grad():
        mapped = part.adaptor.of_g(g * 128**0.5)
        grid = torch.empty(1, 2, 5, 7)
        for y in range(5):
            for x in range(7):
                grid[0, :, y, x] = torch.tensor([x / 3 - 1, y / 2 - 1])
        place = part.adaptor.of_place(grid)
        given = torch.cat(
            [features, mapped[..., None, None].repeat(1, 1, 5, 7), place.repeat(2, 1, 1, 1)], 1
        )
        score = part.range(given)
        expected = score * part.short(features) + (1 - score) * part.long(features)
        torch.testing.assert_close(part(features, g), expected)
        assert score.shape == (2, 1, 5, 7) and score.std() > 0
        for bias, branch in ((50.0, part.short), (-50.0, part.long)):
            part.range[2].bias.fill_(bias)
            torch.testing.assert_close(part(features, g), branch(features))


def test_equations_4_to_7_by_hand():
    part = refiner().attention
    features, g = torch.randn(1, 8, 4, 6), functional.normalize(torch.randn(1, 128), dim=-1)
    with torch.no_grad():
        mapped = part.adaptor.of_g(g * 128**0.5)[..., None, None]
        gains = part.channels(torch.cat([features.mean((2, 3), keepdim=True), mapped], 1))
        kernels = part.kernels(part.adaptor(features, g))
        convolved = convolve_each_place(features, kernels)
        bordered = np.pad(features[0].numpy(), ((0, 0), (1, 1), (1, 1)))
        weights = kernels[0].numpy().reshape(3, 3, 8, 4, 6)
        for y in range(4):
            for x in range(6):
                for channel in range(8):
                    patch = bordered[channel, y : y + 3, x : x + 3]
                    value = (patch * weights[:, :, channel, y, x]).sum()
                    assert value == pytest.approx(float(convolved[0, channel, y, x]), abs=1e-5)
        places = part.places(convolved)
        assert gains.shape == (1, 8, 1, 1) and places.shape == (1, 1, 4, 6)
        expected = part.fuse(torch.cat([features * gains, features * places], 1))
        torch.testing.assert_close(part(features, g), expected)


def test_a_refiner_has_less_than_a_million_parameters():
    """Also the paper's width, and with the longest embeddings of published CLIPs."""
    for width, most in ((32, 300_000), (64, 1_000_000)):
        made = Refiner(RefinerConfig(width=width, prior_width=1024))
        assert sum(one.numel() for one in made.parameters()) < most
    with pytest.raises(ValueError, match=r"prior.kind: 'none' has no embedding: use clip"):
        RefinerConfig(prior=PriorConfig('none'))


# --- at first, and what is trained ------------------------------------------------------------


def test_at_first_nothing_changes_to_the_bit(prior, outside):
    torch.manual_seed(0)
    frame = torch.rand(2, 3, *ODD) * 0.2
    for base in (load_base('nano'), load_base(outside)):
        made = Refined(base, Refiner(PRESETS['refiner']), prior).eval()
        with torch.inference_mode():
            expected = base(frame)
            assert not torch.equal(expected, frame)
            for network in (made, made.baked()):
                assert network(frame).numpy().tobytes() == expected.numpy().tobytes()


def test_gradients_reach_the_refiner_and_with_joint_the_base(recipe, tmp_path):
    path = tmp_path / 'base.safetensors'
    torch.manual_seed(0)
    base = Nano(NANO['nano-tiny'])
    torch.nn.init.normal_(base.head.weight, std=0.01)
    checkpoint.save(base, path)
    frames = torch.randint(0, 60, (2, 2, 32, 32, 3), dtype=torch.uint8)
    for joint in (False, True):
        made = RefineRecipe(dataclasses.replace(recipe, base=str(path), joint=joint))
        torch.nn.init.normal_(made.network['refiner'].head.weight, std=0.1)
        terms = made(*frames)
        assert set(terms) == {'charbonnier', *(['base_charbonnier'] if joint else [])}
        sum(terms.values()).backward()
        trained = dict(made.named_parameters())
        assert any(name.startswith('network.base.') for name in trained) == joint
        assert all(
            one.grad is not None and one.grad.any()
            for name, one in trained.items()
            if 'gate' not in name  # half closed on noise
        )
        clip, inner = made._frozen
        assert all(one.grad is None for one in clip.parameters())
        assert joint or all(one.grad is None for one in inner.parameters())
    with pytest.raises(ValueError, match=r'an .onnx base cannot be trained'):
        dataclasses.replace(recipe, joint=True)


def test_the_baked_embedding_is_the_mean_over_the_training_frames(recipe, prior):
    made = RefineRecipe(recipe)
    frames = torch.randint(0, 256, (3, 2, 32, 32, 3), dtype=torch.uint8)
    for one in frames:
        made(one, one)
    made.eval()(frames[0], frames[0])  # validation is no training
    seen = embed(prior, frames.flatten(0, 1).permute(0, 3, 1, 2) / 255)
    network = made.network['refiner']
    torch.testing.assert_close(network.mean_embedding, seen.mean(0))
    assert network.seen == 6


# --- from pictures to the node ----------------------------------------------------------------


@pytest.fixture(scope='module')
def trained(recipe, tmp_path_factory) -> Path:
    """Weights of the tiny recipe, refining the outside enhancer."""
    return train(recipe, tmp_path_factory.mktemp('run'))


@pytest.fixture(scope='module')
def exported(trained) -> Path:
    """One ONNX file: the outside enhancer and the refiner, baked; with the CLIP it takes long."""
    path = trained.with_name('refined.onnx')
    network = checkpoint.load(trained.with_name(BAKED))
    assert export.export(network, path) <= export.TOLERANCE  # at odd sizes
    return path


def test_the_tiny_recipe_adds_to_the_outside_enhancer(trained, recipe, outside):
    pairs = source(recipe.data, recipe.night_blur, validation=True)
    stage = dataclasses.replace(recipe.stages[0], crop=96, batch=8, clean=0.0)
    frames = Batches(pairs, [stage], seed=9)[0]
    degraded, target = (one.permute(0, 3, 1, 2) / 255 for one in frames)
    networks = [load_base(outside)]
    networks += [checkpoint.load(trained.with_name(name)) for name in (loop.WEIGHTS, BAKED)]
    with torch.inference_mode():
        errors = [float((one(degraded) - target).square().mean()) for one in networks]
    assert max(errors[1:]) < 0.95 * errors[0]  # 0.92; untrained 1


def test_checkpoints_are_whole_and_the_baked_one_asks_no_clip(trained, outside, monkeypatch):
    """The run's checkpoint to resume from holds neither base nor CLIP."""
    state = torch.load(trained.with_name('checkpoint.pt'), weights_only=True)
    assert all(name.startswith('network.refiner.') for name in state['recipe'])
    assert Path(outside).read_bytes() == checkpoint.load(trained).base.content
    described = info.describe(trained)
    tiny = sum(one.numel() for one in Refiner(PRESETS['refiner-tiny']).state_dict().values())
    assert (described['base'], described['parameters']) == ('onnx', f'{tiny / 1e6:.3f} M')
    frame = torch.rand(1, 3, *ODD) * 0.2
    with torch.inference_mode():
        asks, one = (network(frame) for network in _two(trained))
        assert not torch.equal(asks, one)

    def no_clip(*_):
        raise FileNotFoundError('no CLIP here')

    monkeypatch.setattr(checkpoint, 'build_prior', no_clip)
    baked = Enhancer.load(str(trained.with_name(BAKED)))
    assert baked.enhance(np.full((*ODD, 3), 20, np.uint8)).frame.mean() > 30
    with pytest.raises(FileNotFoundError, match='no CLIP here'):
        Enhancer.load(str(trained))


def _two(trained: Path) -> list[torch.nn.Module]:
    return [checkpoint.load(trained), checkpoint.load(trained.with_name(BAKED))]


def test_one_file_holds_base_and_refiner(exported, trained):
    described = info.describe(exported)
    assert [described[one] for one in ('preset', 'base', 'prior')] == [
        'refiner-tiny',
        'onnx',
        'baked',
    ]
    assert onnx.load(exported).opset_import[0].version == export.OUTSIDE_OPSET
    with pytest.raises(ValueError, match='as fp32 alone'):
        export.export(checkpoint.load(trained), exported.with_name('half.onnx'), 'fp16')


def test_it_runs_in_the_node(exported, trained, night, request, start_node):
    pytest.importorskip('rclpy', reason='no ROS 2 here: source one, or let make test install it')
    ros, baked = request.getfixturevalue('graph'), trained.with_name(BAKED)
    always = ['-p', 'mode:=always']
    picture, expected, _ = run_in_the_node(ros, start_node, exported, night[0], always, baked)
    assert expected.mean() > 1.5 * picture.mean()


# --- faults -----------------------------------------------------------------------------------


def test_what_cannot_be_refined_is_explained(recipe, tmp_path):
    (tmp_path / 'empty').mkdir()
    nothing = dataclasses.replace(recipe, data=DataConfig(photographs=[str(tmp_path / 'empty')]))
    with pytest.raises(FileNotFoundError, match=r'no photographs in .*empty'):
        train(nothing, tmp_path / 'run')
    one, other = tmp_path / 'one', tmp_path / 'other'
    for folder, names in ((one, '12'), (other, '1')):
        folder.mkdir()
        for name in names:
            cv2.imwrite(str(folder / f'{name}.png'), np.zeros((64, 64, 3), np.uint8))
    for target, said in (
        (one, 'given as degraded and as target'),
        (other, 'frames without partner: 1 only in .*one'),
        (tmp_path / 'none', 'none is missing'),
    ):
        data = DataConfig(degraded=str(one), target=str(target))
        with pytest.raises((ValueError, FileNotFoundError), match=said):
            source(data, recipe.night_blur)
    with pytest.raises(FileNotFoundError, match=r"no model '.*none.onnx'"):
        load_base(str(tmp_path / 'none.onnx'))
    (tmp_path / 'bad.onnx').write_bytes(b'no graph')
    with pytest.raises(ValueError, match=r'bad.onnx cannot be loaded as a model'):
        load_base(str(tmp_path / 'bad.onnx'))
    onnx.save(with_sizes(tone_curve(), {2: 64, 3: 64}), tmp_path / 'fixed.onnx')
    with pytest.raises(ValueError, match=r'takes one size alone: export it with free height'):
        load_base(str(tmp_path / 'fixed.onnx'))
    halving = onnx.parser.parse_model(HALVING)
    onnx.save(halving, tmp_path / 'half.onnx')
    with pytest.raises(ValueError, match=r'half.onnx changes .*: not an enhancer'):
        load_base(str(tmp_path / 'half.onnx'))(torch.rand(1, 3, 16, 16))
    onnx.save(with_sizes(halving, {1: 1}), tmp_path / 'grey.onnx')
    with pytest.raises(ValueError, match=r'grey.onnx is no enhancer: expected one float input'):
        load_base(str(tmp_path / 'grey.onnx'))
    with pytest.raises(ValueError, match=r"no network 'nano': use one of refiner"):
        dataclasses.replace(recipe, network='nano')
    for path in RECIPES.rglob('ptg_rm*.yaml'):
        configuration.load(path, RefinerRecipe)


def test_a_picture_that_breaks_during_the_training_is_named(recipe, tmp_path, monkeypatch):
    """And the run goes on from its checkpoint when the picture is whole again."""
    rng = np.random.default_rng(0)
    for name in ('degraded', 'target'):
        (tmp_path / name).mkdir()
        picture = rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / name / '1.png'), picture)
    data = DataConfig(degraded=str(tmp_path / 'degraded'), target=str(tmp_path / 'target'))
    config, broken = short(recipe, 4, data=data), tmp_path / 'target' / '1.png'
    whole, save = broken.read_bytes(), checkpoint.save

    def save_and_break(*arguments):
        save(*arguments)
        broken.write_bytes(b'no picture')

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, 'save', save_and_break)
        with pytest.raises(ValueError, match=r'target/1.png'):
            train(config, tmp_path / 'run')
    broken.write_bytes(whole)
    assert torch.load(tmp_path / 'run' / 'checkpoint.pt', weights_only=True)['step'] == 2
    train(config, tmp_path / 'run')
    assert torch.load(tmp_path / 'run' / 'checkpoint.pt', weights_only=True)['step'] == 4


def test_a_loss_that_is_not_finite_stops_and_what_is_there_stays(recipe, tmp_path, monkeypatch):
    original, steps = losses.charbonnier, iter(range(100))
    monkeypatch.setattr(
        losses, 'charbonnier', lambda *a: original(*a) * (float('nan') if next(steps) > 2 else 1)
    )
    with pytest.raises(FloatingPointError, match=r'the loss is nan at step 3'):
        train(short(recipe, 6), tmp_path)
    kept = tmp_path / loop.WEIGHTS
    assert torch.load(tmp_path / 'checkpoint.pt', weights_only=True)['step'] == 2
    floats = [t for t in load_file(kept).values() if t.is_floating_point()]
    assert all(tensor.isfinite().all() for tensor in floats)
    assert checkpoint.load(kept)(torch.rand(1, 3, *ODD)).isfinite().all()
    assert not (tmp_path / BAKED).exists()
