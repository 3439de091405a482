"""Measure the frames of a run, before and after, segment by segment.

    OUT/segments/0.measures.json     rows of the segment's frames

Every stage has a thread of its own. Segments can be measured apart: ORB matches begin with the
last frame of the segment before; what needs no picture (flicker, tracks), tally.py works out.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
from tqdm import tqdm

from dap_led_ros.metrics import matching
from dap_led_ros.metrics.luma import luma
from dap_led_ros.replay import measures, odometry, segments, verdict
from dap_led_ros.replay.background import in_background
from dap_led_ros.replay.no_reference import NoReference
from dap_led_ros.replay.pairs import Pair, pairs

SIDES = measures.SIDES
_AHEAD = 4
"""Frames on their way through the stages."""

Row = dict[str, Any]
"""Values by measure; those of SIDES hold what is measured of each."""


def basic(pair: Pair) -> Row:
    """Brightness to saturated, gain and change; PSNR and SSIM where there is a reference.

    Contrast, sharpness and noise of each side are as of a frame as bright as the one before.
    """
    row: Row = {}
    for side in SIDES:
        frame = getattr(pair, side)
        found = measures.basic(frame, luma(frame))
        row[side] = measures.at_brightness(found, row.get('before', found)['brightness'])
        if pair.reference is not None:
            row[side] |= measures.full_reference(frame, pair.reference)
    row['gain'] = row['after']['brightness'] / max(row['before']['brightness'], 1e-6)
    row['change'] = cv2.norm(pair.before, pair.after, cv2.NORM_L1) / pair.before.size
    return row


class Features:
    """ORB features, each camera and side with its own frame before."""

    def __init__(self) -> None:
        self._orb: dict[tuple[str, str], measures.Features] = defaultdict(measures.Features)

    def measure(self, pair: Pair) -> Row:
        """Keypoints, matches and inliers of each side."""
        return {
            side: self._orb[pair.row['topic'], side].measure(luma(getattr(pair, side)))
            for side in SIDES
        }


class Detection:
    """Objects of each side."""

    def __init__(self, model: str, allow_pickle: bool) -> None:
        """Load the detector; errors are those of detection.yolo.Detector."""
        from dap_led_ros.detection.yolo import Detector

        # Weak ones too: with a reference, the best threshold is chosen for each side.
        self._detector = Detector(model, allow_pickle=allow_pickle, confidence=matching.WEAKEST)
        self.model = model
        self.digest = hashlib.sha256(Path(model).expanduser().read_bytes()).hexdigest()[:12]

    def measure(self, pair: Pair) -> Row:
        """Number of detections, mean confidence and boxes."""
        row: Row = {}
        for side in SIDES:
            objects = _objects(self._detector.detect(getattr(pair, side)))
            sure = matching.sure(objects)
            row[side] = {'detections': float(len(sure))}
            if sure:
                row[side]['confidence'] = sum(thing[1] for thing in sure) / len(sure)
            # Only beside a reference are the weak ones of use.
            row[f'objects_{side}'] = objects if pair.reference is not None else sure
        if pair.reference is not None:
            row['objects_reference'] = _objects(self._detector.detect(pair.reference))
        return row


def _objects(found: Any) -> list[list[Any]]:
    """[class, score, left, top, right, bottom] of each detection."""
    return [
        [label, round(float(score), 3), *(round(float(edge), 1) for edge in box)]
        for label, score, box in zip(found.labels, found.scores, found.boxes)
    ]


@dataclass
class Measuring:
    """What to measure; the same everywhere in a run."""

    references: dict[str, str]
    """Topic of the reference by topic of the camera."""
    features: bool
    detection: Detection | None
    no_reference: NoReference | None
    known: odometry.Known | None = None
    """Of the bag, for odometry; None: it was not asked for."""

    @property
    def asked(self) -> dict[str, Any]:
        """What makes measures what they are."""
        return {
            'references': self.references,
            'features': self.features,
            'detect': self.detection.model if self.detection else None,
            'detector': self.detection.digest if self.detection else None,
            'odometry': self.known is not None,
            'no_reference': sorted(self.no_reference.names) if self.no_reference else [],
        }


def measure_run(
    out: Path, what: Measuring, todo: Collection[int], stopped: threading.Event
) -> bool:
    """Measure the segments that are not yet, or were with other stages; False when stopped."""
    asked = what.asked
    left = [
        journal
        for journal in filter(None, (segments.load(out, index) for index in todo))
        if load(out, journal).get('asked') != asked
    ]
    total = sum(sum(of['read'].values()) - sum(of['refused'].values()) for of in left)
    if not left:
        return True
    with tqdm(total=total, unit='frame', desc='measure') as bar:
        return all(_measure_segment(out, of['index'], what, asked, stopped, bar) for of in left)


def _measure_segment(
    out: Path,
    index: int,
    what: Measuring,
    asked: dict[str, Any],
    stopped: threading.Event,
    bar: tqdm,
) -> bool:
    journal = segments.load(out, index)
    stages: dict[str, Callable[[Pair], Row]] = {'measures': basic}
    if what.features:
        features = Features()
        for pair in _last_of(out, segments.load(out, index - 1)):
            features.measure(pair)
        stages['features'] = features.measure
    if what.known:
        stages['odometry'] = odometry.Odometry(what.known).measure
    if what.detection:
        stages['detection'] = what.detection.measure
    if what.no_reference:
        stages['without reference'] = what.no_reference.measure
    seconds: Counter[str] = Counter()
    rows = []
    with contextlib.ExitStack() as stack:
        threads = {name: stack.enter_context(ThreadPoolExecutor(1)) for name in stages}
        found = _stream(pairs(out, journal, what.references), stages, threads, seconds)
        for row in stack.enter_context(contextlib.closing(found)):
            if stopped.is_set():
                return False
            rows.append(row)
            bar.update()
    measured = {'asked': asked, 'seconds': seconds, 'frames': rows}
    segments.write_json(segments.measured_path(out, index), measured, None)
    return True


def load(out: Path, journal: dict[str, Any]) -> dict[str, Any]:
    """What was measured of a segment; empty where nothing was."""
    path = segments.measured_path(out, journal['index'])
    if not path.is_file():
        return {}
    measured = segments.read_json(path)
    segments.numbered(measured['frames'], journal)
    return measured


def _last_of(out: Path, journal: dict[str, Any] | None) -> Iterator[Pair]:
    """The last pair of each camera in a segment."""
    if journal is None:
        return
    rows = segments.frames(out, journal)
    last = {row['topic']: row['index'] for row in rows if row['outcome'] != 'refused'}
    yield from pairs(out, journal, only=set(last.items()))


def _stream(
    found: Any,
    stages: dict[str, Callable[[Pair], Row]],
    threads: dict[str, ThreadPoolExecutor],
    seconds: Counter[str],
) -> Iterator[Row]:
    """Rows of pairs; each stage takes them in their order, a few pairs ahead of the slowest."""
    under_way: deque[tuple[Pair, list[Future[Row]]]] = deque()
    with contextlib.closing(in_background(found)) as read:
        for pair in read:
            under_way.append(
                (
                    pair,
                    [
                        threads[name].submit(_timed, measure, pair, name, seconds)
                        for name, measure in stages.items()
                    ],
                )
            )
            if len(under_way) > _AHEAD:
                yield _finish(*under_way.popleft())
    while under_way:
        yield _finish(*under_way.popleft())


def _timed(measure: Callable[[Pair], Row], pair: Pair, name: str, seconds: Counter[str]) -> Row:
    start = time.perf_counter()
    row = measure(pair)
    seconds[name] += time.perf_counter() - start
    return row


def _finish(pair: Pair, results: list[Future[Row]]) -> Row:
    """The row of a pair from those of its stages."""
    row: Row = {'topic': pair.row['topic'], 'index': pair.row['index']}
    row |= {side: {} for side in SIDES}
    for result in results:
        found = result.result()
        for side in SIDES:
            row[side] |= found.pop(side, {})
        row |= found
    return row | verdict.of_frame(row)
