"""DAP-LED from photographs to the node: losses, several processes, a killed run, checkpoints."""

from __future__ import annotations

import csv
import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason="no torch: pip install 'dap_led_ros[train]'")
pytest.importorskip('open_clip', reason="no open_clip: pip install 'dap_led_ros[train]'")

import open_clip
import yaml
from conftest import wait_until
from safetensors.torch import load_file, save_file
from torch.nn import functional

from dap_led_ros.checkpoints import checkpoint, priors
from dap_led_ros.checkpoints.priors import build_prior
from dap_led_ros.inference import Enhancer
from dap_led_ros.priors import PriorConfig
from dap_led_training import loop, losses
from dap_led_training.data import captions, labelled_frames
from dap_led_training.data.batches import Stage
from dap_led_training.data.config import DataConfig
from dap_led_training.loop import LoopConfig
from dap_led_training.losses import LossWeights
from dap_led_training.trainers import clip as train_clip
from dap_led_training.trainers import distilled as train_distilled
from dap_led_training.trainers.paired import EnhanceRecipe, TrainConfig, train

LOOP = LoopConfig(
    learning_rate=1e-3, ema_decay=0.9, workers=0, checkpoint_every=5, precision='32-true'
)


def recipe(folder: str, steps: int = 10, **changes) -> TrainConfig:
    config = TrainConfig(
        network='dap-led-tiny',
        data=DataConfig(photographs=[folder]),
        stages=[Stage(32, 4, steps)],
        prior=PriorConfig('handcrafted'),
        loop=LOOP,
    )
    return dataclasses.replace(config, **changes)


def run(config: TrainConfig, out: Path, processes: int = 0) -> subprocess.Popen:
    """Train in processes of their own."""
    out.mkdir(exist_ok=True)
    path = out / 'recipe.yaml'
    path.write_text(yaml.safe_dump({'kind': 'paired', **loop.as_plain(config)}))
    command = [sys.executable]
    if processes:
        command += ['-m', 'torch.distributed.run', '--standalone', f'--nproc-per-node={processes}']
    command += ['-m', 'dap_led_training', 'train', str(path), '--out', str(out)]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen) -> None:
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said[-3000:]


def logged(out: Path) -> dict[str, float]:
    """The last row of a run's log."""
    (log,) = out.glob('logs/*/metrics.csv')
    with log.open() as file:
        return {key: float(value) for key, value in list(csv.DictReader(file))[-1].items()}


# --- running ----------------------------------------------------------------------------------


def test_two_processes_are_one_with_the_doubled_batch(folder, tmp_path):
    """DDP with gloo: each process holds half of the same batch, the losses are equal."""
    config = recipe(folder)
    finish(run(config, tmp_path / 'one'))
    finish(run(config, tmp_path / 'two', processes=2))
    one, two = logged(tmp_path / 'one'), logged(tmp_path / 'two')
    assert two['loss'] == pytest.approx(one['loss'], rel=1e-4)
    weights = [load_file(tmp_path / name / loop.WEIGHTS) for name in ('one', 'two')]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, atol=1e-4, rtol=1e-2)


def test_a_killed_run_goes_on_to_the_same_weights(folder, tmp_path):
    """SIGKILL at a random moment: the checkpoint is whole, and nothing is lost or repeated."""
    config = recipe(folder, steps=80)
    finish(run(config, tmp_path / 'whole'))
    broken = tmp_path / 'broken'
    process = run(config, broken)
    assert wait_until((broken / 'checkpoint.pt').exists, 120)
    time.sleep(random.Random(os.getpid()).random())
    process.send_signal(signal.SIGKILL)
    process.wait()
    state = torch.load(broken / 'checkpoint.pt', weights_only=True)
    assert state['step'] % 5 == 0 and 0 < state['step'] < 80
    load_file(broken / loop.WEIGHTS)
    finish(run(config, broken))
    found, expected = (load_file(tmp_path / n / loop.WEIGHTS) for n in ('broken', 'whole'))
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_run_of_another_recipe_is_not_continued(folder, tmp_path):
    train(recipe(folder, steps=5), tmp_path)
    with pytest.raises(ValueError, match=r'holds a run whose stages differ'):
        train(recipe(folder, steps=6), tmp_path)
    moved = dataclasses.replace(LOOP, checkpoint_every=7, workers=1)
    train(recipe(folder, steps=5, loop=moved), tmp_path)  # only the machine differs


def test_a_run_goes_on_with_a_version_that_knows_more_options(folder, tmp_path):
    train(recipe(folder, 5), tmp_path)
    path = tmp_path / 'config.yaml'
    known = yaml.safe_load(path.read_text())
    del known['train_only'], known['prior']['dense_mode']
    path.write_text(yaml.safe_dump(known))
    train(recipe(folder, 5), tmp_path)
    assert yaml.safe_load(path.read_text())['train_only'] == []


