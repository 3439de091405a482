"""Visual odometry on a scene whose camera is known to the millimetre."""

from __future__ import annotations

import functools
import json

import cv2
import numpy as np
import pytest

pytest.importorskip('rosbags', reason='rosbags is not installed')
pytest.importorskip('mcap', reason='mcap is not installed')
pytest.importorskip('plotly', reason='plotly is not installed')

from rosbags.rosbag2 import StoragePlugin, Writer
from test_replay import IMAGE, STORE, header, image, run

from dap_led_ros.replay import odometry
from dap_led_ros.replay.pairs import Pair
from dap_led_ros.replay.recording import Recording

WIDTH, HEIGHT, FOCAL = 640, 480, 500.0
K = np.array([[FOCAL, 0, WIDTH / 2], [0, FOCAL, HEIGHT / 2], [0, 0, 1]])
OPTICAL = np.array([[0, 0, 1.0], [-1, 0, 0], [0, -1, 0]])
"""From a camera that looks along z to a body that drives along x."""
STEP_NS = 10**8


def path(n: int) -> tuple[float, np.ndarray]:
    """Yaw and place of the body at frame n: a bend to the left."""
    yaw = 0.012 * n
    return yaw, np.array([0.16 * n, 0.05 * n + 0.002 * n * n, 0.0])


def turn(yaw: float) -> np.ndarray:
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])


@functools.cache
def frame_at(n: int) -> np.ndarray:
    """(HEIGHT, WIDTH) uint8: six hundred patches in space, drawn four times as large."""
    rng = np.random.default_rng(5)
    places = rng.uniform((4, -8, -3), (22, 8, 3), (600, 3))
    patches = rng.integers(30, 255, (600, 5, 5)).astype(np.uint8)
    yaw, place = path(n)
    seen = ((places - place) @ turn(yaw)) @ OPTICAL
    picture = np.full((4 * HEIGHT, 4 * WIDTH), 25, np.uint8)
    for i in np.argsort(-seen[:, 2]):
        x, y, z = seen[i]
        if z < 1:
            continue
        u, v = (round(4 * of) for of in (FOCAL * x / z + WIDTH / 2, FOCAL * y / z + HEIGHT / 2))
        half = 30
        if half <= u < 4 * WIDTH - half and half <= v < 4 * HEIGHT - half:
            patch = cv2.resize(patches[i], (2 * half, 2 * half), interpolation=cv2.INTER_NEAREST)
            picture[v - half : v + half, u - half : u + half] = patch
    return cv2.resize(picture, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)


def write(folder, frames: int, poses: str, mounted: bool, info: bool = True) -> None:
    """A dark drive; poses: odometry, pose, tf or none."""
    types = STORE.types
    vector, point = types['geometry_msgs/msg/Vector3'], types['geometry_msgs/msg/Point']
    quaternion = types['geometry_msgs/msg/Quaternion']
    kinds = {
        '/cam/image_raw': IMAGE,
        '/cam/camera_info': 'sensor_msgs/msg/CameraInfo',
        '/odometry': 'nav_msgs/msg/Odometry',
        '/pose': 'geometry_msgs/msg/PoseStamped',
        '/tf': 'tf2_msgs/msg/TFMessage',
        '/tf_static': 'tf2_msgs/msg/TFMessage',
    }
    with Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connections = {
            topic: writer.add_connection(topic, kind, typestore=STORE)
            for topic, kind in kinds.items()
        }

        def put(topic: str, now: int, message) -> None:
            writer.write(connections[topic], now, STORE.serialize_cdr(message, kinds[topic]))

        def transform(now: int, parent: str, child: str, place, q):
            return types['geometry_msgs/msg/TransformStamped'](
                header(now, parent), child,
                types['geometry_msgs/msg/Transform'](vector(*place), quaternion(*q)),
            )  # fmt: skip

        if mounted:
            half = transform(1, 'base', 'optical', (0, 0, 0), (-0.5, 0.5, -0.5, 0.5))
            put('/tf_static', 1, types['tf2_msgs/msg/TFMessage']([half]))
        for n in range(frames):
            now = 10**18 + n * STEP_NS
            dark = cv2.convertScaleAbs(frame_at(n), alpha=0.15)
            put('/cam/image_raw', now, image(now, dark, 'mono8'))
            if info:
                put('/cam/camera_info', now, types['sensor_msgs/msg/CameraInfo'](
                    header(now, 'optical'), HEIGHT, WIDTH, 'plumb_bob', np.zeros(5), K.ravel(),
                    np.eye(3).ravel(), np.zeros(12), 0, 0,
                    types['sensor_msgs/msg/RegionOfInterest'](0, 0, 0, 0, False),
                ))  # fmt: skip
            at = now + STEP_NS // 3  # between the frames: poses are interpolated
            yaw, place = path(n + 1 / 3)
            q = (0.0, 0.0, np.sin(yaw / 2), np.cos(yaw / 2))
            pose = types['geometry_msgs/msg/Pose'](point(*place), quaternion(*q))
            if poses == 'odometry':
                with_covariance = types['geometry_msgs/msg/PoseWithCovariance'](pose, np.zeros(36))
                twist = types['geometry_msgs/msg/TwistWithCovariance'](
                    types['geometry_msgs/msg/Twist'](vector(0, 0, 0), vector(0, 0, 0)),
                    np.zeros(36),
                )
                put('/odometry', at, types['nav_msgs/msg/Odometry'](
                    header(at, 'odom'), 'base', with_covariance, twist
                ))  # fmt: skip
            elif poses == 'pose':
                put('/pose', at, types['geometry_msgs/msg/PoseStamped'](header(at, 'map'), pose))
            elif poses == 'tf':
                moving = transform(at, 'odom', 'base', place, q)
                put('/tf', at, types['tf2_msgs/msg/TFMessage']([moving]))


