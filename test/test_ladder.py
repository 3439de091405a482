"""The commands that print how good the models are: comparison, gate, detection, sheet, int8."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip('torch', reason="no torch: pip install 'dap_led_ros[train]'")
pytest.importorskip('torchmetrics')
pytest.importorskip('lightning_fabric')

from dap_led_ros import sample
from dap_led_ros.inference import Enhancer, weights
from dap_led_ros.media import VideoFile, read_image
from dap_led_training.make import contact_sheet
from dap_led_training.measure import comparison, detection, steadiness

PHOTOGRAPH = Path(sample.__file__).parent / 'garage.jpg'
DETECTOR = Path(__file__).parents[2] / 'shared' / 'models' / 'yolov8n_int8.onnx'


def test_the_comparison_has_a_row_for_each_method_and_nano_meets_its_bars(monkeypatch):
    for name in ('static, night (5.5% of the light)', 'moving, night'):
        monkeypatch.setitem(steadiness.VIDEOS, name, lambda: steadiness.static(0.055, 3))
    head, *rows = (line for line in comparison.compare(['nano'], [PHOTOGRAPH], None).splitlines())
    assert [row.split('  ')[0] for row in rows] == ['input', 'auto', 'CLAHE + gamma', 'nano']
    cells = [cell.strip() for cell in rows[-1].split('  ') if cell.strip()]
    names = ['', *(cell.strip() for cell in head.split('  ') if cell.strip())]
    nano = dict(zip(names, cells))
    assert nano['MB'] == f'{weights.find(Enhancer.load("nano").model).stat().st_size / 1e6:.1f}'
    assert float(nano['GMAC']) > 1
    assert float(nano['synthesis'].split(' / ')[0]) > 15
    assert nano['day, gate on'] == '50.00 / 50.00, 1 of 1'
    assert float(nano['flicker']) <= 1
    assert 40 < float(nano['RSS'].removesuffix(' MB')) < 300


def test_the_gate_is_measured_on_every_kind_of_frame():
    cases = steadiness.gate_cases([PHOTOGRAPH])
    assert set(cases) > {*steadiness.GOOD, *steadiness.NIGHT, 'dusk', 'backlight', 'blur by day'}
    for name, ((frame, reference),) in cases.items():
        assert frame.shape == reference.shape == (480, 640, 3)
        assert np.array_equal(frame, reference) == (name in (*steadiness.GOOD, 'darkest by day'))
    few = {name: cases[name] for name in (*steadiness.GOOD, *steadiness.NIGHT, 'blur by day')}
    measured = steadiness.measure_gate(Enhancer.load(), few)
    for name in steadiness.NIGHT:
        score, weight, before, network, streamed, _, exact = measured[name][0]
        assert score > 0.5
        assert (weight, exact) == (1, 0)
        assert streamed == network > before + 3
    assert measured['day'][0][[1, 4, 6]].tolist() == [0, 50, 1]
    said = steadiness.gate_table(measured)
    assert 'night frames passed: 0 of 3' in said
    assert f'good frames not passed: {int(measured["dark but clean"][0][1] > 0)} of 2' in said


def test_steadiness_is_measured_against_a_gain(night):
    class Gain:
        """Brightens and does nothing else: flicker is 1 by definition."""

        guided = remembers = False

        def score(self, frame):
            return {'low_light': 1.0}

        def network(self, frame, heatmap=None, past=None):
            return cv2.convertScaleAbs(frame, alpha=3.0), {}

    def video():
        yield from steadiness.static(0.03, 3)

    found = steadiness.measure_steadiness(Gain(), video, steady=False)
    assert found['flicker'] == pytest.approx(1, abs=0.01)
    assert found['pump, input'] == pytest.approx(0, abs=0.001)
    assert found['reversals'] == found['step'] == 0


def boxes(*rows: tuple[float, ...]) -> detection.Found:
    values = np.array(rows, float).reshape(-1, 5)
    return detection.Found(values[:, :4], values[:, 4])


def test_objects_match_once_by_class_and_overlap():
    truth = boxes((0, 0, 10, 10, 1), (50, 50, 10, 10, 2))
    assert detection.matches(truth, truth) == (2, 0, 0)
    twice = boxes((0, 0, 10, 10, 1), (1, 0, 10, 10, 1))
    assert detection.matches(twice, truth) == (1, 1, 1)
    assert detection.matches(boxes((0, 0, 10, 10, 2)), truth) == (0, 1, 2)
    assert detection.matches(boxes((0, 0, 10, 4.9, 1)), truth) == (0, 1, 2)
    assert detection.matches(boxes(), truth) == (0, 0, 2)


def test_f1_and_its_interval_are_over_all_objects_of_resampled_photographs():
    good = np.array([[8, 2, 2], [1, 0, 0], [0, 0, 1]] * 10)
    assert detection.f1(good) == pytest.approx(2 * 9 / (2 * 9 + 2 + 3))
    low, high = detection.interval(good, good - [[0, 0, 0]])
    assert low == high == 0
    worse = good.copy()
    worse[:, 0], worse[:, 2] = 0, good[:, 0] + good[:, 2]
    low, high = detection.interval(good, worse)
    assert 0.6 < low < detection.f1(good) < high < 0.9


def test_the_stand_in_for_a_brightener_is_as_bright_as_wanted(night):
    bright = detection.brightened(night[0], 110.0)
    assert bright.mean() == pytest.approx(110, rel=0.02)


@pytest.mark.skipif(not DETECTOR.is_file(), reason=f'{DETECTOR} is not there')
def test_a_detector_finds_the_same_object_wherever_the_frame_is_letterboxed(night):
    detector = detection.Yolo(str(DETECTOR))
    found = detector.find(night[1])
    assert 3 in found.classes  # a motorcycle
    tall = cv2.copyMakeBorder(night[1], 0, 480, 0, 0, cv2.BORDER_REPLICATE)
    moved = detector.find(tall)
    one, other = (f.boxes[list(f.classes).index(3)] for f in (found, moved))
    assert detection._overlap(one, other) > 0.7


def test_frames_of_videos_take_the_place_of_photographs(tmp_path, night, monkeypatch, capsys):
    class OneObject:
        def __init__(self, path):
            pass

        def find(self, frame):
            return boxes((10, 10, 40, 40, 2))

    monkeypatch.setattr(detection, 'Yolo', OneObject)
    only = {'input': lambda frame: frame}
    monkeypatch.setattr(detection, 'load_methods', lambda models: only)
    with VideoFile(tmp_path / 'clip.mp4', 10) as video:
        for _ in range(5):
            video.write(night[1])
    arguments = ['--videos', str(tmp_path / 'clip.mp4'), '--every', '2', '--nights', '2']
    detection.main(['yolo.onnx', *arguments])
    printed = capsys.readouterr().out
    assert 'both: 12 objects on 3 of 3 photographs, 640x480, 2 nights of each' in printed


def test_all_nights_of_a_photograph_are_one_item():
    first, second = np.array([[1, 0, 0], [2, 0, 0]]), np.array([[0, 0, 5], [0, 7, 0]])
    folded = detection.per_photograph(np.concatenate([first, second]), 2)
    assert folded.tolist() == [[1, 0, 5], [2, 7, 0]]


def test_no_detector_is_said_in_words():
    with pytest.raises(ValueError, match='is no detector'):
        detection.Yolo(str(weights.find('nano')))


def test_the_sheet_has_a_row_for_each_kind_and_picture(tmp_path, pictures):
    out = tmp_path / 'sheet.png'
    folder = str(PHOTOGRAPH.parent)
    arguments = ['--photographs', folder, '--real', str(pictures), '--count', '2']
    contact_sheet.main([str(out), *arguments, '--width', '160'])
    tile = (120 + contact_sheet.BAR + contact_sheet.GAP, 160 + 2 * contact_sheet.GAP)
    drawn = read_image(out)
    assert drawn.shape == (tile[0] * (len(contact_sheet.ROWS) + 2), tile[1] * 4, 3)
    inner = (
        slice(contact_sheet.BAR, contact_sheet.BAR + 120),
        slice(contact_sheet.GAP, contact_sheet.GAP + 160),
    )
    before, gained, after, reference = (
        drawn[tile[0] * 2 : tile[0] * 3, tile[1] * i : tile[1] * (i + 1)][inner] for i in range(4)
    )
    assert abs(gained.mean() - 108) < 4
    assert before.mean() < 0.6 * reference.mean()
    assert cv2.PSNR(after, reference) > cv2.PSNR(before, reference) + 5


def test_int8_is_calibrated_and_measured(tmp_path):
    pytest.importorskip('onnx', reason="no onnx: pip install 'dap_led_ros[train]'")
    from dap_led_training.make import int8

    models = {'float': weights.find('nano'), 'int8': tmp_path / 'int8.onnx'}
    int8.quantize(models['float'], models['int8'], [PHOTOGRAPH], 'encoder at 1/16')
    assert models['int8'].stat().st_size < 0.9 * models['float'].stat().st_size
    measured = int8.measure(models, [PHOTOGRAPH])
    for key in ('synthesis', 'independent', 'lamps'):
        assert abs(measured['int8'][key] - measured['float'][key]) < 1.5
    full = measured['float']
    assert int8.ship({**full, 'milliseconds': full['milliseconds'] / 2}, full)
    assert not int8.ship({**full, 'milliseconds': full['milliseconds'] * 2}, full)
    worse = {**full, 'milliseconds': 0, 'lamps': full['lamps'] - 0.3}
    assert not int8.ship(worse, full)
    assert int8.table(measured).splitlines()[1].startswith('float')


def test_every_command_tells_in_one_line_what_its_user_can_mend(tmp_path):
    command = [
        sys.executable,
        '-m',
        'dap_led_training',
        'make',
        'contact_sheet',
        str(tmp_path / 'sheet.jpg'),
    ]
    done = subprocess.run(
        [*command, 'nano', '--real', str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 1
    said = f'error: {tmp_path} has no pictures: give videos by their paths'
    assert done.stderr.splitlines()[-1] == said and 'Traceback' not in done.stderr
