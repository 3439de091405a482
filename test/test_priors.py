"""The degradation priors: the CLIP that ships, any other, the distilled one, and those by hand."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason="no torch: pip install 'dap_led_ros[train]'")
open_clip = pytest.importorskip(
    'open_clip', reason="no open_clip: pip install 'dap_led_ros[train]'"
)

from torch import Tensor
from torch.nn import functional

from dap_led_ros import sample
from dap_led_ros.checkpoints import priors
from dap_led_ros.checkpoints.priors import build_prior
from dap_led_ros.inference import Enhancer, scorer, weights
from dap_led_ros.priors import NAMES, PriorConfig
from dap_led_ros.priors.clip import PROMPT_PAIRS, ClipPrior
from dap_led_training.measure.prior import halves
from dap_led_training.night.night_blur import NightBlurConfig, degrade, margin

JOINT, LOW_LIGHT, BLUR = range(3)
PRIORS = {
    'clip': PriorConfig(),
    'clip, raw cosine': PriorConfig(prompts='joint'),
    'clip, maskclip': PriorConfig(dense_mode='maskclip'),
    'clip, vv': PriorConfig(dense_mode='vv'),
    'distilled': PriorConfig('distilled'),
    'handcrafted': PriorConfig('handcrafted'),
    'none': PriorConfig('none'),
}


@pytest.fixture(scope='module')
def built() -> dict[str, torch.nn.Module]:
    return {name: build_prior(config) for name, config in PRIORS.items()}


@pytest.fixture(scope='module')
def views() -> dict[str, np.ndarray]:
    """The sample photograph: sharp, darkened, and blurred; all of the same 480x360 view."""
    picture = cv2.imread(str(Path(sample.__file__).parent / 'garage.jpg'))[..., ::-1]
    m = margin(NightBlurConfig())
    wide = cv2.resize(picture, (480 + 2 * m, 360 + 2 * m), interpolation=cv2.INTER_AREA)
    plain = {'lamps': 0, 'defocus': 0, 'smoothing': 0, 'jpeg': 0, 'law_gamma': 0, 'law_linear': 1}
    dark = NightBlurConfig(daylight=0, blur=0, exposure=(0.05, 0.06), **plain)
    blur = NightBlurConfig(daylight=1, blur=1, path_length=(13, 14), straight=1, **plain)
    rng = np.random.default_rng(4)
    m_dark, m_blur = margin(dark), margin(blur)
    inner = wide[m:-m, m:-m]
    around = lambda n: wide[m - n : -(m - n) or None, m - n : -(m - n) or None]  # noqa: E731
    return {
        'sharp': np.ascontiguousarray(inner),
        'dark': degrade(around(m_dark), dark, rng)[0],
        'blur': degrade(around(m_blur), blur, rng)[0],
    }


def tensor(frame: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(frame)).permute(2, 0, 1)[None].float() / 255


# --- the interface ----------------------------------------------------------------------------


@pytest.mark.parametrize('name', PRIORS)
@pytest.mark.parametrize('size', [(16, 16), (17, 43), (120, 161)])
def test_every_prior_keeps_the_interface(built, name, size):
    torch.manual_seed(0)
    maps, scores = built[name](torch.rand(2, 3, *size))
    assert maps.shape[:2] == scores.shape == (2, len(NAMES))
    assert maps.ndim == 4
    for values in (maps, scores):
        assert values.min() >= 0 and values.max() <= 1
        assert not values.requires_grad


@pytest.mark.parametrize('name', PRIORS)
def test_every_prior_is_frozen(built, name):
    prior = built[name]
    assert not any(parameter.requires_grad for parameter in prior.parameters())
    frame = torch.rand(1, 3, 64, 64)
    before = prior(frame)
    prior.train()
    assert all(torch.equal(a, b) for a, b in zip(before, prior(frame)))


def test_none_says_one_everywhere(built):
    maps, scores = built['none'](torch.rand(2, 3, 32, 32))
    assert (maps == 1).all() and (scores == 1).all()


def test_handcrafted_by_hand(built):
    flat = torch.full((1, 3, 64, 64), 0.25)
    maps, scores = built['handcrafted'](flat)
    torch.testing.assert_close(scores[0], torch.tensor([0.75, 0.75, 1.0]), atol=1e-4, rtol=0)
    torch.testing.assert_close(maps, scores[:, :, None, None].expand_as(maps), atol=1e-4, rtol=0)


@pytest.mark.parametrize('wrong', [{'kind': 'clop'}, {'prompts': 'dark'}, {'dense_mode': 'first'}])
def test_a_wrong_option_is_refused(wrong):
    with pytest.raises(ValueError, match=r'is not one of'):
        PriorConfig(**wrong)


def test_prompts_choose_the_guide():
    assert [
        NAMES[PriorConfig(prompts=prompts).guide]
        for prompts in ('joint', 'joint_antonyms', 'low_light', 'blur')
    ] == ['joint', 'joint', 'low_light', 'blur']


# --- what the shipped priors know -------------------------------------------------------------


@pytest.mark.parametrize('name', ['clip', 'distilled'])
def test_scores_tell_sharp_from_dark_and_from_blurred(built, views, name):
    scores = {view: built[name](tensor(frame)).scores[0] for view, frame in views.items()}
    assert scores['sharp'][LOW_LIGHT] < 0.3 and scores['sharp'][BLUR] < 0.4
    assert scores['dark'][LOW_LIGHT] > 0.7
    assert scores['blur'][BLUR] > scores['sharp'][BLUR] + 0.3
    assert scores['blur'][LOW_LIGHT] < 0.3


@pytest.mark.parametrize('name', ['clip', 'distilled'])
@pytest.mark.parametrize(('view', 'index'), [('dark', LOW_LIGHT), ('blur', BLUR)])
def test_heatmaps_light_up_where_the_frame_is_degraded(built, views, name, view, index):
    for left in (True, False):
        frame = halves(views[view], views['sharp'], left)
        heatmap = built[name](tensor(frame)).heatmaps[0, index]
        middle = heatmap.shape[1] // 2
        sides = heatmap[:, :middle].mean(), heatmap[:, middle:].mean()
        degraded, sharp = sides if left else sides[::-1]
        assert degraded > sharp + 0.1


def test_the_distilled_onnx_is_the_distilled_network(built, views):
    of_file = scorer.DegradationScorer()
    for frame in views.values():
        frame = cv2.resize(frame, (640, 480))
        expected = built['distilled'](tensor(frame)).scores[0]
        found = of_file.score(frame)
        assert list(found) == list(NAMES)
        np.testing.assert_allclose(list(found.values()), expected, atol=0.02)  # 8-bit resize
        wide = of_file.score(frame.astype(np.uint16) * 257)
        np.testing.assert_allclose(list(wide.values()), list(found.values()), atol=0.02)


def test_the_enhancer_scores_frames_without_torch(views):
    enhancer = Enhancer.load()
    dark, sharp = (enhancer.enhance(views[view]).degradation for view in ('dark', 'sharp'))
    assert dark['low_light'] > sharp['low_light'] + 0.3


# --- any CLIP ---------------------------------------------------------------------------------


@pytest.fixture
def other() -> open_clip.CLIP:
    """A small CLIP with a class token, as OpenAI's have it, with random weights."""
    torch.manual_seed(0)
    clip = open_clip.CLIP(
        32,
        {'image_size': 64, 'patch_size': 16, 'width': 48, 'layers': 3, 'head_width': 24},
        {'context_length': 24, 'width': 32, 'heads': 2, 'layers': 1},
    ).eval()
    open_clip.model.set_model_preprocess_cfg(
        clip, {'mean': open_clip.OPENAI_DATASET_MEAN, 'std': open_clip.OPENAI_DATASET_STD}
    )
    return clip


