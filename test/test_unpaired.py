"""Unpaired sets: what they hold, what they refuse, and what a broken file does."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason="no torch: pip install 'dap_led_ros[train]'")

from dap_led_training.data.batches import Stage
from dap_led_training.data.photographs import find_photographs
from dap_led_training.data.unpaired import UnpairedBatches, UnpairedConfig, sources
from dap_led_training.night.night_blur import NightBlurConfig

NIGHT = NightBlurConfig(daylight=0.0)


def write(folder: Path, level: int, count: int = 9) -> str:
    """Flat pictures whose grey level says which folder they are from."""
    folder.mkdir()
    for index in range(count):
        cv2.imwrite(str(folder / f'{index}.png'), np.full((48, 64, 3), level + index, np.uint8))
    return str(folder)


@pytest.fixture
def folders(tmp_path) -> UnpairedConfig:
    return UnpairedConfig([write(tmp_path / 'a', 10)], [write(tmp_path / 'b', 200)])


def batches(config: UnpairedConfig, **options) -> UnpairedBatches:
    return UnpairedBatches(*sources(config, NIGHT, **options), [Stage(32, 4, 50)], seed=3)


def test_a_batch_is_a_function_of_its_number(folders):
    first, second = batches(folders), batches(folders)
    second[0]  # the order of asking does not matter
    for one, other in zip(first[7], second[7]):
        assert one.shape == (4, 32, 32, 3) and one.dtype == torch.uint8
        assert torch.equal(one, other)
    assert not torch.equal(first[7][0], first[8][0])
    assert len(first) == 50
    with pytest.raises(IndexError):
        first[50]


def test_each_set_holds_its_own_and_validation_is_kept_out(folders):
    found = batches(folders)
    levels = [{int(v) for step in range(40) for v in found[step][s].unique()} for s in (0, 1)]
    assert levels == [set(range(11, 18)), set(range(201, 208))]  # 0 and 8 of each are kept out
    degraded, clean = batches(folders, validation=True)[0]
    assert set(degraded.unique().tolist()) <= {10, 18}
    assert set(clean.unique().tolist()) <= {200, 208}


def test_photographs_of_one_folder_are_parted(tmp_path):
    """No photograph is in both sets, and one set is dark."""
    folder = write(tmp_path / 'a', 150, 17)
    degraded, clean = sources(UnpairedConfig(photographs=[folder]), NIGHT)
    rng = np.random.default_rng(0)
    kept = find_photographs([folder], validation=False)[1::2]
    levels = {int(cv2.imread(str(path))[0, 0, 0]) for path in kept}
    seen = {int(v) for _ in range(60) for v in np.unique(clean.sample(32, rng))}
    assert seen == levels
    assert np.mean([degraded.sample(32, rng).mean() for _ in range(20)]) < 100


def test_a_broken_file_is_left_out_and_named(folders, tmp_path):
    whole = batches(folders)
    before = [whole[step][0] for step in range(20)]
    (tmp_path / 'a/3.png').write_bytes(b'no picture')
    found = batches(folders)
    with pytest.warns(UserWarning, match='left out: .*3.png') as said:
        after = [found[step][0] for step in range(20)]
    assert len(said) == 1
    assert not any((batch == 13).any() for batch in after)
    same = [torch.equal(a, b) for a, b in zip(before, after) if not (a == 13).any()]
    assert same and all(same)
    for path in (tmp_path / 'a').iterdir():
        path.write_bytes(b'no picture')
    with (
        pytest.warns(UserWarning, match='left out'),
        pytest.raises(ValueError, match='none of the'),
    ):
        batches(folders)[0]


def test_what_is_no_two_sets_is_refused(tmp_path):
    one, other = write(tmp_path / 'one', 10), write(tmp_path / 'other', 50)
    empty = tmp_path / 'empty'
    empty.mkdir()
    for given in (
        {},
        {'degraded': [one]},
        {'clean': [one]},
        {'clean': [one], 'photographs': [one]},
    ):
        with pytest.raises(ValueError, match='give either degraded'):
            UnpairedConfig(**given)
    with pytest.raises(FileNotFoundError, match=r'no photographs in .*empty'):
        batches(UnpairedConfig([one], [str(empty)]))
    with pytest.raises(ValueError, match=r'7 pictures are in degraded and in clean: .*one/1.png'):
        batches(UnpairedConfig([one], [other, str(tmp_path / 'one')]))
    linked = tmp_path / 'linked'
    linked.symlink_to(one)
    with pytest.raises(ValueError, match='are in degraded and in clean'):
        batches(UnpairedConfig([one], [str(linked)]))
    with pytest.raises(ValueError, match='too few pictures'):
        batches(UnpairedConfig(photographs=[write(tmp_path / 'single', 10, 2)]))
