"""How the nodes start, and how they say that they cannot: in one line, with what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip('rclpy', reason='no ROS 2 here: source one, or let make test install it')

from conftest import wait_until
from ros_graph import graph

__all__ = ['graph']


def start(node: str, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, '-m', 'dap_led_ros.nodes', node, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (['--params-file', 'missing.yaml'], "params file: '--params-file missing.yaml'. Error op"),
        (['--params-file', 'broken.yaml'], 'write parameters as config/enhance.yaml does'),
        (['-r', 'image_raw:=/a//b'], "remap rule: '-r image_raw:=/a//b': remap as -r image_raw:="),
        (['-r', 'image_raw'], 'remap as -r image_raw:=/camera/image_raw'),
        (['-p', 'strength'], 'set as -p name:=value'),
        (['--bogus'], "['--bogus']: not known to ROS; --help says more"),
    ],
)
def test_a_bad_start_is_one_fatal_line(tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    Path('broken.yaml').write_text('enhance: [1')
    done = start('enhance', '--ros-args', *arguments)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith('[FATAL]') and 'cannot start: ' in line
    assert said in line


@pytest.mark.parametrize('node', ['enhance', 'detect', 'player'])
def test_what_is_not_for_ros_ends_a_node_and_help_is_printed(node):
    if node == 'player':
        pytest.importorskip('rosbags', reason="no rosbags: pip install 'dap_led_ros[bags]'")
        pytest.importorskip('zstandard', reason="no rosbags: pip install 'dap_led_ros[bags]'")
    done = start(node, 'image:=/camera/image_raw')
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "argument 'image:=/camera/image_raw' is not known: remaps and parameters go" in line
    asked = start(node, '--help')
    assert (asked.returncode, asked.stderr) == (0, '')
    for text in (f'usage: ros2 run dap_led_ros {node}_node --ros-args', 'Topics', 'README.md'):
        assert text in asked.stdout


@pytest.mark.parametrize(
    ('node', 'missing', 'said'),
    [
        ('enhance', 'cv2', 'import of cv2'),
        ('player', 'zstandard', "pip install 'dap_led_ros[bags]'"),
    ],
)
def test_a_missing_library_is_one_line(node, missing, said):
    code = (
        f'import sys; sys.modules["{missing}"] = None; '
        f'from dap_led_ros.nodes.__main__ import {node}; sys.exit({node}())'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f'[FATAL] [{node}]: cannot start: ')
    assert said in line


def test_help_of_the_enhance_node_names_every_topic_and_parameter():
    from dataclasses import fields

    from dap_led_ros.nodes import parameters

    printed = start('enhance', '--help').stdout
    for spec in fields(parameters.Parameters):
        assert f'  {parameters.ros_name(spec)} (default ' in printed
    for topic in ('image_raw', 'camera_info', 'enhanced/degradation', '/diagnostics'):
        assert topic in printed


def test_parameters_that_reach_nothing_are_named_with_the_nearest_right_one(
    graph, start_node, tmp_path
):
    other, mine = tmp_path / 'other.yaml', tmp_path / 'mine.yaml'
    other.write_text('front:\n  enhancer:\n    ros__parameters:\n      strength: 0.5\n')
    mine.write_text(
        '/**:\n  ros__parameters:\n    stength: 0.5\n    detect:\n      enable: false\n'
        '/front/*:\n  ros__parameters:\n    strength: 0.5\n    use_sim_time: false\n'
        '    qos_overrides./x.publisher.depth: 3\n'
        'someone_else:\n  ros__parameters:\n    bogus: 1\n'
    )
    arguments = ['-r', '__ns:=/front', '-p', 'max_rat:=1.0', '-p', 'model:=nano']
    for path in (other, mine):
        arguments += ['--params-file', str(path)]
    node = start_node('enhance', arguments, graph.variables)
    assert wait_until(lambda: 'image_raw ->' in node.log), node.log
    warnings = [line.split(']: ')[1] for line in node.log.splitlines() if '[WARN]' in line]
    assert warnings == [
        'the command line sets max_rat, which this node does not have: did you mean max_rate?',
        f'{other} has nothing for this node: write /front/enhance or /** in place of '
        '/front/enhancer',
        f'{mine} sets stength, which this node does not have: did you mean strength?',
        f'{mine} sets detect.enable, which this node does not have: did you mean detect.enabled?',
    ]


def test_the_node_imports_no_torch_and_no_video(graph, start_node):
    """Libraries that are mapped into the process of a node that runs."""
    node = start_node('enhance', [], graph.variables)
    assert wait_until(lambda: 'image_raw ->' in node.log), node.log
    maps = Path(f'/proc/{node.process.pid}/maps').read_text()
    assert 'onnxruntime' in maps
    for heavy in ('/torch/', '/av/', '/av.libs/'):
        assert heavy not in maps
