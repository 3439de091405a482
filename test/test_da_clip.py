"""DA-CLIP: the controller, what it says to a network, and both from photographs to the node."""

from __future__ import annotations

import dataclasses
import importlib.util
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason="no torch: pip install 'dap_led_ros[train]'")
pytest.importorskip('open_clip', reason="no open_clip: pip install 'dap_led_ros[train]'")

from conftest import cut
from safetensors.torch import load_file
from torch.nn import functional

from dap_led_ros import export
from dap_led_ros.checkpoints import checkpoint
from dap_led_ros.checkpoints.priors import build_prior
from dap_led_ros.inference import Enhancer
from dap_led_ros.models import dap_led, nafnet
from dap_led_ros.models.dap_led import DapLed
from dap_led_ros.models.injection import ContentAttention, DegradationPrompts, modulated
from dap_led_ros.models.nafnet import NafBlock, Nafnet
from dap_led_ros.priors import PriorConfig
from dap_led_ros.priors.controller import Controller
from dap_led_training import configuration, loop
from dap_led_training.data.config import DataConfig
from dap_led_training.data.labelled_frames import Mixture
from dap_led_training.measure import metrics
from dap_led_training.trainers import clip as train_clip
from dap_led_training.trainers import da_clip as train_da_clip
from dap_led_training.trainers import paired as train
from dap_led_training.trainers.da_clip import DaClipConfig

ROS = importlib.util.find_spec('rclpy') is not None
if ROS:
    from ros_graph import graph, run_in_the_node

    __all__ = ['graph']

RECIPES = configuration.RECIPES


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> str:
    """Nine real pictures: pieces of the sample photograph."""
    return str(cut(tmp_path_factory.mktemp('photographs'), 9, 3, (120, 100)))


@pytest.fixture(scope='module')
def clip(tmp_path_factory) -> PriorConfig:
    """A CLIP of two small layers with weights by chance: no test depends on what it knows."""
    path = tmp_path_factory.mktemp('clip')
    config = train_clip.ClipConfig(
        photographs=[],
        embed_dim=16,
        model={
            'vision_cfg': {'image_size': 64, 'patch_size': 8, 'width': 32, 'layers': 2,
                           'head_width': 16},
            'text_cfg': {'context_length': 24, 'width': 16, 'heads': 2, 'layers': 1},
        },
    )  # fmt: skip
    torch.manual_seed(0)
    train_clip.write(train_clip.create(config), path / loop.WEIGHTS, config)
    return PriorConfig(clip=str(path / 'clip'))


@pytest.fixture(scope='module')
def tiny(folder, clip) -> DaClipConfig:
    config = configuration.load(RECIPES / 'tiny' / 'da_clip_1_controller.yaml', DaClipConfig)
    return dataclasses.replace(config, photographs=[folder], prior=clip)


@pytest.fixture(scope='module')
def trained(tiny, tmp_path_factory) -> Path:
    """A run of the tiny controller."""
    out = tmp_path_factory.mktemp('da_clip')
    train_da_clip.train(tiny, out)
    return out


@pytest.fixture(scope='module')
def controlled(clip, trained) -> PriorConfig:
    weights = str(trained / loop.WEIGHTS)
    return dataclasses.replace(clip, kind='controller', controller=weights)


@pytest.fixture(scope='module')
def restored(folder, controlled, tmp_path_factory) -> Path:
    """Weights of the tiny NAFNet with that controller."""
    config = configuration.load(RECIPES / 'tiny' / 'da_clip_2_nafnet.yaml', train.TrainConfig)
    config = dataclasses.replace(config, data=DataConfig(photographs=[folder]), prior=controlled)
    return train.train(config, tmp_path_factory.mktemp('nafnet'))


@pytest.fixture(scope='module')
def recipe(tiny) -> train_da_clip.DaClipRecipe:
    return train_da_clip.DaClipRecipe(tiny)


# --- the controller ---------------------------------------------------------------------------


