"""What a node is started with: --help, and what rcl would take without a word or a clear one."""

from __future__ import annotations

import contextlib
import difflib
import re
import sys
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import rclpy
import yaml
from ament_index_python.packages import get_package_share_directory
from rclpy.node import Node

CURES = {
    'params file': (
        "write parameters as config/enhance.yaml does, below the node's name and ros__parameters:"
    ),
    'remap rule': 'remap as -r image_raw:=/camera/image_raw',
    'parameter override': 'set as -p name:=value',
}
"""What to do, by what rcl could not parse."""


def usage(name: str, topics: str, parameters: Mapping[str, str]) -> str:
    """Help of a node.

    :param topics: a line for each.
    :param parameters: what each is for, by name.
    """
    lines = [f'  {name}\n      {text}' for name, text in parameters.items()]
    return '\n'.join(
        [
            f'usage: ros2 run dap_led_ros {name}_node --ros-args [-r TOPIC:=NEW] '
            '[-p PARAMETER:=VALUE] [--params-file FILE]',
            f'\nTopics, all to be remapped:\n{topics}',
            '\nParameters:',
            *lines,
            f'\nMore: {_readme()}',
        ]
    )


def wants_help(arguments: list[str]) -> bool:
    """Whether the user asks what there is."""
    return any(argument in ('-h', '--help') for argument in arguments)


def init(arguments: list[str]) -> None:
    """Start rclpy.

    :raises ValueError: something that is not ROS's, or that rcl does not understand; one line.
    """
    own = arguments[: arguments.index('--ros-args')] if '--ros-args' in arguments else arguments
    if own:
        raise ValueError(
            f'argument {own[0]!r} is not known: remaps and parameters go behind --ros-args, as in '
            '--ros-args -r image_raw:=/camera/image_raw; --help says more'
        )
    levels = rclpy.logging.LoggingSeverity
    rclpy.logging.set_logger_level('rcl', levels.FATAL)  # it says the same in its own words
    try:
        rclpy.init(args=arguments)
    except Exception as error:  # each ROS has its own
        raise ValueError(_one_line(str(error))) from None
    finally:
        rclpy.logging.set_logger_level('rcl', levels.UNSET)


def _one_line(text: str) -> str:
    """What rcl says, without the lines of its sources, and what to do."""
    said = re.sub(r', at \S+:\d+|Error: (error not set)?|failed to initialize rcl: ', '', text)
    said = ' '.join(said.split()).rstrip('. ')
    cure = next((cure for what, cure in CURES.items() if what in said), 'not known to ROS')
    return f'{said}: {cure}; --help says more'


def warn_of_misfits(node: Node, arguments: list[str] | None) -> None:
    """Say which parameters, of files and of the command line, are none of this node's.

    :param arguments: those of the process; None: of sys.argv.
    """
    own = node.get_fully_qualified_name()
    names = list(node.get_parameters_by_prefix(''))
    log = node.get_logger()
    for source, pattern, given in _given(sys.argv[1:] if arguments is None else arguments, own):
        if given is None:
            log.warning(
                f'{source} has nothing for this node: write {own} or /** in place of {pattern}'
            )
        for name in given or ():
            if name in names or name.startswith('qos_overrides.'):
                continue
            near = difflib.get_close_matches(name, names, 1, 0.0)
            log.warning(
                f'{source} sets {name}, which this node does not have: did you mean {near[0]}?'
            )


def _given(arguments: list[str], own: str) -> Iterator[tuple[str, str, list[str] | None]]:
    """Source, node name there, names of parameters (None: the file is for others)."""
    for flag, value in pairwise(arguments):
        if flag in ('-p', '--param'):
            name = value.partition(':=')[0]
            if ':' not in name:  # else it is for the node that is named before it
                yield 'the command line', own, [name]
        if flag != '--params-file':
            continue
        content: Any = None
        with contextlib.suppress(OSError, yaml.YAMLError):
            content = yaml.safe_load(Path(value).read_text())
        found = dict(_sections('', content))
        ours = [name for name in found if _matches(name, own)]
        for name in ours:
            yield value, name, found[name]
        if found and not ours:
            yield value, difflib.get_close_matches(own, found, 1, 0.0)[0], None


def _sections(path: str, content: Any) -> Iterator[tuple[str, list[str]]]:
    """Node name patterns of a parameter file, and the parameters below each."""
    for key, value in content.items() if isinstance(content, dict) else ():
        if key == 'ros__parameters':
            yield path, list(_flat('', value))
        else:
            yield from _sections(f'{path}/{str(key).strip("/")}', value)


def _flat(prefix: str, parameters: Any) -> Iterator[str]:
    for key, value in parameters.items() if isinstance(parameters, dict) else ():
        if isinstance(value, dict):
            yield from _flat(f'{prefix}{key}.', value)
        else:
            yield f'{prefix}{key}'


def _matches(pattern: str, name: str) -> bool:
    """Whether a node's name is a file's, where * is one part and ** any."""
    parts = {'*': '/[^/]+', '**': '(/[^/]+)*'}
    tokens = (parts.get(token, '/' + re.escape(token)) for token in pattern.split('/')[1:])
    return re.fullmatch(''.join(tokens), name) is not None


def _readme() -> str:
    """Where the README is: in the source tree, or in the package's share."""
    folders = [Path(__file__).resolve().parents[2]]
    with contextlib.suppress(OSError, LookupError):  # no ROS environment, no such package
        folders.append(Path(get_package_share_directory('dap_led_ros')))
    folders.append(Path(sys.prefix) / 'share' / 'dap_led_ros')
    found = (folder / 'README.md' for folder in folders if (folder / 'README.md').is_file())
    return str(next(found, 'README.md of dap_led_ros'))
