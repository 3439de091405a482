"""What is measured, the page that shows it (in a real browser), and the comparison of two runs."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip('rosbags', reason='rosbags is not installed')
pytest.importorskip('mcap', reason='mcap is not installed')
pytest.importorskip('plotly', reason='plotly is not installed')

import browser
from conftest import wait_until
from test_replay import CAMERAS, FRAMES, done, run  # noqa: F401, done is a fixture

from dap_led_ros.evaluation import compare, measures
from dap_led_ros.evaluation import page as pages


def basic(grey: np.ndarray) -> dict[str, float]:
    return measures.basic(np.dstack([grey] * 3), grey)


def test_measures_of_frames_whose_values_are_known():
    ramp = np.tile(np.arange(200, dtype=np.uint8), (50, 1))
    assert basic(ramp) == {
        'brightness': pytest.approx(99.5),
        'contrast': pytest.approx(np.arange(200).std()),
        'sharpness': pytest.approx(1.0),
        'noise': pytest.approx(0.0),
        'saturated': pytest.approx(0.0),
    }
    noise = np.random.default_rng(0).normal(120, 6, (300, 400)).round().astype(np.uint8)
    assert basic(noise)['noise'] == pytest.approx(6, rel=0.03)
    lamp = np.zeros((100, 100), np.uint8)
    lamp[:10, :10] = 250
    assert basic(lamp)['saturated'] == pytest.approx(1.0)
    assert set(basic(lamp[:2, :2])) == {'brightness', 'contrast', 'saturated'}
    tiny = np.zeros((8, 8, 3), np.uint8)
    assert measures.full_reference(tiny, tiny) == {'psnr': 50.0}
    assert measures.flicker(90.0, 110.0) == pytest.approx(20.0)


def test_ssim_is_that_of_the_training(night):
    metrics = pytest.importorskip('dap_led_training.metrics', reason='torchmetrics is missing')
    ours = measures.full_reference(*night)
    assert ours['ssim'] == pytest.approx(metrics.ssim_y(*night), abs=0.01)
    assert ours['psnr'] == pytest.approx(metrics.psnr(*night), abs=1e-3)


def test_features_of_a_shifted_picture_agree(night):
    grey = measures.luma(night[1])
    features = measures.Features()
    first = features.measure(grey[20:-20, 20:-20])
    moved = features.measure(grey[14:-26, 11:-29])
    assert set(first) == {'keypoints'}
    assert moved['matches'] > 300
    assert moved['inlier_ratio'] > 0.8
    nothing = features.measure(np.zeros_like(grey))
    assert (nothing['keypoints'], nothing['matches'], nothing['inliers']) == (0, 0, 0)
    assert features.measure(grey[:1, :1])['keypoints'] == 0


def test_harm_names_what_got_worse():
    before = {'saturated': 1.0, 'inliers': 100.0, 'detections': 4.0, 'psnr': 20.0}
    assert measures.harm(before, {**before, 'inliers': 150.0, 'psnr': 25.0}) == (0.0, '')
    assert measures.harm(before, {**before, 'detections': 1.0}) == (75.0, 'detections lost')
    assert measures.harm(before, {**before, 'psnr': 18.0}) == (20.0, 'PSNR lost')
    few = {**before, 'inliers': 3.0}
    assert measures.harm(few, {**few, 'inliers': 0.0})[0] == 0


def test_objects_are_followed():
    tracks = measures.Tracks()
    box = np.array([0.0, 0.0, 10.0, 10.0])
    for step in range(5):
        assert tracks.follow(np.array([box + step, box + 100]), np.array([2, 7])) == []
    assert tracks.follow(np.array([box + 5]), np.array([2])) == [(7, 5)]
    # Another class in the same place, and a jump too far, are other objects.
    assert tracks.follow(np.array([box + 5]), np.array([3])) == [(2, 6)]
    assert tracks.follow(np.array([box + 50]), np.array([3])) == [(3, 1)]
    assert tracks.end() == [(3, 1)]


def test_the_interval_covers_what_it_says():
    """Of 200 samples of frames that resemble their neighbours, about 95 % cover the mean."""
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        smooth = np.convolve(rng.normal(0, 1, 305), np.ones(6) / 6, 'valid')
        found = measures.paired(np.zeros(300), smooth + 0.3, draws=400)
        covered += found.low <= 0.3 <= found.high
    assert 170 <= covered <= 199
    assert not measures.paired([1.0], [2.0]).sure
    assert measures.paired(np.zeros(50), np.ones(50)).sure


def test_json_and_csv_hold_every_frame(done):  # noqa: F811
    _, out, _ = done
    with (out / 'report.csv').open() as stream:
        rows = list(csv.DictReader(stream))
    content = json.loads((out / 'report.json').read_text())
    assert len(rows) == len(CAMERAS) * FRAMES
    front = [row for row in rows if row['topic'] == CAMERAS[0]]
    brightness = content['topics'][CAMERAS[0]]['measures']['brightness']
    mean = np.mean([float(row['brightness_after']) for row in front])
    assert brightness['after'] == pytest.approx(mean)
    assert brightness['low'] < brightness['difference'] < brightness['high']
    psnr = content['topics'][CAMERAS[0]]['measures']['psnr']
    assert psnr['after'] > psnr['before'] + 5
    assert all(row['psnr_after'] == '' for row in rows if row['topic'] != CAMERAS[0])
    assert set(content['stages']) >= {'enhance', 'measures', 'features', 'video'}


def test_the_video_shows_both_sides(done):  # noqa: F811
    _, out, _ = done
    capture = cv2.VideoCapture(str(out / 'video' / 'front__image_raw.mp4'))
    frames = []
    while (read := capture.read())[0]:
        frames.append(read[1])
    assert len(frames) == FRAMES
    assert frames[0].shape == (72, 192, 3)
    assert frames[0][:, 96:].mean() > 2 * frames[0][:, :96].mean()


SHARED = Path(__file__).resolve().parents[2] / 'shared'


def test_more_true_detections_on_a_road_at_night(tmp_path):
    """Day videos made night by a synthesis that no model was trained on; the day is the truth.

    Few frames scatter: the figures of the README are of three times as many.
    """
    pytest.importorskip('ultralytics', reason='ultralytics is not installed')
    videos = sorted((SHARED / 'data' / 'driving').glob('*.mp4'))
    detector = SHARED / 'models' / 'yolov8n_int8.onnx'
    if not videos or not detector.is_file():
        pytest.skip('../shared has no road videos or no detector')
    from dap_led_training.night_bag import write_night_bag

    assert write_night_bag(videos, tmp_path / 'bag', every=6, width=640) > 40
    options = ['--topic', '/camera/image_raw', '--reference', '/camera/reference']
    out = tmp_path / 'out'
    assert (
        run(
            'replay',
            tmp_path / 'bag',
            '--out',
            out,
            *options,
            '--no-features',
            '--detect',
            detector,
        )
        == 0
    )
    camera = json.loads((out / 'report.json').read_text())['topics']['/camera/image_raw']
    assert camera['true']['objects'] > 20
    for precision in ('80 %', '90 %'):
        found = camera['true']['at'][precision]
        assert found['after'] > found['before'], precision
    assert camera['measures']['psnr']['low'] > 5
    assert camera['classes']['car']['after']['track'] >= 1
    assert 'true detections of' in (out / 'report.html').read_text()


needs_browser = pytest.mark.skipif(browser.find() is None, reason='no Chromium on this machine')


@pytest.mark.parametrize('width', [400, 1600])
@needs_browser
def test_the_page_works_in_a_browser(done, width):  # noqa: F811
    _, out, _ = done
    page = browser.Page(out / 'report.html', width, 900, dark=width == 400)
    try:
        assert page.run('document.documentElement.scrollWidth') <= width
        assert page.run('document.querySelectorAll(".timeline .main-svg").length') >= 3
        assert page.run('[...document.images].every(i => i.complete && i.naturalWidth > 0)')
        assert page.run(
            'performance.getEntriesByType("resource").every(e => /^data:/.test(e.name))'
        )
        # Before and after: real keys on the focused slider.
        clip = 'getComputedStyle(document.querySelector(".pair .under")).clipPath'
        before = page.run(clip)
        page.run('document.querySelector(".pair input").focus()')
        for _ in range(10):
            press(page, 'ArrowRight')
        assert page.run(clip) != before
        # Through the frames.
        shown = 'document.querySelector(".scrub .over").src'
        first = page.run(shown)
        page.run('document.querySelector(".scrub > input").focus()')
        press(page, 'End')
        assert page.run(shown) != first
        # A thumbnail where the pointer is.
        page.run('document.querySelector(".timeline").scrollIntoView()')
        box = page.run(
            '(({x, y, width}) => ({x, y, width}))'
            '(document.querySelector(".timeline").getBoundingClientRect())'
        )
        for step in (0, 3):
            page.call(
                'Input.dispatchMouseEvent',
                type='mouseMoved', x=box['x'] + box['width'] / 2 + step, y=box['y'] + 60,
            )  # fmt: skip
        pictures = 'document.querySelectorAll("#hover img").length'
        assert wait_until(lambda: page.run(pictures) == 2)
        assert page.complaints == []
    finally:
        page.close()


def press(page: browser.Page, key: str) -> None:
    code = {'ArrowRight': 39, 'End': 35}[key]
    for kind in ('keyDown', 'keyUp'):
        page.call('Input.dispatchKeyEvent', type=kind, key=key, windowsVirtualKeyCode=code)


def frames(change: float, noise: float = 0.5) -> list[dict]:
    rng = np.random.default_rng(int(change * 100))
    return [
        {
            'topic': '/camera',
            'index': index,
            'time': index * 10,
            'latency': 30.0 + change,
            'after': {'contrast': 40 + index % 7 + change + rng.normal(0, noise), 'noise': 5.0},
        }
        for index in range(80)
    ]


def test_compare_says_which_run_is_better():
    lines = {line['title']: line for line in compare.compare(frames(0), frames(2.0))['/camera']}
    assert lines['contrast']['mean'] == pytest.approx(2.0, abs=0.2)
    assert lines['contrast']['low'] < 2 < lines['contrast']['high']
    assert (lines['contrast']['better'], lines['latency']['better']) == ('B', 'A')
    assert (lines['noise']['mean'], lines['noise']['better']) == (0, '')
    with pytest.raises(ValueError, match='no frames in common'):
        compare.compare(frames(0), [])
    other = [{**row, 'time': row['time'] + 1} for row in frames(0)]
    with pytest.raises(ValueError, match='of different recordings'):
        compare.compare(frames(0), other)


def test_compare_prints_and_writes_a_page(done, tmp_path, capsys):  # noqa: F811
    _, out, _ = done
    assert run('compare', out, out, '--out', tmp_path / 'page.html') == 0
    said = capsys.readouterr().out
    assert re.search(r'brightness \(grey levels\) +\d+ +\d+ +0 ', said)
    page = (tmp_path / 'page.html').read_text()
    assert 'dap-led compare' in page
    assert '/front/image_raw' in page
    with pytest.raises(ValueError, match='has no report'):
        run('compare', out, tmp_path)


def test_true_detections_at_a_precision():
    truth = [['car', 0.9, 0, 0, 10, 10], ['car', 0.6, 20, 0, 30, 10], ['bus', 0.4, 50, 0, 60, 10]]
    found = [
        ['car', 0.8, 1, 0, 11, 10],  # true
        ['car', 0.7, 0, 1, 10, 11],  # the same car again
        ['bus', 0.6, 20, 0, 30, 10],  # another class
        ['car', 0.5, 20, 0, 30, 10],  # true
        ['bus', 0.3, 50, 0, 60, 10],  # of what the reference is not sure of
    ]
    judged = measures.true_positives(found, truth)
    assert judged == [(0.8, True), (0.7, False), (0.6, False), (0.5, True), (0.3, False)]
    assert [measures.most_true(judged, share) for share in (1.0, 0.5, 0.4, 0.1)] == [1, 2, 2, 2]
    assert measures.most_true([(0.5, True), (0.5, False)], 0.9) == 0
    assert measures.most_true([], 0.5) == 0


@pytest.mark.parametrize(
    ('value', 'said'),
    [
        *[(0, '0'), (12345.6, '12 346'), (1.234, '1.23'), (-0.04567, '−0.046'), (40.0, '40')],
        *[(None, '–'), (float('inf'), '–')],
    ],
)
def test_figures_read_well(value, said):
    assert pages.figure(value) == said