def test_the_controller_begins_as_the_tower_and_steers_every_block(recipe):
    """Fig. 3a: the output of each block is added to that of the frozen one, through its link."""
    tower, pixels = recipe._frozen[0].visual, torch.randn(2, 3, 64, 64)
    controller = Controller(tower).eval()
    with torch.no_grad():
        expected = tower(pixels)
        for embedding in controller(tower, pixels):
            torch.testing.assert_close(embedding, expected, atol=1e-4, rtol=1e-4)
        for link in controller.links:
            torch.nn.init.normal_(link.weight, std=0.02)
            torch.nn.init.normal_(link.bias, std=0.02)
        found = controller(tower, pixels)
        torch.testing.assert_close(found[1], expected, atol=1e-4, rtol=1e-4)
        assert not torch.allclose(found[0], expected, atol=1e-2)

        outputs: list[torch.Tensor] = []
        own = controller.visual.transformer.resblocks
        hooks = [one.register_forward_hook(lambda *a: outputs.append(a[2])) for one in own]
        controller.visual(pixels)
        for block, output, link in zip(tower.transformer.resblocks, outputs, controller.links):
            hooks.append(block.register_forward_hook(lambda *a, o=output, x=link: a[2] + x(o)))
        torch.testing.assert_close(tower(pixels), found[0], atol=1e-4, rtol=1e-4)
        for hook in hooks:
            hook.remove()


def test_equation_1_by_hand():
    torch.manual_seed(0)
    x, y = functional.normalize(torch.randn(2, 5, 8), dim=-1)
    expected = 0.0
    for i in range(5):
        weights = [float(torch.exp(x[i] @ y[j] / 0.05)) for j in range(5)]
        expected -= np.log(weights[i] / sum(weights)) / 5
    found = train_da_clip.contrastive(3 * x, y, torch.tensor(20.0), torch.eye(5))
    assert float(found) == pytest.approx(expected, rel=1e-4)


def test_a_step_trains_the_controller_and_nothing_else(recipe):
    pictures = torch.randint(0, 256, (2, 3, 64, 64, 3), dtype=torch.uint8)
    terms = recipe(*pictures, torch.full((3, 4), 0.25))
    assert set(terms) == {'content', 'degradation'}
    sum(terms.values()).backward()
    for name, parameter in recipe.network.named_parameters():
        assert parameter.grad is not None, name
    assert all(link.weight.grad.any() for link in recipe.network.links)
    assert recipe.network.visual.conv1.weight.grad.any()
    assert all(parameter.grad is None for parameter in recipe._frozen[0].parameters())
    recipe.zero_grad()


def test_types_are_what_was_done_to_the_frame(folder, tiny, trained):
    paths = train_da_clip.find_photographs([folder], validation=False)
    frames = train_da_clip.render(
        paths, tiny.frames, train_da_clip.FRAMES_SEED, trained / 'frames', tiny.mixture
    )
    triples = train_da_clip.Triples(frames, tiny, (64, 64))
    np.testing.assert_allclose(triples.types.sum(1), 1, atol=1e-5)
    _, dark, blurry, both = range(4)
    for label, fits in zip(frames.labels, triples.types):
        assert (fits[dark] + fits[both] > 0.5) == (label.exposure < 0.35)
        assert (fits[blurry] + fits[both] > 0.5) == (label.path_length > 4)
    degraded, sharp, types = triples[3]
    again = triples[3]
    assert all(torch.equal(a, b) for a, b in zip((degraded, sharp, types), again))
    darkest = int(types[:, [dark, both]].sum(1).argmax())
    assert degraded[darkest].float().mean() < sharp[darkest].float().mean()


def test_the_table_counts_what_is_right(folder, clip, tiny, trained):
    """Both rows over all held-out frames; the frozen one is what `measure prior` prints."""
    from dap_led_training.measure import prior as measure_prior

    text = train_da_clip.evaluate(tiny, trained)
    rows = {line[:12].strip(): line[12:].split() for line in text.splitlines()[1:]}
    assert rows[''] == ['all', 'clean', 'dark', 'blurry', 'both', 'content', 'itself']
    paths = train_da_clip.find_photographs([folder], validation=True)
    frames = measure_prior.LabelledFrames(trained / 'validation', paths)
    expected = measure_prior.zero_shot(clip, frames)
    assert float(rows['frozen CLIP'][0]) == pytest.approx(expected['accuracy'], abs=1e-3)
    # Content: of degraded frames alone, among the sharp views of all; a clean one finds itself.
    prior, classes = build_prior(clip), [measure_prior.class_of(one) for one in frames.labels]
    known = [index for index, name in enumerate(classes) if name]
    degraded = [place for place, index in enumerate(known) if classes[index] != 'clean']
    assert 0 < len(degraded) < len(known)
    embedded = [
        functional.normalize(torch.cat([prior.embed(measure_prior.to_tensor(f)) for f in of]))
        for of in ([frames.frames[known[i]] for i in degraded], map(frames.sharp, known))
    ]
    own = (embedded[0] @ embedded[1].T).argmax(1) == torch.tensor(degraded)
    assert float(rows['frozen CLIP'][-2]) == pytest.approx(float(own.float().mean()), abs=1e-3)
    assert float(rows['frozen CLIP'][-1]) > 0.9
    assert all(0 <= float(value) <= 1 for value in rows['controller'] if value != 'nan')


