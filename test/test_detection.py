"""The detector: exact boxes, settings, what it refuses, and what it leaves alone."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest

if importlib.util.find_spec('ultralytics') is None:  # to import it is the Detector's business
    pytest.skip('no ultralytics: dap_led_ros/detection/README.md', allow_module_level=True)

import colour_detector
from colour_detector import DUPLICATE, SURE, picture

from dap_led_ros.detection import Detections, Detector, draw
from dap_led_ros.inference import weights


@pytest.fixture(scope='module')
def model(tmp_path_factory) -> str:
    return colour_detector.write(tmp_path_factory.mktemp('model') / 'colours.onnx')


@pytest.mark.parametrize('size', [96, None], ids=['fixed', 'dynamic'])
@pytest.mark.parametrize('metadata', [True, False], ids=['metadata', 'bare'])
def test_boxes_classes_and_scores_are_exact(tmp_path, size, metadata):
    """Also where frames are not square, larger than the model, or of odd make."""
    path = colour_detector.write(tmp_path / 'colours.onnx', size, metadata)
    detector = Detector(path, 'cpu', image_size=96)
    assert detector.device == 'cpu'
    red = (10, 20, 40, 50)
    for width, height, blue in ((96, 64, (50, 0, 96, 33)), (64, 96, (50, 3, 60, 33))):
        found = detector.detect(picture(width, height, red, blue))
        np.testing.assert_array_equal(found.boxes, [red, blue])
        np.testing.assert_array_equal(found.scores, [SURE, SURE])
        assert found.class_ids.tolist() == [0, 1]
        assert found.labels == (['red', 'blue'] if metadata else ['class0', 'class1'])
    halved = detector.detect(picture(192, 128, red=(10, 20, 40, 50), blue=(100, 2, 192, 66)))
    np.testing.assert_array_equal(halved.boxes, [(10, 20, 40, 50), (100, 2, 192, 66)])
    turned = np.rot90(picture(96, 64, red=(10, 20, 40, 50)))  # not contiguous
    np.testing.assert_array_equal(detector.detect(turned).boxes, [(20, 56, 50, 86)])
    nothing = detector.detect(picture(96, 64))
    assert nothing.boxes.shape == (0, 4) and nothing.labels == []


def test_confidence_overlap_and_classes_are_as_set(model):
    frame = picture(96, 96, red=(0, 0, 40, 40), blue=(50, 50, 90, 90))

    def scores(**settings) -> list[float]:
        return Detector(model, 'cpu', 96, **settings).detect(frame).scores.tolist()

    assert scores() == [SURE, SURE]
    assert scores(iou=0.95) == [SURE, SURE, DUPLICATE, DUPLICATE]  # they overlap by 0.9
    assert scores(iou=0.95, confidence=0.7) == [SURE, SURE]
    assert scores(confidence=0.9) == []
    assert scores(classes=['blue']) == [SURE]
    assert Detector(model, 'cpu', 96, classes=['blue']).detect(frame).labels == ['blue']


def test_what_cannot_be_used_is_refused_with_what_to_do(model, tmp_path):
    garbage = tmp_path / 'garbage.onnx'
    garbage.write_bytes(b'no model')
    stranger = tmp_path / 'stranger.pt'
    stranger.write_bytes(b'')
    absent = tmp_path / 'yolov8n.onnx'
    for path, error, text in (
        (absent, FileNotFoundError, 'yolo export format=onnx model=yolov8n.pt'),
        (garbage, ValueError, 'garbage.onnx cannot be used as a YOLO model'),
        (weights.find('nano'), ValueError, 'nano.onnx cannot be used as a YOLO model'),
        (stranger, ValueError, 'is a pickle: opening it runs whatever code is in it'),
        (tmp_path, ValueError, 'give an .onnx or .engine file'),
    ):
        with pytest.raises(error, match=text) as caught:
            Detector(str(path))
        assert '\n' not in str(caught.value)
    with pytest.raises(ValueError, match="no class 'green': it has red, blue"):
        Detector(model, classes=['red', 'green'])
    with pytest.raises(ValueError, match="device is 'gpu': use one of auto, cpu, cuda"):
        Detector(model, 'gpu')
    with pytest.raises(ValueError, match='expected uint8'):
        Detector(model).detect(np.zeros((96, 96, 3), np.uint16))
    import torch

    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match='needs CUDA, and PyTorch finds none here'):
            Detector(model, 'cuda')


def test_a_network_of_another_kind_is_said_to_be_none(tmp_path):
    """Its answer has the shape of detections, but no sense."""
    onnx = pytest.importorskip('onnx', reason='onnx is not installed')
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node('Reshape', ['images', 'shape'], ['output0'])],
        'other',
        [helper.make_tensor_value_info('images', kind, [1, 3, 'h', 'w'])],
        [helper.make_tensor_value_info('output0', kind, None)],
        [helper.make_tensor('shape', onnx.TensorProto.INT64, [3], [1, -1, 4])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 13)], ir_version=8)
    onnx.save(made, tmp_path / 'other.onnx')
    with pytest.raises(ValueError, match='YOLO') as caught:
        Detector(str(tmp_path / 'other.onnx'), image_size=64)
    assert '\n' not in str(caught.value)


def test_a_pickle_is_opened_when_allowed(tmp_path):
    """A real YOLOv8 with random weights; no network needed to make one."""
    Detector(colour_detector.write(tmp_path / 'colours.onnx'))  # the way to import ultralytics
    from ultralytics import YOLO

    path = tmp_path / 'random.pt'
    YOLO('yolov8n.yaml').save(path)
    detector = Detector(str(path), 'cpu', image_size=64, confidence=0.0, allow_pickle=True)
    found = detector.detect(picture(96, 64))
    assert len(detector.names) == 80 and len(found.boxes) > 0
    assert (found.boxes[:, 2:] <= (96, 64)).all() and (found.boxes >= 0).all()


WATCHED = """
import os, sys
seen = []
def hook(event, arguments):
    if event.startswith(('socket.', 'urllib.')) or 'pip' in str(arguments)[:200].split():
        seen.append(f'{event} {arguments}'[:200])
