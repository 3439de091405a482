"""Tiles: what a DAP-LED makes of a frame in tiles is what it makes of the whole."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason="no torch: pip install 'dap_led_ros[train]'")

from dap_led_ros.checkpoints import checkpoint
from dap_led_ros.inference import Enhancer, tiling, weights
from dap_led_ros.models import dap_led
from dap_led_ros.models.dap_led import DapLed
from dap_led_ros.priors import PriorConfig


@pytest.fixture(scope='module')
def model(tmp_path_factory) -> Path:
    """A tiny DAP-LED that changes frames by much and looks at its prior."""
    torch.manual_seed(0)
    config = dataclasses.replace(dap_led.PRESETS['dap-led-tiny'], prior=PriorConfig('handcrafted'))
    network = DapLed(config)
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    path = tmp_path_factory.mktemp('model') / 'tiny.safetensors'
    checkpoint.save(network, path)
    return path


@pytest.mark.parametrize('size', [193, 256, 400, 641, 1280, 1919])
def test_spans_cover_the_frame_and_overlap(size):
    found = tiling.spans(size, 192)
    covered = np.zeros(size, int)
    for span in found:
        covered[span] += 1
        assert span.stop - span.start == 192
        assert span.start % 16 == 0 or span.stop == size
    assert covered.min() >= 1
    for one, other in itertools.pairwise(found):
        assert one.stop - other.start >= tiling.OVERLAP - 15
    assert tiling.spans(192, 192) == [slice(0, 192)]


def test_tiles_give_the_whole_and_show_no_seam(model, night, monkeypatch):
    frame = np.ascontiguousarray(night[0][:320, :464])
    frame[:, 232:] //= 4  # the halves are unlike: what tiles alone would average differs
    whole = Enhancer.load(str(model), 'cpu', 1).network(frame)[0].astype(float)
    tiled = Enhancer.load(str(model), 'cpu', 1, tile=192)
    difference = np.abs(tiled.network(frame)[0] - whole)
    # Alone: each tile with averages of its own.
    monkeypatch.setattr(tiling.Averages, '__call__', lambda *_: None)
    alone = np.abs(tiled.network(frame)[0] - whole)
    assert np.sqrt(np.square(difference).mean()) < 0.5 * np.sqrt(np.square(alone).mean())
    assert np.percentile(difference, 99.9) <= 4
    # A seam would be a column or a row where the difference jumps.
    for axis in (0, 1):
        profile = difference.mean((axis, 2))
        assert np.abs(np.diff(profile)).max() < 1


@pytest.mark.parametrize(('height', 'width'), [(100, 300), (270, 184)])
def test_sides_that_cells_do_not_divide(model, night, height, width):
    frame = np.ascontiguousarray(night[0][:height, :width])
    whole = Enhancer.load(str(model), 'cpu', 1).network(frame)[0].astype(float)
    tiled = Enhancer.load(str(model), 'cpu', 1, tile=192).network(frame)[0]
    assert np.percentile(np.abs(tiled - whole), 99.9) <= 4


def test_a_frame_no_larger_than_a_tile_is_whole(model, night):
    frame = np.ascontiguousarray(night[0][:192, :160])
    one = Enhancer.load(str(model), 'cpu', 1).network(frame)[0]
    other = Enhancer.load(str(model), 'cpu', 1, tile=192).network(frame)[0]
    np.testing.assert_array_equal(one, other)


def test_what_has_no_tiles_is_said(model):
    with pytest.raises(ValueError, match='tile is 100'):
        Enhancer.load(str(model), 'cpu', tile=100)
    with pytest.raises(ValueError, match='tiles need a checkpoint'):
        Enhancer.load('nano', tile=256)
    with pytest.raises(ValueError, match='takes no tiles'):
        Enhancer.load(str(weights.checkpoint('nano')), 'cpu', tile=256)


def test_part_of_a_heatmap_is_that_part():
    columns = np.tile(np.arange(16, dtype=np.float32), (16, 1))
    heatmap = ((columns + 0.5) / 16)[None, None]  # rises from left to right over the frame
    part = tiling._part(heatmap, slice(0, 192), slice(192, 384), (192, 768))
    at = (192 + (np.arange(16) + 0.5) * 12) / 768
    np.testing.assert_allclose(part[0, 0, 5], at, atol=1e-2)


def test_memory_is_that_of_the_tensors_alive(model, capsys):
    from dap_led_training.measure import speedups

    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 1), torch.nn.ReLU(), torch.nn.Conv2d(8, 1, 1)
    )
    frame = torch.empty(1, 3, 10, 10)
    with torch.inference_mode(), speedups.Peak() as peak:
        network(frame)
    assert peak.most == 4 * 100 * (8 + 8)  # before and behind the ReLU
    speedups.main([str(model), '--memory', '640x480'])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith('whole 640x480') and lines[-1].startswith('tiles of 192')
    peaks = [float(line.split()[-2]) for line in lines]
    assert sorted(peaks, reverse=True) == peaks and peaks[0] > 4 * peaks[-1] > 0
    with pytest.raises(ValueError, match='runs on whole frames alone'):
        list(speedups.memory('nano', 640, 480))
