"""dap-led enhance on pictures and videos as people have them: what they say stays."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest

Image = pytest.importorskip('PIL.Image', reason='Pillow is not installed')
from PIL import PngImagePlugin, features

from dap_led_ros import media, pictures, sources, video_file
from dap_led_ros.cli import main


@pytest.fixture(scope='module')
def bright() -> np.ndarray:
    """(96, 160, 3): a picture whose top left corner is red."""
    rng = np.random.default_rng(0)
    frame = cv2.GaussianBlur(rng.integers(0, 255, (96, 160, 3), np.uint8), (9, 9), 3)
    frame = np.clip(frame.astype(int) // 3, 0, 90).astype(np.uint8)
    frame[:32, :32] = (250, 20, 20)
    return frame


def stored(frame: np.ndarray, orientation: int) -> np.ndarray:
    """What a camera stores whose tag then turns it upright."""
    turn = Image.Transpose
    turns = {
        2: turn.FLIP_LEFT_RIGHT, 3: turn.ROTATE_180, 4: turn.FLIP_TOP_BOTTOM, 5: turn.TRANSPOSE,
        6: turn.ROTATE_90, 7: turn.TRANSVERSE, 8: turn.ROTATE_270,
    }  # fmt: skip
    image = Image.fromarray(frame)
    return np.array(image.transpose(turns[orientation]) if orientation > 1 else image)


def is_upright(frame: np.ndarray) -> bool:
    height, width = frame.shape[:2]
    corner = frame[: height // 4, : width // 8].reshape(-1, 3).astype(int).mean(axis=0)
    return (height, width) == (96, 160) and corner[0] > corner[1] + 80


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = orientation, 'Maker'
    exif.get_ifd(0x8769)[0x829A] = 0.04  # exposure, seconds
    return exif


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('suffix', ['jpg', 'png', 'webp', 'tif'])
def test_pictures_are_upright_and_keep_their_exif(tmp_path, bright, orientation, suffix):
    profile = pytest.importorskip('PIL.ImageCms').createProfile('sRGB')
    from PIL.ImageCms import ImageCmsProfile

    icc = ImageCmsProfile(profile).tobytes()
    source, output = tmp_path / f'in.{suffix}', tmp_path / f'out.{suffix}'
    image = Image.fromarray(stored(bright, orientation))
    image.save(source, exif=exif_of(orientation), icc_profile=icc)
    assert is_upright(media.read_image(source))
    assert main(['enhance', str(source), str(output)]) == 0
    written = Image.open(output)
    exif = written.getexif()
    assert (exif.get(0x0112, 1), exif[0x010F]) == (1, 'Maker')
    taken = Image.open(source).getexif().get_ifd(0x8769)  # Pillow writes none into TIFF
    assert exif.get_ifd(0x8769) == taken
    assert taken or suffix == 'tif'
    assert written.info['icc_profile'] == icc
    assert written.size == (160, 96)


def test_orientation_as_imagemagick_writes_it(tmp_path, bright):
    """In a text of a PNG; and in a WebP without the six bytes that others begin it with."""
    note = PngImagePlugin.PngInfo()
    body = exif_of(3).tobytes().removeprefix(b'Exif\0\0')
    hexed = (b'Exif\0\0' + body).hex()
    note.add_text('Raw profile type exif', f'\nexif\n{len(hexed) // 2:8}\n{hexed}\n', zip=True)
    Image.fromarray(stored(bright, 3)).save(tmp_path / 'raw.png', pnginfo=note)
    words = PngImagePlugin.PngInfo()
    words.add_text('exif:Orientation', '3')
    Image.fromarray(stored(bright, 3)).save(tmp_path / 'text.png', pnginfo=words)
    bare = exif_of(6).tobytes().removeprefix(b'Exif\0\0')
    Image.fromarray(stored(bright, 6)).save(tmp_path / 'bare.webp', exif=bare, lossless=True)
    for name in ('raw.png', 'text.png', 'bare.webp'):
        assert is_upright(media.read_image(tmp_path / name)), name
        assert main(['enhance', str(tmp_path / name), str(tmp_path / 'out' / name)]) == 0
        assert is_upright(media.read_image(tmp_path / 'out' / name)), name
    assert Image.open(tmp_path / 'out' / 'raw.png').getexif()[0x010F] == 'Maker'


def test_sixteen_bit_pictures_are_upright_too(tmp_path, bright):
    deep = stored(bright, 6).astype(np.uint16) * 257
    picture = pictures.Picture(deep, exif_of(6).tobytes())
    pictures.write(tmp_path / 'deep.png', picture)
    if Image.open(tmp_path / 'deep.png').getexif().get(0x0112) != 6:
        pytest.skip('this OpenCV writes no EXIF beside 16 bit')
    read = pictures.read(tmp_path / 'deep.png')
    assert read.frame.dtype == np.uint16
    assert is_upright((read.frame // 257).astype(np.uint8))
    assert main(['enhance', str(tmp_path / 'deep.png'), str(tmp_path / 'out.png')]) == 0
    written = Image.open(tmp_path / 'out.png').getexif()
    assert (written[0x0112], written[0x010F]) == (1, 'Maker')


@pytest.mark.parametrize('suffix', ['png', 'tif', 'ppm', 'pgm'])
def test_sixteen_bit_stay_sixteen(tmp_path, bright, suffix):
    deep = bright.astype(np.uint16) * 257 + 3
    cv2.imwrite(str(tmp_path / f'in.{suffix}'), deep[..., 0] if suffix == 'pgm' else deep)
    read = pictures.read(tmp_path / f'in.{suffix}')
    assert (read.frame.dtype, read.grey) == (np.uint16, suffix == 'pgm')
    assert read.frame.max() > 255
    out = tmp_path / f'out.{suffix}'
    assert main(['enhance', str(tmp_path / f'in.{suffix}'), str(out)]) == 0
    assert pictures.read(out).frame.dtype == np.uint16


@pytest.mark.parametrize('suffix', ['heic', 'avif', 'ppm', 'pgm', 'bmp'])
def test_further_formats(tmp_path, bright, suffix):
    if suffix == 'heic':
        pytest.importorskip('pillow_heif', reason='pillow-heif is not installed')
        pictures._prepare(Path('a.heic'))
    if suffix == 'avif' and not features.check('avif'):
        pytest.skip('this Pillow has no AVIF')
    source, output = tmp_path / f'in.{suffix}', tmp_path / f'out.{suffix}'
    image = Image.fromarray(bright).convert('L' if suffix == 'pgm' else 'RGB')
    if suffix in ('heic', 'avif'):
        image.save(source, exif=exif_of(1))
    else:
        image.save(source)
    assert main(['enhance', str(source), str(output)]) == 0
    written = Image.open(output)
    assert (written.size, written.mode) == ((160, 96), image.mode)
    if suffix in ('heic', 'avif'):
        assert written.getexif()[0x010F] == 'Maker'


def test_heic_without_the_extra_is_named(tmp_path, capsys, monkeypatch):
    (tmp_path / 'in').mkdir()
    (tmp_path / 'in' / 'phone.heic').write_bytes(b'of a telephone')
    monkeypatch.setitem(sys.modules, 'pillow_heif', None)
    assert main(['enhance', str(tmp_path / 'in'), str(tmp_path / 'out')]) == 1
    said = capsys.readouterr().err
    assert "phone.heic is HEIF, which needs pillow-heif: pip install 'dap_led_ros[heif]'" in said
    assert '1 of 1 pictures were skipped' in said


@pytest.mark.parametrize('suffix', ['jpg', 'png', 'webp', 'tif', 'bmp', 'ppm'])
def test_a_picture_that_is_cut_short_is_refused(tmp_path, bright, capfd, suffix):
    Image.fromarray(bright).save(tmp_path / f'whole.{suffix}')
    content = (tmp_path / f'whole.{suffix}').read_bytes()
    (tmp_path / f'cut.{suffix}').write_bytes(content[: len(content) * 6 // 10])
    assert main(['enhance', str(tmp_path / f'cut.{suffix}'), str(tmp_path / 'out.png')]) == 1
    lines = capfd.readouterr().err.strip().splitlines()
    assert any('cannot be read as a picture' in line for line in lines)
    assert not list(tmp_path.glob('*out*'))


def test_a_broken_picture_is_one_where_ultralytics_is_loaded(tmp_path, bright, monkeypatch):
    """It replaces Pillow's opener by one that wants a further library for what it cannot read."""
    Image.fromarray(bright).save(tmp_path / 'good.png')
    (tmp_path / 'broken.png').write_bytes(b'no picture')
    opened = Image.open

    def wants_more(path, *arguments, **words):
        try:
            return opened(path, *arguments, **words)
        except Exception:
            raise ModuleNotFoundError("No module named 'pi_heif'") from None

    monkeypatch.setattr(Image, 'open', wants_more)
    assert media.read_image(tmp_path / 'good.png').shape == (96, 160, 3)
    with pytest.raises(ValueError, match='cannot be read as a picture'):
        media.read_image(tmp_path / 'broken.png')


