"""CLIP-LIT: its equations, its stages, the prompts as a prior, and what makes it stop."""

from __future__ import annotations

import csv
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
from safetensors.torch import load_file, save_file

from dap_led_ros.checkpoints import checkpoint, priors
from dap_led_ros.checkpoints.priors import build_prior, embed_prompts, load_clip, tokenize
from dap_led_ros.inference import Enhancer
from dap_led_ros.models.illumination import DARKEST, PRESETS, Illumination
from dap_led_ros.priors import PriorConfig
from dap_led_ros.priors.clip import PROMPT_PAIRS
from dap_led_training import configuration, loop, losses
from dap_led_training.data.batches import Stage
from dap_led_training.data.config import DataConfig
from dap_led_training.data.unpaired import UnpairedConfig
from dap_led_training.night.night_blur import degrade
from dap_led_training.trainers import paired
from dap_led_training.trainers.clip_lit import (
    ClipLitConfig,
    IlluminationRecipe,
    Part,
    PromptRecipe,
    identity,
    main,
    ranking,
    train,
)

ROS = importlib.util.find_spec('rclpy') is not None
if ROS:
    from ros_graph import graph, run_in_the_node

    __all__ = ['graph']

TINY = configuration.RECIPES / 'tiny' / 'clip_lit.yaml'


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    """Ten real pictures: pieces of the sample photograph."""
    return cut(tmp_path_factory.mktemp('photographs'), 10, 5, (120, 220), width=160)


@pytest.fixture(scope='module')
def config(folder) -> ClipLitConfig:
    """What is a command in clip_lit_tiny.yaml, on these pictures."""
    tiny = configuration.load(TINY, ClipLitConfig)
    return dataclasses.replace(tiny, data=UnpairedConfig(photographs=[str(folder)]))


@pytest.fixture(scope='module')
def trained(config, tmp_path_factory) -> Path:
    """The folder of a whole run."""
    out = tmp_path_factory.mktemp('run')
    assert train(config, out) == out / 'weights.safetensors'
    return out


