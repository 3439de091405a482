"""make demo, as a user runs it: a camera, the node and a listener over real DDS."""

from __future__ import annotations

import re
import subprocess
import sys

import cv2
import pytest

pytest.importorskip('rclpy', reason='no ROS 2 here: source one, or let make test install it')

from conftest import ros_environment, write_bag

from dap_led_ros import media, sources


def demo(folder, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, '-m', 'dap_led_ros.nodes.demo', '--out', str(folder), *arguments],
        env=ros_environment(str(folder)),
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_sample_night_is_played_and_shown(tmp_path):
    done = demo(tmp_path, '--frames', '24')
    assert done.returncode == 0, done.stderr
    sent, received = (
        int(re.search(rf'{name} +(\d+)', done.stdout)[1]) for name in ('frames sent', 'received')
    )
    assert sent == 24
    assert received >= 0.95 * sent, done.stdout
    for word in ('dropped', 'rate', 'latency', 'camera to listener', 'PSNR', ' enhanced, '):
        assert word in done.stdout
    picture = media.read_image(tmp_path / 'side_by_side.png')
    assert picture.shape == (3 * 480, 3 * 640, 3)
    camera, enhanced, reference = (picture[40:480, x : x + 640] for x in (0, 640, 1280))
    assert enhanced.mean() > 2 * camera.mean()
    assert cv2.PSNR(enhanced, reference) > cv2.PSNR(camera, reference) + 5
    film = sources.open_source(tmp_path / 'side_by_side.mp4')
    assert len(list(film.frames)) == received


@pytest.mark.parametrize(('kind', 'count'), [('folder', 3), ('video', 5), ('bag', 4)])
def test_the_users_own_frames(pictures, tmp_path, kind, count):
    source = pictures
    if kind == 'bag':
        source = tmp_path / 'bag'
        write_bag(source, [media.read_image(pictures / '0.png')] * count)
    if kind == 'video':
        source = tmp_path / 'in.mp4'
        with media.VideoFile(source, 10.0) as video:
            for _ in range(count):
                video.write(media.read_image(pictures / '0.png'))
    done = demo(tmp_path / 'out', str(source))
    assert done.returncode == 0, done.stderr
    assert re.search(rf'frames sent +{count} ', done.stdout)
    assert 'PSNR' not in done.stdout
    picture = media.read_image(tmp_path / 'out' / 'side_by_side.png')
    assert picture.shape[1] == 2 * 640
    assert re.search(rf'the node +{count + 12} received, {count + 12} enhanced', done.stdout)
    if kind == 'folder':  # of mixed sizes: both panels of the smallest are there
        last = picture[-96:, :256]
        assert last[40:, 128:].mean() > 2 * last[40:, :128].mean() > 2


def test_frames_that_cannot_be_enhanced_are_no_success(tmp_path, night):
    media.write_image(tmp_path / 'tiny' / '0.png', night[0][:12, :12])
    done = demo(tmp_path / 'out', str(tmp_path / 'tiny'))
    assert done.returncode == 1
    assert 'no frame was enhanced' in done.stderr
    assert '12x12: the least is 16x16' in done.stderr


def test_a_wrong_path_gets_one_clear_line(tmp_path):
    done = demo(tmp_path, str(tmp_path / 'nothing.mp4'))
    assert done.returncode == 1
    assert done.stderr.strip() == f'demo: {tmp_path}/nothing.mp4 does not exist'


def test_a_node_that_does_not_start_is_reported(tmp_path):
    done = demo(tmp_path, '--frames', '2', '--model', 'huge')
    assert done.returncode == 1
    assert 'the enhance node did not start' in done.stderr
    assert 'nano' in done.stderr.split('one of: ')[1].strip().split(', ')
