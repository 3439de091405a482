"""What a detector gains: python -m dap_led_training measure detection DETECTOR [MODEL ...].

DETECTOR is a YOLOv8 of COCO as ONNX (1x3x640x640 in, 1x84x8400 out). What it finds on the sharp
photograph is the truth; the same photograph is degraded by the independent night (`independent`
and `lamps` of `measure frames`), enhanced, and looked at again. Objects match when their
classes are equal and their boxes overlap by half or more. Photographs that were never trained on,
or with --videos single frames of road clips, which have more objects: one in --every. Each is
degraded several times, --nights, by other draws.

"brightened" stands in for a brightening network that leaves the blur in, such as FLOL: bilateral
denoising, then a gain in linear light that makes every frame as bright as the training's
photographs are on average. "relit" makes each frame as bright as its own reference, which no
network can know.

F1 is over all objects. The intervals are of the differences from the input, from "brightened" and
from "relit": 95%, paired bootstrap over photographs. (Frames of one clip are alike, the more so
the closer they are: their interval is too narrow.)
"""

from __future__ import annotations

from itertools import islice
from typing import NamedTuple

import cv2
import numpy as np
from tqdm import tqdm

from dap_led_ros.photometry import linear_to_srgb, srgb_to_linear, to_uint8
from dap_led_ros.sources import open_source
from dap_led_training import configuration
from dap_led_training.data.photographs import FOLDERS, find_photographs
from dap_led_training.measure.methods import Method, load_methods
from dap_led_training.measure.night_sets import Pair, night_sets
from dap_led_training.measure.tables import aligned

SIDE = 640
CONFIDENCE, NMS_OVERLAP, MATCH_OVERLAP = 0.25, 0.7, 0.5
SETS = ('independent', 'lamps')
PEERS = ('input', 'brightened', 'relit')
"""What each method is compared with."""
USUAL_MEAN = 108.0
"""Grey levels, of the photographs that nano.yaml trains on."""
RESAMPLES = 10_000


class Found(NamedTuple):
    """Objects in one frame, the surest first."""

    boxes: np.ndarray
    """(N, 4): left, top, width, height in pixels of the frame."""
    classes: np.ndarray
    """(N,)."""


