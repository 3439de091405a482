"""Several recordings: here, and on a Ray cluster of which a worker is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip('rosbags', reason='rosbags is not installed')
pytest.importorskip('mcap', reason='mcap is not installed')
pytest.importorskip('plotly', reason='plotly is not installed')

from test_replay import TOPICS, read_with_rosbags, run, write

from dap_led_ros.replay import enhance

OPTIONS = ['--topic', '/front/image_raw', '--no-video', '--no-features']


def check(out: Path, name: str, written: dict, frames: int) -> None:
    found, _ = read_with_rosbags(out / name / 'bag')
    assert all(found[topic] == written[topic] for topic in TOPICS)
    assert len(found['/front/enhanced/image_raw']) == frames


def test_several_recordings_one_of_them_lost(tmp_path, capsys):
    written = [write(tmp_path / f'drive_{index}', 'mcap', frames=3) for index in range(2)]
    (tmp_path / 'lost.mcap').write_bytes(b'nothing')
    bags = [tmp_path / name for name in ('drive_0', 'lost.mcap', 'drive_1')]
    out = tmp_path / 'out'
    assert run('replay', *bags, '--out', out, *OPTIONS) == 1
    said = capsys.readouterr()
    assert '2 of 3 recordings done' in said.out
    assert 'lost: ' in said.err
    for index in range(2):
        check(out, f'drive_{index}', written[index], 3)
    rows = {row['name']: row for row in json.loads((out / 'fleet.json').read_text())}
    assert rows['drive_1']['frames'] == {
        'read': 3, 'enhanced': 3, 'passed_through': 0, 'refused': 0
    }  # fmt: skip
    assert 'has no messages' in rows['lost']['failure']
    assert 'drive_0/report.html' in (out / 'fleet.html').read_text()
    with pytest.raises(ValueError, match='holds runs'):
        run('replay', *bags, '--out', out, *OPTIONS)


def test_a_killed_worker_costs_a_segment_and_nothing_twice(tmp_path, monkeypatch):
    """Segments of two recordings on a cluster: the same bytes as from one process."""
    pytest.importorskip('ray', reason='ray is not installed')
    psutil = pytest.importorskip('psutil', reason='psutil is not installed')
    frames = 40
    written = [write(tmp_path / f'drive_{index}', 'mcap', frames=frames) for index in range(2)]
    out, bags = tmp_path / 'out', [str(tmp_path / f'drive_{index}') for index in range(2)]
    program = (
        'import sys, ray; sys.path.insert(0, sys.argv.pop(1)); '
        'ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False); '
        'import test_replay; test_replay.enhance.PART_FRAMES = 8; '
        'sys.exit(test_replay.run(*sys.argv[1:]))'
    )
    here = str(Path(__file__).parent)
    words = ['replay', *bags, '--out', str(out), '--ray', *OPTIONS]
    process = subprocess.Popen(
        [sys.executable, '-c', program, here, *words],
        env={**os.environ, 'PYTHONPATH': here},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        killed: dict[Path, int] = {}
        deadline = time.monotonic() + 300
        while not killed:
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            whole = [*out.glob('drive_*/segments/?.json')]
            for child in psutil.Process(process.pid).children(recursive=True) if whole else ():
                if 'enhance [' in ' '.join(child.cmdline()):
                    os.kill(child.pid, signal.SIGKILL)
                    killed = {path: path.stat().st_mtime_ns for path in whole}
                    break
            time.sleep(0.01)
        said = process.communicate(timeout=300)[0]
    finally:
        process.kill()
    assert process.returncode == 0, said
    assert killed == {path: path.stat().st_mtime_ns for path in killed}
    monkeypatch.setattr(enhance, 'PART_FRAMES', 8)
    for index in range(2):
        check(out, f'drive_{index}', written[index], frames)
        assert len([*out.glob(f'drive_{index}/segments/?.json')]) == 5
        assert not (out / f'drive_{index}' / '.part').exists()
    assert run('replay', bags[0], '--out', tmp_path / 'one', *OPTIONS) == 0
    for file in (tmp_path / 'one' / 'bag').iterdir():
        assert (out / 'drive_0' / 'bag' / file.name).read_bytes() == file.read_bytes(), file.name
    rows = json.loads((out / 'fleet.json').read_text())
    assert [row['frames']['enhanced'] for row in rows] == [frames, frames]
