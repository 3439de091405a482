"""YOLO by ultralytics, held to three rules: no network, no pickle unasked, no change to its host.

ultralytics (AGPL-3.0) and PyTorch are imported when a Detector is made, not before.
"""

from __future__ import annotations

import atexit
import colorsys
import os
import shutil
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

DEVICES = ('auto', 'cpu', 'cuda')

_OFFLINE = {
    'YOLO_OFFLINE': 'true',
    'YOLO_AUTOINSTALL': 'false',
    'YOLO_VERBOSE': 'false',
    'ORT_DISABLE_TELEMETRY': '1',  # ONNX Runtime 1.29 and later report home
}
_NAMES_IN_A_MESSAGE = 20


@dataclass(frozen=True)
class Detections:
    """What was found in one frame, N objects, the surest first."""

    boxes: np.ndarray
    """(N, 4) float32: left, top, right, bottom in pixels of the frame."""
    scores: np.ndarray
    """(N,) float32 in (0, 1]."""
    class_ids: np.ndarray
    """(N,) int64, keys of names."""
    names: dict[int, str]
    """Name of every class that the model knows."""

    @property
    def labels(self) -> list[str]:
        """Class names of the N objects."""
        return [self.names[int(index)] for index in self.class_ids]


class Detector:
    """A YOLO detection model. Thread-safe: threads may share one, and take turns."""

    def __init__(
        self,
        model: str,
        device: str = 'auto',
        image_size: int = 640,
        confidence: float = 0.25,
        iou: float = 0.7,
        classes: Sequence[str] = (),
        allow_pickle: bool = False,
    ) -> None:
        """Load a model and run it once, so that what is wrong shows here.

        :param model: path of an .onnx or .engine file; of a .pt file with allow_pickle only.
        :param device: auto (CUDA if it works, else CPU), cpu, or cuda (an error if it does not).
        :param image_size: longer side in pixels that frames are scaled to; a model that was
            exported at one size says so in its metadata and keeps that size.
        :param confidence: scores up to this one are left out, 0 to 1.
        :param iou: boxes of one class that overlap by more than this are one object, 0 to 1.
        :param classes: names of the classes to look for; empty: all.
        :param allow_pickle: open .pt files, which run whatever code is in them.
        :raises FileNotFoundError: there is no such file; nothing is downloaded.
        :raises ValueError: a setting or the file is none that can be used.
        :raises RuntimeError: ultralytics or the device is not there.
        """
        path = _check(Path(model).expanduser(), device, allow_pickle)
        torch, yolo = _import()
        has_cuda = torch.cuda.is_available()
        if (device == 'cuda' or path.suffix == '.engine') and not has_cuda:
            raise RuntimeError(
                f'{path.name} on device {device} needs CUDA, and PyTorch finds none here: use an '
                '.onnx model and set device to cpu or auto'
            )
        self._lock = threading.Lock()
        self._arguments = {
            'imgsz': image_size,
            'conf': confidence,
            'iou': iou,
            'device': 'cuda:0' if has_cuda and device != 'cpu' else 'cpu',
            'verbose': False,
            'save': False,
        }
        torch_threads = torch.get_num_threads()
        try:
            self._model = yolo(str(path))
            # Black to white: of black alone a model of another kind may answer nothing wrong.
            ramp = np.linspace(0, 255, image_size).astype(np.uint8)
            self.names: dict[int, str] = dict(self._model.names)
            """Names of the model's classes; class0, class1... where its file has none."""
            self._find(np.dstack([np.tile(ramp[:, None], image_size)] * 3))
        except Exception as error:  # ultralytics and the runtimes behind it raise many classes
            reason = ' '.join(str(error).split())
            raise ValueError(f'{path} cannot be used as a YOLO model: {reason}') from error
        finally:
            torch.set_num_threads(torch_threads)
        if self._model.task != 'detect':
            raise ValueError(f'{path} is a YOLO model to {self._model.task}: use one to detect')
        self.device = str(self._model.predictor.device)
        """Where the model really runs: cpu or cuda:0."""
        if device == 'cuda' and self.device == 'cpu':
            raise RuntimeError(
                'device is cuda, but this ONNX Runtime has no CUDA: install onnxruntime-gpu in '
                'place of onnxruntime, or set device to cpu or auto'
            )
        self.names = dict(self._model.names)
        if classes:
            self._arguments['classes'] = _class_ids(classes, self.names)

    def detect(self, frame: np.ndarray) -> Detections:
        """Find the objects in a frame.

        :param frame: (H, W, 3) uint8 RGB.
        :raises ValueError: a frame of another shape or type, or the model is no YOLO detector.
        """
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
            raise ValueError(f'frame is {frame.dtype} {frame.shape}: expected uint8 (H, W, 3) RGB')
        found = self._find(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        return Detections(
            boxes=found[:, :4].astype(np.float32),
            scores=found[:, 4].astype(np.float32),
            class_ids=found[:, 5].astype(np.int64),
            names=self.names,
        )

    def _find(self, bgr: np.ndarray) -> np.ndarray:
        """(N, 6): left, top, right, bottom, score and class of the objects.

        :raises ValueError: a class that the model does not know: it is none of YOLO.
        """
        found = self._predict(bgr).boxes.data.cpu().numpy()
        unknown = {int(index) for index in found[:, 5]} - self.names.keys()
        if unknown:
            raise ValueError(
                f'it answers with class {min(unknown)} of {len(self.names)}: give a YOLO detector'
            )
        return found

    def _predict(self, bgr: np.ndarray):
        """One run of ultralytics, which takes arrays for BGR."""
        with self._lock:
            return self._model.predict(bgr, **self._arguments)[0]


def draw(frame: np.ndarray, detections: Detections) -> np.ndarray:
    """Boxes and names on a copy of a frame, a colour for each class.

    :param frame: (H, W, 3) uint8 RGB, the one that the detections are of.
    """
    result = np.array(frame)
    font, stroke = cv2.FONT_HERSHEY_SIMPLEX, max(1, round(max(frame.shape[:2]) / 500))
    found = zip(detections.boxes, detections.scores, detections.class_ids, detections.labels)
    for box, score, class_id, label in reversed(list(found)):  # the surest on top
        # Steps of the golden ratio around the colour circle keep neighbours apart.
        hue = int(class_id) * 0.618 % 1
        colour = [255 * channel for channel in colorsys.hsv_to_rgb(hue, 0.8, 1.0)]
        left, top, right, bottom = (round(float(edge)) for edge in box)
        cv2.rectangle(result, (left, top), (right, bottom), colour, stroke)
        text = f'{label} {score:.2f}'
        (width, height), base = cv2.getTextSize(text, font, 0.45 * stroke, stroke)
        left = max(0, min(left, frame.shape[1] - width))  # the label stays inside the frame
        below = max(top, height + base)
        cv2.rectangle(result, (left, below - height - base), (left + width, below), colour, -1)
        place = (left, below - base // 2)
        cv2.putText(result, text, place, font, 0.45 * stroke, (0, 0, 0), stroke, cv2.LINE_AA)
    return result


def _check(path: Path, device: str, allow_pickle: bool) -> Path:
    """The path, if it may be opened at all."""
    if device not in DEVICES:
        raise ValueError(f'device is {device!r}: use one of {", ".join(DEVICES)}')
    if path.suffix not in ('.onnx', '.engine', '.pt'):
        raise ValueError(f'{path} is no model that can be used: give an .onnx or .engine file')
    if path.suffix == '.pt' and not allow_pickle:
        raise ValueError(
            f'{path} is a pickle: opening it runs whatever code is in it. Export it (yolo export '
            f'format=onnx model={path}), or set allow_pickle to true if you trust its maker'
        )
    if not path.is_file():
        raise FileNotFoundError(
            f'there is no {path.absolute()}, and nothing is downloaded here. For YOLOv8n run '
            '"yolo export format=onnx model=yolov8n.pt" where there is internet, and set model '
            'to the path of yolov8n.onnx'
        )
    return path


def _import():
    """PyTorch and the class YOLO, imported without network and without side effects.

    Left alone, the import looks for the internet, writes settings into the home directory and
    takes the threads of OpenCV and OpenMP from the whole process.
    """
    os.environ.update(_OFFLINE)
    if 'YOLO_CONFIG_DIR' not in os.environ:
        os.environ['YOLO_CONFIG_DIR'] = tempfile.mkdtemp(prefix='dap_led_yolo_')
        atexit.register(shutil.rmtree, os.environ['YOLO_CONFIG_DIR'], ignore_errors=True)
    openmp_threads = os.environ.get('OMP_NUM_THREADS')
    opencv_threads = cv2.getNumThreads()
    try:
        import torch
        from ultralytics import YOLO
    except ImportError as error:
        raise RuntimeError(
            f'ultralytics is missing: see dap_led_ros/detection/README.md ({error})'
        ) from None
    finally:
        cv2.setNumThreads(opencv_threads)
        if openmp_threads is None:
            os.environ.pop('OMP_NUM_THREADS', None)
    return torch, YOLO


def _class_ids(classes: Sequence[str], names: dict[int, str]) -> list[int]:
    """Numbers of the named classes."""
    numbers = {name: number for number, name in names.items()}
    unknown = [name for name in classes if name not in numbers]
    if unknown:
        known = list(numbers)
        more = ', ...' if len(known) > _NAMES_IN_A_MESSAGE else ''
        raise ValueError(
            f'the model has no class {", ".join(map(repr, unknown))}: it has '
            f'{", ".join(known[:_NAMES_IN_A_MESSAGE])}{more}'
        )
    return [numbers[name] for name in classes]
