"""Detections of a node: parameters, messages, and the worker that must not disturb its host.

The enhance node and the detect node share this. A worker has a slot of one and a thread of its
own: whatever happens in it, who offers a frame goes on at once.
"""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import numpy as np
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import Image
from std_msgs.msg import Header

try:
    from rclpy.event_handler import PublisherEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import PublisherEventCallbacks

from dap_led_ros import image_codec
from dap_led_ros.detection import Detections, Detector, draw
from dap_led_ros.pictures import eight_bit

LOG_PERIOD = 60.0  # seconds between log lines of the same kind of trouble
PATIENCE = 10.0  # seconds to wait for the last frame
BACKGROUND_NICENESS = 10


@dataclass(frozen=True)
class Settings:
    """What a Detector is made with; see there."""

    model: str
    device: str
    image_size: int
    confidence: float
    iou: float
    classes: tuple[str, ...]
    allow_pickle: bool


@dataclass
class Counts:
    """What became of the frames: received = detected + skipped + dropped + failed + refused."""

    received: int = 0
    detected: int = 0
    skipped: int = 0
    """Nobody listened."""
    dropped: int = 0
    """A newer frame came before the worker was free."""
    failed: int = 0
    refused: int = 0
    """No picture that can be decoded."""

    def __str__(self) -> str:
        return ', '.join(f'{count} {name}' for name, count in asdict(self).items())


def declare(node: Node, prefix: str = '') -> Settings:
    """Declare the parameters of the detector and read them.

    :param prefix: of the parameters' names, such as 'detect.'.
    """

    def value(name: str, default: str | float | bool, description: str, **limits):
        descriptor = ParameterDescriptor(description=description, read_only=True, **limits)
        return node.declare_parameter(prefix + name, default, descriptor).value

    share = [FloatingPointRange(from_value=0.0, to_value=1.0)]
    classes = value(
        'classes', '', 'Names of the classes to detect, with commas between them; empty: all.'
    )
    return Settings(
        model=value(
            'model',
            'yolov8n.onnx',
            'Path of a YOLO model: .onnx or .engine; .pt with allow_pickle only.',
        ),
        device=value(
            'device',
            'auto',
            'Where the detector runs: cpu, cuda (an error if it is not there), or auto (CUDA if '
            'it works, else CPU).',
        ),
        image_size=value(
            'image_size',
            640,
            'Longer side in pixels that frames are scaled to; a model exported at one size keeps '
            'that size.',
            integer_range=[IntegerRange(from_value=32, to_value=4096, step=32)],
        ),
        confidence=value(
            'confidence',
            0.25,
            'Scores up to this one are left out.',
            floating_point_range=share,
        ),
        iou=value(
            'iou',
            0.7,
            'Boxes of one class that overlap by more than this are one object.',
            floating_point_range=share,
        ),
        classes=tuple(name.strip() for name in classes.split(',') if name.strip()),
        allow_pickle=value(
            'allow_pickle',
            False,
            'Open .pt files. They run whatever code is in them: only if you trust their maker.',
        ),
    )


def load(settings: Settings, background: bool = False) -> Detector:
    """The detector.

    :param background: its threads give way to every other thread of the machine.
    :raises FileNotFoundError, ValueError, RuntimeError: as Detector does, or where vision_msgs
        is missing.
    """
    _vision_msgs()  # before the seconds that PyTorch takes
    # A runtime's threads inherit the niceness of the thread that loads the model.
    initializer = _give_way if background else None
    with ThreadPoolExecutor(1, initializer=initializer) as loader:
        return loader.submit(Detector, **asdict(settings)).result()