# --- the network that it feeds ----------------------------------------------------------------


def test_prompts_and_attention_by_hand():
    torch.manual_seed(0)
    e_d, e_c = functional.normalize(torch.randn(2, 3, 16), dim=-1)
    prompts = DegradationPrompts(16, [4, 8])
    for place in prompts.places:
        torch.nn.init.normal_(place.weight)
        torch.nn.init.normal_(place.bias)
    x = torch.randn(3, 8, 5, 6)
    chosen = torch.softmax(prompts.choose(e_d * 4), dim=1)
    mixed = sum(chosen[:, i, None] * prompts.bank[i] for i in range(len(prompts.bank)))
    scale, shift = prompts.places[1](mixed).chunk(2, dim=1)
    found = modulated(x, prompts(e_d)[1])
    expected = x * (1 + scale[:, :, None, None]) + shift[:, :, None, None]
    torch.testing.assert_close(found, expected)

    attention = ContentAttention(16, 8)
    torch.nn.init.normal_(attention.project.weight)
    keys, values = attention.keys_values(e_c * 4).reshape(3, 2, -1, 8).unbind(1)
    pixels = x.permute(0, 2, 3, 1).reshape(3, 30, 8)
    query = attention.query(functional.layer_norm(pixels, (8,)))
    attended = functional.scaled_dot_product_attention(query, keys, values)
    expected = (pixels + attention.project(attended)).reshape(3, 5, 6, 8).permute(0, 3, 1, 2)
    torch.testing.assert_close(attention(x, e_c), expected)


def test_nafnets_block_by_hand():
    """Chen et al. 2022, Fig. 3c: the two halves of a block, and SimpleGate."""
    torch.manual_seed(0)
    block, x = NafBlock(4), torch.randn(2, 4, 6, 7)
    assert torch.equal(block(x), x)
    torch.nn.init.normal_(block.beta)
    torch.nn.init.normal_(block.gamma)

    def norm(y):
        return functional.layer_norm(y.permute(0, 2, 3, 1), (4,)).permute(0, 3, 1, 2)

    y = block.local(block.expand(norm(x)))
    y = y[:, :4] * y[:, 4:]
    pooled = functional.adaptive_avg_pool2d(y, 1)
    y = x + block.beta * block.project(y * block.attention(pooled))
    z = block.feed(norm(y))
    expected = y + block.gamma * block.forward2(z[:, :4] * z[:, 4:])
    torch.testing.assert_close(block(x), expected)


def networks(embedding: int) -> list[torch.nn.Module]:
    """A tiny NAFNet and a tiny DAP-LED whose blocks are not the identity."""
    made = []
    for kind, preset in (
        (Nafnet, nafnet.PRESETS['nafnet-tiny']),
        (DapLed, dap_led.PRESETS['dap-led-tiny']),
    ):
        torch.manual_seed(0)
        made.append(kind(dataclasses.replace(preset, embedding=embedding)))
        for name, parameter in made[-1].named_parameters():
            if name.endswith(('beta', 'gamma')):
                torch.nn.init.constant_(parameter, 0.5)
    return made


def listen(network: torch.nn.Module) -> None:
    """Let the embeddings matter; at first they do not."""
    for layer in (*network.prompts.places, network.content.project):
        for parameter in layer.parameters():
            torch.nn.init.normal_(parameter, std=0.1)


