"""The house rules that a linter does not know: sizes of files and functions, imports that wait."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / 'dap_led_ros').rglob('*.py'))
MOST_LINES, MOST_OF_A_FUNCTION = 450, 60
LONG: dict[str, str] = {}
"""Files and functions (FILE or FILE:FUNCTION) that are longer, and why."""
OPTIONAL = {
    'PIL': 'pictures, which a node never has',
    'av': 'extra video',
    'cv_bridge': 'of ROS, where it is installed',
    'jinja2': 'extra report',
    'matplotlib': 'extra plot',
    'mcap': 'extra bags',
    'mcap_protobuf': 'extra video',
    'onnx': 'extra train',
    'onnxruntime': 'half a second, and doctor runs without it',
    'open_clip': 'extra train',
    'openvino': 'extra openvino',
    'pillow_heif': 'extra heif',
    'plotly': 'extra report',
    'pyiqa': 'extra iqa',
    'ray': 'extra ray',
    'torch': 'seconds, and not on a robot',
    'ultralytics': 'in no extra',
    'vision_msgs': 'of ROS, where it is installed',
}
"""Libraries that may be imported when they are needed."""
OURS = {
    'cli/': 'only the verb that runs loads its code: dap-led doctor runs where OpenCV does not',
    'doctor.py': 'it says what is wrong with the import',
    'sources.py': 'bags: extra bags',
    'replay/look.py': 'bags: extra bags',
    'replay/measure.py': 'the detector, if one is asked for',
    'inference/backends/torch.py': 'torch',
    'nodes/': 'rclpy and its messages, where a node is made',
}
"""Files, or folders, that import our own modules inside functions, and what for."""


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.parse(path.read_text())
    return [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Without the docstring."""
    told = function.body[0] if ast.get_docstring(function) else None
    without = told.end_lineno - told.lineno + 1 if told else 0
    return function.end_lineno - function.lineno + 1 - without


def name(path: Path) -> str:
    return path.relative_to(ROOT / 'dap_led_ros').as_posix()


def test_files_and_functions_are_short():
    found = {name(path) for path in FILES if path.read_text().count('\n') > MOST_LINES}
    for path in FILES:
        long = [f for f in functions(path) if lines_of(f) > MOST_OF_A_FUNCTION]
        found |= {f'{name(path)}:{function.name}' for function in long}
    assert found == set(LONG)


@pytest.mark.parametrize('path', FILES, ids=name)
def test_imports_wait_only_for_what_is_optional_or_heavy(path):
    excused = any(name(path).startswith(place) for place in OURS)
    for function in functions(path):
        for node in ast.walk(function):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or '']
            for imported in names:
                top = imported.split('.')[0]
                assert top in OPTIONAL or (top == 'dap_led_ros' and excused), (
                    f'{function.name}: {imported} at the top of the file, or in the list above'
                )
