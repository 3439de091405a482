"""Find out what is wrong with an installation, and how to mend it."""

from __future__ import annotations

import importlib
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
ONNXRUNTIME_WHEELS = (
    'onnxruntime',
    'onnxruntime-directml',
    'onnxruntime-gpu',
    'onnxruntime-openvino',
    'onnxruntime-qnn',
    'onnxruntime-rocm',
    'onnxruntime-training',
)


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
        check_one_of('OpenCV', OPENCV_WHEELS, wheels, 'opencv-python-headless', 'cv2'),
        check_one_of('ONNX Runtime', ONNXRUNTIME_WHEELS, wheels, 'onnxruntime', 'onnxruntime'),
        _check_model(),
        *_runtimes(),
        _check_ros(),
    ]


def check_one_of(
    name: str, choices: tuple[str, ...], wheels: dict[str, str], usual: str, module: str
) -> Finding:
    """Exactly one of several wheels that own the same folder must be installed, and work.

    :param choices: names of the wheels.
    :param wheels: what is installed: name and version.
    :param usual: the wheel to install where there is none, and to keep of several OpenCVs.
    :param module: what Python imports.
    """
    there = [wheel for wheel in choices if wheel in wheels]
    found = ' and '.join(f'{wheel} {wheels[wheel]}' for wheel in there)
    if len(there) > 1:
        # Of two OpenCVs keep the headless one; of two ONNX Runtimes the one for the accelerator.
        keep = usual if usual in there and module == 'cv2' else there[-1]
        return Finding(
            'problem',
            f'{name}: {found} overwrite each other',
            f'pip uninstall -y {" ".join(there)} && pip install --no-cache-dir {keep}',
        )
    try:
        importlib.import_module(module)
    except Exception as error:
        if there:
            again = f'pip install --force-reinstall --no-deps {there[0]}'
            return Finding('problem', f'{name}: {found} does not import: {error}', again)
        return Finding('problem', f'{name} is missing: {error}', f'pip install {usual}')
    return Finding('ok', f'{name}: {found or "from the system"}')


def _check_model() -> Finding:
    try:
        from dap_led_ros.inference import Enhancer

        enhancer = Enhancer.load()
    except Exception as error:
        return Finding('problem', f'the default model does not load: {error}', 'mend the above')
    return Finding('ok', f'default model: {enhancer.model} on {enhancer.provider}')


def _runtimes() -> list[Finding]:
    """What each runtime takes on this machine, and which one device auto takes."""
    try:
        from dap_led_ros.inference import fastest, weights

        choice = fastest.choose(weights.DEFAULT)
    except Exception as error:
        return [Finding('note', f'the runtimes were not measured: {error}', 'mend the above')]
    if choice is None:
        return []
    plain = choice.milliseconds[fastest.PLAIN]
    return [
        Finding(
            'ok',
            f'{device:13}{taken:7.1f} ms  {taken / plain:5.2f} of {fastest.PLAIN}  {choice.size}'
            + ('  <- device auto' if device == choice.device else ''),
        )
        for device, taken in choice.milliseconds.items()
    ]


def _check_ros() -> Finding:
    for name in ('rclpy', 'sensor_msgs'):
        if importlib.util.find_spec(name) is None:
            return Finding(
                'note',
                f'ROS 2: {name} is not importable; Python and dap-led enhance work without it',
                'source /opt/ros/<distro>/setup.bash, or pip install "dap_led_ros[ros]"',
            )
    return Finding('ok', 'ROS 2: rclpy and sensor_msgs are importable')
