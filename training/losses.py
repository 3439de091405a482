"""Losses between an enhanced and a target frame.

Frames are (B, 3, H, W), targets in [0, 1]; every loss is a scalar.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dap_led_ros.priors.clip import ClipPrior

POLARITIES = ('degraded', 'clean', 'pair')
_WINDOW, _STRIDE, _SCALES = 7, 3, 5
CONTRAST_LEAST = _WINDOW * 2 ** (_SCALES - 1)
"""Smallest side of the crops that contrast() takes, pixels."""


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms, and how the CLIP terms are read. DAP-LED: identity 0.1, clip 0.01."""

    charbonnier: float = 1.0
    gradient: float = 0.0
    dissimilarity: float = 0.0
    contrast: float = 0.0
    grid: float = 0.0
    gate: float = 0.0
    identity: float = 0.0
    clip: float = 0.0
    identity_normalized: bool = True
    """The distance of unit embeddings; else of embeddings as they come, as eq. 5 is written."""
    polarity: str = 'degraded'
    """Eq. 6: away from the degraded prompt, or towards its `clean` antonym; pair: both, as a
    probability (CLIP-LIT eq. 3)."""

    def __post_init__(self) -> None:
        """Refuse a polarity that there is not.

        :raises ValueError: the polarity is none of POLARITIES.
        """
        if self.polarity not in POLARITIES:
            raise ValueError(f'losses.polarity: {self.polarity!r} is not one of {POLARITIES}')


def charbonnier(enhanced: Tensor, target: Tensor, epsilon: float = 1e-3) -> Tensor:
    """Mean of sqrt(difference^2 + epsilon^2) (DAP-LED eq. 4)."""
    return torch.sqrt((enhanced - target) ** 2 + epsilon**2).mean()


def gradient(enhanced: Tensor, target: Tensor) -> Tensor:
    """L1 distance of the horizontal and vertical differences: blur costs, brightness does not."""
    difference = enhanced - target
    dx = difference[..., :, 1:] - difference[..., :, :-1]
    dy = difference[..., 1:, :] - difference[..., :-1, :]
    return dx.abs().mean() + dy.abs().mean()


def dissimilarity(enhanced: Tensor, target: Tensor) -> Tensor:
    """1 - SSIM with a uniform window (Wang et al. 2004, eq. 13), over full windows only.

    The uniform window and its stride are for speed (every pixel still counts in several windows);
    evaluation uses the usual Gaussian of 11 x 11 at every pixel.
    """
    c1, c2 = 0.01**2, 0.03**2
    means, variances, covariance = _windows(enhanced, target)
    product, squares = means[0] * means[1], means[0] ** 2 + means[1] ** 2
    ssim = ((2 * product + c1) * (2 * covariance + c2)) / ((squares + c1) * (sum(variances) + c2))
    return 1 - ssim.mean()


def contrast(enhanced: Tensor, target: Tensor) -> Tensor:
    """1 - contrast and structure of multi-scale SSIM (after Wang et al. 2003, eq. 7).

    An absolute error is least for a picture that is too smooth where the network is not sure, and
    for one that is flat where it cannot tell how bright. This term is least where the contrast
    within a window is as large as the target's, however bright the window is. The mean over
    windows of 7 x 7 pixels at five scales, the frame's size, 1/2, ... 1/16, and over the scales.

    :param enhanced: H and W of at least CONTRAST_LEAST.
    """
    total = enhanced.new_zeros(())
    for scale in range(_SCALES):
        if scale:
            enhanced, target = (functional.avg_pool2d(x, 2) for x in (enhanced, target))
        _, variances, covariance = _windows(enhanced, target)
        c = 0.01**2  # SSIM's is nine times as large: here faint texture counts
        total = total + 1 - ((2 * covariance + c) / (sum(variances) + c)).mean()
    return total / _SCALES


def _windows(
    enhanced: Tensor, target: Tensor
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], Tensor]:
    """Means and variances of both frames in windows, and their covariance there."""
    both = torch.cat([enhanced, target, enhanced**2, target**2, enhanced * target])
    mean_e, mean_t, square_e, square_t, product = functional.avg_pool2d(
        both, _WINDOW, _STRIDE
    ).chunk(5)
    variances = square_e - mean_e**2, square_t - mean_t**2
    return (mean_e, mean_t), variances, product - mean_e * mean_t