def prior_of(clip, **options) -> ClipPrior:
    texts = priors.embed_prompts(clip, PROMPT_PAIRS)
    return ClipPrior(clip.visual, texts, 10.0, **options)


def test_scores_are_the_softmax_over_a_prompt_and_its_antonym(other):
    prior, frame = prior_of(other), torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        pixels = (frame - prior.mean) / prior.std
        image = other.encode_image(pixels, normalize=True)
        text = open_clip.SimpleTokenizer(context_length=24)([p for ps in PROMPT_PAIRS for p in ps])
        cosines = (image @ other.encode_text(text, normalize=True).T).reshape(3, 2)
    expected = (10 * cosines).softmax(-1)[:, 0]
    torch.testing.assert_close(prior(frame).scores[0], expected, atol=1e-5, rtol=1e-4)
    raw = prior_of(other, antonyms=False)(frame).scores[0]
    torch.testing.assert_close(raw[JOINT], cosines[0, 0].clamp(0, 1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(raw[1:], expected[1:], atol=1e-5, rtol=1e-4)


def test_dense_modes_change_the_maps_and_not_the_scores(other):
    frame = torch.rand(1, 3, 80, 100)
    found = {m: prior_of(other, dense_mode=m)(frame) for m in ('last', 'maskclip', 'vv')}
    for mode in ('maskclip', 'vv'):
        assert torch.equal(found[mode].scores, found['last'].scores)
        assert not torch.allclose(found[mode].heatmaps, found['last'].heatmaps)
    assert not torch.allclose(found['vv'].heatmaps, found['maskclip'].heatmaps)


def test_dense_modes_by_hand(other):
    """`last` is the output of the tower; `maskclip` its last block without queries and keys."""
    visual, frame = other.visual, torch.rand(1, 3, 64, 64)
    seen = {}
    block = visual.transformer.resblocks[-1]
    block.register_forward_hook(lambda m, i, out: seen.update(before=i[0], after=out))
    last, mask = (prior_of(other, dense_mode=mode) for mode in ('last', 'maskclip'))
    maps = last(frame).heatmaps, mask(frame).heatmaps
    with torch.no_grad():
        values = block.ln_1(seen['before'][:, 1:])
        third = block.attn.in_proj_weight[2 * 48 :], block.attn.in_proj_bias[2 * 48 :]
        values = block.attn.out_proj(functional.linear(values, *third))
        for found, tokens in zip(maps, (seen['after'][:, 1:], values)):
            tokens = functional.normalize(visual.ln_post(tokens) @ visual.proj, dim=-1)
            cosines = torch.einsum('nd,kpd->nkp', tokens[0], last.texts)
            expected = (10 * cosines).softmax(-1)[..., 0].T.reshape(3, 4, 4)
            torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=1e-4)


def test_the_mean_of_the_shipped_dense_tokens_is_its_embedding(built, views):
    """It pools by averaging, so that maps and scores speak of the same thing."""
    prior, frame = built['clip'], tensor(views['dark'])
    with torch.no_grad():
        found = prior.visual.forward_intermediates(
            prior._pixels(frame), indices=2, output_fmt='NLC'
        )
        tokens = prior._dense(*found['image_intermediates'])
        torch.testing.assert_close(tokens.mean(1), prior.embed(frame), atol=1e-4, rtol=1e-3)


def test_embeddings_have_a_gradient_and_maps_have_none(built):
    frame = torch.rand(1, 3, 48, 48, requires_grad=True)
    built['clip'].embed(frame).sum().backward()
    assert frame.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in built['clip'].parameters())
    assert not built['clip'](frame).heatmaps.requires_grad


