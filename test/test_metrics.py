"""Every metric against closed forms, numbers by hand, and other implementations."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason="no torch: pip install 'dap_led_ros[train]'")
pytest.importorskip('torchmetrics')

from torchmetrics.functional.image import peak_signal_noise_ratio

from dap_led_training.measure import metrics


def flat(*colour: int, height: int = 16, width: int = 20) -> np.ndarray:
    return np.broadcast_to(np.array(colour, np.uint8), (height, width, 3)).copy()


def noisy(frame: np.ndarray, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 20, frame.shape)
    return np.clip(frame + noise, 0, 255).astype(np.uint8)


# --- PSNR -------------------------------------------------------------------------------------


def test_psnr_by_hand():
    grey = flat(100, 100, 100)
    assert metrics.psnr(grey + 10, grey) == pytest.approx(20 * math.log10(25.5))
    assert metrics.psnr(flat(0, 0, 0), flat(255, 255, 255)) == 0
    # One value of 2x2x3 is wrong by 255: one mean over all channels, not a mean of three PSNRs.
    one = flat(0, 0, 0, height=2, width=2)
    one[0, 1, 2] = 255
    assert metrics.psnr(one, one * 0) == pytest.approx(10 * math.log10(12))


def test_psnr_is_capped_only_where_asked():
    grey = flat(100, 100, 100)
    assert metrics.psnr(grey, grey) == math.inf
    assert metrics.psnr(grey, grey, cap=50) == 50
    assert metrics.psnr(grey + 1, grey, cap=40) == 40
    assert metrics.full_reference()[0]['psnr'].measure(grey, grey) == metrics.PSNR_CAP


def test_psnr_is_that_of_torchmetrics(night):
    frame, reference = night
    tensors = [torch.from_numpy(i).double() for i in night]
    expected = float(peak_signal_noise_ratio(*tensors, data_range=255.0))
    assert metrics.psnr(frame, reference) == pytest.approx(expected, abs=1e-5)


def test_aligned_psnr_forgives_brightness_and_tint_but_not_noise(night):
    reference = night[1]
    tinted = (reference * np.array([0.5, 0.4, 0.6])).astype(np.uint8)
    assert metrics.aligned_psnr(tinted, reference) > metrics.psnr(tinted, reference) + 10
    noise = noisy(reference)
    assert metrics.aligned_psnr(noise, reference) < metrics.psnr(noise, reference) + 1


# --- SSIM -------------------------------------------------------------------------------------


def ssim_by_definition(x: np.ndarray, y: np.ndarray) -> float:
    """SSIM of two (H, W) planes, window by window (Wang et al. 2004)."""
    distance = np.arange(-5, 6) ** 2
    window = np.exp(-(distance[:, None] + distance) / (2 * 1.5**2))
    window /= window.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = []
    for top in range(x.shape[0] - 10):
        for left in range(x.shape[1] - 10):
            a, b = (i[top : top + 11, left : left + 11].astype(np.float64) for i in (x, y))
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            var_a, var_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
            covariance = (window * (a - mean_a) * (b - mean_b)).sum()
            values.append(
                (2 * mean_a * mean_b + c1)
                * (2 * covariance + c2)
                / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
            )
    return float(np.mean(values))


def test_ssim_of_equal_frames_is_one(night):
    for metric in (metrics.ssim_rgb, metrics.ssim_y):
        assert metric(night[1], night[1]) == pytest.approx(1, abs=1e-6)


def test_ssim_of_constant_frames_is_its_luminance_term():
    c1 = (0.01 * 255) ** 2

    def closed(a: float, b: float) -> float:
        return (2 * a * b + c1) / (a**2 + b**2 + c1)

    a, b = flat(200, 100, 50), flat(100, 100, 200)
    expected = (closed(200, 100) + closed(100, 100) + closed(50, 200)) / 3
    assert metrics.ssim_rgb(a, b) == pytest.approx(expected, abs=5e-4)  # of float32
    luma = 0.299 * 200 + 0.587 * 100 + 0.114 * 50, 0.299 * 100 + 0.587 * 100 + 0.114 * 200
    assert metrics.ssim_y(a, b) == pytest.approx(closed(*luma), abs=5e-4)


def test_luma_is_bt601_of_full_range():
    colours = np.array([[[255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    np.testing.assert_allclose(
        metrics.luma(colours), [[255, 76.245, 149.685, 29.07]], atol=1e-3, rtol=0
    )


def test_ssim_is_the_definition_inside_the_frame(night):
    reference = np.ascontiguousarray(night[1][100:117, 200:223])
    frame = noisy(reference)
    planes = [ssim_by_definition(frame[..., c], reference[..., c]) for c in range(3)]
    assert metrics.ssim_rgb(frame, reference) == pytest.approx(np.mean(planes), abs=1e-4)
    luma = ssim_by_definition(metrics.luma(frame), metrics.luma(reference))
    assert metrics.ssim_y(frame, reference) == pytest.approx(luma, abs=1e-4)
    # A single window: what hangs over the border counts in newer torchmetrics, and not here.
    single = frame[:11, :11], reference[:11, :11]
    planes = [ssim_by_definition(single[0][..., c], single[1][..., c]) for c in range(3)]
    assert metrics.ssim_rgb(*single) == pytest.approx(np.mean(planes), abs=1e-4)


def test_ssim_is_that_of_scikit_image(night):
    skimage = pytest.importorskip('skimage.metrics', reason='scikit-image is not installed')
    frame, reference = noisy(night[1]), night[1]
    expected = skimage.structural_similarity(
        frame,
        reference,
        channel_axis=2,
        data_range=255,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    assert metrics.ssim_rgb(frame, reference) == pytest.approx(expected, abs=1e-4)


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize('metric', [metrics.psnr, metrics.aligned_psnr, metrics.ssim_rgb])
def test_frames_that_cannot_be_compared_are_explained(metric):
    with pytest.raises(ValueError, match='20x16 against a reference of 24x16'):
        metric(flat(1, 2, 3), flat(1, 2, 3, width=24))
    with pytest.raises(ValueError, match='expected uint8'):
        metric(flat(1, 2, 3) / 255, flat(1, 2, 3))
    with pytest.raises(ValueError, match='expected uint8'):
        metric(flat(1, 2, 3)[..., 0], flat(1, 2, 3)[..., 0])


def test_ssim_needs_a_window():
    small = flat(1, 2, 3, height=10)
    with pytest.raises(ValueError, match='20x10: SSIM needs 11x11'):
        metrics.ssim_rgb(small, small)


# --- LPIPS and pyiqa --------------------------------------------------------------------------


@pytest.mark.parametrize(('net', 'name'), [('vgg', 'vgg16-397923af'), ('alex', 'alexnet-owt')])
def test_lpips_without_weights_says_what_to_fetch_and_where(net, name, tmp_path, monkeypatch):
    pytest.importorskip('torchvision')
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setattr(torch.hub, '_hub_dir', None)
    reason = metrics.lpips_missing(net)
    assert f'fetch https://download.pytorch.org/models/{name}' in reason
    assert metrics.lpips(flat(1, 2, 3), flat(3, 2, 1), net) is None
    assert f'lpips_{net}' not in metrics.full_reference()[0]
    assert reason in metrics.full_reference()[1]
    path = reason.split('put it at ')[1]
    assert path.startswith(str(tmp_path / 'hub' / 'checkpoints'))
    (tmp_path / 'hub' / 'checkpoints').mkdir(parents=True)
    (tmp_path / 'hub' / 'checkpoints' / path.rpartition('/')[2]).touch()
    assert metrics.lpips_missing(net) == ''
    assert f'lpips_{net}' in metrics.full_reference()[0]


def test_lpips_is_fed_rgb_from_minus_one_to_one(monkeypatch):
    seen = []

    def network(*tensors: torch.Tensor) -> torch.Tensor:
        seen.extend(tensors)
        return torch.tensor([[[[0.25]]]])

    monkeypatch.setattr(metrics, 'lpips_missing', lambda net: '')
    monkeypatch.setattr(metrics, '_lpips_network', lambda net: network)
    assert metrics.lpips(flat(255, 0, 51), flat(0, 255, 204), 'vgg') == 0.25
    for tensor, colour in zip(seen, ((1, -1, -0.6), (-1, 1, 0.6))):
        assert tensor.shape == (1, 3, 16, 20)
        torch.testing.assert_close(tensor[0, :, 3, 4].cpu(), torch.tensor(colour).float())


def test_lpips_with_random_weights_is_zero_on_equal_frames_and_keeps_no_sum(night, monkeypatch):
    """The network of torchmetrics runs here, on weights that no file is needed for."""
    pytest.importorskip('torchvision')
    from torchmetrics.functional.image import lpips as of_torchmetrics

    torch.manual_seed(0)
    network = of_torchmetrics._NoTrainLpips(net='alex', pnet_rand=True).to(metrics._device())
    monkeypatch.setattr(metrics, 'lpips_missing', lambda net: '')
    monkeypatch.setattr(metrics, '_lpips_network', lambda net: network)
    reference = night[1][:64, :96]
    assert metrics.lpips(reference, reference, 'alex') == pytest.approx(0, abs=1e-6)
    first = metrics.lpips(noisy(reference), reference, 'alex')
    assert first > 0
    assert metrics.lpips(noisy(reference), reference, 'alex') == first


def test_without_pyiqa_the_reason_names_its_licence(monkeypatch):
    monkeypatch.setitem(sys.modules, 'pyiqa', None)
    found, reasons = metrics.without_reference()
    assert found == {}
    assert len(reasons) == 1
    assert 'NIQE, MUSIQ, NRQM: pip install pyiqa' in reasons[0]
    assert 'non-commercial' in reasons[0]
    assert metrics.no_reference(flat(1, 2, 3), 'niqe') is None


def test_pyiqa_is_fed_rgb_from_zero_to_one(tmp_path, monkeypatch):
    """A package of pyiqa's interface stands in: create_metric(name)((1, 3, H, W))."""
    (tmp_path / 'pyiqa.py').write_text(
        'def create_metric(name, device):\n'
        "    channel = ['niqe', 'musiq', 'nrqm'].index(name)\n"
        '    return lambda frames: frames[:, channel].mean()\n'
    )
    monkeypatch.delitem(sys.modules, 'pyiqa', raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    metrics._pyiqa_metric.cache_clear()
    try:
        found, reasons = metrics.without_reference()
        values = [metric.measure(flat(255, 51, 0)) for metric in found.values()]
    finally:
        metrics._pyiqa_metric.cache_clear()
        sys.modules.pop('pyiqa', None)
    assert reasons == []
    assert [metric.label for metric in found.values()] == ['NIQE', 'MUSIQ', 'NRQM']
    assert values == pytest.approx([1, 0.2, 0])


def test_versions_name_what_the_figures_depend_on():
    found = metrics.versions()
    assert found['torch'] == torch.__version__.split('+')[0]
    assert set(found) == {'torch', 'torchmetrics', 'torchvision', 'pyiqa'}


# --- grid and halo ----------------------------------------------------------------------------


def test_the_measure_of_a_grid_sees_only_grids(night):
    reference = night[1]
    grid = reference.astype(int)
    grid[1::4, 2::4] += 16
    grid = np.clip(grid, 0, 255).astype(np.uint8)
    assert metrics.grid_energy(reference, reference) == 0
    assert metrics.grid_energy(noisy(reference), reference) < 0.3
    assert metrics.grid_energy(grid, reference) == pytest.approx(math.sqrt(15), rel=0.1)


def test_the_measure_of_halos_has_their_sign():
    reference = np.full((96, 96, 3), 100, np.uint8)
    degraded = np.full((96, 96, 3), 10, np.uint8)
    assert np.isnan(metrics.halo_depth(reference, reference, degraded))
    degraded[40:50, 40:50] = 255
    assert metrics.halo_depth(reference, reference, degraded) == 0
    halo = reference.copy()
    halo[20:70, 20:70] = 70
    assert -30 <= metrics.halo_depth(halo, reference, degraded) < -15
    assert metrics.halo_depth(255 - halo, 255 - reference, degraded) > 15


# --- means ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('degrees', 't'),
    [(1, 12.706205), (2, 4.302653), (9, 2.262157), (29, 2.045230), (1000, 1.962339)],
)
def test_students_t_is_that_of_the_tables(degrees, t):
    assert metrics.student_t(degrees) == pytest.approx(t, abs=2e-6)


