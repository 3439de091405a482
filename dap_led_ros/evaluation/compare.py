"""dap-led compare: two runs on the same recording, frame by frame."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path
from typing import Any

from dap_led_ros.evaluation import measures, page, report


def run(options: argparse.Namespace) -> int:
    """Print the comparison, and write it as a page if asked."""
    contents = [_read(out) for out in (options.a, options.b)]
    rows = [report.load_rows(out) for out in (options.a, options.b)]
    tables = compare(*rows)
    names = [f'{label} = {out}' for label, out in zip('AB', (options.a, options.b))]
    print('\n'.join(f'{name} ({of["model"]})' for name, of in zip(names, contents)))
    for topic, table in tables.items():
        print(f'\n{topic}\n{_as_text(table)}')
    if options.out:
        _write_page(options, contents, tables)
        print(f'\npage    {options.out}')
    return 0


def _read(out: Path) -> dict[str, Any]:
    path = out / 'report.json'
    if not path.is_file():
        raise ValueError(f'{out} has no report.json: give a folder that dap-led replay wrote')
    return json.loads(path.read_text())


def compare(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Differences B - A of what was measured after enhancement, by topic.

    Only frames count that both runs enhanced or passed through, and that both measured. Frames are
    the same ones when their topic and number are.

    :raises ValueError: the runs have no frame in common, or the frames are of other recordings.
    """
    of_b = {(row['topic'], row['index']): row for row in b}
    both = [
        (row, of_b[row['topic'], row['index']])
        for row in a
        if (row['topic'], row['index']) in of_b
    ]
    if not both:
        raise ValueError('the two runs have no frames in common')
    if any(one['time'] != other['time'] for one, other in both):
        raise ValueError('the two runs are of different recordings: their frames differ in time')
    tables: dict[str, list[dict[str, Any]]] = {}
    for topic in sorted({one['topic'] for one, _ in both}):
        of_topic = [rows for rows in both if rows[0]['topic'] == topic]
        lines = []
        for name, measure in {**measures.PER_FRAME, **measures.PER_PAIR}.items():
            values = [
                (_after(one, name), _after(other, name))
                for one, other in of_topic
                if _after(one, name) is not None and _after(other, name) is not None
            ]
            if not values:
                continue
            in_a, in_b = zip(*values)
            difference = measures.paired(in_a, in_b)
            better = difference.mean * measure.better if difference.sure else 0
            lines.append(
                {
                    'title': measure.title,
                    'unit': measure.unit,
                    'definition': measure.definition,
                    'a': sum(in_a) / len(in_a),
                    'b': sum(in_b) / len(in_b),
                    **difference._asdict(),
                    'better': 'B' if better > 0 else 'A' if better < 0 else '',
                }
            )
        tables[topic] = lines
    return tables


def _after(row: dict[str, Any], name: str) -> float | None:
    """A value of the enhanced frame, or of the pair."""
    return row.get('after', {}).get(name, row.get(name))


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
            tables=tables,
            command=shlex.join(
                ['dap-led', 'compare', str(options.a), str(options.b), '--out', str(options.out)]
            ),
        )
    )
    options.out.write_text(text)
