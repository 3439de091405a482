"""A model file before it is run: its size, and what its graph would read and be.

ONNX Runtime reads a file as it is, and a file from the internet may name others for its weights.
The walk over the graph needs no package: of protobuf only lengths and numbers are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

MOST_BYTES = 2**30
"""Of a model file: far above any that runs on a robot."""
MOST_NODES = 20_000
"""Of a graph: nano has 139."""
_GRAPH = 7  # fields of ModelProto, GraphProto, TensorProto and StringStringEntryProto
_NODE, _INITIALIZER = 1, 5
_EXTERNAL = 13
_VALUE = 2


def check(path: Path) -> None:
    """Refuse a file too large, or a graph with too many nodes or weights elsewhere.

    :raises ValueError: see there.
    """
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise ValueError(f'{path} has {size} bytes: models of up to {MOST_BYTES} are loaded')
    if path.suffix != '.onnx':
        return
    data = memoryview(path.read_bytes())
    nodes = 0
    try:
        for graph in _fields(data, _GRAPH):
            nodes += sum(1 for _ in _fields(graph, _NODE))
            for tensor in _fields(graph, _INITIALIZER):
                _check_tensor(path, tensor)
    except (IndexError, OverflowError):
        raise ValueError(f'{path} cannot be loaded as a model: it is cut short') from None
    if nodes > MOST_NODES:
        raise ValueError(f'{path} has {nodes} nodes: graphs of up to {MOST_NODES} are run')


def _check_tensor(path: Path, tensor: memoryview) -> None:
    """Weights may lie in another file, but in the same folder."""
    for entry in _fields(tensor, _EXTERNAL):
        for value in _fields(entry, _VALUE):
            name = PurePosixPath(bytes(value).decode('utf-8', 'replace'))
            if name.is_absolute() or '..' in name.parts:
                raise ValueError(f'{path} would read {name}: weights have to lie beside the model')


def _fields(data: memoryview, wanted: int) -> Iterator[memoryview]:
    """Contents of the fields with a number, of those that have a length.

    :raises IndexError: the data end within a field.
    """
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 2:
            length, at = _varint(data, at)
            if at + length > len(data):
                raise IndexError
            if key >> 3 == wanted:
                yield data[at : at + length]
            at += length
        elif kind == 0:
            _, at = _varint(data, at)
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise IndexError


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number of variable length, and where it ends."""
    number = shift = 0
    while True:
        byte = data[at]
        number |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return number, at
        if shift > 63:
            raise IndexError
