"""dap-led compare: two runs on the same recording, frame by frame."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np

from dap_led_ros.metrics import intervals
from dap_led_ros.replay import measures, page, report, segments, tally, verdict
from dap_led_ros.replay.tally import Tally

_SAME = 0.01
"""Grey levels by which one frame's brightness may differ between two machines."""
_IDLE_WINS = ('contrast', 'sharpness', 'noise', 'saturated', 'flicker', 'harm', 'latency')
"""Measures in which a frame that is left as it was is the best, or nearly."""


def show(a: Path, b: Path, page_path: Path | None = None, overwrite: bool = False) -> int:
    """Print the comparison, and write it as a page if asked."""
    outs = (a, b)
    if page_path and not page_path.resolve().parent.is_dir():
        raise ValueError(f'{page_path.resolve().parent} does not exist: choose another --out')
    if page_path and page_path.exists() and not overwrite:
        raise ValueError(f'{page_path} exists: choose another --out or add --overwrite')
    contents = [_read(out) for out in outs]
    runs = [tally.read(out, segments.journals(out))[0] for out in outs]
    unlike, left_out = differences(*contents)
    tables = compare(*runs, left_out)
    for label, out, content in zip('AB', outs, contents):
        print(f'{label} = {out} ({content["ran"]["model"] or content["model"]})')
    print(''.join(f'note: {line}\n' for line in unlike), end='')
    for topic, table in tables.items():
        print(f'\n{topic}')
        for label, content in zip('AB', contents):
            of = content['topics'][topic]
            print(f'{label}: {of["sentence"]}; {report.counted(of)}')
        print(_as_text(table))
    if page_path:
        _write_page(outs, page_path, contents, unlike, tables)
        print(f'\npage    {page_path}')
    return 0


def _read(out: Path) -> dict[str, Any]:
    path = out / 'report.json'
    if not path.is_file():
        raise ValueError(f'{out} has no report.json: give a folder that dap-led replay wrote')
    content = segments.read_json(path)
    if 'ran' not in content:
        raise ValueError(
            f'{out} is of an earlier version: `dap-led replay BAG --out {out} --resume` writes '
            'its report anew'
        )
    return content


def differences(a: dict[str, Any], b: dict[str, Any]) -> tuple[list[str], set[str]]:
    """What the runs do not share but for the model, and the measures that it spoils."""
    unlike: list[str] = []
    left_out: set[str] = set()
    if a['bag'] != b['bag']:
        unlike.append(f'A is of {a["bag"]}, B of {b["bag"]}; their frames before are the same')
    for setting, title, spoilt in (
        ('detector', 'detector', {'detections', 'confidence', 'harm', 'help'}),
        ('references', 'reference', {'psnr', 'ssim', 'harm', 'help'}),
        ('features', 'setting of the features', {'harm', 'help'}),
    ):
        asked = [run['asked'].get(setting) for run in (a, b)]
        if asked[0] != asked[1]:
            left_out |= spoilt
            names = ', '.join(measures.of(name).title for name in sorted(spoilt))
            unlike.append(f'A and B have not the same {title}: no {names}')
    return unlike, left_out


def compare(
    a: dict[str, Tally], b: dict[str, Tally], left_out: set[str]
) -> dict[str, list[dict[str, Any]]]:
    """Differences B - A of what was measured after enhancement, by topic.

    Only frames count that both runs enhanced or passed through, and that both measured. Frames are
    the same ones when their topic and number are. For measures in which nothing beats a frame left
    as it was, only those count that both runs changed: to do nothing is no merit.

    :param left_out: measures that cannot be compared.
    :raises ValueError: the runs have no frame in common, or the frames are of other recordings.
    """
    tables: dict[str, list[dict[str, Any]]] = {}
    for topic in sorted(a.keys() & b.keys()):
        count = min(len(a[topic]), len(b[topic]))
        for name in ('time', 'brightness_before'):
            in_a, in_b = (of[topic][name][:count] for of in (a, b))
            if (np.abs(in_b - in_a) > _SAME).any():  # not a number: not measured in both
                raise ValueError(
                    f'the two runs are of different recordings: their frames of {topic} differ '
                    f'in {name.replace("_", " ")}'
                )
        changed = np.logical_and(*(_changed(of[topic], count) for of in (a, b)))
        lines = []
        for name in [*measures.PER_FRAME, *measures.PER_PAIR]:
            column = f'{name}_after' if name in measures.PER_FRAME else name
            in_a, in_b = (of[topic][column][:count] for of in (a, b))
            both = ~np.isnan(in_a) & ~np.isnan(in_b)
            if name in _IDLE_WINS:
                both &= changed
            if name in left_out or not both.any():
                continue
            measure = measures.of(name)
            difference = intervals.paired(in_a[both], in_b[both])
            own = [_own(of[topic], name, count, both) for of in (a, b)]
            better = difference.mean * measure.better if difference.sure else 0
            lines.append(
                {
                    'title': measure.title,
                    'unit': measure.unit,
                    'definition': measure.definition,
                    'a': float(in_a[both].mean()),
                    'b': float(in_b[both].mean()),
                    'own_a': own[0],
                    'own_b': own[1],
                    **difference._asdict(),
                    'better': 'B' if better > 0 else 'A' if better < 0 else '',
                }
            )
        if lines or not changed.all():
            tables[topic] = lines
    if not tables:
        raise ValueError('the two runs have no frames in common')
    return tables


def _changed(camera: Tally, count: int) -> np.ndarray:
    """Which of the first frames a run changed, (count,)."""
    enhanced = camera['outcome'] == verdict.OUTCOMES.index('enhanced')
    return (enhanced & ~verdict.unchanged_frames(camera))[:count]


def _own(camera: Tally, name: str, count: int, among: np.ndarray) -> float | None:
    """Mean by which a run's frames exceed the mere gain of the same run."""
    if name not in measures.PER_FRAME:
        return None
    own = (camera[f'{name}_after'] - camera[f'{name}_auto'])[:count][among]
    return None if np.isnan(own).all() else float(np.nanmean(own))


def _as_text(table: list[dict[str, Any]]) -> str:
    lines = [
        f'{"":28}{"A":>10}{"B":>10}{"A - auto":>10}{"B - auto":>10}{"B - A":>10}   '
        f'{"95 % interval":24}{"frames":>7}  better'
    ]
    for line in table:
        unit = f' ({line["unit"]})' if line['unit'] else ''
        interval = f'{page.figure(line["low"])} … {page.figure(line["high"])}'
        figures = ''.join(
            f'{page.figure(line[name]):>10}' for name in ('a', 'b', 'own_a', 'own_b', 'mean')
        )
        lines.append(
            f'{line["title"] + unit:28}{figures}   {interval:24}{line["count"]:>7}  '
            f'{line["better"]}'
        )
    return '\n'.join(lines)


def _write_page(
    outs: tuple[Path, Path],
    path: Path,
    contents: list[dict[str, Any]],
    unlike: list[str],
    tables: dict[str, list[dict[str, Any]]],
) -> None:
    text = (
        page.environment()
        .get_template('compare.html')
        .render(
            runs=[
                {'label': label, 'out': str(out), **content}
                for label, out, content in zip('AB', outs, contents)
            ],
            unlike=unlike,
            tables=tables,
            command=shlex.join(['dap-led', 'compare', *map(str, outs), '--out', str(path)]),
        )
    )
    path.write_text(text)
