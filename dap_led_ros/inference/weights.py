"""Where models are: the ones that ship, by name, and the user's own, by path."""

from __future__ import annotations

import warnings
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / 'weights'
PRIORS = FOLDER / 'priors'
DEFAULT = 'nano'
SUFFIXES = ('.onnx', '.safetensors')
SUCCESSORS = {'small': DEFAULT}
"""Models that shipped once, and what takes their place: for one release, with a warning."""


def names() -> list[str]:
    """Names of the models that ship with the package."""
    return sorted(path.stem for path in FOLDER.glob('*.onnx'))


def _of_today(model: str) -> str:
    """The name; of a model that has gone that of its successor, with a warning."""
    if model not in SUCCESSORS:
        return model
    successor = SUCCESSORS[model]
    warnings.warn(
        f'the model {model!r} has gone: {successor!r} takes its place', FutureWarning, stacklevel=3
    )
    return successor


def find(model: str) -> Path:
    """Path of the ONNX file of a shipped model's name, or of a model file as given.

    :raises FileNotFoundError: neither; says what there is.
    """
    shipped = FOLDER / f'{_of_today(model)}.onnx'
    if shipped.is_file():
        return shipped
    path = Path(model).expanduser()
    if path.suffix in SUFFIXES and path.is_file():
        return path
    raise FileNotFoundError(
        f'no model {model!r}: give the path of an .onnx file or of a .safetensors checkpoint, '
        f'or one of: {", ".join(names())}'
    )


def in_int8(model: str) -> Path | None:
    """Path of a shipped model's int8 form, by the model's name, if it has one."""
    path = FOLDER / f'{SUCCESSORS.get(model, model)}-int8.onnx'
    return path if path.is_file() else None


def checkpoint(model: str) -> Path:
    """Path of the checkpoint of a shipped model's name, or of a checkpoint as given.

    :raises FileNotFoundError: neither; says what there is.
    """
    shipped = FOLDER / f'{_of_today(model)}.safetensors'
    path = shipped if shipped.is_file() else Path(model).expanduser()
    if path.suffix == '.safetensors' and path.is_file():
        return path
    known = ', '.join(sorted(one.stem for one in FOLDER.glob('*.safetensors')))
    raise FileNotFoundError(
        f'no checkpoint {model!r}: give the path of a .safetensors file, or one of: {known}'
    )
