"""The player and the live node: every message as recorded, and what the graph adds, measured."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

pytest.importorskip('rclpy', reason='no ROS 2 here: source one, or let make test install it')
pytest.importorskip('rosbags', reason='rosbags is not installed')
pytest.importorskip('mcap', reason='mcap is not installed')

import rclpy
from conftest import ros_environment, start_node, wait_until  # noqa: F401, a fixture
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image
from std_srvs.srv import SetBool
from test_replay import FRAMES, write

from dap_led_ros.nodes import environment
from dap_led_ros.replay.graph_metrics import graph_metrics

PROFILE = Path(__file__).parent.parent / 'config' / environment.PROFILE
PLAYER = str(Path(__file__).parent.parent / 'dap_led_ros' / 'nodes' / 'player.py')


@pytest.fixture
def graph(monkeypatch):
    variables = ros_environment('player')
    variables |= environment.additions(PROFILE, variables)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return variables


def parameters(**values: object) -> list[str]:
    return [word for name, value in values.items() for word in ('-p', f'{name}:={value}')]


def test_a_recording_through_the_live_node(tmp_path, graph, start_node):  # noqa: F811
    write(tmp_path / 'bag', 'mcap')
    remap = ['-r', 'image_raw:=/front/image_raw', '-r', '__ns:=/front']
    node = start_node('enhance', [*remap, *parameters(use_sim_time='true')], graph)
    metrics = tmp_path / 'metrics.json'
    player = start_node(
        PLAYER,
        parameters(bag=tmp_path / 'bag', topic='/front/image_raw', rate=0.5, metrics=metrics),
        graph,
    )
    assert wait_until(lambda: player.process.poll() is not None, 120), player.log
    assert player.process.returncode == 0, player.log
    measured = json.loads(metrics.read_text())
    assert measured['# of Frames Sent'] == FRAMES
    assert 'Mean End-to-End Latency (ms)' in player.log
    node.interrupt()
    missed = measured['# of Missed Frames']
    assert missed < FRAMES / 2, node.log
    assert f'{FRAMES} received' in node.log
    assert 0 < measured['Min. End-to-End Latency (ms)'] < measured['Max. End-to-End Latency (ms)']


def test_pause_and_the_bytes_of_messages(tmp_path, graph, start_node):  # noqa: F811
    written = write(tmp_path / 'bag', 'sqlite3')
    context = rclpy.Context()
    rclpy.init(context=context)
    node = Node('listener', context=context, use_global_arguments=False)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    images: list[bytes] = []
    clocks: list[int] = []
    node.create_subscription(
        Image, '/depth/image_raw', images.append, QoSProfile(depth=50), raw=True
    )
    node.create_subscription(
        Clock, '/clock', lambda m: clocks.append(m.clock.sec * 10**9 + m.clock.nanosec), 200
    )
    pause = node.create_client(SetBool, '/player/pause')
    player = start_node(
        PLAYER, parameters(bag=tmp_path / 'bag', rate=2.0, start_paused='true'), graph
    )

    def spin_until(condition) -> bool:
        deadline = time.monotonic() + 60
        while not condition() and time.monotonic() < deadline:
            executor.spin_once(0.02)
        return condition()

    try:
        assert spin_until(
            lambda: pause.service_is_ready() and node.count_publishers('/depth/image_raw')
        ), player.log
        for _ in range(20):
            executor.spin_once(0.02)
        assert images == []
        pause.call_async(SetBool.Request(data=False))
        assert spin_until(lambda: len(images) == FRAMES), player.log
        assert [bytes(image) for image in images] == [
            data for _, data in written['/depth/image_raw']
        ]
        assert clocks == sorted(clocks)
        assert clocks[0] <= written['/depth/image_raw'][0][0] <= clocks[-1]
        assert wait_until(lambda: player.process.poll() is not None, 30)
        assert '/odd is left out: no type nobody_msgs/msg/Odd here' in player.log
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)


@pytest.mark.parametrize(
    ('values', 'said'),
    [
        ({}, 'the parameter bag is empty'),
        ({'bag': '/nowhere'}, '/nowhere does not exist'),
        ({'bag': 'BAG', 'topic': '/odd'}, 'has no image topic /odd'),
        ({'bag': 'BAG', 'rate': 0.0}, 'rate is 0.0'),
        ({'bag': 'BAG', 'metrics': '/nowhere/m.json'}, 'no such folder'),
    ],
)
def test_what_cannot_be_played_is_said(tmp_path, graph, start_node, values, said):  # noqa: F811
    write(tmp_path / 'bag', 'mcap', frames=2)
    if 'bag' in values:
        values = {**values, 'bag': values['bag'].replace('BAG', str(tmp_path / 'bag'))}
    player = start_node(PLAYER, parameters(**values), graph)
    assert wait_until(lambda: player.process.poll() is not None, 60)
    assert player.process.returncode == 1
    assert 'cannot start: ' in player.log
    assert said in player.log
    assert 'Traceback' not in player.log


def test_metrics_are_those_of_ros2_benchmark():
    sent = {index: float(index) for index in range(5)}
    received = {0: 0.1, 1: 1.1, 2: 2.4, 4: 4.1}
    found = graph_metrics(sent, received)
    assert found['# of Frames Sent'] == 5
    assert found['# of Missed Frames'] == 1
    assert found['Mean Playback Frame Rate (fps)'] == pytest.approx(5 / 4)
    assert found['Mean Frame Rate (fps)'] == pytest.approx(1.0)
    assert found['Mean End-to-End Latency (ms)'] == pytest.approx(175.0)
    assert found['Max. End-to-End Latency (ms)'] == pytest.approx(400.0)
    assert found['Max. Frame-to-Frame Jitter (ms)'] == pytest.approx(400.0)
    assert found['Mean Frame-to-Frame Jitter (ms)'] == pytest.approx(350.0)
    assert graph_metrics({}, {}) == {'# of Frames Sent': 0.0, '# of Missed Frames': 0.0}
