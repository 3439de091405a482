"""Whether enhancement helped: against a mere gain, by a stated rule, and as required."""

from __future__ import annotations

import re

import cv2
import pytest

pytest.importorskip('rosbags', reason='rosbags is not installed')
pytest.importorskip('mcap', reason='mcap is not installed')
pytest.importorskip('plotly', reason='plotly is not installed')

from test_replay import run, write

from dap_led_ros.metrics.luma import luma
from dap_led_ros.replay import measure, requirements, verdict
from dap_led_ros.replay.pairs import Pair
from dap_led_ros.replay.tally import Tally


def judged(base: dict[str, float], after: dict[str, float]) -> dict[str, object]:
    return verdict.of_frame({'auto': base, 'after': after})


def test_help_and_harm_name_what_they_are_of():
    base = {'saturated': 1.0, 'inliers': 400.0, 'detections': 4.0, 'psnr': 20.0}
    assert judged(base, base) == {'help': 0, 'help_why': '', 'harm': 0, 'harm_why': ''}
    worse = judged(base, {**base, 'detections': 1.0})
    assert (worse['harm'], worse['harm_why'], worse['help']) == (75.0, 'detections lost', 0)
    assert judged(base, {**base, 'psnr': 18.0})['harm'] == 20.0
    assert judged(base, {**base, 'saturated': 14.0})['harm_why'] == 'newly saturated'
    better = judged(base, {**base, 'inliers': 500.0, 'psnr': 20.5})
    assert (better['help'], better['help_why'], better['harm']) == (25.0, 'more inlier matches', 0)
    # 50 more of 400 are within the scatter of counts; so are all of few.
    assert judged(base, {**base, 'inliers': 450.0})['help'] == 0
    few = {**base, 'inliers': 3.0}
    assert judged(few, {**few, 'inliers': 0.0})['harm'] == 0


def test_auto_is_one_gain_as_bright_as_the_enhanced_frame(night):
    dark, bright = night
    auto = verdict.auto(dark, bright)
    assert luma(auto).mean() == pytest.approx(luma(bright).mean(), rel=0.02)
    # One number for all pixels: equal values stay equal, and greater ones are not less.
    table = {}
    for before, after in zip(dark[::7, ::7].ravel().tolist(), auto[::7, ::7].ravel().tolist()):
        assert table.setdefault(before, after) == after
    values = [table[key] for key in sorted(table)]
    assert values == sorted(values)
    assert verdict.auto(dark, dark) is dark


def test_exposure_does_not_pass_for_quality(night):
    """A run that only brightens has the contrast, sharpness and noise that it had before."""
    dark = cv2.convertScaleAbs(night[1], alpha=0.3)
    brighter = cv2.convertScaleAbs(dark, alpha=2.5)
    row = measure.basic(Pair({}, dark, brighter))
    for name in ('contrast', 'sharpness', 'noise'):
        assert row['after'][name] == pytest.approx(row['before'][name], rel=0.1), name
        assert row['after'][name] == pytest.approx(row['auto'][name], rel=0.05), name


def rows_of(kinds: str) -> Tally:
    """A camera's frames: h helped, u unchanged, p passed, w worse, n neither, r refused."""
    of = {
        'h': {'changed': 30.0, 'help': 50.0, 'harm': 0.0},
        'u': {'changed': 0.4, 'help': 50.0, 'harm': 50.0},
        'p': {'outcome': 'passed_through', 'help': 0.0, 'harm': 0.0},
        'w': {'changed': 30.0, 'help': 50.0, 'harm': 12.0},
        'n': {'changed': 30.0, 'help': 5.0, 'harm': 2.0},
        'r': {'outcome': 'refused'},
    }
    tally = Tally()
    for time, kind in enumerate(kinds):
        after = {} if kind == 'r' else {'after': {'inliers': 9.0}}
        tally.add({'time': time, 'outcome': 'enhanced', **after, **of[kind]})
    return tally


def test_one_sentence_counts_each_frame_once():
    found = verdict.of_camera(rows_of('hhhhhuupwnrr' * 10))
    assert found['frames'] == 100
    shares = {name: of['share'] for name, of in found.items() if name != 'frames'}
    assert shares == {'helped': 50, 'unchanged': 30, 'harmed': 10, 'neither': 10}
    for of in list(found.values())[1:]:
        assert 0 <= of['low'] <= of['share'] <= of['high'] <= 100
    said = verdict.sentence(found)
    assert re.match(
        r'against a mere gain: helped 50 % \(\d+–\d+\) of frames, no visible change 30 % \(', said
    )
    assert 'perhaps harmed 10 % (' in said
    bare = Tally()
    bare.add({'time': 0, 'outcome': 'enhanced', 'changed': 9.0})
    assert verdict.sentence(verdict.of_camera(bare)).startswith('no verdict')


def content_of(**measured: dict[str, float]) -> dict[str, object]:
    shares = {'helped': {'share': 60.0}, 'harmed': {'share': 3.0}, 'unchanged': {'share': 30.0}}
    return {'topics': {'/camera': {'verdict': shares, 'measures': measured}}}


@pytest.mark.parametrize(
    ('text', 'missed'),
    [
        *[('inliers>=1.2x', False), ('inliers >= 1.6x', True), ('inliers>140', False)],
        *[('harmed<=2%', True), ('harmed<=3%', False), ('helped>=60', False)],
        *[('latency<50', False), ('latency<20', True), ('detections>=1x', True)],
    ],
)
def test_requirements(text, missed):
    content = content_of(inliers={'before': 100.0, 'after': 150.0}, latency={'median': 30.0})
    lines = requirements.missed(content, [requirements.parse(text)])
    assert bool(lines) == missed, lines
    if missed:
        assert f'required {text} on /camera: it ' in lines[0]


@pytest.mark.parametrize(
    ('text', 'said'),
    [
        ('inliers', 'is no requirement: write inliers>=1.2x'),
        ('beauty>=1', 'beauty is not measured; use one of helped'),
        ('latency<=2x', 'no value before enhancement'),
        ('inliers>=2%', 'inliers is not in %'),
    ],
)
def test_a_wrong_requirement_is_said_before_the_work(tmp_path, text, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        run('replay', tmp_path / 'nothing', '--out', tmp_path / 'out', '--require', text)
    with pytest.raises(ValueError, match=re.escape(said)):
        requirements.parse(text)


def test_a_missed_requirement_has_an_exit_status_of_its_own(tmp_path, capsys):
    write(tmp_path / 'bag', 'mcap', frames=3)
    words = ['replay', tmp_path / 'bag', '--out', tmp_path / 'out', '--topic', '/front/image_raw']
    words += ['--no-video', '--no-iqa']
    assert run(*words, '--require', 'brightness>=1.5x', '--require', 'latency<0.001') == 3
    said = capsys.readouterr().err
    assert 'required latency<0.001 on /front/image_raw: it is ' in said
    assert 'brightness>' not in said
    assert run(*words, '--resume', '--require', 'brightness>=1.5x') == 0
