"""Evaluation of data sets and the ablations: real files, real models, figures by hand."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason="no torch: pip install 'dap_led_ros[train]'")
pytest.importorskip('torchmetrics')
pytest.importorskip('lightning_fabric')

from conftest import cut

from dap_led_ros.inference import weights
from dap_led_ros.priors import PriorConfig
from dap_led_training.data.batches import Stage
from dap_led_training.data.config import DataConfig
from dap_led_training.data.pairs import FramePair
from dap_led_training.measure import ablation, methods, metrics, night_sets, tables
from dap_led_training.measure import frames as measure_frames
from dap_led_training.trainers.paired import LossWeights, TrainConfig

VIDEOS = {'0012': 10, '0017': 20, '0256': 40}  # the degraded frames are so much darker
HEIGHT, WIDTH = 32, 48


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """Frames this small are not worth two, and other tests may run beside these."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    yield
    torch.set_num_threads(threads)


def write(path: Path, frame: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), frame[..., ::-1])


@pytest.fixture
def lol_blur(tmp_path, night) -> Path:
    """LOL-Blur's layout: 3 videos of 2 clips of 2 frames, from places of a real photograph."""
    for place, (video, darker) in enumerate(VIDEOS.items()):
        for index, number in enumerate((30, 31, 84, 85)):
            y, x = 100 * place, 60 * index
            target = np.maximum(night[1][y : y + HEIGHT, x : x + WIDTH], 40)
            folder = tmp_path / 'LOL-Blur' / 'test'
            write(folder / 'high_sharp_scaled' / video / f'{number:04}.png', target)
            for variant, change in (('low_blur_noise', darker), ('low_blur', 1)):
                write(folder / variant / video / f'{number:04}.png', target - change)
            (folder / 'low_blur_noise' / video / 'blur.json').write_text('{}')
    return tmp_path / 'LOL-Blur'


@pytest.fixture(scope='module')
def photographs(tmp_path_factory) -> str:
    """Nine pieces of the sample photograph; two of them validate."""
    return str(cut(tmp_path_factory.mktemp('photographs') / 'garage', 9, 4, (100, 100)))


@pytest.fixture
def small(monkeypatch):
    """Night sets of 160x120."""
    for module in (measure_frames, night_sets):
        monkeypatch.setattr(module, 'SIZE', (160, 120))


def psnr_of_a_shift(by: float) -> float:
    return 20 * np.log10(255 / by)


# --- data sets of frames ----------------------------------------------------------------------


def test_figures_and_intervals_of_lol_blur_by_hand(lol_blur):
    pairs = measure_frames.lol_blur_test(lol_blur, 'low_blur_noise')
    methods = {'input': lambda frame: frame, 'ten more': lambda frame: frame + np.uint8(10)}
    report = measure_frames.evaluate_pairs(methods, pairs)
    assert (report['frames'], report['videos']) == (12, 3)  # 12 frames of 6 clips of 3 videos
    figures = report['methods']['input']['psnr']
    by_hand = [psnr_of_a_shift(darker) for darker in VIDEOS.values()]  # 28.13, 22.11, 16.09
    assert figures['groups'] == pytest.approx(dict(zip(VIDEOS, by_hand)))
    assert figures['mean'] == pytest.approx(np.mean(by_hand))
    # The means of the videos are 20 log10(2) apart: that is their standard deviation.
    assert figures['interval'] == pytest.approx(4.302653 * 20 * np.log10(2) / np.sqrt(3), rel=1e-5)
    better = report['methods']['ten more']['psnr']['groups']
    assert better['0012'] == metrics.PSNR_CAP
    assert better['0256'] == pytest.approx(psnr_of_a_shift(30))
    pair = pairs[0]
    expected = metrics.ssim_y(
        *(measure_frames.read_rgb(path) for path in (pair.degraded, pair.target))
    )
    first = measure_frames.evaluate_pairs({'input': methods['input']}, [pair])
    assert first['methods']['input']['ssim_y']['mean'] == pytest.approx(expected)
    assert first['methods']['input']['ssim_y']['interval'] is None


