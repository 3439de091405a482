"""The page of the report: HTML that needs no network, pictures and plotly.js inside."""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dap_led_ros.evaluation import measures, segments
from dap_led_ros.evaluation.measuring import SIDES
from dap_led_ros.evaluation.pairs import pairs

HARMED = 10.0
"""Percent of harm from which a frame is shown as perhaps harmed."""
SHEET, SCRUB, THUMBNAILS = 4, 24, 60
"""Frames of each group of the contact sheet, and of each camera to scrub through and to hover."""
PICTURE_WIDTH, THUMBNAIL_WIDTH = 640, 200
POINTS = 1500
"""Most points of a line; longer ones show means of neighbours."""
BOX = (255, 170, 60)
"""RGB of the boxes around detections."""

Row = dict[str, Any]


# --- pictures ----------------------------------------------------------------------------------


def choose(rows: list[Row]) -> dict[str, list[Row]]:
    """Frames for the contact sheet, by group; no two of them neighbours."""
    shown = [row for row in rows if 'change' in row and row['outcome'] == 'enhanced']
    by_change = sorted(shown, key=lambda row: row['change'])
    harmed = sorted((r for r in shown if r['harm'] >= HARMED), key=lambda row: -row['harm'])
    differ = sorted(
        (row for row in shown if _more_objects(row)), key=lambda row: -abs(_more_objects(row))
    )
    return {
        'changed most': _apart(reversed(by_change)),
        'changed least': _apart(by_change),
        'perhaps harmed': _apart(harmed),
        'detections differ': _apart(differ),
    }


def _more_objects(row: Row) -> int:
    return len(measures.sure(row.get('objects_after', ()))) - len(
        measures.sure(row.get('objects_before', ()))
    )


def _apart(rows: Iterable[Row]) -> list[Row]:
    """The first few that are at least three frames from one another."""
    taken: list[Row] = []
    for row in rows:
        near = [r for r in taken if r['topic'] == row['topic']]
        if all(abs(r['index'] - row['index']) > 3 for r in near):
            taken.append(row)
        if len(taken) == SHEET:
            break
    return taken


def _evenly(rows: list[Row], count: int) -> list[Row]:
    places = np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int))
    return [rows[place] for place in places]


def _key(row: Row) -> tuple[str, int]:
    return row['topic'], row['index']


def _pictures(
    out: Path, wanted: dict[tuple[str, int], set[int]], rows: dict[tuple[str, int], Row]
) -> dict[tuple[str, int, int], list[str]]:
    """Data addresses of frames before and after, by topic, index and width; objects are framed."""
    found = {}
    for journal in segments.journals(out):
        if not any(_key(row) in wanted for row in journal['frames']):
            continue
        for pair in pairs(out, journal, only=wanted.keys()):
            key = _key(pair.row)
            for side in SIDES:
                frame = np.ascontiguousarray(getattr(pair, side))
                objects = measures.sure(rows[key].get(f'objects_{side}', ()))
                setattr(pair, side, _framed(frame, objects))
            for width in wanted[key]:
                found[(*key, width)] = [
                    _data_address(frame, width) for frame in (pair.before, pair.after)
                ]
    return found


def _framed(frame: np.ndarray, objects: list[Any]) -> np.ndarray:
    """The frame with a box around each object."""
    thickness = max(1, round(frame.shape[1] / 400))
    frame = frame.copy() if objects else frame
    for _, _, left, top, right, bottom in objects:
        corners = (round(left), round(top)), (round(right), round(bottom))
        cv2.rectangle(frame, *corners, BOX, thickness, cv2.LINE_AA)
    return frame


def _data_address(frame: np.ndarray, width: int) -> str:
    height = round(frame.shape[0] * width / frame.shape[1])
    if width < frame.shape[1]:
        frame = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
    quality = 82 if width > THUMBNAIL_WIDTH else 70
    _, data = cv2.imencode(
        '.jpg', cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )
    return 'data:image/jpeg;base64,' + base64.b64encode(data).decode()


# --- the page ----------------------------------------------------------------------------------

TIMELINES = {
    'brightness': ('before', 'after'),
    'sharpness': ('before', 'after'),
    'inliers': ('before', 'after'),
    'detections': ('before', 'after'),
    'psnr': ('before', 'after'),
    'flicker': ('before', 'after'),
    'degradation': ('low_light', 'blur'),
    'gain': ('gain',),
    'latency': ('latency',),
}


