"""dap-led doctor: what is wrong with this installation."""

from __future__ import annotations

import argparse
from typing import Any

from dap_led_ros import doctor


def add_command(commands: Any) -> None:
    """Add it to the sub-parsers of dap-led."""
    commands.add_parser('doctor', help='check this installation').set_defaults(run=_run)


def _run(_: argparse.Namespace) -> int:
    findings = doctor.examine()
    for finding in findings:
        print(f'{finding.status:8}{finding.what}')
        if finding.remedy:
            print(f'        -> {finding.remedy}')
    return int(any(finding.status == 'problem' for finding in findings))
