"""Export: the wrapper, the prior folded in or beside, precisions, metadata."""

from __future__ import annotations

import dataclasses
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip('torch', reason="no torch: pip install 'dap_led_ros[train]'")
onnx = pytest.importorskip('onnx', reason="no onnx: pip install 'dap_led_ros[train]'")

from dap_led_ros import export, sample
from dap_led_ros.checkpoints import checkpoint
from dap_led_ros.checkpoints.priors import build_prior
from dap_led_ros.export.graphs import NanoGraph
from dap_led_ros.inference import Enhancer, weights
from dap_led_ros.inference.backends import onnx as onnx_backend
from dap_led_ros.inference.backends.onnx import OnnxBackend, engine_folder
from dap_led_ros.inference.frames import to_tensor
from dap_led_ros.inference.heatmap_cache import Heatmaps
from dap_led_ros.inference.info import describe
from dap_led_ros.models import dap_led
from dap_led_ros.models.dap_led import DapLed
from dap_led_ros.priors import PriorConfig


def guided(kind: str) -> checkpoint.Guided:
    """A DAP-LED in which the prior matters; one block of each kind: each takes seconds."""
    torch.manual_seed(0)
    tiny = dap_led.PRESETS['dap-led-tiny']
    config = dataclasses.replace(tiny, blocks=(1, 0, 0, 0), prior=PriorConfig(kind))
    network = DapLed(config)
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    prior = build_prior(config.prior)
    return checkpoint.Guided(network, prior).eval().requires_grad_(False)


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp('exported')


@pytest.fixture(scope='module')
def nano_core(folder) -> Path:
    """A file that ships, of single frames alone, is the network that ships."""
    shutil.copy(weights.find('nano-0.1'), folder / 'core.onnx')
    network = export.load_network(weights.checkpoint('nano-0.1'))
    assert export.parity(network, folder / 'core.onnx') <= 1e-4
    return folder / 'core.onnx'


@pytest.fixture(scope='module')
def nano_frames(folder, nano_core) -> Path:
    core = export.wrapped(onnx.load(nano_core))
    onnx.save(core, folder / 'frames.onnx')
    return folder / 'frames.onnx'


@pytest.fixture(scope='module')
def two_graphs(folder) -> tuple[Path, checkpoint.Guided]:
    network = guided('distilled')
    worst = export.export(network, folder / 'tiny.onnx', prior='second')
    assert worst <= export.TOLERANCE
    return folder / 'tiny.onnx', network


def test_the_wrapper_is_the_core_within_one_grey_level(nano_core, nano_frames, night):
    core, frames = Enhancer.load(str(nano_core)), Enhancer.load(str(nano_frames))
    for width, height in ((333, 241), (51, 37), (161, 120)):
        frame = cv2.resize(night[0], (width, height), interpolation=cv2.INTER_AREA)
        one, other = core.enhance(frame).frame, frames.enhance(frame).frame
        assert np.abs(one.astype(int) - other).max() <= 1
        assert np.abs(one.astype(int) - frame).max() > 20
    network = export.load_network(weights.checkpoint('nano-0.1'))
    assert export.parity(network, nano_frames) <= 1 / 255 + 1e-6
    with pytest.raises(ValueError, match='takes uint8 frames alone'):
        frames.enhance(night[0].astype(np.uint16))


def test_parity_is_measured_where_a_network_changes_the_frame(two_graphs):
    nano = export.load_network(weights.checkpoint('nano'))
    for network in (
        nano,
        export.untrained('nano-tiny'),
        export.untrained('dap-led-tiny'),
        two_graphs[1],
    ):
        for size in export.ODD_SIZES:
            codes = export.night(export.BATCH, *size)
            frames = torch.from_numpy(codes).permute(0, 3, 1, 2) / 255
            with torch.inference_mode():
                assert (network(frames) - frames).abs().mean((1, 2, 3)).min() > 0.02
                if network is nano:
                    gate = network.degradedness(frames)
                    assert torch.sigmoid(network.config.gate_slope * gate).min() > 0.9
    guided = export.untrained('dap-led-tiny')
    frame, heatmap = torch.rand(1, 3, 32, 48), torch.rand(1, 1, 4, 6)
    with torch.inference_mode():
        change = guided.network(frame, heatmap) - guided.network(frame, 1 - heatmap)
    assert change.abs().max() > 1e-3


