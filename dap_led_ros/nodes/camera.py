"""One camera of the enhance node: its topics, the one frame that waits, and its record."""

from __future__ import annotations

import copy
import inspect
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from geometry_msgs.msg import Vector3Stamped
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.exceptions import ParameterAlreadyDeclaredException
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

try:
    from rclpy.event_handler import (
        PublisherEventCallbacks,
        SubscriptionEventCallbacks,
        UnsupportedEventTypeError,
    )
except ImportError:  # Humble
    from rclpy.qos_event import (
        PublisherEventCallbacks,
        SubscriptionEventCallbacks,
        UnsupportedEventTypeError,
    )

from dap_led_ros.bit_depth import BitDepth
from dap_led_ros.detection import Detector
from dap_led_ros.inference.stream import Stream
from dap_led_ros.nodes import topics
from dap_led_ros.nodes.detections import DetectionWorker
from dap_led_ros.nodes.health import End, Health
from dap_led_ros.nodes.parameters import Parameters
from dap_led_ros.nodes.video import MESSAGES, VideoInput, VideoOutput, is_video, message_class

CAMERA_INFOS_KEPT = 30
DEPTH = 5  # deep enough that a burst reaches the node's own slot and counters
PACKETS_DEPTH = 30  # of compressed pictures and videos, which are small and needed one by one
RELIABILITY = {
    'sensor_data': ReliabilityPolicy.BEST_EFFORT,
    'best_effort': ReliabilityPolicy.BEST_EFFORT,
    'reliable': ReliabilityPolicy.RELIABLE,
}
INFO_PROFILE = QoSProfile(depth=DEPTH, reliability=ReliabilityPolicy.BEST_EFFORT)  # suits all
WAIT_FOR_CAMERA = 2.0  # seconds
Stamp = tuple[int, int]


