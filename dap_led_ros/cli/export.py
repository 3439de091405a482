"""The commands export, info and benchmark of dap-led: their arguments alone, no OpenCV."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_commands(commands: Any) -> None:
    """Add the three to the subparsers of dap-led."""
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
    export.set_defaults(run=_export)

    info = commands.add_parser('info', help='say what a model file is')
    info.add_argument('model', nargs='?', default='nano', metavar='MODEL', help='name, or path')
    info.add_argument(
        '--presets', action='store_true', help='all networks, what they cost, which weights ship'
    )
    info.set_defaults(run=_info)

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
    measure.set_defaults(run=_benchmark)


def size(text: str) -> tuple[int, int]:
    """Width and height of an argument such as 640x480."""
    try:
        width, height = map(int, text.split('x'))
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text} is no size: write 640x480') from None
    if min(width, height) < 16:
        raise argparse.ArgumentTypeError(f'{text}: the least is 16x16')
    return width, height


def _export(options: argparse.Namespace) -> int:
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
            options.model,
            options.output,
            options.precision,
            options.frames,
            options.prior,
            options.history,
            options.calibrate,
            options.terms,
            options.untrained,
        )
    )


def _info(options: argparse.Namespace) -> int:
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


def _benchmark(options: argparse.Namespace) -> int:
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