def test_options_change_the_preset_and_wrong_ones_are_named(folder):
    made = EnhanceRecipe(recipe(folder, options={'channels': 16, 'modulation': 'depthwise'}))
    assert made.network.stem.out_channels == 16
    with pytest.raises(ValueError, match=r"no key 'modulatoin'; did you mean 'modulation'"):
        EnhanceRecipe(recipe(folder, options={'modulatoin': 'conv'}))
    with pytest.raises(ValueError, match=r'heads: expected 4 values'):
        EnhanceRecipe(recipe(folder, options={'heads': [1, 2]}))


def test_the_learning_rate_warms_up_and_falls():
    config = LoopConfig(
        learning_rate=1.0, schedule='cosine', final_learning_rate=0.1, warmup_steps=10
    )
    rates = [loop.learning_rate(step, 100, config) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] > 0.97
    assert rates[100] == pytest.approx(0.1)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    constant = dataclasses.replace(config, schedule='constant', warmup_steps=0)
    assert {loop.learning_rate(step, 100, constant) for step in range(100)} == {1.0}


# --- losses -----------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def judge():
    return build_prior(PriorConfig())


def test_each_loss_is_a_switch(folder):
    degraded = torch.randint(0, 80, (2, 32, 32, 3), dtype=torch.uint8)
    target = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    for weights, names in (
        (LossWeights(), {'charbonnier'}),
        (LossWeights(identity=0.1), {'charbonnier', 'identity'}),
        (LossWeights(identity=0.1, clip=0.01), {'charbonnier', 'identity', 'clip'}),
        (LossWeights(charbonnier=0, gradient=1), {'gradient'}),
    ):
        terms = EnhanceRecipe(recipe(folder, losses=weights))(degraded, target)
        assert set(terms) == names
    with pytest.raises(ValueError, match=r'has no gate'):
        EnhanceRecipe(recipe(folder, losses=LossWeights(gate=1.0)))(degraded, target)


def test_identity_by_hand(judge):
    torch.manual_seed(0)
    target, enhanced = torch.rand(2, 2, 3, 48, 48)
    assert float(losses.identity(target, target, judge)) == pytest.approx(0, abs=1e-5)
    one, two = judge.embed(target), judge.embed(enhanced)
    raw = (one - two).norm(dim=-1).mean()
    unit = (one / one.norm(dim=-1, keepdim=True) - two / two.norm(dim=-1, keepdim=True)).norm(
        dim=-1
    )
    assert float(losses.identity(enhanced, target, judge)) == pytest.approx(float(unit.mean()))
    raw_loss = losses.identity(enhanced, target, judge, normalized=False)
    assert float(raw_loss) == pytest.approx(float(raw), rel=1e-4)


@pytest.mark.parametrize('polarity', losses.POLARITIES)
def test_both_polarities_of_the_clip_loss_prefer_the_clean_frame(judge, night, polarity):
    """And a step against the gradient goes away from the degraded prompt."""
    degraded, clean = (torch.from_numpy(f).permute(2, 0, 1)[None] / 255 for f in night)
    values = [float(losses.clip(frame, judge, polarity)) for frame in (degraded, clean)]
    assert values[1] < values[0] - 0.1
    frame = degraded.clone().requires_grad_()
    losses.clip(frame, judge, polarity).backward()
    step = degraded - 0.02 * frame.grad / frame.grad.abs().max()
    cosine = [float(losses.clip(f, judge, 'degraded')) for f in (degraded, step)]
    assert cosine[1] < cosine[0]


# --- checkpoints ------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def trained(folder, tmp_path_factory) -> Path:
    """A checkpoint guided by the CLIP that ships, trained with all of the paper's losses."""
    config = recipe(
        folder,
        steps=6,
        prior=PriorConfig(),
        losses=LossWeights(identity=0.1, clip=0.01),
        loop=dataclasses.replace(LOOP, learning_rate=1e-2, ema_decay=0.5),
    )
    return train(config, tmp_path_factory.mktemp('trained'))


