"""What becomes of one frame: decoded, enhanced and published; passed through; dropped; or refused.

All of it runs on the worker's thread of the enhance node, and none of it raises.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from geometry_msgs.msg import Vector3Stamped

from dap_led_ros import image_codec
from dap_led_ros.bit_depth import AUTO, COUNTS, BitDepth
from dap_led_ros.inference.frames import MIN_SIDE, Enhanced
from dap_led_ros.nodes import debug_images, messages
from dap_led_ros.nodes.camera import Camera
from dap_led_ros.nodes.health import DAY, End, in_words, why_no_age
from dap_led_ros.nodes.messages import Message, stamp_ns
from dap_led_ros.pictures import eight_bit

if TYPE_CHECKING:
    from dap_led_ros.nodes.enhance_node import EnhanceNode


@dataclass(frozen=True)
class Result:
    """What to publish for a frame, and what is known of it."""

    message: Message
    outcome: str
    cause: str = ''
    frame: np.ndarray | None = None
    enhanced: Enhanced | None = None


class Frames:
    """Handles the frames of all cameras of a node, one after the other."""

    def __init__(self, node: EnhanceNode) -> None:
        """Nothing is kept from frame to frame but the node."""
        self._node = node

    def handle(self, camera: Camera, message: Message, came: float) -> End:
        """Publish what can be made of a frame. Never raises.

        :param came: when it was received, monotonic.
        """
        started = time.monotonic()
        age = self._age(message)
        if 0 < self._node.wanted.max_age < age:
            doubt = ': does the camera stamp its frames?' if age > DAY else ''
            text = f'older than max_age (stamps are {in_words(age)}{doubt})'
            return End('dropped', 'older than max_age', text)
        times = {'wait': (started - came) * 1e3}
        try:
            result = self._make(camera, message, times)
        except image_codec.ImageError as error:
            kind = type(error).__name__
            self._node.complain(camera, f'refused: {kind}', f'frame refused: {error}')
            return End('refused', kind, str(error))
        except Exception as error:
            self._node.complain(camera, 'dropped: failed', f'frame dropped: {error}')
            return End('dropped', 'failed', str(error))
        made = time.monotonic()
        try:
            self._publish(camera, result)
        except Exception as error:
            if self._node.context.ok():  # else the node is ending, and its publishers with it
                kind = 'dropped: not published'
                self._node.complain(camera, kind, f'frame dropped: {error}')
            return End('dropped', 'not published', str(error))
        now = time.monotonic()
        times |= {'publish': (now - made) * 1e3, 'total': (now - came) * 1e3}
        self._remember(camera, message, times, now)
        try:
            self._publish_extras(camera, result)
        except Exception as error:
            if self._node.context.ok():
                self._node.complain(camera, 'extras', f'scores or debug images: {error}')
        return End(result.outcome, result.cause)

    def _make(self, camera: Camera, message: Message, times: dict[str, float]) -> Result:
        """Enhance a frame, or say why it passes through.

        :raises ImageError: it can be neither.
        """
        wanted, start = self._node.wanted, time.monotonic()
        as_it_came = messages.can_go_as_it_came(message, wanted)
        if not wanted.enabled and as_it_came and camera.detections is None:
            return Result(message, 'passed_through', 'disabled')
        depth = camera.depth
        try:
            frame, encoding = messages.decode(message, depth)
        except image_codec.UnsupportedEncodingError as error:
            if not as_it_came:
                raise
            kind = 'passed_through: encoding'
            self._node.complain(camera, kind, f'frame passed through: {error}')
            return Result(message, 'passed_through', 'encoding')
        encoding = wanted.output_encoding or encoding
        times['decode'] = (time.monotonic() - start) * 1e3
        bits = 16
        if frame.dtype == np.uint16:
            bits = self._note_bits(camera, depth)

        enhanced, cause = None, self._why_not(camera, frame)
        if not cause:
            enhanced, cause = self._enhance(camera, frame, message, times)
        if cause and as_it_came:
            return Result(message, 'passed_through', cause, frame, enhanced)
        start = time.monotonic()
        shown = frame if cause else enhanced.frame
        if camera.video_out is None:
            encoded = messages.encode(shown, encoding, message, wanted, bits)
        else:
            listeners = camera.images.get_subscription_count()
            encoded = camera.video_out.encode(eight_bit(shown), message.header, listeners)
        times['encode'] = (time.monotonic() - start) * 1e3
        outcome = 'passed_through' if cause else 'enhanced'
        return Result(encoded, outcome, cause, frame, enhanced)

    def _enhance(
        self, camera: Camera, frame: np.ndarray, message: Message, times: dict[str, float]
    ) -> tuple[Enhanced | None, str]:
        """The network's result, if any, and why the frame passes through all the same."""
        stream = camera.stream
        if stream is None:  # this frame took so long that the node was cleaned up meanwhile
            return None, 'node cleaned up'
        try:
            enhanced = stream.enhance(frame, stamp_ns(message))
        except Exception as error:
            self._node.failed(camera, error)
            return None, 'failed'
        times |= enhanced.milliseconds
        with self._node.lock:
            camera.health.failures = 0
            camera.health.degradation = enhanced.degradation
        if enhanced.weight == 0:
            return enhanced, 'good' if enhanced.degradation else 'mode off or strength 0'
        return enhanced, ''

    def _note_bits(self, camera: Camera, depth: BitDepth) -> int:
        """Significant bits of a 16-bit frame; that they were learned is said once."""
        bits = depth.bits
        known = f'{bits} ({"learned" if depth.setting == AUTO else "as set"})'
        is_news, camera.health.bits = known != camera.health.bits, known
        if is_news and depth.setting == AUTO and bits < 16:
            text = (
                f'16-bit frames use {bits} bits, 0 to {(1 << bits) - 1}: they are scaled in and '
                'back out. Set the parameter bits to what the camera has, or to counts if they '
                'are measurements and no picture'
            )
            self._node.remark(camera, f'{bits} bits', text)
        return bits

    def _why_not(self, camera: Camera, frame: np.ndarray) -> str:
        """Why the network shall not see this frame; empty if it shall."""
        if not self._node.wanted.enabled:
            return 'disabled'
        if frame.dtype == np.uint16 and self._node.wanted.bits == COUNTS:
            return 'bits are counts'
        if min(frame.shape[:2]) < MIN_SIDE:
            cause = f'smaller than {MIN_SIDE}x{MIN_SIDE}'
            height, width = frame.shape[:2]
            text = f'frame passed through: {width}x{height}: the least is {MIN_SIDE}x{MIN_SIDE}'
            self._node.complain(camera, f'passed_through: {cause}', text)
            return cause
        return 'after a failure' if time.monotonic() < camera.health.retry_at else ''

    def _publish(self, camera: Camera, result: Result) -> None:
        """The frame, and beside it its camera info; that it has none is no trouble."""
        message = result.message
        stamp = (message.header.stamp.sec, message.header.stamp.nanosec)
        size = messages.size_of(message) if result.frame is None else result.frame.shape[:2]
        info = camera.camera_info_of(stamp, size)
        camera.images.publish(message)
        if info is not None:
            camera.infos.publish(info)

    def _publish_extras(self, camera: Camera, result: Result) -> None:
        """What nobody may have to wait for, and only where somebody listens."""
        header, frame, enhanced = result.message.header, result.frame, result.enhanced
        if frame is None:
            return
        shown = frame if enhanced is None else enhanced.frame
        if camera.detections is not None:
            camera.detections.offer(header, shown)
        if camera.detections_raw is not None:
            camera.detections_raw.offer(header, frame)
        if (
            enhanced is not None
            and enhanced.degradation
            and camera.degradations.get_subscription_count()
        ):
            message = Vector3Stamped(header=header)
            scores = enhanced.degradation
            message.vector.x = scores.get('low_light', 0.0)
            message.vector.y = scores.get('blur', 0.0)
            message.vector.z = scores.get('joint', 0.0)
            camera.degradations.publish(message)
        if not self._node.wanted.debug_images:
            return
        if camera.side_by_sides.get_subscription_count():
            pair = debug_images.side_by_side(frame, shown)
            camera.side_by_sides.publish(messages.image(pair, 'rgb8', header))
        if camera.heat_maps.get_subscription_count():
            overlay = debug_images.heat_map(frame, self._node.enhancer.heatmaps(frame))
            camera.heat_maps.publish(messages.image(overlay, 'rgb8', header))

    def _remember(
        self, camera: Camera, message: Message, times: dict[str, float], now: float
    ) -> None:
        """How long a frame that has just gone out took, and how old it is."""
        age, clock = self._age(message), self._node.get_clock().now().nanoseconds
        with self._node.lock:
            camera.health.departures.append(now)
            camera.health.add_age(age, why_no_age(stamp_ns(message), age, clock))
            camera.health.add_times(times)

    def _age(self, message: Message) -> float:
        """Seconds since the frame's stamp, on the node's clock."""
        return (self._node.get_clock().now().nanoseconds - stamp_ns(message)) * 1e-9