def test_the_command_prints_the_protocol_and_what_it_writes(lol_blur, tmp_path):
    """In a process of its own, which imports no metric library that is not asked for."""
    out = tmp_path / 'reports' / 'figures.json'
    unpaired = str(lol_blur / 'test' / 'low_blur')
    folders = [str(lol_blur / 'test' / v) for v in ('low_blur', 'high_sharp_scaled')]
    code = (
        'import sys\n'
        'from dap_led_training.measure import frames as measure_frames\n'
        "assert not {'pyiqa', 'lpips'} & set(sys.modules)\n"
        "sys.modules['pyiqa'] = None\n"
        'measure_frames.main(sys.argv[1:])\n'
    )
    arguments = ['nano', '--lol-blur', str(lol_blur), '--pairs', *folders]
    done = subprocess.run(
        [sys.executable, '-c', code, *arguments, '--unpaired', unpaired, '--json', str(out)],
        check=True,
        capture_output=True,
        text=True,
    )
    printed, report = done.stdout, json.loads(out.read_text())
    assert list(report) == ['versions', 'lol_blur', 'pairs', 'unpaired']
    for said in (
        f'LOL-Blur test, low_blur_noise -> high_sharp_scaled: {lol_blur}\n12 frames of 3 videos',
        'clamped and rounded to 8 bit; brightness not matched',
        '95% interval by video',
        'SSIM-Y: the same on 0.299 R + 0.587 G + 0.114 B',
        f'torch {metrics.versions()["torch"]}, torchmetrics ',
        f'pairs, {folders[0]} -> {folders[1]}\n12 frames of 3 videos',
        'not measured: NIQE, MUSIQ, NRQM: pip install pyiqa',
        'nothing to measure',
    ):
        assert said in printed
    assert [list(report[key]['methods']) for key in ('lol_blur', 'unpaired')] == [
        ['input', 'auto', 'CLAHE + gamma', 'nano'],
        [],
    ]
    for key in ('lol_blur', 'pairs'):
        columns = list(report[key]['metrics'].values())
        for name, figures in report[key]['methods'].items():
            cells = [
                f'{f["mean"]:.{c["digits"]}f} ±{f["interval"]:.{c["digits"]}f}'
                for f, c in zip(figures.values(), columns)
            ]
            line = re.escape(name) + ' +' + ' +'.join(map(re.escape, cells))
            assert re.search(f'^{line}$', printed, re.MULTILINE)
    psnr = report['pairs']['methods']['input']['psnr']
    assert psnr['mean'] == pytest.approx(psnr_of_a_shift(1))
    assert psnr['interval'] == pytest.approx(0, abs=1e-9)


def test_frames_without_targets_are_grouped_by_the_name_of_their_video(tmp_path, monkeypatch):
    names = ('0000_0082.png', '0000_0083.png', '075_blur_9.png', 'a/0001.png', 'a/0002.png')
    for index, name in enumerate(names):
        write(tmp_path / name, np.full((20, 20, 3), 10 * index, np.uint8))
    mean = metrics.Metric('mean', lambda frame: float(frame.mean()), 1, 'of all values')
    monkeypatch.setattr(metrics, 'without_reference', lambda: ({'mean': mean}, []))
    paths = [tmp_path / name for name in names]
    report = measure_frames.evaluate_unpaired({'input': lambda frame: frame}, paths)
    figures = report['methods']['input']['mean']
    assert figures['mean'] == 20
    assert figures['groups'] == {
        f'{tmp_path}/0000': 5,
        f'{tmp_path}/075': 20,
        f'{tmp_path}/a': 35,
    }
    assert '20.0 ±' in measure_frames.table({'data': 'frames', **report})


def test_a_damaged_or_mismatched_pair_is_explained(tmp_path):
    grey = np.full((20, 30, 3), 128, np.uint8)
    write(tmp_path / 'a.png', grey)
    write(tmp_path / 'b.png', grey[:, :24])
    (tmp_path / 'c.png').write_bytes((tmp_path / 'a.png').read_bytes()[:40])
    methods = {'input': lambda frame: frame}
    mismatched = FramePair(tmp_path / 'a.png', tmp_path / 'b.png', 'v')
    with pytest.raises(ValueError, match=r'a\.png is 30x20 and .*b\.png is 24x20'):
        measure_frames.evaluate_pairs(methods, [mismatched])
    damaged = FramePair(tmp_path / 'c.png', tmp_path / 'a.png', 'v')
    with pytest.raises(ValueError, match=r'c\.png cannot be read as a picture'):
        measure_frames.evaluate_pairs(methods, [damaged])


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (['--variant', 'low_blur'], '--variant needs --lol-blur'),
        (
            ['--ablation', 'c.yaml', '--out', 'runs'],
            'python -m dap_led_training measure ablation RECIPE',
        ),
    ],
)
def test_arguments_that_contradict_one_another_are_refused(arguments, said, capsys):
    with pytest.raises(SystemExit):
        measure_frames.main(arguments)
    assert said in capsys.readouterr().err


