"""The detect node in a process of its own, over real DDS, and its worker in any node."""

from __future__ import annotations

import importlib.util
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='no ROS 2 here: source one, or let make test install it')
if importlib.util.find_spec('ultralytics') is None:  # to import it is the Detector's business
    pytest.skip('no ultralytics: dap_led_ros/detection/README.md', allow_module_level=True)

import colour_detector
import rclpy
from colour_detector import SURE, picture
from conftest import ros_environment, wait_until
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image

from dap_led_ros import image_codec
from dap_led_ros.detection import Detections, Detector, draw
from dap_led_ros.inference import Enhancer
from dap_led_ros.nodes import detections, environment

SHARED = Path(__file__).resolve().parents[2] / 'shared'
YOLO = SHARED / 'models' / 'yolov8n_int8.onnx'
RED, BLUE = (10, 20, 40, 50), (50, 0, 96, 33)
PATIENCE = 60.0  # seconds: to import PyTorch and ultralytics takes many on a busy machine


class Camera(Node):
    """Publishes by hand; keeps all detections and annotated images by frame number."""

    def __init__(self, context: rclpy.Context) -> None:
        super().__init__('camera', context=context, use_global_arguments=False)
        self.images = self.create_publisher(Image, 'image_raw', QoSProfile(depth=100))
        self.found: dict[int, object] = {}
        self.annotated: dict[int, Image] = {}

    def listen(self) -> None:
        from vision_msgs.msg import Detection2DArray

        self.create_subscription(Detection2DArray, 'detections', self._on_detections, 100)

    def look(self) -> None:
        self.create_subscription(Image, 'detections/image', self._on_image, 100)

    def _on_detections(self, message) -> None:
        self.found[message.header.stamp.nanosec] = message

    def _on_image(self, message: Image) -> None:
        self.annotated[message.header.stamp.nanosec] = message

    def send(self, message: Image):
        """Publish one image; returns the detections."""
        number = message.header.stamp.nanosec
        self.images.publish(message)
        wait_until(lambda: number in self.found, PATIENCE)
        return self.found.get(number)


