"""The OpenVINO backend: as ONNX Runtime, silent, and one compiled model for a size."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import threading

import cv2
import numpy as np
import pytest

from dap_led_ros import sample
from dap_led_ros.inference import Enhancer, weights

needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec('openvino') is None,
    reason="no OpenVINO: pip install 'dap_led_ros[openvino]'",
)

SILENT = """
import sys
told = []
def hook(event, arguments):
    if event in ('socket.connect', 'socket.getaddrinfo', 'socket.sendto', 'subprocess.Popen'):
        told.append((event, str(arguments)))
sys.addaudithook(hook)
import numpy
from dap_led_ros.inference import Enhancer
enhancer = Enhancer.load('nano', 'openvino', 1)
enhancer.network(numpy.full((64, 64, 3), 9, numpy.uint8))
print(told, sys.modules['openvino_telemetry'])
"""


@pytest.fixture
def frame() -> np.ndarray:
    night = next(iter(sample.night_sequence(1)))[0]
    return cv2.resize(night, (161, 121), interpolation=cv2.INTER_AREA)


@needs_openvino
def test_float_is_as_in_onnxruntime(frame):
    path = str(weights.find('nano'))
    enhancer = Enhancer.load(path, 'openvino', 1)
    found, expected = enhancer.network(frame)[0], Enhancer.load(path, 'cpu', 1).network(frame)[0]
    assert enhancer.provider == 'OpenVINO CPU'
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert np.abs(found.astype(int) - frame).mean() > 5  # it has enhanced


@needs_openvino
def test_int8_is_what_a_name_stands_for_and_close(frame):
    enhancer = Enhancer.load('nano', 'openvino', 1)
    assert enhancer.model == 'nano-int8'
    expected = Enhancer.load('nano', 'cpu', 1).network(frame)[0]
    assert cv2.PSNR(enhancer.network(frame)[0], expected) > 38


@needs_openvino
def test_what_a_stream_has_seen_goes_in_as_in_onnxruntime(frame):
    streams = [Enhancer.load(str(weights.find('nano')), name, 1) for name in ('openvino', 'cpu')]
    assert all(enhancer.remembers for enhancer in streams)
    streams = [enhancer.stream() for enhancer in streams]
    rng = np.random.default_rng(0)
    for index in range(3):
        noisy = np.clip(frame + rng.normal(0, 3, frame.shape), 0, 255).astype(np.uint8)
        found, expected = (one.enhance(noisy, index * 40_000_000).frame for one in streams)
    assert np.abs(found.astype(int) - expected).max() <= 1
    alone = Enhancer.load(str(weights.find('nano')), 'cpu', 1).enhance(noisy).frame
    assert np.abs(expected.astype(int) - alone).max() > 1  # the past does something


@needs_openvino
def test_each_of_four_sizes_is_compiled_and_others_run_too(frame, cache):
    enhancer = Enhancer.load(str(weights.find('nano')), 'openvino', 1)
    plain = Enhancer.load(str(weights.find('nano')), 'cpu', 1)
    for width in (64, 80, 96, 112, 128, 72, 64):
        cut = np.ascontiguousarray(frame[:64, :width])
        difference = enhancer.network(cut)[0].astype(int) - plain.network(cut)[0]
        assert np.abs(difference).max() <= 1
    backend = enhancer._backend
    assert len(backend._sizes) == 4 and backend._any_size is not None
    assert list((cache / 'openvino').iterdir())


@needs_openvino
def test_threads_may_share_one(frame):
    enhancer = Enhancer.load('nano', 'openvino', 1)
    expected, found = enhancer.network(frame)[0], []
    threads = [
        threading.Thread(target=lambda: found.append(enhancer.network(frame)[0])) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and all(np.array_equal(one, expected) for one in found)


@needs_openvino
def test_nothing_is_sent_and_nothing_is_written_to_the_home_folder(tmp_path):
    home = tmp_path / 'home'
    home.mkdir()
    environment = {**os.environ, 'HOME': str(home), 'DAP_LED_CACHE': 'off'}
    command = [sys.executable, '-c', SILENT]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == '[] None'
    assert list(home.rglob('*')) == []


@needs_openvino
def test_what_does_not_run_says_what_to_do(tmp_path):
    with pytest.raises(RuntimeError, match='OpenVINO finds CPU alone: install the driver'):
        Enhancer.load('nano', 'openvino:npu')
    broken = tmp_path / 'broken.onnx'
    broken.write_bytes(b'no model')
    with pytest.raises(ValueError, match='cannot be loaded as a model'):
        Enhancer.load(str(broken), 'openvino')


def test_without_openvino_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, 'openvino', None)
    with pytest.raises(RuntimeError, match="pip install 'openvino'"):
        Enhancer.load('nano', 'openvino')
