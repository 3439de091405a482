"""What enhancement did to a recording, in figures: report.json, report.csv, and page.py's page."""

from __future__ import annotations

import csv
import shlex
from pathlib import Path
from typing import Any

import numpy as np

from dap_led_ros.metrics import intervals, matching
from dap_led_ros.replay import measures, no_reference, page, segments, tally, verdict
from dap_led_ros.replay.measure import SIDES
from dap_led_ros.replay.tally import Tally
from dap_led_ros.replay.verdict import OUTCOMES
from dap_led_ros.replay.video import cost_path

REASONS = 10
"""Most reasons, why frames were not enhanced, that are listed."""


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
    journals = segments.journals(out)
    columns = ['topic', 'index', 'time', 'stamp', 'outcome', 'why', 'width', 'height', 'joint']
    columns += [*measures.PER_PAIR, 'help_why', 'harm_why', 'weight']
    columns += [f'{name}_{side}' for name in measures.PER_FRAME for side in SIDES]
    with (out / 'report.csv').open('w', newline='') as stream:
        writer = csv.DictWriter(stream, columns, extrasaction='ignore')
        writer.writeheader()
        cameras, measured = tally.read(out, journals, writer.writerow)
    content = describe(out, cameras, journals, measured)
    segments.write_json(out / 'report.json', content)
    page.write(out, content, cameras, journals)
    return content


# --- figures -----------------------------------------------------------------------------------


def describe(
    out: Path,
    cameras: dict[str, Tally],
    journals: list[dict[str, Any]],
    measured: list[dict[str, Any]],
) -> dict[str, Any]:
    """All figures of the report, without pictures.

    :param cameras: frames by topic, and `measured`: as tally.read() gives them.
    """
    run = segments.read_json(out / 'run.json')
    trouble = list(dict.fromkeys(line for journal in journals for line in journal['trouble']))
    if sum(journal['whole'] for journal in journals) < len(run['parts']):
        trouble.append('the run was interrupted: not all frames are in it')
    elif not all('asked' in part for part in measured):
        trouble.append('the run was interrupted: not all frames were measured')
    asked = next((part['asked'] for part in measured if 'asked' in part), {})
    for camera, reference in asked.get('references', {}).items():
        if camera not in cameras:
            continue
        psnr = cameras[camera]['psnr_before'][~np.isnan(cameras[camera]['brightness_before'])]
        if lacking := int(np.isnan(psnr).sum()):
            trouble.append(
                f'{lacking} of {len(psnr)} frames of {camera} have no frame of {reference} with '
                'their stamp and size'
            )
    return {
        'bag': run['bag'],
        'model': run['model'],
        'ran': _ran(out, journals),
        'command': _command(out, run, asked),
        'asked': asked,
        'trouble': trouble,
        'others': run.get('others', {}),
        'limits': run.get('limits', []) if asked.get('odometry') else [],
        'missing': no_reference.available()[1] if run['no_reference'] else [],
        'topics': {topic: _of_camera(camera) for topic, camera in cameras.items()},
        'stages': _stages(out, journals, measured),
        'speed': _speed(out),
    }


def _of_camera(camera: Tally) -> dict[str, Any]:
    """The figures of one camera; `unchanged` is a part of those enhanced."""
    frames = {name: int((camera['outcome'] == place).sum()) for place, name in enumerate(OUTCOMES)}
    judged = verdict.of_camera(camera)
    return {
        'sentence': verdict.sentence(judged),
        'verdict': judged,
        'frames': {'read': len(camera), **frames},
        'unchanged': int(verdict.unchanged_frames(camera).sum()),
        'why': dict(camera.why.most_common(REASONS)),
        'sizes': dict(camera.sizes),
        'measures': _summaries(camera),
        'classes': _classes(camera),
        'true': _true(camera),
    }


def _ran(out: Path, journals: list[dict[str, Any]]) -> dict[str, Any]:
    """What really ran, where, when, and for how long: each word once."""
    words = {
        name: ', '.join(dict.fromkeys(of['ran'][name] for of in journals if 'ran' in of))
        for name in ('model', 'provider', 'machine', 'versions')
    }
    sessions = segments.sessions(out)
    began = sessions[0]['began'] if sessions else ''
    return {**words, 'began': began, 'seconds': sum(of['seconds'] for of in sessions)}


def _summaries(camera: Tally) -> dict[str, dict[str, Any]]:
    """Means over the frames that were enhanced, and how they differ with a 95 % interval."""
    enhanced = camera['outcome'] == OUTCOMES.index('enhanced')
    found: dict[str, dict[str, Any]] = {}
    for name in measures.PER_FRAME:
        before, auto, after = (camera[f'{name}_{side}'][enhanced] for side in SIDES)
        both = ~np.isnan(before) & ~np.isnan(after)
        if both.any():
            difference = intervals.paired(before[both], after[both])
            found[name] = {
                'before': float(before[both].mean()),
                'after': float(after[both].mean()),
                **_interval(difference),
                'frames': difference.count,
            }
            both &= ~np.isnan(auto)
            if both.any():
                found[name]['auto'] = float(auto[both].mean())
                found[name]['own'] = _interval(intervals.paired(auto[both], after[both]))
    for name in measures.PER_PAIR:
        values = camera[name][enhanced]
        values = values[~np.isnan(values)]
        if len(values):
            median, most = np.percentile(values, [50, 95])
            found[name] = {
                'median': float(median),
                'p95': float(most),
                'max': float(values.max()),
                'frames': len(values),
            }
    return found