@pytest.fixture
def graph(request, monkeypatch, vision_msgs) -> Iterator[tuple[Camera, dict[str, str]]]:
    """A camera in a graph of its own, and the environment for nodes that shall see it."""
    variables = ros_environment(request.node.nodeid) | vision_msgs
    variables |= environment.additions(environment.find_profile(), os.environ)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=int(variables['ROS_DOMAIN_ID']))
    camera = Camera(context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(camera)
    thread = threading.Thread(target=executor.spin)
    thread.start()
    yield camera, variables
    executor.shutdown()
    thread.join()
    camera.destroy_node()
    rclpy.shutdown(context=context)


@pytest.fixture(scope='module')
def model(tmp_path_factory) -> str:
    return colour_detector.write(tmp_path_factory.mktemp('model') / 'colours.onnx')


def image(frame: np.ndarray, number: int, encoding: str = 'rgb8') -> Image:
    message = Image()
    message.header.stamp.sec, message.header.stamp.nanosec = 1_234_567_890, number
    message.header.frame_id = f'camera/optical-{number}'
    image_codec.encode(frame, encoding, message)
    return message


def boxes_of(message) -> list[tuple[str, float, float, float, float]]:
    """(name, left, top, right, bottom) of all detections of a message."""
    result = []
    for detection in message.detections:
        centre = detection.bbox.center.position
        width, height = detection.bbox.size_x / 2, detection.bbox.size_y / 2
        edges = (centre.x - width, centre.y - height, centre.x + width, centre.y + height)
        result.append((detection.results[0].hypothesis.class_id, *edges))
    return result


def counts(log: str) -> dict[str, int]:
    """The node's closing line as numbers, which add up."""
    line = next(line for line in reversed(log.splitlines()) if ' received, ' in line)
    found = {name: int(n) for n, name in re.findall(r'(\d+) (\w+)', line.split(']: ')[1])}
    assert found['received'] == sum(n for name, n in found.items() if name != 'received')
    return found


def test_detections_of_every_frame_and_nothing_for_nobody(graph, start_node, model):
    camera, variables = graph
    arguments = ['-p', f'model:={model}', '-p', 'device:=cpu', '-p', 'qos:=reliable']
    node = start_node('detect', arguments, variables)
    assert wait_until(lambda: f'{model} on cpu' in node.log, PATIENCE), node.log
    assert camera.images.get_subscription_count() == 0  # lazy
    camera.listen()
    assert wait_until(lambda: camera.images.get_subscription_count() == 1), node.log

    frame = picture(96, 64, RED, BLUE)
    padded = image(frame, 3)
    rows = np.pad(frame.reshape(64, -1), ((0, 0), (0, 7)))
    padded.step, padded.data = rows.shape[1], rows.tobytes()
    wide = image(frame.astype(np.uint16) * 257, 4, 'rgb16')
    for sent in (image(frame, 1), image(frame, 2, 'bgr8'), padded, wide):
        received = camera.send(sent)
        assert received is not None, node.log
        assert received.header == sent.header
        assert boxes_of(received) == [('red', *RED), ('blue', *BLUE)]
        for detection in received.detections:
            assert detection.header == sent.header
            assert detection.results[0].hypothesis.score == SURE
            assert len(detection.results) == 1
            assert detection.id == '' and detection.bbox.center.theta == 0

    depth = Image(header=image(frame, 5).header, height=1, width=1, step=2, encoding='16UC1')
    camera.images.publish(depth)
    assert wait_until(lambda: "frame refused: encoding '16UC1'" in node.log), node.log
    empty = camera.send(image(picture(96, 64), 6))
    assert empty is not None and len(empty.detections) == 0  # said, not left out

    assert not camera.annotated
    camera.look()
    assert wait_until(lambda: camera.count_subscribers('detections/image') == 1)
    expected = draw(frame, Detector(model, 'cpu').detect(frame))
    numbers = iter(range(7, 100))
    assert wait_until(lambda: camera.send(image(frame, next(numbers))) and camera.annotated)
    annotated = next(iter(camera.annotated.values()))
    assert annotated.header.frame_id.startswith('camera/optical-')
    assert np.array_equal(image_codec.decode(annotated), expected)

    for number in range(100, 140):  # more than it can do
        camera.images.publish(image(frame, number))
    assert wait_until(lambda: 139 in camera.found), node.log  # the newest is never dropped
    assert node.interrupt()[0] == 0
    total = counts(node.log)
    assert total['detected'] == len(camera.found) and total['refused'] == 1
    assert total['failed'] == 0 and total['received'] == total['detected'] + 1 + total['dropped']


def test_it_says_why_it_cannot_start(start_node, vision_msgs, tmp_path, request):
    plain = ros_environment(request.node.nodeid)
    absent = ['-p', f'model:={tmp_path}/yolov8n.onnx']
    cases = [
        (absent, plain | vision_msgs, f'there is no {tmp_path}/yolov8n.onnx'),
        ([*absent, '-p', 'qos:=fast'], plain | vision_msgs, "parameter qos is 'fast'"),
        ([*absent, '-p', 'confidence:=2.0'], plain | vision_msgs, 'confidence'),
    ]
    if vision_msgs:  # not installed, but compiled for the tests
        cases.append((absent, plain, r'sudo apt install ros-\S+-vision-msgs'))
    for arguments, variables, text in cases:
        node = start_node('detect', arguments, variables)
        assert node.process.wait(PATIENCE) == 1, node.log
        lines = [line for line in node.log.splitlines() if 'cannot start: ' in line]
        assert len(lines) == 1 and re.search(text, lines[0]), node.log
        assert 'Traceback' not in node.log


class Gated(Detector):
    """A real detector that can be held up."""

    def __init__(self, model: str) -> None:
        super().__init__(model, 'cpu')
        self.entered, self.gate = threading.Event(), threading.Event()

    def detect(self, frame: np.ndarray) -> Detections:
        self.entered.set()
        assert self.gate.wait(PATIENCE)
        return super().detect(frame)


def test_a_worker_never_holds_up_its_host(graph, model):
    """In a lifecycle node that is not even configured."""
    camera, _ = graph
    host = LifecycleNode('host', context=camera.context, use_global_arguments=False)
    detector = Gated(model)
    worker = detections.DetectionWorker(host, detector, background=True)
    frame = picture(96, 64, RED)
    header = image(frame, 0).header
    worker.offer(header, frame)  # nobody listens
    camera.listen()
    assert wait_until(worker.has_listeners)

    worker.offer(image(frame, 1).header, frame)
    assert detector.entered.wait(PATIENCE)
    for number in range(2, 1002):  # while the detector hangs
        worker.offer(image(frame, number).header, frame)
    detector.gate.set()
    assert wait_until(lambda: 1001 in camera.found)
    assert sorted(camera.found) == [1, 1001]

    worker.offer(header, frame.astype(np.float32))  # the detector raises
    assert wait_until(lambda: worker.counts.failed == 1)
    worker.offer(image(frame, 2000).header, frame)
    assert wait_until(lambda: 2000 in camera.found)
    worker.close()
    worker.offer(header, frame)
    assert not any(thread.name == 'detections' for thread in threading.enumerate())
    assert asdict(worker.counts) == {
        'received': 1005,
        'detected': 3,
        'skipped': 1,
        'dropped': 1000,
        'failed': 1,
        'refused': 0,
    }
    assert camera.count_publishers('detections') == 0
    host.destroy_node()


def test_the_commented_yaml_has_exactly_the_parameters_of_the_node():
    yaml = pytest.importorskip('yaml')
    path = Path(__file__).resolve().parents[1] / 'config' / 'detect.yaml'
    content = yaml.safe_load(path.read_text())['/**']['ros__parameters']
    assert set(content) == {f.name for f in fields(detections.Settings)} | {'qos'}


def scenes() -> list[np.ndarray]:
    """Photographs with vehicles, people and a horse, (H, W, 3) uint8 RGB."""
    video = cv2.VideoCapture(str(SHARED / 'data' / 'driving' / 'highway_960x540.mp4'))
    frames = [video.read()[1] for _ in range(186)]
    rider = cv2.imread(str(SHARED / 'data' / 'sharp' / 'bsds500' / '206062.jpg'))
    return [np.ascontiguousarray(f[..., ::-1]) for f in (frames[148], frames[185], rider)]


def by_night(frame: np.ndarray) -> np.ndarray:
    """A hundredth of the light, a little shake, and the noise of a sensor."""
    from dap_led_training.night.night_blur import NightBlurConfig, degrade, margin

    night = NightBlurConfig(
        daylight=0,
        blur=1,
        path_length=(3, 3),
        law_linear=1,
        law_gamma=0,
        exposure=(0.01, 0.01),
        shot_noise=(5e-4, 5e-4),
        **dict.fromkeys(
            ('uneven_light', 'colour_cast', 'lamps', 'defocus', 'bayer', 'smoothing', 'jpeg'), 0
        ),
        display_noise=0,
    )
    m = margin(night)
    around = np.pad(frame, ((m, m), (m, m), (0, 0)), mode='reflect')
    return degrade(around, night, np.random.default_rng(0))[0]


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Intersection over union of two boxes."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return both / (sum(areas) - both)


@pytest.mark.skipif(not YOLO.is_file(), reason='no ../shared with a YOLOv8n and photographs')
def test_yolo_finds_by_night_enhanced_what_it_finds_by_day(graph, start_node):
    camera, variables = graph
    node = start_node('detect', ['-p', f'model:={YOLO}', '-p', 'qos:=reliable'], variables)
    camera.listen()
    ready = lambda: camera.images.get_subscription_count() == 1  # noqa: E731
    assert wait_until(ready, PATIENCE), node.log
    enhancer = Enhancer.load()
    there, by_dark, enhanced = 0, 0, 0
    for index, day in enumerate(scenes()):
        dark = by_night(day)
        versions = (day, dark, enhancer.enhance(dark).frame)
        messages = [camera.send(image(v, 10 * index + k)) for k, v in enumerate(versions)]
        assert None not in messages, node.log
        sure = [
            box
            for box, detection in zip(boxes_of(messages[0]), messages[0].detections)
            if detection.results[0].hypothesis.score >= 0.5
        ]
        there += len(sure)
        again = [
            sum(
                any(box[0] == b[0] and overlap(box[1:], b[1:]) >= 0.5 for b in boxes_of(message))
                for box in sure
            )
            for message in messages[1:]
        ]
        by_dark, enhanced = by_dark + again[0], enhanced + again[1]
    assert there >= 6
    assert enhanced >= 0.8 * there
    assert by_dark <= 0.5 * enhanced
