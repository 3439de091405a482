"""Where training takes its pairs from: photographs, LOL-Blur, two folders, and synthesis."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason="no torch: pip install 'dap_led_ros[train]'")

from dap_led_ros import sample
from dap_led_ros.photometry import linear_to_srgb, srgb_to_linear, to_uint8
from dap_led_training import configuration
from dap_led_training.data import pairs
from dap_led_training.data.batches import Batches, Stage
from dap_led_training.data.config import DataConfig, source
from dap_led_training.data.pairs import PairedFrames, clip_names, folders, lol_blur, unpaired
from dap_led_training.data.photographs import NightBlurPairs, find_photographs, random_crop
from dap_led_training.make import lol_blur as make_lol_blur
from dap_led_training.night import night_blur
from dap_led_training.night.night_blur import NightBlurConfig, degrade, margin

PHOTOGRAPH = cv2.imread(str(Path(sample.__file__).parent / 'garage.jpg'))
REAL_LOL_BLUR = ('0000_0082.png', '0031_0043.png', '0031_0044.png', '0031_0060.png')
SET = ('low_blur_noise', 'low_blur', 'low_sharp', 'high_sharp_scaled')


def write(path: Path, shape: tuple[int, int] = (48, 64), corner: int = 0) -> None:
    """Write a real picture: a piece of the sample photograph."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = shape
    cv2.imwrite(str(path), PHOTOGRAPH[corner : corner + height, corner : corner + width])


def write_lol_blur(root: Path, names: list[str], variants: tuple[str, ...] = SET) -> None:
    for variant in variants:
        for index, name in enumerate(names):
            write(root / variant / name, corner=10 * index)


def names_of(found: list, root: Path) -> list[str]:
    return [pair.degraded.relative_to(root).as_posix() for pair in found]


@pytest.fixture(scope='module')
def photographs(tmp_path_factory) -> list[Path]:
    """Four photographs: pieces of the sample photograph."""
    folder = tmp_path_factory.mktemp('photographs') / 'garage'
    for index in range(4):
        write(folder / f'{index}.png', (280, 340), corner=70 * index)
    return sorted(folder.iterdir())


# --- batches ----------------------------------------------------------------------------------


def test_a_batch_is_a_function_of_seed_and_step(photographs):
    stages = [Stage(32, 3, 2), Stage(64, 2, 2, clean=0.5, clean_candidates=2)]
    night = NightBlurPairs(photographs, NightBlurConfig())
    make = [Batches(night, stages, seed) for seed in (1, 1, 2)]
    assert len(make[0]) == 4
    for step, shape in ((0, (3, 32, 32, 3)), (3, (2, 64, 64, 3))):
        first, again, other = (batches[step] for batches in make)
        assert first[0].shape == first[1].shape == shape
        assert first[0].dtype == first[1].dtype == torch.uint8
        assert all(torch.equal(a, b) for a, b in zip(first, again))
        assert not torch.equal(first[0], other[0])
    assert not torch.equal(make[0][0][0], make[0][1][0])
    assert not torch.equal(make[0][0][0][0], make[0][0][0][1])
    with pytest.raises(IndexError, match='4 steps'):
        make[0][4]


@pytest.mark.parametrize('world_size', [2, 3])
def test_the_processes_together_see_what_one_sees(photographs, world_size):
    night, stages = NightBlurPairs(photographs, NightBlurConfig()), [Stage(32, 6, 2)]
    alone = Batches(night, stages, seed=3)
    ranks = [Batches(night, stages, 3, rank, world_size) for rank in range(world_size)]
    for step in range(2):
        parts = [batches[step] for batches in ranks]
        for whole, *shares in zip(alone[step], *parts):
            assert torch.equal(whole, torch.cat(shares))


def test_a_batch_that_cannot_be_shared_is_an_error(photographs):
    night = NightBlurPairs(photographs, NightBlurConfig())
    stages = [Stage(32, 6, 1), Stage(32, 5, 1)]
    with pytest.raises(ValueError, match='batch of 5 cannot be shared by 2 processes'):
        Batches(night, stages, 1, rank=0, world_size=2)
    with pytest.raises(ValueError, match='rank 2 is not one of 2'):
        Batches(night, stages[:1], 1, rank=2, world_size=2)


def test_photographs_are_drawn_as_the_shipped_model_saw_them(photographs):
    """The order of all draws, written out once more."""
    stage, config = Stage(40, 12, 1, clean=0.4, clean_candidates=2), NightBlurConfig()
    night = NightBlurPairs(photographs, config)
    degraded, target = Batches(night, [stage], seed=5)[0]
    undegraded = 0
    for i in range(stage.batch):
        rng = np.random.default_rng([5, 0, i])
        clean = rng.random() < 0.4
        crops = [
            random_crop(night.photographs[rng.integers(4)], side, rng)
            for side in ([40, 40] if clean else [40 + 2 * margin(config)])
        ]
        if clean:
            undegraded += 1
            expected = min(crops, key=lambda crop: crop.mean()), min(crops, key=np.mean)
        else:
            expected = degrade(crops[0], config, rng)[:2]
        np.testing.assert_array_equal(degraded[i], expected[0])
        np.testing.assert_array_equal(target[i], expected[1])
    assert 0 < undegraded < stage.batch


