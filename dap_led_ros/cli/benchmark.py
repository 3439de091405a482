"""dap-led benchmark: how fast models are on this machine."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dap_led_ros.cli.arguments import size


def add_command(commands: Any) -> None:
    """Add it to the sub-parsers of dap-led."""
    measure = commands.add_parser('benchmark', help='measure models on this machine')
    measure.add_argument('models', nargs='*', default=['nano'], metavar='MODEL')
    measure.add_argument(
        '--sizes', nargs='+', type=size, default=[(640, 480), (1280, 720)], metavar='WxH'
    )
    measure.add_argument('--device', default='auto', help='see README.md; default: auto')
    measure.add_argument('--threads', type=int, default=0)
    measure.add_argument('--tile', type=int, default=0, help='in tiles of so many pixels')
    measure.add_argument(
        '--compile', action='store_true', help='torch.compile; MODEL is a .safetensors file'
    )
    measure.add_argument('--frames', type=int, default=30, help='of each method at each size')
    measure.add_argument('--json', type=Path)
    measure.add_argument(
        '--share', type=Path, metavar='REPORT.json', help='to show others: no path and no name'
    )
    measure.add_argument('--plot', type=Path, help='path of a .png or .svg')
    measure.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from dap_led_ros.inference import benchmark

    if options.frames < 1:
        raise ValueError(f'--frames is {options.frames}: use 1 or more')
    for output in (options.json, options.share, options.plot):
        if output and not output.parent.is_dir():
            raise ValueError(f'{output.parent} is no folder: make it first')
    if options.plot and options.plot.suffix not in ('.png', '.svg'):
        raise ValueError(f'{options.plot} does not end in .png or .svg')
    rows = benchmark.benchmark(
        options.models,
        options.sizes,
        options.device,
        options.threads,
        options.frames,
        options.tile,
        options.compile,
    )
    limits = {'machine': benchmark.machine(), 'copy_gb_per_s': benchmark.copy_gb_per_s()}
    print(f'{limits["machine"]}; copies {limits["copy_gb_per_s"]:.1f} GB/s')
    print(benchmark.table(rows))
    if options.json:
        benchmark.write_json(rows, options.json, limits)
    if options.share:
        benchmark.write_share(rows, options.share, limits)
        print(f'{options.share}: nothing was sent; attach it to an issue, to show others')
    if options.plot:
        benchmark.plot(rows, options.plot)
    return 0