def _interval(difference: intervals.Paired) -> dict[str, float | None]:
    """A difference and its interval; one frame alone has none."""
    several = difference.count > 1
    return {
        'difference': difference.mean,
        'low': difference.low if several else None,
        'high': difference.high if several else None,
    }


def _classes(camera: Tally) -> dict[str, Any]:
    """Detections, mean confidence and mean length of tracks, by class and side."""
    found: dict[str, dict[str, Any]] = {
        label: {side: {'detections': 0, 'confidence': None, 'track': None} for side in SIDES}
        for _, label in camera.scores
    }
    for (side, label), (count, scores) in camera.scores.items():
        tracks, length = camera.lengths[side, label]
        found[label][side] = {
            'detections': count,
            'confidence': scores / count,
            'track': length / tracks,
        }
    return dict(sorted(found.items(), key=lambda item: -item[1]['after']['detections']))


def _true(camera: Tally) -> dict[str, Any]:
    """True detections before and after, at equal precision; empty without a reference."""
    if not camera.with_reference:
        return {}
    return {
        'objects': camera.objects,
        'at': {
            f'{100 * precision:.0f} %': {
                side: matching.most_true(camera.judged[side], precision) for side in SIDES
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
            add(label, sum(journal['read'].values()), journal['seconds'][name])
    for part in measured:
        for name, seconds in part.get('seconds', {}).items():
            add(name, part['frames'], seconds)
    if cost_path(out).is_file():
        stages['video'] = segments.read_json(cost_path(out))
    return stages


def _speed(out: Path) -> dict[str, float]:
    """Enhanced frames per second of the run, and of the model alone on the same frames.

    The model's rate is the median of times before and after the run. CPU time says the same of a
    machine that was busy with other things.
    """
    path = speed_path(out)
    sessions = segments.read_json(path) if path.is_file() else []
    total = {name: sum(session[name] for session in sessions) for name in _SPEED}
    if not sessions or not total['frames']:
        return {}
    return {
        'enhance_and_write': total['frames'] / total['wall'],
        'model_alone': total['frames'] / total['alone'],
        'share': total['alone'] / total['wall'],
        'cpu_share': total['alone_cpu'] / total['cpu'],
    }


_SPEED = ('frames', 'wall', 'cpu', 'alone', 'alone_cpu')


def speed_path(out: Path) -> Path:
    """Where each session of a run adds what the model would have taken alone for its frames."""
    return out / 'segments' / 'speed.json'


def _command(out: Path, run: dict[str, Any], asked: dict[str, Any]) -> str:
    """The command that makes this report."""
    words = ['dap-led', 'replay', run['bag'], '--out', str(out), '--model', run['model']]
    for topic in run['topics']:
        words += ['--topic', topic]
    if run['format']:
        words += ['--format', run['format']]
    if run['humble']:
        words.append('--humble')
    for camera, reference in asked.get('references', {}).items():
        words += ['--reference', f'{camera}={reference}']
    if asked.get('detect'):
        words += ['--detect', asked['detect']]
        words += ['--allow-pickle'] * asked['detect'].endswith('.pt')
    if asked.get('odometry'):
        words.append('--odometry')
    if not asked.get('features', True):
        words.append('--no-features')
    if not run['no_reference']:
        words.append('--no-iqa')
    return shlex.join(words)


_IN_SHORT = ('brightness', 'inliers', 'vo_inliers', 'vo_tracked', 'vo_rotation', 'vo_direction')
_IN_SHORT += ('detections', 'psnr')


def counted(of: dict[str, Any]) -> str:
    """What became of a camera's frames, in one line."""
    words = []
    for name, count in of['frames'].items():
        unchanged = name == 'enhanced' and of['unchanged']
        words.append(
            f'{count} {name.replace("_", " ")}'
            + (f' ({of["unchanged"]} of them unchanged)' if unchanged else '')
        )
    return ', '.join(words)


def summary(content: dict[str, Any]) -> str:
    """A few lines for the terminal."""
    lines = []
    for topic, of in content['topics'].items():
        lines.append(f'{topic}: {of["sentence"]}')
        lines.append(f'  {counted(of)}')
        for name in _IN_SHORT:
            if (values := of['measures'].get(name)) is not None:
                title = measures.PER_FRAME[name].title
                auto = f' (auto {values["auto"]:.4g})' if 'auto' in values else ''
                lines.append(f'  {title:24} {values["before"]:.4g} -> {values["after"]:.4g}{auto}')
        if of['true']:
            lines.append(f'  true detections of {of["true"]["objects"]}, at equal precision:')
        for precision, true in of['true'].get('at', {}).items():
            lines.append(
                f'  {precision:>16} {true["before"]} -> {true["after"]} (auto {true["auto"]})'
            )
    for name, stage in content['stages'].items():
        if stage['frames']:
            each = stage['seconds'] / stage['frames'] * 1e3
            lines.append(f'{name:18} {stage["seconds"]:7.1f} s  {each:6.1f} ms per frame')
    if speed := content['speed']:
        lines.append(
            f'enhance and write  {speed["enhance_and_write"]:.1f} frames/s; the model alone '
            f'{speed["model_alone"]:.1f} frames/s ({speed["share"]:.0%}; by CPU time '
            f'{speed["cpu_share"]:.0%})'
        )
    lines += [
        f'not enhanced       {topic}: {why}'
        for topic, why in content['others'].items()
        if not why.endswith(('is no picture', 'not asked for'))
    ]
    lines += [f'not measured       {line}' for line in content['missing']]
    lines += [f'limits             {line}' for line in content['limits']]
    return '\n'.join(lines)
