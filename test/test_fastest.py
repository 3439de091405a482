"""device auto: measured once, remembered, and never slower than the plain runtime."""

from __future__ import annotations

import time

import numpy as np
import pytest

from dap_led_ros import doctor
from dap_led_ros.inference import Enhancer, fastest, weights


class Fake:
    """An enhancer that takes so long."""

    def __init__(self, seconds: float, gain: int = 2) -> None:
        self.seconds, self.gain = seconds, gain

    def network(self, frame: np.ndarray) -> tuple[np.ndarray, dict[str, float]]:
        time.sleep(self.seconds)
        return frame * self.gain, {}


class Loads:
    """Stands for Enhancer.load(); counts the loads."""

    def __init__(self, **fakes: Fake) -> None:
        self.fakes, self.asked = fakes, []

    def __call__(self, model: str, device: str, threads: int) -> Fake:
        self.asked.append(device)
        if device.replace(':', '_') not in self.fakes:
            raise RuntimeError(f'{device} is missing')
        return self.fakes[device.replace(':', '_')]


pytestmark = pytest.mark.usefixtures('cache')


def choose(load: object, **more: object) -> fastest.Choice | None:
    return fastest.choose('nano', 1, (64, 48), load, **more)


def test_the_fastest_is_taken_and_remembered(cache, monkeypatch):
    loads = Loads(cpu=Fake(0.02), cpu_extended=Fake(0.004))
    first, before = choose(loads), len(loads.asked)
    again = choose(loads)
    assert first.device == again.device == 'cpu:extended'
    assert not first.remembered and again.remembered and len(loads.asked) == before
    assert first.milliseconds == again.milliseconds and 'measured now' in str(first)
    assert len(list((cache / 'fastest').iterdir())) == 1
    # Another size, number of threads, machine or version: measured anew.
    fastest.choose('nano', 1, (80, 48), loads)
    fastest.choose('nano', 2, (64, 48), loads)
    monkeypatch.setattr(fastest, 'machine', lambda: 'another')
    choose(loads)
    assert len(list((cache / 'fastest').iterdir())) == 4
    next((cache / 'fastest').iterdir()).write_text('{broken')
    assert choose(loads).device == 'cpu:extended'


def test_a_slow_a_wrong_and_a_broken_runtime_are_not_taken(monkeypatch):
    monkeypatch.setattr(fastest.importlib.util, 'find_spec', lambda name: object())
    slow = Loads(cpu=Fake(0.004), cpu_extended=Fake(0.02), openvino=Fake(0.004))
    assert choose(slow).device == 'cpu'  # as fast is not faster
    monkeypatch.setattr(fastest, 'machine', lambda: 'another')
    wrong = Loads(cpu=Fake(0.01), cpu_extended=Fake(0.02), openvino=Fake(0.001, gain=5))
    choice = choose(wrong)
    assert choice.device == 'cpu' and set(choice.milliseconds) == {'cpu', 'cpu:extended'}
    monkeypatch.setattr(fastest, 'machine', lambda: 'a third')
    assert set(choose(Loads(cpu=Fake(0.01))).milliseconds) == {'cpu'}
    monkeypatch.setattr(fastest, 'machine', lambda: 'a fourth')
    assert choose(Loads(openvino=Fake(0.01))) is None  # who loads it is told why


def test_too_little_time_to_tell_takes_the_plain_one_for_now(cache, monkeypatch):
    loads = Loads(cpu=Fake(0.04), cpu_extended=Fake(0.01))
    monkeypatch.setattr(fastest, 'BUDGET', 0.1)
    assert choose(loads).device == 'cpu' and not cache.exists()
    monkeypatch.setattr(fastest, 'BUDGET', 9.0)
    assert choose(loads).device == 'cpu:extended'


def test_nothing_to_choose(monkeypatch):
    assert fastest.choose('no such model') is None
    assert fastest.choose(str(weights.checkpoint('nano'))) is None
    monkeypatch.setenv('DAP_LED_CACHE', 'off')
    assert choose(Loads(cpu=Fake(0.01))) is None


def test_what_is_chosen_here_runs_and_the_doctor_tells(capsys):
    choice = fastest.choose('nano', 1, (64, 48))
    assert {'cpu', 'cpu:extended'} <= set(choice.milliseconds)
    frame = np.full((48, 64, 3), 9, np.uint8)
    expected = Enhancer.load('nano', 'cpu', 1).network(frame)[0]
    found = Enhancer.load('nano', choice.device, 1).network(frame)[0]
    assert np.abs(found.astype(int) - expected).mean() < 3
    lines = [finding.what for finding in doctor._runtimes()]
    assert sum('<- device auto' in line for line in lines) == 1
    assert any(line.startswith('cpu:extended') for line in lines)
