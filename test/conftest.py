"""Fixtures shared by the tests. Tests of what a machine lacks skip and print the reason."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from vision_msgs_fixture import video_msgs, vision_msgs

from dap_led_ros import sample

__all__ = ['video_msgs', 'vision_msgs']  # one for the whole session


# Under device auto no time decides which runtime makes the frames that tests compare.
os.environ['DAP_LED_CACHE'] = 'off'


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """The cache switched on, in a folder of the test's own."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    monkeypatch.delenv('DAP_LED_CACHE')
    return tmp_path / 'cache' / 'dap_led_ros'


def imported_by(path: Path) -> set[str]:
    """The top-level packages that a file imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name.split('.')[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.split('.')[0])
    return found


def ros_environment(domain_key: str) -> dict[str, str]:
    """An environment whose ROS graph is its own and never leaves this machine."""
    domain = 10 + zlib.crc32(f'{os.getpid()} {domain_key}'.encode()) % 90
    return {
        **os.environ,
        'ROS_DOMAIN_ID': str(domain),
        'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST',
    }


@pytest.fixture(scope='session')
def night() -> tuple[np.ndarray, np.ndarray]:
    """A dark, shaken frame of a real photograph and its sharp, well-lit reference."""
    return next(iter(sample.night_sequence(1)))


@pytest.fixture
def pictures(tmp_path, night) -> str:
    """A folder with three real pictures of different sizes."""
    folder = tmp_path / 'pictures'
    folder.mkdir()
    for index, (height, width) in enumerate(((480, 640), (241, 333), (96, 128))):
        picture = cv2.resize(night[0], (width, height), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(folder / f'{index}.png'), picture[..., ::-1])
    return folder


def cut(folder: Path, count: int, columns: int, step: tuple[int, int], width: int = 300) -> Path:
    """Write so many pieces of the sample photograph, as 0.png and so on; returns the folder.

    Each is 270 high; they lie in rows of so many columns, `step` apart in x and y.
    """
    picture = cv2.imread(str(Path(sample.__file__).parent / 'garage.jpg'))
    folder.mkdir(exist_ok=True)
    for index in range(count):
        x, y = step[0] * (index % columns), step[1] * (index // columns)
        cv2.imwrite(str(folder / f'{index}.png'), picture[y : y + 270, x : x + width])
    return folder


@pytest.fixture(scope='session')
def folder(tmp_path_factory) -> str:
    """Eight real pictures of 300x270, for all tests to read."""
    return str(cut(tmp_path_factory.mktemp('photographs') / 'garage', 8, 4, (140, 220)))


class NodeProcess:
    """A node in a process of its own, as a user would start it."""

    def __init__(self, name: str, arguments: list[str], environment: dict[str, str]) -> None:
        self._log = tempfile.NamedTemporaryFile('w')  # noqa: SIM115, closed in stop()
        program = [name] if name.endswith('.py') else ['-m', 'dap_led_ros.nodes', name]
        self.process = subprocess.Popen(
            [sys.executable, *program, '--ros-args', *arguments],
            env={**environment, 'PYTHONFAULTHANDLER': '1'},
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    @property
    def log(self) -> str:
        return Path(self._log.name).read_text()

    def interrupt(self) -> tuple[int, float]:
        """Send Ctrl-C; returns the exit status and the seconds that it took."""
        start = time.monotonic()
        self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(10), time.monotonic() - start
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)  # faulthandler says where it hangs
            self.process.wait()
            raise AssertionError(f'Ctrl-C did not end the node: {self.log}') from None

    def stop(self) -> None:
        """Ctrl-C, and only then the hard way: it would leave shared memory of Fast DDS behind."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._log.close()


@pytest.fixture
def start_node() -> Iterator[Callable[..., NodeProcess]]:
    """Start nodes; whatever still runs at the end of the test is stopped."""
    started: list[NodeProcess] = []

    def start(name: str, arguments: list[str], environment: dict[str, str]) -> NodeProcess:
        started.append(NodeProcess(name, arguments, environment))
        return started[-1]

    yield start
    for node in started:
        node.stop()


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    """Poll until the condition holds; False if it does not within the time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def write_bag(path: Path, frames: list[np.ndarray], depth_first: bool = False) -> None:
    """A rosbag2 with two cameras, raw (bgr8) and compressed (JPEG); perhaps depth before them."""
    rosbags = pytest.importorskip('rosbags.rosbag2', reason='rosbags is not installed')
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_HUMBLE)
    image, compressed = 'sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage'
    with rosbags.Writer(path, version=8) as writer:
        topics = {'/raw': image, '/jpeg': compressed}
        if depth_first:
            topics = {'/depth': image, **topics}
        connections = {
            topic: writer.add_connection(topic, kind, typestore=store)
            for topic, kind in topics.items()
        }
        for index, frame in enumerate(frames):
            stamp = store.types['builtin_interfaces/msg/Time'](sec=index, nanosec=0)
            header = store.types['std_msgs/msg/Header'](stamp=stamp, frame_id='camera')
            pixels = np.ascontiguousarray(frame[..., ::-1])
            height, width = frame.shape[:2]
            grey = np.zeros(height * width * 2, np.uint8)
            messages = {
                '/raw': (height, width, 'bgr8', 0, width * 3, pixels.ravel()),
                '/depth': (height, width, '16UC1', 0, width * 2, grey),
                '/jpeg': ('jpeg', cv2.imencode('.jpg', pixels)[1].ravel()),
            }
            for topic, connection in connections.items():
                message = store.types[topics[topic]](header, *messages[topic])
                data = store.serialize_cdr(message, topics[topic])
                writer.write(connection, index * 10**8, data)