def test_a_network_begins_as_it_would_without_and_then_listens():
    torch.manual_seed(0)
    frame, heatmap = torch.rand(2, 3, 37, 51), torch.rand(2, 1, 8, 8)
    embeddings = functional.normalize(torch.randn(2, 2, 128), dim=-1)
    for plain, made in zip(networks(0), networks(128)):
        given = [heatmap] if isinstance(made, DapLed) else []
        expected = plain(frame, *given)
        found = made(frame, *given, embeddings)
        assert found.shape == frame.shape
        assert torch.equal(found, expected)
        found.square().mean().backward()
        assert all(place.weight.grad.any() for place in made.prompts.places)
        assert made.content.project.weight.grad.any()
        listen(made)
        asked: dict[str, torch.Tensor] = {}
        made.content.register_forward_pre_hook(lambda _, x, a=asked: a.update(e_c=x[1]))
        made.prompts.register_forward_pre_hook(lambda _, x, a=asked: a.update(e_d=x[0]))
        listened = made(frame, *given, embeddings)
        assert torch.equal(asked['e_c'], embeddings[:, 0])
        assert torch.equal(asked['e_d'], embeddings[:, 1])
        for other in (embeddings.flip(0), embeddings * torch.tensor([[-1.0], [1.0]])):
            assert not torch.allclose(listened, made(frame, *given, other), atol=1e-4)


# --- from photographs to the node -------------------------------------------------------------


def test_a_trained_nafnet_brightens_what_it_never_saw(restored, controlled, night):
    degraded, target = (cv2.resize(frame, (320, 240)) for frame in night)
    enhanced = Enhancer.load(str(restored)).enhance(degraded).frame
    assert metrics.psnr(enhanced, target) > metrics.psnr(degraded, target) + 1


def test_a_checkpoint_is_whole_without_the_controllers_file(
    folder, controlled, restored, tmp_path, night
):
    """Both networks: what a step of training sees is what a loaded checkpoint sees."""
    moved = tmp_path / 'controller.safetensors'
    shutil.copy(controlled.controller, moved)
    prior = dataclasses.replace(controlled, controller=str(moved))
    config = configuration.load(
        RECIPES / 'companions' / 'da_clip' / '2_dap_led_small.yaml', train.TrainConfig
    )
    config = dataclasses.replace(config, network='dap-led-tiny', prior=prior)
    torch.manual_seed(0)
    made = train.EnhanceRecipe(config)
    listen(made.network)
    made.write(made.network, tmp_path / 'weights.safetensors')
    moved.unlink()
    frame = torch.from_numpy(night[0][:121, :163]).permute(2, 0, 1)[None] / 255
    loaded = checkpoint.load(tmp_path / 'weights.safetensors')
    with torch.no_grad():
        given = checkpoint.guidance(made.network.config, made._frozen[0], frame)
        assert [one.shape[1:] for one in given] == [(1, 8, 8), (2, 16)]
        torch.testing.assert_close(loaded(frame), made.network(frame, *given))
        prior = made._frozen[0]
        e_d = functional.normalize(prior.controller.visual(prior._pixels(frame)), dim=-1)
        torch.testing.assert_close(given[1][:, 1], e_d, atol=1e-4, rtol=1e-4)
    # Each frame is looked at: nothing lasts in a stream, and there are no tiles.
    enhancer = Enhancer.load(str(tmp_path / 'weights.safetensors'))
    assert not enhancer.guided
    result = enhancer.stream().enhance(night[0][:121, :163], 1)
    assert result.frame.shape == (121, 163, 3)
    with pytest.raises(ValueError, match='takes no tiles'):
        Enhancer.load(str(restored), tile=256)


def test_it_exports_with_the_controller_folded_in(restored, controlled, tmp_path):
    network = checkpoint.load(restored)
    assert export.export(network, tmp_path / 'folded.onnx') <= export.TOLERANCE
    with pytest.raises(ValueError, match='no second graph'):
        export.export(network, tmp_path / 'second.onnx', prior='second')
    # A DAP-LED too: its own ONNX is test_export.py's, the controller's is the one above.
    config = dataclasses.replace(
        dap_led.PRESETS['dap-led-tiny'], blocks=(1, 0, 0, 0), prior=controlled, embedding=16
    )
    guided = checkpoint.Guided(DapLed(config), build_prior(controlled)).eval()
    listen(guided.network)
    frame = 0.1 * torch.rand(1, 3, 37, 51)
    program = torch.export.export(guided, (frame,))
    torch.testing.assert_close(program.module()(frame), guided(frame))


@pytest.mark.skipif(not ROS, reason='no ROS 2 here: source one, or let make test install it')
def test_it_runs_in_the_node(restored, graph, start_node, night):
    run_in_the_node(graph, start_node, restored, night[0])


