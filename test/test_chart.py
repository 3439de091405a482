"""The synthetic chart: its measures find the faults they are for, and nano stays within bounds."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

pytest.importorskip('torchmetrics', reason="no torch: pip install 'dap_led_ros[train]'")

from dap_led_ros.inference import Enhancer
from dap_led_training.measure import chart


@pytest.fixture(scope='module')
def shot() -> tuple[np.ndarray, np.ndarray]:
    return chart.take(chart.draw(), 0)


def test_the_reference_has_no_fault(shot):
    dark, reference = shot
    figures = chart.measure(reference, reference, dark)
    sharp = {key: figures.pop(key) for key in ('MTF50', 'star')}
    assert figures == pytest.approx(dict.fromkeys(figures, 0), abs=0.05)
    assert sharp['MTF50'] > 0.4
    assert dark.mean() < 0.4 * reference.mean()


def edit(reference: np.ndarray, fault: str) -> np.ndarray:
    frame = reference.astype(np.float32)
    if fault == 'grid 4':
        frame[::4, ::4] += 12
    elif fault == 'mottle':
        noise = np.random.default_rng(0).normal(0, 20, (40, 30, 1)).astype(np.float32)
        frame += cv2.resize(noise, frame.shape[1::-1])[..., None]
    elif fault == 'colour':
        frame[..., 2] += 12
    elif fault == 'ramp':
        frame[chart.RAMP] = frame[chart.RAMP][:, ::-1]
    elif fault == 'blown':
        frame[chart.STAR] *= 1.5
    elif fault == 'halo':
        for x, y, radius in chart._LAMPS:
            cv2.circle(frame, (x, y), radius + 8, (60, 60, 60), 4)
    return np.clip(frame, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ('fault', 'least'),
    [('grid 4', 2), ('mottle', 5), ('colour', 7), ('ramp', 31), ('blown', 0.01), ('halo', 15)],
)
def test_each_measure_finds_its_fault(shot, fault, least):
    dark, reference = shot
    figures = chart.measure(edit(reference, fault), reference, dark)
    assert figures[fault] <= -least if fault == 'halo' else figures[fault] >= least


@pytest.mark.parametrize('sigma', [1.5, 2.5, 4.0])
def test_mtf50_of_a_gaussian_is_what_its_formula_says(sigma):
    y, x = np.mgrid[0:176, 0:128]
    edge = np.where(x - 64 > np.tan(np.radians(5)) * (y - 88), 200, 56).astype(np.float32)
    blurred = cv2.GaussianBlur(edge, (0, 0), sigma)
    assert chart.mtf50(blurred) == pytest.approx(np.sqrt(np.log(2) / 2) / np.pi / sigma, rel=0.05)


def test_nano_stays_within_bounds_and_crops_show_it(shot):
    enhancer = Enhancer.load()
    methods = {'input': lambda f: f, 'nano': lambda f: enhancer.network(f)[0]}
    figures = chart.measure_methods(methods, takes=1)
    before, after = figures['input'], figures['nano']
    # What the weights do now, with room: the faults of the card, which shall not grow.
    for fault, most in {'grid 4': 0.5, 'mottle': 8, 'colour': 8, 'ramp': 4, 'blown': 0.01}.items():
        assert after[fault] <= most, fault
    assert after['halo'] > -30
    assert after['MTF50'] > 1.5 * before['MTF50']
    assert 'MTF50' in chart.table(figures)
    crops = chart.crops(methods)
    assert set(crops) == set(chart.CROPS)
    rows, columns = chart.EDGE
    width = columns.stop - columns.start
    assert crops['edge'].shape == (rows.stop - rows.start, 3 * width + 2 * chart.GAP, 3)
    np.testing.assert_array_equal(crops['edge'][:, :width], shot[0][chart.EDGE])
    np.testing.assert_array_equal(crops['edge'][:, -width:], shot[1][chart.EDGE])
    assert chart.stacked(list(crops.values())).shape[1] >= 3 * width
