"""Many recordings at once: one after the other here, or spread over a Ray cluster.

    OUT/NAME/...          the run of each recording, as of a single one
    OUT/fleet.html        a row for each; also fleet.json

On a cluster every segment of every recording is a task, and then every segment to measure is one;
at last each recording's videos and report. When a worker dies, Ray starts its task again: that one
segment is redone, and nothing twice. Segments are the same bytes as from one process; enhance.py
says why. Driver and workers must see BAGs and OUT at the same paths.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dap_led_ros.inference import Enhancer
from dap_led_ros.replay import measures, page, report, requirements, segments
from dap_led_ros.replay.errors import clear
from dap_led_ros.replay.measure import Measuring, measure_run
from dap_led_ros.replay.options import ReplayOptions
from dap_led_ros.replay.run import Job, prepare, replay
from dap_led_ros.replay.video import write_videos

RETRIES = 5
"""How often a task is begun again when its worker dies."""


def replay_all(bags: Sequence[Path], options: ReplayOptions, on_ray: bool = False) -> int:
    """Replay all bags; 0 when each one succeeded.

    :param options: of each; `out` is the folder of all, `bag` is of no matter.
    """
    runs = _runs(bags, options)
    alone = {name: _alone(options, bag, options.out / name) for name, bag in runs.items()}
    required = [requirements.parse(text) for text in options.require]
    failures = (_on_ray if on_ray else _here)(alone)
    missed = {name: _missed(options.out / name, required) for name in runs}
    short = {name: '; '.join(lines) for name, lines in missed.items() if lines}
    only_short = short and not failures
    failures = {**short, **failures}
    rows = [_row(options.out, name, failures.get(name, '')) for name in runs]
    segments.write_json(options.out / 'fleet.json', rows)
    text = page.environment().get_template('fleet.html').render(rows=rows)
    (options.out / 'fleet.html').write_text(text)
    for name, failure in failures.items():
        print(f'dap-led: {name}: {failure}', file=sys.stderr)
    print(f'{len(rows) - len(failures)} of {len(rows)} recordings done')
    print(f'report    {options.out / "fleet.html"}')
    if only_short:
        return requirements.FAILED
    return 1 if failures else 0


def _missed(out: Path, required: list[requirements.Requirement]) -> list[str]:
    """Requirements that a run misses; one without report has failed for another reason."""
    path = out / 'report.json'
    return requirements.missed(segments.read_json(path), required) if path.is_file() else []


def _runs(bags: Sequence[Path], options: ReplayOptions) -> dict[str, Path]:
    """Recordings by the name of their folder below OUT.

    :raises ValueError: two have one name.
    """
    runs: dict[str, Path] = {}
    for bag in bags:
        name = Path(os.path.abspath(bag)).name.removesuffix('.zstd')
        name = name.removesuffix('.mcap').removesuffix('.db3').removesuffix('.bag')
        if name in runs:
            raise ValueError(f'{bag} and {runs[name]} have one name: replay them apart')
        runs[name] = bag
    if not options.resume and any((options.out / name / 'run.json').is_file() for name in runs):
        raise ValueError(
            f'{options.out} holds runs: add --resume to go on with them, or choose another --out'
        )
    return runs


def _alone(options: ReplayOptions, bag: Path, out: Path) -> ReplayOptions:
    """The options of one recording: what is there already is gone on with."""
    files = {}
    for name in ('model', 'detect'):  # a worker is in another folder
        if (path := getattr(options, name)) and Path(path).is_file():
            files[name] = str(Path(path).resolve())
    return replace(options, bag=bag.resolve(), out=out.resolve(), resume=True, **files)


def _here(runs: dict[str, ReplayOptions]) -> dict[str, str]:
    """Replay one after the other; why some failed."""
    failures = {}
    for name, options in runs.items():
        if 'interrupted' in failures.values():
            failures[name] = 'not begun'
            continue
        print(name)
        try:
            if replay(options) == 1:
                failures[name] = 'interrupted'
        except (ImportError, ValueError, RuntimeError, OSError) as error:
            failures[name] = _reason(error)
    return failures


# --- on a cluster ------------------------------------------------------------------------------


def _on_ray(runs: dict[str, ReplayOptions]) -> dict[str, str]:
    """Replay on the cluster that RAY_ADDRESS names, or on this machine's own; why some failed."""
    try:
        import ray
    except ImportError as error:
        raise RuntimeError(f"--ray needs ray: pip install 'dap_led_ros[ray]' ({error})") from None
    report.check_libraries()
    if not ray.is_initialized():
        ray.init(log_to_driver=False, configure_logging=False, include_dashboard=False)
    failures: dict[str, str] = {}
    finished: dict[Any, str] = {}
    tasks: list[Any] = []
    for name, options in runs.items():
        try:
            job = prepare(options)
            job.begin()
        except (ValueError, RuntimeError, OSError) as error:
            failures[name] = _reason(error)
            continue
        of_job = _submit(ray, name, job)
        finished[of_job[-1]] = name
        tasks += of_job
    with tqdm(total=len(tasks), unit='task') as bar:
        while tasks:
            done, tasks = ray.wait(tasks)
            bar.update(len(done))
    for last, name in finished.items():
        try:
            ray.get(last)
        except ray.exceptions.RayError as error:
            failures[name] = _reason(error)
            with contextlib.suppress(Exception):  # what is there shall be seen
                _finish(runs[name].out, False)
    return failures


