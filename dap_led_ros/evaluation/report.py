"""What enhancement did to a recording, in figures: report.json, report.csv, and page.py's page."""

from __future__ import annotations

import csv
import json
import shlex
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from dap_led_ros.evaluation import measures, measuring, page, segments
from dap_led_ros.evaluation.measuring import SIDES
from dap_led_ros.evaluation.video import cost_path

OUTCOMES = ('enhanced', 'passed_through', 'refused')

REASONS = 10
"""Most reasons, why frames were not enhanced, that are listed."""

Row = dict[str, Any]


def check_libraries() -> None:
    """Find out before the work that the page can be written.

    :raises RuntimeError: a library is missing.
    """
    try:
        import jinja2  # noqa: F401
        import plotly  # noqa: F401
    except ImportError as error:
        raise RuntimeError(
            f"the report needs jinja2 and plotly: pip install 'dap_led_ros[report]' ({error})"
        ) from None


def write(out: Path) -> dict[str, Any]:
    """Write report.html, report.json and report.csv of a run; returns what is in report.json."""
    measured = measuring.load(out)
    rows = _rows(out, measured)
    content = describe(out, rows, measured)
    segments.write_json(out / 'report.json', content)
    _write_csv(out / 'report.csv', rows)
    page.write(out, content, rows)
    return content


def load_rows(out: Path) -> list[Row]:
    """One row for each frame that was read: what became of it, and what was measured."""
    return _rows(out, measuring.load(out))


def _rows(out: Path, measured: list[dict[str, Any]]) -> list[Row]:
    of_frames = {
        (row['topic'], row['index']): row for part in measured for row in part.get('frames', ())
    }
    return [
        {**row, **of_frames.get((row['topic'], row['index']), {})}
        for journal in segments.journals(out)
        for row in journal['frames']
    ]


# --- figures -----------------------------------------------------------------------------------


def describe(out: Path, rows: list[Row], measured: list[dict[str, Any]]) -> dict[str, Any]:
    """All figures of the report, without pictures."""
    journals = segments.journals(out)
    run = json.loads((out / 'run.json').read_text())
    trouble = list(dict.fromkeys(line for journal in journals for line in journal['trouble']))
    if not journals or not journals[-1]['last']:
        trouble.append('the run was interrupted: frames after its last one are not in it')
    elif not all(measured):
        trouble.append('the run was interrupted: not all frames were measured')
    asked = next((part['asked'] for part in measured if part), {})
    for camera, reference in asked.get('references', {}).items():
        befores = [row['before'] for row in rows if row['topic'] == camera and 'before' in row]
        if lacking := sum('psnr' not in before for before in befores):
            trouble.append(
                f'{lacking} of {len(befores)} frames of {camera} have no frame of {reference} '
                'with their stamp and size'
            )
    topics = {}
    for topic in sorted({row['topic'] for row in rows}):
        of_topic = [row for row in rows if row['topic'] == topic]
        topics[topic] = {
            'frames': {
                'read': len(of_topic),
                **{name: sum(row['outcome'] == name for row in of_topic) for name in OUTCOMES},
            },
            'why': dict(
                Counter(row['why'] for row in of_topic if 'why' in row).most_common(REASONS)
            ),
            'sizes': dict(Counter(_size(row) for row in of_topic if 'width' in row)),
            'measures': _summaries(of_topic),
            'classes': _classes(of_topic, topic, measured),
            'true': _true(of_topic),
        }
    return {
        'bag': run['bag'],
        'model': run['model'],
        'provider': run['provider'],
        'command': _command(out, run, measured),
        'trouble': trouble,
        'topics': topics,
        'stages': _stages(out, journals, measured),
        'speed': _speed(journals),
    }


def _size(row: Row) -> str:
    return f'{row["width"]}x{row["height"]}'


def _summaries(rows: list[Row]) -> dict[str, dict[str, Any]]:
    """Means over the frames that were enhanced, and how they differ with a 95 % interval."""
    enhanced = [row for row in rows if row['outcome'] == 'enhanced']
    found: dict[str, dict[str, Any]] = {}
    for name in measures.PER_FRAME:
        both = [
            (row['before'][name], row['after'][name])
            for row in enhanced
            if name in row.get('before', {}) and name in row.get('after', {})
        ]
        if both:
            before, after = (np.array(side) for side in zip(*both))
            difference = measures.paired(before, after)
            found[name] = {
                'before': float(before.mean()),
                'after': float(after.mean()),
                'difference': difference.mean,
                'low': difference.low if difference.count > 1 else None,
                'high': difference.high if difference.count > 1 else None,
                'frames': difference.count,
            }
    for name in measures.PER_PAIR:
        values = [row[name] for row in enhanced if name in row]
        if values:
            median, most = np.percentile(values, [50, 95])
            found[name] = {
                'median': float(median),
                'p95': float(most),
                'max': max(values),
                'frames': len(values),
            }
    return found


def _classes(rows: list[Row], topic: str, measured: list[dict[str, Any]]) -> dict[str, Any]:
    """Detections, mean confidence and mean length of tracks, by class and side."""
    found: dict[str, dict[str, Any]] = defaultdict(
        lambda: {side: {'detections': 0, 'confidence': None, 'track': None} for side in SIDES}
    )
    for side in SIDES:
        scores = defaultdict(list)
        for row in rows:
            for label, score, *_ in measures.sure(row.get(f'objects_{side}', ())):
                scores[label].append(score)
        lengths = defaultdict(list)
        for part in measured:
            for name, of, label, length in part.get('tracks', ()):
                if (name, of) == (topic, side):
                    lengths[label].append(length)
        for label, values in scores.items():
            found[label][side] = {
                'detections': len(values),
                'confidence': float(np.mean(values)),
                'track': float(np.mean(lengths[label])) if lengths[label] else None,
            }
    return dict(sorted(found.items(), key=lambda item: -item[1]['after']['detections']))


