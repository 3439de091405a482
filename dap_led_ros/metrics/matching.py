"""Boxes that detectors find: overlap, true ones, and tracks over frames."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

WEAKEST, SURE, TRUE = 0.05, 0.25, 0.5
"""Scores from which detections are kept, counted, and on the reference taken for true."""


class Tracks:
    """Detections followed from frame to frame: the same class, overlap of at least 0.3 (IoU)."""

    def __init__(self) -> None:
        """Begin without objects."""
        self._alive: list[tuple[Any, np.ndarray, int]] = []

    def follow(self, boxes: Iterable[np.ndarray], labels: Iterable[Any]) -> list[tuple[Any, int]]:
        """Take a frame's detections; (label, frames) of the tracks that ended before it."""
        grown: list[tuple[Any, np.ndarray, int]] = []
        free = list(self._alive)
        for box, label in zip(boxes, labels):
            same = [track for track in free if track[0] == label]
            overlaps = [iou(box, track[1]) for track in same]
            if overlaps and max(overlaps) >= 0.3:
                track = same[int(np.argmax(overlaps))]
                free = [other for other in free if other is not track]
                grown.append((label, box, track[2] + 1))
            else:
                grown.append((label, box, 1))
        self._alive = grown
        return [(label, length) for label, _, length in free]

    def end(self) -> list[tuple[Any, int]]:
        """(label, frames) of the tracks that were still going on."""
        return self.follow([], [])


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes (left, top, right, bottom)."""
    size = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    if (size <= 0).any():
        return 0.0
    common = float(size.prod())
    return common / (float((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod()) - common)


def sure(objects: Sequence[Sequence[Any]]) -> list[Sequence[Any]]:
    """The detections that count, of [class, score, left, top, right, bottom]."""
    return [thing for thing in objects if thing[1] >= SURE]


def true_positives(
    found: Sequence[Sequence[Any]], truth: Sequence[Sequence[Any]]
) -> list[tuple[float, bool]]:
    """Score of each detection of a frame and whether it is true.

    True is one that overlaps by at least half (IoU) with an object of its class on the reference,
    each of which is found once; the surest choose first.

    :param found: [class, score, left, top, right, bottom] of each, and of the reference's objects.
    """
    free = [thing for thing in truth if thing[1] >= TRUE]
    judged = []
    for thing in sorted(found, key=lambda thing: -thing[1]):
        same = [other for other in free if other[0] == thing[0]]
        overlaps = [iou(np.array(thing[2:]), np.array(other[2:])) for other in same]
        hit = bool(overlaps) and max(overlaps) >= 0.5
        if hit:
            free.remove(same[int(np.argmax(overlaps))])
        judged.append((thing[1], hit))
    return judged


def most_true(judged: Counter[tuple[float, bool]], precision: float) -> int:
    """The most true detections that any threshold of the score lets through at this precision.

    :param judged: how many detections have a score and are true or not.
    """
    most = hits = found = 0
    for score in sorted({score for score, _ in judged}, reverse=True):
        hits += judged[score, True]
        found += judged[score, True] + judged[score, False]
        if hits / found >= precision:
            most = hits
    return most
