"""dap-led export: write a checkpoint as ONNX."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_command(commands: Any) -> None:
    """Add it to the sub-parsers of dap-led."""
    export = commands.add_parser('export', help='write a checkpoint as ONNX')
    export.add_argument('model', metavar='MODEL', help='name, or path of a .safetensors file')
    export.add_argument('output', type=Path, metavar='OUT.onnx')
    export.add_argument(
        '--frames', action='store_true', help='uint8 (B, H, W, 3) in and out, with a strength'
    )
    export.add_argument(
        '--history',
        action='store_true',
        help='of exposure-first: take what a stream has seen before, though not trained to',
    )
    export.add_argument(
        '--prior',
        choices=('folded', 'second'),
        default='folded',
        help='in the graph, or as a graph of its own beside it',
    )
    export.add_argument('--precision', choices=('fp32', 'fp16', 'int8'), default='fp32')
    export.add_argument(
        '--calibrate', type=Path, metavar='FOLDER', help='night pictures, for int8'
    )
    export.add_argument(
        '--terms', default='those of the data it was trained on', help='kept in the file'
    )
    export.add_argument(
        '--untrained',
        action='store_true',
        help='MODEL is a preset (dap-led info --presets) and gets weights by chance, to measure '
        'times',
    )
    export.add_argument('--overwrite', action='store_true', help='replace files that exist')
    export.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    suffixes = ('.onnx', '.safetensors') if options.untrained else ('.onnx',)
    if options.output.suffix not in suffixes:
        raise ValueError(f'{options.output} does not end in {" or ".join(suffixes)}')
    if not options.output.parent.is_dir():
        raise ValueError(f'{options.output.parent} is no folder: make it first')
    written = [options.output]
    if options.prior == 'second':
        written.append(options.output.with_suffix('.prior.onnx'))
    for path in written:
        if path.exists() and not options.overwrite:
            raise ValueError(f'{path} exists: choose another OUT or add --overwrite')
    if options.history and options.frames:
        raise ValueError('--frames takes single frames: leave out --history')
    if options.calibrate and options.precision != 'int8':
        raise ValueError('--calibrate is for --precision int8')
    if options.precision == 'int8' and not options.calibrate:
        raise ValueError('--precision int8 needs --calibrate FOLDER: night pictures')
    if options.output.suffix == '.safetensors' and (
        options.frames or options.prior != 'folded' or options.precision != 'fp32'
    ):
        raise ValueError('a checkpoint has no --frames, --prior or --precision: OUT ends in .onnx')
    try:
        from dap_led_ros import export
    except ImportError as error:
        raise RuntimeError(f"export needs the extra: pip install '.[train]' ({error})") from None
    return export.run(
        export.ExportOptions(
            model=options.model,
            output=options.output,
            precision=options.precision,
            frames=options.frames,
            prior=options.prior,
            history=options.history,
            calibrate=options.calibrate,
            terms=options.terms,
            untrained=options.untrained,
        )
    )