# --- one draw, all variants -------------------------------------------------------------------


@pytest.fixture(scope='module')
def sharp() -> np.ndarray:
    return np.ascontiguousarray(PHOTOGRAPH[120:260, 60:240, ::-1])


def test_degrade_draws_and_computes_in_the_published_order(sharp):
    """What degrade() did before it had halves, written out once more."""
    m = margin(NightBlurConfig())
    kinds = set()
    for seed in range(40):
        config = NightBlurConfig(daylight=0.2)
        rng, drawn = np.random.default_rng(seed), {}
        drawn['night'] = bool(rng.random() >= config.daylight)
        radiance = target = srgb_to_linear(sharp)
        if drawn['night']:
            radiance = night_blur._darken(radiance, config, rng, drawn)
            if rng.random() < config.lamps:
                radiance, target = night_blur._add_lamps(radiance, target, config, rng, drawn)
        if rng.random() < config.blur:
            radiance = night_blur._shake(radiance, config, rng, drawn)
        image = radiance[m:-m, m:-m]
        if rng.random() < config.defocus:
            drawn['defocus_sigma'] = sigma = rng.uniform(*config.defocus_sigma)
            image = cv2.GaussianBlur(image, (0, 0), sigma)
        degraded = night_blur._sense(np.clip(image, 0, 1), config, rng, rng, drawn)
        found = degrade(sharp, config, np.random.default_rng(seed))
        np.testing.assert_array_equal(found[0], degraded)
        np.testing.assert_array_equal(found[1], to_uint8(linear_to_srgb(target[m:-m, m:-m])))
        assert found[2] == drawn
        kinds.update(drawn)
    assert {'lamps', 'defocus_sigma', 'display_noise_sigma', 'bayer', 'jpeg_quality'} <= kinds


def test_noise_is_drawn_in_the_published_order():
    grey = np.linspace(0.05, 0.4, 20 * 30 * 3, dtype=np.float32).reshape(20, 30, 3)
    plain = {'smoothing': 0.0, 'jpeg': 0.0, 'bayer': 0.0}

    rng = np.random.default_rng(4)
    rng.random()
    sigma = rng.uniform(1.0, 12.0)
    channels = 1 if rng.random() < 0.3 else 3
    noise = rng.standard_normal((20, 30, channels), dtype=np.float32) * (sigma / 255)
    expected = to_uint8(linear_to_srgb(grey) + noise)
    config, rng, drawn = NightBlurConfig(display_noise=1.0, **plain), np.random.default_rng(4), {}
    np.testing.assert_array_equal(night_blur._sense(grey, config, rng, rng, drawn), expected)
    assert drawn == {'display_noise_sigma': sigma}

    rng = np.random.default_rng(4)
    rng.random()
    shot = float(np.exp(rng.uniform(np.log(1e-5), np.log(8e-3))))
    read = float(np.exp(2.18 * np.log(shot) + 1.2 + rng.normal(0, 0.26)))
    rng.random()
    noise = rng.standard_normal((20, 30, 3), dtype=np.float32)
    signal = grey + noise * np.sqrt(grey * np.float32(shot) + np.float32(read))
    config, rng, drawn = NightBlurConfig(display_noise=0.0, **plain), np.random.default_rng(4), {}
    found = night_blur._sense(grey, config, rng, rng, drawn)
    np.testing.assert_array_equal(found, to_uint8(linear_to_srgb(signal)))
    assert drawn == {'shot_noise': shot, 'read_noise': read, 'bayer': False}


def test_one_draw_gives_every_variant(sharp):
    config = NightBlurConfig()
    for seed in range(20):
        degraded, target, drawn = degrade(sharp, config, np.random.default_rng(seed))
        rng = np.random.default_rng(seed)
        dark, bright, of_scene = night_blur.night_scene(sharp, config, rng)
        frame, of_frame = night_blur.take(dark, bright, config, rng)
        np.testing.assert_array_equal(frame.low_blur_noise, degraded)
        np.testing.assert_array_equal(frame.high_sharp_scaled, target)
        assert of_scene | of_frame == drawn
        assert frame.low_sharp.shape == frame.low_blur.shape == target.shape