def frames(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two degraded and two clean frames, (2, 64, 64, 3) uint8."""
    torch.manual_seed(seed)
    shape = (2, 64, 64, 3)
    return (
        torch.randint(0, 40, shape, dtype=torch.uint8),
        torch.randint(0, 256, shape, dtype=torch.uint8),
    )


# --- equations --------------------------------------------------------------------------------


def test_ranking_by_hand():
    """Eq. 7 and 8 with the paper's margins, on one picture and on the mean of two."""
    margins = (0.9, 0.2, 0.2)
    clean, last, now, degraded = (torch.tensor([v]) for v in (0.1, 0.5, 0.25, 0.8))
    eq7 = (0.1 - 0.8 + 0.9) + (0.25 - 0.8 + 0.9) + (0.1 - 0.25 + 0.2)
    assert float(ranking(clean, now, degraded, margins=margins)) == pytest.approx(eq7)
    eq8 = (0.1 - 0.8 + 0.9) + (0.5 - 0.8 + 0.9) + (0.1 - 0.25 + 0.2) + max(0, 0.25 - 0.5 + 0.2)
    assert float(ranking(clean, last, now, degraded, margins=margins)) == pytest.approx(eq8)
    ideal = [torch.tensor([0.1, v]) for v in (0.0, 0.0)]
    two = ranking(*ideal, torch.tensor([0.8, 1.0]), margins=(0.9, 0.0, 0.0))
    assert float(two) == pytest.approx(2 * (0.1 - 0.8 + 0.9) / 2)


def test_degradedness_and_its_loss_by_hand():
    """Eq. 3 and 6: a softmax of two cosines."""
    prior = build_prior(PriorConfig())
    frame = torch.rand(1, 3, 40, 60, generator=torch.Generator().manual_seed(0))
    embedded = prior.embed(frame)[0].double().numpy()
    cosines = prior.texts[0].double().numpy() @ embedded / np.linalg.norm(embedded)
    degraded, clean = np.exp(float(prior.logit_scale) * cosines)
    expected = degraded / (degraded + clean)
    assert 0.001 < expected < 0.999
    assert float(losses.clip(frame, prior, 'pair')) == pytest.approx(expected, rel=1e-4)
    assert float(prior(frame).scores[0, 0]) == pytest.approx(expected, rel=1e-4)


def test_identity_by_hand():
    """Eq. 4: zero for the same, blind to the scale of tokens, weighted layer by layer."""
    torch.manual_seed(0)
    before, after = ([torch.randn(2, 5, 8) for _ in range(2)] for _ in range(2))
    assert float(identity(before, [3 * t for t in before], [1, 1])) == pytest.approx(0, abs=1e-4)

    def unit(t: torch.Tensor) -> np.ndarray:
        t = t.double().numpy()
        return (t - t.mean(-1, keepdims=True)) / np.sqrt(t.var(-1, keepdims=True) + 1e-5)

    one, two = (((unit(b) - unit(a)) ** 2).mean() for b, a in zip(before, after))
    found = float(identity(before, after, [1.0, 0.5]))
    assert found == pytest.approx(one + 0.5 * two, rel=1e-5)


def test_the_network_divides_by_an_illumination():
    """Of any size, between DARKEST and 1."""
    torch.manual_seed(0)
    network = Illumination(PRESETS['illumination-tiny'])
    torch.nn.init.normal_(network.head.weight, std=5.0)
    for size in ((16, 16), (17, 31), (40, 50)):
        frame = torch.rand(2, 3, *size)
        light = network.illumination(frame).detach()
        assert light.shape == (2, 1, *size)
        assert DARKEST <= float(light.min()) < float(light.max()) <= 1
        torch.testing.assert_close(network(frame) * light, frame)


def test_learned_tokens_go_through_the_whole_text_tower(config):
    """Put in place of words, the words' own vectors are those words."""
    recipe = PromptRecipe(config)
    texts = (' '.join(['dark'] * 16), ' '.join(['very bright'] * 8))
    clip = load_clip(config.prior)
    words = tokenize(clip, texts)[:, 1:17]
    with torch.no_grad():
        recipe.network.tokens.copy_(clip.token_embedding(words))
    torch.testing.assert_close(recipe.network(), embed_prompts(clip, (texts,))[0])
    with pytest.raises(ValueError, match='tokens: this CLIP takes 22, not 23'):
        PromptRecipe(dataclasses.replace(config, tokens=23))


def test_cross_entropy_by_hand_and_gradients_reach_the_tokens_alone(config):
    """Eq. 1 and 2, each picture with the label of its set."""
    recipe = PromptRecipe(dataclasses.replace(config, patches=1.0))
    degraded, clean = frames(1)
    loss = recipe(degraded, clean)['entropy']
    prior = build_prior(config.prior)
    with torch.no_grad():
        pair, terms = recipe.network(), []
        for pictures, label in ((degraded, 0), (clean, 1)):
            for image in prior.embed(pictures.permute(0, 3, 1, 2) / 255):
                cosines = [torch.cosine_similarity(image, text, dim=0) for text in pair]
                weights = [torch.exp(prior.logit_scale * c) for c in cosines]
                terms.append(-torch.log(weights[label] / sum(weights)))
    assert float(loss) == pytest.approx(float(sum(terms) / 4), rel=1e-4)
    loss.backward()
    assert [name for name, _ in recipe.named_parameters()] == ['network.tokens']
    assert recipe.network.tokens.grad.abs().amax((0, 2)).min() > 0  # every token of 16
    everything = [*recipe._frozen[0].parameters(), *recipe.network._clip[0].parameters()]
    assert not any(p.requires_grad or p.grad is not None for p in everything)


def test_the_network_is_trained_and_nothing_else(config, trained):
    degraded, clean = frames(2)
    reconstructing = IlluminationRecipe(config)
    assert set(reconstructing(degraded, clean)) == {'identity'}
    start, prompts = trained / 'reconstruction' / loop.WEIGHTS, trained / 'prompts.safetensors'
    recipe = IlluminationRecipe(config, start, prompts)
    terms = recipe(degraded, clean)
    assert set(terms) == {'identity', 'clip'}
    sum(terms.values()).backward()
    assert all(p.grad is not None for p in recipe.network.parameters())
    assert {n.partition('.')[0] for n, _ in recipe.named_parameters()} == {'network'}
    assert all(p.grad is None for p in recipe._frozen[0].parameters())


# --- the stages -------------------------------------------------------------------------------


def logged(stage: Path) -> list[dict[str, str]]:
    with next(stage.glob('logs/*/metrics.csv')).open() as file:
        return list(csv.DictReader(file))


def test_the_tiny_recipe_brightens(config, trained, folder):
    """On a picture that is kept for validation; and its prompts know dark from clean."""
    names = {path.name for path in trained.iterdir() if path.is_dir()}
    rounds = {f'{kind}_{number}' for kind in ('prompts', 'enhancement') for number in range(3)}
    assert names == {'reconstruction', *rounds}
    assert {'identity', 'clip'} <= set(logged(trained / 'enhancement_0')[-1])
    assert 'ranking' in logged(trained / 'prompts_2')[-1]
    picture = cv2.imread(str(folder / '8.png'))[..., ::-1]
    dark, target, _ = degrade(picture, config.night_blur, np.random.default_rng(1))
    enhanced = Enhancer.load(str(trained / 'weights.safetensors')).enhance(dark).frame
    assert cv2.PSNR(enhanced, target) > cv2.PSNR(dark, target) + 1
    prior = build_prior(PriorConfig('learned', prompts=str(trained / 'prompts.safetensors')))
    scores = [
        float(prior(torch.from_numpy(f.copy()).permute(2, 0, 1)[None] / 255).scores[0, 0])
        for f in (target, enhanced, dark)
    ]
    assert scores == sorted(scores) and scores[0] < 0.5 < scores[2]


def test_a_broken_run_goes_on_to_the_same_weights(config, trained, tmp_path):
    """What is done is not done again, what is missing is made again as it was."""
    out = tmp_path / 'run'
    shutil.copytree(trained, out)
    for name in ('prompts_2', 'enhancement_2'):
        shutil.rmtree(out / name)
    before = (out / 'enhancement_1' / loop.WEIGHTS).stat().st_mtime_ns
    train(config, out)
    assert (out / 'enhancement_1' / loop.WEIGHTS).stat().st_mtime_ns == before
    for name in (loop.WEIGHTS, 'prompts.safetensors'):
        found, expected = load_file(out / name), load_file(trained / name)
        assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())
    with pytest.raises(ValueError, match=r'prompts_0 holds a run whose crop differ'):
        train(dataclasses.replace(config, crop=48), out)