def _true(rows: list[Row]) -> dict[str, Any]:
    """True detections before and after, at equal precision; empty without a reference."""
    rows = [row for row in rows if 'objects_reference' in row]
    if not rows:
        return {}
    judged = {
        side: [
            one
            for row in rows
            for one in measures.true_positives(row[f'objects_{side}'], row['objects_reference'])
        ]
        for side in SIDES
    }
    truth = [thing for row in rows for thing in row['objects_reference']]
    return {
        'objects': sum(thing[1] >= measures.TRUE for thing in truth),
        'at': {
            f'{100 * precision:.0f} %': {
                side: measures.most_true(judged[side], precision) for side in SIDES
            }
            for precision in measures.PRECISIONS
        },
    }


def _stages(
    out: Path, journals: list[dict[str, Any]], measured: list[dict[str, Any]]
) -> dict[str, dict[str, float]]:
    """Frames and seconds of each stage."""
    stages: dict[str, dict[str, float]] = {}

    def add(name: str, frames: int, seconds: float) -> None:
        stage = stages.setdefault(name, {'frames': 0, 'seconds': 0.0})
        stage['frames'] += frames
        stage['seconds'] += seconds

    for journal in journals:
        for name, label in (
            ('read', 'read and decode'),
            ('enhance', 'enhance'),
            ('write', 'encode and write'),
        ):
            add(label, len(journal['frames']), journal['seconds'].get(name, 0.0))
    for part in measured:
        for name, seconds in part.get('seconds', {}).items():
            add(name, len(part['frames']), seconds)
    if cost_path(out).is_file():
        stages['video'] = json.loads(cost_path(out).read_text())
    return stages


def _speed(journals: list[dict[str, Any]]) -> dict[str, float]:
    """Enhanced frames per second of the run, and of the model alone on the same frames."""
    wall = sum(journal['seconds']['wall'] for journal in journals)
    enhanced = [
        journal['alone'].get(row['topic'], 0.0) / 1e3
        for journal in journals
        for row in journal['frames']
        if row['outcome'] == 'enhanced'
    ]
    if not wall or not sum(enhanced):
        return {}
    return {
        'enhance_and_write': len(enhanced) / wall,
        'model_alone': len(enhanced) / sum(enhanced),
        'share': sum(enhanced) / wall,
    }


def _command(out: Path, run: dict[str, Any], measured: list[dict[str, Any]]) -> str:
    """The command that makes this report."""
    words = ['dap-led', 'replay', run['bag'], '--out', str(out), '--model', run['model']]
    for topic in run['topics']:
        words += ['--topic', topic]
    if run['format']:
        words += ['--format', run['format']]
    if run['humble']:
        words.append('--humble')
    asked = next((part['asked'] for part in measured if part), {})
    for camera, reference in asked.get('references', {}).items():
        words += ['--reference', f'{camera}={reference}']
    if asked.get('detect'):
        words += ['--detect', asked['detect']]
        words += ['--allow-pickle'] * asked['detect'].endswith('.pt')
    if not asked.get('features', True):
        words.append('--no-features')
    return shlex.join(words)


def summary(content: dict[str, Any]) -> str:
    """A few lines for the terminal."""
    lines = []
    for topic, of in content['topics'].items():
        frames = ', '.join(f'{count} {name}' for name, count in of['frames'].items())
        lines.append(f'{topic}: {frames.replace("_", " ")}')
        for name in ('brightness', 'inliers', 'detections', 'psnr'):
            if (values := of['measures'].get(name)) is not None:
                title = measures.PER_FRAME[name].title
                lines.append(f'  {title:16} {values["before"]:.4g} -> {values["after"]:.4g}')
        if of['true']:
            lines.append(f'  true detections of {of["true"]["objects"]}, at equal precision:')
        for precision, true in of['true'].get('at', {}).items():
            lines.append(f'  {precision:>16} {true["before"]} -> {true["after"]}')
    for name, stage in content['stages'].items():
        if stage['frames']:
            each = stage['seconds'] / stage['frames'] * 1e3
            lines.append(f'{name:18} {stage["seconds"]:7.1f} s  {each:6.1f} ms per frame')
    if speed := content['speed']:
        lines.append(
            f'enhance and write  {speed["enhance_and_write"]:.1f} frames/s; the model alone '
            f'{speed["model_alone"]:.1f} frames/s ({speed["share"]:.0%})'
        )
    return '\n'.join(lines)


def _write_csv(path: Path, rows: list[Row]) -> None:
    """One line for each frame; measures of both sides as brightness_before, brightness_after."""
    columns = ['topic', 'index', 'time', 'stamp', 'outcome', 'why', 'width', 'height', 'joint']
    columns += [*measures.PER_PAIR, 'harm_why', 'weight']
    columns += [f'{name}_{side}' for name in measures.PER_FRAME for side in SIDES]
    with path.open('w', newline='') as stream:
        writer = csv.DictWriter(stream, columns, extrasaction='ignore')
        writer.writeheader()
        for row in rows:
            flat = {
                f'{name}_{side}': value
                for side in SIDES
                for name, value in row.get(side, {}).items()
            }
            writer.writerow({**row, **flat})
