"""dap-led on the user's files: pictures, folders, videos, bags, and what is wrong with them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import write_bag

from dap_led_ros import doctor, image_codec, media, sources
from dap_led_ros.cli import main
from dap_led_ros.inference import Enhancer


def write_video(path, frames, rate=12.0):
    with media.VideoFile(path, rate) as video:
        for frame in frames:
            video.write(frame)


def test_enhance_a_picture(pictures, tmp_path):
    output = tmp_path / 'new' / 'bright.png'
    assert main(['enhance', str(pictures / '0.png'), str(output)]) == 0
    expected = Enhancer.load().enhance(media.read_image(pictures / '0.png')).frame
    np.testing.assert_array_equal(media.read_image(output), expected)


def test_a_picture_of_sixteen_bit_stays_one(pictures, tmp_path):
    picture = media.read_image(pictures / '0.png').astype(np.uint16) * 257
    media.write_image(tmp_path / 'deep.png', picture)
    assert main(['enhance', str(tmp_path / 'deep.png'), str(tmp_path / 'out.png')]) == 0
    assert media.read_image(tmp_path / 'out.png').dtype == np.uint16


def test_sixteen_bit_into_a_format_of_eight_is_scaled(pictures, tmp_path):
    picture = media.read_image(pictures / '0.png')
    media.write_image(tmp_path / 'shallow.jpg', picture.astype(np.uint16) * 257)
    assert cv2.PSNR(media.read_image(tmp_path / 'shallow.jpg'), picture) > 30


def test_a_broken_video_leaves_nothing_behind(tmp_path, night):
    with (
        pytest.raises(RuntimeError, match='half way'),
        media.VideoFile(tmp_path / 'v.mp4', 9) as v,
    ):
        v.write(night[0])
        raise RuntimeError('half way')
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('rate', [1.0, 29.97, 66.66667, 97.531, 700.123])
def test_videos_of_any_rate_and_of_odd_size(tmp_path, night, rate):
    write_video(tmp_path / 'v.mp4', [night[0][:121, :161]] * 3, rate)
    source = sources.open_source(tmp_path / 'v.mp4')
    assert source.rate == pytest.approx(rate, rel=0.001)
    assert next(source.frames).shape == (122, 162, 3)


def test_enhance_a_folder_and_name_what_is_broken(pictures, tmp_path, capsys):
    (pictures / 'broken.jpg').write_bytes(b'no picture')
    assert main(['enhance', str(pictures), str(tmp_path / 'out')]) == 1
    assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == ['0.png', '1.png', '2.png']
    said = capsys.readouterr().err
    assert 'broken.jpg' in said
    assert '1 of 4 pictures were skipped' in said
    for name in ('0.png', '1.png', '2.png'):
        before, after = (media.read_image(f / name) for f in (pictures, tmp_path / 'out'))
        assert before.shape == after.shape
        assert after.mean() > 2 * before.mean()


def test_enhance_a_video(tmp_path, night):
    write_video(tmp_path / 'in.mp4', [night[0]] * 7)
    assert main(['enhance', str(tmp_path / 'in.mp4'), str(tmp_path / 'out.mp4')]) == 0
    before, after = (sources.open_source(tmp_path / name) for name in ('in.mp4', 'out.mp4'))
    assert (after.kind, after.rate) == ('video', pytest.approx(12.0))
    pairs = list(zip(before.frames, after.frames, strict=True))
    assert len(pairs) == 7
    assert all(b.shape == a.shape and a.mean() > 2 * b.mean() for b, a in pairs)
    assert {p.name for p in tmp_path.iterdir()} == {'in.mp4', 'out.mp4'}


def test_nothing_is_overwritten_without_being_told(pictures, tmp_path, capsys):
    (tmp_path / 'out.png').write_bytes(b'mine')
    command = ['enhance', str(pictures / '0.png'), str(tmp_path / 'out.png')]
    assert main(command) == 1
    assert (tmp_path / 'out.png').read_bytes() == b'mine'
    assert 'add --overwrite' in capsys.readouterr().err
    assert main([*command, '--overwrite']) == 0
    assert (tmp_path / 'out.png').read_bytes() != b'mine'
    assert main(['enhance', str(pictures), str(pictures), '--overwrite']) == 1
    assert 'is the input' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('name', 'content', 'said'),
    [
        ('missing.mp4', None, 'does not exist'),
        ('text.txt', b'hello', 'neither a picture nor a video'),
        ('cut.mp4', b'\x00\x00\x00\x18ftypmp42' + bytes(200), 'neither a picture nor a video'),
        ('cut.png', b'\x89PNG\r\n\x1a\n', 'cannot be read as a picture'),
    ],
)
def test_wrong_input_gets_one_clear_line(tmp_path, capfd, name, content, said):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert main(['enhance', str(tmp_path / name), str(tmp_path / 'out.png')]) == 1
    lines = capfd.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith('dap-led: ')
    assert said in lines[0]
    assert not (tmp_path / 'out.png').exists()


def test_wrong_output_and_wrong_model(pictures, tmp_path, capsys):
    source = str(pictures / '0.png')
    assert main(['enhance', source, str(tmp_path / 'out.xyz')]) == 1
    assert 'cannot be written' in capsys.readouterr().err
    assert main(['enhance', source, str(tmp_path / 'out.png'), '--model', 'huge']) == 1
    assert 'nano' in capsys.readouterr().err.split('one of: ')[1].strip().split(', ')
    write_video(tmp_path / 'in.mp4', [media.read_image(pictures / '0.png')])
    assert main(['enhance', str(tmp_path / 'in.mp4'), str(tmp_path / 'out.xyz')]) == 1
    assert 'is no video' in capsys.readouterr().err


def test_an_empty_folder_says_what_it_looked_for(tmp_path, capsys):
    (tmp_path / 'empty').mkdir()
    assert main(['enhance', str(tmp_path / 'empty'), str(tmp_path / 'out')]) == 1
    assert 'has no pictures' in capsys.readouterr().err


def test_a_bag_is_a_source_of_frames(tmp_path, night):
    write_bag(tmp_path / 'bag', [night[0], night[1], night[0]])
    source = sources.open_source(tmp_path / 'bag')
    assert (source.kind, source.count, source.rate) == ('bag', 3, pytest.approx(10.0, rel=0.01))
    for frame, expected in zip(source.frames, (night[0], night[1], night[0]), strict=True):
        np.testing.assert_array_equal(frame, expected)
    jpeg = sources.open_source(tmp_path / 'bag', '/jpeg')
    assert cv2.PSNR(next(jpeg.frames), night[0]) > 30
    with pytest.raises(ValueError, match='its image topics: /jpeg, /raw'):
        sources.open_source(tmp_path / 'bag', '/rear')


def test_a_bag_that_begins_with_depth_gives_its_colour_camera(tmp_path, night):
    write_bag(tmp_path / 'bag', [night[0]] * 2, depth_first=True)
    source = sources.open_source(tmp_path / 'bag')
    np.testing.assert_array_equal(next(source.frames), night[0])
    with pytest.raises(
        ValueError, match=r'no topic /depth .*its image topics: /depth, /jpeg, /raw'
    ):
        sources.open_source(tmp_path / 'bag', '/depth')


def test_frames_of_a_bag_that_cannot_be_decoded_are_skipped_and_said(tmp_path, night, monkeypatch):
    from dap_led_ros.replay import codec

    write_bag(tmp_path / 'bag', [night[0]] * 4)
    source = sources.open_source(tmp_path / 'bag')
    decode, calls = codec.Decoder.decode, []

    def decode_but_the_second(decoder, data):
        calls.append(data)
        if len(calls) == 2:
            raise image_codec.MalformedImageError('broken')
        return decode(decoder, data)

    monkeypatch.setattr(codec.Decoder, 'decode', decode_but_the_second)
    with pytest.warns(UserWarning, match='1 frames of /raw cannot be decoded'):
        assert len(list(source.frames)) == 3


def test_a_broken_bag_is_said_so(tmp_path):
    pytest.importorskip('rosbags', reason='rosbags is not installed')
    (tmp_path / 'bag').mkdir()
    (tmp_path / 'bag' / 'metadata.yaml').write_text('nonsense: 1')
    with pytest.raises(ValueError, match='cannot be read as a bag'):
        sources.open_source(tmp_path / 'bag')


def test_the_command_is_on_the_path_of_the_environment():
    command = Path(sys.executable).parent / 'dap-led'
    shown = subprocess.run([command, '--help'], check=True, capture_output=True, text=True)
    assert 'enhance' in shown.stdout


def test_doctor_finds_this_installation_sound(capsys):
    assert main(['doctor']) == 0
    assert f'default model: {Enhancer.load().model} on ' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('wheels', 'status', 'said'),
    [
        ({'onnxruntime': '1', 'onnxruntime-gpu': '1'}, 'problem', 'overwrite each other'),
        ({'onnxruntime': '1', 'onnxruntime-openvino': '1'}, 'problem', 'overwrite each other'),
        ({'onnxruntime-gpu': '1'}, 'ok', 'onnxruntime-gpu 1'),
    ],
)
def test_doctor_sees_two_onnxruntimes(wheels, status, said):
    found = doctor.check_one_of(
        'ONNX Runtime', doctor.ONNXRUNTIME_WHEELS, wheels, 'onnxruntime', 'onnxruntime'
    )
    assert found.status == status
    assert said in found.what
    if status == 'problem':
        assert found.remedy.startswith(f'pip uninstall -y {" ".join(wheels)} && pip install')
        assert found.remedy.endswith(list(wheels)[-1])


def test_doctor_keeps_the_headless_opencv():
    wheels = {'opencv-python': '4', 'opencv-python-headless': '4'}
    found = doctor.check_one_of(
        'OpenCV', doctor.OPENCV_WHEELS, wheels, 'opencv-python-headless', 'cv2'
    )
    assert found.remedy.endswith('pip install --no-cache-dir opencv-python-headless')


def test_doctor_sees_that_nothing_is_there():
    found = doctor.check_one_of('Thing', ('thing-wheel',), {}, 'thing-wheel', 'no_such_thing')
    assert (found.status, found.remedy) == ('problem', 'pip install thing-wheel')


def test_doctor_runs_where_opencv_is_broken(tmp_path):
    (tmp_path / 'cv2.py').write_text("raise ImportError('libGL.so.1 is missing')")
    code = f'import sys; sys.path.insert(0, {str(tmp_path)!r}); from dap_led_ros.cli import main; '
    done = subprocess.run(
        [sys.executable, '-c', code + "sys.exit(main(['doctor']))"], capture_output=True, text=True
    )
    assert done.returncode == 1, done.stderr
    assert 'libGL.so.1 is missing' in done.stdout
    assert 'pip install --force-reinstall' in done.stdout
    assert 'Traceback' not in done.stderr
