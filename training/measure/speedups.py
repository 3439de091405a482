"""What speed-ups lose and save: measure speedups MODEL [--others MODEL ...].

The sample night sequence goes through a model as it is, and through its speed-ups: tiles, a
heat-map that lasts, lower precision (of a DAP-LED checkpoint), other files (an int8 export). Each
row is the mean PSNR against the reference, what that is more than the model's own, and the PSNR
against the model's own frames; the last two are of the worst frame too. Milliseconds are of the
processor, one thread, medians: they compare within a run, on a busy machine too.

With --memory 1280x720 only what a frame of that size takes, whole and in tiles: the most bytes of
the network's tensors that are alive at once, in fp32. Nothing is computed for that.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dap_led_ros import sample
from dap_led_ros.checkpoints import checkpoint
from dap_led_ros.cli.arguments import size
from dap_led_ros.inference import Enhancer, weights
from dap_led_ros.inference.backends.torch import MIN_TILE
from dap_led_ros.inference.heatmap_cache import Heatmaps
from dap_led_training import configuration

Shortcut = Callable[[np.ndarray], np.ndarray]


def shortcuts(model: str, others: list[str], tile: int) -> dict[str, Shortcut]:
    """Ways to enhance a frame, by name; the first is the model as it is."""
    whole = Enhancer.load(model, 'cpu', 1)
    ways: dict[str, Shortcut] = {model: lambda frame: whole.network(frame)[0]}

    def add(name: str, enhancer: Enhancer, heatmaps: Heatmaps | None = None) -> None:
        ways[name] = lambda frame: enhancer.network(frame, heatmaps and heatmaps.of(frame))[0]

    if model.endswith('.safetensors'):
        if whole.guided:
            add(f'tiles of {tile}', Enhancer.load(model, 'cpu', 1, tile=tile))
            for every in (5, 10):
                add(f'prior every {every} frames', whole, Heatmaps(whole, every))
        for precision in ('bf16', 'fp16'):
            add(precision, Enhancer.load(model, 'cpu', 1, precision))
    for other in others:
        add(other, Enhancer.load(other, 'cpu', 1))
    return ways


def measure(ways: dict[str, Shortcut], count: int) -> Iterator[str]:
    """The lines of the table."""
    pairs = list(sample.night_sequence(count))
    results: dict[str, list[np.ndarray]] = {name: [] for name in ways}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for camera, _ in pairs:
        for name, way in ways.items():  # in turn: what else the machine does hits them alike
            start = time.thread_time()
            results[name].append(way(camera))
            times[name].append(time.thread_time() - start)
    own: list[np.ndarray] = []
    for name, enhanced in results.items():
        seconds = times[name]
        quality = np.array([cv2.PSNR(e, reference) for e, (_, reference) in zip(enhanced, pairs)])
        if not own:
            own, best = enhanced, quality
        alike = [min(cv2.PSNR(one, other), 99.0) for one, other in zip(enhanced, own)]
        change = quality - best
        worst = change[np.abs(change).argmax()]
        yield (
            f'{name:40} {quality.mean():6.2f} dB  {change.mean():+.3f} (worst {worst:+.3f})  '
            f'alike {np.mean(alike):5.1f} (worst {min(alike):5.1f})  '
            f'{np.median(seconds) * 1e3:7.0f} ms'
        )


class Peak(TorchDispatchMode):
    """While it is entered, the most bytes of tensors made in it that were alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.most = self._alive = 0
        self._known: weakref.WeakSet = weakref.WeakSet()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None) -> Any:
        """Called in place of each operation."""
        result = operation(*args, **(kwargs or {}))
        for one in tree_leaves(result):
            storage = one.untyped_storage() if isinstance(one, Tensor) else None
            if storage is not None and storage not in self._known:
                self._known.add(storage)
                self._alive += storage.nbytes()
                weakref.finalize(storage, self._freed, storage.nbytes())
        self.most = max(self.most, self._alive)
        return result

    def _freed(self, count: int) -> None:
        self._alive -= count


def memory(model: str, width: int, height: int) -> Iterator[str]:
    """The lines of --memory.

    :raises ValueError: the model is no DAP-LED's checkpoint.
    """
    path = weights.find(model)
    guided = checkpoint.load(path) if path.suffix == '.safetensors' else None
    if not isinstance(guided, checkpoint.Guided) or guided.network.config.embedding:
        raise ValueError(
            f'{model} runs on whole frames alone: --memory is for DAP-LED checkpoints'
        )
    network = guided.network.to('meta')
    heatmap = torch.empty(1, 1, 16, 16, device='meta')
    for tile in (0, 640, 512, 384, 256, MIN_TILE):
        sides = [min(tile or side, side) for side in (height, width)]
        with torch.inference_mode(), Peak() as peak:
            network(torch.empty(1, 3, *sides, device='meta'), heatmap)
        name = f'tiles of {tile}' if tile else f'whole {width}x{height}'
        yield f'{name:20} {peak.most / 1e9:6.2f} GB'


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and print the table."""
    parser = configuration.parser('measure speedups', __doc__)
    parser.add_argument('model')
    parser.add_argument('--others', nargs='+', default=[], metavar='MODEL')
    parser.add_argument('--tile', type=int, default=352)
    parser.add_argument('--frames', type=int, default=10)
    parser.add_argument('--memory', type=size, metavar='WxH', help='what a frame takes, no more')
    options = parser.parse_args(arguments)
    cv2.setNumThreads(1)
    lines = (
        memory(options.model, *options.memory)
        if options.memory
        else measure(shortcuts(options.model, options.others, options.tile), options.frames)
    )
    for line in lines:
        print(line, flush=True)
