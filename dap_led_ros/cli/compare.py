"""dap-led compare: two runs of replay on the same bag."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dap_led_ros.replay.errors import clear


def add_command(commands: Any) -> None:
    """Add it to the sub-parsers of dap-led."""
    compare = commands.add_parser('compare', help='compare two runs of replay on the same bag')
    compare.add_argument('a', type=Path, metavar='OUT_A')
    compare.add_argument('b', type=Path, metavar='OUT_B')
    compare.add_argument('--out', type=Path, metavar='FILE.html', help='also write a page')
    compare.add_argument('--overwrite', action='store_true', help='replace FILE.html')
    compare.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from dap_led_ros.replay import compare

    try:
        return compare.show(options.a, options.b, options.out, options.overwrite)
    except OSError as error:
        raise OSError(clear(error)) from error