def test_a_folder_counts_what_it_leaves_alone(tmp_path, bright, capsys):
    folder, out = tmp_path / 'in', tmp_path / 'in' / 'out'
    (folder / 'deeper').mkdir(parents=True)
    for path in (folder / 'a.png', folder / 'deeper' / 'b.png'):
        Image.fromarray(bright).save(path)
    (folder / 'notes.txt').write_text('mine')
    assert main(['enhance', str(folder), str(out)]) == 0
    said = capsys.readouterr().err
    assert 'left alone; 1 .txt; 1 folders (--recursive goes into them)' in said
    assert [path.name for path in out.rglob('*.png')] == ['a.png']
    assert main(['enhance', str(folder), str(out), '--recursive', '--resume']) == 0
    assert {path.relative_to(out).as_posix() for path in out.rglob('*.png')} == {
        'a.png', 'deeper/b.png',
    }  # fmt: skip
    assert 'left alone; 1 .txt\n' in capsys.readouterr().err


def test_a_cmyk_profile_and_grey_pictures(tmp_path, bright):
    grey = Image.fromarray(bright).convert('L')
    grey.save(tmp_path / 'grey.png')
    Image.fromarray(bright).convert('CMYK').save(tmp_path / 'print.jpg', icc_profile=b'x' * 128)
    for name, mode in (('grey.png', 'L'), ('print.jpg', 'RGB')):
        assert main(['enhance', str(tmp_path / name), str(tmp_path / 'out' / name)]) == 0
        written = Image.open(tmp_path / 'out' / name)
        assert written.mode == mode
        assert 'icc_profile' not in written.info


