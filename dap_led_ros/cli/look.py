"""dap-led look: what a bag, a video or a folder holds."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dap_led_ros.cli.arguments import path_of_bag
from dap_led_ros.replay.errors import clear


def add_command(commands: Any) -> None:
    """Add it to the sub-parsers of dap-led."""
    look = commands.add_parser('look', help='say what a bag, a video or a folder holds')
    look.add_argument('input', type=path_of_bag, metavar='BAG', help='also a video, or a folder')
    look.add_argument('--html', type=Path, metavar='FILE.html', help='also a page with pictures')
    look.add_argument('--overwrite', action='store_true', help='replace FILE.html')
    look.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from dap_led_ros.replay import look

    try:
        return look.show(options.input, options.html, options.overwrite)
    except OSError as error:
        raise OSError(clear(error)) from error
