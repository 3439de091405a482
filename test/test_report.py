"""What is measured, the page that shows it (in a real browser), and the comparison of two runs."""

from __future__ import annotations

import csv
import importlib.machinery
import json
import re
import sys
import tracemalloc
import types
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip('rosbags', reason='rosbags is not installed')
pytest.importorskip('mcap', reason='mcap is not installed')
pytest.importorskip('plotly', reason='plotly is not installed')

import browser
from conftest import wait_until
from test_replay import CAMERAS, FRAMES, done, run, small_frames, write  # noqa: F401, done

from dap_led_ros.inference import Enhancer
from dap_led_ros.metrics import intervals, matching
from dap_led_ros.metrics.luma import luma
from dap_led_ros.replay import compare, measure, measures, report, segments, tally
from dap_led_ros.replay import page as pages
from dap_led_ros.replay.tally import Tally


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
    metrics = pytest.importorskip(
        'dap_led_training.measure.metrics', reason='torchmetrics is missing'
    )
    ours = measures.full_reference(*night)
    assert ours['ssim'] == pytest.approx(metrics.ssim_y(*night), abs=0.01)
    assert ours['psnr'] == pytest.approx(metrics.psnr(*night), abs=1e-3)


def test_features_of_a_shifted_picture_agree(night):
    grey = luma(night[1])
    features = measures.Features()
    first = features.measure(grey[20:-20, 20:-20])
    moved = features.measure(grey[14:-26, 11:-29])
    assert set(first) == {'keypoints'}
    assert moved['matches'] > 300
    assert moved['inlier_ratio'] > 0.8
    nothing = features.measure(np.zeros_like(grey))
    assert (nothing['keypoints'], nothing['matches'], nothing['inliers']) == (0, 0, 0)
    assert features.measure(grey[:1, :1])['keypoints'] == 0


def test_objects_are_followed():
    tracks = matching.Tracks()
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
        found = intervals.paired(np.zeros(300), smooth + 0.3, draws=400)
        covered += found.low <= 0.3 <= found.high
    assert 170 <= covered <= 199
    assert not intervals.paired([1.0], [2.0]).sure
    assert intervals.paired(np.zeros(50), np.ones(50)).sure


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


def test_metrics_of_pyiqa_where_it_is(tmp_path, monkeypatch):
    """A stand-in for pyiqa itself, whose terms and weights keep it out of here."""
    torch = pytest.importorskip('torch', reason='pyiqa needs torch')
    words = ['replay', tmp_path / 'bag', '--topic', '/front/image_raw', '--no-video']
    write(tmp_path / 'bag', 'mcap', frames=2)
    module = types.ModuleType('pyiqa')
    module.__spec__ = importlib.machinery.ModuleSpec('pyiqa', None)
    made = []

    def create_metric(name, device):
        made.append(name)
        return lambda tensor: 255 * tensor[:, 0].mean()

    module.create_metric = create_metric
    monkeypatch.setitem(sys.modules, 'pyiqa', module)
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    (tmp_path / 'pyiqa').mkdir()
    for name in ('niqe_modelparameters.mat', 'musiq_koniq_ckpt-e95806b9.pth'):
        (tmp_path / 'pyiqa' / name).touch()
    out = tmp_path / 'out'
    assert run(*words, '--out', out) == 0
    assert made == ['musiq', 'niqe']
    content = json.loads((out / 'report.json').read_text())
    found = content['topics']['/front/image_raw']['measures']
    dark = small_frames()[0][0][..., 0].mean()
    assert found['niqe']['before'] == pytest.approx(dark, abs=0.01)
    assert (found['musiq']['frames'], found['brightness']['frames']) == (1, 2)
    assert 'nrqm' not in found
    assert content['missing'][0].startswith('NRQM: ')
    assert 'Not measured: NRQM: ' in (out / 'report.html').read_text()
    assert run(*words, '--out', out, '--resume', '--no-iqa') == 0
    content = json.loads((out / 'report.json').read_text())
    assert content['missing'] == []
    assert 'niqe' not in content['topics']['/front/image_raw']['measures']


