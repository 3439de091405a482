"""dap-led look: what a recording, a video or a folder holds.

A few frames of each camera are looked at, spread over it; nothing is enhanced.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dap_led_ros import image_codec, media, pictures
from dap_led_ros.inference.frames import MIN_SIDE
from dap_led_ros.inference.scorer import DegradationScorer
from dap_led_ros.inference.stream import StreamSettings
from dap_led_ros.metrics.luma import luma

FRAMES = 8
"""Looked at of each camera, at the most."""
_THUMBNAIL = 200


@dataclass
class Row:
    """A topic, a video or a folder."""

    name: str
    kind: str
    count: int | None = None
    rate: float | None = None
    """Per second."""
    size: str = ''
    encoding: str = ''
    brightness: float | None = None
    """Mean luma of the frames looked at, 0 to 255."""
    low_light: float | None = None
    blur: float | None = None
    """Mean scores of degradation, 0 to 1."""
    enhanced: str = ''
    """Whether it would be, and why not."""
    frames: list[np.ndarray] = field(default_factory=list)
    """RGB uint8, of those looked at."""
    times: list[int] = field(default_factory=list)
    """Of these frames, ns; empty but for bags."""


def show(source: Path, html: Path | None = None, overwrite: bool = False) -> int:
    """Print the table, and write a page if asked; 1 where no frame can be read."""
    if html and html.exists() and not overwrite:
        raise ValueError(f'{html} exists: choose another --html or add --overwrite')
    if html and not html.resolve().parent.is_dir():
        raise ValueError(f'{html.resolve().parent} does not exist: make it first')
    rows, trouble = look(source)
    for line in trouble:
        print(f'note: {line}')
    print(as_text(rows))
    if html:
        from dap_led_ros.replay import page

        text = page.environment().get_template('look.html')
        shown = [[page.data_address(of, _THUMBNAIL) for of in row.frames] for row in rows]
        html.write_text(
            text.render(
                name=source.resolve().name,
                rows=[{**cells(row), 'pictures': of} for row, of in zip(rows, shown)],
                titles=_TITLES,
                trouble=trouble,
            )
        )
        print(f'page    {html}')
    return 0 if any(row.frames for row in rows) else 1


def look(path: Path) -> tuple[list[Row], list[str]]:
    """A row for each topic, video or folder, and what is wrong with it.

    :raises FileNotFoundError: nothing is there.
    :raises ValueError: it is none of these.
    """
    if not path.exists():
        raise FileNotFoundError(f'{path} does not exist')
    if media.is_bag(path):
        return _of_bag(path)
    row, trouble = _of_files(path) if path.is_dir() else _of_file(path)
    _judge(row, row.frames)
    return [row], trouble


# --- bags --------------------------------------------------------------------------------------


def _of_bag(path: Path) -> tuple[list[Row], list[str]]:
    # Of the extra `bags`, which pictures and videos do not need; so is what page.py imports.
    from dap_led_ros.replay.codec import Decoder, is_camera
    from dap_led_ros.replay.recording import Recording

    recording = Recording(path)
    rows = {}
    for topic in recording.topics:
        count = recording.counts[topic]
        rate = (count - 1) / recording.seconds if count > 1 and recording.seconds else None
        rows[topic] = Row(topic.name, topic.said, count, rate, enhanced='no picture: copied')
    cameras = [topic for topic in recording.topics if is_camera(topic)]
    for topic in cameras:
        rows[topic].enhanced = 'no: it has no messages'
    # Each place in the recording begins anew: a video waits for its next key frame there.
    places, each = _places(recording, cameras)
    hopeless: set[Any] = set()
    for part in places:
        left = [of for of in cameras if len(rows[of].frames) < FRAMES and of not in hopeless]
        decoders = {topic: Decoder(topic) for topic in left}
        wanted = {topic: min(FRAMES, len(rows[topic].frames) + each) for topic in left}
        for inside, (topic, time, data, _) in recording.read(part) if left else ():
            if topic in decoders and (inside or decoders[topic].is_video):
                if not _look_at(rows[topic], decoders[topic], time, data):
                    hopeless.add(topic)
                if topic in hopeless or len(rows[topic].frames) >= wanted[topic]:
                    del decoders[topic]
            if not decoders:
                break
    for row in (rows[topic] for topic in cameras):
        row.frames = [row.frames[place] for place in np.argsort(row.times, kind='stable')]
        _judge(row, row.frames)
    return list(rows.values()), recording.trouble


def _places(recording: Any, cameras: list[Any]) -> tuple[list[Any], int]:
    """Parts spread over a recording, and the number of frames of each to look at.

    One without an index is looked at from its start.
    """
    if not cameras:
        return [], 0
    most = max(recording.counts[topic] for topic in cameras)
    parts = recording.parts(cameras, max(1, most // (8 * FRAMES)))
    if any(part.counted for part in parts):
        return recording.parts(cameras, 1, whole=True), FRAMES
    # Some places may be empty, as between two drives: then others take their turn.
    order = [np.linspace(0, len(parts) - 1, count) for count in (FRAMES, 2 * FRAMES, 4 * FRAMES)]
    places = dict.fromkeys(np.concatenate(order).round().astype(int).tolist())
    return [parts[place] for place in places], 1


def _look_at(row: Row, decoder: Any, time: int, data: bytes) -> bool:
    """Take a frame of a camera; False where it has none and will have none."""
    try:
        message, frame, _ = decoder.decode(data)
    except image_codec.MalformedImageError as error:
        row.enhanced = row.enhanced if row.frames else f'no: {error}'
        return True  # the next one may be whole
    except image_codec.ImageError as error:
        row.enhanced = f'no: {error}'
        return False
    row.encoding = getattr(message, 'encoding', '') or message.format
    row.frames.append(pictures.eight_bit(frame))
    row.times.append(time)
    return True


# --- files -------------------------------------------------------------------------------------


def _of_files(folder: Path) -> tuple[Row, list[str]]:
    found = media.find_images(folder)
    if not found:
        raise ValueError(
            f'{folder} has no pictures ({", ".join(media.IMAGE_SUFFIXES)}) and no bag'
        )
    row, trouble = Row(folder.name, 'pictures', len(found)), []
    for place in np.unique(np.linspace(0, len(found) - 1, min(FRAMES, len(found))).round()):
        picture = found[int(place)]
        try:
            row.frames.append(pictures.eight_bit(media.read_image(picture)))
            row.encoding = picture.suffix.lower().strip('.')
        except ValueError as error:
            trouble.append(str(error))
    return row, trouble


def _of_file(path: Path) -> tuple[Row, list[str]]:
    if path.suffix.lower() in media.IMAGE_SUFFIXES:
        frame = pictures.eight_bit(media.read_image(path))
        return Row(path.name, 'picture', 1, encoding=path.suffix.lower()[1:], frames=[frame]), []
    capture = cv2.VideoCapture(str(path))
    try:
        count, rate = (capture.get(of) for of in (cv2.CAP_PROP_FRAME_COUNT, cv2.CAP_PROP_FPS))
        code = (int(capture.get(cv2.CAP_PROP_FOURCC)) & 0xFFFFFFFF).to_bytes(4, 'little')
        row = Row(path.name, 'video', int(count), rate or None, encoding=code.decode('latin1'))
        for place in np.unique(np.linspace(0, max(count - 1, 0), FRAMES).round()):
            capture.set(cv2.CAP_PROP_POS_FRAMES, place)
            there, frame = capture.read()
            if there:
                row.frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
    finally:
        capture.release()
    if not row.frames:
        raise ValueError(f'{path} is neither a bag, a picture nor a video that can be read')
    return row, []


# --- what would become of it -------------------------------------------------------------------


def _judge(row: Row, frames: list[np.ndarray]) -> None:
    """Fill in what the frames that were looked at say."""
    if not frames:
        row.enhanced = row.enhanced or 'no: no frame can be read'
        return
    sizes = dict.fromkeys(f'{of.shape[1]}x{of.shape[0]}' for of in frames)
    row.size = ', '.join(sizes)
    row.brightness = float(np.mean([luma(of).mean() for of in frames]))
    scorer = DegradationScorer()
    scores = [scorer.score(of) for of in frames if min(of.shape[:2]) >= MIN_SIDE]
    if not scores:
        row.enhanced = f'no: smaller than {MIN_SIDE}x{MIN_SIDE}'
        return
    row.low_light, row.blur = (
        float(np.mean([score[name] for score in scores])) for name in ('low_light', 'blur')
    )
    least = StreamSettings().pass_below
    bad = sum(max(score.values()) > least for score in scores)
    of = f'{bad} of {len(scores)} frames looked at'
    row.enhanced = f'yes: {of} are dark or blurred'
    if not bad:
        row.enhanced = f'no: good as it is, {of} are dark or blurred'


_TITLES = {
    'name': 'name',
    'kind': 'type',
    'count': 'count',
    'rate': 'per s',
    'size': 'size',
    'encoding': 'encoding',
    'brightness': 'brightness',
    'low_light': 'low light',
    'blur': 'blur',
    'enhanced': 'would be enhanced',
}


def cells(row: Row) -> dict[str, str]:
    """A row as words; - is not known."""
    found = {name: getattr(row, name) for name in _TITLES}
    with contextlib.suppress(TypeError):
        found['rate'] = f'{row.rate:.1f}'
    for name, digits in (('brightness', 0), ('low_light', 2), ('blur', 2)):
        if found[name] is not None:
            found[name] = f'{found[name]:.{digits}f}'
    return {name: '-' if value in (None, '') else str(value) for name, value in found.items()}


def as_text(rows: list[Row]) -> str:
    """The rows as a table."""
    table = [dict(_TITLES), *(cells(row) for row in rows)]
    widths = {name: max(len(line[name]) for line in table) for name in _TITLES}
    return '\n'.join(
        '  '.join(line[name].ljust(widths[name]) for name in _TITLES).rstrip() for line in table
    )
