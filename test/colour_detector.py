"""A YOLO that is known to the last pixel: it detects the red and the blue rectangle of a frame.

Input and output are those of YOLOv8, (1, 3, H, W) RGB in [0, 1] to (1, 4 + classes, N), so that
all of what surrounds a network is tested: scaling, colour order, suppression, class names.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

SURE, DUPLICATE = 0.875, 0.625
"""Scores of a rectangle, and of a second box on it, 0.9 times as wide."""
RED, BLUE = (255, 0, 0), (0, 0, 255)

_METADATA = {
    'task': 'detect',
    'stride': '32',
    'batch': '1',
    'names': "{0: 'red', 1: 'blue'}",
}
_EXTENT = """
    {c}_is = Greater ({c}, high)
    {c}_not = Less ({other}, low)
    {c}_both = And ({c}_is, {c}_not)
    {c}_mask = Cast <to = 1> ({c}_both)
    {c}_x = ReduceMax <axes = [0, 1, 2], keepdims = 0> ({c}_mask)
    {c}_y = ReduceMax <axes = [0, 1, 3], keepdims = 0> ({c}_mask)
    {c}_left_i = ArgMax <axis = 0> ({c}_x)
    {c}_right_i = ArgMax <axis = 0, select_last_index = 1> ({c}_x)
    {c}_top_i = ArgMax <axis = 0> ({c}_y)
    {c}_bottom_i = ArgMax <axis = 0, select_last_index = 1> ({c}_y)
    {c}_left = Cast <to = 1> ({c}_left_i)
    {c}_right_0 = Cast <to = 1> ({c}_right_i)
    {c}_top = Cast <to = 1> ({c}_top_i)
    {c}_bottom_0 = Cast <to = 1> ({c}_bottom_i)
    {c}_right = Add ({c}_right_0, one)
    {c}_bottom = Add ({c}_bottom_0, one)
    {c}_w = Sub ({c}_right, {c}_left)
    {c}_h = Sub ({c}_bottom, {c}_top)
    {c}_narrow = Mul ({c}_w, nine_tenths)
    {c}_2cx = Add ({c}_left, {c}_right)
    {c}_2cy = Add ({c}_top, {c}_bottom)
    {c}_cx = Mul ({c}_2cx, half)
    {c}_cy = Mul ({c}_2cy, half)
    {c}_there = ReduceMax <axes = [0], keepdims = 1> ({c}_x)
    {c}_sure = Mul ({c}_there, sure)
    {c}_duplicate = Mul ({c}_there, duplicate)
"""


def write(path: Path, size: int | None = 96, metadata: bool = True) -> str:
    """Write the model; returns the path as text.

    :param size: side of the one input size that it takes; None: any.
    :param metadata: with what ultralytics writes into its own exports.
    """
    onnx = pytest.importorskip('onnx', reason='no onnx to make a model with')
    height, width = (size, size) if size else ('H', 'W')
    constants = {'high': 0.75, 'low': 0.25, 'one': 1.0, 'half': 0.5, 'nine_tenths': 0.9}
    constants |= {'zero': 0.0, 'sure': SURE, 'duplicate': DUPLICATE}
    boxes = [
        (f'{c}_cx', f'{c}_cy', w, f'{c}_h', *(score if c == k else 'zero' for k in ('r', 'b')))
        for c in ('r', 'b')
        for w, score in ((f'{c}_w', f'{c}_sure'), (f'{c}_narrow', f'{c}_duplicate'))
    ]
    lines = [f'{n} = Constant <value_floats = [{v}]> ()' for n, v in constants.items()]
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]>\n'
        f'colours (float[1, 3, {height}, {width}] images) => (float[1, 6, 4] output0) {{\n'
        + '\n'.join(lines)
        + '\nr, g, b = Split <axis = 1> (images)'
        + _EXTENT.format(c='r', other='b')
        + _EXTENT.format(c='b', other='r')
        + f'flat = Concat <axis = 0> ({", ".join(sum(boxes, ()))})\n'
        + 'shape = Constant <value_ints = [1, 4, 6]> ()\n'
        + 'rows = Reshape (flat, shape)\n'
        + 'output0 = Transpose <perm = [0, 2, 1]> (rows)\n}'
    )
    onnx.checker.check_model(model, full_check=True)
    if metadata:
        more = {'imgsz': f'[{size}, {size}]'} if size else {'args': "{'dynamic': True}"}
        onnx.helper.set_model_props(model, {**_METADATA, **more})
    onnx.save(model, path)
    return str(path)


def picture(
    width: int, height: int, red: tuple[int, ...] = (), blue: tuple[int, ...] = ()
) -> np.ndarray:
    """Grey (height, width, 3) with rectangles at (left, top, right, bottom)."""
    frame = np.full((height, width, 3), 90, np.uint8)
    for box, colour in ((red, RED), (blue, BLUE)):
        if box:
            left, top, right, bottom = box
            frame[top:bottom, left:right] = colour
    return frame