def test_words_in_place_of_learned_prompts(config, tmp_path):
    one = Part(steps=2, batch=2, learning_rate=1e-3)
    parts = {'reconstruction': one, 'enhancement': one, 'tuning': one}
    train(dataclasses.replace(config, fixed='low_light', rounds=1, **parts), tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {'reconstruction', 'enhancement_0', 'enhancement_1', loop.WEIGHTS}


# --- what is made of it -----------------------------------------------------------------------


@pytest.fixture(scope='module')
def exported(trained) -> Path:
    pytest.importorskip('onnxscript', reason="no onnxscript: pip install 'dap_led_ros[train]'")
    from dap_led_ros import export

    path = trained / 'model.onnx'
    # Compares with torch at odd sizes, and raises if they differ.
    assert export.export(checkpoint.load(trained / loop.WEIGHTS), path) <= export.TOLERANCE
    return path


def test_the_export_is_the_network(trained, exported, night):
    ours, onnx = (Enhancer.load(str(path)) for path in (trained / loop.WEIGHTS, exported))
    for height, width in ((16, 16), (17, 31)):
        frame = np.ascontiguousarray(night[0][:height, :width])
        enhanced = onnx.enhance(frame).frame
        assert np.abs(enhanced.astype(int) - ours.enhance(frame).frame).max() <= 1


@pytest.mark.skipif(not ROS, reason='no ROS 2 here: source one, or let make test install it')
def test_it_runs_in_the_node(exported, night, request, start_node):
    graph = request.getfixturevalue('graph')
    picture, expected, _ = run_in_the_node(graph, start_node, exported, night[0])
    assert expected.mean() > picture.mean() + 3


def test_learned_prompts_guide_a_dap_led(trained, folder, night, tmp_path, monkeypatch):
    """As prior and in the loss; its checkpoint needs neither their file nor the text tower."""
    path = tmp_path / 'prompts.safetensors'
    shutil.copy(trained / 'prompts.safetensors', path)
    prior = PriorConfig('learned', prompts=str(path))
    made = paired.train(
        paired.TrainConfig(
            network='dap-led-tiny',
            data=DataConfig(photographs=[str(folder)]),
            stages=[Stage(32, 2, 3)],
            prior=prior,
            losses=losses.LossWeights(clip=0.01, polarity='pair'),
            loop=loop.LoopConfig(learning_rate=1e-2, ema_decay=0.5, workers=0),
        ),
        tmp_path / 'run',
    )
    pair = load_file(path)['pair']
    path.unlink()
    monkeypatch.setattr(priors, 'embed_prompts', None)
    guided = checkpoint.load(made)
    torch.testing.assert_close(guided.prior.texts[0], pair)
    enhanced = Enhancer.load(str(made)).enhance(night[0][:60, :80])
    assert enhanced.frame.shape == (60, 80, 3)


def test_only_the_joint_pair_is_replaced(trained):
    path = trained / 'prompts.safetensors'
    prior = build_prior(PriorConfig('learned', prompts=str(path)))
    texts = embed_prompts(load_clip(PriorConfig()), PROMPT_PAIRS)
    torch.testing.assert_close(prior.texts[1:], texts[1:])
    torch.testing.assert_close(prior.texts[0], load_file(path)['pair'])


# --- faults -----------------------------------------------------------------------------------


def test_prompts_that_cannot_be_used_are_explained(trained, tmp_path):
    with pytest.raises(ValueError, match=r'prior.prompts: give the prompts.safetensors'):
        PriorConfig('learned')
    with pytest.raises(FileNotFoundError, match=r'no learned prompts .*gone.safetensors'):
        build_prior(PriorConfig('learned', prompts=str(tmp_path / 'gone.safetensors')))
    nonsense, other = tmp_path / 'nonsense.safetensors', tmp_path / 'other.safetensors'
    nonsense.write_bytes(b'x' * 50)
    save_file({'pair': load_file(trained / 'prompts.safetensors')['pair']}, other, {'tower': '1'})
    for path, why in (
        (nonsense, 'holds no learned prompts'),
        (trained / loop.WEIGHTS, 'holds no learned prompts'),
        (other, 'was learned with another CLIP'),
    ):
        with pytest.raises(ValueError, match=why):
            build_prior(PriorConfig('learned', prompts=str(path)))


def test_sets_that_are_none_are_refused(config, folder, tmp_path):
    empty = tmp_path / 'empty'
    empty.mkdir()
    for data, error, why in (
        (UnpairedConfig([str(folder)], [str(empty)]), FileNotFoundError, 'no photographs in'),
        (UnpairedConfig([str(folder)], [str(folder)]), ValueError, 'are in degraded and in clean'),
    ):
        with pytest.raises(error, match=why):
            train(dataclasses.replace(config, data=data), tmp_path / 'run')
    given = [str(TINY), '--out', str(tmp_path / 'run'), '--photographs', str(empty)]
    with pytest.raises(SystemExit, match='error: no photographs in '):
        configuration.run(lambda: main(given))
    with pytest.raises(ValueError, match='give either degraded'):
        UnpairedConfig(degraded=[str(folder)])
    for wrong in ({'fixed': 'words'}, {'network': 'nano'}, {'layers': [0]}):
        with pytest.raises(ValueError, match=r'not one of|one weight for each'):
            dataclasses.replace(config, **wrong)


def test_a_picture_that_breaks_in_mid_training_is_left_out(config, folder, tmp_path):
    """Labels come from the folders that the config names, whatever these are called."""
    for name in ('well-lit', 'day'):  # the degraded set is called by the other's name
        shutil.copytree(folder, tmp_path / name)
    for path in (tmp_path / 'day').iterdir():
        path.rename(path.with_name(f'b{path.name}'))
    data = UnpairedConfig([str(tmp_path / 'well-lit')], [str(tmp_path / 'day')])
    short = dataclasses.replace(
        config,
        data=data,
        rounds=0,
        prompts=Part(2, 2, 1e-3),
        reconstruction=Part(2, 2, 1e-3),
        enhancement=Part(2, 2, 1e-3),
    )
    train(short, tmp_path / 'run')
    shutil.rmtree(tmp_path / 'run' / 'enhancement_0')
    for index in range(1, 7):  # 8 would be left
        (tmp_path / 'well-lit' / f'{index}.png').write_bytes(b'no picture')
    with pytest.warns(UserWarning, match=r'left out: .*well-lit'):
        train(short, tmp_path / 'run')


def test_a_loss_that_is_not_finite_stops_with_the_last_weights_kept(config, tmp_path, monkeypatch):
    calls = []

    def breaks(*given):
        calls.append(None)
        return identity(*given) * (float('nan') if len(calls) > 7 else 1)

    monkeypatch.setattr('dap_led_training.trainers.clip_lit.identity', breaks)
    every = dataclasses.replace(config.loop, checkpoint_every=2)
    quick = dataclasses.replace(config, fixed='joint', loop=every)
    with pytest.raises(FloatingPointError, match=r'the loss is nan at step 3'):
        train(quick, tmp_path)
    kept = tmp_path / 'enhancement_0'
    assert torch.load(kept / 'checkpoint.pt', weights_only=True)['step'] == 2
    assert Enhancer.load(str(kept / loop.WEIGHTS)).enhance(np.full((32, 32, 3), 9, np.uint8))