def test_the_strength_of_the_wrapper(nano_frames, night):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(nano_frames))
    frames = np.stack([cv2.resize(frame, (96, 64)) for frame in night])
    none, half, full = (
        session.run(None, {'frames': frames, 'strength': np.array(s, np.float32)})[0].astype(int)
        for s in (0, 0.5, 1)
    )
    np.testing.assert_array_equal(none, frames)
    clear = (full > 0) & (full < 255)  # what was not clamped
    assert np.abs(2 * half - none - full)[clear].max() <= 2


def test_a_session_of_one_size_gives_what_one_of_all_sizes_gives(nano_frames, two_graphs):
    """The way of a GPU, on a CPU: sizes fixed, memory bound."""
    rng = np.random.default_rng(0)
    for path in (nano_frames, two_graphs[0]):
        backend = OnnxBackend(path, 'cpu', 1)
        for height, width in ((48, 64), (64, 48), (48, 64)):
            if backend.takes_frames:
                frames = rng.integers(0, 30, (1, height, width, 3), dtype=np.uint8)
                given = {'frames': frames, 'strength': np.ones((), np.float32)}
            else:
                frames = 0.1 * rng.random((1, 3, height, width), dtype=np.float32)
                given = {'frame': frames, 'heatmap': backend.heatmap(frames)}
            fixed = backend._of_size(given)
            assert fixed._session.get_inputs()[0].shape == list(frames.shape)
            np.testing.assert_allclose(fixed.run(given), backend.run(frames), atol=1e-5)
        assert len(backend._sizes) == 2


def test_a_size_that_is_ready_does_not_wait_for_one_that_is_made(nano_frames, monkeypatch):
    """TensorRT makes an engine for minutes."""
    backend = OnnxBackend(nano_frames, 'cpu', 1)
    given = {
        size: {'frames': np.full((1, *size, 3), 9, np.uint8), 'strength': np.ones((), np.float32)}
        for size in ((48, 64), (64, 48))
    }
    backend._run_fixed(given[48, 64])
    started, go_on, making = threading.Event(), threading.Event(), backend._fixed

    def slow(tensors):
        started.set()
        assert go_on.wait(60)
        return making(tensors)

    monkeypatch.setattr(backend, '_fixed', slow)
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(backend._run_fixed, given[64, 48])]
        try:
            assert started.wait(60)
            waiting.append(pool.submit(backend._run_fixed, given[64, 48]))
            ready = pool.submit(backend._run_fixed, given[48, 64]).result(timeout=60)
            assert not any(one.done() for one in waiting)
        finally:
            go_on.set()
        assert ready.shape == (1, 48, 64, 3)
        assert [one.result().shape for one in waiting] == [(1, 64, 48, 3)] * 2
    broken = {**given[48, 64], 'frames': np.zeros((1, 32, 32, 3), np.uint8)}
    monkeypatch.setattr(backend, '_fixed', lambda _: 1 / 0)
    for _ in range(2):  # tried again, not kept
        with pytest.raises(ZeroDivisionError):
            backend._run_fixed(broken)
    assert len(backend._sizes) == 2


def test_more_sizes_than_sessions_do_not_thrash(nano_core, monkeypatch, caplog):
    backend, made = OnnxBackend(nano_core, 'cpu', 1), []
    making = backend._fixed
    monkeypatch.setattr(backend, '_fixed', lambda given: made.append(1) or making(given))
    monkeypatch.setattr(onnx_backend, 'IDLE_RUNS', 10)
    frames = [np.full((1, 3, 32, 32 + 16 * i), 0.1, np.float32) for i in range(6)]
    for _ in range(3):
        for frame in frames:
            np.testing.assert_allclose(
                backend._run_fixed({'frame': frame}), backend.run(frame), atol=1e-5
            )
    assert len(made) == len(backend._sizes) == onnx_backend.MOST_SIZES == 4
    assert backend.crowded == {frame.shape: 3 for frame in frames[4:]}
    assert [record.args[1] for record in caplog.records] == [frame.shape for frame in frames[4:]]
    for _ in range(10):  # one camera left, which then changes its size for good
        backend._run_fixed({'frame': frames[3]})
    backend._run_fixed({'frame': frames[5]})
    assert len(made) == 5 and frames[0].shape not in backend._sizes
    assert len(backend._sizes) == 4
    # Under TensorRT any size is CUDA's: an engine for each would take minutes.
    del backend.__dict__['_any_size']
    monkeypatch.setattr(backend, '_wanted', onnx_backend.PROVIDERS['tensorrt'])
    monkeypatch.setattr(backend, '_open', lambda path, wanted: wanted)
    assert backend._any_size == onnx_backend.PROVIDERS['cuda']


