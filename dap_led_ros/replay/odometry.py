"""Monocular visual odometry by OpenCV's parts, to see whether poses get better.

Each frame is matched with one a quarter of a second before it: ORB features, the essential matrix
of the camera's intrinsics (RANSAC), and the pose that it gives. Where the bag has poses, rotation
and direction of the movement are compared with them. No map, no scale, no loop closing: this is
evidence that features serve a localisation, and no localisation.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from dap_led_ros.metrics.luma import luma
from dap_led_ros.replay import measures
from dap_led_ros.replay.codec import camera_info_name
from dap_led_ros.replay.pairs import Pair
from dap_led_ros.replay.recording import Recording
from dap_led_ros.replay.topics import CAMERA_INFO, STORE, Topic

BASELINE_NS = 250_000_000
"""Between the two frames that are compared."""
TRACKED = 30
"""Inliers from which the camera counts as tracked."""
MOVED = 0.05
"""Metres between two poses below which a direction means nothing."""
_LONGEST_NS = 10 * BASELINE_NS
_FEATURES = 1500
_POSES = {
    'nav_msgs/msg/Odometry': lambda message: (message.child_frame_id, message.pose.pose),
    'geometry_msgs/msg/PoseStamped': lambda message: ('', message.pose),
    'geometry_msgs/msg/PoseWithCovarianceStamped': lambda message: ('', message.pose.pose),
}
_TF = 'tf2_msgs/msg/TFMessage'


@dataclass
class Camera:
    """What is known of one camera."""

    matrix: np.ndarray
    """(3, 3) intrinsics, pixels."""
    distortion: np.ndarray
    guessed: bool
    """There was no camera_info: the focal length is as of a view of 60 degrees."""
    frame: str = ''
    """frame_id of its camera_info."""


@dataclass
class Poses:
    """Where a body was: times (ns), positions (n, 3), orientations (n, 4: x y z w)."""

    topic: str
    body: str
    times: np.ndarray
    positions: np.ndarray
    orientations: np.ndarray

    def between(self, start: int, end: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Rotation (3, 3) and translation (3,) of the body, in its own frame.

        None where no pose is near enough.
        """
        found = [self._at(time) for time in (start, end)]
        if any(pose is None for pose in found):
            return None
        (r_a, t_a), (r_b, t_b) = found
        return r_a.T @ r_b, r_a.T @ (t_b - t_a)

    def _at(self, time: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Interpolated: orientation by the mean of neighbours, which are near one another."""
        place = int(np.searchsorted(self.times, time))
        if place == 0 or place == len(self.times):
            return None
        before, after = self.times[place - 1], self.times[place]
        if after - before > _LONGEST_NS:
            return None
        share = (time - before) / (after - before)
        a, b = self.orientations[place - 1 : place + 1]
        mixed = (1 - share) * a + share * (b if a @ b >= 0 else -b)
        position = (1 - share) * self.positions[place - 1] + share * self.positions[place]
        return rotation(mixed), position


def rotation(quaternion: np.ndarray) -> np.ndarray:
    """(3, 3) of x, y, z, w, of any length but zero."""
    x, y, z, w = quaternion / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


@dataclass
class Known:
    """What a bag knows of its cameras and of where they were."""

    cameras: dict[str, Camera]
    """By image topic; those without camera_info are missing."""
    poses: Poses | None
    mounted: dict[str, np.ndarray]
    """(3, 3) from camera to body, by image topic, where the bag has the transforms."""


def read(recording: Recording, topics: Iterable[Topic]) -> Known:
    """Read camera_info, poses and static transforms of a recording: all of it, once."""
    infos = {camera_info_name(topic.name): topic.name for topic in topics}
    stores = {topic: _store(topic) for topic in recording.topics if topic.kind in (*_POSES, _TF)}
    cameras: dict[str, Camera] = {}
    poses: dict[Topic, list[tuple[int, str, Any]]] = defaultdict(list)
    transforms: dict[tuple[str, str], list[tuple[int, Any]]] = defaultdict(list)
    for topic, _, data in recording.messages():
        if topic.name in infos and topic.kind == CAMERA_INFO:
            if infos[topic.name] not in cameras:
                info = STORE.deserialize_cdr(data, CAMERA_INFO)
                if info.k[0]:
                    frame = info.header.frame_id
                    camera = Camera(info.k.reshape(3, 3), np.asarray(info.d), False, frame)
                    cameras[infos[topic.name]] = camera
        elif topic in stores:
            message = stores[topic].deserialize_cdr(data, topic.kind)
            if topic.kind == _TF:
                for of in message.transforms:
                    key = of.header.frame_id.strip('/'), of.child_frame_id.strip('/')
                    transforms[key].append((_time(of.header), of.transform))
            else:
                body, pose = _POSES[topic.kind](message)
                poses[topic].append((_time(message.header), body.strip('/'), pose))
    found = _best(poses, transforms)
    mounted = {}
    for name, camera in cameras.items():
        turned = _chain(transforms, found.body, camera.frame.strip('/')) if found else None
        if turned is not None:
            mounted[name] = turned
    return Known(cameras, found, mounted)


def _store(topic: Topic) -> Any:
    """Message types as the bag defines them."""
    if not topic.definition or topic.kind in STORE.fielddefs:
        return STORE
    store = get_typestore(Stores.EMPTY)
    store.register(get_types_from_msg(topic.definition, topic.kind))
    return store


def _time(header: Any) -> int:
    return header.stamp.sec * 10**9 + header.stamp.nanosec


def _best(poses: dict[Topic, Any], transforms: dict[Any, Any]) -> Poses | None:
    """The poses of most messages: of a topic, or of a transform that moves."""
    rows = {topic.name: of for topic, of in poses.items()}
    for (parent, child), of in transforms.items():
        if len(of) > 2:
            rows.setdefault(f'tf {parent} to {child}', [(t, child, pose) for t, pose in of])
    for name, of in sorted(rows.items(), key=lambda row: (row[0].startswith('tf '), -len(row[1]))):
        if len(of) > 1:
            of = sorted(of, key=lambda row: row[0])
            place = [
                getattr(pose, 'position', getattr(pose, 'translation', None)) for *_, pose in of
            ]
            turn = [
                getattr(pose, 'orientation', getattr(pose, 'rotation', None)) for *_, pose in of
            ]
            return Poses(
                name,
                of[0][1],
                np.array([row[0] for row in of]),
                np.array([(p.x, p.y, p.z) for p in place]),
                np.array([(q.x, q.y, q.z, q.w) for q in turn]),
            )
    return None


def _chain(transforms: dict[Any, Any], body: str, camera: str) -> np.ndarray | None:
    """Rotation (3, 3) from camera to body along transforms; None: there is no way."""
    if body == camera and body:
        return np.eye(3)
    steps: dict[str, list[tuple[str, np.ndarray]]] = defaultdict(list)
    for (parent, child), of in transforms.items():
        q = of[0][1].rotation
        turn = rotation(np.array([q.x, q.y, q.z, q.w]))
        steps[child].append((parent, turn))
        steps[parent].append((child, turn.T))
    reached = {camera: np.eye(3)}
    waiting = deque([camera])
    while waiting:
        frame = waiting.popleft()
        for other, turn in steps[frame]:
            if other not in reached:
                reached[other] = turn @ reached[frame]
                waiting.append(other)
    return reached.get(body) if body else None


class Odometry:
    """The stage of measure.py: each camera and side with frames of its own before."""

    def __init__(self, known: Known) -> None:
        """Begin without frames before."""
        self._known = known
        self._orb = cv2.ORB_create(_FEATURES)
        self._matcher = cv2.BFMatcher(cv2.NORM_HAMMING)
        self._before: dict[tuple[str, str], deque[tuple[int, Any, Any]]] = defaultdict(deque)

    def measure(self, pair: Pair) -> dict[str, Any]:
        """Inliers, whether tracked (percent), and errors against poses (degrees), by side."""
        topic, stamp = pair.row['topic'], pair.row.get('stamp', pair.row['time'])
        camera = self._known.cameras.get(topic) or _guess(pair.before.shape)
        found = {}
        for side in measures.SIDES:
            row = self._side(topic, side, stamp, luma(getattr(pair, side)), camera)
            if row:
                found[side] = row
        return found

    def _side(
        self, topic: str, side: str, stamp: int, grey: np.ndarray, camera: Camera
    ) -> dict[str, float]:
        # ORB's border leaves nothing of small frames, and it fails on the smallest.
        small = min(grey.shape) < 62
        keypoints, descriptors = ((), None) if small else self._orb.detectAndCompute(grey, None)
        points = np.array([point.pt for point in keypoints], np.float32).reshape(-1, 1, 2)
        if len(points):
            lens = camera.distortion if camera.distortion.size in (4, 5, 8, 12, 14) else None
            points = cv2.undistortPoints(points, camera.matrix, lens)  # to a focal length of 1
        before = self._before[topic, side]
        if before and not 0 < stamp - before[-1][0] <= _LONGEST_NS:
            before.clear()  # a jump in time
        before.append((stamp, points, descriptors))
        while len(before) > 1 and stamp - before[1][0] >= BASELINE_NS:
            before.popleft()
        earlier = before[0]
        if stamp - earlier[0] < BASELINE_NS:
            return {}
        return self._pose(topic, earlier, before[-1], camera)

    def _pose(self, topic: str, a: Any, b: Any, camera: Camera) -> dict[str, float]:
        lost = {'vo_inliers': 0.0, 'vo_tracked': 0.0}
        pairs = self._match(a[2], b[2])
        if len(pairs) < 8:
            return lost
        one, two = a[1][[i for i, _ in pairs]], b[1][[j for _, j in pairs]]
        cv2.setRNGSeed(0)
        matrix, mask = cv2.findEssentialMat(
            one, two, np.eye(3), cv2.RANSAC, 0.999, 1 / camera.matrix[0, 0]
        )
        if matrix is None or matrix.shape != (3, 3):
            return lost
        inliers, turn, move, _ = cv2.recoverPose(matrix, one, two, np.eye(3), mask=mask)
        found = {'vo_inliers': float(inliers), 'vo_tracked': 100.0 * (inliers >= TRACKED)}
        if inliers >= TRACKED:
            found |= self._errors(topic, a[0], b[0], turn, move.ravel())
        return found

    def _errors(
        self, topic: str, start: int, end: int, turn: np.ndarray, move: np.ndarray
    ) -> dict[str, float]:
        """Degrees between what was found and the poses of the bag."""
        truth = self._known.poses.between(start, end) if self._known.poses else None
        if truth is None:
            return {}
        # OpenCV's turn brings points of the first camera into the second; poses are of the body.
        turned, moved = turn.T, -turn.T @ move
        if (mounted := self._known.mounted.get(topic)) is None:
            # Without it only how far it turned can be compared, not about which axis.
            return {'vo_rotation': abs(_angle(turned) - _angle(truth[0]))}
        turned, moved = mounted @ turned @ mounted.T, mounted @ moved
        found = {'vo_rotation': _angle(turned.T @ truth[0])}
        if (length := float(np.linalg.norm(truth[1]))) >= MOVED:
            cosine = float(moved @ truth[1]) / length / max(float(np.linalg.norm(moved)), 1e-9)
            found['vo_direction'] = float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
        return found

    def _match(self, a: Any, b: Any) -> list[tuple[int, int]]:
        """Indices of mutual nearest neighbours that pass the ratio test."""
        if a is None or b is None or min(len(a), len(b)) < 2:
            return []
        forth, back = (
            {
                best.queryIdx: best.trainIdx
                for best, second in self._matcher.knnMatch(x, y, k=2)
                if best.distance < measures.RATIO * second.distance
            }
            for x, y in ((a, b), (b, a))
        )
        return [(i, j) for i, j in forth.items() if back.get(j) == i]


def _guess(shape: tuple[int, ...]) -> Camera:
    height, width = shape[:2]
    focal = width / 2 / np.tan(np.radians(30))
    matrix = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])
    return Camera(matrix, np.zeros(0), True)


def _angle(turn: np.ndarray) -> float:
    """Degrees by which a rotation turns."""
    return float(np.degrees(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1))))


def limits(known: Known, topics: Iterable[str]) -> list[str]:
    """What the odometry of a run could not know, one line each."""
    lines = []
    for topic in topics:
        if topic not in known.cameras:
            lines.append(
                f'odometry of {topic}: no camera_info; the focal length is a guess (60 degrees of '
                'view), so that inliers count and poses are no better than it'
            )
        elif known.poses and topic not in known.mounted:
            lines.append(
                f'odometry of {topic}: no transform from {known.poses.body or "the body"} to '
                f'{known.cameras[topic].frame or "the camera"}; only how far it turned is compared'
            )
    if not known.poses:
        lines.append(
            'odometry: the bag has no poses (Odometry, PoseStamped, tf): no errors, but tracked '
            'share and inliers'
        )
    return lines
