"""Captions of a degradation in many wordings, and how far each one fits a frame.

A caption speaks of light, of blur, or of both. Words are not thresholds: a frame with 0.3 of its
light is half dark. So a caption fits a frame to a degree in [0, 1], and many captions fit the same
frame; the contrastive loss takes all of them as positives, in proportion.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Level = Callable[[np.ndarray], np.ndarray]


def _above(threshold: float, width: float) -> Level:
    return lambda x: 1 / (1 + np.exp(-(x - threshold) / width))


def _below(threshold: float, width: float) -> Level:
    return lambda x: 1 / (1 + np.exp((x - threshold) / width))


def _between(low: float, high: float, width: float) -> Level:
    return lambda x: _above(low, width)(x) * _below(high, width)(x)


# Levels of log(exposure) and of the path length in pixels at 640x480.
LIGHT: dict[str, Level] = {
    'bright': _above(np.log(0.35), 0.25),
    'dim': _between(np.log(0.12), np.log(0.6), 0.2),
    'dark': _below(np.log(0.35), 0.25),
    'very dark': _below(np.log(0.05), 0.25),
}
BLUR: dict[str, Level] = {
    'sharp': _below(4.0, 0.9),
    'slightly blurry': _between(2.5, 9.0, 0.8),
    'blurry': _above(4.0, 0.9),
    'very blurry': _above(14.0, 1.5),
}
WORDS: dict[str, tuple[str, ...]] = {
    'bright': ('bright', 'well-lit', 'well-exposed', 'normal-light', 'daylight'),
    'dim': ('dim', 'dusky', 'slightly dark', 'poorly lit'),
    'dark': ('dark', 'low-light', 'underexposed', 'night'),
    'very dark': ('very dark', 'nearly black', 'pitch-dark', 'extremely low-light'),
    'sharp': ('sharp', 'crisp', 'clear', 'in-focus', 'steady'),
    'slightly blurry': ('slightly blurry', 'somewhat soft', 'a little shaken', 'mildly blurred'),
    'blurry': ('blurry', 'blurred', 'motion-blurred', 'shaken', 'smeared'),
    'very blurry': ('very blurry', 'heavily blurred', 'strongly shaken', 'badly smeared'),
}
_NOUNS = ('image', 'photo', 'picture', 'photograph', 'frame')
_BOTH = (
    'This is a {a} and {b} {noun}.',
    'a {a} and {b} {noun}',
    'a {a}, {b} {noun}',
    'the {noun} is {a} and {b}',
    'A {noun} that is {a} and {b}.',
)
_ONE = (
    'This is a {a} {noun}.',
    'a {a} {noun}',
    'the {noun} is {a}',
    'A {noun} that is {a}.',
    'a {noun} of a scene, {a}',
)
_CLEAN = ('a clean {noun}', 'This is a good {noun}.', 'an undegraded {noun}', 'a flawless {noun}')


@dataclass(frozen=True)
class Caption:
    """A text, and the levels of light and blur that it claims; '' claims nothing."""

    text: str
    light: str = ''
    blur: str = ''


def write_caption(exposure: float, path_length: float, rng: np.random.Generator) -> Caption:
    """Describe a frame in one of the many ways that fit it."""
    light = _draw(LIGHT, np.log(exposure), rng)
    blur = _draw(BLUR, path_length, rng)
    noun, kind = str(rng.choice(_NOUNS)), rng.random()
    if light == 'bright' and blur == 'sharp' and kind < 0.1:
        return Caption(str(rng.choice(_CLEAN)).format(noun=noun), light, blur)
    if kind < 0.6:
        words = [str(rng.choice(WORDS[light])), str(rng.choice(WORDS[blur]))]
        if rng.random() < 0.3:
            words.reverse()
        template = str(rng.choice(_BOTH))
        return Caption(template.format(a=words[0], b=words[1], noun=noun), light, blur)
    level = light if kind < 0.78 else blur
    text = str(rng.choice(_ONE)).format(a=rng.choice(WORDS[level]), noun=noun)
    return Caption(text, light=level) if level == light else Caption(text, blur=level)


def agreement(
    captions: list[Caption], exposure: np.ndarray, path_length: np.ndarray
) -> np.ndarray:
    """How far each caption fits each frame: (frames, captions) in [0, 1].

    :param exposure: (frames,) light that is left, in (0, 1].
    :param path_length: (frames,) in pixels at 640x480.
    """
    light = {name: level(np.log(exposure)) for name, level in LIGHT.items()}
    blur = {name: level(path_length) for name, level in BLUR.items()}
    light[''] = blur[''] = np.ones(len(exposure))
    return np.stack([light[c.light] * blur[c.blur] for c in captions], axis=1).astype(np.float32)


def _draw(levels: dict[str, Level], value: float, rng: np.random.Generator) -> str:
    fits = np.array([level(value) for level in levels.values()])
    return str(rng.choice(list(levels), p=fits / fits.sum()))
