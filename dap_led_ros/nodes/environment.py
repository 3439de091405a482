"""Process environment that large images need; used by the launch files, the demo and the tests.

Why: Fast DDS gives a publisher 512 KB of shared memory, less than one 640x480 colour frame, and
best-effort messages that do not fit are lost without a word. And glibc returns every large buffer
to the kernel, so that each frame pays for fresh pages.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from pathlib import Path

from ament_index_python.packages import get_package_share_directory

PROFILE = 'fastdds_large_images.xml'

_ALLOCATOR = {
    'MALLOC_MMAP_THRESHOLD_': '67108864',
    'MALLOC_TRIM_THRESHOLD_': '268435456',
    'MALLOC_TOP_PAD_': '67108864',
}
_PROFILE_VARIABLE = 'FASTDDS_DEFAULT_PROFILES_FILE'
_PROFILE_VARIABLE_BEFORE_KILTED = 'FASTRTPS_DEFAULT_PROFILES_FILE'
_USER_CHOSE_TRANSPORT = (
    _PROFILE_VARIABLE,
    _PROFILE_VARIABLE_BEFORE_KILTED,
    'FASTDDS_BUILTIN_TRANSPORTS',
)


def find_profile() -> Path:
    """Path of the profile: of the ROS package, of the Python environment, or of the source tree.

    :raises FileNotFoundError: it is in none of them.
    """
    folders = [Path(sys.prefix) / 'share' / 'dap_led_ros', Path(__file__).resolve().parents[2]]
    with contextlib.suppress(OSError, LookupError):  # no ROS environment, no such package
        folders.insert(0, Path(get_package_share_directory('dap_led_ros')))
    for folder in folders:
        if (folder / 'config' / PROFILE).is_file():
            return folder / 'config' / PROFILE
    raise FileNotFoundError(f'config/{PROFILE} is in none of: {", ".join(map(str, folders))}')


def additions(profile: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Variables to add to `environment`. What is set there stays: the user knows better.

    :param profile: path of fastdds_large_images.xml (in the package's share/config).
    """
    wanted = dict(_ALLOCATOR)
    if not any(name in environment for name in _USER_CHOSE_TRANSPORT):
        old = environment.get('ROS_DISTRO') in ('humble', 'iron', 'jazzy')
        wanted[_PROFILE_VARIABLE_BEFORE_KILTED if old else _PROFILE_VARIABLE] = str(profile)
    return {name: value for name, value in wanted.items() if name not in environment}
