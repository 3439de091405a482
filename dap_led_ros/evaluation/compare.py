"""dap-led compare: two runs on the same recording, frame by frame."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

import numpy as np

from dap_led_ros.evaluation import measures, page, segments, tally
from dap_led_ros.evaluation.tally import Tally

_SAME = 0.01
"""Grey levels by which one frame's brightness may differ between two machines."""


def run(options: argparse.Namespace) -> int:
    """Print the comparison, and write it as a page if asked."""
    outs = (options.a, options.b)
    if options.out and not options.out.resolve().parent.is_dir():
        raise ValueError(f'{options.out.resolve().parent} does not exist: choose another --out')
    contents = [_read(out) for out in outs]
    runs = [tally.read(out, segments.journals(out))[0] for out in outs]
    unlike, left_out = differences(*contents)
    tables = compare(*runs, left_out)
    for label, out, content in zip('AB', outs, contents):
        print(f'{label} = {out} ({content["model"]})')
    print(''.join(f'note: {line}\n' for line in unlike), end='')
    for topic, table in tables.items():
        print(f'\n{topic}\n{_as_text(table)}')
    if options.out:
        _write_page(options, contents, unlike, tables)
        print(f'\npage    {options.out}')
    return 0


def _read(out: Path) -> dict[str, Any]:
    path = out / 'report.json'
    if not path.is_file():
        raise ValueError(f'{out} has no report.json: give a folder that dap-led replay wrote')
    return segments.read_json(path)


def differences(a: dict[str, Any], b: dict[str, Any]) -> tuple[list[str], set[str]]:
    """What the runs do not share but for the model, and the measures that it spoils."""
    unlike: list[str] = []
    left_out: set[str] = set()
    if a['bag'] != b['bag']:
        unlike.append(f'A is of {a["bag"]}, B of {b["bag"]}; their frames before are the same')
    for name, title, spoilt in (
        ('detector', 'detector', {'detections', 'confidence', 'harm'}),
        ('references', 'reference', {'psnr', 'ssim', 'harm'}),
        ('features', 'setting of the features', {'harm'}),
    ):
        asked = [run['asked'].get(name) for run in (a, b)]
        if asked[0] != asked[1]:
            left_out |= spoilt
            names = ', '.join(_measure(of).title for of in sorted(spoilt))
            unlike.append(f'A and B have not the same {title}: no {names}')
    return unlike, left_out


def _measure(name: str) -> measures.Measure:
    return {**measures.PER_FRAME, **measures.PER_PAIR}[name]


def compare(
    a: dict[str, Tally], b: dict[str, Tally], left_out: set[str]
) -> dict[str, list[dict[str, Any]]]:
    """Differences B - A of what was measured after enhancement, by topic.

    Only frames count that both runs enhanced or passed through, and that both measured. Frames are
    the same ones when their topic and number are.

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
        lines = []
        for name in [*measures.PER_FRAME, *measures.PER_PAIR]:
            column = f'{name}_after' if name in measures.PER_FRAME else name
            in_a, in_b = (of[topic][column][:count] for of in (a, b))
            both = ~np.isnan(in_a) & ~np.isnan(in_b)
            if name in left_out or not both.any():
                continue
            measure = _measure(name)
            difference = measures.paired(in_a[both], in_b[both])
            better = difference.mean * measure.better if difference.sure else 0
            lines.append(
                {
                    'title': measure.title,
                    'unit': measure.unit,
                    'definition': measure.definition,
                    'a': float(in_a[both].mean()),
                    'b': float(in_b[both].mean()),
                    **difference._asdict(),
                    'better': 'B' if better > 0 else 'A' if better < 0 else '',
                }
            )
        if lines:
            tables[topic] = lines
    if not tables:
        raise ValueError('the two runs have no frames in common')
    return tables


def _as_text(table: list[dict[str, Any]]) -> str:
    lines = [f'{"":28}{"A":>10}{"B":>10}{"B - A":>10}   {"95 % interval":24}{"frames":>7}  better']
    for line in table:
        unit = f' ({line["unit"]})' if line['unit'] else ''
        interval = f'{page.figure(line["low"])} … {page.figure(line["high"])}'
        lines.append(
            f'{line["title"] + unit:28}{page.figure(line["a"]):>10}'
            f'{page.figure(line["b"]):>10}{page.figure(line["mean"]):>10}   '
            f'{interval:24}{line["count"]:>7}  {line["better"]}'
        )
    return '\n'.join(lines)


def _write_page(
    options: argparse.Namespace,
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
                for label, out, content in zip('AB', (options.a, options.b), contents)
            ],
            unlike=unlike,
            tables=tables,
            command=shlex.join(
                ['dap-led', 'compare', str(options.a), str(options.b), '--out', str(options.out)]
            ),
        )
    )
    options.out.write_text(text)
