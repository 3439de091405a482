"""Find out what is wrong with an installation, and how to mend it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
from dataclasses import dataclass

OPENCV_WHEELS = (
    'opencv-python',
    'opencv-python-headless',
    'opencv-contrib-python',
    'opencv-contrib-python-headless',
)
ONNXRUNTIME_WHEELS = ('onnxruntime', 'onnxruntime-gpu')


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    status: str
    """ok, note or problem."""
    what: str
    remedy: str = ''


def installed_wheels() -> dict[str, str]:
    """Name and version of every installed distribution."""
    return {
        d.metadata['Name'].lower().replace('_', '-'): d.version
        for d in importlib.metadata.distributions()
        if d.metadata['Name']
    }


def examine() -> list[Finding]:
    """Look at the running Python."""
    wheels = installed_wheels()
    return [
        Finding('ok', f'Python {platform.python_version()} on {platform.machine()}'),
        check_one_of('OpenCV', OPENCV_WHEELS, wheels, 'opencv-python-headless', module='cv2'),
        check_one_of('ONNX Runtime', ONNXRUNTIME_WHEELS, wheels, 'onnxruntime'),
        _check_model(),
        _check_ros(),
    ]


def check_one_of(
    name: str,
    choices: tuple[str, ...],
    wheels: dict[str, str],
    usual: str,
    module: str | None = None,
) -> Finding:
    """Exactly one of several wheels that own the same folder must be installed."""
    found = [f'{wheel} {wheels[wheel]}' for wheel in choices if wheel in wheels]
    if len(found) > 1:
        keep = next(w for w in reversed(choices) if w in wheels)
        if usual in wheels and name == 'OpenCV':
            keep = usual
        removed = ' '.join(wheel for wheel in choices if wheel in wheels)
        return Finding(
            'problem',
            f'{name}: {" and ".join(found)} overwrite each other',
            f'pip uninstall -y {removed} && pip install --no-cache-dir {keep}',
        )
    if found:
        return Finding('ok', f'{name}: {found[0]}')
    if importlib.util.find_spec(module or choices[0]):
        return Finding('ok', f'{name}: from the system')
    return Finding('problem', f'{name} is missing', f'pip install {usual}')


def _check_model() -> Finding:
    try:
        from dap_led_ros.inference import Enhancer

        enhancer = Enhancer.load()
    except Exception as error:
        return Finding('problem', f'the default model does not load: {error}', 'mend the above')
    return Finding('ok', f'default model: {enhancer.model} on {enhancer.provider}')


def _check_ros() -> Finding:
    for name in ('rclpy', 'sensor_msgs'):
        if importlib.util.find_spec(name) is None:
            return Finding(
                'note',
                f'ROS 2: {name} is not importable; Python and dap-led enhance work without it',
                'source /opt/ros/<distro>/setup.bash, or pip install "dap_led_ros[ros]"',
            )
    return Finding('ok', 'ROS 2: rclpy and sensor_msgs are importable')
