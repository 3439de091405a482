"""The frozen judge: its pictures never change, and its figures are what they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('torch', reason="no torch: pip install 'dap_led_ros[train]'")

from conftest import cut, imported_by

from dap_led_ros.photometry import linear_to_srgb, srgb_to_linear, to_uint8
from dap_led_training.data import judge_photographs
from dap_led_training.measure import frames as measure_frames
from dap_led_training.measure import judge, judge_generator, metrics
from dap_led_training.measure.methods import auto

GENERATOR = Path(judge_generator.__file__)


def test_the_judge_is_frozen():
    """Figures of different releases are compared: whoever changes these makes another judge."""
    assert judge_photographs.digest(GENERATOR) == (
        '6f3d9b04dbe67d572b858885a761dfbe993f6123a8135067cab3b8643f5ec4ed'
    )
    assert judge_photographs.digest(judge_photographs.LIST) == (
        '5ddce072c7abfe7610f3ed386fb128754251dc890e3cf2038f268f3b0085700c'
    )
    assert len(judge_photographs.hashes()) == 67


def test_it_shares_no_code_with_the_training():
    assert imported_by(GENERATOR) == {'__future__', 'cv2', 'numpy'}


@pytest.fixture(scope='module')
def sharp(night) -> np.ndarray:
    return night[1]


@pytest.mark.parametrize('kind', judge_generator.SETS)
def test_a_pair_is_a_function_of_photograph_and_number(sharp, kind):
    frame, reference = judge_generator.pair(sharp, 5, kind)
    again, _ = judge_generator.pair(sharp, 5, kind)
    assert frame.shape == reference.shape == (480, 640, 3)
    assert np.array_equal(frame, again)
    assert not np.array_equal(frame, judge_generator.pair(sharp, 6, kind)[0]) or 'day' in kind
    if judge_generator.SETS[kind].get('law'):
        assert frame.mean() < 0.75 * reference.mean()
    else:
        assert abs(frame.mean() - reference.mean()) < 6


def test_the_linear_law_is_one_factor_on_light(sharp):
    frame, reference = judge_generator.pair(sharp, 1, 'only dark, linear')
    bright = reference.min(2) > 100
    ratio = srgb_to_linear(frame)[bright] / srgb_to_linear(reference)[bright]
    assert ratio.std() < 0.05 * ratio.mean()
    deep, _ = judge_generator.pair(sharp, 1, 'deep night')
    assert srgb_to_linear(deep).mean() == pytest.approx(
        0.01 * srgb_to_linear(reference).mean(), rel=0.15
    )


def test_auto_reaches_its_mean_as_far_as_clipping_lets_it(sharp):
    dark = to_uint8(linear_to_srgb(srgb_to_linear(sharp) * 0.1))
    assert auto(dark).mean() == pytest.approx(108, abs=1)
    assert auto(dark, 60).mean() == pytest.approx(60, abs=1)
    assert not auto(np.zeros_like(dark)).any()


def test_toned_forgives_any_monotone_curve_and_nothing_else(sharp):
    curved = to_uint8((sharp / 255.0) ** 1.7 * 0.8)
    assert metrics.psnr(judge.toned(curved, sharp), sharp) > 38
    noise = np.random.default_rng(0).normal(0, 20, sharp.shape)
    noisy = np.clip(sharp + noise, 0, 255).astype(np.uint8)
    assert metrics.psnr(judge.toned(noisy, sharp), sharp) < metrics.psnr(noisy, sharp) + 1.5


def test_haze_is_a_lifted_lowest_tenth(sharp):
    lifted = np.maximum(sharp, 60)
    errors = judge.tone_errors(lifted, sharp)
    assert errors[0] > 10 and abs(errors[-1]) < 0.01
    assert not judge.tone_errors(sharp, sharp).any()


def test_the_command_prints_baselines_beside_a_model(tmp_path, sharp, monkeypatch, capsys):
    folder = cut(tmp_path / 'photographs', 2, 2, (240, 160))
    listed = tmp_path / 'list.txt'
    listed.write_text(
        ''.join(f'{judge_photographs.digest(p)}  x/{p.name}\n' for p in sorted(folder.iterdir()))
    )
    monkeypatch.setattr(judge_photographs, 'LIST', listed)
    monkeypatch.setattr(measure_frames, 'FOLDERS', [str(folder)])
    out = tmp_path / 'figures.json'
    measure_frames.main(
        ['nano', '--sets', 'only dark, linear', 'little noise', '--json', str(out)]
    )
    printed = capsys.readouterr().out
    assert judge.version() in printed and '2 photographs, 640x480' in printed
    for name in ('input', 'auto', 'relit', 'CLAHE + gamma', 'nano', 'clean, blur left in'):
        assert f'\n  {name} ' in printed
    assert 'MTF50' in printed and 'nano: ' in printed
    with pytest.raises(FileNotFoundError, match='none of the judge'):
        judge.photographs([str(cut(tmp_path / 'others', 1, 1, (0, 0), width=200))])
