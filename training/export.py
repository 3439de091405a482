"""Export weights to ONNX: python -m dap_led_training.export nano WEIGHTS.safetensors OUT.onnx.

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
from safetensors.torch import load_file
from torch.export import Dim

from dap_led_ros.models.nano import PRESETS, Nano

ODD_SIZES = ((37, 51), (120, 161), (241, 333))
TOLERANCE = 1e-4


def load_network(preset: str, weights: Path) -> Nano:
    """A network in evaluation mode with weights from a safetensors file."""
    network = Nano(PRESETS[preset])
    network.load_state_dict(load_file(weights))
    return network.eval()


def export(network: Nano, path: Path) -> float:
    """Write an ONNX file; returns the largest difference from torch over ODD_SIZES.

    :raises ValueError: the difference is above TOLERANCE; nothing is written then.
    """
    any_size = {'frame': {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}}
    program = torch.onnx.export(
        network,
        (torch.rand(2, 3, 64, 80),),
        dynamo=True,
        verbose=False,
        input_names=['frame'],
        output_names=['enhanced'],
        dynamic_shapes=any_size,
        opset_version=18,
    )
    model = program.model_proto
    for node in model.graph.node:  # exporter's notes: paths and line numbers of its machine
        del node.metadata_props[:]
        node.doc_string = ''
    part = path.with_suffix('.part')
    onnx.save(model, part)
    difference = parity(network, part)
    if difference > TOLERANCE:
        part.unlink()
        raise ValueError(f'ONNX and torch differ by {difference:.1e}, above {TOLERANCE:.0e}')
    os.replace(part, path)
    return difference


def parity(network: Nano, path: Path) -> float:
    """Largest absolute difference between torch and ONNX Runtime over ODD_SIZES.

    On dark noise: a trained network leaves bright frames alone, which would compare nothing.
    """
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    rng = np.random.default_rng(0)
    worst = 0.0
    for size in ODD_SIZES:
        frame = 0.1 * rng.random((1, 3, *size), dtype=np.float32)
        with torch.inference_mode():
            expected = network(torch.from_numpy(frame)).numpy()
        found = session.run(None, {session.get_inputs()[0].name: frame})[0]
        worst = max(worst, float(np.abs(found - expected).max()))
    return worst


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and export."""
    parser = argparse.ArgumentParser(prog='dap_led_training.export', description=__doc__)
    parser.add_argument('preset', choices=PRESETS)
    parser.add_argument('weights', type=Path)
    parser.add_argument('onnx', type=Path)
    options = parser.parse_args(arguments)
    difference = export(load_network(options.preset, options.weights), options.onnx)
    print(f'{options.onnx}: differs from torch by {difference:.1e} at most')


if __name__ == '__main__':
    main()
