"""A picture of frames before and after, by model: make contact_sheet OUT.jpg [MODEL ...].

Rows: day, dusk, night, blur by day, lamps, from validation photographs as `measure steadiness`
makes them, then real ones: pictures of folders, frames of videos. Columns: the frame, the frame
times one number (auto), what a stream makes of it with each model, and the reference where there
is one. Tiles of real frames are not made larger than they are.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from dap_led_ros.inference import Enhancer
from dap_led_ros.inference.stream import Stream
from dap_led_ros.media import find_images, write_image
from dap_led_ros.sources import open_source
from dap_led_training import configuration
from dap_led_training.data.photographs import FOLDERS, find_photographs, read_rgb, spread
from dap_led_training.measure.methods import auto
from dap_led_training.measure.night_sets import SIZE
from dap_led_training.measure.steadiness import gate_cases

ROWS = {
    'day': 'day',
    'dusk': 'dusk',
    'night': 'independent',
    'blur by day': 'blur by day',
    'lamps': 'lamps',
}
"""Title and the case of `measure steadiness`."""
GAP, BAR = 6, 26
"""Pixels between tiles, and of the bar with the text."""


def real_frames(paths: list[Path], count: int) -> list[tuple[str, np.ndarray]]:
    """Evenly spread frames (H, W, 3) uint8 RGB of folders of pictures and of videos, with names.

    :param count: of each path.
    :raises ValueError: a path holds neither pictures nor a video.
    """
    frames = []
    for path in paths:
        if path.is_dir():
            found = find_images(path)
            if not found:
                raise ValueError(f'{path} has no pictures: give videos by their paths')
            chosen = spread(found, count)
            frames += [(picture.name, read_rgb(picture)) for picture in chosen]
            continue
        source = open_source(path)
        wanted = spread(list(range(source.count)), count)
        frames += [
            (f'{path.stem} {number}', frame)
            for number, frame in enumerate(source.frames)
            if number in wanted
        ]
    return frames


def sheet(
    models: list[str],
    photographs: list[Path],
    real: list[tuple[str, np.ndarray]],
    width: int,
) -> np.ndarray:
    """The sheet as an RGB picture; tiles are `width` pixels wide."""
    cases = gate_cases(spread(photographs, len(ROWS)))
    # A photograph of its own for each row; cases hold all of them in every kind.
    frames = [(title, *cases[kind][i]) for i, (title, kind) in enumerate(ROWS.items())]
    frames += [(name, _upright(frame), None) for name, frame in real]
    enhancers = {model: Enhancer.load(model) for model in models}
    rows = []
    for title, frame, reference in frames:
        tiles = [tile(frame, title, width), tile(auto(frame), 'auto', width)]
        for model, enhancer in enhancers.items():
            enhanced = Stream(enhancer).enhance(frame)
            text = f'{Path(model).name}, weight {enhanced.weight:.2f}'
            tiles.append(tile(enhanced.frame, text, width))
        blank = np.full((SIZE[1], SIZE[0], 3), 255, np.uint8)
        known = reference is not None
        tiles.append(tile(reference if known else blank, 'reference' if known else '', width))
        rows.append(np.hstack(tiles))
    return np.vstack(rows)


def _upright(photograph: np.ndarray) -> np.ndarray:
    """Scaled to fit into a frame of a robot's size; portraits stay portraits."""
    scale = min(SIZE[0] / photograph.shape[1], SIZE[1] / photograph.shape[0])
    return cv2.resize(photograph, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def tile(frame: np.ndarray, text: str, width: int, height: int = 0) -> np.ndarray:
    """A frame with its text above and white around.

    :param width, height: of the tile without them, pixels; height 0: by the shape of SIZE.
    """
    height = height or width * SIZE[1] // SIZE[0]
    scale = min(width / frame.shape[1], height / frame.shape[0])
    shown = [min(round(side * scale), most) for side, most in zip(frame.shape, (height, width))]
    small = np.full((height, width, 3), 255, np.uint8)
    small[: shown[0], : shown[1]] = cv2.resize(frame, shown[::-1], interpolation=cv2.INTER_AREA)
    framed = cv2.copyMakeBorder(small, BAR, GAP, GAP, GAP, cv2.BORDER_CONSTANT, value=(255,) * 3)
    font = cv2.FONT_HERSHEY_SIMPLEX
    return cv2.putText(framed, text, (GAP, BAR - 8), font, 0.5, (0, 0, 0), 1, cv2.LINE_AA)


def main(arguments: list[str] | None = None) -> None:
    """Write the sheet."""
    parser = configuration.parser('make contact_sheet', __doc__)
    parser.add_argument('out', type=Path, metavar='OUT.jpg')
    parser.add_argument('models', nargs='*', metavar='MODEL', help='default: nano')
    parser.add_argument('--photographs', nargs='+', metavar='FOLDER')
    parser.add_argument(
        '--real', type=Path, nargs='+', default=[], metavar='PATH', help='folders, videos'
    )
    parser.add_argument('--count', type=int, default=4, help='frames of each of these; default: 4')
    parser.add_argument('--width', type=int, default=400, help='of a tile, pixels; default: 400')
    options = parser.parse_args(arguments)
    folders = options.photographs or FOLDERS
    photographs = find_photographs(folders, validation=True)
    real = real_frames(options.real, options.count)
    write_image(options.out, sheet(options.models or ['nano'], photographs, real, options.width))
    print(f'wrote {options.out}')