def _timeline(rows: list[Row], start: int) -> dict[str, Any]:
    """Lines of a camera over seconds, as long as the page can show, broken where frames miss."""
    rows = _with_gaps(rows)
    width = -(-len(rows) // POINTS)

    def means(values: list[float | None]) -> list[float | None]:
        chunks = [values[at : at + width] for at in range(0, len(values), width)]
        present = [[value for value in chunk if value is not None] for chunk in chunks]
        return [round(float(np.mean(c)), 4) if c else None for c in present]

    lines = {}
    for name, of in TIMELINES.items():
        found = {}
        for line in of:
            values = [
                row.get(line, {}).get(name) if line in SIDES else row.get(line) for row in rows
            ]
            if any(value is not None for value in values):
                found[line] = means(values)
        if found:
            measure = {**measures.PER_FRAME, **measures.PER_PAIR}.get(name)
            unit = f' ({measure.unit})' if measure and measure.unit else ''
            lines[name] = {'title': (measure.title if measure else name) + unit, 'lines': found}
    seconds = [(row['time'] - start) / 1e9 if row else None for row in rows]
    return {'seconds': means(seconds), 'plots': lines}


def _with_gaps(rows: list[Row]) -> list[Row]:
    """The rows with an empty one where the next frame is ten times later than usual."""
    steps = np.diff([row['time'] for row in rows])
    usual = np.median(steps) if len(steps) else 0
    broken = rows[:1]
    for step, row in zip(steps, rows[1:]):
        broken += [{}, row] if step > 10 * usual else [row]
    return broken


def write(out: Path, content: dict[str, Any], rows: list[Row]) -> None:
    """Write report.html.

    :param content: figures, as report.json has them.
    :param rows: all frames.
    """
    from plotly.offline import get_plotlyjs

    start = min((row['time'] for row in rows), default=0)
    shown = [row for row in rows if row['outcome'] != 'refused' and 'width' in row]
    sheet = choose(rows)
    wanted: dict[tuple[str, int], set[int]] = defaultdict(set)
    for group in sheet.values():
        for row in group:
            wanted[_key(row)].add(PICTURE_WIDTH)
    cameras = {}
    for topic in content['topics']:
        of_topic = [row for row in shown if row['topic'] == topic]
        if not of_topic:
            continue
        scrub, thumbnails = _evenly(of_topic, SCRUB), _evenly(of_topic, THUMBNAILS)
        for row in scrub:
            wanted[_key(row)].add(PICTURE_WIDTH)
        for row in thumbnails:
            wanted[_key(row)].add(THUMBNAIL_WIDTH)
        cameras[topic] = (of_topic, scrub, thumbnails)
    images = _pictures(out, wanted, {_key(row): row for row in rows})

    def frame(row: Row, width: int) -> dict[str, Any] | None:
        both = images.get((*_key(row), width))
        if both is None:
            return None
        seconds = round((row['time'] - start) / 1e9, 3)
        return {'seconds': seconds, 'before': both[0], 'after': both[1], **_said(row)}

    def frames(of: list[Row], width: int = PICTURE_WIDTH) -> list[dict[str, Any]]:
        return [found for row in of if (found := frame(row, width))]

    page = (
        environment()
        .get_template('report.html')
        .render(
            report=content,
            name=Path(content['bag']).name,
            groups={name: frames(of) for name, of in sheet.items() if of},
            cameras={
                topic: {
                    'timeline': _timeline(of_topic, start),
                    'scrub': frames(scrub),
                    'thumbnails': frames(thumbnails, THUMBNAIL_WIDTH),
                }
                for topic, (of_topic, scrub, thumbnails) in cameras.items()
            },
            per_frame=measures.PER_FRAME,
            per_pair=measures.PER_PAIR,
            measured={name for of in content['topics'].values() for name in of['measures']},
            harmed=HARMED,
            plotly=get_plotlyjs(),
        )
    )
    (out / 'report.html').write_text(page)


def environment() -> Any:
    """Where the templates of pages are."""
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.PackageLoader('dap_led_ros.evaluation'),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters['figure'] = figure
    made.policies['json.dumps_kwargs'] = {'sort_keys': False}
    return made


def _said(row: Row) -> dict[str, Any]:
    """What stands below a frame."""
    said = []
    if 'change' in row:
        said.append(f'changed by {row["change"]:.0f} grey levels, gain {row["gain"]:.1f}')
    if row.get('harm', 0) >= HARMED:
        said.append(f'{row["harm_why"]}: {row["harm"]:.0f} %')
    if 'objects_before' in row:
        before, after = (len(measures.sure(row[f'objects_{side}'])) for side in SIDES)
        said.append(f'detections {before} to {after}')
    return {'topic': row['topic'], 'index': row['index'], 'said': '; '.join(said)}


def figure(value: float | None) -> str:
    """A number with three significant digits, never in powers of ten."""
    if value is None or not np.isfinite(value):
        return '–'
    digits = 0
    if value and abs(value) < 100 and value != int(value):
        digits = min(3, 2 - int(np.floor(np.log10(abs(value)))))
    return f'{value:,.{digits}f}'.replace(',', ' ').replace('-', '−')
