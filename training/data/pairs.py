"""Pairs of frames from disk: LOL-Blur as downloaded, two folders, and frames without reference.

LOL-Blur (LEDNet, Zhou et al. 2022) has 170 videos to train and 30 to test, each a folder of 60
frames of 1120x640 in several variants. The first and the last frames of a video are not
consecutive and their darkness differs, so each video is two clips; a jump in the frame numbers
says where the second begins.

Hidden files and whatever is no picture (LOL-Blur comes with .json) are left alone.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dap_led_ros.media import IMAGE_SUFFIXES, read_image
from dap_led_ros.pictures import eight_bit
from dap_led_training.data.batches import Stage

VARIANTS = ('low_blur_noise', 'low_blur', 'low_sharp')
"""The degraded folders of LOL-Blur; the first is the usual one."""
TARGET = 'high_sharp_scaled'
"""The target folder of LOL-Blur that results are published against."""
SPLITS = {'train': ('train',), 'test': ('test', 'eval')}
"""Splits of LOL-Blur, and the names that their folders go by."""

_LAYOUT = (
    'LOL-Blur as downloaded has train/ and test/ (or eval/), in each '
    f'{VARIANTS[0]}/<video>/<frame>.png and {TARGET}/<video>/<frame>.png'
)
_NAMED = 20  # names in an error message


class FramePair(NamedTuple):
    """Two pictures of one view, and the clip that they are from."""

    degraded: Path
    target: Path
    video: str
    """Frames of one name are consecutive and in order, where the file names tell."""


def lol_blur(
    root: str | Path, split: str = 'train', variant: str = VARIANTS[0]
) -> list[FramePair]:
    """Pairs of LOL-Blur, by video and frame; `video` is a clip, such as 0012/0 and 0012/1.

    :param root: the folder that holds train/ and test/ (or eval/), or one of these. Frames may be
        named <video>/<frame>.png or <video>_<frame>.png, or lie in one folder.
    :param split: train or test.
    :param variant: which folder is the degraded one, see VARIANTS; the target is TARGET.
    :raises FileNotFoundError: a folder is missing or has no picture.
    :raises ValueError: unknown split or variant, root is the other split, or frames without
        partner.
    """
    if variant not in VARIANTS:
        raise ValueError(f'no variant {variant!r} of LOL-Blur: use one of {", ".join(VARIANTS)}')
    folder = split_folder(root, split)
    degraded, target = folder / variant, folder / TARGET
    for needed in (degraded, target):
        if not needed.is_dir():
            raise FileNotFoundError(f'{needed} is missing: {_LAYOUT}')
    matched = _match(degraded, target, lambda path: '_'.join(path.with_suffix('').parts))
    names = clip_names([degraded / one for one, _ in matched], degraded)
    return [
        FramePair(degraded / one, target / other, name)
        for (one, other), name in zip(matched, names)
    ]


def split_folder(root: str | Path, split: str) -> Path:
    """Where the variants of a split lie: root/train, root/test, root/eval or root itself.

    :raises FileNotFoundError: there is none.
    :raises ValueError: unknown split, or root is the other split.
    """
    root = Path(root)
    if split not in SPLITS:
        raise ValueError(f'no split {split!r} of LOL-Blur: use one of {", ".join(SPLITS)}')
    for name in SPLITS[split]:
        if (root / name).is_dir():
            return root / name
    if not any((root / name).is_dir() for name in (*VARIANTS, TARGET)):
        raise FileNotFoundError(f'{root} has no {SPLITS[split][0]}/: {_LAYOUT}')
    own = root.resolve().name.lower().split('_')[0]
    if any(own in names for other, names in SPLITS.items() if other != split):
        raise ValueError(f'{root} is not the {split} split: give the folder that holds both')
    return root


def folders(degraded: str | Path, target: str | Path) -> list[FramePair]:
    """Pairs of two folders, by path inside them; suffixes may differ (a/1.jpg with a/1.png).

    `video` is the folder that a frame lies in.

    :raises FileNotFoundError: a folder is missing or has no picture.
    :raises ValueError: both are one folder, or frames without partner.
    """
    degraded, target = Path(degraded), Path(target)
    for folder in (degraded, target):
        if not folder.is_dir():
            raise FileNotFoundError(
                f'{folder} is missing: give two folders with pictures of the same names, '
                'degraded and target'
            )
    if degraded.resolve() == target.resolve():
        raise ValueError(f'{degraded} is given as degraded and as target: give two folders')
    return [
        FramePair(degraded / one, target / other, _folder_name(one.parent, degraded))
        for one, other in _match(degraded, target, lambda path: path.with_suffix('').as_posix())
    ]


def unpaired(root: str | Path) -> list[Path]:
    """Pictures of a folder and of the folders inside it, for what has no target.

    Real-LOL-Blur is one; clip_names() says which of its frames belong together.

    :raises FileNotFoundError: the folder is missing or has no picture.
    """
    return [Path(root) / path for path in _pictures(Path(root))]


def clip_names(paths: list[Path], root: Path) -> list[str]:
    """The clip of each frame, such as 0012/0 and 0012/1: a jump in the numbers begins a new one.

    A jump is more than the smallest step that occurs between frames of these paths. Frames are
    named <video>/<frame> or <video>_<frame>, both digits only (the video's folder may have any
    name); the clip of every other name is ''.
    """
    places = [_place(path.relative_to(root), root) for path in paths]
    videos: dict[str, set[int]] = defaultdict(set)
    for video, number in filter(None, places):
        videos[video].add(number)
    steps = {video: np.diff(sorted(numbers)) for video, numbers in videos.items()}
    usual = min((int(step.min()) for step in steps.values() if step.size), default=1)
    clips = {}
    for video, numbers in videos.items():
        indices = np.cumsum([0, *(steps[video] > usual)])
        clips.update({(video, n): f'{video}/{i}' for n, i in zip(sorted(numbers), indices)})
    return [clips[place] if place else '' for place in places]


def read_pair(pair: FramePair) -> tuple[np.ndarray, np.ndarray]:
    """Degraded and target, both (H, W, 3) uint8 RGB.

    :raises ValueError: a file is no picture, or the two differ in size.
    """
    degraded, target = (eight_bit(read_image(path)) for path in (pair.degraded, pair.target))
    if degraded.shape != target.shape:
        sizes = [f'{i.shape[1]}x{i.shape[0]}' for i in (degraded, target)]
        raise ValueError(
            f'{pair.degraded} is {sizes[0]} and {pair.target} is {sizes[1]}: '
            'the two pictures of a pair have one size'
        )
    return degraded, target


class PairedFrames:
    """Random crops of random pairs, alike in both pictures, flipped at random."""

    def __init__(self, pairs: list[FramePair]) -> None:
        if not pairs:
            raise ValueError('no pairs to train on')
        self.pairs = pairs

    def sample(self, stage: Stage, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Degraded and target, both (crop, crop, 3) uint8 RGB, drawn by `rng`.

        :raises ValueError: the frame is smaller than the crop, or its pair cannot be read.
        """
        pair = self.pairs[rng.integers(len(self.pairs))]
        degraded, target = read_pair(pair)
        height, width = degraded.shape[:2]
        if min(height, width) < stage.crop:
            raise ValueError(
                f'{pair.degraded} is {width}x{height}, smaller than the crop of {stage.crop}: '
                'make the crop smaller'
            )
        y, x = rng.integers(height - stage.crop + 1), rng.integers(width - stage.crop + 1)
        rows = slice(None, None, -1 if rng.random() < 0.5 else 1)
        columns = slice(None, None, -1 if rng.random() < 0.5 else 1)
        crops = (i[y : y + stage.crop, x : x + stage.crop] for i in (degraded, target))
        flipped = [np.ascontiguousarray(crop[rows, columns]) for crop in crops]
        return flipped[0], flipped[1]


