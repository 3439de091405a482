"""Messages for tests on machines without them, so that real ones go through real DDS.

Where ROS comes as wheels there is no vision_msgs, but there are rosidl's generators. From the
fields below (those of vision_msgs 4 and so on, so that the type hash is the same) they write a
package with one compiled file in it, and a folder on PYTHONPATH is all that it takes. Nothing is
installed.

    AMENT_PREFIX_PATH=.venv .venv/bin/python test/vision_msgs_fixture.py FOLDER vision_msgs
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

VISION = {
    'Point2D': 'float64 x\nfloat64 y\n',
    'Pose2D': 'Point2D position\nfloat64 theta\n',
    'BoundingBox2D': 'Pose2D center\nfloat64 size_x\nfloat64 size_y\n',
    'ObjectHypothesis': 'string class_id\nfloat64 score\n',
    'ObjectHypothesisWithPose': (
        'ObjectHypothesis hypothesis\ngeometry_msgs/PoseWithCovariance pose\n'
    ),
    'Detection2D': (
        'std_msgs/Header header\nObjectHypothesisWithPose[] results\n'
        'BoundingBox2D bbox\nstring id\n'
    ),
    'Detection2DArray': 'std_msgs/Header header\nDetection2D[] detections\n',
}
PACKET = (
    'std_msgs/Header header\nint32 width\nint32 height\nstring encoding\nuint64 pts\n'
    'uint8 flags\nbool is_bigendian\nuint8[] data\n'
)
VIDEO = 'builtin_interfaces/Time timestamp\nstring frame_id\nuint8[] data\nstring format\n'
PACKAGES = {
    'vision_msgs': VISION,
    'ffmpeg_image_transport_msgs': {'FFMPEGPacket': PACKET},
    'foxglove_msgs': {'CompressedVideo': VIDEO},
}
DEPENDENCIES = ('builtin_interfaces', 'geometry_msgs', 'std_msgs')
PREFIX = Path(sys.prefix)


@pytest.fixture(scope='session')
def vision_msgs(request, tmp_path_factory) -> Iterator[dict[str, str]]:
    """Make vision_msgs importable here; yields what the environment of a node needs for it."""
    yield from importable(['vision_msgs'], request, tmp_path_factory)


@pytest.fixture(scope='session')
def video_msgs(request, tmp_path_factory) -> Iterator[dict[str, str]]:
    """The same for the messages of video that ROS itself has not."""
    packages = ['ffmpeg_image_transport_msgs', 'foxglove_msgs']
    yield from importable(packages, request, tmp_path_factory)


def importable(packages: list[str], request, tmp_path_factory) -> Iterator[dict[str, str]]:
    """Make packages importable, compiled where they are missing; yields the environment."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    folders = [compiled(name, request, tmp_path_factory) for name in missing]
    sys.path[:0] = folders
    yield {'PYTHONPATH': os.pathsep.join([*folders, os.environ.get('PYTHONPATH', '')])}
    for folder in folders:
        sys.path.remove(folder)


def compiled(package: str, request, tmp_path_factory) -> str:
    """The folder with a package, made once for this machine; skips where it cannot be."""
    for name in ('gcc', 'g++'):
        if shutil.which(name) is None:
            pytest.skip(f'no {package} here, and no {name} to compile it for the test')
    needed = ('lib/librcutils.so', 'share/rosidl_generator_py', 'share/geometry_msgs')
    headers = Path(sysconfig.get_path('include')) / 'Python.h'
    for path in (*(PREFIX / name for name in needed), headers):
        if not path.exists():
            pytest.skip(f'no {package} here, and no {path} to compile it for the test')
    if os.environ.get('ROS_DISTRO') == 'jazzy':
        pytest.skip(f'no {package} here, and Jazzy wants type support that is not compiled here')
    made_from = f'{Path(__file__).read_text()} {sys.version} {PREFIX}'
    name = f'{package}_{zlib.crc32(made_from.encode()):08x}'
    if request.config.pluginmanager.has_plugin('cacheprovider'):
        folder = request.config.cache.mkdir(name) / 'lib'
    else:
        folder = tmp_path_factory.mktemp(name) / 'lib'
    if not folder.exists():
        building = Path(tmp_path_factory.mktemp('building'))
        environment = {**os.environ, 'AMENT_PREFIX_PATH': str(PREFIX)}
        command = [sys.executable, __file__, str(building), package]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        shutil.copytree(building, folder, dirs_exist_ok=True)
    return str(folder)


def build(folder: Path, name_of_package: str) -> None:
    """Write a Python package of that name into the folder; a minute of gcc at the most."""
    from rosidl_adapter.msg import convert_msg_to_idl
    from rosidl_generator_c.cli import GenerateC
    from rosidl_generator_py.cli import GeneratePython
    from rosidl_generator_type_description.cli import HashTypeDescription
    from rosidl_typesupport_c.cli import GenerateCTypesupport
    from rosidl_typesupport_fastrtps_c.cli import GenerateFastRTPSCTypesupport

    package = folder / name_of_package
    source, messages = package / 'share', PACKAGES[name_of_package]
    (source / 'msg').mkdir(parents=True)
    for name, fields in messages.items():
        path = Path('msg') / f'{name}.msg'
        (source / path).write_text(fields)
        convert_msg_to_idl(source, name_of_package, path, source / 'msg')
    what = (
        name_of_package,
        [f'{source}:msg/{name}.idl' for name in messages],
        [str(PREFIX / 'share' / name) for name in DEPENDENCIES] + [str(source)],
        package,
    )
    hashes = HashTypeDescription('').generate_type_hashes(*what)
    GenerateC('').generate(*what, type_description_files=list(map(str, hashes)))
    GenerateFastRTPSCTypesupport('').generate(*what)
    # With one middleware only, its type support is called directly and not looked up as a file:
    # so everything fits into one extension module.
    only = ['rosidl_typesupport_fastrtps_c']
    GenerateCTypesupport('', typesupport_implementations=only).generate(*what)
    GeneratePython('', typesupport_implementations=['rosidl_typesupport_c']).generate(*what)

    import numpy as np

    roots = [folder, PREFIX / 'include', *(PREFIX / 'include').iterdir()]
    includes = [*roots, sysconfig.get_path('include'), np.get_include()]
    kinds = ('generator_c', 'typesupport_c', 'typesupport_fastrtps_c', 'generator_py')
    libraries = [f'{name}__rosidl_{kind}' for name in DEPENDENCIES for kind in kinds]
    libraries += ['rosidl_runtime_c', 'rosidl_typesupport_c', 'rosidl_typesupport_fastrtps_c']
    libraries += ['rosidl_typesupport_fastrtps_cpp', 'fastcdr', 'rmw', 'rcutils', 'stdc++']
    subprocess.run(
        [
            *('gcc', '-shared', '-fPIC', '-O0', '-w'),
            *(f'-I{path}' for path in includes),
            *(str(path) for ending in ('c', 'cpp') for path in package.rglob(f'*.{ending}')),
            *('-o', str(package / f'{name_of_package}_s__rosidl_typesupport_c.so')),
            *(f'-L{PREFIX}/lib', f'-Wl,-rpath,{PREFIX}/lib'),
            *(f'-l{name}' for name in libraries),
        ],
        check=True,
    )


if __name__ == '__main__':
    build(Path(sys.argv[1]).resolve(), sys.argv[2])
