"""Train, measure and make: python -m dap_led_training VERB ... --help."""

from __future__ import annotations

import importlib
import sys

from dap_led_training import configuration

KINDS = {
    'exposure_first': 'nano: structure, exposure, gate and time, one after the other',
    'paired': 'DAP-LED, NAFNet and nano-0.1, on night-blur pairs',
    'clip': 'the small CLIP of degradations',
    'distilled': "that CLIP's student, which needs no torch",
    'clip_lit': 'CLIP-LIT: brightens, learned without pairs',
    'da_clip': "DA-CLIP's controller of a CLIP",
    'devudp': 'DEvUDP: deblurs by day, learned without pairs',
    'ptg_rm': 'PTG-RM: refines what another enhancer made',
}
"""What a recipe may say behind `kind:`, each a module of trainers/."""
MEASURE = {
    'frames': 'models on single frames, by the frozen judge or on data of your own',
    'clips': 'what a stream gains by its past, and ghosts, by the frozen judge of clips',
    'comparison': 'models in one table: size, quality, steadiness, time, what a detector finds',
    'detection': 'what a detector finds on enhanced frames',
    'steadiness': "a stream's gate, flicker and pumping",
    'brightness': 'what models do to the light, by day and by night',
    'chart': 'faults on a synthetic chart that photographs hide',
    'speedups': 'what tiles, lasting heat-maps and lower precision lose and save',
    'cost': 'parameters and multiply-accumulates of every preset',
    'prior': 'what degradation priors know',
    'ablation': "the paper's ablations: each row trained and measured",
}
"""What can be measured, each a module of measure/."""
MAKE = {
    'int8': 'an int8 model, calibrated on the synthesis',
    'equalized': 'weights that lose less in int8',
    'pack': 'photographs in one file, to carry to another machine',
    'lol_blur': "night blur on the disk, in LOL-Blur's layout",
    'night_bag': 'a rosbag2 of a night drive, from videos by day',
    'contact_sheet': 'a picture of frames before and after, by model',
    'through_time': 'the same frame after a stream has seen 1, 4 and 16',
    'tone_curve': 'gamma and local contrast as an ONNX file, to refine',
}
"""What can be made, each a module of make/."""
HELP = ('-h', '--help')


def help_text() -> str:
    """All verbs and what stands behind each, in a line each."""
    rooms = (
        ('train RECIPE --out RUN', 'the recipe says its kind:', KINDS),
        ('measure WHAT', 'prints figures:', MEASURE),
        ('make WHAT', 'writes files:', MAKE),
    )
    lines = ['usage: python -m dap_led_training train RECIPE | measure WHAT | make WHAT']
    for usage, says, found in rooms:
        lines += ['', f'{usage}  {says}', *(f'  {k:15} {v}' for k, v in found.items())]
    lines += ['', '--help behind a RECIPE or WHAT lists its options; recipes are in recipes/.']
    return '\n'.join(lines)


def find(words: list[str]) -> tuple[str, list[str]]:
    """The module that a command line asks for, and the arguments that are the module's.

    :raises ValueError: it asks for nothing that there is.
    """
    if len(words) < 2:
        raise ValueError('say what: python -m dap_led_training --help lists everything')
    verb, what, *options = words
    rooms = {'measure': MEASURE, 'make': MAKE}
    if verb == 'train':
        kind = configuration.kind_of(what)
        if kind not in KINDS:
            said = f'no kind {kind!r}' if kind else 'no line `kind: KIND`'
            raise ValueError(f'{what}: {said}; a kind is one of {", ".join(KINDS)}')
        return f'trainers.{kind}', words[1:]
    if verb not in rooms:
        raise ValueError(f'no verb {verb!r}: use train, measure or make')
    if what not in rooms[verb]:
        raise ValueError(f'nothing to {verb} is called {what!r}: use {", ".join(rooms[verb])}')
    return f'{verb}.{what}', options


def main(arguments: list[str] | None = None) -> int | None:
    """Run what the command line asks for; returns its exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    if not words or words[0] in HELP or (words[1:2] and words[1] in HELP):
        print(help_text())
        return 0
    module, options = find(words)
    return importlib.import_module(f'dap_led_training.{module}').main(options)


if __name__ == '__main__':
    sys.exit(configuration.run(main))
