"""vision_msgs for tests on machines without it, so that real messages go through real DDS.

Where ROS comes as wheels there is no vision_msgs, but there are rosidl's generators. From the
fields below (those of vision_msgs 4, so that the type hash is the same) they write a package with
one compiled file in it, and a folder on PYTHONPATH is all that it takes. Nothing is installed.

    AMENT_PREFIX_PATH=.venv .venv/bin/python test/vision_msgs_fixture.py FOLDER
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

FIELDS = {
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
DEPENDENCIES = ('builtin_interfaces', 'geometry_msgs', 'std_msgs')
PREFIX = Path(sys.prefix)


@pytest.fixture(scope='session')
def vision_msgs(request, tmp_path_factory) -> Iterator[dict[str, str]]:
    """Make vision_msgs importable here; yields what the environment of a node needs for it."""
    if importlib.util.find_spec('vision_msgs') is not None:
        yield {}
        return
    for name in ('gcc', 'g++'):
        if shutil.which(name) is None:
            pytest.skip(f'no vision_msgs here, and no {name} to compile it for the test')
    needed = ('lib/librcutils.so', 'share/rosidl_generator_py', 'share/geometry_msgs')
    headers = Path(sysconfig.get_path('include')) / 'Python.h'
    for path in (*(PREFIX / name for name in needed), headers):
        if not path.exists():
            pytest.skip(f'no vision_msgs here, and no {path} to compile it for the test')
    made_from = f'{Path(__file__).read_text()} {sys.version} {PREFIX}'
    name = f'vision_msgs_{zlib.crc32(made_from.encode()):08x}'
    if request.config.pluginmanager.has_plugin('cacheprovider'):
        folder = request.config.cache.mkdir(name) / 'lib'
    else:
        folder = tmp_path_factory.mktemp(name) / 'lib'
    if not folder.exists():
        building = Path(tmp_path_factory.mktemp('building'))
        environment = {**os.environ, 'AMENT_PREFIX_PATH': str(PREFIX)}
        command = [sys.executable, __file__, str(building)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        shutil.copytree(building, folder, dirs_exist_ok=True)
    sys.path.insert(0, str(folder))
    yield {'PYTHONPATH': os.pathsep.join([str(folder), os.environ.get('PYTHONPATH', '')])}
    sys.path.remove(str(folder))


def build(folder: Path) -> None:
    """Write folder/vision_msgs, a Python package; a minute of gcc at the most."""
    from rosidl_adapter.msg import convert_msg_to_idl
    from rosidl_generator_c.cli import GenerateC
    from rosidl_generator_py.cli import GeneratePython
    from rosidl_generator_type_description.cli import HashTypeDescription
    from rosidl_typesupport_c.cli import GenerateCTypesupport
    from rosidl_typesupport_fastrtps_c.cli import GenerateFastRTPSCTypesupport

    package, source = folder / 'vision_msgs', folder / 'vision_msgs' / 'share'
    (source / 'msg').mkdir(parents=True)
    for name, fields in FIELDS.items():
        path = Path('msg') / f'{name}.msg'
        (source / path).write_text(fields)
        convert_msg_to_idl(source, 'vision_msgs', path, source / 'msg')
    what = (
        'vision_msgs',
        [f'{source}:msg/{name}.idl' for name in FIELDS],
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
            *('-o', str(package / 'vision_msgs_s__rosidl_typesupport_c.so')),
            *(f'-L{PREFIX}/lib', f'-Wl,-rpath,{PREFIX}/lib'),
            *(f'-l{name}' for name in libraries),
        ],
        check=True,
    )


if __name__ == '__main__':
    build(Path(sys.argv[1]).resolve())
