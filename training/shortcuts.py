"""What shortcuts lose: python -m dap_led_training.shortcuts MODEL [--others MODEL ...].

The sample night sequence goes through a model as it is, and through its shortcuts: tiles, a
heat-map that lasts, lower precision (of a DAP-LED checkpoint), other files (an int8 export). Each
row is the mean PSNR against the reference, what that is more than the model's own, and the PSNR
against the model's own frames; the last two are of the worst frame too. Milliseconds are of the
processor, one thread, medians: they compare within a run, on a busy machine too.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator

import cv2
import numpy as np

from dap_led_ros import sample
from dap_led_ros.inference import Enhancer
from dap_led_ros.inference.heatmaps import Heatmaps

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
    own: list[np.ndarray] = []
    pairs = list(sample.night_sequence(count))
    for name, way in ways.items():
        enhanced, seconds = [], []
        for camera, _ in pairs:
            start = time.thread_time()
            enhanced.append(way(camera))
            seconds.append(time.thread_time() - start)
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


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(
        prog='dap_led_training.shortcuts',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('model')
    parser.add_argument('--others', nargs='+', default=[], metavar='MODEL')
    parser.add_argument('--tile', type=int, default=352)
    parser.add_argument('--frames', type=int, default=10)
    options = parser.parse_args(arguments)
    cv2.setNumThreads(1)
    for line in measure(shortcuts(options.model, options.others, options.tile), options.frames):
        print(line, flush=True)


if __name__ == '__main__':
    main()