def test_the_mounting_is_the_quaternion():
    np.testing.assert_allclose(odometry.rotation(np.array([-0.5, 0.5, -0.5, 0.5])), OPTICAL)


@pytest.mark.parametrize('poses', ['odometry', pytest.param('tf', marks=pytest.mark.slow)])
def test_rotation_and_direction_against_the_poses(tmp_path, poses):
    write(tmp_path / 'bag', 9, poses, mounted=True)
    out = tmp_path / 'out'
    words = ['replay', tmp_path / 'bag', '--out', out, '--no-video', '--no-features', '--no-iqa']
    assert run(*words, '--odometry', '--require', 'vo_tracked>=0') == 0
    content = json.loads((out / 'report.json').read_text())
    found = content['topics']['/cam/image_raw']['measures']
    # Of the mere gain: the network is not what is tested here.
    assert found['vo_tracked']['auto'] == 100
    assert found['vo_inliers']['auto'] > 60
    assert found['vo_rotation']['auto'] < 1.0
    assert found['vo_direction']['auto'] < 12.0
    assert found['vo_direction']['frames'] >= 5
    assert content['limits'] == []
    page = (out / 'report.html').read_text()
    for word in ('odometry rotation error', 'odometry direction error', '--odometry'):
        assert word in page


def test_without_a_transform_only_angles_are_compared(tmp_path):
    write(tmp_path / 'bag', 7, 'pose', mounted=False)
    recording = Recording(tmp_path / 'bag')
    topics = [topic for topic in recording.topics if topic.kind == IMAGE]
    known = odometry.read(recording, topics)
    assert known.mounted == {}
    assert known.poses.topic == '/pose'
    (line,) = odometry.limits(known, ['/cam/image_raw'])
    assert 'only how far it turned is compared' in line
    start = 10**18 + STEP_NS
    turned, moved = known.poses.between(start, start + 3 * STEP_NS)
    assert odometry._angle(turned) == pytest.approx(np.degrees(0.036), abs=0.05)
    yaw, before = path(1)
    expected = turn(yaw).T @ (path(4)[1] - before)
    np.testing.assert_allclose(moved, expected, atol=0.01)


@pytest.mark.parametrize('size', [(96, 128), (20, 20)])
def test_frames_without_features_are_lost_and_no_error(size):
    stage = odometry.Odometry(odometry.Known({}, None, {}))
    black = np.zeros((*size, 3), np.uint8)
    for n in range(5):
        found = stage.measure(Pair({'topic': '/c', 'stamp': n * STEP_NS, 'time': 0}, black, black))
    assert found['after'] == {'vo_inliers': 0.0, 'vo_tracked': 0.0}


def test_what_is_missing_is_said(tmp_path):
    write(tmp_path / 'bag', 5, 'none', mounted=False, info=False)
    out = tmp_path / 'out'
    words = ['replay', tmp_path / 'bag', '--out', out, '--no-video', '--no-features', '--no-iqa']
    assert run(*words, '--odometry') == 0
    content = json.loads((out / 'report.json').read_text())
    assert 'no camera_info; the focal length is a guess' in content['limits'][0]
    assert 'the bag has no poses' in content['limits'][1]
    found = content['topics']['/cam/image_raw']['measures']
    assert 'vo_rotation' not in found
    assert found['vo_inliers']['auto'] > 60
