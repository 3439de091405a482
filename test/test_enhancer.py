"""The Enhancer with the model that ships."""

from __future__ import annotations

import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from dap_led_ros import sample
from dap_led_ros.inference import Enhancer, weights
from dap_led_ros.inference.backends.onnx import default_threads
from dap_led_ros.inference.frames import to_frame, to_tensor


@pytest.fixture(scope='module')
def default() -> Enhancer:
    return Enhancer.load()


def fit(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)


@pytest.mark.parametrize(
    ('width', 'height'),
    [(16, 16), (17, 16), (33, 47), (64, 16), (321, 481), (640, 480), (1279, 719), (1920, 1080)],
)
def test_every_size_keeps_its_size(default, night, width, height):
    frame = fit(night[0], width, height)
    enhanced = default.enhance(frame)
    assert enhanced.frame.shape == frame.shape
    assert enhanced.frame.dtype == np.uint8
    assert enhanced.frame.mean() > 1.5 * frame.mean()
    assert set(enhanced.milliseconds) == {'score', 'convert_in', 'infer', 'convert_out'}
    assert set(enhanced.degradation) == {'joint', 'low_light', 'blur'}
    assert enhanced.degradation['low_light'] > 0.5


def test_a_night_becomes_bright_and_close_to_its_reference(default):
    for camera, reference in sample.night_sequence(4):
        enhanced = default.enhance(camera).frame
        assert cv2.PSNR(enhanced, reference) >= cv2.PSNR(camera, reference) + 7


def test_a_day_stays_as_it_is(default, night):
    assert cv2.PSNR(default.enhance(night[1]).frame, night[1]) >= 24


def test_sixteen_bit_keeps_its_bits(night):
    default = Enhancer.load(str(weights.find('nano')), 'cpu')  # int8 would round differently
    enhanced = default.enhance(night[0].astype(np.uint16) * 257).frame
    assert enhanced.dtype == np.uint16
    assert len(np.unique(enhanced)) > 5000
    coarse = np.rint(enhanced / 257).astype(int)
    assert np.abs(coarse - default.enhance(night[0]).frame).max() <= 1


def test_the_same_frame_gives_the_same_result_from_many_threads(default, night):
    frames = [fit(night[0], 320 + 16 * i, 240) for i in range(4)]
    alone = [default.enhance(frame).frame for frame in frames]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda frame: default.enhance(frame).frame, frames * 5))
    for index, result in enumerate(together):
        np.testing.assert_array_equal(result, alone[index % 4])


@pytest.mark.parametrize(
    ('frame', 'said'),
    [
        (np.zeros((48, 64), np.uint8), r'uint8 \(48, 64\): expected'),
        (np.zeros((48, 64, 4), np.uint8), 'expected uint8 or uint16'),
        (np.zeros((48, 64, 3), np.float32), 'float32'),
        (np.zeros((15, 64, 3), np.uint8), '64x15: the least is 16x16'),
    ],
)
def test_wrong_frames_are_refused_in_words(default, frame, said):
    with pytest.raises(ValueError, match=said):
        default.enhance(frame)


def test_conversion_is_exact_and_saturates():
    codes = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    np.testing.assert_array_equal(to_frame(to_tensor(codes), np.uint8), codes)
    tensor = np.array([-0.5, 0.0, 0.5, 1.0, 7.0], np.float32).reshape(1, 1, 1, 5).repeat(3, 1)
    frame = to_frame(tensor, np.uint16)
    assert frame[0, :, 0].tolist() == [0, 0, 32768, 65535, 65535]


def test_an_unknown_model_names_the_known_ones():
    with pytest.raises(FileNotFoundError, match=r'one of: .*nano'):
        Enhancer.load('nanno')


def test_a_file_that_is_no_model_is_said_so(tmp_path):
    path = tmp_path / 'broken.onnx'
    path.write_bytes(weights.find('nano').read_bytes()[:1000])
    with pytest.raises(ValueError, match='cannot be loaded as a model'):
        Enhancer.load(str(path))


def test_a_model_of_another_kind_is_said_so(tmp_path):
    onnx = pytest.importorskip('onnx')
    kind = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.INT64, [1]) for n in 'xy']
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node('Identity', ['x'], ['y'])], 'g', kind[:1], kind[1:]
    )
    opset = [onnx.helper.make_opsetid('', 18)]
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=opset, ir_version=9), tmp_path / 'i.onnx'
    )
    with pytest.raises(ValueError, match='not an enhancer'):
        Enhancer.load(str(tmp_path / 'i.onnx'))