def test_each_variant_has_what_its_name_says(sharp):
    def frame_of(seed: int = 0, **fields) -> night_blur.Frame:
        shown = {'daylight': 0.0, 'lamps': 0.0, 'keep_highlights': 0.0, 'blur': 1.0, **fields}
        config, rng = NightBlurConfig(**shown), np.random.default_rng(seed)
        dark, bright, _ = night_blur.night_scene(sharp, config, rng)
        return night_blur.take(dark, bright, config, rng)[0]

    def detail(image: np.ndarray) -> float:
        return float(cv2.Laplacian(image, cv2.CV_32F).std())

    for seed in range(5):
        frame = frame_of(seed, path_length=(14.0, 20.0), display_noise=1.0, law_gamma=0.0)
        assert frame.low_sharp.mean() < 0.7 * frame.high_sharp_scaled.mean()
        light = [srgb_to_linear(image).mean() for image in (frame.low_blur, frame.low_sharp)]
        assert light[0] == pytest.approx(light[1], rel=0.2)  # some comes in from the margin
        assert detail(frame.low_blur) < 0.8 * detail(frame.low_sharp)
        assert detail(frame.low_blur_noise) > detail(frame.low_blur)
    still = frame_of(blur=0.0, defocus=0.0)
    np.testing.assert_array_equal(still.low_blur, still.low_sharp)
    assert not np.array_equal(still.low_blur_noise, still.low_blur)


def test_the_frames_of_a_video_come_from_one_sensor(sharp):
    config = NightBlurConfig(daylight=0.0)
    dark, bright, _ = night_blur.night_scene(sharp, config, np.random.default_rng(0))
    noise = []
    frames = []
    for number in range(6):
        sensor = np.random.default_rng(7)
        frame, drawn = night_blur.take(dark, bright, config, np.random.default_rng(number), sensor)
        noise.append({k: v for k, v in drawn.items() if 'noise' in k or k == 'jpeg_quality'})
        frames.append(frame)
    assert noise[0]
    assert all(other == noise[0] for other in noise)
    assert not np.array_equal(frames[0].low_blur_noise, frames[1].low_blur_noise)


# --- LOL-Blur ---------------------------------------------------------------------------------

TWO_CLIPS = ['0012/0030.png', '0012/0031.png', '0012/0089.png', '0012/0090.png', '0256/0089.png']


@pytest.mark.parametrize(
    ('folder', 'root', 'split'),
    [
        ('train', '', 'train'),
        ('test', '', 'test'),
        ('eval', '', 'test'),
        ('train', 'train', 'train'),
        ('eval', 'eval', 'test'),
        ('test_wo_folder', 'test_wo_folder', 'test'),
        ('frames', 'frames', 'train'),
    ],
)
@pytest.mark.parametrize('flat', [False, True])
def test_lol_blur_is_read_as_it_is_found(tmp_path, folder, root, split, flat):
    names = [name.replace('/', '_') if flat else name for name in TWO_CLIPS]
    write_lol_blur(tmp_path / folder, names)
    found = lol_blur(tmp_path / root, split)
    assert names_of(found, tmp_path / folder / 'low_blur_noise') == names
    for pair in found:
        inside = pair.degraded.relative_to(tmp_path / folder / 'low_blur_noise')
        assert pair.target == tmp_path / folder / 'high_sharp_scaled' / inside
    assert [pair.video for pair in found] == ['0012/0', '0012/0', '0012/1', '0012/1', '0256/0']


def test_the_variant_is_chosen_and_the_target_is_not(tmp_path):
    write_lol_blur(tmp_path / 'train', TWO_CLIPS[:2])
    write_lol_blur(tmp_path / 'train', TWO_CLIPS, ('high_sharp_original',))
    for variant in pairs.VARIANTS:
        for pair in lol_blur(tmp_path, 'train', variant):
            assert pair.degraded.parent.parent.name == variant
            assert pair.target.parent.parent.name == 'high_sharp_scaled'
    with pytest.raises(ValueError, match=r"'low_noise'.*low_blur_noise, low_blur, low_sharp"):
        lol_blur(tmp_path, 'train', 'low_noise')
    with pytest.raises(ValueError, match=r"no split 'val'.*train, test"):
        lol_blur(tmp_path, 'val')


def test_nested_and_flattened_names_pair(tmp_path):
    write_lol_blur(tmp_path / 'test', TWO_CLIPS, ('low_blur',))
    flat = [name.replace('/', '_') for name in TWO_CLIPS]
    write_lol_blur(tmp_path / 'test', flat, ('high_sharp_scaled',))
    found = lol_blur(tmp_path, 'test', 'low_blur')
    assert [pair.target.name for pair in found] == flat


def test_frames_in_one_folder_are_clips_too(tmp_path):
    write_lol_blur(tmp_path / 'test', ['9.png', '10.png', '20.png', '21.jpg'])
    found = lol_blur(tmp_path, 'test')
    assert [pair.degraded.name for pair in found] == ['9.png', '10.png', '20.png', '21.jpg']
    clips = [f'low_blur_noise/{clip}' for clip in (0, 0, 1, 1)]
    assert [pair.video for pair in found] == clips