def grid(enhanced: Tensor, target: Tensor, period: int = 4) -> Tensor:
    """Error that repeats with the network's unshuffle period, whatever it is elsewhere.

    The signed error is averaged over all cells of period x period pixels, one mean per place in
    the cell; the loss is how far these means are from one another. H and W divide by the period.
    """
    error = functional.pixel_unshuffle(enhanced - target, period)
    places = error.mean((2, 3)).reshape(len(error), 3, period * period)
    return (places - places.mean(-1, keepdim=True)).abs().mean()


def is_degraded(degraded: Tensor, target: Tensor) -> Tensor:
    """(B,): whether a frame is not its own target."""
    return (degraded != target).flatten(1).any(1)


def gate_error(logits: Tensor, degraded: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of the gate (B,): open on a degraded frame, closed on an undegraded one."""
    needed = is_degraded(degraded, target).to(logits.dtype)
    return functional.binary_cross_entropy_with_logits(logits, needed)


def identity(
    enhanced: Tensor, target: Tensor, judge: ClipPrior, normalized: bool = True
) -> Tensor:
    """Distance in the CLIP's embedding space (DAP-LED eq. 5): L2 norm, mean over the batch.

    :param normalized: of unit embeddings, from 0 to 2. As the paper writes it, without, the norm
        of the embeddings decides how much the weight of 0.1 is.
    """
    with torch.no_grad():
        reference = judge.embed(target)
    embedded = judge.embed(enhanced)
    if normalized:
        embedded = functional.normalize(embedded, dim=-1)
        reference = functional.normalize(reference, dim=-1)
    return torch.sqrt(((embedded - reference) ** 2).sum(-1) + 1e-12).mean()


def clip(enhanced: Tensor, judge: ClipPrior, polarity: str = 'degraded') -> Tensor:
    """Cosine to the joint prompt (DAP-LED eq. 6), with the sign that training can minimize.

    The prompt describes the degraded input, so the cosine itself is to fall. With `clean`, its
    antonym's cosine is to rise. With `pair`, the probability of the degraded one is to fall.
    """
    return clip_of_embedding(judge.embed(enhanced), judge, polarity)


def clip_of_embedding(embedded: Tensor, judge: ClipPrior, polarity: str) -> Tensor:
    """clip() of frames that are embedded already: (B, D)."""
    embedded = functional.normalize(embedded, dim=-1)
    if polarity == 'pair':
        return degradedness(embedded, judge.texts[0], judge.logit_scale).mean()
    degraded, clean = judge.texts[0]
    return ((embedded @ degraded) if polarity == 'degraded' else -(embedded @ clean)).mean()


def degradedness(embedded: Tensor, pair: Tensor, scale: Tensor) -> Tensor:
    """S of CLIP-LIT eq. 6: unit embeddings (B, D), prompts (2, D) -> (B,) in [0, 1].

    :param scale: the CLIP's own factor on cosines. The paper's equations leave it out; without it
        S stays between 0.12 and 0.88, and their margin of 0.9 is out of reach.
    """
    return (scale * embedded @ pair.T).softmax(-1)[:, 0]


def weighted_terms(
    weights: LossWeights,
    degraded: Tensor,
    enhanced: Tensor,
    target: Tensor,
    gate: Tensor | None = None,
    judge: ClipPrior | None = None,
) -> dict[str, Tensor]:
    """Loss terms, weighted (eq. 7); a term of weight zero is not computed.

    :param gate: logits (B,) of a network that has a gate; see gate_error().
    :param judge: the CLIP that identity and clip ask.
    :raises ValueError: a gate's loss for a network that has none, or no loss at all.
    """
    terms: dict[str, Tensor] = {}
    for name, term in (
        ('charbonnier', charbonnier),
        ('gradient', gradient),
        ('dissimilarity', dissimilarity),
        ('contrast', contrast),
        ('grid', grid),
    ):
        if weight := getattr(weights, name):
            terms[name] = weight * term(enhanced, target)
    if weights.gate:
        if gate is None:
            raise ValueError('losses.gate: this network has no gate; set its weight to 0')
        terms['gate'] = weights.gate * gate_error(gate, degraded, target)
    if weights.identity:
        terms['identity'] = weights.identity * identity(
            enhanced, target, judge, weights.identity_normalized
        )
    if weights.clip:
        terms['clip'] = weights.clip * clip(enhanced, judge, weights.polarity)
    if not terms:
        raise ValueError('losses: all weights are 0; give at least one')
    return terms
