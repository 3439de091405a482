"""The CLIP prior: dense image tokens against prompts (DAP-LED section III-B, eq. 1)."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor, nn
from torch.nn import functional

from dap_led_ros.priors import Degradation

PROMPT_PAIRS: tuple[tuple[str, str], ...] = (
    ('This is a low-light and blurry image.', 'This is a bright and sharp image.'),
    ('This is a low-light image.', 'This is a bright image.'),
    ('This is a blurry image.', 'This is a sharp image.'),
)
"""The degraded prompt and its antonym, for each of NAMES; the first one is the paper's."""


class ClipPrior(nn.Module):
    """Heat-maps and scores read off a frozen CLIP.

    Only the image tower is kept: the prompts are embedded once and stored with the checkpoint.
    """

    def __init__(
        self,
        visual: nn.Module,
        texts: Tensor,
        logit_scale: float,
        dense_mode: str = 'last',
        antonyms: bool = True,
    ) -> None:
        """Wrap an image tower.

        :param visual: VisionTransformer of open_clip, with image_size, image_mean and image_std.
        :param texts: (K, 2, D) unit embeddings of PROMPT_PAIRS.
        :param logit_scale: factor on cosines before the softmax; CLIP's own.
        :param antonyms: a softmax over both prompts; without, the joint map and score are the
            cosine to the degraded prompt alone, and what is below zero is zero.
        :raises ValueError: a tower that has no blocks of the usual kind.
        """
        super().__init__()
        blocks = getattr(getattr(visual, 'transformer', None), 'resblocks', None)
        if not blocks or not isinstance(getattr(blocks[-1], 'attn', None), nn.MultiheadAttention):
            raise ValueError('the CLIP prior needs a ViT of open_clip, like ViT-B-16 or ViT-L-14')
        self.visual = visual.eval().requires_grad_(False)
        self.dense_mode = dense_mode
        self.antonyms = antonyms
        size = visual.image_size
        self.size = (size, size) if isinstance(size, int) else tuple(size)
        self.register_buffer('texts', texts.float())
        self.register_buffer('logit_scale', torch.tensor(float(logit_scale)))
        for name, values in (('mean', visual.image_mean), ('std', visual.image_std)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    @property
    def fingerprint(self) -> int:
        """Tells one image tower from another of the same name, trained again."""
        return zlib.crc32(self.visual.proj.detach().float().cpu().numpy().tobytes())

    def train(self, mode: bool = True) -> ClipPrior:
        """Stays in evaluation mode: a prior is frozen."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, frame: Tensor) -> Degradation:
        """Estimate the degradation of (B, 3, H, W); heat-maps of the token grid's size."""
        # Half precision on a GPU, full on a CPU.
        with torch.autocast(frame.device.type, torch.float16, enabled=frame.is_cuda):
            blocks = self.visual.forward_intermediates(
                self._pixels(frame), indices=2, output_fmt='NLC'
            )
            tokens = self._dense(*blocks['image_intermediates'])
        pooled = functional.normalize(blocks['image_features'].float(), dim=-1)
        tokens = functional.normalize(tokens.float(), dim=-1)
        height, width = self.visual.grid_size
        maps = self._compare(tokens).unflatten(1, (height, width)).permute(0, 3, 1, 2)
        return Degradation(maps, self._compare(pooled[:, None])[:, 0])

    def embed(self, frame: Tensor) -> Tensor:
        """E_i of eq. 5 and 6: (B, 3, H, W) -> (B, D), not normalized, differentiable.

        In bf16 on a GPU that has it, else in full precision: the weighted gradient of eq. 6 is
        below what fp16 can hold.
        """
        half = frame.is_cuda and torch.cuda.is_bf16_supported()
        with torch.autocast(frame.device.type, torch.bfloat16, enabled=half):
            return self.visual(self._pixels(frame)).float()

    def layers(self, frame: Tensor, indices: list[int]) -> tuple[list[Tensor], Tensor]:
        """What blocks put out, and what embed() does; differentiable.

        :returns: tokens (B, N, width) of each block in `indices` (from 0, rising), and (B, D).
        """
        found = self.visual.forward_intermediates(
            self._pixels(frame), indices=indices, output_fmt='NLC'
        )
        return found['image_intermediates'], found['image_features'].float()

    def _pixels(self, frame: Tensor) -> Tensor:
        """The whole frame at the tower's size; its aspect is not kept, as in training."""
        resized = functional.interpolate(
            frame.float(), self.size, mode='bicubic', antialias=True, align_corners=False
        )
        return (resized.clamp(0, 1) - self.mean) / self.std

    def _dense(self, before: Tensor, after: Tensor) -> Tensor:
        """Patch tokens (B, N, width) before and after the last block -> (B, N, D)."""
        visual = self.visual
        block = visual.transformer.resblocks[-1]
        if self.dense_mode != 'last':
            attention = block.attn
            values = functional.linear(
                block.ln_1(before),
                attention.in_proj_weight.chunk(3)[2],
                attention.in_proj_bias.chunk(3)[2],
            )
            if self.dense_mode == 'vv':  # CLIP Surgery, Li et al. 2023, eq. 7
                heads = values.unflatten(2, (attention.num_heads, -1)).transpose(1, 2)
                heads = functional.scaled_dot_product_attention(heads, heads, heads)
                values = heads.transpose(1, 2).flatten(2)
            after = attention.out_proj(values)  # MaskCLIP, Zhou et al. 2022, section 3.2
        return visual.ln_post(after) @ visual.proj

    def _compare(self, images: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, K) in [0, 1]: how degraded each embedding is."""
        cosines = torch.einsum('bnd,kpd->bnkp', images, self.texts)
        degraded = (self.logit_scale * cosines).softmax(-1)[..., 0]
        if not self.antonyms:
            degraded[..., 0] = cosines[..., 0, 0].clamp(0, 1)
        return degraded
