"""What the node may do and read: the SROS2 policy, where it writes, limits of model files."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from dap_led_ros.inference import Enhancer, model_file, weights
from dap_led_ros.inference.backends import onnx as backend

pytest.importorskip('rclpy', reason='no ROS 2 here: source one, or let make test install it')

from conftest import wait_until
from ros_graph import graph, image

__all__ = ['graph']

ROOT = Path(__file__).resolve().parent.parent
POLICY = ROOT / 'config' / 'sros2_policy.xml'
# Of sros2's policy.xsd: what may be below each element, and the attributes that it has to have.
CHILDREN = {
    'policy': ({'contexts'}, {'version'}),
    'contexts': ({'context'}, set()),
    'context': ({'profiles'}, {'path'}),
    'profiles': ({'profile', 'metadata'}, set()),
    'profile': ({'topics', 'services', 'actions'}, {'ns', 'node'}),
    'topics': ({'topic'}, set()),
    'services': ({'service'}, set()),
    'topic': (set(), set()),
    'service': (set(), set()),
}
RULES = {'topics': {'publish', 'subscribe'}, 'services': {'reply', 'request'}}


def test_the_policy_is_of_the_schema_of_sros2():
    tree = ElementTree.parse(POLICY)
    assert tree.getroot().tag == 'policy'
    for element in tree.iter():
        children, attributes = CHILDREN[element.tag]
        assert {child.tag for child in element} <= children
        assert bool(len(element)) == bool(children)
        assert attributes <= set(element.attrib)
        rules = set(element.attrib) - attributes - {'type'}
        assert rules <= RULES.get(element.tag, set())
        assert all(element.attrib[rule] in ('ALLOW', 'DENY') for rule in rules)
        if not children:
            assert re.fullmatch(r'/?\w+(/\w+)*', element.text)
    if importlib.util.find_spec('sros2') is not None:
        from sros2.policy import load_policy

        load_policy(str(POLICY))


def allowed(rule: str) -> set[str]:
    found = ElementTree.parse(POLICY).findall(f".//*[@{rule}='ALLOW']")
    return {'/' + entry.text.lstrip('/') for section in found for entry in section}


def test_the_policy_is_what_the_node_has_and_no_more(graph, start_node):
    camera = graph.camera()
    node = start_node('enhance', ['-p', 'use_sim_time:=true'], graph.variables)
    assert wait_until(camera.connected), node.log
    assert wait_until(lambda: camera.count_subscribers('/clock') == 1)

    def names(kind: str) -> set[str]:
        ask = getattr(camera, f'get_{kind}_names_and_types_by_node')
        return {name for name, _ in ask('enhance', '/')}

    with_detector = {'/detections', '/detections/image'}
    with_detector |= {'/detections_raw', '/detections_raw/image'}
    assert names('publisher') == allowed('publish') - with_detector
    assert names('subscriber') | {'/parameter_events'} == allowed('subscribe')
    assert names('service') == allowed('reply')
    assert names('client') == set()


def test_the_node_runs_in_an_enclave_of_a_generated_keystore(graph, start_node, tmp_path):
    if importlib.util.find_spec('sros2') is None or shutil.which('ros2') is None:
        pytest.skip('no sros2 here: it comes with ROS 2, not as a wheel')
    keys, enclave = tmp_path / 'keys', '/dap_led/enhance'
    for words in (
        ('create_keystore', keys),
        ('create_enclave', keys, enclave),
        ('create_permission', keys, enclave, POLICY),
    ):
        subprocess.run(['ros2', 'security', *map(str, words)], check=True)
    variables = {**graph.variables, 'ROS_SECURITY_KEYSTORE': str(keys)}
    variables |= {'ROS_SECURITY_ENABLE': 'true', 'ROS_SECURITY_STRATEGY': 'Enforce'}
    node = start_node('enhance', ['--enclave', enclave], variables)
    assert wait_until(lambda: 'image_raw -> ' in node.log), node.log


def test_the_node_writes_nothing_but_its_log(graph, start_node, tmp_path, night):
    places = {name: tmp_path / name for name in ('HOME', 'TMPDIR', 'ROS_LOG_DIR')}
    for place in places.values():
        place.mkdir()
    variables = {n: v for n, v in graph.variables.items() if not n.startswith('XDG_')}
    camera = graph.camera()
    node = start_node(
        'enhance', ['-p', 'mode:=always'], variables | {n: str(p) for n, p in places.items()}
    )
    assert wait_until(camera.connected), node.log
    assert camera.send(image(night[0], 'rgb8', 1)) is not None, node.log
    opened = {os.readlink(path) for path in Path(f'/proc/{node.process.pid}/fd').iterdir()}
    assert not [path for path in opened if str(ROOT) in path]
    assert node.interrupt()[0] == 0
    assert list(places['HOME'].rglob('*')) == list(places['TMPDIR'].rglob('*')) == []
    assert all(path.suffix == '.log' for path in places['ROS_LOG_DIR'].rglob('*'))


def test_the_cache_of_engines_can_be_switched_off(monkeypatch, tmp_path):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.delenv('DAP_LED_CACHE')
    arguments = ('TensorrtExecutionProvider', weights.find('nano'), (1, 3, 480, 640), False)
    kept = backend.provider_options(*arguments)['trt_engine_cache_path']
    assert kept.startswith(f'{tmp_path}/dap_led_ros/tensorrt/')
    shutil.rmtree(tmp_path / 'dap_led_ros')
    monkeypatch.setenv('DAP_LED_CACHE', 'off')
    assert backend.provider_options(*arguments) == {'trt_fp16_enable': '1'}
    assert list(tmp_path.iterdir()) == []


def test_no_model_file_is_unpickled():
    """The one way is YOLO's .pt, which needs allow_pickle."""
    for path in (ROOT / 'dap_led_ros').rglob('*.py'):
        assert not re.search(r'import pickle|pickle\.load|torch\.load\(', path.read_text()), path