def test_a_long_recording_takes_little_memory(tmp_path):
    """Frames of a night drive with objects: what the report keeps, and what it holds at a time."""
    things = [['car', 0.05 + 0.09 * n, 10.5 * n, 20.5, 10.5 * n + 40, 80.5] for n in range(4)]
    frames, seen = 100, {}
    values = {name: 1.25 for name in measures.PER_FRAME}

    def write_segment(index: int) -> None:
        rows = [
            {'topic': '/c', 'index': n, 'time': (index * frames + n) * 10**8, 'stamp': n,
             'outcome': 'enhanced', 'width': 640, 'height': 480, 'latency': 30.0, 'weight': 1.0}
            for n in range(frames)
        ]  # fmt: skip
        measured = [
            {'topic': '/c', 'index': n, 'before': values, 'after': values, 'gain': 2.0,
             'change': 20.0 + n, 'harm': 0.0, 'harm_why': '', 'objects_before': things[:3],
             'objects_auto': things[:3], 'auto': values, 'help': 0.0,
             'objects_after': things, 'objects_reference': things}
            for n in range(frames)
        ]  # fmt: skip
        journal = {'read': {'/c': frames}, 'refused': {}, 'whole': True}
        folder = tmp_path / 'segments'
        segments.write_json(folder / f'{index}.json', journal)
        segments.write_json(folder / f'{index}.frames.json', rows)
        measured = {'asked': {}, 'seconds': {}, 'frames': measured}
        segments.write_json(segments.measured_path(tmp_path, index), measured)

    for written in range(8):
        write_segment(written)
        if written in (0, 1, 7):  # at first what is loaded once counts, too
            tracemalloc.start()
            tallies, _ = tally.read(tmp_path, segments.journals(tmp_path))
            report._summaries(tallies['/c'])
            pages.choose(tallies)
            seen[(written + 1) * frames] = tracemalloc.get_traced_memory()
            tracemalloc.stop()
    assert len(tallies['/c']) == 800
    assert tallies['/c'].lengths['after', 'car'] == [1, 800]
    (kept, most), (kept_later, most_later) = seen[200], seen[800]
    print(f'{(kept_later - kept) / 600:.0f} bytes a frame, {most_later / 1e6:.1f} MB at a time')
    assert (kept_later - kept) / 600 < 600
    assert (most_later - most) / 600 < 2000


def test_measures_of_two_detectors_are_not_mixed(tmp_path):
    """Measuring anew with B was interrupted after the first segment."""
    for index, detector in enumerate('BA'):
        row = {'topic': '/c', 'index': 0, 'time': index, 'outcome': 'enhanced'}
        values = {'before': {'detections': 1.0}, 'after': {'detections': 2.0}}
        folder = tmp_path / 'segments'
        journal = {'read': {'/c': 1}, 'refused': {}, 'whole': True}
        segments.write_json(folder / f'{index}.json', journal)
        segments.write_json(folder / f'{index}.frames.json', [row])
        measured = {'asked': {'detector': detector}, 'seconds': {}, 'frames': [row | values]}
        segments.write_json(segments.measured_path(tmp_path, index), measured)
    tallies, measured = tally.read(tmp_path, segments.journals(tmp_path))
    assert [part.get('asked') for part in measured] == [{'detector': 'B'}, None]
    assert tallies['/c']['detections_after'][0] == 2
    assert np.isnan(tallies['/c']['detections_after'][1])


def test_the_page_says_that_it_is_thinned(done, monkeypatch):  # noqa: F811
    _, out, _ = done
    monkeypatch.setattr(pages, 'POINTS', 5)
    report.write(out)
    page = (out / 'report.html').read_text()
    monkeypatch.undo()
    report.write(out)
    assert 'each point is the mean of 3 frames' in page
    assert 'each point is the mean of' not in (out / 'report.html').read_text()
    timeline = json.loads(re.search(r'id="data">(.*?)</script>', page)[1])[CAMERAS[0]]['timeline']
    assert len(timeline['seconds']) == 4
    assert timeline['seconds'][:2] == pytest.approx([0.1, 0.4])


