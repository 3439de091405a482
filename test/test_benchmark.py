"""dap-led benchmark: what it measures, on the smallest of frames; never how fast."""

from __future__ import annotations

import importlib.util
import json
import platform
from pathlib import Path

import pytest

from dap_led_ros import cli
from dap_led_ros.inference import benchmark, weights


def run(*arguments: str) -> int:
    options = cli.parser().parse_args(arguments)
    return options.run(options)


@pytest.fixture
def model(tmp_path) -> Path:
    """The default with the note of its cost, and its checkpoint beside it."""
    onnx = pytest.importorskip('onnx', reason="no onnx: pip install 'dap_led_ros[train]'")
    pytest.importorskip('torch', reason="no torch: pip install 'dap_led_ros[train]'")
    noted = onnx.load(weights.find('nano'))
    onnx.helper.set_model_props(noted, {'gmac_per_megapixel': '13.16'})
    onnx.save(noted, tmp_path / 'model.onnx')
    (tmp_path / 'model.safetensors').write_bytes(weights.checkpoint('nano').read_bytes())
    return tmp_path / 'model.onnx'


def test_every_method_is_measured_in_one_run(model, tmp_path, capsys):
    pytest.importorskip('matplotlib', reason='no matplotlib: pip install matplotlib')
    report, picture = tmp_path / 'report.json', tmp_path / 'report.png'
    outputs = ('--json', str(report), '--plot', str(picture))
    sizes = ('--sizes', '96x64', '64x48', '--frames', '2', '--device', 'cpu', '--threads', '1')
    assert run('benchmark', str(model), *sizes, *outputs) == 0
    printed = capsys.readouterr().out
    written = json.loads(report.read_text())
    assert written['copy_gb_per_s'] > 0 and written['machine'] in printed
    rows = {(row['method'], row['size']): row for row in written['rows']}
    assert len(rows) == 2 * 4
    own = rows[str(model), '96x64']
    assert own['provider'] == 'CPUExecutionProvider'
    assert own['gmac'] == pytest.approx(13.16 * 96 * 64 / 1e6)
    assert 0 < own['network_ms'] <= own['median_ms'] <= own['p95_ms']
    assert own['gmac_per_s'] == pytest.approx(own['gmac'] / own['network_ms'] * 1e3)
    limit = rows[f'{model}: {benchmark.LIMIT}', '96x64']
    assert own['share_of_limit'] == pytest.approx(limit['network_ms'] / own['network_ms'])
    assert limit['share_of_limit'] == pytest.approx(1)
    assert own['rss_mb'] > 30 and own['cold_start_s'] > 0
    eager = rows[f'{model}: {benchmark.EAGER}', '96x64']
    assert eager['provider'] == 'torch cpu fp32' and eager['rss_mb'] is None
    assert rows[benchmark.CLAHE, '64x48']['gmac'] is None
    assert picture.stat().st_size > 5000


def test_every_runtime_has_a_row_and_shares_it(tmp_path, capsys, monkeypatch):
    """Under device auto; for a model in int8 there is a limit in int8; no path is shared."""
    onnx = pytest.importorskip('onnx', reason="no onnx: pip install 'dap_led_ros[train]'")
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    noted = onnx.load(weights.in_int8('nano'))
    notes = {entry.key: entry.value for entry in noted.metadata_props}
    onnx.helper.set_model_props(noted, notes | {'gmac_per_megapixel': '13.16'})
    model, report = tmp_path / 'model.onnx', tmp_path / 'report.json'
    onnx.save(noted, model)
    sizes = ('--sizes', '96x64', '--frames', '2', '--threads', '1', '--share', str(report))
    assert run('benchmark', str(model), *sizes) == 0
    assert 'nothing was sent' in capsys.readouterr().out
    written = json.loads(report.read_text())
    rows = {row['method']: row for row in written['rows']}
    assert rows['model.onnx: cpu:extended']['alike_db'] > 30
    if importlib.util.find_spec('openvino'):
        assert rows['model.onnx: openvino']['provider'] == 'OpenVINO CPU'
        assert rows['model.onnx: openvino']['alike_db'] > 30
    limit = rows[f'model.onnx: {benchmark.INT8_LIMIT}']
    own = rows['model.onnx']
    assert own['share_of_int8_limit'] == pytest.approx(limit['network_ms'] / own['network_ms'])
    assert written['versions']['onnxruntime'] and written['architecture']
    private = (str(tmp_path), str(Path.home()), platform.node())
    assert not [one for one in private if one in report.read_text()]


def test_methods_take_turns(night):
    order = []
    methods = {name: lambda _, name=name: order.append(name) or {'infer': 1.0} for name in 'ab'}
    times = benchmark.take_turns(methods, night[0], 3)
    assert order == ['a', 'b'] * (benchmark.WARM_UP + 3)
    assert [len(times[name][stage]) for name in 'ab' for stage in ('whole', 'infer')] == [3] * 4


def test_the_limit_on_a_gpu_outlives_its_file(monkeypatch):
    """There each size has a session of its own, which reads the file again."""
    pytest.importorskip('onnx', reason="no onnx: pip install 'dap_led_ros[train]'")
    fixed = []

    def run(backend, tensor):
        fixed.append(backend._of_size({'x0': tensor}))
        return fixed[-1].run({'x0': tensor})

    monkeypatch.setattr(benchmark.OnnxBackend, 'run', run)
    _, limit = benchmark._limit(0.1, (64, 48), 'cpu', 1)
    assert limit(None)['infer'] > 0
    assert fixed[0] is fixed[1]


@pytest.mark.parametrize('size', ['640', 'axb', '8x8'])
def test_a_size_that_is_none_is_refused(size, capsys):
    with pytest.raises(SystemExit):
        run('benchmark', '--sizes', size)
    assert size in capsys.readouterr().err


def test_compiling_reaches_the_model():
    with pytest.raises(ValueError, match='to compile needs a checkpoint'):
        run('benchmark', 'nano', '--compile')


def test_info_lists_the_presets_and_the_weights_that_ship(capsys):
    pytest.importorskip('onnxscript', reason="no torch: pip install 'dap_led_ros[train]'")
    assert run('info', '--presets') == 0
    rows = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()[1:]}
    assert rows['exposure-first'][-1] == 'nano' and rows['nano'][-1] == 'nano-0.1'
    assert rows['dap-led-paper'][1:] == ['13.939', 'M', '225.68', '-']


def test_info_says_what_the_default_is(capsys):
    assert run('info', 'nano') == 0
    assert 'frame tensor(float) (any, 3, any, any)' in capsys.readouterr().out
