"""The paper's ablations: python -m dap_led_training measure ablation RECIPE --out DIR.

Which prompt, which losses, and what the prior is worth.

Each row trains one recipe with a single thing replaced and measures it. Every run has a folder
of its own: what is done is not run again, and what was interrupted goes on. Rows that come to the
same recipe (the joint prompt, all losses, CLIP) share one run.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from dap_led_ros.inference import Enhancer
from dap_led_ros.models.dap_led import PRESETS
from dap_led_training import configuration
from dap_led_training.data.config import DataConfig
from dap_led_training.data.pairs import VARIANTS
from dap_led_training.data.photographs import find_photographs
from dap_led_training.loop import as_plain, write_whole
from dap_led_training.measure import frames as measure_frames
from dap_led_training.measure import metrics
from dap_led_training.measure.frames import Sample
from dap_led_training.measure.methods import Method
from dap_led_training.measure.night_sets import night_sets
from dap_led_training.trainers.paired import TrainConfig, train

IDENTITY, CLIP = 0.1, 0.01
"""The paper's weights of the two losses, where a recipe has none of its own."""
TITLES = {
    'prompt': 'Prompt of the prior (Table III of the paper)',
    'losses': 'Losses (Table IV of the paper)',
    'prior': 'Prior',
}
LITERAL = 'the recipe reads the joint prompt without antonym, the rows blur and low_light with it'
ONE_RUN = 'each row is one run; the interval does not tell how much another seed would change it'
METRICS = ('psnr', 'ssim_rgb', 'ssim_y')


class Row(NamedTuple):
    """A line of a table."""

    table: str
    name: str
    config: TrainConfig
    run: str
    """Name of the run's folder; rows of equal recipes share it."""


class FrameSet(NamedTuple):
    """Frames to measure every row on."""

    name: str
    count: int
    samples: Callable[[], Iterable[Sample]]


def rows(config: TrainConfig) -> list[Row]:
    """All rows of the three tables, in the paper's order."""

    def prior(**changes: str) -> TrainConfig:
        return dataclasses.replace(config, prior=dataclasses.replace(config.prior, **changes))

    def losses(identity: float, clip: float) -> TrainConfig:
        changed = dataclasses.replace(config.losses, identity=identity, clip=clip)
        return dataclasses.replace(config, losses=changed)

    prompts = config.prior.prompts
    joint = prompts if prompts.startswith('joint') else 'joint_antonyms'
    identity, clip = config.losses.identity or IDENTITY, config.losses.clip or CLIP
    tables = {
        'prompt': {
            'blur': prior(kind='clip', prompts='blur'),
            'low_light': prior(kind='clip', prompts='low_light'),
            'joint': prior(kind='clip', prompts=joint),
        },
        'losses': {
            'rec': losses(0.0, 0.0),
            'rec+identity': losses(identity, 0.0),
            'rec+identity+clip': losses(identity, clip),
        },
        'prior': {kind: prior(kind=kind) for kind in ('clip', 'handcrafted', 'none')},
    }
    found: list[Row] = []
    for table, named in tables.items():
        for name, changed in named.items():
            same = [row.run for row in found if row.config == changed]
            found.append(Row(table, name, changed, same[0] if same else f'{table}-{name}'))
    return found


def with_steps(config: TrainConfig, steps: int) -> TrainConfig:
    """The recipe with so many steps in all; its stages keep their proportions.

    :raises ValueError: less than one step.
    """
    if steps < 1:
        raise ValueError(f'{steps} steps: give at least 1')
    total, before, stages = sum(stage.steps for stage in config.stages), 0, []
    for stage in config.stages:
        after = before + stage.steps
        count = round(steps * after / total) - round(steps * before / total)
        stages += [dataclasses.replace(stage, steps=count)] if count else []
        before = after
    return dataclasses.replace(config, stages=stages)


def frame_sets(config: DataConfig) -> tuple[str, list[FrameSet]]:
    """What the rows are measured on, and its name: LOL-Blur's test split, or the night sets.

    :raises ValueError: the recipe trains on two folders, which have no part to measure on.
    """
    if config.lol_blur:
        found = measure_frames.lol_blur_test(config.lol_blur, config.variant)
        name = measure_frames.lol_blur_name(config.lol_blur, config.variant)
        return name, [FrameSet('test', len(found), lambda: measure_frames.samples_of(found))]
    if not config.photographs:
        raise ValueError(
            'data: two folders have no part to measure on; give photographs or lol_blur'
        )
    paths = find_photographs(config.photographs, validation=True)
    sets = {
        name: [Sample(str(path), *pair) for path, pair in zip(paths, frames)]
        for name, frames in night_sets(paths).items()
    }
    name = f'night sets of {len(paths)} validation photographs (one "video" each): '
    return name + ', '.join(config.photographs), [
        FrameSet(name, len(samples), lambda samples=samples: samples)
        for name, samples in sets.items()
    ]