def test_a_tower_without_blocks_is_refused():
    resnet = open_clip.CLIP(
        32,
        {'image_size': 64, 'layers': (1, 1, 1, 1), 'width': 16},
        {'context_length': 24, 'width': 32, 'heads': 2, 'layers': 1},
    )
    with pytest.raises(ValueError, match=r'needs a ViT'):
        ClipPrior(resnet.visual, torch.zeros(3, 2, 32), 10.0)


def test_missing_weights_are_named_with_where_to_put_them(tmp_path, monkeypatch):
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    with pytest.raises(ValueError, match=r'no CLIP .ViT-L-15.*degradation-clip-tiny'):
        build_prior(PriorConfig(clip='ViT-L-15'))
    with pytest.raises(FileNotFoundError, match=r'neither a file nor one of.*openai'):
        build_prior(PriorConfig(clip='ViT-L-14', weights='openia'))
    (tmp_path / 'open_clip_config.json').write_text('{}')
    with pytest.raises(FileNotFoundError, match=r'put open_clip_model.safetensors beside'):
        build_prior(PriorConfig(clip=str(tmp_path)))

    def offline(*_, **__):
        raise OSError('no network')

    monkeypatch.setattr(open_clip, 'create_model', offline)
    with pytest.raises(FileNotFoundError, match=r'Fetch https.*set prior.weights to the path'):
        build_prior(PriorConfig(clip='ViT-L-14-quickgelu', weights='openai'))
    with pytest.raises(ValueError, match=r'another activation.*ViT-L-14-quickgelu'):
        build_prior(PriorConfig(clip='ViT-L-14', weights='openai'))
    (tmp_path / 'weights.pt').write_bytes(b'nothing')
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r'does not hold weights of ViT-S-32-alt'):
        build_prior(PriorConfig(clip='ViT-S-32-alt', weights=str(tmp_path / 'weights.pt')))


def test_any_open_clip_loads_from_a_file(tmp_path):
    """By name with a file of weights: the way to OpenAI's CLIP without a network."""
    clip = open_clip.create_model('ViT-S-32-alt').eval()
    torch.save(clip.state_dict(), tmp_path / 'weights.pt')
    prior = build_prior(PriorConfig(clip='ViT-S-32-alt', weights=str(tmp_path / 'weights.pt')))
    maps, _ = prior(torch.rand(1, 3, 96, 128))
    assert maps.shape == (1, 3, 7, 7)  # 224 / 32


def test_the_shipped_clip_is_small_and_any_open_clip_reads_it():
    folder = weights.PRIORS / 'degradation-clip-tiny'
    size = (folder / 'open_clip_model.safetensors').stat().st_size
    assert size < 15e6
    clip, _, _ = open_clip.create_model_and_transforms(f'local-dir:{folder}')
    config = json.loads((folder / 'open_clip_config.json').read_text())['model_cfg']
    assert 3e6 < sum(p.numel() for p in clip.visual.parameters()) < 6e6
    assert config['vision_cfg']['image_size'] // config['vision_cfg']['patch_size'] == 16
