"""Four classes of frames, clean, dark, blurry and both, and the texts that name them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from dap_led_ros.checkpoints.priors import embed_prompts
from dap_led_training.data.labelled_frames import Label, Mixture

CLASSES = {
    'clean': 'This is a bright and sharp image.',
    'dark': 'This is a low-light and sharp image.',
    'blurry': 'This is a bright and blurry image.',
    'both': 'This is a low-light and blurry image.',
}
# Only the four classes, a quarter each, and nothing between them.
FOUR_CLASSES = Mixture(dark=0.5, dim=0.0, blurry=0.5, shaken=0.0, grain=0.0)
VALIDATION_SEED = 78
"""Of the held-out frames of the four classes: all that is measured is of the same ones."""


def class_of(label: Label) -> str | None:
    """The class of a frame by its true parameters; None between the classes."""
    dark, blurry = label.exposure <= 0.2, label.path_length >= 7
    if (not dark and label.exposure < 1) or (not blurry and label.path_length > 0):
        return None
    return {(0, 0): 'clean', (1, 0): 'dark', (0, 1): 'blurry', (1, 1): 'both'}[dark, blurry]


def class_texts(clip: nn.Module) -> Tensor:
    """Unit embeddings (4, D) of the CLASSES, in their order."""
    return embed_prompts(clip, tuple((text, text) for text in CLASSES.values()))[:, 0]


def to_tensor(frame: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 -> (1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.array(frame)).permute(2, 0, 1)[None].float() / 255
