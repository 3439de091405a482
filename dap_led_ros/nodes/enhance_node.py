"""The enhance node: subscribes to cameras, publishes the enhanced cameras.

The way of a frame: _on_image() puts it into its camera's slot of one (a frame still waiting there
is dropped and counted) -> the worker thread takes it in _work(), camera by camera -> frames.py
decodes it, has it enhanced, and publishes it, or passes it through, or refuses it. Callbacks never
run the network, so that the node always answers.

Parameters are in parameters.py, a camera's topics in camera.py, its record in health.py, and what
diagnostics say of it in findings.py and topics.py.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_srvs.srv import SetBool

from dap_led_ros.bit_depth import BitDepth
from dap_led_ros.inference import Enhancer, fastest
from dap_led_ros.nodes import detections, findings, parameters, running
from dap_led_ros.nodes.arguments import usage, warn_of_misfits
from dap_led_ros.nodes.camera import Camera
from dap_led_ros.nodes.frames import Frames
from dap_led_ros.nodes.health import Counts, Engine
from dap_led_ros.nodes.messages import Message
from dap_led_ros.nodes.parameters import Parameters

LOG_PERIOD = 60.0  # seconds between log lines of the same kind of trouble
NEWER = 'a newer one came before the worker was free: the model is too slow'
TOPICS = """\
  image_raw, image_raw/compressed   in: one of them, see input_transport
  camera_info                       in, optional; beside the image where only that is remapped
  enhanced/image_raw[/compressed]   out: the enhanced frames
  enhanced/camera_info              out, with each frame
  enhanced/degradation              out: low light and blur of what came in, 0 to 1
  enhanced/side_by_side, enhanced/heat_map   out, to look at
  detections, detections/image      out, with detect.enabled
  /diagnostics                      out: what is wrong, at 1 Hz"""
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
        self.enhancer: Enhancer | None = None
        self._frames = Frames(self)
        self._past = Counts()  # of cameras that have been cleaned up
        self.lock = threading.Condition()  # guards slots, counts, engine and _active
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
        self.wanted = parameters.read(self)
        parameters.watch(self, lambda: bool(self.cameras), self._apply)

    @property
    def counts(self) -> Counts:
        """What became of all frames so far."""
        with self.lock:
            return sum((camera.health.counts for camera in self.cameras), self._past)

    # --- lifecycle ----------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model, warm it up, and create the publishers."""
        try:
            self.wanted = parameters.read(self)
            self.engine = Engine()
            self._load_model(self.wanted.device)
            detector = None
            if self.wanted.detect:
                detector = detections.load(self._detector_settings, background=True)
            for name in self.wanted.cameras:
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
        with self.lock:
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
        self._enable = self._diagnostics = self.enhancer = self._in_hand = None
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
        with self.lock:
            self._active = False
            for camera in self.cameras:
                if camera.waiting is not None:
                    camera.waiting = None
                    camera.health.ended('dropped', 'node deactivated')
            worker, self._worker = self._worker, None
            self.lock.notify_all()
        if worker is None:
            return
        worker.join(patience)
        with self.lock:
            if worker.is_alive():
                self._given_up.append(worker)
                self._in_hand.health.ended('dropped', 'unfinished at the end')
                self.engine.busy_since = None

    def _load_model(self, device: str) -> None:
        wanted = self.wanted
        self.engine.choice = ''
        if device == 'auto' and any(wanted.warm_up):
            width, height = map(int, next(filter(None, wanted.warm_up)).split('x'))
            choice = fastest.choose(wanted.model, wanted.threads, (width, height))
            if choice:
                self.engine.choice = str(choice)
                self.get_logger().info(f'device auto: {choice}')
                device = device if choice.device == fastest.PLAIN else choice.device
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
        self.enhancer = enhancer
        self.engine.model, self.engine.provider = enhancer.model, enhancer.provider

    def _add_camera(self, name: str, detector: detections.Detector | None) -> None:
        stream = self.enhancer.stream(self.wanted.stream)
        camera = Camera(self, name, self.wanted, stream, self._on_image, self._review, self.lock)
        self.cameras.append(camera)
        self._turns.append(camera)
        if detector is not None:
            camera.detect_with(detector, self.wanted.detect_raw)

    # --- callbacks: quick, on the executor's thread -------------------------------------------

    def _on_image(self, camera: Camera, message: Any) -> None:
        now = time.monotonic()
        with self.lock:
            camera.health.arrived(now)
            if not self._active:
                camera.health.ended('dropped', 'node deactivated')
                return
        pictures, ends = camera.pictures_of(message)
        with self.lock:
            for end in ends:
                camera.health.ended(*end)
            for picture in pictures:
                self._offer(camera, picture, now)
        # Gives the interpreter to the worker now; else it waits for the executor's round, 1 ms.
        time.sleep(1e-4)

    def _offer(self, camera: Camera, message: Message, now: float) -> None:
        """Put a frame into its camera's slot, with the lock held."""
        rate = self.wanted.max_rate
        if not self._active:
            camera.health.ended('dropped', 'node deactivated')
            return
        if rate and now < camera.due:
            camera.health.ended('dropped', 'over max_rate')
            return
        if rate:
            camera.due = max(camera.due, now - 1 / rate) + 1 / rate
        if camera.waiting is not None:
            camera.health.ended('dropped', 'a newer one came', NEWER)
        camera.waiting = message, now
        self.lock.notify()

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> Any:
        (result,) = self.set_parameters([Parameter('enabled', value=request.data)])
        response.success, response.message = result.successful, result.reason
        return response

    def _apply(self, changed: Parameters) -> None:
        self.wanted = changed
        for camera in self.cameras:
            camera.stream.settings = changed.stream
            camera.due = 0.0  # of another max_rate
            if camera.depth.setting != changed.bits:
                camera.depth = BitDepth(changed.bits)

    def _review(self) -> None:
        for camera in self.cameras:
            try:
                camera.review(self._active)
            except Exception as error:
                if not self.context.ok():
                    raise
                self.complain(camera, 'cannot subscribe', f'cannot subscribe: {error}')

    def _report(self) -> None:
        report = DiagnosticArray()
        report.header.stamp = self.get_clock().now().to_msg()
        wanted, name = self.wanted, self.get_fully_qualified_name().lstrip('/')
        limits = findings.Limits(
            wanted.enabled and wanted.mode != 'off', wanted.latency_budget, wanted.stuck_after
        )
        for camera in self.cameras:
            view = camera.look()
            with self.lock:
                found = findings.find(
                    camera.health, self.engine, view, camera.needed_since, limits
                )
                status = findings.status(
                    f'{name}: {camera.name or "camera"}',
                    camera.topic,
                    found,
                    camera.health,
                    self.engine,
                )
            report.status.append(status)
            for finding in found:
                if finding.level != findings.OK:
                    self.remark(camera, finding.kind, finding.text)
        self._diagnostics.publish(report)

    # --- the worker's thread ------------------------------------------------------------------

    def _work(self) -> None:
        while (job := self._take()) is not None:
            camera, message, came = job
            end = self._frames.handle(camera, message, came)
            with self.lock:
                if threading.current_thread() in self._given_up:
                    return  # counted already
                camera.health.ended(*end)
                self.engine.busy_since = None

    def _take(self) -> tuple[Camera, Message, float] | None:
        """Wait for a frame; None at the end. Who was served last is last."""
        with self.lock:

            def ending() -> bool:  # or replaced, after a frame that took too long to wait for
                return not self._active or threading.current_thread() is not self._worker

            self.lock.wait_for(lambda: ending() or any(camera.waiting for camera in self.cameras))
            if ending():
                return None
            camera = next(camera for camera in self._turns if camera.waiting)
            self._turns.remove(camera)
            self._turns.append(camera)
            (message, came), camera.waiting = camera.waiting, None
            self.engine.busy_since, self._in_hand = time.monotonic(), camera
            return camera, message, came

    def failed(self, camera: Camera, error: Exception) -> None:
        """Leave the network alone for a while; a failing GPU gives way to the CPU."""
        text = (str(error) or type(error).__name__).splitlines()[0]
        with self.lock:
            camera.health.failures += 1
            camera.health.error = text
            failures = camera.health.failures
        pause = min(LAST_RETRY, FIRST_RETRY * 2 ** (failures - 1))
        self.complain(camera, 'passed_through: failed', f'frame passed through: {text}')
        frame_is_wrong = isinstance(error, ValueError)
        if (
            not frame_is_wrong
            and self.wanted.device == 'auto'
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
                    every.stream = self.enhancer.stream(self.wanted.stream)
                    every.health.retry_at = 0.0
        camera.health.retry_at = time.monotonic() + pause

    def complain(self, camera: Camera, kind: str, text: str) -> None:
        """Log each kind of trouble with its first frame and then once a minute."""
        if self._is_due(camera, kind):
            self.get_logger().error(f'{camera.topic}: {text}')

    def remark(self, camera: Camera, kind: str, text: str) -> None:
        """The same for what is no trouble yet."""
        if self._is_due(camera, kind):
            self.get_logger().warning(f'{camera.topic}: {text}')

    def _is_due(self, camera: Camera, kind: str) -> bool:
        now = time.monotonic()
        with self.lock:
            is_due = now - self._logged.get((camera.name, kind), -LOG_PERIOD) >= LOG_PERIOD
            if is_due:
                self._logged[camera.name, kind] = now
        return is_due


def main(arguments: list[str] | None = None) -> int:
    """Run the node until Ctrl-C; 1 if it could not start."""
    return run(EnhanceNode, arguments)


def run(make: Callable[[], EnhanceNode], arguments: list[str] | None) -> int:
    """The same for a node that is made in another way."""

    def begin() -> tuple[EnhanceNode, bool]:
        node = make()
        warn_of_misfits(node, arguments)
        return node, not node.get_parameter('autostart').value or node.start()

    begun = running.start('enhance', begin, arguments, _usage)
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


def _usage() -> str:
    described = {
        f'{parameters.ros_name(spec)} (default {spec.default!r})': spec.metadata['description']
        for spec in fields(Parameters)
    }
    described['detect.*'] = 'Of the detector: see config/detect.yaml.'
    return usage('enhance', TOPICS, described)


if __name__ == '__main__':
    sys.exit(main())
