"""What holds the package together: manifests, licence, parameters, launch file."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MANIFEST = xml.etree.ElementTree.parse(ROOT / 'package.xml').getroot()


def setup_text() -> str:
    return (ROOT / 'setup.py').read_text()


def test_package_xml_and_setup_py_agree():
    assert MANIFEST.get('format') == '3'
    for tag in ('name', 'version', 'license'):
        assert re.search(rf"'{re.escape(MANIFEST.findtext(tag))}'", setup_text())
    assert MANIFEST.find('license').get('file') == 'LICENSE'
    assert 'Apache License' in (ROOT / 'LICENSE').read_text()
    assert MANIFEST.findtext('export/build_type') == 'ament_python'
    assert (ROOT / 'resource' / MANIFEST.findtext('name')).is_file()


def test_the_run_time_needs_no_torch():
    required = re.search(r'install_requires=\[(.*?)\]', setup_text(), re.DOTALL)[1]
    extras = re.search(r"'cpu': \[(.*?)\]", setup_text())[1]
    for heavy in ('torch', 'open_clip', 'ultralytics', 'lightning'):
        assert heavy not in required + extras


def test_everything_that_ships_is_installed(tmp_path):
    """Into a folder by pip: weights, sample, launch and config files are all there."""
    source, tmp_path = tmp_path / 'source', tmp_path / 'target'
    unwanted = shutil.ignore_patterns('.git', '.venv*', 'build', 'runs', 'demo', '*.egg-info')
    shutil.copytree(ROOT, source, ignore=unwanted)  # what an earlier build left cannot help here
    install = [sys.executable, '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check']
    options = ['--no-deps', '--no-build-isolation', '--target', str(tmp_path)]
    subprocess.run([*install, *options, str(source)], check=True)
    installed = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob('*')}
    for path in (
        'dap_led_ros/weights/nano.onnx',
        'dap_led_ros/weights/priors/degradation.onnx',
        'dap_led_ros/weights/priors/degradation.safetensors',
        'dap_led_ros/weights/priors/degradation-clip-tiny/open_clip_config.json',
        'dap_led_ros/weights/priors/degradation-clip-tiny/open_clip_model.safetensors',
        'dap_led_ros/sample/garage.jpg',
        'dap_led_ros/inference/backends/onnx.py',
        'dap_led_training/configs/nano.yaml',
        'dap_led_training/degradation/night_blur.py',
        'share/ament_index/resource_index/packages/dap_led_ros',
        'share/dap_led_ros/package.xml',
        'share/dap_led_ros/launch/enhance.launch.py',
        'share/dap_led_ros/config/enhance.yaml',
        'share/dap_led_ros/config/fastdds_large_images.xml',
    ):
        assert path in installed


def test_the_commented_yaml_has_exactly_the_parameters_of_the_node():
    yaml = pytest.importorskip('yaml')
    pytest.importorskip('rclpy', reason='no ROS 2 here')
    from dataclasses import fields

    from dap_led_ros.nodes.parameters import Parameters

    content = yaml.safe_load((ROOT / 'config' / 'enhance.yaml').read_text())
    assert set(content['/**']['ros__parameters']) == {f.name for f in fields(Parameters)}


def test_the_readme_names_every_parameter_topic_and_launch_argument():
    readme = (ROOT / 'README.md').read_text()
    launch = (ROOT / 'launch' / 'enhance.launch.py').read_text()
    arguments = re.findall(r"DeclareLaunchArgument\(\s*'(\w+)'", launch)
    assert len(arguments) == 8
    config = (ROOT / 'config' / 'enhance.yaml').read_text()
    parameters = re.findall(r'^    (\w+):', config, re.MULTILINE)
    topics = ('image_raw', 'camera_info', 'enhanced/image_raw', 'enhanced/camera_info')
    for name in (*arguments, *parameters, *topics):
        assert f'`{name}`' in readme, name
    for argument in arguments:
        assert re.search(rf"value\('{argument}'\)|'{argument}'[,\)]", launch.split('def ', 1)[1])


def test_the_launch_file_shows_its_arguments(tmp_path):
    pytest.importorskip('launch_ros', reason='launch_ros is not on PyPI: source a ROS 2')
    from ament_index_python.packages import get_package_share_directory

    try:
        get_package_share_directory('dap_led_ros')
    except LookupError:
        pytest.skip('dap_led_ros is not built by colcon, or not sourced')
    shown = subprocess.run(
        ['ros2', 'launch', 'dap_led_ros', 'enhance.launch.py', '--show-args'],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for argument in ('image', 'camera_info', 'namespace', 'params_file', 'model', 'device'):
        assert f"'{argument}':" in shown
