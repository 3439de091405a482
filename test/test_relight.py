"""Targets that keep a share of the frame."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import pytest

torch = pytest.importorskip('torch', reason="no torch: pip install 'dap_led_ros[train]'")
pytest.importorskip('yaml')

import dap_led_ros
from dap_led_training import configuration, relight
from dap_led_training.train import TrainConfig

RECIPES = Path(relight.__file__).parent / 'configs'


@pytest.fixture(scope='module')
def target():
    """A photograph, (1, 3, H, W) in [0, 1]."""
    frame = cv2.imread(str(Path(dap_led_ros.__file__).parent / 'sample' / 'garage.jpg'))
    return torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 255


@pytest.mark.parametrize(('factor', 'power'), [(0.2, 1.0), (0.3, 1.4), (0.15, 0.8)])
def test_a_frame_that_only_lost_light_gets_it_back(target, factor, power):
    relit = relight.relit(factor * target**power, target)
    torch.testing.assert_close(relit, target, rtol=0, atol=0.03)


def test_blur_and_noise_stay(target):
    blurred = torch.from_numpy(cv2.blur(target[0].permute(1, 2, 0).numpy(), (9, 9)))
    blurred = blurred.permute(2, 0, 1)[None]
    relit = relight.relit(0.2 * blurred, target)
    assert float((relit - blurred).abs().mean()) < 0.02 < float((relit - target).abs().mean())
    kept = relight.keep(0.2 * blurred, target, 0.25)
    off = kept - (0.75 * target + 0.25 * relit)
    assert float(off.abs().mean()) < 0.002  # the softening


def test_a_noisy_frame_gives_less(target):
    flat = torch.full_like(target, 0.5)
    rng = torch.Generator().manual_seed(1)
    grain = torch.randn(flat.shape[-2:], generator=rng)
    left = {}
    for noise in (0.01, 0.2):
        kept = relight.keep((flat + noise * grain).clamp(0, 1) / 2, flat, 0.3) - flat
        left[noise] = float(kept.std()) / (0.3 * 3 / 8 * noise)
    assert left[0.01] == pytest.approx(1, abs=0.1)
    assert left[0.2] < 0.7


def test_an_undegraded_frame_stays_its_own_target(target):
    both, dark = torch.cat([target, target]), torch.cat([target, target / 4])
    kept = relight.keep(dark, both, 0.3)
    assert torch.equal(kept[0], target[0])  # the gate's loss tells such frames by that
    assert not torch.equal(kept[1], target[0])
    black = torch.zeros_like(target)
    assert torch.isfinite(relight.keep(black, black, 0.3)).all()
    assert torch.isfinite(relight.keep(black, target, 0.3)).all()


def test_a_share_of_all_is_refused():
    recipe = configuration.load(RECIPES / 'nano_tone.yaml', TrainConfig)
    with pytest.raises(ValueError, match=r'keep is 1.0: use a share from 0 to below 1'):
        dataclasses.replace(recipe, keep=1.0)
