"""Which runtime is the fastest on this machine: measured once for a model, and remembered.

Runtimes, and levels of ONNX Runtime's optimisation, take turns frame by frame. On some processors
one of them takes half of another's time, and which is not to be told from the processor's name.
It is a process of its own that measures: what runtimes leave in memory goes with it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from dap_led_ros.inference import weights
from dap_led_ros.inference.backends.onnx import (
    OPENVINO,
    PROVIDERS,
    RUNTIMES,
    cache_folder,
    default_threads,
    wanted_providers,
)
from dap_led_ros.inference.benchmark import machine
from dap_led_ros.inference.enhancer import Enhancer

PLAIN = 'cpu'
"""ONNX Runtime as it is: what the others have to beat."""
SIZE = (640, 480)
BUDGET = 2.0
"""Seconds of running in all; loading and compiling come on top."""
ROUNDS, LEAST_ROUNDS = 20, 3
GAIN = 0.9
"""Of the plain runtime's time; what gains less than a tenth is not worth another's memory."""
PATIENCE = 120.0
"""Seconds for loading, compiling and running in all."""
LEAST_LIKENESS = 30.0
"""PSNR in dB against the plain runtime, below which a runtime is wrong."""

Load = Callable[[str, str, int], Enhancer]


@dataclass(frozen=True)
class Choice:
    """A device for Enhancer.load(), and what it was chosen by."""

    device: str
    milliseconds: dict[str, float]
    """Median of a frame, conversions included, by device."""
    size: str
    rounds: int
    """Frames of each."""
    remembered: bool = False

    def __str__(self) -> str:
        """In one line: the device, and all times."""
        times = ', '.join(f'{name} {value:.1f} ms' for name, value in self.milliseconds.items())
        how = 'remembered' if self.remembered else 'measured now'
        return f'{self.device} of {times} at {self.size}, {how}'


def choose(
    model: str,
    threads: int = 0,
    size: tuple[int, int] = SIZE,
    load: Load | None = None,
) -> Choice | None:
    """The fastest device for a model on a CPU, from memory or measured now.

    :param model, threads: as for Enhancer.load().
    :param size: width and height of the frames.
    :param load: makes the enhancer of (model, device, threads), to measure in this process.
    :returns: None where there is nothing to choose: no .onnx file, one that does not run, a GPU
        for ONNX Runtime, or a choice that could not be remembered, by DAP_LED_CACHE=off.
    """
    try:
        path = weights.in_int8(model) or weights.find(model)
        if path.suffix != '.onnx' or wanted_providers('auto') != PROVIDERS[PLAIN]:
            return None
        memory = cache_folder() / 'fastest' / f'{_key(path, threads, size)}.json'
    except (OSError, RuntimeError):
        return None
    try:
        return Choice(**json.loads(memory.read_text()), remembered=True)
    except (OSError, ValueError, TypeError):
        pass
    try:
        where = _apart if load is None else partial(measure, load=load)
        choice = where(model, threads, size)
    except Exception:  # whoever loads the model is told what is wrong with it
        return None
    if choice.rounds < LEAST_ROUNDS:  # on a busy machine, say: another start may tell
        return choice
    kept = {name: value for name, value in asdict(choice).items() if name != 'remembered'}
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        part = memory.with_suffix(f'.{os.getpid()}')
        part.write_text(json.dumps(kept))
        os.replace(part, memory)
    except OSError:  # it is measured again
        pass
    return choice


def _apart(model: str, threads: int, size: tuple[int, int]) -> Choice:
    """As measure(), in a process of its own."""
    arguments = [model, str(threads), *map(str, size)]
    done = subprocess.run(
        [sys.executable, '-m', 'dap_led_ros.inference.fastest', *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    return Choice(**json.loads(done.stdout.splitlines()[-1]))


def measure(model: str, threads: int, size: tuple[int, int], load: Load = Enhancer.load) -> Choice:
    """Let all that is installed run in turns for BUDGET at the most.

    One that fails or gives another picture is left out. Where the time was too short to tell, or
    nothing gains more than what chance does, the plain runtime is taken.

    :returns: a choice; with fewer rounds than LEAST_ROUNDS it is none to remember.
    """
    runtimes = [one for one in RUNTIMES if one != OPENVINO[0] or importlib.util.find_spec(one)]
    width, height = size
    frame = np.random.default_rng(0).integers(0, 48, (height, width, 3), np.uint8)
    enhancers: dict[str, Enhancer] = {}
    expected, spent = None, 0.0
    for device in (PLAIN, *runtimes):
        try:
            enhancer = load(model, device, threads)
            enhancer.network(frame)  # compiles where it has to
            start = time.perf_counter()
            enhanced = enhancer.network(frame)[0]
            spent += time.perf_counter() - start
        except Exception:  # a runtime may raise anything; then it is not for this model
            if device == PLAIN:
                raise
            continue
        expected = enhanced if expected is None else expected
        if cv2.PSNR(enhanced, expected) >= LEAST_LIKENESS:
            enhancers[device] = enhancer
    times: dict[str, list[float]] = {device: [] for device in enhancers}
    for _ in range(ROUNDS):
        for device, enhancer in enhancers.items():
            start = time.perf_counter()
            enhancer.network(frame)
            times[device].append(time.perf_counter() - start)
        spent += sum(taken[-1] for taken in times.values())
        if spent + sum(taken[-1] for taken in times.values()) > BUDGET:
            break
    medians = {device: 1e3 * float(np.median(taken)) for device, taken in times.items()}
    best = min(medians, key=lambda device: medians[device])
    rounds = len(times[PLAIN])
    sure = rounds >= LEAST_ROUNDS and medians[best] < GAIN * medians[PLAIN]
    return Choice(best if sure else PLAIN, medians, f'{width}x{height}', rounds)


def _key(path: Path, threads: int, size: tuple[int, int]) -> str:
    """Of all that a choice depends on."""
    versions = []
    for package in ('dap_led_ros', 'openvino'):
        try:
            versions.append(importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            versions.append('')
    content = hashlib.sha256(path.read_bytes()).hexdigest()
    parts = (content, size, threads or default_threads(), versions, machine())
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


if __name__ == '__main__':
    name, *numbers = sys.argv[1:]
    count, wide, high = map(int, numbers)
    print(json.dumps(asdict(measure(name, count, (wide, high)))))
