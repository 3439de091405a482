"""dap-led look: what is there, and what would become of it, without enhancing anything."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

pytest.importorskip('rosbags', reason='rosbags is not installed')
pytest.importorskip('mcap', reason='mcap is not installed')
pytest.importorskip('jinja2', reason='jinja2 is not installed')

from test_other_bags import write_foxglove, write_ros1
from test_replay import FRAMES, TOPICS, write

from dap_led_ros import media
from dap_led_ros.cli import main
from dap_led_ros.replay import look
from dap_led_ros.replay.recording import Recording


def rows_of(path) -> dict[str, look.Row]:
    return {row.name: row for row in look.look(path)[0]}


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_each_topic_of_a_bag(tmp_path, storage, capsys):
    write(tmp_path / 'bag', storage)
    page = tmp_path / 'page.html'
    assert main(['look', str(tmp_path / 'bag'), '--html', str(page)]) == 0
    said = capsys.readouterr().out
    rows = rows_of(tmp_path / 'bag')
    assert set(rows) == set(TOPICS)
    front = rows['/front/image_raw']
    assert (front.count, front.size, front.encoding) == (FRAMES, '96x72', 'rgb8')
    assert front.rate == pytest.approx(10, rel=0.1)
    assert len(front.frames) == look.FRAMES
    assert front.enhanced.startswith('yes: 8 of 8 frames')
    assert front.low_light > 0.5 > front.brightness / 255
    assert rows['/front/reference'].brightness > 2 * front.brightness
    assert rows['/depth/image_raw'].enhanced == "no: encoding '16UC1' is not colour or grey"
    assert rows['/odd'].enhanced == 'no picture: copied'
    assert rows['/silent'].count == 0
    for line in ('/rear/image_raw/compressed', 'jpeg compressed bgr8', '16UC1', 'no picture'):
        assert line in said
        assert line in page.read_text()
    assert page.read_text().count('data:image/jpeg') >= 8
    assert main(['look', str(tmp_path / 'bag'), '--html', str(page)]) == 1
    assert 'add --overwrite' in capsys.readouterr().err


def test_it_reads_a_few_places_only(tmp_path, monkeypatch):
    """Of three hundred frames eight: seconds, not minutes."""
    write(tmp_path / 'bag', 'mcap', frames=300)
    read = []
    of_part = Recording.read

    def counted(recording, part):
        for record in of_part(recording, part):
            read.append(record)
            yield record

    monkeypatch.setattr(Recording, 'read', counted)
    rows = rows_of(tmp_path / 'bag')
    assert rows['/front/image_raw'].count == 300
    assert len(rows['/front/image_raw'].frames) == look.FRAMES
    assert len(read) < 300 * 7 / 2


def test_a_bag_without_an_index_is_looked_at_from_its_start(tmp_path):
    write(tmp_path / 'bag', 'mcap', frames=60)
    file = tmp_path / 'bag' / 'bag.mcap'
    file.write_bytes(file.read_bytes()[:-100_000])
    rows, trouble = look.look(tmp_path / 'bag')
    front = next(row for row in rows if row.name == '/front/image_raw')
    assert len(front.frames) == look.FRAMES
    assert 'bag.mcap is damaged' in trouble[0]


def test_bags_of_others(tmp_path):
    write_ros1(tmp_path / 'drive.bag')
    assert rows_of(tmp_path / 'drive.bag')['/cam/image_raw'].enhanced.startswith('yes')
    write_foxglove(tmp_path / 'fox.mcap')
    rows = rows_of(tmp_path / 'fox.mcap')
    assert rows['/PointCloud/data'].kind == 'protobuf foxglove.PointCloud'
    for name in ('CompressedImage', 'RawImage', 'CompressedVideo'):
        assert rows[f'/{name}/data'].enhanced.startswith('yes'), name
    write_foxglove(tmp_path / 'lidar.mcap', ('PointCloud',))
    assert main(['look', str(tmp_path / 'lidar.mcap')]) == 1


def test_videos_folders_and_pictures(tmp_path, night, pictures, capsys):
    small = [cv2.resize(of, (320, 240), interpolation=cv2.INTER_AREA) for of in night]
    with media.VideoFile(tmp_path / 'night.mp4', 10.0) as video:
        for _ in range(20):
            video.write(small[0])
    (row,), _ = look.look(tmp_path / 'night.mp4')
    assert (row.kind, row.count, row.size) == ('video', 20, '320x240')
    assert row.enhanced.startswith('yes: 8 of 8')
    (pictures / 'broken.png').write_bytes(b'no picture')
    (row,), trouble = look.look(pictures)
    assert (row.count, len(row.frames), len(trouble)) == (4, 3, 1)
    cv2.imwrite(str(tmp_path / 'grey.png'), np.full((8, 8), 90, np.uint8))
    (row,), _ = look.look(tmp_path / 'grey.png')
    assert row.enhanced == 'no: smaller than 16x16'
    (tmp_path / 'text.txt').write_text('mine')
    for wrong, said in (('text.txt', 'neither a bag'), ('nothing', 'does not exist')):
        assert main(['look', str(tmp_path / wrong)]) == 1
        assert said in capsys.readouterr().err


def test_good_frames_would_pass(tmp_path, night):
    cv2.imwrite(str(tmp_path / 'day.png'), night[1][..., ::-1])
    (row,), _ = look.look(tmp_path / 'day.png')
    assert row.low_light < 0.5
    assert look.show(tmp_path / 'day.png') == 0
