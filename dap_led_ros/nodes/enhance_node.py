"""The enhance node: subscribes to a camera, publishes the enhanced camera.

The way of a frame: _on_image() puts it into a slot of one (a frame still waiting there is dropped
and counted) -> the worker thread takes it in _work() -> _handle() has it enhanced and publishes
it, or passes it through, or refuses it. Callbacks never run the network, so that the node always
answers.
"""

from __future__ import annotations

import contextlib
import copy
import signal
import sys
import threading
import time
from collections import OrderedDict
from dataclasses import asdict, dataclass

import rclpy
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, Image

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks

from dap_led_ros import image_codec
from dap_led_ros.inference import Enhancer
from dap_led_ros.nodes import parameters

CAMERA_INFOS_KEPT = 30
LOG_PERIOD = 60.0  # seconds between log lines of the same kind of trouble
KINDS_REMEMBERED = 100
EXPECTED_AT_START = (ValueError, RuntimeError, FileNotFoundError, ParameterException)


@dataclass
class Counts:
    """What became of the frames: received = enhanced + passed_through + dropped + refused."""

    received: int = 0
    enhanced: int = 0
    passed_through: int = 0
    dropped: int = 0
    refused: int = 0

    def __str__(self) -> str:
        return ', '.join(f'{count} {name}' for name, count in asdict(self).items())


