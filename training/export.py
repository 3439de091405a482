"""Export a nano to ONNX: python -m dap_led_training.export WEIGHTS.safetensors OUT.onnx.

The ONNX file is the float core: input `frame` and output `enhanced`, (B, 3, H, W) RGB in [0, 1],
B, H and W free. The export is compared with torch on three odd sizes before it is kept.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn
from torch.export import Dim

from dap_led_ros.inference import checkpoint
from dap_led_ros.models.nano import Nano
from dap_led_ros.priors import distilled
from dap_led_ros.priors.distilled import DistilledPrior

ODD_SIZES = ((37, 51), (120, 161), (241, 333))
TOLERANCE = 1e-4


def load_network(weights: Path) -> Nano:
    """A network in evaluation mode from a checkpoint.

    :raises ValueError: the file is no checkpoint, or not of a nano.
    """
    network = checkpoint.load(weights)
    if not isinstance(network, Nano):
        raise ValueError(f'{weights} is no nano; the Enhancer opens it as it is, with PyTorch')
    return network


def export(network: Nano, path: Path) -> float:
    """Write an ONNX file; returns the largest difference from torch over ODD_SIZES.

    :raises ValueError: the difference is above TOLERANCE; nothing is written then.
    """
    any_size = {'frame': {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}}
    _convert(network, torch.rand(2, 3, 64, 80), ['enhanced'], any_size, path.with_suffix('.part'))
    return _keep_if_alike(network, path)


def export_prior(network: DistilledPrior, path: Path) -> float:
    """Write the distilled prior as ONNX; returns the largest difference from torch.

    :raises ValueError: the difference is above TOLERANCE; nothing is written then.
    """
    small = Small(network)
    any_batch = {'frame': {0: Dim.DYNAMIC}}
    outputs = ['heatmaps', 'scores']
    _convert(
        small, torch.rand(2, 3, *distilled.SIZE), outputs, any_batch, path.with_suffix('.part')
    )
    return _keep_if_alike(small, path, (distilled.SIZE,))


class Small(nn.Module):
    """The distilled prior on frames that are small already: the caller shrinks them."""

    def __init__(self, prior: DistilledPrior) -> None:
        super().__init__()
        self.prior = prior

    def forward(self, frame: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, 120, 160) to maps (B, K, 15, 20) and scores (B, K)."""
        return tuple(self.prior.of_small(frame))


def _convert(
    network: nn.Module, frame: Tensor, outputs: list[str], dynamic: dict, path: Path
) -> None:
    program = torch.onnx.export(
        network.eval(),
        (frame,),
        dynamo=True,
        verbose=False,
        input_names=['frame'],
        output_names=outputs,
        dynamic_shapes=dynamic,
        opset_version=18,
    )
    model = program.model_proto
    for node in model.graph.node:  # exporter's notes: paths and line numbers of its machine
        del node.metadata_props[:]
        node.doc_string = ''
    onnx.save(model, path)


def _keep_if_alike(
    network: nn.Module, path: Path, sizes: tuple[tuple[int, int], ...] = ODD_SIZES
) -> float:
    part = path.with_suffix('.part')
    difference = parity(network, part, sizes)
    if difference > TOLERANCE:
        part.unlink()
        raise ValueError(f'ONNX and torch differ by {difference:.1e}, above {TOLERANCE:.0e}')
    os.replace(part, path)
    return difference


def parity(
    network: nn.Module, path: Path, sizes: tuple[tuple[int, int], ...] = ODD_SIZES
) -> float:
    """Largest absolute difference between torch and ONNX Runtime, of all outputs, over sizes.

    On dark noise: a trained network leaves bright frames alone, which would compare nothing.
    """
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    rng = np.random.default_rng(0)
    worst = 0.0
    for size in sizes:
        frame = 0.1 * rng.random((1, 3, *size), dtype=np.float32)
        with torch.inference_mode():
            expected = network(torch.from_numpy(frame))
        expected = expected if isinstance(expected, tuple) else (expected,)
        for one, other in zip(expected, session.run(None, {'frame': frame})):
            worst = max(worst, float(np.abs(one.numpy() - other).max()))
    return worst


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and export."""
    parser = argparse.ArgumentParser(prog='dap_led_training.export', description=__doc__)
    parser.add_argument('weights', type=Path)
    parser.add_argument('onnx', type=Path)
    options = parser.parse_args(arguments)
    difference = export(load_network(options.weights), options.onnx)
    print(f'{options.onnx}: differs from torch by {difference:.1e} at most')


if __name__ == '__main__':
    main()
