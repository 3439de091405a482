"""Measure the frames of a run, before and after, segment by segment.

Every stage has a thread of its own and keeps what it needs from one frame of a camera to the next.
    OUT/segments/0.measures.json     rows of the segment's frames, and the tracks that ended
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
from tqdm import tqdm

from dap_led_ros.evaluation import measures, segments
from dap_led_ros.evaluation.background import in_background
from dap_led_ros.evaluation.pairs import Pair, pairs

SIDES = ('before', 'after')
_AHEAD = 4
"""Frames on their way through the stages."""

Row = dict[str, Any]
"""Values by measure; 'before' and 'after' hold those that are measured of both."""


class Basic:
    """Measures of every single frame, and of the pair."""

    def __init__(self) -> None:
        self._brightness: dict[tuple[str, str], float] = {}

    def measure(self, pair: Pair) -> Row:
        """Brightness to flicker, gain and change; PSNR and SSIM where there is a reference."""
        row: Row = {}
        for side in SIDES:
            frame = getattr(pair, side)
            row[side] = measures.basic(frame, measures.luma(frame))
            if pair.reference is not None:
                row[side] |= measures.full_reference(frame, pair.reference)
            key, brightness = (pair.row['topic'], side), row[side]['brightness']
            if key in self._brightness:
                row[side]['flicker'] = measures.flicker(brightness, self._brightness[key])
            self._brightness[key] = brightness
        row['gain'] = row['after']['brightness'] / max(row['before']['brightness'], 1e-6)
        pixels = pair.before.size
        row['change'] = cv2.norm(pair.before, pair.after, cv2.NORM_L1) / pixels
        return row


class Features:
    """ORB features, each camera and side with its own frame before."""

    def __init__(self) -> None:
        self._orb: dict[tuple[str, str], measures.Features] = defaultdict(measures.Features)

    def measure(self, pair: Pair) -> Row:
        """Keypoints, matches and inliers of both frames."""
        return {
            side: self._orb[pair.row['topic'], side].measure(measures.luma(getattr(pair, side)))
            for side in SIDES
        }


class Detection:
    """Objects in both frames, and how long each is followed."""

    def __init__(self, model: str, allow_pickle: bool) -> None:
        """Load the detector; errors are those of detection.yolo.Detector."""
        from dap_led_ros.detection.yolo import Detector

        self.model = model
        # Weak ones too: with a reference, the best threshold is chosen for each side.
        self._detector = Detector(model, allow_pickle=allow_pickle, confidence=measures.WEAKEST)
        self._tracks: dict[tuple[str, str], measures.Tracks] = defaultdict(measures.Tracks)
        self.ended: list[tuple[str, str, str, int]] = []
        """Topic, side, class and number of frames of tracks that have ended."""

    def measure(self, pair: Pair) -> Row:
        """Number of detections, mean confidence, boxes and numbers by class."""
        row: Row = {}
        for side in SIDES:
            found = self._detector.detect(getattr(pair, side))
            sure = found.scores.round(3) >= measures.SURE  # as _objects() has them
            key = pair.row['topic'], side
            self._note(key, self._tracks[key].follow(found.boxes[sure], found.class_ids[sure]))
            confidence = {'confidence': float(found.scores[sure].mean())} if sure.any() else {}
            row[side] = {'detections': float(sure.sum()), **confidence}
            # Only beside a reference are the weak ones of use.
            objects = _objects(found)
            row[f'objects_{side}'] = (
                objects if pair.reference is not None else measures.sure(objects)
            )
        if pair.reference is not None:
            row['objects_reference'] = _objects(self._detector.detect(pair.reference))
        return row

    def end(self) -> None:
        """End all tracks, with the recording."""
        for key, tracks in self._tracks.items():
            self._note(key, tracks.end())

    def _note(self, key: tuple[str, str], tracks: list[tuple[int, int]]) -> None:
        names = self._detector.names
        self.ended += [(*key, names[class_id], length) for class_id, length in tracks]


def _objects(found: Any) -> list[list[Any]]:
    """[class, score, left, top, right, bottom] of each detection."""
    return [
        [label, round(float(score), 3), *(round(float(edge), 1) for edge in box)]
        for label, score, box in zip(found.labels, found.scores, found.boxes)
    ]


def measure_run(
    out: Path,
    references: dict[str, str],
    features: bool,
    detection: Detection | None,
    stopped: threading.Event,
) -> bool:
    """Measure the segments that are not yet, or were with other stages; False when stopped."""
    detect = detection.model if detection else None
    asked = {'references': references, 'features': features, 'detect': detect}
    journals = segments.journals(out)
    todo = [
        (index, journal)
        for index, journal in enumerate(journals)
        if _load(out, index).get('asked') != asked
    ]
    if not todo:
        return True
    stages: dict[str, Any] = {'measures': Basic()}
    if features:
        stages['features'] = Features()
    if detection:
        stages['detection'] = detection
    total = sum(row['outcome'] != 'refused' for _, journal in todo for row in journal['frames'])
    with contextlib.ExitStack() as stack:
        bar = stack.enter_context(tqdm(total=total, unit='frame', desc='measure'))
        threads = {name: stack.enter_context(ThreadPoolExecutor(1)) for name in stages}
        for index, journal in todo:
            seconds: Counter[str] = Counter()
            rows = []
            found = _stream(pairs(out, journal, references), stages, threads, seconds)
            with contextlib.closing(found):
                for row in found:
                    if stopped.is_set():
                        return False
                    rows.append(row)
                    bar.update()
            ended: list[Any] = []
            if detection:
                if index == len(journals) - 1:
                    detection.end()
                ended, detection.ended = detection.ended, []
            segments.write_json(
                _path(out, index),
                {'asked': asked, 'seconds': seconds, 'frames': rows, 'tracks': ended},
            )
    return True


def _stream(
    found: Any,
    stages: dict[str, Any],
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
                        threads[name].submit(_timed, stage.measure, pair, name, seconds)
                        for name, stage in stages.items()
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
    row: Row = {'topic': pair.row['topic'], 'index': pair.row['index'], 'before': {}, 'after': {}}
    for result in results:
        found = result.result()
        for side in SIDES:
            row[side] |= found.pop(side)
        row |= found
    row['harm'], row['harm_why'] = measures.harm(row['before'], row['after'])
    return row


def _path(out: Path, index: int) -> Path:
    return out / 'segments' / f'{index}.measures.json'


def _load(out: Path, index: int) -> dict[str, Any]:
    path = _path(out, index)
    return json.loads(path.read_text()) if path.is_file() else {}


def load(out: Path) -> list[dict[str, Any]]:
    """What was measured of each segment; empty where nothing was."""
    return [_load(out, index) for index in range(len(segments.journals(out)))]