def test_a_model_that_changes_the_size_is_refused(night):
    class Doubling:
        provider = 'none'
        takes_frames = guided = remembers = False

        def run(self, frames, heatmap=None):
            return frames.repeat(2, axis=2)

    with pytest.raises(ValueError, match='model x2 changes'):
        Enhancer(Doubling(), 'x2').enhance(night[0])


def test_a_device_that_is_not_there_is_an_error():
    import onnxruntime

    with pytest.raises(ValueError, match='use one of auto, cpu, cpu:extended, cuda, tensorrt'):
        Enhancer.load(device='gpu')
    assert Enhancer.load(device='cpu').provider == 'CPUExecutionProvider'
    if 'CUDAExecutionProvider' in onnxruntime.get_available_providers():
        pytest.skip('this machine has CUDA')
    for device in ('cuda', 'tensorrt'):
        with pytest.raises(RuntimeError, match=f'device is {device}.*install onnxruntime-gpu'):
            Enhancer.load(device=device)


def test_a_device_that_does_not_start_is_an_error_and_auto_goes_on(monkeypatch):
    """What a missing CUDA library does: the provider is listed, and the session is without it."""
    import onnxruntime

    if 'CUDAExecutionProvider' in onnxruntime.get_available_providers():
        pytest.skip('this machine has CUDA')
    listed = ['TensorrtExecutionProvider', 'CUDAExecutionProvider', 'CPUExecutionProvider']
    monkeypatch.setattr(onnxruntime, 'get_available_providers', lambda: listed)
    for device in ('cuda', 'tensorrt'):
        with pytest.raises(RuntimeError, match=f'device is {device}, but .* failed to start'):
            Enhancer.load(device=device)
    assert Enhancer.load(device='auto').provider == 'CPUExecutionProvider'


def test_score_and_network_are_the_two_halves_of_enhance(default, night):
    whole = default.enhance(night[0])
    enhanced, milliseconds = default.network(night[0])
    np.testing.assert_array_equal(enhanced, whole.frame)
    assert set(milliseconds) == {'convert_in', 'infer', 'convert_out'}
    assert default.score(night[0]) == whole.degradation
    assert whole.weight == 1.0
    for call in (default.score, default.network):
        with pytest.raises(ValueError, match='64x15'):
            call(np.zeros((15, 64, 3), np.uint8))


def test_the_default_takes_no_heatmap(default, night):
    with pytest.raises(ValueError, match='takes no heat-map'):
        default.heatmap(night[0])
    with pytest.raises(ValueError, match='takes no heat-map'):
        default.network(night[0], np.ones((1, 1, 4, 4), np.float32))


def test_fewer_threads_than_none_are_refused():
    with pytest.raises(ValueError, match='threads is -1'):
        Enhancer.load(threads=-1)


def test_a_precision_that_the_file_does_not_have_is_said():
    with pytest.raises(ValueError, match='has its own precision'):
        Enhancer.load(precision='fp16')


def test_threads_are_those_that_the_process_may_use(monkeypatch):
    for usable, cores, threads in ((2, 2, 0), (4, 4, 0), (2, 16, 2), (16, 16, 8), (96, 192, 8)):
        monkeypatch.setattr('os.sched_getaffinity', lambda _, n=usable: set(range(n)))
        monkeypatch.setattr('os.cpu_count', lambda n=cores: n)
        assert default_threads() == threads


def test_a_checkpoint_in_lower_precision_is_the_same_picture(night):
    pytest.importorskip('torch', reason="no torch: pip install 'dap_led_ros[train]'")
    path = str(weights.checkpoint('nano'))
    frame = np.ascontiguousarray(night[0][:128, :160])
    full = Enhancer.load(path, 'cpu', precision='fp32')
    assert full.provider == Enhancer.load(path, 'cpu').provider == 'torch cpu fp32'
    same = Enhancer.load(str(weights.find('nano')))  # by its path, not its name: the float graph
    assert np.abs(full.network(frame)[0].astype(int) - same.network(frame)[0]).max() <= 1
    for precision, least in (('bf16', 30), ('fp16', 45)):
        lower = Enhancer.load(path, 'cpu', precision=precision)
        assert lower.provider == f'torch cpu {precision}'
        assert cv2.PSNR(lower.network(frame)[0], full.network(frame)[0]) > least
    with pytest.raises(ValueError, match='use one of auto, fp32'):
        Enhancer.load(path, 'cpu', precision='int4')
    with pytest.raises(ValueError, match=r'tensorrt runs \.onnx'):
        Enhancer.load(path, 'tensorrt')


