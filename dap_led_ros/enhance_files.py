"""dap-led enhance: a picture, a folder of pictures, or a video."""

from __future__ import annotations

import hashlib
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
from tqdm import tqdm

from dap_led_ros import media, pictures, sources, stopping, video_file
from dap_led_ros.inference import Enhancer, weights
from dap_led_ros.inference.stream import WARM_UP, StreamSettings


@dataclass(frozen=True)
class EnhanceOptions:
    """What `dap-led enhance` is asked for."""

    input: Path
    output: Path
    model: str = weights.DEFAULT
    device: str = 'auto'
    overwrite: bool = False
    recursive: bool = False
    """Of a folder: the folders in it, too."""
    resume: bool = False
    """Go on where an interrupted run has stopped."""
    temporal: bool | None = None
    """Let what came before into a frame; None: of a video."""


def run(options: EnhanceOptions) -> int:
    """Enhance INPUT into OUTPUT; 0 when all is there, 1 when something is missing."""
    # Our own message says what is wrong with a file.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    source, output = options.input, options.output
    if not source.exists():
        raise FileNotFoundError(f'{source} does not exist')
    if media.is_bag(source):
        raise ValueError(
            f'{source} is a bag: `dap-led replay {source} --out FOLDER` enhances it, and '
            'reports what that did'
        )
    with stopping.stop_wished() as stopped:
        if source.is_dir():
            return _folder(options, stopped)
        if output.is_dir():
            output = output / source.name
        if source.suffix.lower() in media.IMAGE_SUFFIXES:
            return _picture(options, source, output)
        if not options.resume:
            _may_write(source, output, options.overwrite)
        if video_file.available() and output.suffix.lower() in video_file.SUFFIXES:
            return _video(options, source, output, stopped)
        return _plain_video(options, source, output, stopped)


# --- pictures ----------------------------------------------------------------------------------


def _picture(options: EnhanceOptions, source: Path, output: Path) -> int:
    _may_write(source, output, options.overwrite)
    enhancer = Enhancer.load(options.model, options.device)
    _enhance_picture(_frame_by_frame(enhancer, False), source, output)
    return 0


def _frame_by_frame(enhancer: Enhancer, temporal: bool) -> Callable[[Any], Any]:
    """What enhances a frame, each alone or as the next one of a camera."""
    if not (temporal and enhancer.remembers):
        return lambda frame: enhancer.enhance(frame).frame
    stream = enhancer.stream(StreamSettings('always'))
    return lambda frame: stream.enhance(frame).frame


def _enhance_picture(enhance: Callable[[Any], Any], source: Path, output: Path) -> None:
    picture = pictures.read(source)
    picture.frame = enhance(picture.frame)
    pictures.write(output, picture)


def _folder(options: EnhanceOptions, stopped: threading.Event) -> int:
    """Enhance what can be read; name what cannot, and count what is left alone."""
    found, others = _in_folder(options)
    if not found:
        raise ValueError(
            f'{options.input} has no pictures ({", ".join(media.IMAGE_SUFFIXES)})' + _and(others)
        )
    outputs = {of: options.output / of.relative_to(options.input) for of in found}
    there = {of for of, output in outputs.items() if options.resume and output.exists()}
    for picture in (of for of in found if of not in there):
        _may_write(picture, outputs[picture], options.overwrite)
    enhancer = Enhancer.load(options.model, options.device)
    enhance = _frame_by_frame(enhancer, bool(options.temporal))
    failed = done = 0
    for picture in tqdm([of for of in found if of not in there], unit='picture'):
        if stopped.is_set():
            break
        try:
            _enhance_picture(enhance, picture, outputs[picture])
            done += 1
        except ValueError as error:
            failed += 1
            tqdm.write(f'dap-led: skipped {picture}: {error}', file=sys.stderr)
    if failed:
        print(f'dap-led: {failed} of {len(found)} pictures were skipped', file=sys.stderr)
    if others:
        print(f'dap-led: left alone{_and(others)}', file=sys.stderr)
    if stopped.is_set():
        print(
            f'dap-led: interrupted after {done + len(there)} of {len(found)} pictures; --resume '
            'goes on',
            file=sys.stderr,
        )
    return 1 if failed or stopped.is_set() else 0


