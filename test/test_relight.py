"""Targets that keep a share of the frame."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import pytest

torch = pytest.importorskip('torch', reason="no torch: pip install 'dap_led_ros[train]'")
pytest.importorskip('yaml')

import dap_led_ros
from dap_led_training import configuration, targets
from dap_led_training.trainers.paired import EnhanceRecipe, TrainConfig

RECIPES = configuration.RECIPES / 'nano_0_1'


@pytest.fixture(scope='module')
def target():
    """A photograph, (1, 3, H, W) in [0, 1]."""
    frame = cv2.imread(str(Path(dap_led_ros.__file__).parent / 'sample' / 'garage.jpg'))
    return torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 255


@pytest.mark.parametrize(('factor', 'power'), [(0.2, 1.0), (0.3, 1.4), (0.15, 0.8)])
def test_a_frame_that_only_lost_light_gets_it_back(target, factor, power):
    relit, seen = targets.relit(factor * target**power, target)
    assert seen.all()
    torch.testing.assert_close(relit, target, rtol=0, atol=0.03)


def test_blur_stays(target):
    blurred = torch.from_numpy(cv2.blur(target[0].permute(1, 2, 0).numpy(), (9, 9)))
    blurred = blurred.permute(2, 0, 1)[None]
    relit, _ = targets.relit(0.2 * blurred, target)
    assert float((relit - blurred).abs().mean()) < 0.02 < float((relit - target).abs().mean())
    kept = targets.keep(0.2 * blurred, target, 0.25)
    torch.testing.assert_close(kept, 0.75 * target + 0.25 * targets._soft(relit))
    assert 0 < float((targets._soft(relit) - relit).abs().mean()) < 0.01


def test_a_noisy_frame_gives_less(target, monkeypatch):
    grain = 0.1 * torch.randn(target.shape[-2:], generator=torch.Generator().manual_seed(1))
    soft = targets._soft((0.5 + grain).expand(1, 3, -1, -1))
    assert float(targets._noise_of_soft(soft)) == pytest.approx(float(soft.std()), rel=0.05)
    noisy = (target + grain).clamp(0, 1) / 2
    soft = targets._soft(targets.relit(noisy, target)[0])
    for most, share in ((1.0, 0.9), (0.01, 0.01 / float(targets._noise_of_soft(soft)))):
        monkeypatch.setattr(targets, 'MOST_NOISE', most)
        kept = targets.keep(noisy, target, 0.9)
        torch.testing.assert_close(kept, torch.lerp(target, soft, share))


def test_an_undegraded_or_black_frame_gives_nothing(target):
    both, dark = torch.cat([target, target]), torch.cat([target, target / 4])
    kept = targets.keep(dark, both, 0.3)
    assert torch.equal(kept[0], target[0])  # the gate's loss tells such frames by that
    assert not torch.equal(kept[1], target[0])
    black = torch.zeros_like(target)
    black[..., :8, :8] = 0.9  # a lamp
    assert torch.equal(targets.keep(black, target, 0.3), target)


def test_the_loss_compares_with_what_is_kept(target):
    recipe = configuration.load(RECIPES / '5_keep.yaml', TrainConfig)
    frames = (target[..., :128, :128].permute(0, 2, 3, 1) * 255).byte()
    terms = {}
    for share in (0.0, 0.3):
        recipe = dataclasses.replace(recipe, keep_input=share)
        for name, degraded in (('dark', frames // 4), ('clean', frames)):
            torch.manual_seed(0)
            with torch.no_grad():
                found = EnhanceRecipe(recipe)(degraded, frames)
            terms[name, share] = float(found['charbonnier'])
    assert terms['clean', 0.3] == terms['clean', 0.0]
    assert terms['dark', 0.3] != terms['dark', 0.0]


def test_a_share_of_all_is_refused():
    recipe = configuration.load(RECIPES / '4_tone.yaml', TrainConfig)
    with pytest.raises(ValueError, match=r'keep_input is 1.0: use a share from 0 to below 1'):
        dataclasses.replace(recipe, keep_input=1.0)
