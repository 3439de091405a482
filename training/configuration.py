"""Recipes: their command line, and YAML files into typed dataclasses.

An unknown key is an error that names the nearest one.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import sys
import types
import typing
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import yaml

from dap_led_training import old_recipes

RECIPES = Path(__file__).parent / 'recipes'
OLD_KEYS = {'keep': 'keep_input', 'only': 'train_only'}
"""Keys of release 0.1 to today's; the old ones work for one release, with a warning."""
T = TypeVar('T')


def parser(words: str, doc: str) -> argparse.ArgumentParser:
    """The parser of a command, without any arguments.

    :param words: the command's, such as `measure frames`.
    :param doc: what --help shows as it is.
    """
    return argparse.ArgumentParser(
        prog=f'dap_led_training {words}',
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def recipe_parser(words: str, doc: str) -> argparse.ArgumentParser:
    """The parser of a command with a recipe, as parser() and with what all of these take."""
    made = parser(words, doc)
    made.add_argument('config', type=Path, metavar='RECIPE')
    made.add_argument('--out', type=Path, required=True, help='folder of the run')
    made.add_argument(
        '--photographs',
        nargs='+',
        default=[],
        metavar='FOLDER',
        help="in place of the config's data",
    )
    return made


def load(path: str | Path, kind: type[T]) -> T:
    """Read a recipe into the dataclass `kind`, nested dataclasses and lists included.

    Its line `kind:` says which trainer it is for, and is no field.

    :raises ValueError: an unknown key, a missing one, or a value of the wrong shape.
    """
    values = read(path)
    values.pop('kind', None)
    return build(values, kind, str(path))


def kind_of(path: str | Path) -> str | None:
    """The kind of training that a recipe is for; None where it does not say."""
    return read(path).get('kind')


def read(path: str | Path) -> dict:
    """A recipe as plain values.

    :raises ValueError: the file holds no mapping.
    """
    values = yaml.safe_load(old_recipes.today(path).read_text()) or {}
    if not isinstance(values, dict):
        raise ValueError(f'{path}: expected a mapping, got {values!r}')
    return values


def run(main: Callable[[], int | None]) -> int | None:
    """Run a command; returns its exit status.

    What its user can mend is told in one line.
    """
    try:
        return main()
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(f'error: {error}')
    except KeyboardInterrupt:
        sys.exit('interrupted; a training goes on from its last checkpoint by the same command')


def _renamed(values: dict, hints: dict, where: str) -> dict:
    """The mapping with today's keys, where the dataclass knows no such old ones."""
    old = {
        key for key in OLD_KEYS if key in values and key not in hints and OLD_KEYS[key] in hints
    }
    for key in sorted(old):
        warnings.warn(
            f'{where}: {key} is {OLD_KEYS[key]} now; the old key goes with the next release',
            FutureWarning,
            stacklevel=3,
        )
    return {OLD_KEYS[key] if key in old else key: value for key, value in values.items()}


def build(values: Any, kind: Any, where: str) -> Any:
    """Turn plain YAML values into `kind`; `where` names the place in error messages."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        if not isinstance(values, dict):
            raise ValueError(f'{where}: expected a mapping of {kind.__name__}, got {values!r}')
        hints = typing.get_type_hints(kind)
        values = _renamed(values, hints, where)
        for key in values:
            if key not in hints:
                near = difflib.get_close_matches(str(key), hints, n=1, cutoff=0)
                raise ValueError(f'{where}: no key {key!r}; did you mean {near[0]!r}?')
        try:
            return kind(**{k: build(v, hints[k], f'{where}: {k}') for k, v in values.items()})
        except TypeError as error:
            raise ValueError(f'{where}: {error}') from None
    if origin is list:
        if not isinstance(values, list):
            raise ValueError(f'{where}: expected a list, got {values!r}')
        return [build(v, arguments[0], f'{where}[{i}]') for i, v in enumerate(values)]
    if origin is tuple:
        if arguments[-1] is ...:  # as many as there are
            return tuple(build(values, list[arguments[0]], where))
        if not isinstance(values, list) or len(values) != len(arguments):
            raise ValueError(f'{where}: expected {len(arguments)} values, got {values!r}')
        return tuple(build(v, a, where) for v, a in zip(values, arguments))
    if origin in (typing.Union, types.UnionType):  # X | None: a key that may be left out
        return None if values is None else build(values, arguments[0], where)
    if origin is dict:
        if not isinstance(values, dict):
            raise ValueError(f'{where}: expected a mapping, got {values!r}')
        return {k: build(v, arguments[1], f'{where}: {k}') for k, v in values.items()}
    if kind is Any:
        return values
    if kind is float and isinstance(values, int) and not isinstance(values, bool):
        return float(values)
    if not isinstance(values, kind) or (kind is int and isinstance(values, bool)):
        raise ValueError(f'{where}: expected {kind.__name__}, got {values!r}')
    return values