def _pictures(folder: Path) -> list[Path]:
    """Paths inside the folder, links followed, hidden ones left out; 9 comes before 10."""
    found = []
    for where, inner, names in os.walk(folder, followlinks=True):
        inner[:] = [name for name in inner if not name.startswith('.')]
        found += [
            Path(where, name).relative_to(folder)
            for name in names
            if not name.startswith('.') and Path(name).suffix.lower() in IMAGE_SUFFIXES
        ]
    if not found:
        raise FileNotFoundError(f'no pictures in {folder} ({", ".join(IMAGE_SUFFIXES)})')
    return sorted(found, key=lambda path: [_natural(part) for part in path.parts])


def _natural(name: str) -> list[str | int]:
    return [int(t) if i % 2 else t for i, t in enumerate(re.split('([0-9]+)', name))]


def _match(degraded: Path, target: Path, key: Callable[[Path], str]) -> list[tuple[Path, Path]]:
    """Pictures of two folders, relative: by the same path or, where there is none, by key."""
    sides = [_pictures(folder) for folder in (degraded, target)]
    common = set(sides[0]) & set(sides[1])
    partners = {path: path for path in common}
    rest: list[dict[str, Path]] = [{}, {}]
    for folder, paths, by_key in zip((degraded, target), sides, rest):
        for path in paths:
            if path not in common and by_key.setdefault(key(path), path) != path:
                raise ValueError(
                    f'{path} and {by_key[key(path)]} of {folder} would be the same frame: '
                    'take one of them out'
                )
    for name in rest[0].keys() & rest[1].keys():
        partners[rest[0].pop(name)] = rest[1].pop(name)
    if rest[0] or rest[1]:
        raise ValueError(
            f'frames without partner: {_listed(rest[0], degraded)}; {_listed(rest[1], target)}'
        )
    return [(path, partners[path]) for path in sides[0]]


def _listed(paths: dict[str, Path], folder: Path) -> str:
    names = [path.as_posix() for path in paths.values()]
    more = f' and {len(names) - _NAMED} more' if len(names) > _NAMED else ''
    listed = f' ({", ".join(names[:_NAMED])}{more})' if names else ''
    return f'{len(names)} only in {folder}{listed}'


def _place(path: Path, root: Path) -> tuple[str, int] | None:
    """Video and frame number of a relative path, where its name tells."""
    found = re.fullmatch('(?:([0-9]+)_)?([0-9]+)', path.stem)
    if not found:
        return None
    return _folder_name(path.parent / (found[1] or ''), root), int(found[2])


def _folder_name(folder: Path, root: Path) -> str:
    """Path of a folder inside root; root's own name where it is root."""
    return root.resolve().name if folder == Path() else folder.as_posix()