def test_a_compiled_checkpoint_is_the_same_picture(night, tmp_path, monkeypatch):
    torch = pytest.importorskip('torch', reason="no torch: pip install 'dap_led_ros[train]'")
    if not shutil.which(os.environ.get('CXX', 'g++')):
        pytest.skip('no C++ compiler: torch.compile needs one')
    from dap_led_ros.checkpoints import checkpoint
    from dap_led_ros.models.nano import Nano, NanoConfig

    torch.manual_seed(0)
    network = Nano(NanoConfig((8, 8, 16), (0, 0, 0), (0, 0), 4))  # each layer takes a second
    torch.nn.init.normal_(network.head.weight, std=0.1)
    path = tmp_path / 'nano.safetensors'
    checkpoint.save(network, path)
    frame = cv2.resize(night[0], (97, 64))
    eager = Enhancer.load(str(path), 'cpu', 1).network(frame)[0].astype(int)
    assert np.abs(eager - frame).mean() > 5
    seen = torch._dynamo.utils.counters['stats']
    before = seen['calls_captured']
    compiled = Enhancer.load(str(path), 'cpu', 1, compiled=True)
    assert compiled.provider == 'torch cpu fp32, compiled'
    assert np.abs(compiled.network(frame)[0] - eager).max() <= 1
    assert seen['calls_captured'] > before
    with pytest.raises(ValueError, match='do not compile'):
        Enhancer.load(str(path), 'cpu', tile=192, compiled=True)
    monkeypatch.setenv('CXX', 'no-such-compiler')
    with pytest.raises(RuntimeError, match='install g'):
        Enhancer.load(str(path), 'cpu', compiled=True)


def test_the_default_path_imports_neither_torch_nor_ros():
    code = (
        'import sys, numpy; from dap_led_ros.inference import Enhancer; import dap_led_ros.cli; '
        'Enhancer.load().enhance(numpy.zeros((32, 32, 3), numpy.uint8)); '
        'heavy = {"torch", "open_clip", "rclpy", "ultralytics", "onnx"} & set(sys.modules); '
        'assert not heavy, heavy'
    )
    subprocess.run([sys.executable, '-c', code], check=True)


@pytest.mark.parametrize(
    ('make', 'said'),
    [
        (
            lambda frame: None,
            'frame is NoneType: OpenCV gives None for a file that it cannot read',
        ),
        (lambda frame: frame.tolist(), 'frame is list: expected a NumPy array'),
        (lambda frame: frame / 255.0, 'of 0 to 1 give (255 * frame).round()'),
        (lambda frame: frame[..., 0], 'grey: give cv2.cvtColor'),
        (lambda frame: _as_pil(frame), "of a PIL image give np.array(image.convert('RGB'))"),
    ],
)
def test_what_is_no_frame_gets_one_clear_line(night, make, said):
    wrong = make(night[0])
    for enhance in (Enhancer.load().enhance, Enhancer.load().stream().enhance):
        with pytest.raises(ValueError, match=re.escape(said)):
            enhance(wrong)


def _as_pil(frame):
    return pytest.importorskip('PIL.Image', reason='Pillow is not installed').fromarray(frame)


def test_views_and_read_only_arrays_are_frames(night):
    enhancer = Enhancer.load()
    locked = night[0].copy()
    locked.setflags(write=False)
    for frame in (night[0][::-1, ::-1], night[0][::2, ::2], np.asfortranarray(night[0]), locked):
        expected = enhancer.enhance(np.ascontiguousarray(frame)).frame
        np.testing.assert_array_equal(enhancer.enhance(frame).frame, expected)


def test_an_enhancer_goes_to_another_process(night):
    """By pickle, and by a fork after its runtime has started threads."""
    enhancer = Enhancer.load(threads=2)
    expected = enhancer.enhance(night[0]).frame
    copy = pickle.loads(pickle.dumps(enhancer))
    np.testing.assert_array_equal(copy.enhance(night[0]).frame, expected)
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        same = np.array_equal(enhancer.enhance(night[0]).frame, expected)
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0
    with pytest.raises(TypeError, match='make it with'):
        pickle.dumps(Enhancer(enhancer._backend, 'mine'))