def test_a_checkpoint_enhances_a_photograph_without_the_text_tower(trained, night, monkeypatch):
    def no_texts(*_):
        raise AssertionError('the prompts are in the checkpoint')

    monkeypatch.setattr(priors, 'embed_prompts', no_texts)
    enhancer = Enhancer.load(str(trained))
    assert enhancer.provider.startswith('torch ')
    frame = cv2.resize(night[0], (161, 123))
    enhanced = enhancer.enhance(frame)
    assert enhanced.frame.shape == frame.shape
    assert not np.array_equal(enhanced.frame, frame)
    assert 'blur' in enhanced.degradation
    network = checkpoint.load(trained)
    with torch.inference_mode():
        tensor = torch.from_numpy(frame).permute(2, 0, 1)[None] / 255
        expected = (network(tensor).clamp(0, 1)[0].permute(1, 2, 0) * 255).round().numpy()
    assert np.abs(expected - enhanced.frame).max() <= 1


def test_a_checkpoint_does_not_hold_the_clip(trained):
    names = load_file(trained)
    assert {n for n in names if n.startswith('prior.')} == {'prior.texts', 'prior.logit_scale'}
    state = torch.load(trained.parent / 'checkpoint.pt', weights_only=True)
    assert not any('visual' in name for name in state['recipe'])


def test_a_checkpoint_of_another_tower_is_refused(trained, monkeypatch):
    monkeypatch.setattr(priors.ClipPrior, 'fingerprint', 1)
    with pytest.raises(ValueError, match=r'was trained with another image tower'):
        Enhancer.load(str(trained))


def test_a_file_that_is_no_checkpoint_is_explained(tmp_path):
    (tmp_path / 'a.safetensors').write_bytes(b'x' * 100)
    with pytest.raises(ValueError, match=r'no safetensors file, or damaged'):
        Enhancer.load(str(tmp_path / 'a.safetensors'))
    save_file({'weight': torch.zeros(1)}, tmp_path / 'b.safetensors')
    with pytest.raises(ValueError, match=r'give a checkpoint that dap_led_training train wrote'):
        Enhancer.load(str(tmp_path / 'b.safetensors'))
    named = {'dap_led_ros': '{"network": "DapLed2"}'}
    save_file({'weight': torch.zeros(1)}, tmp_path / 'd.safetensors', metadata=named)
    with pytest.raises(ValueError, match=r'written by another version'):
        Enhancer.load(str(tmp_path / 'd.safetensors'))
    with pytest.raises(ValueError, match=r'device is .tpu.'):
        Enhancer.load(str(tmp_path / 'b.safetensors'), device='tpu')
    with pytest.raises(FileNotFoundError, match=r'.safetensors checkpoint'):
        Enhancer.load(str(tmp_path / 'c.safetensors'))
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match=r'set device to cpu or auto'):
            Enhancer.load(str(tmp_path / 'b.safetensors'), device='cuda')


# --- the CLIP and its student -----------------------------------------------------------------


def test_captions_fit_what_they_describe():
    rng = np.random.default_rng(0)
    exposure, path_length = np.array([1.0, 0.03, 1.0, 0.03]), np.array([0.0, 0.0, 18.0, 18.0])
    for index in range(4):
        texts = [
            captions.write_caption(exposure[index], path_length[index], rng) for _ in range(50)
        ]
        assert len({text.text for text in texts}) > 20
        fits = captions.agreement(texts, exposure, path_length)[index]
        assert np.median(fits) > 0.5 and fits.min() > 0.001
    both = captions.Caption('', light='dark', blur='blurry')
    only = captions.Caption('', blur='blurry')
    fits = captions.agreement([both, only], exposure, path_length)
    np.testing.assert_allclose(fits, [[0, 0], [0, 0], [0, 1], [1, 1]], atol=0.03)


def test_rendered_frames_know_what_was_done_to_them(folder, tmp_path):
    paths = sorted(Path(folder).glob('*.png'))[:3]
    mixture = labelled_frames.Mixture()
    frames = labelled_frames.render(paths, 24, 5, tmp_path, mixture)
    stamp = (tmp_path / 'frames.npy').stat().st_mtime_ns
    again = labelled_frames.render(paths, 24, 5, tmp_path, mixture)
    assert (tmp_path / 'frames.npy').stat().st_mtime_ns == stamp
    assert again.labels == frames.labels
    for index, label in enumerate(frames.labels):
        sharp, frame = frames.sharp(index), frames.frames[index]
        assert sharp.shape == frame.shape == (480, 640, 3)
        if label.exposure < 0.1:
            assert frame.mean() < 0.7 * sharp.mean()
        if label.exposure == 1 and label.path_length == 0:
            assert cv2.PSNR(np.ascontiguousarray(frame), sharp) > 24
    assert min(label.exposure for label in frames.labels) < 0.2
    assert max(label.path_length for label in frames.labels) > 7


