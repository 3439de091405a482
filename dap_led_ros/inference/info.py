"""What a model file says of itself; without torch and without the package onnx."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dap_led_ros.inference.backends.onnx import runtime


def describe(path: Path) -> dict[str, str]:
    """Metadata, inputs and outputs of an .onnx file, or the header of a .safetensors file.

    :raises ValueError: the file is neither, or damaged.
    :raises RuntimeError: ONNX Runtime is missing.
    """
    size = {'file': str(path), 'size': f'{path.stat().st_size / 1e6:.2f} MB'}
    if path.suffix == '.safetensors':
        return size | _checkpoint(path)
    onnxruntime = runtime()
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=['CPUExecutionProvider']
        )
    except Exception as error:  # ONNX Runtime raises many classes of its own
        raise ValueError(f'{path} cannot be loaded as a model: {error}') from None
    notes = dict(sorted(session.get_modelmeta().custom_metadata_map.items()))
    if not notes:
        notes = {'metadata': 'none: written before dap-led export, or by another program'}
    ends = (('takes', session.get_inputs()), ('gives', session.get_outputs()))
    return (
        size
        | notes
        | {word: ', '.join(f'{t.name} {_type(t)}' for t in tensors) for word, tensors in ends}
    )


def _type(tensor: Any) -> str:
    shape = ', '.join('any' if isinstance(n, str) or n is None else str(n) for n in tensor.shape)
    return f'{tensor.type} ({shape})'


def _checkpoint(path: Path) -> dict[str, str]:
    """Network and configuration, and the number of parameters."""
    try:
        with path.open('rb') as file:
            length = int.from_bytes(file.read(8), 'little')
            if length > 100_000_000:
                raise ValueError('the header would have more than 100 MB')
            header = json.loads(file.read(length))
        described = json.loads(header.pop('__metadata__', {}).get('dap_led_ros', '{}'))
        config = dict(described.pop('config', {}))
        prior = dict(config.pop('prior', {}))
        if 'base' in described:  # what a refiner refines
            described['base'] = described['base']['network']
        count = sum(
            _product(tensor['shape'])
            for name, tensor in header.items()
            if not name.startswith(('prior.', 'base.prior.'))
            and tensor['dtype'] != 'U8'  # a base that is an ONNX file
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f'{path} is no safetensors file, or damaged: {error}') from None
    if not described and not config:
        described = {'metadata': 'none: not a checkpoint of dap_led_training'}
    return {
        **{name: str(value) for name, value in described.items()},
        'parameters': f'{count / 1e6:.3f} M',
        **({'config': _pairs(config)} if config else {}),
        **({'prior': _pairs(prior)} if prior else {}),
    }


def _product(shape: list[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _pairs(values: dict[str, Any]) -> str:
    return ', '.join(f'{name} {value}' for name, value in values.items() if value != '')