def test_the_median_of_students_t_is_zero():
    assert metrics.student_t(5, probability=0.5) == pytest.approx(0, abs=1e-9)
    assert metrics.student_t(5, probability=0.95) == pytest.approx(2.015048, abs=2e-6)


def test_the_interval_is_by_video():
    values = [0, 2, 1, 3, 2, 4]  # the videos' means are 1, 2 and 3
    summary = metrics.mean_and_interval(values, ['a', 'a', 'b', 'b', 'c', 'c'])
    assert summary.mean == 2
    assert summary.interval == pytest.approx(4.302653 / math.sqrt(3), abs=1e-5)
    assert summary.groups == {'a': 1, 'b': 2, 'c': 3}
    # Twice as many frames of the same videos tell nothing new.
    twice = metrics.mean_and_interval(values * 2, ['a', 'a', 'b', 'b', 'c', 'c'] * 2)
    assert twice == summary


def test_one_video_has_no_interval_and_long_videos_weigh_more_in_the_mean():
    assert metrics.mean_and_interval([1.0, 3.0], ['a', 'a']) == (2, None, {'a': 2})
    summary = metrics.mean_and_interval([0.0, 0.0, 0.0, 4.0], ['a', 'a', 'a', 'b'])
    assert summary.mean == 1
    assert summary.interval == pytest.approx(12.706205 * 2, abs=1e-4)


@pytest.mark.parametrize(('values', 'groups'), [([], []), ([1.0], []), ([1.0], ['a', 'b'])])
def test_a_mean_of_nothing_is_an_error(values, groups):
    with pytest.raises(ValueError, match='one each is needed'):
        metrics.mean_and_interval(values, groups)
