"""What holds the package together: manifests, licence, parameters, launch file."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path

import pytest
from conftest import imported_by

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


ROSDEP_KEYS = {'cv2': 'python3-opencv', 'numpy': 'python3-numpy', 'tqdm': 'python3-tqdm'}
ROSDEP_KEYS |= {'PIL': 'python3-pil', 'yaml': 'python3-yaml'}
OF_EXTRAS = {'jinja2', 'matplotlib', 'mcap', 'onnx', 'open_clip', 'plotly', 'rosbags', 'ruamel'}
OF_EXTRAS |= {
    'av',
    'mcap_protobuf',
    'onnxruntime',
    'onnxscript',
    'openvino',
    'pillow_heif',
    'pyiqa',
    'ray',
    'safetensors',
    'torch',
    'ultralytics',
    'zstandard',
}


def test_package_xml_names_what_the_code_imports_and_no_more():
    """On a ROS machine rosdep installs that; the extras of setup.py are installed by hand."""
    imported = set()
    for path in (*ROOT.glob('dap_led_ros/**/*.py'), *ROOT.glob('launch/*.py')):
        imported |= imported_by(path)
    imported -= sys.stdlib_module_names | OF_EXTRAS | {'dap_led_ros'}
    declared = {depend.text for depend in MANIFEST.iter('exec_depend')}
    assert declared == {ROSDEP_KEYS.get(name, name) for name in imported}


def workflow(name: str) -> dict:
    yaml = pytest.importorskip('yaml')
    return yaml.safe_load((ROOT / '.github' / 'workflows' / f'{name}.yml').read_text())['jobs']


def test_a_release_has_a_wheel_and_the_images_that_the_ci_builds():
    jobs = workflow('release')
    built = [
        job['strategy']['matrix']['include'] for job in (jobs['images'], workflow('ci')['docker'])
    ]
    assert built[0] == built[1]
    steps = ' '.join(step.get('run', '') for step in jobs['wheel']['steps'])
    assert 'python -m build --wheel' in steps
    check = next(s['run'] for s in jobs['wheel']['steps'] if 'version' in s.get('name', ''))
    variables = {**os.environ, 'GITHUB_REF_NAME': f'v{MANIFEST.findtext("version")}'}
    for name, status in ((variables['GITHUB_REF_NAME'], 0), ('v9.9.9', 1)):
        done = subprocess.run(
            ['bash', '-c', check],
            env={**variables, 'GITHUB_REF_NAME': name},
            cwd=ROOT,
            check=False,
        )
        assert done.returncode == status


def test_the_containers_and_the_ci_are_of_the_same_distributions():
    jobs = workflow('ci')
    distros = {'humble', 'jazzy', 'kilted', 'lyrical', 'rolling'}
    assert set(jobs['ros']['strategy']['matrix']['distro']) == distros
    built = jobs['docker']['strategy']['matrix']['include']
    assert {build['distro'] for build in built} == distros
    dockerfile = (ROOT / 'docker' / 'Dockerfile').read_text()
    declared = re.findall(r'^ARG (\w+)=(\w+)$', dockerfile, re.MULTILINE)
    assert dict(declared) == {'ROS_DISTRO': 'jazzy', 'RUNTIME': 'cpu'}
    for name, _ in declared:
        assert re.search(rf'\$\{{?{name}\b', dockerfile)
    runtimes = set(re.findall(r'^ +(\w+)\) wheel=', dockerfile, re.MULTILINE))
    assert runtimes == {build['runtime'] for build in built} == {'cpu', 'gpu'}
    for source in re.findall(r'^COPY (?:--\S+ )*(\S+) ', dockerfile, re.MULTILINE):
        assert (ROOT / source).exists()


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
        'dap_led_training/recipes/nano_0_1/1_night.yaml',
        'dap_led_training/recipes/nano/1_day.yaml',
        'dap_led_training/data/judge_photographs.txt',
        'dap_led_training/recipes/companions/da_clip/1_controller.yaml',
        'dap_led_training/night/night_blur.py',
        'dap_led_training/deprecated/evaluate.py',
        'share/ament_index/resource_index/packages/dap_led_ros',
        'share/dap_led_ros/package.xml',
        'share/dap_led_ros/launch/enhance.launch.py',
        'share/dap_led_ros/launch/multi_camera.launch.py',
        'share/dap_led_ros/config/enhance.yaml',
        'share/dap_led_ros/config/detect.yaml',
        'share/dap_led_ros/config/fastdds_large_images.xml',
    ):
        assert path in installed


def test_the_commented_yaml_has_exactly_the_parameters_of_the_node():
    yaml = pytest.importorskip('yaml')
    pytest.importorskip('rclpy', reason='no ROS 2 here')
    from dataclasses import fields

    from dap_led_ros.nodes import detections, parameters

    names = {parameters.ros_name(spec) for spec in fields(parameters.Parameters)}
    names |= {f'detect.{spec.name}' for spec in fields(detections.Settings)}
    content = yaml.safe_load((ROOT / 'config' / 'enhance.yaml').read_text())['/**']
    written = content['ros__parameters']
    written |= {f'detect.{name}': value for name, value in written.pop('detect').items()}
    assert set(written) == names
    pages = [(ROOT / name).read_text() for name in ('docs/node.md', 'README.md')]
    for spec in fields(parameters.Parameters):
        name = parameters.ros_name(spec)
        default = list(spec.default) if isinstance(spec.default, tuple) else spec.default
        assert written[name] == default, name
        rows = [
            re.search(rf'^\| `{re.escape(name)}` \| `(.*?)` \|', page, re.MULTILINE)
            for page in pages
        ]
        if not name.startswith('detect.'):
            assert rows[0], f'docs/node.md: {name}'
        assert all(yaml.safe_load(row[1]) == default for row in rows if row), name


def test_imports_point_down_and_in_no_circle():
    pytest.importorskip('importlinter', reason='no import-linter: pip install import-linter')
    code = 'from importlinter.cli import lint_imports_command; lint_imports_command()'
    command = [sys.executable, '-c', code, '--no-logo', '--no-cache']
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert 'kept, 0 broken' in done.stdout


LINK = re.compile(r'\]\((?!https?:|#)([^)#\s]+)')


def test_the_links_of_all_pages_lead_to_files():
    listed = subprocess.run(
        ['git', '-C', str(ROOT), 'ls-files', '*.md'], capture_output=True, text=True
    ).stdout.split()
    if not listed:
        pytest.skip('no git checkout')
    pages = [ROOT / name for name in listed if (ROOT / name).is_file()]
    links = [(page, link) for page in pages for link in LINK.findall(page.read_text())]
    assert len(links) > 30
    for page, link in links:
        assert (page.parent / link).exists(), f'{page.relative_to(ROOT)}: {link}'


def test_enhancing_leaves_no_trace_in_the_home_folder(tmp_path):
    """ONNX Runtime, left to itself, makes an identity for its usage reports there."""
    pytest.importorskip('onnxruntime')
    code = (
        'import numpy as np; from dap_led_ros.inference import Enhancer; '
        'Enhancer.load().enhance(np.zeros((32, 32, 3), np.uint8))'
    )
    variables = {n: v for n, v in os.environ.items() if not n.startswith(('XDG_', 'ORT_'))}
    command = [sys.executable, '-c', code]
    subprocess.run(command, check=True, cwd=ROOT, env={**variables, 'HOME': str(tmp_path)})
    assert list(tmp_path.rglob('*')) == []


LAUNCH_FILES = sorted(path.name for path in (ROOT / 'launch').glob('*.launch.py'))
DECLARED = re.compile(r"DeclareLaunchArgument\(\s*'(\w+)'")


def launch_text(name: str) -> str:
    return (ROOT / 'launch' / name).read_text()


def test_the_node_s_page_names_every_parameter_and_topic():
    page = (ROOT / 'docs' / 'node.md').read_text()
    config = (ROOT / 'config' / 'enhance.yaml').read_text()
    parameters = re.findall(r'^    ([\w.]+):', config, re.MULTILINE)
    assert parameters
    topics = ('image_raw', 'camera_info', 'enhanced/image_raw', 'enhanced/camera_info')
    for name in (*parameters, *topics):
        assert f'`{name}`' in page, name


@pytest.mark.parametrize('name', LAUNCH_FILES)
def test_launch_arguments_are_used_and_documented(name):
    launch = launch_text(name)
    pages = ''.join((ROOT / 'docs' / page).read_text() for page in ('node.md', 'bags.md'))
    arguments = DECLARED.findall(launch)
    assert arguments
    assert name in pages
    body = DECLARED.sub('', launch)
    for argument in arguments:
        assert f"'{argument}'" in body, f'{argument} is declared and used by nothing'
        assert f'`{argument}`' in pages, argument


@pytest.mark.parametrize('name', LAUNCH_FILES)
def test_launch_files_show_their_arguments(name):
    pytest.importorskip('launch_ros', reason='launch_ros is not on PyPI: source a ROS 2')
    from ament_index_python.packages import get_package_share_directory

    try:
        get_package_share_directory('dap_led_ros')
    except LookupError:
        pytest.skip('dap_led_ros is not built by colcon, or not sourced')
    shown = subprocess.run(
        ['ros2', 'launch', 'dap_led_ros', name, '--show-args'],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    for argument in DECLARED.findall(launch_text(name)):
        assert f"'{argument}':" in shown


@pytest.mark.slow
@pytest.mark.parametrize('python', ['3.10', '3.12'])
def test_wheels_for_aarch64_are_there(tmp_path, python):
    """For Jetsons and Raspberry Pis, from Ubuntu 22.04 on; nothing is installed."""
    known = ('cpu', 'openvino', 'bags')
    extras = [re.search(rf"'{name}': \[(.*?)\]", setup_text(), re.DOTALL)[1] for name in known]
    wanted = re.findall(r"'([^']+)'", ' '.join(extras))
    wanted += re.findall(r"'(opencv[^']+|pillow>[^']+)'", setup_text())[:2]
    command = [sys.executable, '-m', 'pip', 'install', '--dry-run', '--ignore-installed']
    command += ['--only-binary=:all:', '--python-version', python, '--target', str(tmp_path)]
    for glibc in (17, 24, 26, 27, 28, 31, 34, 35):
        command += ['--platform', f'manylinux_2_{glibc}_aarch64']
    command += ['--platform', 'manylinux2014_aarch64', '--report', str(tmp_path / 'report.json')]
    done = subprocess.run([*command, *wanted], capture_output=True, text=True)
    if re.search(r'NewConnectionError|Temporary failure in name resolution', done.stderr):
        pytest.skip('offline')
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / 'report.json').read_text())['install']
    names = {one['metadata']['name'].lower() for one in found}
    assert {'onnxruntime', 'opencv-python-headless', 'openvino', 'numpy', 'mcap'} <= names
    wheels = ' '.join(one['download_info']['url'] for one in found)
    assert wheels.count('aarch64') >= 4 and 'x86_64' not in wheels
