"""The command line: dap-led enhance, look, replay, compare, export, info, ..."""

from __future__ import annotations

import argparse
import sys

# Only what a broken installation has too: `dap-led doctor` must run where OpenCV does not.
from dap_led_ros import doctor, enhance_files
from dap_led_ros.cli import export
from dap_led_ros.cli.replay import add_commands as add_evaluation


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 when all went well, 1 when not, 2 for a wrong command line."""
    parser = argparse.ArgumentParser(
        prog='dap-led', description='Joint low-light enhancement and deblurring.'
    )
    commands = parser.add_subparsers(required=True, metavar='COMMAND')
    enhance_files.add_command(commands)
    add_evaluation(commands)
    export.add_commands(commands)
    commands.add_parser('doctor', help='check this installation').set_defaults(run=_doctor)
    options = parser.parse_args(arguments)
    try:
        return options.run(options)
    except (ImportError, ValueError, RuntimeError, OSError) as error:
        print(f'dap-led: {error}', file=sys.stderr)
    except KeyboardInterrupt:
        print('dap-led: interrupted', file=sys.stderr)
    return 1


def _doctor(_: argparse.Namespace) -> int:
    findings = doctor.examine()
    for finding in findings:
        print(f'{finding.status:8}{finding.what}')
        if finding.remedy:
            print(f'        -> {finding.remedy}')
    return int(any(finding.status == 'problem' for finding in findings))


if __name__ == '__main__':
    sys.exit(main())