def test_what_is_no_frame_is_left_alone(tmp_path):
    root = tmp_path / 'train'
    write_lol_blur(root, TWO_CLIPS)
    (root / 'low_blur_noise' / '0012' / 'blur.json').write_text('{}')
    (root / 'high_sharp_scaled' / 'all.json').write_text('{}')
    (root / 'low_blur_noise' / '0012' / '._0030.png').write_bytes(b'Mac')
    (root / 'low_blur_noise' / '0012' / '0032.png.part').write_bytes(b'half')
    write(root / 'high_sharp_scaled' / '.thumbnails' / '0030.png')
    assert names_of(lol_blur(tmp_path), root / 'low_blur_noise') == TWO_CLIPS


def test_links_to_videos_are_followed(tmp_path):
    write_lol_blur(tmp_path / 'whole' / 'train', TWO_CLIPS)
    for variant in ('low_blur_noise', 'high_sharp_scaled'):
        (tmp_path / 'part' / 'train' / variant).mkdir(parents=True)
        link = tmp_path / 'part' / 'train' / variant / '0256'
        link.symlink_to(tmp_path / 'whole' / 'train' / variant / '0256')
    assert [pair.video for pair in lol_blur(tmp_path / 'part')] == ['0256/0']


def test_frames_without_partner_are_listed(tmp_path):
    root = tmp_path / 'train'
    write_lol_blur(root, TWO_CLIPS)
    (root / 'high_sharp_scaled' / '0012' / '0031.png').unlink()
    write(root / 'high_sharp_scaled' / '0300' / '0001.png')
    with pytest.raises(ValueError) as caught:
        lol_blur(tmp_path)
    assert f'1 only in {root / "low_blur_noise"} (0012/0031.png)' in str(caught.value)
    assert f'1 only in {root / "high_sharp_scaled"} (0300/0001.png)' in str(caught.value)


def test_of_many_frames_without_partner_the_first_twenty_are_listed(tmp_path):
    for number in range(25):
        path = tmp_path / 'degraded' / f'{number}.png'
        path.parent.mkdir(exist_ok=True)
        path.touch()
    write(tmp_path / 'target' / '3.png')
    with pytest.raises(ValueError) as caught:
        folders(tmp_path / 'degraded', tmp_path / 'target')
    said = str(caught.value)
    assert '24 only in' in said
    assert '20.png and 4 more' in said
    assert '21.png' not in said
    assert f'0 only in {tmp_path / "target"}' in said


def test_a_missing_folder_says_what_is_expected(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'has no train/: LOL-Blur as downloaded has'):
        lol_blur(tmp_path / 'none')
    write_lol_blur(tmp_path / 'train', TWO_CLIPS, ('low_blur', 'high_sharp_original'))
    with pytest.raises(FileNotFoundError, match=r'train/low_blur_noise is missing: .*<video>'):
        lol_blur(tmp_path)
    with pytest.raises(FileNotFoundError, match=r'train/high_sharp_scaled is missing'):
        lol_blur(tmp_path, variant='low_blur')
    with pytest.raises(FileNotFoundError, match=r'has no test/'):
        lol_blur(tmp_path, 'test')
    (tmp_path / 'train' / 'low_blur_noise').mkdir()
    (tmp_path / 'train' / 'high_sharp_scaled').mkdir()
    with pytest.raises(FileNotFoundError, match='no pictures in'):
        lol_blur(tmp_path)


def test_the_other_split_is_not_taken_for_this_one(tmp_path):
    for folder in ('train', 'test', 'eval'):
        write_lol_blur(tmp_path / folder, TWO_CLIPS)
    for folder, split in (('train', 'test'), ('test', 'train'), ('eval', 'train')):
        with pytest.raises(ValueError, match=f'not the {split} split'):
            lol_blur(tmp_path / folder, split)


# --- folders, frames without reference, clips -------------------------------------------------


def test_two_folders_pair_by_path_and_stem(tmp_path):
    dark, bright = tmp_path / 'dark', tmp_path / 'bright'
    for name, partner in (
        ('a/1.jpg', 'a/1.png'),
        ('a/2.png', 'a/2.png'),
        ('b/1.png', 'b/1.JPG'),
        ('top.png', 'top.png'),
    ):
        write(dark / name)
        write(bright / partner)
    found = folders(dark, bright)
    assert [(p.degraded.relative_to(dark).as_posix(), p.video) for p in found] == [
        ('a/1.jpg', 'a'),
        ('a/2.png', 'a'),
        ('b/1.png', 'b'),
        ('top.png', 'dark'),
    ]
    assert [pair.target.name for pair in found] == ['1.png', '2.png', '1.JPG', 'top.png']


def test_two_files_for_one_frame_are_an_error(tmp_path):
    write(tmp_path / 'dark' / '1.jpg')
    write(tmp_path / 'bright' / '1.png')
    write(tmp_path / 'bright' / '1.bmp')
    with pytest.raises(ValueError, match='would be the same frame'):
        folders(tmp_path / 'dark', tmp_path / 'bright')
    write(tmp_path / 'dark' / '1.png')
    write(tmp_path / 'dark' / '1.bmp')
    with pytest.raises(ValueError, match=r'1 only in .*dark \(1.jpg\)'):
        folders(tmp_path / 'dark', tmp_path / 'bright')
    (tmp_path / 'dark' / '1.jpg').unlink()
    found = folders(tmp_path / 'dark', tmp_path / 'bright')
    assert [pair.degraded.name for pair in found] == [pair.target.name for pair in found]


