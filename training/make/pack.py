"""Photographs in one file: python -m dap_led_training make pack OUT.pt FOLDER [FOLDER ...].

The file takes the place of the folders in a recipe of kind exposure_first (`photographs:`), or
behind its --photographs: one thing to carry to another machine. Every eighth photograph of each
folder validates; the judge's are left out.
"""

from __future__ import annotations

from pathlib import Path

from dap_led_training import configuration
from dap_led_training.data import crops


def main(arguments: list[str] | None = None) -> None:
    """Write the file and say what is in it."""
    parser = configuration.parser('make pack', __doc__)
    parser.add_argument('out', type=Path, metavar='OUT.pt')
    parser.add_argument('folders', nargs='+', metavar='FOLDER')
    options = parser.parse_args(arguments)
    if options.out.suffix != '.pt':
        parser.error(f'{options.out}: give it a name that ends in .pt')
    counts = crops.pack(options.folders, options.out)
    print(f'{options.out}: {counts["training"]} train, {counts["validation"]} validate')
