"""make demo: play a night sequence through the enhance node over DDS, and show what came back.

This process is the camera and the listener; the enhance node is a process of its own.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image
from tqdm import tqdm

from dap_led_ros import image_codec, media, pictures, sample, sources
from dap_led_ros.nodes import environment

NAMESPACE = 'dap_led_demo'
PANEL = 640  # width of one picture in what is written
PATIENCE = 30.0  # seconds to wait for the node to start, and for a single frame
WARM_UP = 12  # frames that find out what the machine sustains
SLOWEST = 5.0  # frames per second; a slower source is played faster
MEMORY = 1 << 30  # bytes of frames to hold at the most


@dataclass
class Shot:
    """One frame on its way."""

    camera: np.ndarray
    reference: np.ndarray | None
    sent: float = 0.0
    received: float = 0.0
    enhanced: np.ndarray | None = None


class Camera(Node):
    """Publishes frames with camera_info and collects the enhanced ones by their stamp."""

    def __init__(self) -> None:
        super().__init__('camera', namespace=NAMESPACE)
        self.images = self.create_publisher(Image, 'image_raw', 5)
        self.camera_infos = self.create_publisher(CameraInfo, 'camera_info', 5)
        self.create_subscription(Image, 'enhanced/image_raw', self._on_enhanced, 5)
        self.create_subscription(CameraInfo, 'enhanced/camera_info', self._on_camera_info, 5)
        self.camera_infos_received = 0
        self._shots: dict[tuple[int, int], Shot] = {}
        self._arrived = threading.Event()

    def wait_for_node(self, process: subprocess.Popen) -> bool:
        """Wait until both topics are connected; False if the node ends or takes too long."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and process.poll() is None:
            publishers = self.count_publishers('enhanced/image_raw')
            if self.images.get_subscription_count() and publishers:
                return True
            time.sleep(0.05)
        return False

    def send(self, shot: Shot) -> None:
        """Publish a frame, stamped now."""
        message = Image()
        message.header.stamp = self.get_clock().now().to_msg()
        message.header.frame_id = 'demo_camera'
        image_codec.encode(shot.camera, 'rgb8', message)
        info = CameraInfo(header=message.header, height=message.height, width=message.width)
        self._shots[_stamp(message)] = shot
        self._arrived.clear()
        shot.sent = time.monotonic()
        self.camera_infos.publish(info)
        self.images.publish(message)

    def send_and_wait(self, shot: Shot) -> bool:
        """Publish a frame and wait for it to come back."""
        self.send(shot)
        return self._arrived.wait(PATIENCE)

    def _on_enhanced(self, message: Image) -> None:
        shot = self._shots.pop(_stamp(message), None)
        if shot is not None:
            shot.received = time.monotonic()
            shot.enhanced = _fit(image_codec.decode(message))
            shot.camera = _fit(shot.camera)
            self._arrived.set()

    def _on_camera_info(self, message: CameraInfo) -> None:
        self.camera_infos_received += message.header.frame_id == 'demo_camera'


@dataclass
class Play:
    """What was sent, at which rate, and the node's own last words."""

    shots: list[Shot]
    rate: float
    camera_infos: int
    node_log: str = ''
    received: list[Shot] = field(init=False)
    node_counts: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self.received = [shot for shot in self.shots if shot.enhanced is not None]
        closing = [line for line in self.node_log.splitlines() if ' received, ' in line]
        found = re.findall(r'(\d+) (\w+)', closing[-1].split(']: ')[-1]) if closing else []
        self.node_counts = {name: int(number) for number, name in found}