def test_folders_that_are_missing_or_one_are_an_error(tmp_path):
    write(tmp_path / 'dark' / '1.png')
    with pytest.raises(FileNotFoundError, match='bright is missing: give two folders'):
        folders(tmp_path / 'dark', tmp_path / 'bright')
    with pytest.raises(ValueError, match='as degraded and as target'):
        folders(tmp_path / 'dark', tmp_path / 'dark' / '..' / 'dark')


def test_frames_without_reference_and_their_clips(tmp_path):
    names = [*REAL_LOL_BLUR, '075_blur_9.png', '075_blur_10.png']
    for name in [*names, 'nested/7/0004.png']:
        write(tmp_path / name)
    (tmp_path / 'notes.json').write_text('{}')
    paths = unpaired(tmp_path)
    inside = [path.relative_to(tmp_path).as_posix() for path in paths]
    found = dict(zip(inside, clip_names(paths, tmp_path)))
    assert found == {
        '0000_0082.png': '0000/0',
        '0031_0043.png': '0031/0',
        '0031_0044.png': '0031/0',
        '0031_0060.png': '0031/1',
        '075_blur_9.png': '',
        '075_blur_10.png': '',
        'nested/7/0004.png': 'nested/7/0',
    }
    assert list(found).index('075_blur_9.png') < list(found).index('075_blur_10.png')
    with pytest.raises(FileNotFoundError, match='no pictures in'):
        unpaired(tmp_path / 'none')


@pytest.mark.parametrize(
    ('numbers', 'clips'),
    [
        ([*range(30), *range(60, 90)], [0] * 30 + [1] * 30),
        ([*range(17), *range(18, 25), *range(90, 95)], [0] * 17 + [1] * 7 + [2] * 5),
        ([0, 4, 8, 40, 44], [0, 0, 0, 1, 1]),  # every fourth frame
        ([5], [0]),
    ],
)
def test_a_clip_ends_where_the_numbers_jump(numbers, clips):
    root = Path('set')
    paths = [root / f'{video}/{n:04d}.png' for video in ('0012', '0256') for n in numbers]
    expected = [f'{video}/{clip}' for video in ('0012', '0256') for clip in clips]
    assert clip_names(paths, root) == expected
    assert clip_names(paths[::-1], root) == expected[::-1]


# --- paired crops -----------------------------------------------------------------------------


def test_both_pictures_are_cut_and_flipped_alike(tmp_path):
    """The pictures hold their coordinates, so that a crop says where it is from."""
    y, x = np.mgrid[0:40, 0:60].astype(np.uint8)
    cv2.imwrite(str(tmp_path / '1.png'), np.stack([y, x, y * 0], axis=2))
    cv2.imwrite(str(tmp_path / '2.png'), np.stack([y, x, y * 0 + 200], axis=2))
    pair = pairs.FramePair(tmp_path / '1.png', tmp_path / '2.png', '')
    frames, stage = PairedFrames([pair]), Stage(24, 1, 1)
    corners, flips = set(), set()
    for seed in range(60):
        degraded, target = frames.sample(stage, np.random.default_rng(seed))
        assert degraded.shape == target.shape == (24, 24, 3)
        assert degraded.dtype == target.dtype == np.uint8
        assert degraded.flags['C_CONTIGUOUS'] and target.flags['C_CONTIGUOUS']
        np.testing.assert_array_equal(degraded[..., 1:], target[..., 1:])  # RGB
        assert (degraded[..., 0] == 0).all() and (target[..., 0] == 200).all()
        rows, columns = degraded[:, 0, 2].astype(int), degraded[0, :, 1].astype(int)
        assert set(np.diff(rows)) in ({1}, {-1})
        assert set(np.diff(columns)) in ({1}, {-1})
        corners.add((rows.min(), columns.min()))
        flips.add((rows[0] < rows[1], columns[0] < columns[1]))
    assert len(flips) == 4
    assert {0, 16} <= {row for row, _ in corners}
    assert len(corners) > 40
    again = frames.sample(stage, np.random.default_rng(59))
    np.testing.assert_array_equal(again[0], degraded)


def test_batches_of_pairs_from_disk(tmp_path):
    write_lol_blur(tmp_path / 'train', TWO_CLIPS)
    frames = PairedFrames(lol_blur(tmp_path))
    alone = Batches(frames, [Stage(32, 4, 2)], seed=1)
    shares = [Batches(frames, [Stage(32, 4, 2)], 1, rank, 2)[1] for rank in (0, 1)]
    for whole, *parts in zip(alone[1], *shares):
        assert whole.shape == (4, 32, 32, 3)
        assert torch.equal(whole, torch.cat(parts))