def test_a_bag_names_the_command_for_bags(tmp_path, capsys):
    (tmp_path / 'drive.mcap').write_bytes(b'')
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'folder' / 'bag_0.db3').write_bytes(b'')
    for name in ('drive.mcap', 'folder'):
        assert main(['enhance', str(tmp_path / name), str(tmp_path / 'out')]) == 1
        assert f'`dap-led replay {tmp_path / name} --out FOLDER`' in capsys.readouterr().err


# --- videos --------------------------------------------------------------------------------------

TIMES = [0, 40, 80, 200, 240, 280, 900, 940, 980, 1020, 1060, 1100]
"""Milliseconds of frames whose rate is not steady."""


def write_video(path: Path, frames: list[np.ndarray], rotation: int = 0, **words: object) -> None:
    """H.264 with sound, pixels that are not square, and colour tags."""
    av = pytest.importorskip('av', reason='PyAV is not installed')
    with av.open(str(path), 'w', **words) as container:
        video = container.add_stream('libx264', rate=25)
        sound = container.add_stream('aac', rate=44100)
        video.height, video.width = frames[0].shape[:2]
        video.pix_fmt = 'yuv420p'
        context = video.codec_context
        video.time_base = context.time_base = Fraction(1, 1000)
        context.sample_aspect_ratio = Fraction(4, 3)
        context.colorspace, context.color_primaries, context.color_trc = 1, 1, 1
        context.color_range = 1
        context.options = {'crf': '10'}
        if rotation:
            video.set_display_rotation(rotation)
        for n, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format='rgb24').reformat(
                format='yuv420p', dst_colorspace=1
            )
            picture.pts = TIMES[n] if n < len(TIMES) else TIMES[-1] + 40 * (n - 11)
            picture.time_base = Fraction(1, 1000)
            container.mux(video.encode(picture))
        tone = np.sin(np.arange(44100) / 20).astype(np.float32)[None]
        for start in range(0, 44100, 1024):
            chunk = np.ascontiguousarray(tone[:, start : start + 1024])
            of = av.AudioFrame.from_ndarray(chunk, format='fltp', layout='mono')
            of.sample_rate, of.pts = 44100, start
            container.mux(sound.encode(of))
        container.mux(video.encode(None))
        container.mux(sound.encode(None))