def main(arguments: list[str] | None = None) -> int:
    """Play, collect, write and print; 0 if frames came back."""
    parser = argparse.ArgumentParser(prog='demo', description=__doc__)
    parser.add_argument('input', nargs='?', help='video, folder of pictures or rosbag2 folder')
    parser.add_argument('--topic', help='image topic of a bag (default: its first)')
    parser.add_argument('--out', type=Path, default=Path('demo'))
    parser.add_argument('--frames', type=int, default=150, help='play at most so many (150)')
    parser.add_argument('--model', default='nano')
    options = parser.parse_args(arguments)
    if options.frames < 1:
        parser.error('--frames is at least 1')
    try:
        shots, rate, title = _load(options)
        play = _play(shots, rate, options.model)
        written = _write(play, options.out)
    except (ValueError, RuntimeError, OSError) as error:
        print(f'demo: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('demo: interrupted', file=sys.stderr)
        return 130
    _report(play, title, written)
    if not play.node_counts.get('enhanced'):
        print(f'demo: no frame was enhanced; the node said:\n{play.node_log}', file=sys.stderr)
        return 1
    return 0


def _load(options: argparse.Namespace) -> tuple[list[Shot], float, str]:
    """Frames to play, the rate that they have, and what they are."""
    if not options.input:
        pairs = tqdm(
            sample.night_sequence(options.frames),
            desc='preparing the night sequence',
            total=options.frames,
            unit='frame',
        )
        return [Shot(*pair) for pair in pairs], sample.RATE, 'the sample night sequence'
    source = sources.open_source(options.input, options.topic)
    shots, size = [], 0
    for frame in itertools.islice(source.frames, options.frames):
        shots.append(Shot(pictures.eight_bit(frame), None))
        size += frame.nbytes
        if size > MEMORY:
            break
    if not shots:
        raise ValueError(f'{options.input} has no frames')
    title = f'{options.input} ({len(shots)} of {source.count} frames)'
    return shots, max(source.rate or 30.0, SLOWEST), title


def _play(shots: list[Shot], source_rate: float, model: str) -> Play:
    """Start the node, find the rate that the machine sustains, and play at it."""
    # Before rclpy starts: the segment that counts is the publisher's, which is this process.
    os.environ.update(environment.additions(environment.find_profile(), os.environ))
    os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    command = [sys.executable, '-m', 'dap_led_ros.nodes', 'enhance', '--ros-args']
    command += ['-r', f'__ns:=/{NAMESPACE}', '-p', f'model:={model}']
    rclpy.init()
    camera, executor = Camera(), SingleThreadedExecutor()
    executor.add_node(camera)
    with tempfile.NamedTemporaryFile('w') as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        spinning = threading.Thread(target=executor.spin)
        spinning.start()
        try:
            if not camera.wait_for_node(process):
                raise RuntimeError(
                    f'the enhance node did not start:\n{Path(log.name).read_text().strip()}'
                )
            rate = min(source_rate, 0.8 * _sustained_rate(camera, shots[0]))
            _send_all(camera, shots, rate)
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
            executor.shutdown()
            spinning.join()
            rclpy.try_shutdown()
        return Play(shots, rate, camera.camera_infos_received, Path(log.name).read_text().strip())


def _sustained_rate(camera: Camera, first: Shot) -> float:
    """Frames per second with one frame at a time on its way."""
    times = []
    for _ in range(WARM_UP):
        shot = Shot(first.camera, None)
        if not camera.send_and_wait(shot):
            raise RuntimeError(f'no frame came back within {PATIENCE:.0f} s')
        times.append(shot.received - shot.sent)
    return 1 / float(np.median(times[2:]))  # the first ones pay for warming up


def _send_all(camera: Camera, shots: list[Shot], rate: float) -> None:
    """Publish at an even rate, whatever comes back; then wait for the stragglers."""
    camera.camera_infos_received = 0
    start = time.monotonic()
    for index, shot in enumerate(
        tqdm(shots, desc=f'playing at {rate:.1f} frames/s', unit='frame')
    ):
        time.sleep(max(0.0, start + index / rate - time.monotonic()))
        camera.send(shot)
    deadline = time.monotonic() + 2.0
    while time.monotonic() < deadline and any(shot.enhanced is None for shot in shots):
        time.sleep(0.02)


def _write(play: Play, out: Path) -> list[Path]:
    """Side-by-side picture and video of what came back."""
    if not play.received:
        raise RuntimeError(f'no frame came back; the node said:\n{play.node_log}')
    out.mkdir(parents=True, exist_ok=True)
    picture, film = out / 'side_by_side.png', out / 'side_by_side.mp4'
    picks = np.linspace(0, len(play.received) - 1, min(3, len(play.received))).round().astype(int)
    rows = [_side_by_side(play.received[i], reference=True) for i in picks]
    width = max(row.shape[1] for row in rows)
    padded = [
        cv2.copyMakeBorder(row, 0, 0, 0, width - row.shape[1], cv2.BORDER_CONSTANT) for row in rows
    ]
    media.write_image(picture, np.vstack(padded))
    with media.VideoFile(film, play.rate) as video:
        size = None
        for shot in tqdm(play.received, desc='writing the video', unit='frame'):
            row = _side_by_side(shot, reference=False)
            size = size or row.shape[1::-1]  # frames of another size are fitted to the first
            video.write(row if row.shape[1::-1] == size else cv2.resize(row, size))
    return [picture, film]


def _side_by_side(shot: Shot, reference: bool) -> np.ndarray:
    panels = {'camera': shot.camera.copy(), 'enhanced': shot.enhanced.copy()}
    if reference and shot.reference is not None:
        panels['reference'] = _fit(shot.reference)
    for label, panel in panels.items():
        cv2.rectangle(panel, (0, 0), (12 * len(label) + 12, 30), (0, 0, 0), -1)
        cv2.putText(panel, label, (8, 21), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 255))
    return np.hstack(list(panels.values()))