# --- night sets -------------------------------------------------------------------------------


def test_the_night_sets_are_printed_under_their_protocol(
    photographs, small, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(measure_frames, 'SIZES', ((16, 16), (17, 31), (333, 241)))
    out = tmp_path / 'figures.json'
    measure_frames.main(['nano', '--photographs', photographs, '--json', str(out)])
    printed, report = capsys.readouterr().out, json.loads(out.read_text())
    assert list(report) == ['versions', 'night']
    night = report['night']
    assert night['photographs'] == 2
    for line in (*measure_frames.NIGHT_PROTOCOL, 'nano: sizes 16x16, 17x31, 333x241 kept'):
        assert line in printed
    assert '2 validation photographs, 160x120; PSNR / SSIM / aligned PSNR' in printed
    for name in ('input', 'auto', 'CLAHE + gamma', 'nano'):
        row = next(line for line in printed.splitlines() if line.startswith(f'{name}  '))
        for part in ('synthesis', 'independent', 'lamps'):
            figures = night['methods'][name][part]
            cell = f'{figures["psnr"]:5.2f} / {figures["ssim"]:.3f} / {figures["aligned"]:5.2f}'
            assert cell in row
    methods = night['methods']
    assert methods['input']['day'] == {'mean': 50.0, 'worst': 50.0}
    for part in ('independent', 'lamps'):
        assert methods['nano'][part]['psnr'] > methods['input'][part]['psnr'] + 5


# --- ablations --------------------------------------------------------------------------------


def recipe(data: DataConfig, **losses: float) -> TrainConfig:
    return TrainConfig(
        network='dap-led-tiny',
        data=data,
        stages=[Stage(32, 4, 300), Stage(64, 2, 700)],
        prior=PriorConfig(prompts='joint_antonyms'),
        losses=LossWeights(identity=0.1, clip=0.01, **losses),
    )


class Trainer:
    """Stands in for train(): each run is the model that ships, under another name."""

    def __init__(self, interrupted_at: int = 0) -> None:
        self.runs: list[tuple[str, TrainConfig]] = []
        self.interrupted_at = interrupted_at

    def __call__(self, config: TrainConfig, out: Path, initial: Path | None = None) -> Path:
        self.runs.append((out.name, config))
        if len(self.runs) == self.interrupted_at:
            raise KeyboardInterrupt
        out.mkdir(parents=True)
        return Path(shutil.copy(weights.find('nano'), out / 'network.onnx'))


def test_each_row_replaces_one_thing(tmp_path):
    base = recipe(DataConfig(photographs=['a']), gradient=0.1)
    rows = {(row.table, row.name): row for row in ablation.rows(base)}
    assert [name for _, name in rows] == [
        *('blur', 'low_light', 'joint'),
        *('rec', 'rec+identity', 'rec+identity+clip'),
        *('clip', 'handcrafted', 'none'),
    ]
    for key, field, value in (
        (('prompt', 'blur'), 'prior', {'prompts': 'blur'}),
        (('prompt', 'low_light'), 'prior', {'prompts': 'low_light'}),
        (('losses', 'rec'), 'losses', {'identity': 0.0, 'clip': 0.0}),
        (('losses', 'rec+identity'), 'losses', {'clip': 0.0}),
        (('prior', 'handcrafted'), 'prior', {'kind': 'handcrafted'}),
        (('prior', 'none'), 'prior', {'kind': 'none'}),
    ):
        changed = dataclasses.replace(getattr(base, field), **value)
        assert rows[key].config == dataclasses.replace(base, **{field: changed})
    same = [('prompt', 'joint'), ('losses', 'rec+identity+clip'), ('prior', 'clip')]
    assert all(rows[key].config == base and rows[key].run == 'prompt-joint' for key in same)
    assert len({row.run for row in rows.values()}) == 7


def test_a_recipe_without_clips_losses_gets_the_papers_weights():
    base = dataclasses.replace(recipe(DataConfig(photographs=['a'])), losses=LossWeights())
    rows = {row.name: row for row in ablation.rows(base)}
    losses = rows['rec+identity+clip'].config.losses
    assert (losses.identity, losses.clip) == (0.1, 0.01)
    assert rows['rec'].run == 'prompt-joint'
    assert rows['rec+identity+clip'].run == 'losses-rec+identity+clip'


@pytest.mark.parametrize(
    ('steps', 'stages'), [(10, [3, 7]), (1000, [300, 700]), (1, [1]), (3333, [1000, 2333])]
)
def test_stages_keep_their_proportions(steps, stages):
    config = ablation.with_steps(recipe(DataConfig(photographs=['a'])), steps)
    assert [stage.steps for stage in config.stages] == stages
    assert config.stages[-1].crop == 64


def test_an_ablation_goes_on_where_it_was_interrupted(lol_blur, tmp_path, monkeypatch, capsys):
    base, out = recipe(DataConfig(lol_blur=str(lol_blur))), tmp_path / 'runs'
    broken = Trainer(interrupted_at=3)
    monkeypatch.setattr(ablation, 'train', broken)
    with pytest.raises(KeyboardInterrupt):
        ablation.ablate(base, out, steps=10)
    assert [name for name, _ in broken.runs] == ['prompt-blur', 'prompt-low_light', 'prompt-joint']
    assert [stage.steps for stage in broken.runs[0][1].stages] == [3, 7]

    resumed = Trainer()
    monkeypatch.setattr(ablation, 'train', resumed)
    report = ablation.ablate(base, out, steps=10)
    assert [name for name, _ in resumed.runs] == [
        *('prompt-joint', 'losses-rec', 'losses-rec+identity'),
        *('prior-handcrafted', 'prior-none'),
    ]
    printed = capsys.readouterr().out
    assert (out / 'ablation.md').read_text() in printed
    assert json.loads((out / 'ablation.json').read_text()) == report

    pairs = measure_frames.lol_blur_test(lol_blur, 'low_blur_noise')
    trained = str(weights.find('nano'))
    nano = measure_frames.evaluate_pairs(methods.load_methods([trained]), pairs)['methods']
    assert [row['name'] for row in report['rows']] == [
        *('blur', 'low_light', 'joint', 'rec', 'rec+identity', 'rec+identity+clip'),
        *('clip', 'handcrafted', 'none'),
    ]
    for row in report['rows']:
        figures = {key: nano[trained][key] for key in ablation.METRICS}
        assert row['figures'] == {'test': figures}
        cells = [measure_frames.cell(figures[k], 2 if k == 'psnr' else 3) for k in figures]
        line = ' +[|] '.join(map(re.escape, ['| test', row['name'], *cells]))
        assert re.search(f'^{line} +[|]$', printed, re.MULTILINE)
    assert '10 steps each, everything else as in the recipe; LOL-Blur test' in printed
    assert '| test | input ' in printed
    assert tables.version_line() in printed

    again = Trainer()
    monkeypatch.setattr(ablation, 'train', again)
    assert ablation.ablate(base, out, steps=10) == report
    assert again.runs == []
    with pytest.raises(ValueError, match='of another recipe: give another --out'):
        ablation.ablate(base, out, steps=20)
    assert again.runs == []


def test_an_ablation_on_photographs_is_measured_on_the_night_sets(photographs, small):
    name, sets = ablation.frame_sets(DataConfig(photographs=[photographs]))
    assert name == f'night sets of 2 validation photographs (one "video" each): {photographs}'
    assert [(one.name, one.count) for one in sets] == [
        *(('synthesis', 2), ('independent', 2), ('lamps', 2))
    ]
    figures = ablation.measure(lambda frame: frame, sets)
    assert set(figures) == {'synthesis', 'independent', 'lamps'}
    degraded, reference = sets[1].samples()[0][1:]
    first = figures['independent']['psnr']['groups'][f'{photographs}/0.png']
    assert first == metrics.psnr(degraded, reference)


def test_a_network_without_prior_has_no_ablation(tmp_path):
    base = dataclasses.replace(recipe(DataConfig(photographs=['a'])), network='nano')
    with pytest.raises(ValueError, match="'nano' has no prior to take away: use one of"):
        ablation.ablate(base, tmp_path)


def test_two_folders_have_nothing_to_measure_an_ablation_on():
    with pytest.raises(ValueError, match='give photographs or lol_blur'):
        ablation.frame_sets(DataConfig(degraded='a', target='b'))
