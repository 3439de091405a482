"""dap-led enhance: a picture, a folder of pictures, or a video."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_command(commands: Any) -> None:
    """Add it to the sub-parsers of dap-led."""
    enhance = commands.add_parser('enhance', help='enhance a picture, a folder or a video')
    add = enhance.add_argument
    add('input', type=Path, metavar='INPUT')
    add('output', type=Path, metavar='OUTPUT')
    add('--model', default='nano', help='name, or path of an .onnx or .safetensors file')
    add('--device', default='auto', help='auto, cpu or cuda')
    add('--overwrite', action='store_true', help='replace files that exist')
    add('--recursive', action='store_true', help='of a folder: the folders in it, too')
    add('--resume', action='store_true', help='go on where an interrupted run has stopped')
    add(
        '--temporal',
        action=argparse.BooleanOptionalAction,
        help='let what came before into a frame, of models that take it; default: of a video. '
        'Of a folder: its pictures, by name, are frames of one camera',
    )
    enhance.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from dap_led_ros import enhance_files

    return enhance_files.run(
        enhance_files.EnhanceOptions(
            input=options.input,
            output=options.output,
            model=options.model,
            device=options.device,
            overwrite=options.overwrite,
            recursive=options.recursive,
            resume=options.resume,
            temporal=options.temporal,
        )
    )