def test_a_model_file_is_bounded_before_it_is_run(graph, start_node, tmp_path, monkeypatch):
    onnx = pytest.importorskip('onnx', reason="no onnx: pip install 'dap_led_ros[train]'")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    ends = [
        helper.make_tensor_value_info(name, kind, ['B', 3, 'H', 'W'])
        for name in ('frame', 'enhanced')
    ]

    def write(name: str, nodes: list, tensors: list = ()) -> Path:
        made = helper.make_graph(nodes, 'test', ends[:1], ends[1:], list(tensors))
        model = helper.make_model(made, opset_imports=[helper.make_opsetid('', 17)])
        (tmp_path / name).write_bytes(model.SerializeToString())
        return tmp_path / name

    chain = ['frame', *(f'x{i}' for i in range(model_file.MOST_NODES)), 'enhanced']
    long = write('long.onnx', [helper.make_node('Relu', [a], [b]) for a, b in pairwise(chain)])
    stolen = onnx.numpy_helper.from_array(np.ones(1, np.float32), 'one')
    stolen.ClearField('raw_data')
    stolen.data_location = onnx.TensorProto.EXTERNAL
    stolen.external_data.add(key='location', value='../secret.bin')
    reading = write(
        'reading.onnx', [helper.make_node('Mul', ['frame', 'one'], ['enhanced'])], [stolen]
    )
    for path, said in (
        (long, f'has {len(chain) - 1} nodes: graphs of up to 20000 are run'),
        (reading, 'would read ../secret.bin: weights have to lie beside the model'),
    ):
        node = start_node('enhance', ['-p', f'model:={path}'], graph.variables)
        assert node.process.wait(20) == 1
        assert said in node.log
        assert 'Traceback' not in node.log
    monkeypatch.setattr(model_file, 'MOST_BYTES', 10**6)
    for model in ('nano', str(weights.checkpoint('nano'))):
        with pytest.raises(ValueError, match='models of up to 1000000 are loaded'):
            Enhancer.load(model)
    data = weights.find('nano').read_bytes()
    for length in (1, 2, 100, 10_000, len(data) - 1):
        (tmp_path / 'cut.onnx').write_bytes(data[:length])
        monkeypatch.undo()
        with pytest.raises(ValueError, match='cut'):
            Enhancer.load(str(tmp_path / 'cut.onnx'))