def test_a_prior_of_its_own_folds_into_the_same(two_graphs):
    path, network = two_graphs
    used = [node.op_type for node in onnx.load(path).graph.node]
    assert used.count('Gelu') == 2  # one a block: in parts under torch.inference_mode() alone
    frame = 0.1 * torch.rand(1, 3, 97, 131)
    backend = OnnxBackend(path, 'cpu', 1)
    with torch.inference_mode():
        expected = network(frame).numpy()
    np.testing.assert_allclose(backend.run(frame.numpy()), expected, atol=1e-4)
    heatmap = backend.heatmap(frame.numpy())
    np.testing.assert_allclose(backend.run(frame.numpy(), heatmap), expected, atol=1e-4)
    other = backend.run(frame.numpy(), 1 - heatmap)
    assert np.abs(other - expected).max() > 1e-3
    lonely = path.with_name('lonely.onnx')
    lonely.write_bytes(path.read_bytes())
    with pytest.raises(FileNotFoundError, match=r'lonely\.prior\.onnx'):
        Enhancer.load(str(lonely))


def test_heatmaps_last(two_graphs):
    enhancer = Enhancer.load(str(two_graphs[0]))
    frames = [camera[:96, :128] for camera, _ in sample.night_sequence(4)]
    frames.append(255 - frames[3])
    kept = Heatmaps(enhancer, every=3, follow=0.5)
    seen = [kept.of(frame) for frame in frames]
    first, fourth = (enhancer.heatmap(frames[i]) for i in (0, 3))
    for index in range(3):
        np.testing.assert_array_equal(seen[index], first)
    np.testing.assert_allclose(seen[3], (first + fourth) / 2, atol=1e-6)
    assert seen[4] is seen[3]
    kept.forget()
    np.testing.assert_array_equal(kept.of(frames[4]), enhancer.heatmap(frames[4]))
    assert Heatmaps(enhancer, every=1).of(frames[0]) is None
    assert Heatmaps(Enhancer.load()).of(frames[0]) is None
    with pytest.raises(ValueError, match='every is 0'):
        Heatmaps(enhancer, every=0)


def test_clip_exports_too(folder):
    pytest.importorskip('open_clip', reason='no open_clip: pip install open_clip_torch')
    network = guided('clip')
    prior = export.Heatmap(network)
    onnx.save(export.core_of(prior, ['frame'], 'fp32'), folder / 'clip.onnx')
    assert export.parity(prior, folder / 'clip.onnx') <= export.TOLERANCE
    described = export.metadata_of(network, 'fp32', False)
    assert described['prior'] == 'degradation-clip-tiny, last'


def test_half_precision(folder):
    worst = export.export(export.untrained('nano-tiny'), folder / 'half.onnx', 'fp16')
    assert 1e-7 < worst <= 1 / 255
    assert describe(folder / 'half.onnx')['precision'] == 'fp16'
    graph = onnx.load(folder / 'half.onnx').graph
    sizes = [size.dim_param for size in graph.output[0].type.tensor_type.shape.dim]
    assert sizes == ['B', '', 'H', 'W']
    # To cut and join 2x2 cells costs more than it computes.
    used = [node.op_type for node in graph.node]
    assert used.count('DepthToSpace') == 0 and used.count('Expand') == 0
    # With a heat-map: what torch.export refuses is refused with fixed sizes too, in a second.
    half = export.Half(guided('none').network)
    tensors = torch.rand(1, 3, 32, 32), torch.rand(1, 1, 4, 4)
    torch.export.export(half, tensors, dynamic_shapes=[{}, {}])


def test_int8_keeps_the_picture(nano_core, folder):
    frames = [camera for camera, _ in sample.night_sequence(3)]
    model = export.quantized(onnx.load(nano_core), frames, folder / 'part')
    onnx.save(model, folder / 'int8.onnx')
    assert (folder / 'int8.onnx').stat().st_size < 0.55 * nano_core.stat().st_size
    full, small = Enhancer.load(str(nano_core)), Enhancer.load(str(folder / 'int8.onnx'))
    camera, reference = list(sample.night_sequence(8))[7]
    quality = [cv2.PSNR(one.enhance(camera).frame, reference) for one in (full, small)]
    assert quality[1] > quality[0] - 0.5  # all layers in int8 lose 4 dB
    with pytest.raises(ValueError, match='int8 needs night frames'):
        export.quantized(onnx.load(nano_core), [], folder / 'part')
    with pytest.raises(ValueError, match='int8 is for nano'):
        export.quantized(onnx.parser.parse_model(export.BEFORE), frames, folder / 'part')


