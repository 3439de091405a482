"""Many recordings at once: one after the other here, or spread over a Ray cluster.

    OUT/NAME/...          the run of each recording, as of a single one
    OUT/fleet.html        a row for each; also fleet.json

A recording is one task. When its worker dies, Ray starts the task again, and the run goes on
behind the last segment that is whole: that one segment is redone, and nothing twice.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dap_led_ros.evaluation import page, replay, segments

RETRIES = 5
"""How often a recording is begun again when its worker dies."""


def run(options: argparse.Namespace) -> int:
    """Replay all; 0 when each one succeeded."""
    runs = _runs(options)
    tasks = {name: _alone(options, bag, options.out / name) for name, bag in runs.items()}
    failures = (_on_ray if options.ray else _here)(tasks)
    rows = [_row(options.out, name, failures.get(name, '')) for name in runs]
    segments.write_json(options.out / 'fleet.json', rows)
    text = page.environment().get_template('fleet.html').render(rows=rows)
    (options.out / 'fleet.html').write_text(text)
    for name, failure in failures.items():
        print(f'dap-led: {name}: {failure}', file=sys.stderr)
    print(f'{len(rows) - len(failures)} of {len(rows)} recordings done')
    print(f'report    {options.out / "fleet.html"}')
    return 1 if failures else 0


def _runs(options: argparse.Namespace) -> dict[str, Path]:
    """Recordings by the name of their folder below OUT.

    :raises ValueError: two have one name.
    """
    runs: dict[str, Path] = {}
    for bag in options.bag:
        name = Path(os.path.abspath(bag)).name.removesuffix('.zstd')
        name = name.removesuffix('.mcap').removesuffix('.db3')
        if name in runs:
            raise ValueError(f'{bag} and {runs[name]} have one name: replay them apart')
        runs[name] = bag
    if not options.resume and any((options.out / name / 'run.json').is_file() for name in runs):
        raise ValueError(
            f'{options.out} holds runs: add --resume to go on with them, or choose another --out'
        )
    return runs


def _alone(options: argparse.Namespace, bag: Path, out: Path) -> argparse.Namespace:
    """The options of one recording: what is there already is gone on with."""
    alone = copy.copy(options)
    alone.bag, alone.out, alone.resume = bag.resolve(), out.resolve(), True
    return alone


def _here(tasks: dict[str, argparse.Namespace]) -> dict[str, str]:
    """Run the tasks one after the other; why some failed."""
    failures = {}
    for name, options in tasks.items():
        if 'interrupted' in failures.values():
            failures[name] = 'not begun'
            continue
        print(name)
        if failure := _replay(options):
            failures[name] = failure
    return failures


def _on_ray(tasks: dict[str, argparse.Namespace]) -> dict[str, str]:
    """Run the tasks on the cluster that RAY_ADDRESS names, or on this machine's own."""
    try:
        import ray
    except ImportError as error:
        raise RuntimeError(f"--ray needs ray: pip install 'dap_led_ros[ray]' ({error})") from None
    if not ray.is_initialized():
        ray.init(log_to_driver=False, configure_logging=False, include_dashboard=False)
    task = ray.remote(max_retries=RETRIES, retry_exceptions=False)(_replay)
    waiting = {task.options(name=f'replay {name}').remote(of): name for name, of in tasks.items()}
    failures = {}
    with tqdm(total=len(waiting), unit='recording') as bar:
        while waiting:
            done, _ = ray.wait(list(waiting))
            name = waiting.pop(done[0])
            try:
                failure = ray.get(done[0])
            except ray.exceptions.RayError as error:
                failure = str(error).splitlines()[0]
            if failure:
                failures[name] = failure
            bar.update()
    return failures


def _replay(options: argparse.Namespace) -> str:
    """Replay one recording; why that failed, or nothing."""
    try:
        return 'interrupted' if replay.run(options) else ''
    except (ImportError, ValueError, RuntimeError, OSError) as error:
        return str(error)


def _row(out: Path, name: str, failure: str) -> dict[str, Any]:
    """What the fleet's table says of a recording: sums over its cameras, and means."""
    path = out / name / 'report.json'
    row: dict[str, Any] = {'name': name, 'failure': failure, 'trouble': [], 'frames': {}}
    if not path.is_file():
        return row
    content = json.loads(path.read_text())
    row['trouble'] = content['trouble']
    cameras = content['topics'].values()
    for outcome in ('read', 'enhanced', 'passed_through', 'refused'):
        row['frames'][outcome] = sum(camera['frames'][outcome] for camera in cameras)
    for measure in ('brightness', 'inliers', 'detections', 'psnr'):
        of = [camera['measures'][measure] for camera in cameras if measure in camera['measures']]
        if of:
            count = sum(values['frames'] for values in of)
            row[measure] = {
                side: sum(values[side] * values['frames'] for values in of) / count
                for side in ('before', 'after')
            }
    return row
