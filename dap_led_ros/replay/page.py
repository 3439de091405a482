"""The page of the report: HTML that needs no network, pictures and plotly.js inside."""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dap_led_ros.metrics import matching
from dap_led_ros.replay import measure as measuring
from dap_led_ros.replay import measures, verdict
from dap_led_ros.replay.measure import SIDES
from dap_led_ros.replay.pairs import pairs
from dap_led_ros.replay.tally import Tally
from dap_led_ros.replay.verdict import OUTCOMES
from dap_led_ros.replay.video import video_path

SHEET, SCRUB, THUMBNAILS = 4, 24, 60
"""Frames of each group of the contact sheet, and of each camera to scrub through and to hover."""
PICTURE_WIDTH, THUMBNAIL_WIDTH = 640, 200
GAP = 60.0
"""Seconds without a frame from which a timeline leaves them out."""
MOST_GAPS = 300
"""Most gaps and spans that are drawn."""
POINTS = 1500
"""Most points of a line; longer ones show means of neighbours."""
BOX = (255, 170, 60)
"""RGB of the boxes around detections."""

Key = tuple[str, int]
"""Topic and index of a frame."""


# --- pictures ----------------------------------------------------------------------------------


def choose(cameras: dict[str, Tally]) -> dict[str, list[Key]]:
    """Frames for the contact sheet, by group, each from another scene."""
    keys: list[Key] = []
    columns: list[list[np.ndarray]] = []
    for topic, camera in cameras.items():
        shown = np.flatnonzero(
            (camera['outcome'] == OUTCOMES.index('enhanced')) & ~np.isnan(camera['change'])
        )
        keys += [(topic, index) for index in shown.tolist()]
        more = np.nan_to_num(camera['detections_after'] - camera['detections_before'])
        columns.append([column[shown] for column in (camera['change'], camera['harm'], more)])
    if not keys:
        return {}
    change, harm, more = (np.concatenate(parts) for parts in zip(*columns))

    def group(values: np.ndarray, among: np.ndarray) -> list[Key]:
        order = np.argsort(values, kind='stable')
        apart = {topic: max(3, len(camera) // 10) for topic, camera in cameras.items()}
        return _apart((keys[place] for place in order if among[place]), apart)

    return {
        'changed most': group(-change, change >= 0),
        'changed least': group(change, change >= 0),
        'perhaps harmed': group(-harm, harm >= verdict.MATTERS),
        'detections differ': group(-np.abs(more), more != 0),
    }


def _apart(keys: Iterable[Key], apart: dict[str, int]) -> list[Key]:
    """The first few that are so many frames from one another: other scenes."""
    taken: list[Key] = []
    for topic, index in keys:
        if all(abs(other - index) > apart[topic] for of, other in taken if of == topic):
            taken.append((topic, index))
        if len(taken) == SHEET:
            break
    return taken


def _evenly(indices: np.ndarray, count: int) -> list[int]:
    places = np.linspace(0, len(indices) - 1, min(count, len(indices))).round().astype(int)
    return indices[np.unique(places)].tolist()


def _pictures(
    out: Path, journals: list[dict[str, Any]], wanted: dict[Key, set[int]]
) -> dict[tuple[str, int, int], list[str]]:
    """Data addresses of each side, by topic, index and width; objects are framed."""
    found = {}
    for journal in journals:
        here = {
            (topic, index)
            for topic, index in wanted
            if 0 <= index - journal['first'].get(topic, 0) < journal['read'].get(topic, 0)
        }
        if not here:
            continue
        rows = measuring.load(out, journal).get('frames', ())
        objects = {
            (row['topic'], row['index'], side): row.get(f'objects_{side}', ())
            for row in rows
            for side in SIDES
            if (row['topic'], row['index']) in here
        }
        for pair in pairs(out, journal, only=here):
            key = pair.row['topic'], pair.row['index']
            frames = [
                _framed(getattr(pair, side), matching.sure(objects.get((*key, side), ())))
                for side in SIDES
            ]
            for width in wanted[key]:
                found[(*key, width)] = [data_address(frame, width) for frame in frames]
    return found


def _framed(frame: np.ndarray, objects: list[Any]) -> np.ndarray:
    """The frame with a box around each object."""
    thickness = max(1, round(frame.shape[1] / 400))
    frame = frame.copy() if objects else np.ascontiguousarray(frame)
    for _, _, left, top, right, bottom in objects:
        corners = (round(left), round(top)), (round(right), round(bottom))
        cv2.rectangle(frame, *corners, BOX, thickness, cv2.LINE_AA)
    return frame


def data_address(frame: np.ndarray, width: int) -> str:
    """A frame as a JPEG inside the page, at most so wide."""
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
    'brightness': SIDES,
    'sharpness': SIDES,
    'inliers': SIDES,
    'vo_inliers': SIDES,
    'vo_rotation': SIDES,
    'vo_direction': SIDES,
    'detections': SIDES,
    'psnr': SIDES,
    'flicker': SIDES,
    'degradation': ('low_light', 'blur'),
    'gain': ('gain',),
    'latency': ('latency',),
}


def _timeline(camera: Tally, shown: np.ndarray) -> dict[str, Any]:
    """Lines of a camera over seconds, as long as the page can show, broken where frames miss.

    :param shown: indices of the frames.
    """
    times = camera['time'][shown]
    seconds, long_gaps = squeezed((times - times[0]) / 1e9)
    steps = np.diff(times)
    # A gap where the next frame is ten times later than usual.
    gaps = np.flatnonzero(steps > 10 * np.median(steps)) + 1 if len(steps) else []
    width = -(-(len(seconds) + len(gaps)) // POINTS)

    def thinned(values: np.ndarray) -> list[float | None]:
        values = np.insert(values, gaps, np.nan)
        values = np.pad(values, (0, -len(values) % width), constant_values=np.nan)
        chunks = values.reshape(-1, width)
        counts = (~np.isnan(chunks)).sum(axis=1)
        sums = np.nansum(chunks, axis=1)
        return [round(float(s / n), 4) if n else None for s, n in zip(sums, counts)]

    plots = {}
    for name, lines in TIMELINES.items():
        columns = {
            line: camera[f'{name}_{line}' if line in SIDES else line][shown] for line in lines
        }
        found = {
            line: thinned(values) for line, values in columns.items() if not np.isnan(values).all()
        }
        if found:
            measure = {**measures.PER_FRAME, **measures.PER_PAIR}.get(name)
            unit = f' ({measure.unit})' if measure and measure.unit else ''
            plots[name] = {'title': (measure.title if measure else name) + unit, 'lines': found}
    passed = camera['outcome'][shown] == OUTCOMES.index('passed_through')
    return {
        'seconds': thinned(seconds),
        'plots': plots,
        'each': width,
        'gaps': long_gaps,
        'passed': _spans(seconds, passed),
    }


def squeezed(seconds: np.ndarray) -> tuple[np.ndarray, list[dict[str, float]]]:
    """Seconds without long gaps, and where each was and how long.

    A gap of a minute or more, that is no usual distance of frames, leaves a fiftieth of the rest.
    """
    steps = np.diff(seconds)
    if not len(steps):
        return seconds, []
    long = steps > max(GAP, 10 * float(np.median(steps)))
    rest = max(float(steps[~long].sum()), 1.0)
    kept = np.where(long, 0.02 * rest, steps)
    at = np.concatenate([[0.0], np.cumsum(kept)])
    places = np.flatnonzero(long)
    return at, [
        {'at': float(at[n] + kept[n] / 2), 'seconds': float(steps[n])} for n in places[:MOST_GAPS]
    ]


def _placed(
    frames: list[dict[str, Any]], camera: Tally, shown: np.ndarray
) -> list[dict[str, Any]]:
    """Frames with their place on the timeline, `at`."""
    times = camera['time'][shown]
    places = dict(zip(shown.tolist(), squeezed((times - times[0]) / 1e9)[0].tolist()))
    return [{**frame, 'at': places[frame['index']]} for frame in frames]


def _spans(seconds: np.ndarray, which: np.ndarray) -> list[list[float]]:
    """Begin and end of the runs of frames that are true."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], which.astype(np.int8), [0]])))
    ends = np.append(seconds, seconds[-1:])
    spans = [[float(ends[a]), float(ends[b])] for a, b in edges.reshape(-1, 2)]
    return spans[:MOST_GAPS]


def write(
    out: Path, content: dict[str, Any], cameras: dict[str, Tally], journals: list[dict[str, Any]]
) -> None:
    """Write report.html.

    :param content: figures, as report.json has them.
    :param cameras: all frames by topic.
    """
    from plotly.offline import get_plotlyjs

    start = min((int(camera['time'][0]) for camera in cameras.values()), default=0)
    sheet = choose(cameras)
    shown = _shown(cameras)
    wanted: dict[Key, set[int]] = defaultdict(set)
    for key in (key for group in sheet.values() for key in group):
        wanted[key].add(PICTURE_WIDTH)
    for topic, (_, scrub, thumbnails) in shown.items():
        for index in scrub:
            wanted[topic, index].add(PICTURE_WIDTH)
        for index in thumbnails:
            wanted[topic, index].add(THUMBNAIL_WIDTH)
    images = _pictures(out, journals, wanted)

    def frames(topic: str, indices: list[int], width: int = PICTURE_WIDTH) -> list[dict[str, Any]]:
        return [
            {
                'topic': topic,
                'index': index,
                'seconds': round((int(cameras[topic]['time'][index]) - start) / 1e9, 3),
                **dict(zip(SIDES, sides)),
                'said': _said(cameras[topic], index),
            }
            for index in indices
            if (sides := images.get((topic, index, width)))
        ]

    page = environment().get_template('report.html')
    text = page.render(
        report=content,
        name=Path(content['bag']).name,
        groups={
            name: [found for topic, index in of for found in frames(topic, [index])]
            for name, of in sheet.items()
            if of
        },
        cameras={
            topic: {
                'timeline': _timeline(cameras[topic], indices),
                'video': _video(out, topic),
                'scrub': frames(topic, scrub),
                'thumbnails': _placed(
                    frames(topic, thumbnails, THUMBNAIL_WIDTH), cameras[topic], indices
                ),
            }
            for topic, (indices, scrub, thumbnails) in shown.items()
        },
        per_frame=measures.PER_FRAME,
        per_pair=measures.PER_PAIR,
        measured={name for of in content['topics'].values() for name in of['measures']},
        harmed=verdict.MATTERS,
        rule=verdict.RULE,
        plotly=get_plotlyjs(),
    )
    (out / 'report.html').write_text(text)


def _shown(cameras: dict[str, Tally]) -> dict[str, tuple[np.ndarray, list[int], list[int]]]:
    """Indices of decoded frames by topic: all, to scrub through, to point at."""
    shown = {}
    for topic, camera in cameras.items():
        decoded = (camera['outcome'] != OUTCOMES.index('refused')) & ~np.isnan(camera['width'])
        indices = np.flatnonzero(decoded)
        if len(indices):
            shown[topic] = (indices, _evenly(indices, SCRUB), _evenly(indices, THUMBNAILS))
    return shown


def _video(out: Path, topic: str) -> str:
    """Where the side-by-side video is, from the page; empty: there is none."""
    path = video_path(out, topic)
    return path.relative_to(out).as_posix() if path.is_file() else ''


def environment() -> Any:
    """Where the templates of pages are."""
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.PackageLoader('dap_led_ros.replay'),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters['figure'] = figure
    made.filters['duration'] = duration
    made.policies['json.dumps_kwargs'] = {'sort_keys': False}
    return made


def _said(camera: Tally, index: int) -> str:
    """What stands below a frame."""

    def value(name: str) -> float:
        return camera[name][index]

    said = []
    if not np.isnan(value('change')):
        said.append(f'changed by {value("change"):.0f} grey levels, gain {value("gain"):.1f}')
    if value('harm') >= verdict.MATTERS:
        said.append(f'{camera.losses[camera["loss"][index]]}: {value("harm"):.0f} %, to auto')
    if not np.isnan(value('detections_before')):
        before, after = (value(f'detections_{side}') for side in ('before', 'after'))
        said.append(f'detections {before:.0f} to {after:.0f}')
    return '; '.join(said)


def duration(seconds: float) -> str:
    """Seconds in words: 4 s, 3 min, 2.5 h, 12 days."""
    for unit, size in (('days', 86400), ('h', 3600), ('min', 60)):
        if seconds >= 2 * size:
            return f'{figure(seconds / size)} {unit}'
    return f'{figure(seconds)} s'


def figure(value: float | None) -> str:
    """A number with three significant digits, never in powers of ten."""
    if value is None or not np.isfinite(value):
        return '–'
    digits = 0
    value = value or 0.0  # no minus before nothing
    if value and abs(value) < 100 and value != int(value):
        digits = min(3, 2 - int(np.floor(np.log10(abs(value)))))
    return f'{value:,.{digits}f}'.replace(',', ' ').replace('-', '−')