def _submit(ray: Any, name: str, job: Job) -> list[Any]:
    """Begin the tasks of a recording; the last one is done when all are."""
    # A worker has one core and, where the user insists on CUDA, one GPU.
    gpus = {'num_gpus': 1} if job.options.device in ('cuda', 'tensorrt') else {}
    shared = ray.put(job)

    def task(work: Any, what: str, *arguments: Any, **resources: Any) -> Any:
        remote = ray.remote(work).options(
            name=f'{what} {name}', max_retries=RETRIES, retry_exceptions=False, **resources
        )
        return remote.remote(*arguments)

    written: dict[int, Any] = {}
    for group in job.what.recording.apart(job.what.parts):
        done = task(_enhance, f'enhance {group}', shared, group, **gpus)
        written |= dict.fromkeys(group, done)
    measured = [
        # ORB matches go back to the segment before.
        task(_measure, f'measure {index}', shared, index, done, written.get(index - 1), **gpus)
        for index, done in sorted(written.items())
    ]
    last = task(_finish, 'finish', job.out, job.options.video, *measured)
    return [*dict.fromkeys(written.values()), *measured, last]


def _enhance(job: Job, todo: list[int]) -> None:
    """Write segments; those that an earlier attempt has written stay."""
    left = [index for index in todo if not segments.is_whole(job.out, index)]
    if left:
        job.enhance(_enhancer(job.options.model, job.options.device), left, threading.Event())


def _measure(job: Job, index: int, *_: None) -> None:
    """Measure a segment."""
    measure_run(job.out, _measuring(job.out, job), [index], threading.Event())


def _finish(out: Path, video: bool, *_: None) -> None:
    """Make one run of what the others have written."""
    shutil.rmtree(out / '.part', ignore_errors=True)
    segments.write_metadata(out)
    if video:
        write_videos(out, threading.Event())
    report.write(out)


@functools.lru_cache(1)
def _enhancer(model: str, device: str) -> Enhancer:
    """A worker's own: loaded once."""
    return Enhancer.load(model, device, threads=1)


_measurings: dict[Path, Measuring] = {}


def _measuring(out: Path, job: Job) -> Measuring:
    """A worker's own: the detector is loaded once for a recording."""
    if out not in _measurings:
        _measurings.clear()
        _measurings[out] = job.measuring()
    return _measurings[out]


def _reason(error: Exception) -> str:
    """One line of an error; Ray wraps what a task raises."""
    cause = getattr(error, 'cause', None) or error
    text = clear(cause) if isinstance(cause, OSError) else str(cause)
    return (text.splitlines() or [repr(cause)])[0]


def _row(out: Path, name: str, failure: str) -> dict[str, Any]:
    """What the fleet's table says of a recording: sums over its cameras, and means."""
    path = out / name / 'report.json'
    row: dict[str, Any] = {
        'name': name,
        'failure': failure,
        'trouble': [],
        'frames': {},
        'unchanged': 0,
        'sentences': {},
    }
    if not path.is_file():
        return row
    content = segments.read_json(path)
    row['trouble'] = content['trouble']
    cameras = content['topics'].values()
    row['unchanged'] = sum(camera['unchanged'] for camera in cameras)
    row['sentences'] = {topic: of['sentence'] for topic, of in content['topics'].items()}
    for outcome in ('read', 'enhanced', 'passed_through', 'refused'):
        row['frames'][outcome] = sum(camera['frames'][outcome] for camera in cameras)
    for measure in ('brightness', 'inliers', 'detections', 'psnr'):
        of = [camera['measures'][measure] for camera in cameras if measure in camera['measures']]
        if of:
            count = sum(values['frames'] for values in of)
            row[measure] = {
                side: sum(values.get(side, 0.0) * values['frames'] for values in of) / count
                for side in measures.SIDES
            }
    return row