# --- faults -----------------------------------------------------------------------------------


def test_a_class_that_is_missing_is_named(tiny, tmp_path):
    by_day = Mixture(dark=0.0, dim=0.0, blurry=0.5)
    few = dataclasses.replace(tiny, frames=8, mixture=by_day)
    with pytest.raises(ValueError, match=r'no frame of 8 is dark or both: .* change mixture'):
        train_da_clip.train(few, tmp_path)


def test_empty_and_overlapping_folders(folder, tiny, tmp_path):
    (tmp_path / 'empty').mkdir()
    empty = dataclasses.replace(tiny, photographs=[folder, str(tmp_path / 'empty')])
    with pytest.raises(FileNotFoundError, match=r'no photographs in .*empty'):
        train_da_clip.train(empty, tmp_path / 'out')
    # A folder given twice, or inside another: what validates is never trained on.
    twice = [folder, folder, str(Path(folder).parent)]
    trained, held_out = (set(train_da_clip.find_photographs(twice, v)) for v in (False, True))
    inside = {path for path in trained | held_out if str(path.parent) == folder}
    assert len(inside) == 9 and not trained & held_out


def test_a_picture_that_breaks_in_mid_training(
    folder, tiny, trained, controlled, tmp_path, monkeypatch
):
    """All are read before the first step: the run ends as it should, the next start says which."""
    photographs = tmp_path / Path(folder).name  # the name by which rendered frames know them
    shutil.copytree(folder, photographs)
    shutil.copytree(trained / 'frames', tmp_path / 'out' / 'frames')
    config = dataclasses.replace(tiny, photographs=[str(photographs)])
    write = train_da_clip.DaClipRecipe.write

    def write_and_break(self, network: Controller, path: Path) -> None:
        write(self, network, path)
        (photographs / '4.png').write_bytes(b'no picture')

    monkeypatch.setattr(train_da_clip.DaClipRecipe, 'write', write_and_break)
    weights = train_da_clip.train(config, tmp_path / 'out')
    found, expected = (load_file(path) for path in (weights, trained / loop.WEIGHTS))
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    with pytest.raises(ValueError, match=r'4\.png'):
        train_da_clip.train(config, tmp_path / 'out')
    build_prior(dataclasses.replace(controlled, controller=str(weights)))


def test_a_loss_that_is_not_finite_leaves_the_last_good_controller(
    tiny, trained, controlled, tmp_path, monkeypatch
):
    (tmp_path / 'frames').symlink_to(trained / 'frames')
    original, calls = train_da_clip.contrastive, iter(range(100))
    monkeypatch.setattr(
        train_da_clip,
        'contrastive',
        lambda *a: original(*a) * (float('nan') if next(calls) > 6 else 1),
    )
    with pytest.raises(FloatingPointError, match='step 3'):
        train_da_clip.train(tiny, tmp_path)
    state = torch.load(tmp_path / 'checkpoint.pt', weights_only=True)
    assert state['step'] == 2
    last = str(tmp_path / loop.WEIGHTS)
    prior = build_prior(dataclasses.replace(controlled, controller=last))
    assert torch.isfinite(prior.embeddings(torch.rand(1, 3, 40, 50))).all()


def test_a_file_that_is_no_controller_is_explained(restored, controlled, tmp_path, monkeypatch):
    def of(path: Path | str) -> PriorConfig:
        return dataclasses.replace(controlled, controller=str(path))

    with pytest.raises(FileNotFoundError, match=r'give the weights.*kind da_clip wrote'):
        build_prior(of(''))
    with pytest.raises(ValueError, match='holds no controller'):
        build_prior(of(restored))
    (tmp_path / 'a.safetensors').write_bytes(b'x' * 100)
    with pytest.raises(ValueError, match='holds no controller'):
        build_prior(of(tmp_path / 'a.safetensors'))
    with pytest.raises(ValueError, match='as many numbers in both'):
        nafnet.NafnetConfig(encoder_blocks=(1, 1))
    with pytest.raises(ValueError, match='takes no heat-map of clip'):
        nafnet.NafnetConfig(prior=PriorConfig())
    monkeypatch.setattr(train_da_clip.ClipPrior, 'fingerprint', 1)
    with pytest.raises(ValueError, match='controls another image tower'):
        build_prior(controlled)