def test_pairs_that_cannot_be_cut_name_their_files(tmp_path):
    write(tmp_path / 'dark' / '1.png', (48, 64))
    write(tmp_path / 'bright' / '1.png', (48, 60))
    frames = PairedFrames(folders(tmp_path / 'dark', tmp_path / 'bright'))
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r'dark/1.png is 64x48 and .*bright/1.png is 60x48'):
        frames.sample(Stage(32, 1, 1), rng)
    write(tmp_path / 'bright' / '1.png', (48, 64))
    with pytest.raises(ValueError, match=r'dark/1.png is 64x48, smaller than the crop of 50'):
        frames.sample(Stage(50, 1, 1), rng)
    assert frames.sample(Stage(48, 1, 1), rng)[0].shape == (48, 48, 3)
    (tmp_path / 'dark' / '1.png').write_bytes(b'cut off')
    with pytest.raises(ValueError, match=r'dark/1.png cannot be read'):
        frames.sample(Stage(32, 1, 1), rng)
    with pytest.raises(ValueError, match='no pairs'):
        PairedFrames([])


def test_sixteen_bit_pictures_become_eight(tmp_path):
    write(tmp_path / 'bright' / '1.png')
    eight = cv2.imread(str(tmp_path / 'bright' / '1.png'))
    (tmp_path / 'dark').mkdir()
    cv2.imwrite(str(tmp_path / 'dark' / '1.png'), eight.astype(np.uint16) * 257)
    pair = folders(tmp_path / 'dark', tmp_path / 'bright')[0]
    degraded, target = pairs.read_pair(pair)
    assert degraded.dtype == np.uint8
    np.testing.assert_array_equal(degraded, target)


# --- what a recipe says -----------------------------------------------------------------------


@pytest.mark.parametrize(
    'fields',
    [
        {},
        {'photographs': ['a'], 'lol_blur': 'b'},
        {'degraded': 'a'},
        {'target': 'a'},
        {'lol_blur': 'a', 'degraded': 'b', 'target': 'c'},
    ],
)
def test_a_recipe_has_exactly_one_source(fields):
    with pytest.raises(ValueError, match=r'give either photographs: .* or lol_blur: .* or degr'):
        DataConfig(**fields)


def test_a_recipe_is_read_and_a_wrong_variant_is_named(tmp_path):
    recipe = tmp_path / 'data.yaml'
    recipe.write_text('{lol_blur: set, variant: low_blur}')
    expected = DataConfig(lol_blur='set', variant='low_blur')
    assert configuration.load(recipe, DataConfig) == expected
    recipe.write_text('{lol_blur: set, variant: low}')
    with pytest.raises(ValueError, match="no variant 'low' of LOL-Blur: use one of low_blur_noi"):
        configuration.load(recipe, DataConfig)


def test_the_source_says_what_it_is(tmp_path, photographs, capsys):
    night, rng, stage = NightBlurConfig(), np.random.default_rng(0), Stage(32, 1, 1)
    write_lol_blur(tmp_path / 'train', TWO_CLIPS)
    write_lol_blur(tmp_path / 'test', TWO_CLIPS[-1:])
    folder = str(photographs[0].parent)
    train, test = tmp_path / 'train', tmp_path / 'test'
    two = DataConfig(degraded=str(train / 'low_blur'), target=str(train / 'low_sharp'))
    for data, validation, said in (
        (
            DataConfig(lol_blur=str(tmp_path)),
            False,
            f'training on {train}/low_blur_noise -> {train}/high_sharp_scaled: 5 pairs in 3 clips',
        ),
        (
            DataConfig(lol_blur=str(tmp_path), variant='low_sharp'),
            True,
            f'validating on {test}/low_sharp -> {test}/high_sharp_scaled: 1 pairs in 1 clips',
        ),
        (
            two,
            False,
            f'training on {train}/low_blur -> {train}/low_sharp: 5 pairs in 2 folders',
        ),
        (
            DataConfig(photographs=[folder]),
            False,
            f'training on night blur made from 3 photographs of {folder} -> the photographs',
        ),
        (
            DataConfig(photographs=[folder]),
            True,
            f'validating on night blur made from 1 photographs of {folder} -> the photographs',
        ),
    ):
        degraded, target = source(data, night, validation).sample(stage, rng)
        assert degraded.shape == target.shape == (32, 32, 3)
        assert capsys.readouterr().out == said + '\n'
    with pytest.raises(ValueError, match='no part to validate on'):
        source(two, night, validation=True)


# --- synthesis in LOL-Blur's layout -----------------------------------------------------------


@pytest.fixture(scope='module')
def written(photographs, tmp_path_factory) -> Path:
    """A small set: two videos of six frames, larger than the photographs allow."""
    out = tmp_path_factory.mktemp('synthesized')
    make_lol_blur.synthesize(photographs[:2], out, 'train', size=(400, 240), frames=6)
    return out


