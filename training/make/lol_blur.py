"""Write night blur in LOL-Blur's layout: python -m dap_led_training make lol_blur --help.

    python -m dap_led_training make lol_blur --photographs FOLDER ... --out DIR --split train

writes DIR/train/{low_blur_noise,low_blur,low_sharp,high_sharp_scaled}/<video>/<frame>.png and the
parameters that were drawn for a frame, DIR/train/parameters/<video>/<frame>.json.

Each video is one photograph before a camera that pans and zooms slowly, in two halves of
consecutive frames whose darkness, lamps and noise differ; the frame numbers jump between them, as
in LOL-Blur. Camera shake is drawn anew for each frame. The split `test` takes every eighth
photograph of each folder, `train` the others.

A frame is a pure function of the arguments, and each file is written whole or not at all: started
again, the command goes on where it stopped. LOL-Blur itself was made from videos by a generator
that was never released; this set has its layout and is not equal to it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from dap_led_training import configuration
from dap_led_training.data.pairs import SPLITS
from dap_led_training.data.photographs import find_photographs, read_rgb
from dap_led_training.measure.night_sets import fit
from dap_led_training.night.night_blur import (
    LOL_BLUR,
    Frame,
    margin,
    night_scene,
    take,
)

_ROOM = 1.15  # sides of the scene in sides of a frame: where the camera may pan
_SPEED = (0.3, 2.5)  # pixels per frame
_ZOOM = (1.0, 1.08)
_SMALLEST = 16  # pixels


def synthesize(
    photographs: list[Path],
    out: Path,
    split: str = 'train',
    count: int | None = None,
    size: tuple[int, int] = (1120, 640),
    frames: int = 60,
    seed: int = 1,
) -> None:
    """Write out/split, or what is missing of it.

    :param photographs: video number i shows photograph i; after the last comes the first again.
    :param count: number of videos; one per photograph by default.
    :param size: width and height of a frame.
    :param frames: of a video; an even number from 4.
    :raises ValueError: what is there was made with other arguments, or an argument is of no use.
    """
    if split not in SPLITS:
        raise ValueError(f'no split {split!r}: use one of {", ".join(SPLITS)}')
    if not photographs or (count is not None and count < 1):
        raise ValueError('no videos to make: give photographs, and a count of 1 or more')
    if frames < 4 or frames % 2:
        raise ValueError(f'{frames} frames cannot be halved: use an even number from 4')
    if min(size) < _SMALLEST:
        raise ValueError(f'{size[0]}x{size[1]} is too small: from {_SMALLEST}x{_SMALLEST} on')
    count = len(photographs) if count is None else count
    folder, warned = out / split, False
    with tqdm(total=count * frames, unit='frame') as progress:
        for video in range(count):
            path = photographs[video % len(photographs)]
            made_from = {
                'photograph': f'{path.parent.name}/{path.name}',
                'seed': seed,
                'size': list(size),
                'frames': frames,
            }
            for half in (0, 1):
                numbers = range(half * frames, half * frames + frames // 2)
                missing = [n for n in numbers if not _is_there(folder, video, n, made_from)]
                progress.update(len(numbers) - len(missing))
                if not missing:
                    continue
                photograph = read_rgb(path)
                if not warned and _enlargement(photograph, size) > 1:
                    warned = True
                    progress.write(
                        f'{path} is smaller than {size[0]}x{size[1]} with room to pan: it is '
                        'scaled up, as all such photographs are; a smaller --size keeps their '
                        'frames sharp'
                    )
                key = (seed, list(SPLITS).index(split), video, half)
                shown = Half(photograph, size, len(numbers), key)
                for number in missing:
                    frame, drawn = shown.frame(number - numbers[0])
                    _write(folder, video, number, frame, made_from | drawn)
                    progress.update()


class Half:
    """The consecutive frames of one half of a video.

    :param photograph: (H, W, 3) uint8 RGB of any size.
    :param size: width and height of a frame.
    :param count: number of frames.
    :param key: whole numbers from 0 that the random numbers come from.
    """

    def __init__(
        self,
        photograph: np.ndarray,
        size: tuple[int, int],
        count: int,
        key: tuple[int, ...],
    ) -> None:
        self.key = key
        self.size = tuple(side + 2 * margin(LOL_BLUR) for side in size)
        rng = self._generator(0)
        sharp = fit(photograph, *_scene_size(size))
        self.centres = _pan(sharp.shape[1::-1], self.size, count, rng)
        self.zooms = np.linspace(rng.uniform(*_ZOOM), rng.uniform(*_ZOOM), count)
        self.dark, self.target, self.drawn = night_scene(sharp, LOL_BLUR, rng)

    def frame(self, index: int) -> tuple[Frame, dict]:
        """Frame number `index` from 0, and everything that was drawn for it."""
        x, y = (float(value) for value in self.centres[index])
        zoom = float(self.zooms[index])
        light = (self._view(scene, x, y, zoom) for scene in (self.dark, self.target))
        shake, sensor = self._generator(1, index), self._generator(2)
        frame, drawn = take(*light, LOL_BLUR, shake, sensor)
        return frame, {'view': {'x': x, 'y': y, 'zoom': zoom}, **self.drawn, **drawn}

    def _view(self, scene: np.ndarray, x: float, y: float, zoom: float) -> np.ndarray:
        """What lies around (x, y): sharp, and without the dark ring of cubic interpolation."""
        width, height = self.size
        matrix = np.array(
            [
                [1 / zoom, 0, x - (width - 1) / 2 / zoom],
                [0, 1 / zoom, y - (height - 1) / 2 / zoom],
            ]
        )
        darkest = cv2.erode(scene, np.ones((3, 3), np.uint8))
        view, floor = (
            cv2.warpAffine(
                image,
                matrix,
                self.size,
                flags=method | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REPLICATE,
            )
            for image, method in ((scene, cv2.INTER_CUBIC), (darkest, cv2.INTER_NEAREST))
        )
        return np.maximum(view, floor)

    def _generator(self, purpose: int, index: int = 0) -> np.random.Generator:
        return np.random.default_rng([*self.key, purpose, index])


def _scene_size(size: tuple[int, int]) -> tuple[int, int]:
    width, height = (round(_ROOM * (side + 2 * margin(LOL_BLUR))) for side in size)
    return width, height


def _enlargement(photograph: np.ndarray, size: tuple[int, int]) -> float:
    """How many times larger fit() makes the photograph."""
    short, long = sorted(photograph.shape[:2])
    width, height = _scene_size(size)
    return max(width / long, height / short)


def _pan(
    scene: tuple[int, int], view: tuple[int, int], count: int, rng: np.random.Generator
) -> np.ndarray:
    """(count, 2) centres of a view that moves evenly and stays inside the scene, pixels."""
    room = (np.array(scene) - view) / 2
    start = rng.uniform(-room, room)
    heading = rng.uniform(0, 2 * np.pi)
    way = (count - 1) * rng.uniform(*_SPEED) * np.array([np.cos(heading), np.sin(heading)])
    end = np.clip(start + way, -room, room)
    return (np.array(scene) - 1) / 2 + np.linspace(start, end, count)


def _paths(folder: Path, video: int, number: int) -> dict[str, Path]:
    """The files of a frame; the parameters come last."""
    files = {name: folder / name / f'{video:04d}' / f'{number:04d}.png' for name in Frame._fields}
    return files | {'parameters': folder / 'parameters' / f'{video:04d}' / f'{number:04d}.json'}


def _is_there(folder: Path, video: int, number: int, made_from: dict) -> bool:
    """Whether all files of a frame exist.

    :raises ValueError: they were made with other arguments.
    """
    paths = _paths(folder, video, number)
    if not all(path.exists() for path in paths.values()):
        return False
    there = json.loads(paths['parameters'].read_text())
    for name, value in made_from.items():
        if there.get(name) != value:
            raise ValueError(
                f'{paths["parameters"]} was made with {name} {there.get(name)}, not {value}: '
                'use another --out, or the same arguments'
            )
    return True


def _write(folder: Path, video: int, number: int, frame: Frame, parameters: dict) -> None:
    paths = _paths(folder, video, number)
    for name, picture in frame._asdict().items():
        _write_whole(paths[name], cv2.imencode('.png', picture[..., ::-1])[1].tobytes())
    _write_whole(paths['parameters'], json.dumps(parameters, indent=2).encode())


def _write_whole(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + '.part')
    part.write_bytes(content)
    os.replace(part, path)


def _size(text: str) -> tuple[int, int]:
    try:
        width, height = (int(side) for side in text.split('x'))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f'{text!r} is no size: write WIDTHxHEIGHT, such as 1120x640'
        ) from None
    return width, height


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and write; 0 when all went well, 1 when not."""
    parser = configuration.parser('make lol_blur', __doc__)
    parser.add_argument('--photographs', nargs='+', required=True, metavar='FOLDER')
    parser.add_argument('--out', type=Path, required=True, metavar='DIR')
    parser.add_argument('--split', choices=SPLITS, default='train')
    parser.add_argument('--count', type=int, help='videos; one per photograph by default')
    parser.add_argument('--size', type=_size, default=(1120, 640), help='default: 1120x640')
    parser.add_argument('--frames', type=int, default=60, help='of a video (default: 60)')
    parser.add_argument('--seed', type=int, default=1, help='default: 1')
    options = parser.parse_args(arguments)
    try:
        paths = find_photographs(options.photographs, validation=options.split == 'test')
        synthesize(
            paths,
            options.out,
            options.split,
            options.count,
            options.size,
            options.frames,
            options.seed,
        )
    except (ValueError, OSError) as error:
        print(f'{parser.prog}: {error}', file=sys.stderr)
    except KeyboardInterrupt:
        print(f'{parser.prog}: interrupted; started again it goes on', file=sys.stderr)
    else:
        return 0
    return 1
