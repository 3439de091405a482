"""The detect node: YOLO on any camera, enhanced or not, in a process of its own.

The enhance node runs the same worker on its own frames (`detect: true`), without a copy through
DDS.
"""

from __future__ import annotations

import sys

import rclpy
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import Image

from dap_led_ros import image_codec
from dap_led_ros.nodes import detections, running
from dap_led_ros.nodes.arguments import usage, warn_of_misfits

RELIABILITY = {
    'sensor_data': ReliabilityPolicy.BEST_EFFORT,
    'reliable': ReliabilityPolicy.RELIABLE,
}
TOPICS = """\
  image_raw           in
  detections          out: vision_msgs/Detection2DArray
  detections/image    out, to look at"""
REVIEW_PERIOD = 0.5  # seconds between looks at who listens


class DetectNode(Node):
    """image_raw -> detections, detections/image, all remappable."""

    def __init__(self) -> None:
        """Load the model; subscribe as soon as somebody listens.

        :raises ValueError, RuntimeError, OSError: as Detector and DetectionWorker do.
        """
        super().__init__('detect')
        description = 'Image subscription: sensor_data (best effort) or reliable.'
        descriptor = ParameterDescriptor(description=description, read_only=True)
        qos = self.declare_parameter('qos', 'sensor_data', descriptor).value
        if qos not in RELIABILITY:
            raise ValueError(f'parameter qos is {qos!r}: use one of {", ".join(RELIABILITY)}')
        self._profile = QoSProfile(
            history=HistoryPolicy.KEEP_LAST, depth=5, reliability=RELIABILITY[qos]
        )
        settings = detections.declare(self)
        detector = detections.load(settings)
        self.worker = detections.DetectionWorker(self, detector)
        self._subscription = None
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timer = self.create_timer(REVIEW_PERIOD, self._review, clock=steady)
        self.get_logger().info(
            f'{self.resolve_topic_name("image_raw")} -> {self.resolve_topic_name("detections")}: '
            f'{settings.model} on {detector.device}'
        )

    def _review(self) -> None:
        """Subscribe while somebody listens, so that whoever sends the frames may be lazy, too."""
        if self._subscription is None and self.worker.has_listeners():
            self._subscription = self.create_subscription(
                Image,
                'image_raw',
                self._on_image,
                self._profile,
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            )
        elif self._subscription is not None and not self.worker.has_listeners():
            self.destroy_subscription(self._subscription)
            self._subscription = None

    def _on_image(self, message: Image) -> None:
        try:
            frame = image_codec.decode(message)
        except image_codec.ImageError as error:
            self.worker.refuse(error)
        else:
            self.worker.offer(message.header, frame)


def main(arguments: list[str] | None = None) -> int:
    """Run the node until Ctrl-C; 1 if it could not start."""

    def begin() -> DetectNode:
        made = DetectNode()
        warn_of_misfits(made, arguments)
        return made

    node = running.start('detect', begin, arguments, _usage)
    if isinstance(node, int):
        return node
    running.spin(node)
    node.worker.close()
    # Not the node's logger, whose way to /rosout is closed after Ctrl-C.
    rclpy.logging.get_logger('dap_led_ros').info(str(node.worker.counts))
    running.end(node)
    return 0


def _usage() -> str:
    return usage('detect', TOPICS, {'all': 'See the comments of config/detect.yaml.'})


if __name__ == '__main__':
    sys.exit(main())