class Yolo:
    """A YOLOv8 in ONNX Runtime."""

    def __init__(self, path: str) -> None:
        """Load it.

        :raises ValueError: the file is no such detector.
        """
        import onnxruntime

        try:
            self._session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
        except Exception as error:  # ONNX Runtime raises many classes of its own
            raise ValueError(f'{path} cannot be loaded as a detector: {error}') from None
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or inputs[0].shape != [1, 3, SIDE, SIDE]:
            raise ValueError(f'{path} is no detector of 1x3x{SIDE}x{SIDE}: export YOLOv8 to ONNX')
        self._input = inputs[0].name

    def find(self, frame: np.ndarray) -> Found:
        """Objects in an (H, W, 3) uint8 RGB frame."""
        scale = SIDE / max(frame.shape[:2])
        small = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
        square = np.full((SIDE, SIDE, 3), 114, np.uint8)
        top, left = ((SIDE - side) // 2 for side in small.shape[:2])
        square[top : top + small.shape[0], left : left + small.shape[1]] = small
        tensor = np.ascontiguousarray(square.transpose(2, 0, 1)[None], np.float32) / 255
        rows = self._session.run(None, {self._input: tensor})[0][0].T
        classes, scores = rows[:, 4:].argmax(1), rows[:, 4:].max(1)
        sure = scores > CONFIDENCE
        boxes, classes, scores = rows[sure, :4], classes[sure], scores[sure]
        boxes[:, :2] -= boxes[:, 2:] / 2 + (left, top)
        boxes /= scale
        kept = cv2.dnn.NMSBoxesBatched(
            boxes.tolist(), scores.tolist(), classes.tolist(), CONFIDENCE, NMS_OVERLAP
        )
        kept = np.array(kept, int).reshape(-1)
        kept = kept[np.argsort(-scores[kept])]
        return Found(boxes[kept], classes[kept])


def matches(found: Found, truth: Found) -> tuple[int, int, int]:
    """Hits, false alarms and misses; each true object is found once, by the surest box."""
    free, hits = set(range(len(truth.boxes))), 0
    for box, kind in zip(*found):
        overlaps = {i: _overlap(box, truth.boxes[i]) for i in free if truth.classes[i] == kind}
        best = max(overlaps, key=overlaps.get, default=None)
        if best is not None and overlaps[best] >= MATCH_OVERLAP:
            free.remove(best)
            hits += 1
    return hits, len(found.boxes) - hits, len(free)


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two boxes (left, top, width, height)."""
    low = np.maximum(one[:2], other[:2])
    high = np.minimum(one[:2] + one[2:], other[:2] + other[2:])
    shared = float(np.maximum(high - low, 0).prod())
    return shared / float(one[2:].prod() + other[2:].prod() - shared)


def f1(counts: np.ndarray) -> np.ndarray:
    """Of hits, false alarms and misses, summed: (..., photographs, 3) -> (...)."""
    hits, alarms, misses = np.moveaxis(counts.sum(-2), -1, 0)
    return 2 * hits / np.maximum(2 * hits + alarms + misses, 1)


def interval(counts: np.ndarray, others: np.ndarray) -> tuple[float, float]:
    """95% of the difference in F1 between two methods, by resampling photographs."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(counts), size=(RESAMPLES, len(counts)))
    low, high = np.percentile(f1(counts[drawn]) - f1(others[drawn]), (2.5, 97.5))
    return float(low), float(high)


def brightened(frame: np.ndarray, wanted: float) -> np.ndarray:
    """Denoised and of the mean wanted, in grey levels, blur left in; see the module."""
    light = srgb_to_linear(cv2.bilateralFilter(frame, 7, 20, 3))
    low, high = 1.0, 200.0
    for _ in range(12):
        gain = (low * high) ** 0.5
        bright = to_uint8(linear_to_srgb(light * gain))
        low, high = (gain, high) if bright.mean() < wanted else (low, gain)
    return bright


def measure(
    detector: Yolo, methods: dict[str, Method], sets: dict[str, list[Pair]], relit: bool = False
) -> dict[str, dict[str, np.ndarray]]:
    """Hits, false alarms and misses on pairs with objects, for each set and method.

    :param relit: measure "relit" as well, which knows the reference.
    :returns: arrays (pairs, 3); `both` is the sum over the sets.
    """
    # The set with lamps has them in its reference; the truth is the photograph without.
    truth = [detector.find(reference) for _, reference in sets[SETS[0]]]
    measured = [*methods, 'relit'] if relit else [*methods]
    result = {}
    for name in SETS:
        counts: dict[str, list] = {key: [] for key in measured}
        for (degraded, reference), objects in zip(tqdm(sets[name], name), truth):
            if not len(objects.boxes):
                continue
            frames = {key: method(degraded) for key, method in methods.items()}
            if relit:
                frames['relit'] = brightened(degraded, reference.mean())
            for key, frame in frames.items():
                counts[key].append(matches(detector.find(frame), objects))
        result[name] = {key: np.array(rows) for key, rows in counts.items()}
    return result | {
        'both': {key: sum(counts[key] for counts in result.values()) for key in counts}
    }


def per_photograph(rows: np.ndarray, nights: int) -> np.ndarray:
    """Counts of all pairs, night after night, to those of each photograph: (photographs, 3)."""
    return rows.reshape(nights, -1, 3).sum(0)


def table(measured: dict[str, np.ndarray]) -> str:
    """The printed form of one set; all of PEERS are among the methods."""
    rows = [['', 'F1', 'hits', 'false alarms', 'misses', *(f'less {peer}' for peer in PEERS)]]
    for name, counts in measured.items():
        differences = [
            ''
            if name == other
            else '{:+.2f} to {:+.2f}'.format(*interval(counts, measured[other]))
            for other in PEERS
        ]
        rows.append(
            [name, f'{f1(counts):.3f}', *(str(int(n)) for n in counts.sum(0)), *differences]
        )
    return aligned(rows)


def main(arguments: list[str] | None = None) -> None:
    """Print a table for each set."""
    parser = configuration.parser('measure detection', __doc__)
    parser.add_argument('detector', metavar='DETECTOR')
    parser.add_argument('models', nargs='*', metavar='MODEL', help='default: nano')
    parser.add_argument('--photographs', nargs='+', metavar='FOLDER')
    parser.add_argument('--videos', nargs='+', metavar='FILE', help='in place of photographs')
    parser.add_argument('--every', type=int, default=8, help='of their frames; default: 8')
    parser.add_argument('--nights', type=int, default=3, help='of each photograph; default: 3')
    options = parser.parse_args(arguments)
    if options.nights < 1:
        parser.error('--nights: give 1 or more')
    folders = options.photographs or FOLDERS
    if options.videos:
        clips = (open_source(path).frames for path in options.videos)
        photographs = [f for clip in clips for f in islice(clip, 0, None, options.every)]
    else:
        photographs = find_photographs(folders, validation=True)
    methods = load_methods(options.models or ['nano'])
    methods['brightened'] = lambda frame: brightened(frame, USUAL_MEAN)
    sets = night_sets(photographs * options.nights)  # another place, another night
    measured = measure(Yolo(options.detector), methods, sets, relit=True)
    for name, found in measured.items():
        counts = {key: per_photograph(rows, options.nights) for key, rows in found.items()}
        some = counts['input']
        objects = some[:, 0] + some[:, 2]
        print(
            f'\n{name}: {objects.sum()} objects on {len(objects)} of {len(photographs)} '
            f'photographs, 640x480, {options.nights} nights of each; 95% intervals'
        )
        print(table(counts))