def ablate(
    config: TrainConfig,
    out: Path,
    steps: int | None = None,
    tables: list[str] | None = None,
) -> dict:
    """Train and measure every row, print the tables, and write ablation.json and ablation.md.

    :param out: folder of the runs, one folder each; result.json in it says that a run is done.
    :param steps: steps of each run, in place of the recipe's.
    :param tables: names in TITLES; all without it.
    :raises ValueError: the network has no prior, there is nothing to measure on, or a folder holds
        a run of another recipe.
    """
    if config.network not in PRESETS:
        raise ValueError(
            f'network: {config.network!r} has no prior to take away: use one of '
            f'{", ".join(PRESETS)}'
        )
    if steps is not None:
        config = with_steps(config, steps)
    wanted = [row for row in rows(config) if row.table in (tables or TITLES)]
    for row in wanted:
        _result(out / row.run, row.config)  # a folder of another recipe: say so before training
    name, sets = frame_sets(config.data)
    report: dict = {
        'data': name,
        'steps': sum(stage.steps for stage in config.stages),
        'versions': metrics.versions(),
        'protocol': [
            *measure_frames.FRAMES_PROTOCOL,
            ONE_RUN,
            *([LITERAL] if config.prior.prompts == 'joint' else []),
        ],
        'metrics': measure_frames.described(_metrics()),
        'missing': [],
        'input': measure(lambda frame: frame, sets),
        'rows': [],
    }
    for row in tqdm(wanted, desc='ablation', unit='row'):
        figures = run(row, out / row.run, sets)
        report['rows'].append({**row._asdict(), 'config': as_plain(row.config), **figures})
    text = markdown(report)
    print(f'\n{text}')
    write_whole(out / 'ablation.json', lambda p: p.write_text(_json(report)))
    write_whole(out / 'ablation.md', lambda p: p.write_text(text))
    return report


def run(row: Row, out: Path, sets: list[FrameSet]) -> dict:
    """Train and measure a row, or return what an earlier run has measured.

    :returns: config and figures: for each set and metric mean, interval and means of the videos.
    """
    result = _result(out, row.config)
    if not result:
        model = train(row.config, out)
        enhancer = Enhancer.load(str(model))
        figures = measure(lambda frame: enhancer.enhance(frame).frame, sets)
        result = {'config': as_plain(row.config), 'figures': figures}
        write_whole(out / 'result.json', lambda p: p.write_text(_json(result)))
    return result


def measure(method: Method, sets: list[FrameSet]) -> dict:
    """For each set and metric: mean over frames, interval, and the mean of each video."""
    figures = {}
    for one in sets:
        report = measure_frames.score({'': method}, one.samples(), one.count, _metrics())
        figures[one.name] = report['methods']['']
    return figures


def markdown(report: dict) -> str:
    """The report as Markdown, for print too: protocol, then a table for each ablation."""
    lines = [
        '# Ablations',
        '',
        f'{report["steps"]} steps each, everything else as in the recipe; {report["data"]}',
        '',
        *(f'- {line}' for line in measure_frames.head(report)),
    ]
    columns = report['metrics']
    for table, title in TITLES.items():
        trained = {r['name']: r['figures'] for r in report['rows'] if r['table'] == table}
        if not trained:
            continue
        named = {'input': report['input'], **trained}
        cells = [['set', table, *(column['label'] for column in columns.values())]]
        for name_of_set in report['input']:
            for name, figures in named.items():
                values = (
                    measure_frames.cell(figures[name_of_set][key], column['digits'])
                    for key, column in columns.items()
                )
                cells.append([name_of_set, name, *values])
        lines += ['', f'## {title}', '', *_markdown_table(cells)]
    return '\n'.join(lines) + '\n'


def _markdown_table(cells: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*cells)]
    padded = [[cell.ljust(width) for cell, width in zip(row, widths)] for row in cells]
    padded.insert(1, ['-' * width for width in widths])
    return [f'| {" | ".join(row)} |' for row in padded]


def _result(out: Path, config: TrainConfig) -> dict:
    """What an earlier run has measured; {} where there is nothing yet."""
    path = out / 'result.json'
    if not path.exists():
        return {}
    result = json.loads(path.read_text())
    if result['config'] != json.loads(json.dumps(as_plain(config))):
        raise ValueError(f'{path} is of another recipe: give another --out, or take {out} away')
    return result


def _metrics() -> dict[str, metrics.Metric]:
    measured, _ = metrics.full_reference()
    return {key: measured[key] for key in METRICS}


def _json(values: dict) -> str:
    return json.dumps(values, indent=2, allow_nan=False)


def main(arguments: list[str] | None = None) -> None:
    """Train and measure the rows, and print the tables."""
    parser = configuration.recipe_parser('measure ablation', __doc__)
    parser.add_argument('--lol-blur', metavar='ROOT', help="in place of the config's data")
    parser.add_argument('--variant', choices=VARIANTS, help=f'default: {VARIANTS[0]}')
    parser.add_argument('--steps', type=int, help='of each run, in place of the recipe')
    parser.add_argument('--tables', nargs='+', choices=TITLES, help='default: all three')
    options = parser.parse_args(arguments)
    if options.variant and not options.lol_blur:
        parser.error('--variant needs --lol-blur')
    config = configuration.load(options.config, TrainConfig)
    if options.photographs:
        config = dataclasses.replace(config, data=DataConfig(photographs=options.photographs))
    if options.lol_blur:
        data = DataConfig(lol_blur=options.lol_blur, variant=options.variant or VARIANTS[0])
        config = dataclasses.replace(config, data=data)
    ablate(config, options.out, options.steps, options.tables)
