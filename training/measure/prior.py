"""Measure degradation priors: python -m dap_led_training measure prior [CLIP] [options].

Photographs that no training saw are fitted to 640x480 and degraded with known exposure and known
blur. Printed for each prior:

* Spearman's rank correlation of its low-light score with the exposure that was lost, and of its
  blur score with the length of the camera's path, over all frames;
* for a CLIP, the zero-shot accuracy over four classes: clean (untouched), dark (exposure <= 0.2,
  not blurred), blurry (path >= 7 px, not darkened), and both. A frame is given to the prompt whose
  embedding is nearest;
* the share of the frames of each class whose joint score is on the right side of a half, for the
  CLIP's own prompts and for those of --prompts;
* on half-degraded frames, the share of frames whose heat-map is higher on the degraded half;
* for the distilled prior, Pearson's correlation with the CLIP's maps and scores.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics.functional import pearson_corrcoef, spearman_corrcoef
from tqdm import tqdm

from dap_led_ros.checkpoints.priors import build_prior, load_clip
from dap_led_ros.media import write_image
from dap_led_ros.priors import NAMES, PriorConfig
from dap_led_training import configuration
from dap_led_training.data.classes import (
    CLASSES,
    FOUR_CLASSES,
    VALIDATION_SEED,
    class_of,
    class_texts,
    to_tensor,
)
from dap_led_training.data.labelled_frames import LabelledFrames, Mixture, render, resize
from dap_led_training.data.photographs import FOLDERS, find_photographs, read_rgb
from dap_led_training.night.night_blur import NightBlurConfig, degrade, margin

Figures = dict[str, float]


def correlations(prior: nn.Module, frames: LabelledFrames) -> Figures:
    """Spearman's correlation of the scores with the truth."""
    scores = torch.stack(
        [prior(to_tensor(frame)).scores[0] for frame in tqdm(frames.frames, leave=False)]
    )
    lost = torch.tensor([1 - label.exposure for label in frames.labels])
    path = torch.tensor([label.path_length for label in frames.labels])
    return {
        'low_light': float(spearman_corrcoef(scores[:, NAMES.index('low_light')], lost)),
        'blur': float(spearman_corrcoef(scores[:, NAMES.index('blur')], path)),
    }


def zero_shot(config: PriorConfig, frames: LabelledFrames) -> Figures:
    """Accuracy over the four classes, and of each class."""
    prior = build_prior(config)
    texts = class_texts(load_clip(config))
    right: dict[str, list[bool]] = {name: [] for name in CLASSES}
    for frame, label in zip(tqdm(frames.frames, leave=False), frames.labels):
        truth = class_of(label)
        if truth is None:
            continue
        with torch.no_grad():
            image = functional.normalize(prior.embed(to_tensor(frame)), dim=-1)
        nearest = list(CLASSES)[int((texts @ image[0]).argmax())]
        right[truth].append(nearest == truth)
    every = [value for values in right.values() for value in values]
    return {
        'accuracy': float(np.mean(every)),
        'frames': len(every),
        **{name: float(np.mean(values)) for name, values in right.items()},
    }


def right_side(prior: nn.Module, frames: LabelledFrames) -> Figures:
    """Share of the frames of each class whose joint score says clean, or degraded, as they are."""
    right: dict[str, list[bool]] = {name: [] for name in CLASSES}
    for frame, label in zip(tqdm(frames.frames, leave=False), frames.labels):
        if truth := class_of(label):
            score = float(prior(to_tensor(frame)).scores[0, NAMES.index('joint')])
            right[truth].append((score > 0.5) == (truth != 'clean'))
    return {name: float(np.mean(values)) for name, values in right.items()}


def half_degraded(prior: nn.Module, frames: LabelledFrames, count: int = 100) -> Figures:
    """How often the degraded half of a heat-map is the higher one, dark or blurred."""
    found: dict[str, list[bool]] = {'low_light': [], 'blur': []}
    for index, label in enumerate(frames.labels[: 4 * count]):
        kind = {'dark': 'low_light', 'blurry': 'blur'}.get(class_of(label) or '')
        if not kind or len(found[kind]) == count:
            continue
        left = index % 2 == 0
        frame = halves(frames.frames[index], frames.sharp(index), left)
        heatmap = prior(to_tensor(frame)).heatmaps[0, NAMES.index(kind)]
        middle = heatmap.shape[1] // 2
        sides = heatmap[:, :middle].mean(), heatmap[:, middle:].mean()
        found[kind].append(bool(sides[0] > sides[1]) == left)
    return {name: float(np.mean(values)) for name, values in found.items()}


def halves(degraded: np.ndarray, sharp: np.ndarray, left: bool) -> np.ndarray:
    """A frame that is degraded on its left or on its right half."""
    frame, middle = sharp.copy(), sharp.shape[1] // 2
    side = slice(0, middle) if left else slice(middle, None)
    frame[:, side] = degraded[:, side]
    return frame


