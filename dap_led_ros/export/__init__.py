"""Checkpoints as ONNX files: write them, compare them with torch, describe them."""

from dap_led_ros.export.core import BEFORE, OUTSIDE_OPSET, convert, core_of, wrapped
from dap_led_ros.export.exportable import Half, Heatmap
from dap_led_ros.export.int8 import INT8_LAYERS, INT8_LAYERS_BEHIND_EXPOSURE, quantized
from dap_led_ros.export.metadata import gmac_per_megapixel, metadata_of, presets_table
from dap_led_ros.export.onnx_export import (
    PRECISIONS,
    ExportOptions,
    export,
    forgetful,
    load_network,
    remembering,
    run,
    untrained,
)
from dap_led_ros.export.verify import BATCH, ODD_SIZES, TOLERANCE, night, parity

__all__ = [
    'BATCH',
    'BEFORE',
    'INT8_LAYERS',
    'INT8_LAYERS_BEHIND_EXPOSURE',
    'ODD_SIZES',
    'OUTSIDE_OPSET',
    'PRECISIONS',
    'TOLERANCE',
    'ExportOptions',
    'Half',
    'Heatmap',
    'convert',
    'core_of',
    'export',
    'forgetful',
    'gmac_per_megapixel',
    'load_network',
    'metadata_of',
    'night',
    'parity',
    'presets_table',
    'quantized',
    'remembering',
    'run',
    'untrained',
    'wrapped',
]
