"""Examples that ship in config/: for Nav2, diagnostic_aggregator, RViz and Foxglove."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip('rclpy', reason='no ROS 2 here: source one, or let make test install it')
yaml = pytest.importorskip('yaml')

from conftest import wait_until
from lifecycle_msgs.msg import Transition
from ros_graph import graph, image

__all__ = ['graph']

CONFIG = Path(__file__).resolve().parent.parent / 'config'
OUTPUTS = {'/enhanced/image_raw', '/enhanced/heat_map', '/enhanced/degradation', '/diagnostics'}
INPUTS = {'/image_raw'}


def load(name: str) -> Any:
    return yaml.safe_load((CONFIG / name).read_text())  # JSON is YAML, too


def test_the_example_for_nav2_leaves_the_node_to_its_manager(graph, start_node, night):
    """A stand-in for the manager: the services that it calls, in its order, without a bond."""
    path = CONFIG / 'nav2_lifecycle.yaml'
    manager = load(path.name)['lifecycle_manager_enhance']['ros__parameters']
    assert (manager['node_names'], manager['bond_timeout']) == (['enhance'], 0.0)
    camera = graph.camera()
    node = start_node('enhance', ['--params-file', str(path)], graph.variables)
    assert camera.state() == 'unconfigured', node.log
    assert '[WARN]' not in node.log
    for step in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
        assert camera.transition(step), node.log
    assert wait_until(camera.connected), node.log
    assert camera.send(image(night[0], 'rgb8', 1)) is not None, node.log
    for step in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP):
        assert camera.transition(step), node.log
    assert camera.state() == 'unconfigured'


@pytest.mark.parametrize('namespace', ['/', '/robot'])
def test_the_analyzers_take_the_status_of_the_node(graph, start_node, namespace):
    analyzer = load('diagnostics_aggregator.yaml')['/**']['ros__parameters']['enhance']
    assert analyzer['type'] == 'diagnostic_aggregator/GenericAnalyzer'
    camera = graph.camera()
    arguments = ['-r', f'__ns:={namespace}', '-p', 'warm_up:=[""]']
    node = start_node('enhance', arguments, graph.variables)
    status = camera.diagnosed(lambda s: True)
    assert status is not None, node.log
    begins = any(status.name.startswith(text) for text in analyzer['startswith'])
    assert begins or any(text in status.name for text in analyzer['contains']), status.name


def test_rviz_shows_before_after_and_heat_map():
    displays = load('enhance.rviz')['Visualization Manager']['Displays']
    assert [display['Name'] for display in displays][:2] == ['before', 'after']
    topics = {display['Topic']['Value'] for display in displays}
    assert topics & INPUTS and topics - INPUTS <= OUTPUTS
    for display in displays:
        assert display['Class'] == 'rviz_default_plugins/Image'
        assert display['Topic']['Reliability Policy'] == 'Best Effort'  # suits every camera


def test_foxglove_shows_every_panel_of_its_layout():
    layout = json.loads((CONFIG / 'foxglove_enhance.json').read_text())

    def panels(part: Any) -> Iterator[str]:
        if isinstance(part, str):
            yield part
        else:
            assert part['direction'] in ('row', 'column')
            yield from panels(part['first'])
            yield from panels(part['second'])

    assert sorted(panels(layout['layout'])) == sorted(layout['configById'])
    text = json.dumps(layout['configById'])
    assert all(topic in text for topic in (*OUTPUTS, *INPUTS))


def test_the_topics_of_the_examples_are_the_node_s(graph, start_node):
    camera = graph.camera()
    node = start_node('enhance', [], graph.variables)
    assert wait_until(camera.connected), node.log
    assert wait_until(lambda: all(camera.count_publishers(topic) == 1 for topic in OUTPUTS))
    assert all(camera.count_subscribers(topic) == 1 for topic in INPUTS)