def look(path: Path) -> dict[str, object]:
    """What a player would see."""
    av = pytest.importorskip('av')
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        context = video.codec_context
        found = {
            'codec': context.name,
            'ratio': video.sample_aspect_ratio,
            'colours': tuple(int(getattr(context, name)) for name in video_file._COLOURS),
            'sound': b''.join(bytes(p) for p in container.demux(audio=0) if p.dts is not None),
        }
    with av.open(str(path)) as container:
        pictures_ = list(container.decode(video=0))
    found['times'] = [round(1000 * float(of.pts * of.time_base)) for of in pictures_]
    found['frames'] = [video_file._upright(of)[0] for of in pictures_]
    return found


@pytest.fixture(scope='module')
def dark(night) -> list[np.ndarray]:
    small = cv2.resize(night[0], (160, 96), interpolation=cv2.INTER_AREA)
    return [np.ascontiguousarray(np.roll(small, 3 * n, axis=1)) for n in range(len(TIMES))]


@pytest.mark.parametrize('suffix', ['mp4', 'mkv', pytest.param('mov', marks=pytest.mark.slow)])
def test_a_video_keeps_its_times_sound_shape_and_colours(tmp_path, dark, suffix):
    source, output = tmp_path / f'in.{suffix}', tmp_path / f'out.{suffix}'
    write_video(source, dark)
    assert main(['enhance', str(source), str(output)]) == 0
    before, after = look(source), look(output)
    assert after['codec'] == 'h264'
    for name in ('times', 'sound', 'ratio', 'colours'):
        assert after[name] == before[name], name
    assert after['times'] == TIMES
    assert len(after['sound']) > 1000
    for a, b in zip(before['frames'], after['frames'], strict=True):
        assert b.mean() > 2 * a.mean()
    assert sorted(path.name for path in tmp_path.iterdir()) == [f'in.{suffix}', f'out.{suffix}']


@pytest.mark.parametrize('rate', [15.0, 29.97, 60.0])
def test_a_steady_rate_stays_steady(tmp_path, dark, rate):
    """Beyond the dozen frames that an encoder looks ahead; a browser plays the codec."""
    with media.VideoFile(tmp_path / 'v.mp4', rate) as video:
        for n in range(60):
            video.write(dark[n % len(dark)])
    found = look_without_sound(tmp_path / 'v.mp4')
    assert found[0] == 'h264'
    assert np.allclose(found[1], 1000 * np.arange(60) / rate, atol=1)


def test_colours_come_through_as_they_were(tmp_path, dark):
    """By the matrix that the tags name, there and back."""
    source, output = tmp_path / 'in.mp4', tmp_path / 'out.mp4'
    write_video(source, [np.full((96, 160, 3), (200, 60, 60), np.uint8)] * 3)
    runs = video_file.enhance_video(
        source, output, lambda frame: frame, 'same', False, threading.Event()
    )
    assert [done.frames for done in runs][-1] == 3
    for before, after in zip(look(source)['frames'], look(output)['frames'], strict=True):
        assert np.abs(before.astype(int) - after).mean() < 3  # one rounding of colours


def test_a_turned_video_comes_out_upright(tmp_path, bright):
    source, output = tmp_path / 'in.mp4', tmp_path / 'out.mp4'
    write_video(source, [np.ascontiguousarray(np.rot90(bright, 3))] * 4, rotation=90)
    assert all(is_upright(frame) for frame in look(source)['frames'])
    assert main(['enhance', str(source), str(output)]) == 0
    after = look(output)
    assert all(is_upright(frame) for frame in after['frames'])
    assert after['ratio'] == Fraction(3, 4)