def _in_folder(options: EnhanceOptions) -> tuple[list[Path], Counter[str]]:
    """The pictures of a folder, and the number of other things by kind."""
    found: list[Path] = []
    others: Counter[str] = Counter()
    for path in sorted(_walk(options.input, options.recursive, options.output.resolve())):
        if path.is_dir():
            others['folders (--recursive goes into them)'] += 1
        elif path.suffix.lower() in media.IMAGE_SUFFIXES:
            found.append(path)
        else:
            others[f'{path.suffix or "files without ending"}'] += 1
    return found, others


def _walk(folder: Path, recursive: bool, leave_out: Path) -> Iterator[Path]:
    """What is in a folder; with `recursive` also in those in it, but for OUTPUT."""
    for path in folder.iterdir():
        if path.resolve() == leave_out:
            continue
        if recursive and path.is_dir():
            yield from _walk(path, recursive, leave_out)
        else:
            yield path


def _and(others: Counter[str]) -> str:
    return ''.join(f'; {count} {kind}' for kind, count in sorted(others.items()))


# --- videos ------------------------------------------------------------------------------------


def _video(options: EnhanceOptions, source: Path, output: Path, stopped: threading.Event) -> int:
    """Enhance a video frame by frame; its times and its sound are kept."""
    if output.exists() and output.resolve() == source.resolve():
        raise ValueError(f'{output} is the input: choose another OUTPUT')
    enhancer = Enhancer.load(options.model, options.device)
    digest = hashlib.sha256(f'{source.name} {source.stat().st_size}'.encode()).hexdigest()[:12]
    temporal = options.temporal is not False and enhancer.remembers
    how = ' --temporal' if temporal else ''
    label = f'dap-led enhance --model {enhancer.model}{how} of {digest}'
    runs = video_file.enhance_video(
        source,
        output,
        _frame_by_frame(enhancer, temporal),
        label,
        options.resume,
        stopped,
        WARM_UP if temporal else 0,
    )
    with tqdm(unit='frame') as bar:
        for done in runs:
            bar.total = done.expected or None
            bar.update()
    for note in done.notes:
        print(f'dap-led: {note}', file=sys.stderr)
    if done.stopped:
        return _interrupted(done.frames, done.expected, '; --resume goes on')
    return _cut(done.short)


def _plain_video(
    options: EnhanceOptions, source: Path, output: Path, stopped: threading.Event
) -> int:
    """By OpenCV: pictures at a steady rate and nothing else."""
    opened = sources.open_source(source)
    if options.resume:
        raise ValueError('--resume of a video needs PyAV and .mp4, .mov, .mkv or .webm')
    frames = 0
    with media.VideoFile(output, opened.rate or 25.0) as video:
        why = 'an .avi' if video_file.available() else "without PyAV (extra 'video') a video"
        print(
            f'dap-led: {why} loses sound and the times of its frames, and browsers do not play it',
            file=sys.stderr,
        )
        enhancer = Enhancer.load(options.model, options.device)
        enhance = _frame_by_frame(enhancer, options.temporal is not False)
        for frame in tqdm(opened.frames, total=opened.count, unit='frame'):
            video.write(enhance(frame))
            frames += 1
            if stopped.is_set():
                break
    if stopped.is_set():
        return _interrupted(frames, opened.count, '')
    return _cut(f'{frames} of {opened.count} frames' if frames < opened.count else '')


def _interrupted(frames: int, expected: int, go_on: str) -> int:
    of = f' of {expected}' if expected else ''
    print(f'dap-led: interrupted after {frames}{of} frames{go_on}', file=sys.stderr)
    return 1


def _cut(where: str) -> int:
    """Say where a video ended that is not whole; the exit status."""
    if where:
        print(f'dap-led: the video ended after {where}', file=sys.stderr)
    return 1 if where else 0


def _may_write(source: Path, output: Path, overwrite: bool) -> None:
    """Refuse to write over something.

    :raises ValueError: it is there already.
    """
    if output.exists() and output.resolve() == source.resolve():
        raise ValueError(f'{output} is the input: choose another OUTPUT')
    if output.exists() and not overwrite:
        raise ValueError(f'{output} exists: choose another OUTPUT or add --overwrite')
