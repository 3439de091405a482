"""The enhance node: subscribes to cameras, publishes the enhanced cameras.

The way of a frame: _on_image() puts it into its camera's slot of one (a frame still waiting there
is dropped and counted) -> the worker thread takes it in _work(), camera by camera -> _handle()
decodes it, has it enhanced, and publishes it, or passes it through, or refuses it. Callbacks never
run the network, so that the node always answers.

Parameters are in parameters.py, a camera's topics in camera.py, diagnostics in health.py.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Vector3Stamped
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image
from std_srvs.srv import SetBool

from dap_led_ros import image_codec
from dap_led_ros.inference import Enhancer
from dap_led_ros.inference.enhancer import MIN_SIDE, Enhanced
from dap_led_ros.nodes import debug_images, detections, messages, parameters, running
from dap_led_ros.nodes.camera import Camera
from dap_led_ros.nodes.health import Counts, Engine, diagnose
from dap_led_ros.nodes.messages import Message, stamp_ns
from dap_led_ros.nodes.parameters import Parameters

LOG_PERIOD = 60.0  # seconds between log lines of the same kind of trouble
FIRST_RETRY, LAST_RETRY = 0.25, 30.0  # seconds without the network after a failure
PATIENCE, LAST_PATIENCE = 3.0, 10.0  # seconds for the worker's last frame; at the node's end


class EnhanceNode(LifecycleNode):
    """image_raw, camera_info -> enhanced/image_raw, enhanced/camera_info, all remappable."""

    def __init__(self, load: Callable[[str, str, int], Enhancer] = Enhancer.load) -> None:
        """Declare parameters; everything else waits for on_configure().

        :param load: makes the enhancer of (model, device, threads).
        """
        super().__init__('enhance')
        self.cameras: list[Camera] = []
        self._turns: list[Camera] = []  # the same, whoever was served last at the end
        self.engine = Engine()
        self._load = load
        self._enhancer: Enhancer | None = None
        self._past = Counts()  # of cameras that have been cleaned up
        self._lock = threading.Condition()  # guards slots, counts, engine and _active
        self._active = False
        self._worker: threading.Thread | None = None
        self._in_hand: Camera | None = None
        self._given_up: list[threading.Thread] = []  # workers whose last frame took too long
        self._logged: dict[tuple[str, str], float] = {}
        self._own_timers: list[Any] = []
        self._diagnostics: Any = None
        self._enable: Any = None
        parameters.declare(self)
        self._detector_settings = detections.declare(self, 'detect.')
        self._wanted = parameters.read(self)
        parameters.watch(self, lambda: bool(self.cameras), self._apply)

    @property
    def counts(self) -> Counts:
        """What became of all frames so far."""
        with self._lock:
            return sum((camera.health.counts for camera in self.cameras), self._past)

    # --- lifecycle ----------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model, warm it up, and create the publishers."""
        try:
            self._wanted = parameters.read(self)
            self.engine = Engine()
            self._load_model(self._wanted.device)
            detector = None
            if self._wanted.detect:
                detector = detections.load(self._detector_settings, background=True)
            for name in self._wanted.cameras:
                self._add_camera(name, detector)
            self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', 5)
            self._enable = self.create_service(SetBool, '~/enable', self._on_enable)
            # On the steady clock: a stopped simulation does not stop the reports.
            steady = Clock(clock_type=ClockType.STEADY_TIME)
            self._own_timers = [
                self.create_timer(0.25, self._review, clock=steady),  # what no event tells
                self.create_timer(1.0, self._report, clock=steady),
            ]
        except Exception as error:
            if self.context.ok():  # else Ctrl-C, and that is no trouble
                self.get_logger().error(f'cannot configure: {error}')
            self.on_cleanup(state)
            if not isinstance(error, running.EXPECTED_AT_START):
                raise
            return TransitionCallbackReturn.FAILURE
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start the worker; subscribe wherever somebody listens."""
        if any(worker.is_alive() for worker in self._given_up):
            self.get_logger().error('cannot activate: an old frame is not done with, try later')
            return TransitionCallbackReturn.FAILURE
        self._active = True
        self._worker = threading.Thread(target=self._work, name='enhance', daemon=True)
        self._worker.start()
        self._review()
        for camera in self.cameras:
            self.get_logger().info(f'{camera.topic} -> {camera.images.topic_name}')
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe; the worker ends its frame, those that wait are dropped and counted."""
        self._stop_worker()
        self._review()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Let go of topics and model; counts are kept."""
        with self._lock:
            cameras, self.cameras, self._turns = self.cameras, [], []
        for camera in cameras:
            camera.destroy()
            self._past += camera.health.counts
        for timer in self._own_timers:
            self.destroy_timer(timer)
        for entity, destroy in (
            (self._enable, self.destroy_service),
            (self._diagnostics, self.destroy_publisher),
        ):
            if entity is not None:
                destroy(entity)
        self._own_timers = []
        self._enable = self._diagnostics = self._enhancer = None
        return super().on_cleanup(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """A transition raised, which rclpy keeps to itself: back to unconfigured."""
        self.on_deactivate(state)
        self.on_cleanup(state)
        return super().on_error(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Whatever state it is in: end."""
        self.on_deactivate(state)
        self.on_cleanup(state)
        return super().on_shutdown(state)

    def start(self) -> bool:
        """Configure and activate; False if that failed, which the log explains."""
        success = TransitionCallbackReturn.SUCCESS
        return self.trigger_configure() == success and self.trigger_activate() == success

    def close(self) -> bool:
        """End, when the middleware may be down already; False if the worker does not."""
        self._stop_worker(LAST_PATIENCE)
        for camera in self.cameras:
            camera.destroy()
        return not any(worker.is_alive() for worker in self._given_up)

    def _stop_worker(self, patience: float = PATIENCE) -> None:
        with self._lock:
            self._active = False
            for camera in self.cameras:
                if camera.waiting is not None:
                    camera.waiting = None
                    camera.health.counts.add('dropped', 'node deactivated')
            worker, self._worker = self._worker, None
            self._lock.notify_all()
        if worker is None:
            return
        worker.join(patience)
        with self._lock:
            if worker.is_alive():
                self._given_up.append(worker)
                self._in_hand.health.counts.add('dropped', 'unfinished at the end')
                self.engine.busy_since = None

    def _load_model(self, device: str) -> None:
        wanted = self._wanted
        start = time.monotonic()
        enhancer = self._load(wanted.model, device, wanted.threads)
        loaded = time.monotonic()
        for size in filter(None, wanted.warm_up):
            width, height = map(int, size.split('x'))
            enhancer.network(np.zeros((height, width, 3), np.uint8))
        self.get_logger().info(
            f'model {enhancer.model} on {enhancer.provider}, loaded in {loaded - start:.2f} s, '
            f'warmed up in {time.monotonic() - loaded:.2f} s'
        )
        self._enhancer = enhancer
        self.engine.model, self.engine.provider = enhancer.model, enhancer.provider

    def _add_camera(self, name: str, detector: detections.Detector | None) -> None:
        stream = self._enhancer.stream(self._wanted.stream)
        camera = Camera(self, name, self._wanted, stream, self._on_image, self._review)
        self.cameras.append(camera)
        self._turns.append(camera)
        if detector is not None:
            camera.detect_with(detector, self._wanted.detect_raw)

    # --- callbacks: quick, on the executor's thread -------------------------------------------

    def _on_image(self, camera: Camera, message: Message) -> None:
        now, rate = time.monotonic(), self._wanted.max_rate
        with self._lock:
            counts = camera.health.counts
            counts.received += 1
            camera.health.arrivals.append(now)
            if not self._active:
                counts.add('dropped', 'node deactivated')
                return
            if rate and now < camera.due:
                counts.add('dropped', 'over max_rate')
                return
            if rate:
                camera.due = max(camera.due, now - 1 / rate) + 1 / rate
            if camera.waiting is not None:
                counts.add('dropped', 'a newer one came')
            camera.waiting = message, now
            self._lock.notify()
        # Gives the interpreter to the worker now; else it waits for the executor's round, 1 ms.
        time.sleep(1e-4)

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> Any:
        (result,) = self.set_parameters([Parameter('enabled', value=request.data)])
        response.success, response.message = result.successful, result.reason
        return response

    def _apply(self, changed: Parameters) -> None:
        self._wanted = changed
        for camera in self.cameras:
            camera.stream.settings = changed.stream
            camera.due = 0.0  # of another max_rate

    def _review(self) -> None:
        for camera in self.cameras:
            try:
                camera.review(self._active)
            except Exception as error:
                if not self.context.ok():
                    raise
                self._log_seldom(camera, f'cannot subscribe: {error}', error)

    def _report(self) -> None:
        report = DiagnosticArray()
        report.header.stamp = self.get_clock().now().to_msg()
        now = self._wanted
        with self._lock:
            report.status = [
                diagnose(
                    f'{self.get_fully_qualified_name().lstrip("/")}: {camera.name or "camera"}',
                    camera.health,
                    self.engine,
                    topic=camera.topic,
                    needed_since=camera.needed_since,
                    has_publishers=camera.has_publishers(),
                    enabled=now.enabled and now.mode != 'off',
                    latency_budget=now.latency_budget,
                    stuck_after=now.stuck_after,
                )
                for camera in self.cameras
            ]
        self._diagnostics.publish(report)

    # --- the worker's thread ------------------------------------------------------------------

    def _work(self) -> None:
        while (job := self._take()) is not None:
            camera, message, came = job
            outcome, cause = self._handle(camera, message, came)
            with self._lock:
                if threading.current_thread() in self._given_up:
                    return  # counted already
                camera.health.counts.add(outcome, cause)
                self.engine.busy_since = None

    def _take(self) -> tuple[Camera, Message, float] | None:
        """Wait for a frame; None at the end. Whoever was served last is last in turn."""
        with self._lock:

            def ending() -> bool:  # or replaced, after a frame that took too long to wait for
                return not self._active or threading.current_thread() is not self._worker

            self._lock.wait_for(lambda: ending() or any(camera.waiting for camera in self.cameras))
            if ending():
                return None
            camera = next(camera for camera in self._turns if camera.waiting)
            self._turns.remove(camera)
            self._turns.append(camera)
            (message, came), camera.waiting = camera.waiting, None
            self.engine.busy_since, self._in_hand = time.monotonic(), camera
            return camera, message, came

    def _handle(self, camera: Camera, message: Message, came: float) -> tuple[str, str]:
        """Publish what can be made of a frame; returns what became of it and why. Never raises."""
        started = time.monotonic()
        if 0 < self._wanted.max_age < self._age(message):
            return 'dropped', 'older than max_age'
        times = {'wait': (started - came) * 1e3}
        try:
            result = self._make(camera, message, times)
        except image_codec.ImageError as error:
            self._log_seldom(camera, f'frame refused: {error}', error)
            return 'refused', type(error).__name__
        except Exception as error:
            self._log_seldom(camera, f'frame dropped: {error}', error)
            return 'dropped', 'failed'
        made = time.monotonic()
        try:
            self._publish(camera, result.message)
        except Exception as error:
            if self.context.ok():  # else the node is ending, and its publishers with it
                self._log_seldom(camera, f'frame dropped: {error}', error)
            return 'dropped', 'not published'
        now = time.monotonic()
        times |= {'publish': (now - made) * 1e3, 'total': (now - came) * 1e3}
        with self._lock:
            camera.health.departures.append(now)
            camera.health.age.append(self._age(message) * 1e3)
            camera.health.add_times(times)
        try:
            self._publish_extras(camera, result)
        except Exception as error:
            if self.context.ok():
                self._log_seldom(camera, f'scores or debug images: {error}', error)
        return result.outcome, result.cause

    def _make(self, camera: Camera, message: Message, times: dict[str, float]) -> _Result:
        """Enhance a frame, or say why it passes through.

        :raises ImageError: it can be neither.
        """
        wanted, start = self._wanted, time.monotonic()
        as_it_came = messages.can_go_as_it_came(message, wanted)
        if not wanted.enabled and as_it_came and camera.detections is None:
            return _Result(message, 'passed_through', 'disabled')
        try:
            frame, encoding = messages.decode(message)
        except image_codec.UnsupportedEncodingError as error:
            if not as_it_came:
                raise
            self._log_seldom(camera, f'frame passed through: {error}', error)
            return _Result(message, 'passed_through', 'encoding')
        encoding = wanted.output_encoding or encoding
        times['decode'] = (time.monotonic() - start) * 1e3

        enhanced, cause = None, self._why_not(camera, frame)
        if not cause:
            try:
                enhanced = camera.stream.enhance(frame, stamp_ns(message))
            except Exception as error:
                self._failed(camera, error)
                cause = 'failed'
            else:
                self._succeeded(camera)
                times |= enhanced.milliseconds
                with self._lock:
                    camera.health.degradation = enhanced.degradation
                if enhanced.weight == 0:
                    cause = 'good' if enhanced.degradation else 'mode off or strength 0'
        if cause and as_it_came:
            return _Result(message, 'passed_through', cause, frame, enhanced)
        start = time.monotonic()
        encoded = messages.encode(frame if cause else enhanced.frame, encoding, message, wanted)
        times['encode'] = (time.monotonic() - start) * 1e3
        outcome = 'passed_through' if cause else 'enhanced'
        return _Result(encoded, outcome, cause, frame, enhanced)

    def _why_not(self, camera: Camera, frame: np.ndarray) -> str:
        """Why the network shall not see this frame; empty if it shall."""
        if not self._wanted.enabled:
            return 'disabled'
        if min(frame.shape[:2]) < MIN_SIDE:
            least = f'{MIN_SIDE}x{MIN_SIDE}'
            height, width = frame.shape[:2]
            small = ValueError(f'{width}x{height}: the least is {least}')
            self._log_seldom(camera, f'frame passed through: {small}', small)
            return f'smaller than {least}'
        return 'after a failure' if time.monotonic() < camera.health.retry_at else ''

    def _failed(self, camera: Camera, error: Exception) -> None:
        """Leave the network alone for a while; move from a GPU that fails to the CPU."""
        text = (str(error) or type(error).__name__).splitlines()[0]
        with self._lock:
            camera.health.failures += 1
            camera.health.error = text
            failures = camera.health.failures
        pause = min(LAST_RETRY, FIRST_RETRY * 2 ** (failures - 1))
        self._log_seldom(camera, f'frame passed through: {text}', error)
        frame_is_wrong = isinstance(error, ValueError)
        if (
            not frame_is_wrong
            and self._wanted.device == 'auto'
            and 'cpu' not in self.engine.provider.lower()
        ):
            self.get_logger().error(f'{self.engine.provider} fails, moving to the CPU: {text}')
            try:
                self._load_model('cpu')
            except Exception as worse:
                self.get_logger().error(f'the CPU cannot take over: {worse}')
            else:
                pause, self.engine.fell_back = 0.0, text
                for every in self.cameras:
                    every.stream = self._enhancer.stream(self._wanted.stream)
                    every.health.retry_at = 0.0
        camera.health.retry_at = time.monotonic() + pause

    def _succeeded(self, camera: Camera) -> None:
        with self._lock:
            camera.health.failures = 0

    def _publish(self, camera: Camera, message: Message) -> None:
        """The frame, and beside it its camera info; that it has none is no trouble."""
        stamp = (message.header.stamp.sec, message.header.stamp.nanosec)
        size = (message.height, message.width) if isinstance(message, Image) else None
        info = camera.camera_info_of(stamp, size)
        camera.images.publish(message)
        if info is not None:
            camera.infos.publish(info)

    def _publish_extras(self, camera: Camera, result: _Result) -> None:
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
        if not self._wanted.debug_images:
            return
        if camera.side_by_sides.get_subscription_count():
            pair = debug_images.side_by_side(frame, shown)
            camera.side_by_sides.publish(messages.image(pair, 'rgb8', header))
        if camera.heat_maps.get_subscription_count():
            overlay = debug_images.heat_map(frame, self._enhancer.heatmaps(frame))
            camera.heat_maps.publish(messages.image(overlay, 'rgb8', header))

    def _age(self, message: Message) -> float:
        """Seconds since the frame's stamp, on the node's clock."""
        return (self.get_clock().now().nanoseconds - stamp_ns(message)) * 1e-9

    def _log_seldom(self, camera: Camera, text: str, error: Exception) -> None:
        """Log each kind of trouble of a camera with its first frame and then once a minute."""
        kind, now = (camera.name, type(error).__name__), time.monotonic()
        if now - self._logged.get(kind, -LOG_PERIOD) >= LOG_PERIOD:
            self._logged[kind] = now
            self.get_logger().error(f'{camera.topic}: {text}')


@dataclass(frozen=True)
class _Result:
    """What to publish for a frame, and what is known of it."""

    message: Message
    outcome: str
    cause: str = ''
    frame: np.ndarray | None = None
    enhanced: Enhanced | None = None


def main(arguments: list[str] | None = None) -> int:
    """Run the node until Ctrl-C; 1 if it could not start."""
    return run(EnhanceNode, arguments)


def run(make: Callable[[], EnhanceNode], arguments: list[str] | None) -> int:
    """The same for a node that is made in another way."""

    def begin() -> tuple[EnhanceNode, bool]:
        node = make()
        return node, not node.get_parameter('autostart').value or node.start()

    begun = running.start('enhance', begin, arguments)
    if isinstance(begun, int):
        return begun
    node, has_started = begun
    if rclpy.ok() and not has_started:
        rclpy.shutdown()
        return 1
    running.spin(node)
    has_ended = node.close()
    # Not the node's logger, whose way to /rosout is closed after Ctrl-C.
    rclpy.logging.get_logger('dap_led_ros').info(str(node.counts))
    if not has_ended:
        os._exit(1)  # Python would abort on a thread that is still in the network
    running.end(node)
    return 0


if __name__ == '__main__':
    sys.exit(main())