class DetectionWorker:
    """Detects in the frames offered to it; publishes a Detection2DArray and an annotated image."""

    def __init__(
        self,
        node: Node,
        detector: Detector,
        topic: str = 'detections',
        background: bool = False,
        event_callbacks: PublisherEventCallbacks | None = None,
    ) -> None:
        """Create the publishers and start the thread.

        :param node: a node, or a lifecycle node in any state.
        :param detector: may be shared with another worker.
        :param topic: of the detections; the annotated image is on `<topic>/image`.
        :param background: as in load().
        :param event_callbacks: of both publishers.
        :raises RuntimeError: vision_msgs is missing.
        """
        self.counts = Counts()
        self._node = node
        self._detector = detector
        self._messages = _vision_msgs()
        options = {
            'event_callbacks': event_callbacks,
            'qos_overriding_options': QoSOverridingOptions.with_default_policies(),
        }
        self._publisher = node.create_publisher(
            self._messages.Detection2DArray, topic, 5, **options
        )
        self._image_publisher = node.create_publisher(Image, f'{topic}/image', 5, **options)
        self._lock = threading.Condition()  # guards counts, _waiting, _stopping
        self._waiting: tuple[Header, np.ndarray] | None = None
        self._stopping = False
        self._logged: dict[str, float] = {}
        self._thread = threading.Thread(
            target=self._work, args=(background,), name=topic, daemon=True
        )
        self._thread.start()

    def offer(self, header: Header, frame: np.ndarray) -> None:
        """Hand over a frame; returns at once and never raises.

        :param frame: (H, W, 3) RGB, uint8 or uint16, not to be changed any more.
        """
        with self._lock:
            self.counts.received += 1
            if self._stopping:
                self.counts.dropped += 1
            elif not self.has_listeners():
                self.counts.skipped += 1
            else:
                self.counts.dropped += self._waiting is not None
                self._waiting = header, frame
                self._lock.notify()

    def refuse(self, reason: Exception) -> None:
        """Count a message that is no picture, and say why."""
        with self._lock:
            self.counts.received += 1
            self.counts.refused += 1
        self._log_seldom('frame refused', reason)

    def has_listeners(self) -> bool:
        """Whether anybody listens."""
        publishers = (self._publisher, self._image_publisher)
        try:
            return any(publisher.get_subscription_count() for publisher in publishers)
        except Exception:  # the node is ending, and its publishers with it
            return False

    def close(self) -> None:
        """Stop when the frame in hand is done with; one that still waits is dropped."""
        with self._lock:
            if self._stopping:
                return
            self._stopping = True
            self.counts.dropped += self._waiting is not None
            self._waiting = None
            self._lock.notify()
        self._thread.join(PATIENCE)
        self._node.destroy_publisher(self._publisher)
        self._node.destroy_publisher(self._image_publisher)

    # --- the worker's thread ------------------------------------------------------------------

    def _work(self, background: bool) -> None:
        if background:
            _give_way()
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._waiting is not None or self._stopping)
                if self._stopping:
                    return
                (header, frame), self._waiting = self._waiting, None
            outcome = self._handle(header, frame)
            with self._lock:
                setattr(self.counts, outcome, getattr(self.counts, outcome) + 1)

    def _handle(self, header: Header, frame: np.ndarray) -> str:
        """Detect and publish; returns the name of the frame's count. Never raises."""
        try:
            frame = eight_bit(frame)
            detections = self._detector.detect(frame)
            self._publisher.publish(to_message(detections, header, self._messages))
            if self._image_publisher.get_subscription_count():
                image = Image(header=header)
                image_codec.encode(draw(frame, detections), 'rgb8', image)
                self._image_publisher.publish(image)
        except Exception as error:
            if self._node.context.ok():  # else the node is ending, and its publishers with it
                self._log_seldom('detection failed', error)
            return 'failed'
        return 'detected'

    def _log_seldom(self, what: str, error: Exception) -> None:
        """Log each kind of trouble with its first frame and then once a minute."""
        kind, now = f'{what} {type(error).__name__}', time.monotonic()
        if now - self._logged.get(kind, -LOG_PERIOD) >= LOG_PERIOD:
            self._logged[kind] = now
            self._node.get_logger().error(f'{what}: {error}')


def to_message(detections: Detections, header: Header, messages):
    """A Detection2DArray; the header is in each detection too.

    :param messages: the module vision_msgs.msg.
    """
    array = messages.Detection2DArray(header=header)
    for box, score, label in zip(detections.boxes, detections.scores, detections.labels):
        left, top, right, bottom = box.tolist()
        detection = messages.Detection2D(header=header)
        detection.bbox.center.position.x = (left + right) / 2
        detection.bbox.center.position.y = (top + bottom) / 2
        detection.bbox.size_x = right - left
        detection.bbox.size_y = bottom - top
        result = messages.ObjectHypothesisWithPose()
        result.hypothesis.class_id = label
        result.hypothesis.score = float(score)
        detection.results.append(result)
        array.detections.append(detection)
    return array


def _vision_msgs():
    try:
        import vision_msgs.msg
    except ImportError as error:
        distribution = os.environ.get('ROS_DISTRO', '$ROS_DISTRO')
        raise RuntimeError(
            f'vision_msgs is missing: sudo apt install ros-{distribution}-vision-msgs ({error})'
        ) from None
    return vision_msgs.msg


def _give_way() -> None:
    """Let every other thread of the machine go first; Linux keeps a niceness for each thread."""
    own = threading.get_native_id()
    os.setpriority(
        os.PRIO_PROCESS, own, os.getpriority(os.PRIO_PROCESS, own) + BACKGROUND_NICENESS
    )
