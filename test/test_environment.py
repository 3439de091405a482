"""What the launch file and the demo add to the environment of a process."""

from __future__ import annotations

import xml.etree.ElementTree
from pathlib import Path

import pytest

pytest.importorskip('ament_index_python', reason='no ROS 2 here')

from dap_led_ros.nodes import environment

PROFILE = Path('/profile.xml')


@pytest.mark.parametrize(
    ('distro', 'variable'),
    [
        ({}, 'FASTDDS_DEFAULT_PROFILES_FILE'),
        ({'ROS_DISTRO': 'kilted'}, 'FASTDDS_DEFAULT_PROFILES_FILE'),
        ({'ROS_DISTRO': 'humble'}, 'FASTRTPS_DEFAULT_PROFILES_FILE'),
    ],
)
def test_the_profile_is_added_where_there_is_none(distro, variable):
    added = environment.additions(PROFILE, distro)
    assert added[variable] == '/profile.xml'
    assert added['MALLOC_MMAP_THRESHOLD_'] == '67108864'
    assert len(added) == 4


@pytest.mark.parametrize(
    'variable',
    [
        'FASTDDS_DEFAULT_PROFILES_FILE',
        'FASTRTPS_DEFAULT_PROFILES_FILE',
        'FASTDDS_BUILTIN_TRANSPORTS',
    ],
)
def test_what_the_user_has_set_stays(variable):
    mine = {variable: '/mine.xml', 'MALLOC_TRIM_THRESHOLD_': '1'}
    added = environment.additions(PROFILE, mine)
    assert sorted(added) == ['MALLOC_MMAP_THRESHOLD_', 'MALLOC_TOP_PAD_']


def test_the_profile_is_there_and_large_enough_for_a_frame():
    root = xml.etree.ElementTree.parse(environment.find_profile()).getroot()
    sizes = [int(e.text) for e in root.iter() if e.tag.endswith('segment_size')]
    assert sizes
    assert min(sizes) >= 1920 * 1080 * 3