def _report(play: Play, title: str, written: list[Path]) -> None:
    """Print the table and where to look."""
    latency = np.array([shot.received - shot.sent for shot in play.received]) * 1e3
    height, width = play.received[0].camera.shape[:2]
    sent, received = len(play.shots), len(play.received)
    first, last = play.received[0].received, play.received[-1].received
    rows = {
        'frames sent': f'{sent} at {play.rate:.1f} frames/s',
        'received': f'{received} ({received / sent:.1%}), camera_info {play.camera_infos}',
        'dropped': f'{sent - received}',
        'rate': f'{(received - 1) / (last - first):.1f} frames/s' if received > 1 else '-',
        'latency': '{:.0f} / {:.0f} / {:.0f} ms (p50 / p95 / max, camera to listener)'.format(
            *np.percentile(latency, [50, 95, 100])
        ),
    }
    if play.received[0].reference is not None:
        pairs = [(s.camera, s.enhanced, _fit(s.reference)) for s in play.received[::10]]
        before = np.mean([cv2.PSNR(camera, reference) for camera, _, reference in pairs])
        after = np.mean([cv2.PSNR(enhanced, reference) for _, enhanced, reference in pairs])
        rows['PSNR'] = f'{before:.1f} dB -> {after:.1f} dB (against the reference)'
    print(f'\n{title}, shown at {width}x{height}')
    for name, value in rows.items():
        print(f'  {name:14}{value}')
    counts = ', '.join(f'{number} {name}' for name, number in play.node_counts.items())
    print(f'  {"the node":14}{counts or "did not report its counts"} ({WARM_UP} to warm up)')
    print('Look at:')
    for path in written:
        print(f'  {path}')


def _fit(frame: np.ndarray) -> np.ndarray:
    """At most PANEL pixels wide, a copy in any case: many frames stay in memory."""
    height, width = frame.shape[:2]
    if width <= PANEL:
        return frame.copy()
    return cv2.resize(frame, (PANEL, round(height * PANEL / width)), interpolation=cv2.INTER_AREA)


def _stamp(message: Image) -> tuple[int, int]:
    return message.header.stamp.sec, message.header.stamp.nanosec


if __name__ == '__main__':
    sys.exit(main())