def test_what_is_synthesized_is_read_as_lol_blur(written):
    for variant in pairs.VARIANTS:
        found = lol_blur(written, 'train', variant)
        expected = [f'{v:04d}/{half}' for v in range(2) for half in (0, 1) for _ in range(3)]
        assert [pair.video for pair in found] == expected
        for degraded, target in map(pairs.read_pair, found):
            assert degraded.shape == (240, 400, 3)
            assert np.median(degraded) < 0.8 * np.median(target)
    assert PairedFrames(found).sample(Stage(128, 1, 1), np.random.default_rng(0))
    assert not list(written.rglob('*.part'))


def test_the_halves_of_a_video_differ_in_darkness_and_frames_hardly(written):
    means, bright = {}, {}
    for pair in lol_blur(written, 'train', 'low_sharp'):
        degraded, target = pairs.read_pair(pair)
        means.setdefault(pair.video, []).append(degraded.mean())
        bright.setdefault(pair.video, []).append(target)
    for clip in means.values():
        assert max(clip) < 1.15 * min(clip) + 1
    for video in ('0000', '0001'):
        halves = [np.mean(means[f'{video}/{half}']) for half in (0, 1)]
        assert max(halves) > 1.05 * min(halves)
    for clip in bright.values():  # the camera moves, but slowly
        grey = [target.mean(axis=2) for target in clip]
        shifts = [cv2.phaseCorrelate(*two)[0] for two in itertools.pairwise(grey)]
        assert all(0.1 < np.hypot(*shift) < 8 for shift in shifts)


def test_the_parameters_are_what_was_drawn(photographs, tmp_path, monkeypatch):
    drawn = []
    scene, take = make_lol_blur.night_scene, make_lol_blur.take
    monkeypatch.setattr(
        make_lol_blur, 'night_scene', lambda *a: drawn.append(('scene', scene(*a))) or drawn[-1][1]
    )
    monkeypatch.setattr(
        make_lol_blur, 'take', lambda *a: drawn.append(('frame', take(*a))) or drawn[-1][1]
    )
    make_lol_blur.synthesize(photographs[:1], tmp_path, 'test', size=(96, 64), frames=4)
    assert [name for name, _ in drawn] == ['scene', 'frame', 'frame'] * 2
    numbers, lengths = iter((0, 1, 4, 5)), set()
    for name, result in drawn:
        if name == 'scene':
            of_scene = result[2]
            continue
        number = f'{next(numbers):04d}'
        frame, of_frame = result
        path = tmp_path / 'test' / 'parameters' / '0000' / f'{number}.json'
        parameters = json.loads(path.read_text())
        assert set(parameters.pop('view')) == {'x', 'y', 'zoom'}
        assert parameters == {
            'photograph': 'garage/0.png',
            'seed': 1,
            'size': [96, 64],
            'frames': 4,
            **of_scene,
            **of_frame,
        }
        assert parameters['night']
        lengths.add(parameters['path_length'])
        assert 'jpeg_quality' not in parameters
        for variant, picture in frame._asdict().items():
            stored = cv2.imread(str(tmp_path / 'test' / variant / '0000' / f'{number}.png'))
            np.testing.assert_array_equal(stored[..., ::-1], picture)
    assert len(lengths) == 4  # each frame has a shake of its own


def test_the_parameters_describe_the_pictures(photographs, tmp_path, monkeypatch):
    """The exposure factor and the noise, as far as pictures can tell them."""
    only = dict.fromkeys(
        ('daylight', 'law_gamma', 'uneven_light', 'colour_cast', 'lamps', 'keep_highlights'), 0.0
    )
    config = NightBlurConfig(
        **only,
        law_linear=1.0,
        exposure=(0.1, 0.2),
        defocus=0.0,
        smoothing=0.0,
        jpeg=0.0,
        display_noise=1.0,
        display_noise_sigma=(2.0, 6.0),
    )
    monkeypatch.setattr(make_lol_blur, 'LOL_BLUR', config)
    make_lol_blur.synthesize(photographs[:1], tmp_path, 'train', size=(200, 150), frames=4)
    described = set()
    for path in sorted((tmp_path / 'train' / 'parameters').rglob('*.json')):
        parameters = json.loads(path.read_text())
        name = f'{path.parent.name}/{path.stem}.png'
        noisy, blurred, dark, target = (
            cv2.imread(str(tmp_path / 'train' / variant / name)) for variant in SET
        )
        light = srgb_to_linear(dark).mean() / srgb_to_linear(target).mean()
        assert light == pytest.approx(parameters['exposure'], rel=0.05)
        unclipped = blurred > 30
        noise = (noisy.astype(np.float32) - blurred)[unclipped].std()
        assert noise == pytest.approx(parameters['display_noise_sigma'], rel=0.1)
        described.add((parameters['exposure'], parameters['display_noise_sigma']))
    assert len(described) == 2  # one night and one sensor per half


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob('*')
        if path.is_file()
    }


