"""The command line: dap-led enhance, look, replay, compare, export, info, ...

One file a verb: its arguments, and what they mean to the code that does the work. Only a verb that
runs imports that code: `dap-led doctor` must run where OpenCV does not.
"""

from __future__ import annotations

import argparse
import sys

from dap_led_ros.cli import benchmark, compare, doctor, enhance, export, info, look, replay

VERBS = (enhance, replay, look, compare, export, info, benchmark, doctor)


def parser() -> argparse.ArgumentParser:
    """The arguments of all verbs; `run` of what it parses does the work."""
    whole = argparse.ArgumentParser(
        prog='dap-led', description='Joint low-light enhancement and deblurring.'
    )
    commands = whole.add_subparsers(required=True, metavar='COMMAND')
    for verb in VERBS:
        verb.add_command(commands)
    return whole


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 when all went well, 1 when not, 2 for a wrong command line."""
    options = parser().parse_args(arguments)
    try:
        return options.run(options)
    except (ImportError, ValueError, RuntimeError, OSError) as error:
        print(f'dap-led: {error}', file=sys.stderr)
    except KeyboardInterrupt:
        print('dap-led: interrupted', file=sys.stderr)
    return 1