class EnhanceNode(Node):
    """image_raw, camera_info -> enhanced/image_raw, enhanced/camera_info, all remappable."""

    def __init__(self) -> None:
        super().__init__('enhance')
        self.counts = Counts()
        self._lock = threading.Condition()  # guards counts, _waiting, _camera_infos, _stopping
        self._waiting: Image | None = None
        self._camera_infos: OrderedDict[tuple[int, int], CameraInfo] = OrderedDict()
        self._stopping = False
        self._logged: dict[str, float] = {}

        values = parameters.declare(self)
        self._enhancer = Enhancer.load(values.model, values.device, values.threads)

        overridable = {
            'qos_overriding_options': QoSOverridingOptions.with_default_policies(),
        }
        self._image_publisher = self.create_publisher(
            Image, 'enhanced/image_raw', 5, **overridable
        )
        self._camera_info_publisher = self.create_publisher(
            CameraInfo, 'enhanced/camera_info', 5, **overridable
        )
        self._camera_info_subscription = self.create_subscription(
            CameraInfo,
            'camera_info',
            self._on_camera_info,
            qos_profile_sensor_data,
            **overridable,
        )
        self._image_subscription = self.create_subscription(
            Image,
            'image_raw',
            self._on_image,
            parameters.subscription_profile(values.qos),
            event_callbacks=SubscriptionEventCallbacks(message_lost=self._on_message_lost),
            **overridable,
        )
        self.get_logger().info(
            f'{self._image_subscription.topic_name} -> {self._image_publisher.topic_name}: '
            f'model {self._enhancer.model} on {self._enhancer.provider}, '
            f'camera info from {self._camera_info_subscription.topic_name}'
        )
        # Last: whatever fails above leaves no thread behind.
        self._worker = threading.Thread(target=self._work, name='enhance', daemon=True)
        self._worker.start()

    def close(self) -> None:
        """Stop the worker when it is done with its frame; one that still waits is dropped."""
        with self._lock:
            self._stopping = True
            if self._waiting is not None:
                self._waiting = None
                self.counts.dropped += 1
            self._lock.notify()
        self._worker.join()

    # --- callbacks: quick, on the executor's thread -------------------------------------------

    def _on_image(self, message: Image) -> None:
        with self._lock:
            self.counts.received += 1
            if self._waiting is not None or self._stopping:
                self.counts.dropped += 1
            if not self._stopping:
                self._waiting = message
                self._lock.notify()

    def _on_camera_info(self, message: CameraInfo) -> None:
        with self._lock:
            self._camera_infos[_stamp(message)] = message
            self._camera_infos.move_to_end(_stamp(message))
            if len(self._camera_infos) > CAMERA_INFOS_KEPT:
                self._camera_infos.popitem(last=False)

    def _on_message_lost(self, event) -> None:
        self.get_logger().warning(
            f'Images lost on their way to this node: {event.total_count} so far. If the camera '
            'runs on Fast DDS, start its driver with the profile fastdds_large_images.xml of this '
            'package (README, "Lost frames"), or set the parameter qos to reliable.',
            throttle_duration_sec=10.0,
        )

    # --- the worker's thread ------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._waiting is not None or self._stopping)
                message, self._waiting = self._waiting, None
            if message is None:
                return
            outcome = self._handle(message)
            with self._lock:
                setattr(self.counts, outcome, getattr(self.counts, outcome) + 1)

    def _handle(self, message: Image) -> str:
        """Publish what can be made of a frame; returns the name of its count. Never raises."""
        outcome = 'enhanced'
        try:
            image = self._enhance(message)
        except (image_codec.MalformedImageError, image_codec.NotAPictureError) as error:
            self._log_seldom(f'frame refused: {error}', message, error)
            return 'refused'
        except Exception as error:
            self._log_seldom(f'frame passed through: {error}', message, error)
            image, outcome = message, 'passed_through'
        try:
            self._publish(image)
        except Exception as error:
            if self.context.ok():  # else the node is ending, and its publishers with it
                self._log_seldom(f'frame dropped: {error}', message, error)
            return 'dropped'
        return outcome

    def _enhance(self, message: Image) -> Image:
        enhanced = self._enhancer.enhance(image_codec.decode(message))
        result = Image(header=message.header)
        image_codec.encode(enhanced.frame, message.encoding, result)
        return result

    def _publish(self, image: Image) -> None:
        camera_info = self._camera_info_of(image)
        self._image_publisher.publish(image)
        if camera_info is not None:
            self._camera_info_publisher.publish(camera_info)

    def _camera_info_of(self, image: Image) -> CameraInfo | None:
        """The camera info with the image's stamp, or else the latest one, restamped."""
        with self._lock:
            exact = self._camera_infos.get(_stamp(image))
            latest = next(reversed(self._camera_infos.values()), None)
        if exact is not None or latest is None:
            return exact
        restamped = copy.deepcopy(latest)
        restamped.header.stamp = image.header.stamp
        return restamped

    def _log_seldom(self, text: str, message: Image, error: Exception) -> None:
        """Log each kind of trouble with its first frame and then once a minute."""
        kind = f'{type(error).__name__} {message.encoding}'
        now = time.monotonic()
        if now - self._logged.get(kind, -LOG_PERIOD) >= LOG_PERIOD:
            if len(self._logged) >= KINDS_REMEMBERED:  # garbage in the encoding: stay small
                self._logged.clear()
            self._logged[kind] = now
            self.get_logger().error(text)


def _stamp(message: Image | CameraInfo) -> tuple[int, int]:
    return message.header.stamp.sec, message.header.stamp.nanosec


def main(arguments: list[str] | None = None) -> int:
    """Run the node until Ctrl-C; 1 if it could not start."""
    rclpy.init(args=arguments)
    try:
        node = EnhanceNode()
    except (KeyboardInterrupt, ExternalShutdownException):
        return 0
    except Exception as error:
        if not rclpy.ok():  # Ctrl-C while starting: rclpy raises whatever it was busy with
            return 0
        if not isinstance(error, EXPECTED_AT_START):
            raise
        rclpy.logging.get_logger('enhance').fatal(f'cannot start: {error}')
        rclpy.shutdown()
        return 1
    with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(node)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C shall not interrupt the end
    logger = node.get_logger()
    node.close()
    node.destroy_node()  # and its way to /rosout, which is closed after Ctrl-C
    logger.info(str(node.counts))
    if rclpy.ok():
        rclpy.shutdown()
    return 0


if __name__ == '__main__':
    sys.exit(main())