def imitation(student: nn.Module, teacher: nn.Module, frames: LabelledFrames) -> Figures:
    """Pearson's correlation of a student with its teacher: of all cells, and of the scores."""
    maps: list[tuple[Tensor, Tensor]] = []
    scores: list[tuple[Tensor, Tensor]] = []
    for frame in tqdm(frames.frames, leave=False):
        mine, theirs = student(to_tensor(frame)), teacher(to_tensor(frame))
        # On the teacher's grid; the student's is finer or coarser with the size of the frame.
        grid = functional.interpolate(mine.heatmaps, theirs.heatmaps.shape[2:], mode='bilinear')
        maps.append((grid.flatten(2)[0].T, theirs.heatmaps.flatten(2)[0].T))
        scores.append((mine.scores, theirs.scores))
    result = {}
    for kind, pairs in (('map', maps), ('score', scores)):
        mine, theirs = (torch.cat(values) for values in zip(*pairs))
        correlation = pearson_corrcoef(mine, theirs)
        result |= {f'{name} {kind}': float(c) for name, c in zip(NAMES, correlation)}
    return result


def figure(priors: dict[str, nn.Module], photograph: np.ndarray) -> np.ndarray:
    """A photograph darkened and blurred on one half, beside the heat-maps: an RGB picture.

    One row for each prior and degradation: frame, low-light map, blur map; black is 0, white 1.
    """
    view, rows = resize(photograph, 480, 360), []
    for name, config in (
        ('dark', NightBlurConfig(daylight=0, blur=0, law_linear=1, law_gamma=0, lamps=0)),
        ('blurred', NightBlurConfig(daylight=1, blur=1, path_length=(13, 14), straight=1)),
    ):
        m, rng = margin(config), np.random.default_rng(5)
        wide = cv2.copyMakeBorder(view, m, m, m, m, cv2.BORDER_REFLECT)
        frame = halves(degrade(wide, config, rng)[0], view, left=name == 'dark')
        for prior in priors.values():
            maps = prior(to_tensor(frame)).heatmaps[0]
            grey = [(maps[NAMES.index(n)].numpy() * 255).astype(np.uint8) for n in NAMES[1:]]
            shown = [cv2.resize(g, (480, 360), interpolation=cv2.INTER_CUBIC) for g in grey]
            rows.append(np.hstack([frame, *(cv2.cvtColor(g, cv2.COLOR_GRAY2RGB) for g in shown)]))
    return np.vstack(rows)


def _parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = configuration.parser('measure prior', __doc__)
    parser.add_argument('clip', nargs='?', default='degradation-clip-tiny')
    parser.add_argument('--photographs', nargs='+', metavar='FOLDER')
    parser.add_argument('--frames', type=int, default=400)
    parser.add_argument(
        '--cache', type=Path, default=Path('runs/prior_frames'), help='keeps the rendered frames'
    )
    parser.add_argument(
        '--figure',
        nargs=2,
        metavar=('PHOTOGRAPH', 'FIGURE'),
        help='draw heat-maps of a photograph',
    )
    parser.add_argument(
        '--prompts',
        nargs='+',
        default=[],
        metavar='FILE',
        help='learned by a recipe of kind clip_lit',
    )
    parser.add_argument('--json', type=Path, help='write the figures here too')
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Print the figures, and write them as JSON where asked."""
    options = _parser().parse_args(arguments)
    cv2.setNumThreads(1)
    folders = options.photographs or FOLDERS
    photographs = find_photographs(folders, validation=True)
    mixed = render(photographs, options.frames, 77, options.cache / 'mixed', Mixture())
    folder = options.cache / 'classes'
    classes = render(photographs, options.frames, VALIDATION_SEED, folder, FOUR_CLASSES)
    clip = PriorConfig(clip=options.clip)
    priors = {
        options.clip: build_prior(clip),
        'handcrafted': build_prior(PriorConfig('handcrafted')),
    }
    try:
        priors['distilled'] = build_prior(PriorConfig('distilled'))
    except FileNotFoundError as error:
        print(f'no distilled prior: {error}')
    figures: dict[str, dict[str, Figures]] = {}
    print(f'{len(photographs)} photographs, {options.frames} frames of each kind, 640x480')
    print(f'{"":24}  Spearman low-light / blur   half-degraded low-light / blur')
    for name, prior in priors.items():
        figures[name] = {
            'spearman': correlations(prior, mixed),
            'half_degraded': half_degraded(prior, classes),
        }
        cells = [f'{row["low_light"]:10.3f} / {row["blur"]:.3f}' for row in figures[name].values()]
        print(f'{name:24}  {cells[0]:27} {cells[1]}')
    figures[options.clip]['zero_shot'] = found = zero_shot(clip, classes)
    print(f'zero-shot accuracy of {options.clip} over {found["frames"]} frames: ', end='')
    print(f'{found["accuracy"]:.3f} (' + ', '.join(f'{c} {found[c]:.3f}' for c in CLASSES) + ')')
    for prompts in (None, *options.prompts):
        learned = PriorConfig('learned', options.clip, prompts=prompts) if prompts else clip
        found = right_side(build_prior(learned), classes)
        figures.setdefault(prompts or options.clip, {})['joint'] = found
        shares = ', '.join(f'{c} {found[c]:.3f}' for c in CLASSES)
        print(f'joint score of {prompts or options.clip} on the right side of 0.5: {shares}')
    if 'distilled' in priors:
        like = imitation(priors['distilled'], priors[options.clip], mixed)
        figures['distilled']['imitation'] = like
        print(
            'distilled against its teacher: ' + ', '.join(f'{k} {v:.3f}' for k, v in like.items())
        )
    if options.figure:
        photograph, path = options.figure
        drawn = {name: p for name, p in priors.items() if name != 'handcrafted'}
        write_image(Path(path), figure(drawn, read_rgb(Path(photograph))))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(figures, indent=2) + '\n')
