"""A base with its PTG-RM refiner: one of our networks, or an ONNX file of somebody else's."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dap_led_ros.inference.backends.onnx import runtime
from dap_led_ros.models.refiner import Refiner
from dap_led_ros.priors.clip import ClipPrior


class OnnxBase(nn.Module):
    """An ONNX enhancer between torch tensors; ONNX Runtime runs it on the CPU, without gradients.

    Held as the file's bytes, so that a checkpoint is whole without it.
    """

    def __init__(self, content: bytes, name: str = 'the ONNX enhancer') -> None:
        """Open the graph.

        :raises ValueError: it is no graph with one float input (B, 3, H, W) and one output, or
            its height and width are fixed.
        :raises RuntimeError: ONNX Runtime is missing.
        """
        super().__init__()
        self.content, self.name = content, name
        options = runtime().SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        options.add_session_config_entry('session.force_spinning_stop', '1')
        try:
            self._session = runtime().InferenceSession(
                content, options, providers=['CPUExecutionProvider']
            )
        except Exception as error:  # ONNX Runtime raises many classes of its own
            raise ValueError(f'{name} cannot be loaded as a model: {error}') from None
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        fixed = [size if isinstance(size, int) else None for size in inputs[0].shape]
        if (
            [len(inputs), len(outputs)] != [1, 1]
            or inputs[0].type != 'tensor(float)'
            or len(fixed) != 4
            or fixed[0] not in (None, 1)
            or fixed[1] not in (None, 3)
        ):
            raise ValueError(
                f'{name} is no enhancer: expected one float input (B, 3, H, W) and one output'
            )
        if fixed[2:] != [None, None]:
            raise ValueError(f'{name} takes one size alone: export it with free height and width')
        self.input, self.output = inputs[0].name, outputs[0].name

    def forward(self, frame: Tensor) -> Tensor:
        """Enhance (B, 3, H, W); one by one, because many files fix the batch to 1.

        :raises ValueError: the graph changes the size.
        """
        planes = np.ascontiguousarray(frame.detach().float().cpu().numpy())
        parts = [self._session.run(None, {self.input: one[None]})[0] for one in planes]
        enhanced = np.concatenate(parts)
        if enhanced.shape != planes.shape:
            raise ValueError(
                f'{self.name} changes {planes.shape} to {enhanced.shape}: not an enhancer'
            )
        return torch.from_numpy(enhanced).to(frame.device)


class Refined(nn.Module):
    """Base, refiner and prior: frames in, refined frames out."""

    def __init__(self, base: nn.Module, refiner: Refiner, prior: ClipPrior | None) -> None:
        """Put them together; a baked refiner needs no prior."""
        super().__init__()
        self.base = base
        self.refiner = refiner
        self.prior = None if refiner.config.baked else prior

    def forward(self, frame: Tensor) -> Tensor:
        """Enhance (B, 3, H, W) in [0, 1]; not clamped."""
        return self.refine(frame, self.base(frame))

    def refine(self, frame: Tensor, enhanced: Tensor) -> Tensor:
        """Refine what the base made of a frame."""
        embedding = None if self.prior is None else embed(self.prior, frame)
        return self.refiner(frame, enhanced, embedding)

    def baked(self) -> Refined:
        """The same with the mean embedding of the training in place of the CLIP's."""
        refiner = copy.deepcopy(self.refiner)
        refiner.config = dataclasses.replace(refiner.config, baked=True)
        return Refined(self.base, refiner, None)


def embed(prior: ClipPrior, frame: Tensor) -> Tensor:
    """g: the CLIP's global embedding of frames (B, 3, H, W), unit vectors (B, D)."""
    with torch.no_grad():
        return functional.normalize(prior.embed(frame), dim=-1)
