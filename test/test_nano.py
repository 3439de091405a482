"""The nano network, the files that ship, and their way to ONNX."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip('torch', reason="no torch: pip install 'dap_led_ros[train]'")

from dap_led_ros import export
from dap_led_ros.export import onnx_export
from dap_led_ros.inference import Enhancer, weights
from dap_led_ros.models.nano import PRESETS, Nano
from dap_led_training.measure import metrics


def random_tiny() -> Nano:
    """A network whose output differs from its input."""
    torch.manual_seed(0)
    network = Nano(PRESETS['nano-tiny'])
    for parameter in network.head.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network.eval()


@pytest.mark.parametrize('size', [(16, 16), (17, 31), (64, 48), (95, 130)])
def test_an_untrained_network_returns_its_input(size):
    frames = torch.rand(2, 3, *size)
    torch.testing.assert_close(Nano(PRESETS['nano-tiny'])(frames), frames, rtol=0, atol=0)


def test_every_parameter_learns():
    network = random_tiny().train()
    (network(torch.rand(2, 3, 40, 56)) - torch.rand(2, 3, 40, 56)).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_frames_of_a_batch_do_not_see_one_another():
    network, frames = random_tiny(), torch.rand(3, 3, 40, 56)
    together = network(frames)
    for index in range(3):
        torch.testing.assert_close(
            together[index], network(frames[index : index + 1])[0], rtol=0, atol=1e-6
        )


def test_the_whole_frame_decides_through_the_attention():
    """A change in one corner reaches the far one: the network knows how dark the scene is."""
    network, frame = random_tiny(), torch.rand(1, 3, 256, 256)
    changed = frame.clone()
    changed[..., :16, :16] = 1 - changed[..., :16, :16]
    far = (network(frame) - network(changed))[..., -16:, -16:]
    assert far.abs().max() > 0


def test_export_of_the_tiny_preset_and_its_parity(tmp_path):
    network = random_tiny()
    assert export.export(network, tmp_path / 'tiny.onnx') <= export.TOLERANCE
    frame = (np.random.default_rng(0).random((37, 53, 3)) * 255).astype(np.uint8)
    enhanced = Enhancer.load(str(tmp_path / 'tiny.onnx')).enhance(frame).frame
    tensor = torch.from_numpy(frame).permute(2, 0, 1)[None] / 255
    expected = (network(tensor).clamp(0, 1)[0].permute(1, 2, 0) * 255).round()
    assert np.abs(enhanced.astype(int) - expected.detach().numpy()).max() <= 1
    assert [p.name for p in tmp_path.iterdir()] == ['tiny.onnx']


@pytest.mark.parametrize('name', ['nano', 'nano-0.1'])
def test_the_shipped_onnx_is_the_shipped_safetensors(name):
    """Three odd sizes, 1e-4."""
    network = export.load_network(weights.checkpoint(name))
    assert export.parity(network, weights.find(name)) <= 1e-4


@pytest.mark.parametrize('name', ['nano', 'nano-0.1'])
def test_the_gate_opens_on_a_night_and_closes_on_a_day(night, name):
    network = export.load_network(weights.checkpoint(name))
    frames = torch.stack([torch.from_numpy(frame).permute(2, 0, 1) / 255 for frame in night])
    with torch.inference_mode():
        if isinstance(network, Nano):
            threshold = network.config.gate_threshold
            logits = network.enhance_and_gate(frames)[1]
        else:
            threshold, logits = 0.0, network.degradedness(frames)
    slope = network.config.gate_slope
    assert slope * (logits[0] - threshold) > 3
    assert slope * (logits[1] - threshold) < -3


def test_a_closed_gate_leaves_the_frame_and_an_open_one_does_not():
    network, frames = random_tiny(), torch.rand(2, 3, 40, 56)
    last = network.gate[-1]
    torch.nn.init.zeros_(last.weight)
    for bias, unchanged in ((-100.0, True), (100.0, False)):
        torch.nn.init.constant_(last.bias, bias)
        enhanced, logits = network.enhance_and_gate(frames)
        assert logits.shape == (2,)
        assert torch.equal(enhanced, frames) == unchanged


def test_on_a_cpu_the_name_stands_for_the_int8_file_which_loses_little(night):
    by_name = Enhancer.load('nano', 'cpu')
    assert by_name.model == 'nano-int8'
    assert Enhancer.load(str(weights.find('nano')), 'cpu').model == 'nano'
    full, int8 = (
        metrics.psnr(enhancer.network(night[0])[0], night[1])
        for enhancer in (Enhancer.load(str(weights.find('nano'))), by_name)
    )
    assert int8 > full - 0.2


def test_a_model_that_has_gone_warns_and_its_successor_runs():
    with pytest.warns(FutureWarning, match="'small' has gone: 'nano' takes its place"):
        assert Enhancer.load('small', 'cpu').model == 'nano-int8'
    with pytest.warns(FutureWarning, match="'small' has gone"):
        assert weights.checkpoint('small') == weights.checkpoint('nano')
    assert 'small' not in weights.names()


def test_with_a_gpu_the_name_stands_for_the_float_file(monkeypatch):
    asked = []

    class Backend:
        provider = 'CUDAExecutionProvider'

        def __init__(self, path, device, threads):
            asked.append(path.name)

    monkeypatch.setattr('dap_led_ros.inference.enhancer.OnnxBackend', Backend)
    available = ['CUDAExecutionProvider', 'CPUExecutionProvider']
    monkeypatch.setattr('onnxruntime.get_available_providers', lambda: available)
    for device in ('auto', 'cuda', 'cpu'):
        Enhancer.load('nano', device)
    assert asked == ['nano.onnx', 'nano.onnx', 'nano-int8.onnx']


def test_a_bad_export_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, 'parity', lambda *_: 1.0)
    with pytest.raises(ValueError, match='differ by'):
        export.export(random_tiny(), tmp_path / 'tiny.onnx')
    assert not list(tmp_path.iterdir())
