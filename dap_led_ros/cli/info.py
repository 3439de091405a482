"""dap-led info: what a model file is."""

from __future__ import annotations

import argparse
from typing import Any


def add_command(commands: Any) -> None:
    """Add it to the sub-parsers of dap-led."""
    info = commands.add_parser('info', help='say what a model file is')
    info.add_argument('model', nargs='?', default='nano', metavar='MODEL', help='name, or path')
    info.add_argument(
        '--presets', action='store_true', help='all networks, what they cost, which weights ship'
    )
    info.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from dap_led_ros.inference import weights
    from dap_led_ros.inference.info import describe

    if options.presets:
        try:
            from dap_led_ros import export
        except ImportError as error:
            raise RuntimeError(
                f"--presets needs the extra: pip install '.[train]' ({error})"
            ) from None
        print(export.presets_table())
        return 0
    described = describe(weights.find(options.model))
    if twin := weights.in_int8(options.model):
        described['on a CPU'] = f'{twin.name} takes its place'
    width = max(map(len, described)) + 2
    for name, value in described.items():
        print(f'{name:{width}}{value}')
    return 0