def test_the_rate_is_beside_the_model_s_own(done):  # noqa: F811
    _, out, _ = done
    speed = json.loads((out / 'report.json').read_text())['speed']
    (session,) = json.loads((out / 'segments' / 'speed.json').read_text())
    assert session['frames'] == 3 * FRAMES - 3
    assert speed['share'] == pytest.approx(session['alone'] / session['wall'])
    assert speed['model_alone'] == pytest.approx(session['frames'] / session['alone'])
    assert 0 < speed['cpu_share'] < 2


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
    from dap_led_training.make.night_bag import write_night_bag

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
            '--no-video',
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
        # What a mere gain makes of the frame, in place of the camera's.
        page.run('document.querySelector(".choice input[value=auto]").click()')
        assert page.run('document.querySelector(".pair .tag.left").innerText') == 'auto'
        under = 'document.querySelector(".pair .under")'
        assert page.run(f'{under}.src === {under}.dataset.auto')
        # Thumbnails beside the chart where the pointer is.
        thumbnail = 'document.querySelector(".seen img").src'
        first = page.run(thumbnail)
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
        assert wait_until(lambda: page.run(thumbnail) != first)
        assert page.run('document.querySelectorAll(".seen img").length') == 3 * len(CAMERAS)
        assert page.complaints == []
    finally:
        page.close()


