"""What a stream gains by its past: python -m dap_led_training measure clips [MODEL].

Clips of 16 frames: the input, one gain, a mean of the past without any network, the network on
each frame alone, and the stream; see judge_clips.py. Regimes of the frozen generator (tripod, pan,
drive, walk, occlusion, cut, gain step, lamp on, dropped frames), and real clips by day, darkened.
With --development other clips, to choose on. The last line is the time of a frame at 640x480, in
turns, beside that of nano-0.1, which sees single frames.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from tqdm import tqdm

from dap_led_ros.inference import Enhancer
from dap_led_training import configuration
from dap_led_training.data.photographs import FOLDERS
from dap_led_training.measure import judge, judge_clips, judge_clips_generator
from dap_led_training.measure.judge_clips import Figures

DATA = '../shared/data'
UNIT = 'nano-0.1'
"""Model in whose time the others are given, too."""


def main(arguments: list[str] | None = None) -> None:
    """Print the table, and write it as JSON where asked."""
    parser = configuration.parser('measure clips', __doc__)
    add = parser.add_argument
    add('model', nargs='?', default='nano', metavar='MODEL')
    add('--photographs', nargs='+', metavar='FOLDER', help='that have photographs of the judge')
    add('--clips', type=Path, default=Path(DATA), metavar='FOLDER', help='that has the real ones')
    regimes = tuple(judge_clips_generator.REGIMES)
    add('--regimes', nargs='+', choices=(*regimes, 'real'), metavar='REGIME')
    add('--count', type=int, default=4, help='clips of each regime; default: 4')
    add('--development', action='store_true', help='clips to choose on, in place of the judge')
    add('--threads', type=int, default=0, help='of the network; default: one per core')
    add('--json', type=Path, metavar='FILE', help='write the figures here too')
    options = parser.parse_args(arguments)
    enhancer = Enhancer.load(options.model, 'cpu', options.threads)
    wanted = options.regimes or [*regimes, 'real']
    clips = []
    if options.development:
        clips.append(judge_clips.development(options.clips))
    else:
        if made := [name for name in wanted if name != 'real']:
            paths = judge.photographs(options.photographs or FOLDERS)
            clips.append(judge_clips.synthetic(paths, made, options.count))
        if 'real' in wanted:
            clips.append(judge_clips.real(options.clips))
    methods = judge_clips.methods(enhancer)
    report: dict[str, dict[str, list[Figures]]] = {}
    for source in clips:
        for name, clip in tqdm(source, unit='clip', mininterval=5):
            for method, found in judge_clips.figures(clip, methods).items():
                report.setdefault(name, {}).setdefault(method, []).append(found)
    head = 'development clips' if options.development else judge_clips.version()
    print(judge_clips.table(report, f'{head}; model {enhancer.model}'))
    beside = {UNIT: Enhancer.load(UNIT, 'cpu', options.threads)}
    times = judge_clips.milliseconds(beside, enhancer)
    unit = times[UNIT]
    print('\n' + ', '.join(f'{name} {ms:.1f} ms ({ms / unit:.2f})' for name, ms in times.items()))
    if options.json:
        plain = {
            name: {
                method: [dataclasses.asdict(f) for f in found] for method, found in rows.items()
            }
            for name, rows in report.items()
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({'head': head, 'regimes': plain}, indent=1))
