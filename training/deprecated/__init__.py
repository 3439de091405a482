"""Commands of release 0.1, for one release more: each warns and runs what took its place."""

from __future__ import annotations

import importlib
import sys
import warnings

from dap_led_training import configuration

COMMANDS = {
    'ablation': 'measure.ablation',
    'chart': 'measure.chart',
    'cost': 'measure.cost',
    'detection_f1': 'measure.detection',
    'equalize': 'make.equalized',
    'evaluate': 'measure.frames',
    'evaluate_clips': 'measure.clips',
    'evaluate_prior': 'measure.prior',
    'ladder': 'measure.comparison',
    'light': 'measure.brightness',
    'night_bag': 'make.night_bag',
    'pack': 'make.pack',
    'quantize': 'make.int8',
    'sheet': 'make.contact_sheet',
    'shortcuts': 'measure.speedups',
    'stream': 'measure.steadiness',
    'synthesize': 'make.lol_blur',
    'tone_curve': 'make.tone_curve',
    'train': 'trainers.paired',
    'train_clip': 'trainers.clip',
    'train_clip_lit': 'trainers.clip_lit',
    'train_da_clip': 'trainers.da_clip',
    'train_devudp': 'trainers.devudp',
    'train_distilled': 'trainers.distilled',
    'train_exposure_first': 'trainers.exposure_first',
    'train_refiner': 'trainers.ptg_rm',
}
"""Old module to the new one; a file of the old name lies beside this one."""


def words(old: str) -> str:
    """What to write today in place of the old module, behind python -m dap_led_training."""
    room, name = COMMANDS[old].split('.')
    return 'train RECIPE' if room == 'trainers' else f'{room} {name}'


def stand_in(name: str, old: str) -> None:
    """Be the new module: run its command, or give its names to who imports the old one.

    :param name: __name__ of the old module.
    :param old: the name by which it is known in COMMANDS.
    """
    warnings.warn(
        f'dap_led_training.{old} goes with the next release; the command is '
        f'python -m dap_led_training {words(old)}, the module dap_led_training.{COMMANDS[old]}',
        FutureWarning,
        stacklevel=3,
    )
    module = importlib.import_module(f'dap_led_training.{COMMANDS[old]}')
    if name == '__main__':
        sys.exit(configuration.run(module.main))
    sys.modules[name] = module