@needs_browser
def test_no_chart_is_cut_in_print(done):  # noqa: F811
    """Drawn for a wide screen, printed on a narrow page; and none lies across two pages."""
    _, out, _ = done
    page = browser.Page(out / 'report.html', 1600, 900)
    try:
        page.call('Emulation.setEmulatedMedia', media='print')
        page.call(
            'Emulation.setDeviceMetricsOverride',
            width=700, height=1000, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        right = 'Math.max(...[...document.querySelectorAll(".timeline .main-svg")].map('
        assert page.run(f'{right} svg => svg.getBoundingClientRect().right))') <= 701
        broken = 'getComputedStyle(document.querySelector(".timeline")).breakInside'
        assert page.run(broken) == 'avoid'
        assert page.run('getComputedStyle(document.querySelector(".seen")).display') == 'none'
    finally:
        page.close()


def press(page: browser.Page, key: str) -> None:
    code = {'ArrowRight': 39, 'End': 35}[key]
    for kind in ('keyDown', 'keyUp'):
        page.call('Input.dispatchKeyEvent', type=kind, key=key, windowsVirtualKeyCode=code)


def frames(change: float, start: int = 0, before: float = 20.0) -> dict[str, Tally]:
    rng = np.random.default_rng(int(change * 100))
    tally = Tally()
    for index in range(80):
        tally.add(
            {
                'time': start + index * 10,
                'outcome': 'enhanced',
                'latency': 30.0 + change,
                'before': {'brightness': before},
                'after': {
                    'contrast': 40 + index % 7 + change + rng.normal(0, 0.5),
                    'noise': 5.0,
                    'confidence': 0.5,
                },
            }
        )
    return {'/camera': tally}


def test_compare_says_which_run_is_better():
    tables = compare.compare(frames(0), frames(2.0), {'confidence'})
    lines = {line['title']: line for line in tables['/camera']}
    assert lines['contrast']['mean'] == pytest.approx(2.0, abs=0.2)
    assert lines['contrast']['low'] < 2 < lines['contrast']['high']
    assert (lines['contrast']['better'], lines['latency']['better']) == ('B', 'A')
    assert (lines['noise']['mean'], lines['noise']['better']) == (0, '')
    assert 'confidence' not in lines
    with pytest.raises(ValueError, match='no frames in common'):
        compare.compare(frames(0), {}, set())
    for other, said in ((frames(0, start=1), 'time'), (frames(0, before=21), 'brightness before')):
        with pytest.raises(ValueError, match=f'of different recordings: .* differ in {said}'):
            compare.compare(frames(0), other, set())


def test_compare_says_what_the_runs_do_not_share():
    asked = {'detector': 'aa', 'references': {}, 'features': True}
    run_a = {'bag': '/a', 'asked': asked}
    assert compare.differences(run_a, run_a) == ([], set())
    run_b = {'bag': '/b', 'asked': {**asked, 'detector': 'bb'}}
    said, left_out = compare.differences(run_a, run_b)
    assert left_out == {'detections', 'confidence', 'harm', 'help'}
    assert 'A is of /a, B of /b' in said[0]
    assert 'not the same detector: no confidence, detections, perhaps harmed, helped' in said[1]


def test_compare_prints_and_writes_a_page(done, tmp_path, capsys):  # noqa: F811
    _, out, _ = done
    assert run('compare', out, out, '--out', tmp_path / 'page.html') == 0
    said = capsys.readouterr().out
    assert re.search(r'brightness \(grey levels\) +\d+ +\d+ .* 0 ', said)
    page = (tmp_path / 'page.html').read_text()
    assert 'dap-led compare' in page
    with pytest.raises(ValueError, match='exists: choose another --out or add --overwrite'):
        run('compare', out, out, '--out', tmp_path / 'page.html')
    assert run('compare', out, out, '--out', tmp_path / 'page.html', '--overwrite') == 0
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
    judged = matching.true_positives(found, truth)
    counts = Counter(judged)
    assert judged == [(0.8, True), (0.7, False), (0.6, False), (0.5, True), (0.3, False)]
    assert [matching.most_true(counts, share) for share in (1.0, 0.5, 0.4, 0.1)] == [1, 2, 2, 2]
    assert matching.most_true(Counter([(0.5, True), (0.5, False)]), 0.9) == 0
    assert matching.most_true(Counter(), 0.5) == 0


@pytest.mark.parametrize(
    ('value', 'said'),
    [
        *[(0, '0'), (12345.6, '12 346'), (1.234, '1.23'), (-0.04567, '−0.046'), (40.0, '40')],
        *[(None, '–'), (float('inf'), '–'), (-0.0, '0')],
    ],
)
def test_figures_read_well(value, said):
    assert pages.figure(value) == said


def test_to_do_nothing_is_no_merit():
    """B left all frames as they were: it has less noise, and wins nothing."""
    busy, idle = frames(2.0), Tally()
    for index in range(80):
        values = {'contrast': 90.0, 'noise': 1.0}
        idle.add(
            {'time': index * 10, 'outcome': 'enhanced', 'changed': 0.0, 'harm': 0.0, 'help': 0.0,
             'before': {'brightness': 20.0}, 'after': values, 'latency': 1.0}
        )  # fmt: skip
    (table,) = compare.compare(busy, {'/camera': idle}, set()).values()
    assert all(line['better'] != 'B' for line in table)


def test_the_timeline_leaves_out_gaps_of_hours():
    seconds = np.concatenate(
        [[0.0], 1.7e9 + np.arange(100) / 10, 1.7e9 + 9000 + np.arange(9) / 10]
    )
    at, gaps = pages.squeezed(seconds)
    assert at[-1] < 20
    assert (np.diff(at) > 0).all()
    assert [gap['seconds'] for gap in gaps] == pytest.approx([1.7e9, 9000 - 9.9])
    assert pages.squeezed(np.arange(5.0) * 100)[1] == []  # a slow camera has no gaps


def test_spans_that_were_passed_through_are_shaded():
    seconds = np.arange(6.0)
    spans = pages._spans(seconds, np.array([1, 1, 0, 0, 1, 1], bool))
    assert spans == [[0.0, 2.0], [4.0, 5.0]]


def test_reasons_that_differ_in_numbers_are_one():
    camera = Tally()
    for number in range(50):
        why = f'malformed message: {number}x72 cannot have {number} bytes'
        camera.add({'time': number, 'outcome': 'refused', 'why': why})
    assert camera.why == {'malformed message: 0x72 cannot have 0 bytes': 50}


def test_changed_least_shows_other_scenes():
    camera = Tally()
    for index in range(200):
        values = {side: {'brightness': 9.0} for side in measure.SIDES}
        change = abs(index - 100)
        camera.add({'time': index, 'outcome': 'enhanced', 'change': change, 'harm': 0.0} | values)
    chosen = sorted(index for _, index in pages.choose({'/c': camera})['changed least'])
    assert min(np.diff(chosen)) > 20


def test_the_report_says_what_really_ran(done):  # noqa: F811
    _, out, _ = done
    content = json.loads((out / 'report.json').read_text())
    assert content['ran']['model'] == Enhancer.load().model
    assert content['ran']['seconds'] > 0
    assert content['ran']['began'].startswith('20')
    page = (out / 'report.html').read_text()
    for word in (content['ran']['model'], 'OpenCV', 'cores', content['ran']['began']):
        assert word in page
    front = content['topics'][CAMERAS[0]]
    assert front['sentence'] in page
    assert set(front['measures']['inliers']) >= {'before', 'auto', 'after', 'own'}