def test_the_graph_of_nano_is_nano(night):
    network = export.load_network(weights.checkpoint('nano-0.1'))
    graph = NanoGraph(network).eval()
    assert {'stem.weight', 'encoder16.0.conv1.weight', 'head.bias'} <= set(graph.state_dict())
    pair = torch.from_numpy(np.concatenate([to_tensor(frame) for frame in night]))
    for height, width in ((37, 51), (120, 161), (241, 333)):
        frames = torch.nn.functional.interpolate(pair, (height, width), mode='area')
        with torch.inference_mode():
            expected = network(frames)
            torch.testing.assert_close(graph(frames), expected, atol=1e-5, rtol=0)
        assert (expected - frames).abs().max() > 0.3


def test_a_file_says_what_it_is(nano_core):
    described = describe(nano_core)
    assert described['preset'] == 'nano' and 'nano.md' in described['terms']
    assert float(described['gmac_per_megapixel']) == pytest.approx(13.16, rel=0.01)
    assert described['revision']
    assert described['takes'] == 'frame tensor(float) (any, 3, any, any)'
    default = describe(weights.find('nano'))
    assert (default['preset'], default['history']) == ('exposure-first', 'fused, count')
    trained = describe(weights.checkpoint('nano'))
    assert trained['network'] == 'ExposureFirst' and trained['parameters'] == '1.117 M'
    with pytest.raises(ValueError, match='no safetensors file'):
        nonsense = nano_core.with_name('nonsense.safetensors')
        nonsense.write_bytes(b'\0' * 7 + b'\1' + b'nonsense')
        describe(nonsense)
    header = b'{"__metadata__": {"dap_led_ros": "[1]"}}'
    nonsense.write_bytes(len(header).to_bytes(8, 'little') + header)
    with pytest.raises(ValueError, match='no safetensors file'):
        describe(nonsense)


def test_what_cannot_be_exported_is_said(tmp_path):
    network = export.untrained('nano-tiny')
    with pytest.raises(ValueError, match='has no prior'):
        export.export(network, tmp_path / 'n.onnx', prior='second')
    with pytest.raises(ValueError, match='no preset'):
        export.untrained('huge')
    with pytest.raises(FileNotFoundError, match='no checkpoint'):
        weights.checkpoint('nanno')
    assert not list(tmp_path.iterdir())


def test_export_replaces_nothing_unasked(tmp_path, capsys):
    from dap_led_ros.cli import main

    out = tmp_path / 'mine.onnx'
    words = ['export', 'nano-tiny', str(out), '--untrained']
    out.write_text('mine')
    assert main(words) == 1
    assert f'{out} exists: choose another OUT or add --overwrite' in capsys.readouterr().err
    assert out.read_text() == 'mine'
    prior = tmp_path / 'new.prior.onnx'
    prior.write_text('mine')
    assert main(['export', 'dap-led-tiny', str(tmp_path / 'new.onnx'), '--prior', 'second']) == 1
    assert f'{prior} exists' in capsys.readouterr().err
    assert main([*words, '--overwrite']) == 0
    assert out.read_bytes() != b'mine'


def test_an_engine_is_kept_by_model_shape_and_driver(
    nano_core, nano_frames, monkeypatch, tmp_path
):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.delenv('DAP_LED_CACHE')
    shapes = (1, 3, 480, 640), (1, 3, 720, 1280)
    folders = {engine_folder(p, s) for p in (nano_core, nano_frames) for s in shapes}
    assert len(folders) == 4
    assert all(str(one).startswith(str(tmp_path)) and 'driver' in one.name for one in folders)


def test_the_statistics_of_attention_fit_into_half_precision():
    """A sum over a frame is more than 65504; a mean is not."""
    products = dap_led.Products()
    query = 10 * torch.randn(1, 2, 4, 300_000)
    exact = products(query, query)
    half = products(query.half(), query.half())
    for one, other in zip(exact, half):
        assert torch.isfinite(other).all()
        torch.testing.assert_close(other, one, rtol=2e-2, atol=0.5)