class Camera:
    """Topics below the camera's name; publishers live as long as this, subscriptions by need."""

    def __init__(
        self,
        node: Node,
        name: str,
        parameters: Parameters,
        stream: Stream,
        on_image: Callable[[Camera, Image | CompressedImage], None],
        on_change: Callable[[], None],
        lock: threading.Condition,
    ) -> None:
        """Create the publishers.

        :param on_image: called with each frame, on the executor's thread.
        :param on_change: called when somebody has come or gone on a topic: review() is due.
        :param lock: guards the record, which the worker's thread writes, too.
        :raises ValueError: a reliability in qos_overrides that does not exist.
        """
        self.name = name
        self.stream = stream
        self.health = Health()
        self.depth = BitDepth(parameters.bits)
        self.waiting: tuple[Image | CompressedImage, float] | None = None
        """The newest frame that no one has taken yet, and when it came (monotonic)."""
        self.needed_since: float | None = None
        """Since when somebody listens to what this camera would give (monotonic)."""
        self.due = 0.0
        """When the next frame is due under max_rate (monotonic)."""
        self.detections: DetectionWorker | None = None
        self.detections_raw: DetectionWorker | None = None
        self._node, self._on_image, self._on_change = node, on_image, on_change
        self._lock = lock
        self._prefix = f'{name}/' if name else ''
        self._infos: OrderedDict[Stamp, CameraInfo] = OrderedDict()
        self._subscriptions: list[Any] = []
        self._created: dict[str, Any] = {}  # publishers by the names that they were created with
        self._subscribed_as: ReliabilityPolicy | None = None
        self._video: VideoInput | None = None
        self._lost_in_videos = 0  # of those that are over
        self.video_out: VideoOutput | None = None
        try:
            self._create(parameters)
        except Exception:
            self.destroy()
            raise

    def _create(self, parameters: Parameters) -> None:
        """Settle the topics and create the publishers; raises as __init__()."""
        node = self._node
        transport = parameters.input_transport
        self._input_type = _input_type(transport)
        # As image_transport names it: beside the image's topic wherever that is remapped to.
        ending = '' if transport == 'raw' else f'/{transport}'
        self._topic = self._relative('image_raw', ending)
        self.topic = node.resolve_topic_name(self._topic)
        self._info_topic = self._beside_the_image()
        self._qos = self._declare_reliability(parameters.qos)

        compressed = parameters.output_transport != 'raw'
        self.images = self._publisher(
            CompressedImage if compressed else Image,
            self._relative('enhanced/image_raw', '/compressed' if compressed else ''),
        )
        self.video_out = VideoOutput() if parameters.output_transport == 'h264' else None
        if self.images.topic_name == self.topic:
            raise ValueError(f'{self.topic} is both input and output: remap one of them')
        self.infos = self._publisher(CameraInfo, f'{self._prefix}enhanced/camera_info')
        self.degradations = self._publisher(Vector3Stamped, f'{self._prefix}enhanced/degradation')
        self.heat_maps = self._publisher(Image, f'{self._prefix}enhanced/heat_map')
        self.side_by_sides = self._publisher(Image, f'{self._prefix}enhanced/side_by_side')
        self._subscribe(ReliabilityPolicy.BEST_EFFORT)  # a wrong override shall show now
        self._unsubscribe()

    def detect_with(self, detector: Detector, raw: bool) -> None:
        """Publish detections in the enhanced frames, and with `raw` in those that came in.

        :raises RuntimeError: vision_msgs is not there.
        """
        for name in ('detections', 'detections_raw') if raw else ('detections',):
            worker = DetectionWorker(
                self._node,
                detector,
                self._prefix + name,
                background=True,
                event_callbacks=self._matched(),
            )
            setattr(self, name, worker)

    def review(self, active: bool) -> None:
        """Subscribe, subscribe otherwise, or unsubscribe: as listeners and publishers are now."""
        if not (active and self._has_listeners()):
            self.needed_since = None
            self._unsubscribe()
            return
        self.needed_since = self.needed_since or time.monotonic()
        wanted = self._reliability()
        if wanted != self._subscribed_as:
            self._unsubscribe()
            self._subscribe(wanted)

    def look(self) -> topics.View:
        """What the graph says of this camera now."""
        node = self._node
        publishers = topics.of_type(
            node.get_publishers_info_by_topic(self._topic), self._input_type
        )
        troubles = {}
        if len(publishers) > 1:
            troubles['several cameras'] = (
                f'{len(publishers)} publishers on {self.topic} ({topics.nodes_of(publishers)}): '
                'their frames are mixed, stop or remap all but one'
            )
        for created_as, publisher in self._created.items():
            if text := topics.unfit_listeners(node, created_as, publisher):
                troubles[f'QoS of a listener to {publisher.topic_name}'] = text
        elsewhere = topics.listeners_elsewhere(node, self.images.topic_name)
        if elsewhere and not self.images.get_subscription_count():
            troubles['listener elsewhere'] = elsewhere
        info_topic = node.resolve_topic_name(self._info_topic)
        if self.infos.get_subscription_count() and not node.count_publishers(info_topic):
            troubles['no camera_info'] = (
                f'nobody publishes {info_topic}, so {self.infos.topic_name} stays silent: remap '
                'camera_info'
            )
        return topics.View(
            self.topic,
            topics.why_silent(node, self.topic, publishers, self._input_type),
            topics.unfit_publishers(node, self._topic, publishers),
            troubles,
        )

    def pictures_of(self, message: Any) -> tuple[list[Any], list[End]]:
        """What waits for the worker: the message itself, or what a video's packet brings.

        :returns: and how packets ended that brought nothing.
        """
        if not is_video(message):
            return [message], []
        if self._video is None:
            try:
                self._video = VideoInput()
            except RuntimeError as error:
                return [], [End('refused', 'no PyAV', str(error))]
        made = self._video.take(message)
        self.health.packets_lost = self._lost_in_videos + self._video.decoder.lost
        return made

    def _end_video(self) -> None:
        """The stream is over: what its decoder still has is dropped."""
        video, self._video = self._video, None
        if video is not None:
            self._lost_in_videos += video.decoder.lost
            for end in video.end():
                self.health.ended(*end)

    def camera_info_of(self, stamp: Stamp, size: tuple[int, int] | None) -> CameraInfo | None:
        """The camera info with this stamp, or else the latest one, restamped.

        :param size: height and width of the image, if known. An info of another size is none.
        """
        info = self._infos.get(stamp)
        latest = next(reversed(list(self._infos.values())), None)
        if info is None and latest is not None:
            info = copy.deepcopy(latest)
            info.header.stamp.sec, info.header.stamp.nanosec = stamp
        if info is None or size is None or _describes(info, size):
            self.health.camera_info = ''
            return info
        self.health.camera_info = (
            f'camera_info is of {info.width}x{info.height} and the images are of '
            f'{size[1]}x{size[0]}: it is not republished'
        )
        return None

    def destroy(self) -> None:
        """Leave nothing behind on the node, and let go of the model."""
        self.review(active=False)
        for worker in (self.detections, self.detections_raw):
            if worker is not None:
                worker.close()
        for publisher in self._created.values():
            self._node.destroy_publisher(publisher)
        self.stream = self.detections = self.detections_raw = None  # whoever holds a camera
        self.video_out = None

    def _subscribe(self, reliability: ReliabilityPolicy | None) -> None:
        self._subscribed_as = reliability
        if reliability is None:
            return
        depth = DEPTH if self._input_type is Image else PACKETS_DEPTH
        profile = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=depth, reliability=reliability)
        # Reliability is settled: see _declare_reliability().
        kinds = (QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH, QoSPolicyKind.DURABILITY)
        events = _events(
            SubscriptionEventCallbacks,
            message_lost=self._on_message_lost,
            incompatible_qos=lambda _: self._on_change(),
            matched=lambda _: self._on_change(),
        )
        infos = self._node.create_subscription(
            CameraInfo, self._info_topic, self._on_camera_info, INFO_PROFILE
        )
        self._subscriptions.append(infos)
        images = _with_events(
            self._node.create_subscription,
            self._input_type,
            self._topic,
            lambda message: self._on_image(self, message),
            profile,
            event_callbacks=events,
            qos_overriding_options=QoSOverridingOptions(kinds),
        )
        self._subscriptions.append(images)

    def _unsubscribe(self) -> None:
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        if self._subscriptions:  # what was true of that camera
            with self._lock:
                self._end_video()
                self.health.forget()
            self._infos = OrderedDict()
        self._subscriptions, self._subscribed_as = [], None

    def _relative(self, topic: str, ending: str) -> str:
        """Name to create with; what is remapped already could be remapped a second time."""
        topic = f'{self._prefix}{topic}'
        return self._node.resolve_topic_name(topic) + ending if ending else topic

    def _beside_the_image(self) -> str:
        """Name of the camera info's topic, as image_transport has it.

        Where only the image is remapped its camera info goes with it.
        """
        image, info = f'{self._prefix}image_raw', f'{self._prefix}camera_info'
        resolve = self._node.resolve_topic_name
        resolved = resolve(image)
        stays = resolve(info) == resolve(info, only_expand=True)
        if stays and resolved != resolve(image, only_expand=True):
            return f'{resolved.rpartition("/")[0]}/camera_info'
        return info

    def _publisher(self, kind: type, topic: str) -> Any:
        self._created[topic] = _with_events(
            self._node.create_publisher,
            kind,
            topic,
            DEPTH,
            event_callbacks=self._matched(),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )
        return self._created[topic]

    def _matched(self) -> PublisherEventCallbacks:
        return _events(PublisherEventCallbacks, matched=lambda _: self._on_change())

    def _has_listeners(self) -> bool:
        workers = (self.detections, self.detections_raw)
        return any(p.get_subscription_count() for p in self._created.values()) or any(
            worker is not None and worker.has_listeners() for worker in workers
        )

    def _declare_reliability(self, default: str) -> str:
        """Offer the qos override of the subscription's reliability; returns what it shall be.

        rclpy would declare it with what the first subscription had and keep all later ones to it.
        """
        name = f'qos_overrides.{self.topic}.subscription.reliability'
        descriptor = ParameterDescriptor(
            description='auto (as the publishers), best_effort, reliable; empty: parameter qos',
            read_only=True,
        )
        try:
            value = self._node.declare_parameter(name, '', descriptor).value
        except ParameterAlreadyDeclaredException:
            value = self._node.get_parameter(name).value
        value = value or default
        if value != 'auto' and value not in RELIABILITY:
            raise ValueError(f'parameter {name} is {value!r}: use auto, best_effort or reliable')
        return value

    def _reliability(self) -> ReliabilityPolicy | None:
        """What to subscribe with; None for a while if there is nobody to decide it.

        To guess and to change it when the camera comes would lose the camera's first frames. But
        some sources come only when they are asked for: best effort then suits whoever comes.
        """
        if self._qos != 'auto':
            return RELIABILITY[self._qos]
        publishers = topics.of_type(
            self._node.get_publishers_info_by_topic(self._topic), self._input_type
        )
        if not publishers and self._subscribed_as is None:
            waited = time.monotonic() - self.needed_since
            return ReliabilityPolicy.BEST_EFFORT if waited > WAIT_FOR_CAMERA else None
        if not publishers:  # no reason to change
            return self._subscribed_as
        reliable = all(p.qos_profile.reliability == ReliabilityPolicy.RELIABLE for p in publishers)
        return ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT

    def _on_camera_info(self, message: CameraInfo) -> None:
        stamp = (message.header.stamp.sec, message.header.stamp.nanosec)
        infos = self._infos.copy()  # the worker reads the old one meanwhile
        infos[stamp] = message
        infos.move_to_end(stamp)
        if len(infos) > CAMERA_INFOS_KEPT:
            infos.popitem(last=False)
        self._infos = infos

    def _on_message_lost(self, event: Any) -> None:
        with self._lock:
            self.health.lose(event.total_count_change)


def _input_type(transport: str) -> type:
    """Class of the messages of an input_transport.

    :raises RuntimeError: its package, or PyAV, is missing.
    """
    if transport in MESSAGES:
        return message_class(transport)
    return CompressedImage if transport == 'compressed' else Image


def _describes(info: CameraInfo, size: tuple[int, int]) -> bool:
    """Whether a camera info is of images of this height and width; uncalibrated fits all."""
    whole = (info.height, info.width)
    region = (info.roi.height, info.roi.width) if info.roi.height and info.roi.width else whole
    binned = (region[0] // max(1, info.binning_y), region[1] // max(1, info.binning_x))
    return whole == (0, 0) or size in (whole, region, binned)


def _events(kind: type, **callbacks: Callable[[Any], None]) -> Any:
    """Event callbacks, of those that this ROS has: Humble has no `matched`."""
    known = inspect.signature(kind.__init__).parameters
    return kind(**{name: callback for name, callback in callbacks.items() if name in known})


def _with_events(create: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Create with event callbacks, or without where the middleware has no such events."""
    try:
        return create(*arguments, **options)
    except UnsupportedEventTypeError:
        del options['event_callbacks']
        return create(*arguments, **options)