sys.addaudithook(hook)

import cv2, numpy, torch
from dap_led_ros.detection import Detector, draw
threads = cv2.getNumThreads(), torch.get_num_threads(), os.environ.get('OMP_NUM_THREADS')
frame = numpy.zeros((64, 96, 3), numpy.uint8)
frame[10:20, 10:20] = 255, 0, 0
detector = Detector(sys.argv[1])
found = detector.detect(frame)
assert len(found.boxes) == 1, found
draw(frame, found)
try:
    Detector('yolov8n.onnx')
except FileNotFoundError:
    pass
assert threads == (
    cv2.getNumThreads(), torch.get_num_threads(), os.environ.get('OMP_NUM_THREADS')
), 'threads of the process were changed'
print('\\n'.join(seen))
"""


def test_no_network_no_files_and_no_threads_of_others_are_touched(model, tmp_path):
    """In a process of its own, as a new user on a robot."""
    home, temporary = tmp_path / 'home', tmp_path / 'temporary'
    home.mkdir()
    temporary.mkdir()
    unset = ('YOLO_', 'XDG_', 'PYTEST', 'OMP_NUM_THREADS', 'MPLCONFIGDIR')
    environment = {k: v for k, v in os.environ.items() if not k.startswith(unset)}
    environment |= {'HOME': str(home), 'TMPDIR': str(temporary)}
    done = subprocess.run(
        [sys.executable, '-c', WATCHED, model],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ''
    assert [p for p in home.rglob('*') if p.is_file()] == []
    assert list(temporary.iterdir()) == []


def test_drawing_marks_the_objects_and_leaves_the_frame_alone():
    frame = np.full((240, 320, 3), 90, np.uint8)
    boxes = np.array([(40, 60, 120, 200), (300, 2, 319, 30)], np.float32)
    names = {0: 'person', 1: 'traffic light'}
    detections = Detections(boxes, np.array([0.9, 0.5], np.float32), np.array([0, 1]), names)
    drawn = draw(frame, detections)
    assert (frame == 90).all() and drawn.shape == frame.shape and drawn.dtype == np.uint8
    changed = (drawn != 90).any(axis=2)
    assert not changed[70:190, 50:110].any()  # the object itself stays to be seen
    assert changed[61:200, 40].all() and changed[200, 40:121].all()
    assert not changed[210:].any() and not changed[:, :39][120:].any()
    person, light = drawn[150, 40].astype(int), drawn[29, 310].astype(int)
    assert np.abs(person - light).max() > 100  # a colour for each class
    none = Detections(boxes[:0], np.zeros(0, np.float32), np.zeros(0, int), names)
    assert np.array_equal(draw(frame, none), frame)