def test_a_video_that_is_cut_short_says_where_it_ended(tmp_path, dark, capsys):
    frames = dark * 10
    source = tmp_path / 'in.mp4'
    write_video(source, frames, options={'movflags': '+faststart'})
    content = source.read_bytes()
    (tmp_path / 'cut.mp4').write_bytes(content[: len(content) * 8 // 10])
    assert main(['enhance', str(tmp_path / 'cut.mp4'), str(tmp_path / 'out.mp4')]) == 1
    said = capsys.readouterr().err
    count = len(look(tmp_path / 'out.mp4')['frames'])
    assert 5 < count < 120
    assert f'the video ended after {count} of 120 frames' in said


class Once:
    """An event that is set after so many looks at it."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    def is_set(self) -> bool:
        self.looks -= 1
        return self.looks < 0


@pytest.mark.parametrize('suffix', ['mp4', 'mkv'])
def test_an_interrupted_video_is_gone_on_with(tmp_path, dark, suffix):
    source, output = tmp_path / f'in.{suffix}', tmp_path / f'out.{suffix}'
    write_video(source, dark)

    def run(label: str, resume: bool, stopped: object) -> tuple[video_file.Done, int]:
        calls = []

        def enhance(frame):
            calls.append(frame)
            return cv2.convertScaleAbs(frame, alpha=2.0)

        runs = video_file.enhance_video(source, output, enhance, label, resume, stopped, 2)
        return list(runs)[-1], len(calls)

    done, calls = run('a', False, Once(4))
    assert (done.stopped, done.frames, calls) == (True, 5, 5)
    part = look(output)
    assert part['times'] == TIMES[:5]
    with pytest.raises(ValueError, match='was not made by this model'):
        run('b', True, threading.Event())
    done, calls = run('a', True, threading.Event())
    # Two of the earlier run are seen again, for what came before the rest.
    assert (done.stopped, done.frames, calls) == (False, 12, 7 + 2)
    after = look(output)
    assert after['times'] == TIMES
    assert after['sound'] == look(source)['sound']
    for a, b in zip(look(source)['frames'], after['frames'], strict=True):
        assert np.abs(b.mean() - cv2.convertScaleAbs(a, alpha=2.0).mean()) < 3
    assert sorted(p.name for p in tmp_path.iterdir()) == [f'in.{suffix}', f'out.{suffix}']


@pytest.mark.parametrize(
    'how', [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_signal_leaves_what_was_done_and_no_hidden_parts(tmp_path, dark, how):
    source, output = tmp_path / 'in.mp4', tmp_path / 'out.mp4'
    write_video(source, [cv2.resize(frame, (640, 480)) for frame in dark] * 12)
    command = [sys.executable, '-m', 'dap_led_ros.cli', 'enhance', str(source), str(output)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (tmp_path / '.part-out.mp4').exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.5)
    process.send_signal(how)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert 'of 144 frames; --resume goes on' in said
    assert {path.name for path in tmp_path.iterdir()} == {'in.mp4', 'out.mp4'}
    assert 0 < len(look(output)['frames']) < 144


def test_sound_that_the_file_has_no_place_for_is_named(tmp_path, dark, capsys):
    write_video(tmp_path / 'in.mkv', dark)
    assert main(['enhance', str(tmp_path / 'in.mkv'), str(tmp_path / 'out.webm')]) == 0
    assert 'sound (aac) is left out: webm has no place for it' in capsys.readouterr().err
    assert look_without_sound(tmp_path / 'out.webm') == ('vp9', TIMES)


def look_without_sound(path: Path) -> tuple[str, list[int]]:
    av = pytest.importorskip('av')
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        name = container.streams.video[0].codec_context.name
    return name, [round(1000 * float(of.pts * of.time_base)) for of in frames]


def test_without_pyav_a_video_is_written_as_it_was(tmp_path, dark, capsys, monkeypatch):
    write_video(tmp_path / 'in.mp4', dark)
    monkeypatch.setitem(sys.modules, 'av', None)
    assert main(['enhance', str(tmp_path / 'in.mp4'), str(tmp_path / 'out.mp4')]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith('dap-led')]
    assert lines == [
        "dap-led: without PyAV (extra 'video') a video loses sound and the times of its frames, "
        'and browsers do not play it'
    ]
    source = sources.open_source(tmp_path / 'out.mp4')
    assert len(list(source.frames)) == len(dark)
