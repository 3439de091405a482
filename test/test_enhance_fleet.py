"""The enhance node as a fleet needs it: lifecycle, parameters, diagnostics, failures, cameras."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='no ROS 2 here: source one, or let make test install it')

from conftest import wait_until
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import Vector3Stamped
from lifecycle_msgs.msg import Transition
from ros_graph import counts, graph, image, pixels_of, running, settle, stamp, values
from sensor_msgs.msg import Image
from std_srvs.srv import SetBool

from dap_led_ros import sample
from dap_led_ros.inference import Enhancer
from dap_led_ros.inference.stream import StreamSettings

__all__ = ['graph', 'running']


def write_model(path, body, initializers=(), size=('B', 3, 'H', 'W')) -> str:
    """An ONNX enhancer of our own: `body` are nodes from `frame` to `enhanced`."""
    onnx = pytest.importorskip('onnx', reason="no onnx: pip install 'dap_led_ros[train]'")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    ends = [helper.make_tensor_value_info(name, kind, size) for name in ('frame', 'enhanced')]
    made = helper.make_graph(body(helper), 'test', ends[:1], ends[1:], list(initializers))
    model = helper.make_model(made, opset_imports=[helper.make_opsetid('', 17)])
    model.ir_version = 8
    onnx.save(model, str(path))
    return str(path)


@pytest.fixture
def slow_model(tmp_path) -> str:
    """Some seconds of real arithmetic for a 640x480 frame; next to none for 64x48."""
    onnx = pytest.importorskip('onnx', reason="no onnx: pip install 'dap_led_ros[train]'")
    numpy_helper = onnx.numpy_helper
    rng = np.random.default_rng(0)
    wide = rng.normal(size=(64, 3, 3, 3)).astype(np.float32)
    kernel = rng.normal(size=(64, 64, 7, 7)).astype(np.float32) * 0.02
    narrow = rng.normal(size=(3, 64, 3, 3)).astype(np.float32)
    tensors = [
        numpy_helper.from_array(array, name)
        for name, array in (('wide', wide), ('kernel', kernel), ('narrow', narrow))
    ]

    def body(helper):
        conv = 'Conv'
        nodes = [helper.make_node(conv, ['frame', 'wide'], ['x0'], pads=[1] * 4)]
        for i in range(2):
            nodes.append(helper.make_node(conv, [f'x{i}', 'kernel'], [f'x{i + 1}'], pads=[3] * 4))
        return [*nodes, helper.make_node(conv, ['x2', 'narrow'], ['enhanced'], pads=[1] * 4)]

    return write_model(tmp_path / 'slow.onnx', body, tensors)


@pytest.fixture
def picky_model(tmp_path) -> str:
    """Brightens frames of 64x48 and fails, as ONNX Runtime fails, on every other size."""
    onnx = pytest.importorskip('onnx', reason="no onnx: pip install 'dap_led_ros[train]'")
    tensors = [
        onnx.numpy_helper.from_array(np.array([1, 3, 48, 64], np.int64), 'shape'),
        onnx.numpy_helper.from_array(np.array(2, np.float32), 'two'),
    ]

    def body(helper):
        return [
            helper.make_node('Reshape', ['frame', 'shape'], ['x']),
            helper.make_node('Mul', ['x', 'two'], ['enhanced']),
        ]

    return write_model(tmp_path / 'picky.onnx', body, tensors)


def test_lifecycle(graph, start_node, night):
    """Configure fails with the reason and can be tried again; counts live through a cycle."""
    camera = graph.camera()
    arguments = ['-p', 'autostart:=false', '-p', 'model:=huge']
    node = start_node('enhance', arguments, graph.variables)
    assert camera.state() == 'unconfigured'
    assert not camera.transition(Transition.TRANSITION_CONFIGURE)
    assert "cannot configure: no model 'huge'" in node.log
    assert camera.state() == 'unconfigured'
    assert camera.count_publishers('enhanced/image_raw') == 0
    assert camera.set(model='nano') == (True, '')
    assert camera.transition(Transition.TRANSITION_CONFIGURE)
    assert camera.state() == 'inactive'
    assert camera.set(model='nano')[0] is False
    settle()
    assert camera.images.get_subscription_count() == 0
    for _ in range(2):
        assert camera.transition(Transition.TRANSITION_ACTIVATE)
        assert wait_until(camera.connected), node.log
        number = len(camera.enhanced)
        assert camera.send(image(night[0], 'rgb8', number)) is not None, node.log
        assert camera.transition(Transition.TRANSITION_DEACTIVATE)
        assert wait_until(lambda: camera.images.get_subscription_count() == 0)
    assert camera.transition(Transition.TRANSITION_CLEANUP)
    assert wait_until(lambda: camera.count_publishers('enhanced/image_raw') == 0)
    assert camera.transition(Transition.TRANSITION_CONFIGURE)
    assert camera.transition(Transition.TRANSITION_ACTIVATE)
    assert wait_until(camera.connected), node.log
    assert camera.send(image(night[0], 'rgb8', 2)) is not None, node.log
    assert node.interrupt()[0] == 0
    assert counts(node.log)['enhanced'] == 3


def test_parameters_change_while_it_runs(running, night):
    camera, node = running
    sent = iter(range(100))

    def send() -> tuple[Image, Image]:
        message = image(night[0], 'rgb8', next(sent))
        received = camera.send(message)
        assert received is not None, node.log
        return message, received

    full = pixels_of(send()[1]).astype(int)
    assert full.mean() > 2 * night[0].mean()
    assert camera.set(strength=0.5) == (True, '')
    half = pixels_of(send()[1])
    assert np.abs(half - (full + night[0]) / 2).max() <= 2
    for name, bad, said in (
        ('strength', 1.5, 'out of range'),
        ('mode', 'sometimes', 'use one of auto, always, off'),
        ('pass_below', 0.95, 'pass_below'),
        ('model', 'nano', 'fixed while the node is configured'),
        ('autostart', False, 'read-only'),
        ('strength', 'much', 'type'),
    ):
        successful, reason = camera.set(**{name: bad})
        assert not successful
        assert said in reason, reason
    assert np.abs(pixels_of(send()[1]) - (full + night[0]) / 2).max() <= 2  # the old one stays
    assert camera.set(mode='off') == (True, '')
    message, received = send()
    assert received == message
    assert camera.set(mode='always', strength=1.0) == (True, '')
    assert camera.ask(SetBool, '/enhance/enable', SetBool.Request(data=False)).success
    message, received = send()
    assert received == message
    assert camera.ask(SetBool, '/enhance/enable', SetBool.Request(data=True)).success
    assert np.abs(pixels_of(send()[1]) - full).max() <= 1

    assert camera.set(max_age=60.0) == (True, '')
    assert camera.send(image(night[0], 'rgb8', next(sent)), 1) is None  # a stamp of 2009
    fresh = image(night[0], 'rgb8', 0)
    fresh.header.stamp = camera.get_clock().now().to_msg()
    assert camera.send(fresh) is not None, node.log
    assert camera.set(max_age=0.0, max_rate=5.0) == (True, '')
    before, start = len(camera.enhanced), time.monotonic()
    for number in range(60):
        camera.images.publish(image(night[0][:64, :64], 'rgb8', 200 + number))
        time.sleep(1 / 30)
    settle()
    assert 5 <= len(camera.enhanced) - before <= 5 * (time.monotonic() - start) + 2
    assert camera.set(max_rate=0.001) == (True, '')
    assert camera.send(image(night[0], 'rgb8', 300)) is not None, node.log
    assert camera.set(max_rate=100.0) == (True, '')  # what was due under the old one is forgotten
    assert camera.send(image(night[0], 'rgb8', 301)) is not None, node.log
    assert node.interrupt()[0] == 0
    counts(node.log)


def test_it_works_only_while_somebody_listens(graph, start_node, night):
    camera = graph.camera()
    for subscription in list(camera.subscriptions):
        if 'enhanced' in subscription.topic_name:
            camera.destroy_subscription(subscription)
    node = start_node('enhance', [], graph.variables)
    idle = camera.diagnosed(lambda status: 'idle' in status.message)
    assert idle is not None, node.log
    assert camera.images.get_subscription_count() == 0
    received = camera.listen(Image, 'enhanced/image_raw')
    assert wait_until(lambda: camera.images.get_subscription_count() == 1)
    camera.images.publish(image(night[0], 'rgb8', 1))
    assert wait_until(lambda: len(received) == 1), node.log
    for subscription in list(camera.subscriptions):
        if subscription.topic_name.endswith('enhanced/image_raw'):
            camera.destroy_subscription(subscription)
    assert wait_until(lambda: camera.images.get_subscription_count() == 0)


def test_diagnostics_say_what_is_going_on(running, night):
    camera, node = running
    stale = camera.diagnosed(lambda status: status.level == DiagnosticStatus.STALE)
    assert stale is not None, node.log
    assert 'no images on /image_raw' in stale.message
    dark = [camera.send(image(night[0], 'rgb8', number)) for number in range(12)]
    assert None not in dark, node.log
    camera.images.publish(image(np.zeros((48, 64), np.uint16), '16UC1', 50))
    status = camera.diagnosed(lambda status: 'refused: NotAPictureError' in values(status))
    assert status is not None, node.log
    found = values(status)
    assert status.name == 'enhance: camera'
    assert (status.hardware_id, found['model']) == ('/image_raw', 'nano-int8')
    assert 'CPU' in found['device']
    assert (found['received'], found['enhanced'], found['refused']) == ('13', '12', '1')
    assert float(found['low_light']) > 0.5
    assert float(found['output rate (Hz)']) > 0.5
    stages = ('wait', 'decode', 'infer', 'encode', 'publish', 'total')
    assert all(float(found[f'{stage} (ms)']) >= 0 for stage in stages)
    assert float(found['total (ms)']) >= float(found['infer (ms)']) > 0
    assert camera.set(latency_budget=0.001) == (True, '')
    page = (Path(__file__).parents[1] / 'docs' / 'node.md').read_text()
    for key in found:
        assert ': ' in key or f'`{key}`' in page, key
    assert camera.send(image(night[0], 'rgb8', 60)) is not None
    late = camera.diagnosed(lambda status: 'latency' in status.message)
    assert late is not None, node.log
    assert late.level == DiagnosticStatus.WARN


def test_what_is_sent_at_30_hz_into_a_slow_model_adds_up(graph, start_node, night, slow_model):
    camera = graph.camera()
    arguments = ['-p', f'model:={slow_model}', '-p', 'mode:=always', '-p', 'warm_up:=["64x48"]']
    node = start_node('enhance', arguments, graph.variables)
    assert wait_until(camera.connected), node.log
    for number in range(150):
        camera.images.publish(image(night[0][:120, :160], 'rgb8', number))
        time.sleep(1 / 30)
    last = stamp(image(night[0][:16, :16], 'rgb8', 149))
    assert wait_until(lambda: last in camera.enhanced, 30), node.log
    status = camera.diagnosed(lambda status: values(status)['in progress'] == '0')
    found = {name: int(count) for name, count in values(status).items() if count.isdigit()}
    assert found['received'] == 150  # none is lost between reliable ends
    assert found['enhanced'] + found['dropped'] == 150
    assert found['dropped: a newer one came'] == found['dropped'] > 0
    assert len(camera.enhanced) == found['enhanced']
    assert node.interrupt()[0] == 0
    assert counts(node.log)['received'] == 150


def test_a_camera_that_fails_leaves_the_others_alone(graph, start_node, night, picky_model):
    well, ill = (graph.camera(name=name) for name in ('well', 'ill'))
    arguments = ['-p', f'model:={picky_model}', '-p', 'warm_up:=["64x48"]', '-p', 'mode:=always']
    node = start_node('enhance', [*arguments, '-p', 'cameras:=[well,ill]'], graph.variables)
    assert wait_until(lambda: well.connected() and ill.connected()), node.log
    good, bad = (np.ascontiguousarray(night[0][:height, :64]) for height in (48, 64))
    for number in range(10):
        message = image(bad, 'rgb8', number)
        assert ill.send(message) == message, node.log
        received = well.send(image(good, 'rgb8', number))
        assert pixels_of(received).mean() > 1.5 * good.mean()
    status = well.diagnosed(lambda status: status.name == 'enhance: well')
    assert status.level == DiagnosticStatus.OK, status.message


def test_diagnostics_tell_of_a_stuck_worker(graph, start_node, night, slow_model):
    camera = graph.camera()
    arguments = ['-p', f'model:={slow_model}', '-p', 'stuck_after:=0.3', '-p', 'threads:=1']
    arguments += ['-p', 'warm_up:=["64x48"]', '-p', 'mode:=always']
    node = start_node('enhance', arguments, graph.variables)
    assert wait_until(camera.connected), node.log
    assert camera.send(image(night[0][:48, :64], 'rgb8', 1)) is not None, node.log
    for number in range(4):
        camera.images.publish(image(night[0], 'rgb8', 2 + number))
    stuck = camera.diagnosed(lambda status: 'stuck' in status.message)
    assert stuck is not None, node.log
    assert stuck.level == DiagnosticStatus.ERROR
    assert camera.set(enabled=False) == (True, '')  # and the node answers
    last = stamp(image(night[0][:16, :16], 'rgb8', 5))
    assert wait_until(lambda: last in camera.enhanced, 60), node.log
    assert node.interrupt()[0] == 0
    counts(node.log)


def test_a_failing_network_passes_frames_through_and_recovers(
    graph, start_node, night, picky_model
):
    camera = graph.camera()
    arguments = ['-p', f'model:={picky_model}', '-p', 'warm_up:=["64x48"]', '-p', 'mode:=always']
    node = start_node('enhance', arguments, graph.variables)
    assert wait_until(camera.connected), node.log
    good, bad = (np.ascontiguousarray(night[0][:height, :64]) for height in (48, 64))
    first = camera.send(image(good, 'rgb8', 1))
    assert np.abs(pixels_of(first) - 2.0 * good).max() <= 1
    for number in range(2, 12):
        message = image(bad, 'rgb8', number)
        assert camera.send(message) == message, node.log
        settle(0.15)
    error = camera.diagnosed(lambda status: 'failure' in status.message)
    while error is None or error.level != DiagnosticStatus.ERROR:
        message = image(bad, 'rgb8', 50 + len(camera.enhanced))
        assert camera.send(message) == message, node.log
        error = camera.diagnosed(lambda status: 'in a row' in status.message, 2)
    found = values(error)
    assert int(found['passed_through: failed']) >= 3
    assert int(found['passed_through: after a failure']) >= 1

    def recovered() -> bool:
        message = image(good, 'rgb8', 500 + len(camera.enhanced))
        return pixels_of(camera.send(message)).mean() > 1.5 * good.mean()

    assert wait_until(recovered, 60), node.log
    assert node.log.count('frame passed through') == 1, node.log  # once a minute
    assert camera.diagnosed(lambda status: status.level == DiagnosticStatus.OK) is not None
    assert node.interrupt()[0] == 0
    assert 'Traceback' not in node.log
    counts(node.log)


def test_a_gpu_that_fails_gives_way_to_the_cpu_if_it_may(graph, start_node, night):
    script = str(Path(__file__).parent / 'node_on_a_failing_gpu.py')
    camera = graph.camera()
    node = start_node(script, ['-p', 'mode:=always'], graph.variables)
    assert wait_until(camera.connected), node.log
    message = image(night[0], 'rgb8', 1)
    assert camera.send(message) == message, node.log
    enhanced = camera.send(image(night[0], 'rgb8', 2))
    assert pixels_of(enhanced).mean() > 2 * night[0].mean()
    assert 'CUDAExecutionProvider fails, moving to the CPU: CUDA failure 2' in node.log
    status = camera.diagnosed(lambda status: 'on the CPU' in status.message)
    assert status is not None, node.log
    assert status.level == DiagnosticStatus.WARN
    assert 'CPU' in values(status)['device']
    assert node.interrupt()[0] == 0

    assert wait_until(lambda: not camera.connected())
    strict = start_node(script, ['-p', 'mode:=always', '-p', 'device:=cuda'], graph.variables)
    assert wait_until(camera.connected), strict.log
    for number in (3, 4):
        message = image(night[0], 'rgb8', number)
        assert camera.send(message) == message, strict.log
    assert 'moving to the CPU' not in strict.log


@pytest.mark.parametrize('content', [b'', b'not a model', None])
def test_a_missing_or_corrupt_model_is_said_at_once(graph, start_node, tmp_path, content):
    path = tmp_path / 'broken.onnx'
    if content is not None:
        path.write_bytes(content)
    node = start_node('enhance', ['-p', f'model:={path}'], graph.variables)
    assert node.process.wait(20) == 1
    assert node.log.count('cannot configure') == 1, node.log
    assert str(path) in node.log
    assert 'Traceback' not in node.log


def test_scores_and_debug_images(running, night):
    camera, node = running
    scores = camera.listen(Vector3Stamped, 'enhanced/degradation')
    pairs = camera.listen(Image, 'enhanced/side_by_side')
    overlays = camera.listen(Image, 'enhanced/heat_map')
    topics = ('degradation', 'side_by_side', 'heat_map')
    assert wait_until(lambda: all(camera.count_publishers(f'enhanced/{t}') for t in topics))
    numbers = iter(range(100))

    def all_there() -> bool:
        assert camera.send(image(night[0], 'bgr8', next(numbers))) is not None, node.log
        return all(wait_until(lambda r=r: bool(r), 0.5) for r in (scores, pairs, overlays))

    assert wait_until(all_there), node.log
    expected = Enhancer.load().enhance(night[0][..., ::-1].copy()).degradation
    found = scores[-1].vector
    assert found.x == pytest.approx(expected['low_light'], abs=1e-3)
    assert found.y == pytest.approx(expected['blur'], abs=1e-3)
    assert found.z == pytest.approx(expected['joint'], abs=1e-3)
    for message in (scores[-1], pairs[-1], overlays[-1]):
        assert message.header.frame_id.startswith('front_camera/optical-')
    height, width = night[0].shape[:2]
    assert (pairs[-1].height, pairs[-1].width) == (height, 2 * width)
    left, right = np.split(pixels_of(pairs[-1]), 2, axis=1)
    assert np.array_equal(left, night[0][..., ::-1])
    assert right.mean() > 2 * left.mean()
    assert (overlays[-1].height, overlays[-1].width) == (height, width)
    assert pixels_of(overlays[-1])[..., 2].mean() > pixels_of(overlays[-1])[..., 1].mean()
    assert camera.set(debug_images=False) == (True, '')
    settle()
    seen = len(pairs)
    assert camera.send(image(night[0], 'bgr8', 90)) is not None
    settle()
    assert len(pairs) == seen


@pytest.fixture
def detecting(graph, start_node, vision_msgs, tmp_path):
    """Two cameras and a node that detects red and blue in what they see, on both sides of it."""
    if importlib.util.find_spec('ultralytics') is None:
        pytest.skip('no ultralytics: dap_led_ros/detection/README.md')
    import colour_detector

    model = colour_detector.write(tmp_path / 'colours.onnx')
    arguments = ['-p', 'cameras:=[left,right]', '-p', 'mode:=off', '-p', f'detect.model:={model}']
    arguments += ['-p', 'detect.enabled:=true', '-p', 'detect.raw:=true']
    variables = {**graph.variables, **vision_msgs}
    cameras = [graph.camera(name=name) for name in ('left', 'right')]
    node = start_node('enhance', arguments, variables)
    assert wait_until(lambda: all(camera.connected() for camera in cameras), 60), node.log
    return cameras, node


def test_detections_follow_the_enhanced_frames(detecting):
    from colour_detector import picture
    from vision_msgs.msg import Detection2DArray

    cameras, node = detecting
    topics = ('detections', 'detections_raw')
    heard = [[camera.listen(Detection2DArray, topic) for topic in topics] for camera in cameras]
    assert wait_until(lambda: all(c.count_publishers(t) for c in cameras for t in topics))
    settle()
    red = (10, 20, 40, 50)
    assert cameras[0].set(enabled=False) == (True, '')  # the detector sees those frames, too
    for number, (camera, lists) in enumerate(zip(cameras, heard)):
        message = image(picture(96, 64, red), 'rgb8', number)
        assert camera.send(message) == message, node.log
        assert wait_until(lambda lists=lists: all(lists), 60), node.log
        for found in lists:
            assert found[-1].header == message.header
            (detection,) = found[-1].detections
            assert detection.results[0].hypothesis.class_id == 'red'
            centre = detection.bbox.center.position
            assert (centre.x, centre.y) == (25, 35)
            assert (detection.bbox.size_x, detection.bbox.size_y) == (30, 30)
    assert node.interrupt()[0] == 0
    assert counts(node.log)['received'] == 2


def test_many_cameras_are_served_in_turn(graph, start_node, night):
    """One that floods the node takes nothing from the others."""
    names = ('front', 'left', 'rear/far')
    cameras = [graph.camera(name=name) for name in names]
    node = start_node('enhance', ['-p', f'cameras:=[{",".join(names)}]'], graph.variables)
    assert wait_until(lambda: all(camera.connected() for camera in cameras)), node.log
    flooding, *others = cameras
    for round_ in range(8):
        for number in range(12):
            flooding.images.publish(image(night[0], 'rgb8', 100 * round_ + number))
        for camera in others:
            message = image(night[0][:240, :320], 'rgb8', round_)
            received = camera.send(message)
            assert received is not None, node.log
            assert received.header == message.header
            assert pixels_of(received).mean() > 2 * night[0].mean()
    settle(1)
    status = {
        name: cameras[0].diagnosed(lambda s, n=name: s.name == f'enhance: {n}') for name in names
    }
    assert all(status.values()), node.log
    assert all(values(status[name])['dropped'] == '0' for name in ('left', 'rear/far'))
    received = {name: int(values(s)['received']) for name, s in status.items()}
    assert received['left'] == received['rear/far'] == 8
    assert all(values(status[name])['enhanced'] == '8' for name in ('left', 'rear/far'))
    assert node.interrupt()[0] == 0
    assert counts(node.log)['received'] == sum(received.values())


def test_each_camera_has_a_past_of_its_own(graph, start_node):
    """What comes back is what a stream of that camera alone makes; and without, when told so."""
    arguments = ['-p', 'cameras:=[left,right]', '-p', 'mode:=always', '-p', 'device:=cpu']
    node = start_node('enhance', arguments, graph.variables)
    cameras = [graph.camera(name=name) for name in ('left', 'right')]
    assert wait_until(lambda: all(camera.connected() for camera in cameras), 60), node.log
    nights = [frame[100:244, 200:392] for frame, _ in sample.night_sequence(6)]
    scenes = [nights, [frame[:, ::-1].copy() for frame in nights]]
    enhancer = Enhancer.load(device='cpu')
    streams = [enhancer.stream(StreamSettings(mode='always')) for _ in cameras]

    def at(frame: np.ndarray, number: int) -> Image:
        message = image(frame, 'rgb8', 0)
        message.header.stamp.sec, message.header.stamp.nanosec = 100, number * 66_000_000
        return message

    differences, gained = [], 0
    for number in range(6):
        for camera, scene, stream in zip(cameras, scenes, streams):
            message = at(scene[number], number)
            received = camera.send(message)
            assert received is not None, node.log
            nanoseconds = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
            wanted = stream.enhance(scene[number], nanoseconds).frame
            differences.append(np.abs(pixels_of(received).astype(int) - wanted).max())
            alone = enhancer.enhance(scene[number]).frame
            gained = np.abs(pixels_of(received).astype(int) - alone).mean()
    assert max(differences) <= 2, differences
    assert gained > 2  # the past does something
    camera = cameras[0]
    assert camera.set(temporal=False) == (True, '')
    streams[0].settings = StreamSettings(mode='always', temporal=False)
    for number in range(6, 9):
        message = at(nights[0], number)
        nanoseconds = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
        wanted = streams[0].enhance(nights[0], nanoseconds).frame
        assert np.abs(pixels_of(camera.send(message)).astype(int) - wanted).max() <= 2
    assert node.interrupt()[0] == 0
    assert counts(node.log)['enhanced'] == 15
