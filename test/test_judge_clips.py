"""The judge of clips: its clips never change, and its figures are what they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('torch', reason="no torch: pip install 'dap_led_ros[train]'")

from conftest import cut, imported_by

from dap_led_training.data import judge_photographs
from dap_led_training.measure import clips as measure_clips
from dap_led_training.measure import judge_clips, judge_clips_generator, metrics
from dap_led_training.measure.judge_clips_generator import AFTER, EVENT, FRAMES, Clip

GENERATOR = Path(judge_clips_generator.__file__)


def test_the_judge_of_clips_is_frozen():
    """Figures of different releases are compared: whoever changes it makes another judge."""
    assert judge_photographs.digest(GENERATOR) == (
        'ff8c2df95d43a4e2fd1a870c43c5708aed549aeb6a69a7d238a3a16f7c186d13'
    )


def test_it_shares_no_code_with_the_training():
    assert imported_by(GENERATOR) == {'__future__', 'typing', 'cv2', 'numpy'}


@pytest.fixture(scope='module')
def steps(night) -> Clip:
    return judge_clips_generator.clip(night[1], night[1][::-1], 3, 'gain step')


def test_a_clip_is_a_function_of_photographs_number_and_regime(night, steps):
    again = judge_clips_generator.clip(night[1], night[1][::-1], 3, 'gain step')
    for one, same in zip(steps.frames, again.frames):
        assert one.shape == (480, 640, 3) and np.array_equal(one, same)
    assert len(steps.frames) == len(steps.references) == len(steps.uncovered) == FRAMES
    assert np.mean(steps.frames[0]) < 0.6 * np.mean(steps.references[0])
    # The exposure changes at once, the scene does not; all of it is marked for a while.
    before, after = (np.mean(steps.frames[i]) for i in (EVENT - 1, EVENT))
    assert abs(np.log(after / before)) > 0.2
    marked = [mask.all() for mask in steps.uncovered]
    assert marked == [EVENT <= i < EVENT + AFTER for i in range(FRAMES)]


def test_what_has_just_been_uncovered_is_marked(night):
    clip = judge_clips_generator.clip(night[1], night[1][::-1], 5, 'occlusion')
    areas = [int(mask.sum()) for mask in clip.uncovered]
    assert areas[0] == 0 and 5000 < areas[8] < 60000


def test_figures_are_against_the_single_frame(steps):
    def at(error: float) -> list[np.ndarray]:
        rng = np.random.default_rng(0)
        return [
            np.clip(one + rng.normal(0, error, one.shape), 0, 255).astype(np.uint8)
            for one in steps.references
        ]

    found = judge_clips.figures(
        steps,
        {
            'single frame': lambda clip: (at(10), [0.2] * FRAMES),
            'better': lambda clip: (at(5), [0.1] * FRAMES),
            'perfect': lambda clip: (clip.references, [0.1] * FRAMES),
        },
    )
    assert found['single frame'].ghost == found['single frame'].worst == 0
    assert found['better'].ghost == pytest.approx(6, abs=1)
    assert found['better'].toned == pytest.approx(found['single frame'].toned + 6, abs=1)
    assert found['perfect'].flicker == 0 < found['better'].flicker < found['single frame'].flicker
    assert found['perfect'].toned > 45 and found['better'].seconds == 0.1


def test_a_ghost_shows_as_one(steps):
    """The scene before the event, left in a quarter of the frame."""
    stale = [one.copy() for one in steps.references]
    for index in range(EVENT, EVENT + AFTER):
        stale[index][:240, :320] = steps.references[EVENT - 1][100:340, 100:420]
    found = judge_clips.figures(
        steps,
        {
            'single frame': lambda clip: ([f // 2 * 2 for f in clip.references], [0.1]),
            'ghost': lambda clip: (stale, [0.1]),
        },
    )
    assert found['ghost'].worst < -3


@pytest.mark.slow
def test_the_command_prints_every_row(tmp_path, monkeypatch, capsys):
    folder = cut(tmp_path / 'photographs', 4, 2, (240, 160))
    listed = tmp_path / 'list.txt'
    listed.write_text(
        ''.join(f'{judge_photographs.digest(p)}  x/{p.name}\n' for p in sorted(folder.iterdir()))
    )
    monkeypatch.setattr(judge_photographs, 'LIST', listed)
    out = tmp_path / 'figures.json'
    arguments = ['--photographs', str(folder), '--regimes', 'tripod', '--count', '1']
    measure_clips.main([*arguments, '--json', str(out)])
    printed = capsys.readouterr().out
    assert judge_clips.version() in printed and out.is_file()
    for name in ('input', 'relit', 'classical fusion', 'single frame', 'stream'):
        assert printed.count(f'\n  {name} ') == 2  # of the regime, and over all
    assert metrics.versions()['torch'] in printed
    with pytest.raises(FileNotFoundError, match='is the video there'):
        list(judge_clips.real(tmp_path))