def test_synthesis_goes_on_where_it_stopped(photographs, tmp_path, monkeypatch):
    arguments = {'size': (64, 48), 'frames': 4, 'seed': 9}
    make_lol_blur.synthesize(photographs[:2], tmp_path / 'whole', 'train', **arguments)
    whole = contents(tmp_path / 'whole')
    assert len(whole) == 2 * 4 * 5

    replace, calls = os.replace, []

    def interrupted(part, path):
        calls.append(path)
        if len(calls) == 13:
            raise KeyboardInterrupt
        replace(part, path)

    monkeypatch.setattr(os, 'replace', interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_lol_blur.synthesize(photographs[:2], tmp_path / 'part', 'train', **arguments)
    there = {n: c for n, c in contents(tmp_path / 'part').items() if not n.endswith('.part')}
    assert len(there) == 12
    assert there.items() <= whole.items()
    kept = (tmp_path / 'part' / 'train' / 'low_blur' / '0000' / '0000.png').stat().st_mtime_ns
    make_lol_blur.synthesize(photographs[:2], tmp_path / 'part', 'train', **arguments)
    assert contents(tmp_path / 'part') == whole
    again = (tmp_path / 'part' / 'train' / 'low_blur' / '0000' / '0000.png').stat().st_mtime_ns
    assert again == kept

    written = len(calls)
    make_lol_blur.synthesize(photographs[:2], tmp_path / 'part', 'train', **arguments)
    assert len(calls) == written
    make_lol_blur.synthesize(photographs[:2], tmp_path / 'part', 'train', count=3, **arguments)
    more = contents(tmp_path / 'part')
    assert whole.items() <= more.items()
    assert len(more) == 3 * 4 * 5
    low_blur = tmp_path / 'part' / 'train' / 'low_blur'
    videos = [(low_blur / video / '0000.png').read_bytes() for video in ('0000', '0002')]
    assert videos[0] != videos[1]  # the same photograph, but another night


@pytest.mark.parametrize(
    ('changed', 'said'),
    [
        ({'seed': 2}, 'made with seed 1, not 2: use another --out'),
        ({'size': (80, 48)}, r'made with size \[64, 48\], not \[80, 48\]'),
        ({'frames': 6}, 'made with frames 4, not 6'),
        ({'photographs': 1}, 'made with photograph garage/0.png, not garage/1.png'),
    ],
)
def test_two_sets_are_not_mixed(photographs, tmp_path, changed, said):
    arguments = {'size': (64, 48), 'frames': 4, 'seed': 1}
    make_lol_blur.synthesize(photographs[:1], tmp_path, 'train', **arguments)
    changed = dict(changed)
    other = [photographs[changed.pop('photographs', 0)]]
    with pytest.raises(ValueError, match=said):
        make_lol_blur.synthesize(other, tmp_path, 'train', **(arguments | changed))


def test_the_splits_share_no_photograph(photographs, tmp_path, capsys):
    folder = str(photographs[0].parent)
    used = {}
    for split in ('train', 'test'):
        command = ['--photographs', folder, '--out', str(tmp_path), '--split', split]
        assert make_lol_blur.main([*command, '--size', '64x48', '--frames', '4']) == 0
        parameters = (tmp_path / split / 'parameters').rglob('*.json')
        used[split] = {json.loads(path.read_text())['photograph'] for path in parameters}
        assert len(used[split]) == len(find_photographs([folder], validation=split == 'test'))
        assert lol_blur(tmp_path, split)
    assert not used['train'] & used['test']
    assert 'scaled up' not in capsys.readouterr().out


def test_small_photographs_are_scaled_up_and_it_says_so_once(photographs, tmp_path, capsys):
    make_lol_blur.synthesize(photographs[:2], tmp_path, 'train', size=(400, 100), frames=4)
    assert capsys.readouterr().out.count('is scaled up') == 1
    assert cv2.imread(str(tmp_path / 'train/low_sharp/0001/0005.png')).shape == (100, 400, 3)


def test_the_command_line_explains_what_is_wrong(tmp_path, capsys):
    missing = ['--photographs', str(tmp_path / 'none'), '--out', str(tmp_path)]
    assert make_lol_blur.main(missing) == 1
    said = capsys.readouterr().err
    assert said.startswith('dap_led_training make lol_blur: no photographs in')
    assert said.count('\n') == 1
    with pytest.raises(SystemExit):
        make_lol_blur.main(['--photographs', 'a', '--out', 'b', '--size', '1120'])
    assert 'write WIDTHxHEIGHT, such as 1120x640' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        ({'frames': 5}, '5 frames cannot be halved'),
        ({'frames': 2}, '2 frames cannot be halved'),
        ({'size': (8, 640)}, '8x640 is too small'),
        ({'count': 0}, 'no videos to make'),
        ({'split': 'val'}, "no split 'val'"),
    ],
)
def test_arguments_of_no_use_are_errors(photographs, tmp_path, arguments, said):
    with pytest.raises(ValueError, match=said):
        make_lol_blur.synthesize(photographs, tmp_path, **arguments)
    assert not list(tmp_path.iterdir())