@pytest.fixture
def clip_config(folder) -> train_clip.ClipConfig:
    return train_clip.ClipConfig(
        photographs=[folder],
        embed_dim=16,
        model={
            'vision_cfg': {'image_size': 64, 'patch_size': 4, 'width': 32, 'layers': 2,
                           'head_width': 16, 'pool_type': 'avg'},
            'text_cfg': {'context_length': 24, 'width': 16, 'heads': 2, 'layers': 1},
        },
        steps=6,
        tuning_steps=2,
        batch=6,
        frames=8,
        loop=dataclasses.replace(LOOP, optimizer='adamw', weight_decay=0.1),
    )  # fmt: skip


def test_a_clip_and_its_student_are_trained_and_used(folder, clip_config, tmp_path):
    """A few steps of both recipes, all the way to files that load."""
    config = dataclasses.replace(clip_config, tokens=0.5, patch_means=0.1)
    clip = train_clip.train(config, tmp_path / 'clip')
    folded = open_clip.create_model(f'local-dir:{clip}')
    assert folded.visual.pool_type == 'avg'
    prior = build_prior(PriorConfig(clip=str(clip)))
    assert prior(torch.rand(1, 3, 70, 90)).heatmaps.shape == (1, 3, 16, 16)

    student = train_distilled.train(
        train_distilled.DistilConfig(
            photographs=[folder], teacher=str(clip), frames=8, steps=6, batch=4, loop=LOOP
        ),
        tmp_path / 'student',
    )
    import onnxruntime

    session = onnxruntime.InferenceSession(str(student), providers=['CPUExecutionProvider'])
    maps, scores = session.run(None, {'frame': np.zeros((2, 3, 240, 320), np.float32)})
    assert maps.shape == (2, 3, 15, 20) and scores.shape == (2, 3)
    assert (tmp_path / 'student' / loop.WEIGHTS).exists()


def test_each_token_is_asked_by_itself_where_the_recipe_says_so(clip_config):
    """One term more: the mean over single tokens of what each says of its picture's caption."""
    torch.manual_seed(0)
    recipe = train_clip.ClipRecipe(dataclasses.replace(clip_config, patch_dropout=0.0)).eval()
    pictures = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    regions = torch.ones(2, 256)
    texts = open_clip.SimpleTokenizer(context_length=24)(['a dark image', 'a sharp image'])
    given = (pictures, regions, torch.arange(2), texts, torch.eye(2))
    assert set(recipe(*given)) == {'images', 'texts'}
    recipe.config = dataclasses.replace(clip_config, tokens=0.5)
    terms = recipe(*given)
    assert set(terms) == {'images', 'texts', 'tokens'}
    recipe.config = dataclasses.replace(clip_config, tokens=1.0)
    assert recipe(*given)['tokens'].item() == pytest.approx(2 * terms['tokens'].item(), rel=1e-4)
    with torch.no_grad():
        _, tokens = recipe.network.visual(train_clip.normalized(train_clip.as_planes(pictures)))
        tokens = functional.normalize(tokens @ recipe.network.visual.proj, dim=-1)
        described = recipe.network.encode_text(texts, normalize=True)
        logits = recipe.network.logit_scale.exp() * tokens @ described.T
        expected = -logits.log_softmax(-1)[[0, 1], :, [0, 1]].mean()
    assert recipe(*given)['tokens'].item() == pytest.approx(expected.item(), rel=1e-4)


def test_held_kernels_see_contrast_and_learn_no_more(clip_config):
    config = dataclasses.replace(clip_config, patch_means=0.1)
    kernels = train_clip.create(config).visual.conv1.weight
    with torch.no_grad():
        kernels.add_(0.5)
    means, detail = kernels.mean((2, 3)).clone(), kernels - kernels.mean((2, 3), keepdim=True)
    train_clip.hold_kernels(kernels, 0.1)
    torch.testing.assert_close(kernels.mean((2, 3)), 0.1 * means)
    torch.testing.assert_close(kernels - kernels.mean((2, 3), keepdim=True), detail)
    assert not kernels.requires_grad


def test_patch_dropout_remembers_what_it_kept():
    dropout = train_clip.KeptPatches(0.75).train()
    tokens = torch.arange(17.0)[None, :, None].expand(3, -1, 2)
    kept = dropout(tokens)
    assert kept.shape == (3, 5, 2)
    assert torch.equal(kept[:, 1:, 0], 1 + dropout.kept.float())
    assert torch.equal(dropout.eval()(tokens), tokens)
    assert dropout.kept is None


def test_what_a_user_can_mend_is_told_in_one_line(tmp_path):
    command = [sys.executable, '-m', 'dap_led_training', 'train', str(tmp_path / 'no.yaml')]
    done = subprocess.run([*command, '--out', str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith('error: ') and 'no.yaml' in line
