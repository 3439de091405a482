"""A frame in tiles, for frames that do not fit into the memory: overlap, feathered seams.

Two things in DAP-LED see the whole frame, and a tile does not show them the whole frame:

* The heat-map of the prior is made once from the whole frame; each tile gets its part.
* Attention over channels averages products over all pixels. These averages add up over tiles: a
  first pass over the tiles collects them, a second one uses the whole frame's. In the first pass
  deeper layers still see what tiles alone made of shallower ones; README.md beside this file has
  the numbers of what is left, and of what tiles alone lose.
"""

from __future__ import annotations

import threading
from typing import Any, Protocol

import cv2
import numpy as np

OVERLAP = 64
"""Least pixels that neighbouring tiles share."""
_MULTIPLE = 16
_lock = threading.Lock()


class Guided(Protocol):
    """A guided network that runs on whole arrays, and shows its attention; see TorchBackend."""

    @property
    def multiple(self) -> int:
        """Of so many pixels are the sides to which it pads a frame."""

    def heatmap(self, planes: np.ndarray) -> np.ndarray:
        """(1, 3, H, W) to the heat-map (1, 1, h, w)."""

    def whole(self, frames: np.ndarray, heatmap: np.ndarray | None = None) -> np.ndarray:
        """(1, 3, H, W) to the enhanced one."""

    def attentions(self) -> list[Any]:
        """The modules whose averages over the frame tiles must share."""


class Averages:
    """A hook on attentions: collects what they average, then gives the whole frame's."""

    def __init__(self) -> None:
        self.giving = False
        self.share = np.ones((1, 1), np.float32)
        """(h, w) of a tile: how much each pixel counts; over all tiles 1 for each of the frame."""
        self._sums: dict[Any, tuple[list, float]] = {}

    def __call__(self, attention: Any, inputs: tuple, means: tuple) -> tuple | None:
        """Called after each average; what is returned takes its place."""
        if self.giving:
            sums, count = self._sums[attention]
            return tuple(one / count for one in sums)
        query, key = inputs
        share = self._at_level(query.shape[-1])
        root = query.new_tensor(np.sqrt(share))
        sums, count = self._sums.get(attention, ([0] * len(means), 0))
        means = attention.forward(query * root, key * root)
        sums = [one + mean * share.size for one, mean in zip(sums, means)]
        self._sums[attention] = sums, count + float(share.sum())
        return None

    def _at_level(self, count: int) -> np.ndarray:
        """The share of each of `count` cells of a level, row by row."""
        height, width = self.share.shape
        cell = round((height * width / count) ** 0.5)
        size = width // cell, height // cell
        return cv2.resize(self.share, size, interpolation=cv2.INTER_AREA).ravel()


def run_tiled(
    backend: Guided, planes: np.ndarray, tile: int, heatmap: np.ndarray | None = None
) -> np.ndarray:
    """What backend.whole() gives, from tiles of one size, at most `tile` pixels a side.

    Two passes: twice the time, and more for the overlap. One thread at a time.

    :param planes: (1, 3, H, W) float32 in [0, 1].
    :param heatmap: (1, 1, h, w) of the whole frame; made where none is given.
    """
    with _lock:  # the hooks below are on modules that all threads share
        return _run_tiled(backend, planes, tile, heatmap)


def _run_tiled(
    backend: Guided, planes: np.ndarray, tile: int, heatmap: np.ndarray | None
) -> np.ndarray:
    height, width = planes.shape[2:]
    if max(height, width) <= tile:
        return backend.whole(planes, heatmap)
    size = height, width
    heatmap = backend.heatmap(planes) if heatmap is None else heatmap
    # As the network does: every tile then begins and ends where cells of the whole frame do.
    border = [(0, -side % backend.multiple) for side in size]
    planes = np.pad(planes, [(0, 0), (0, 0), *border], mode='edge')
    height, width = planes.shape[2:]
    tiles = [(y, x) for y in spans(height, tile) for x in spans(width, tile)]

    def run(y: slice, x: slice) -> np.ndarray:
        part = np.ascontiguousarray(planes[:, :, y, x])
        return backend.whole(part, _part(heatmap, y, x, size))

    weight = np.zeros((height, width), np.float32)
    feathers = [_ramp(y, height)[:, None] * _ramp(x, width) for y, x in tiles]
    for (y, x), feather in zip(tiles, feathers):
        weight[y, x] += feather
    enhanced = np.zeros_like(planes)
    averages = Averages()
    hooks = [one.register_forward_hook(averages) for one in backend.attentions()]
    try:
        for (y, x), feather in zip(tiles, feathers):
            averages.share = feather / weight[y, x]
            run(y, x)
        averages.giving = True
        for (y, x), feather in zip(tiles, feathers):
            enhanced[:, :, y, x] += run(y, x) * (feather / weight[y, x])
    finally:
        for hook in hooks:
            hook.remove()
    return np.ascontiguousarray(enhanced[:, :, : size[0], : size[1]])


def spans(size: int, tile: int, overlap: int = OVERLAP) -> list[slice]:
    """Equal spans of at most `tile` that cover `size` and share at least `overlap`.

    Starts are multiples of 16, so that a network's cells are where they are in the whole frame.
    """
    if size <= tile:
        return [slice(0, size)]
    tile -= tile % _MULTIPLE
    count = -(-(size - overlap) // (tile - overlap - _MULTIPLE + 1))
    step = (size - tile) / (count - 1)
    starts = [int(i * step) // _MULTIPLE * _MULTIPLE for i in range(count - 1)]
    return [slice(start, start + tile) for start in [*starts, size - tile]]


def _ramp(span: slice, size: int) -> np.ndarray:
    """Weights along a span: rising and falling over OVERLAP, except at the frame's border."""
    steps = np.arange(span.stop - span.start, dtype=np.float32) + 0.5
    ramp = np.ones_like(steps)
    if span.start > 0:
        ramp = np.minimum(ramp, steps / OVERLAP)
    if span.stop < size:
        ramp = np.minimum(ramp, steps[::-1] / OVERLAP)
    return ramp


def _part(
    heatmap: np.ndarray | None, y: slice, x: slice, size: tuple[int, int]
) -> np.ndarray | None:
    """The heat-map (1, 1, h, w) of a tile, cut out of the whole frame's between its cells."""
    if heatmap is None:
        return None
    rows, columns = heatmap.shape[2:]
    scale_y, scale_x = rows / size[0], columns / size[1]
    # Pixel centres of the part in the whole map's own pixels.
    at_y = (y.start + (np.arange(rows) + 0.5) * (y.stop - y.start) / rows) * scale_y - 0.5
    at_x = (x.start + (np.arange(columns) + 0.5) * (x.stop - x.start) / columns) * scale_x - 0.5
    map_x, map_y = np.meshgrid(at_x.astype(np.float32), at_y.astype(np.float32))
    part = cv2.remap(
        heatmap[0, 0], map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return part[None, None]
