"""A recording through the live node: ros2 launch dap_led_ros replay.launch.py bag:=... topic:=...

The player publishes the recording and /clock, the node follows /clock; at the end the player
prints what the graph added, and everything shuts down.
"""

import os
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import (
    DeclareLaunchArgument,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
    Shutdown,
)
from launch.event_handlers import OnProcessExit
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from dap_led_ros.nodes import environment
from launch import LaunchDescription

SHARE = Path(get_package_share_directory('dap_led_ros'))

ARGUMENTS = [
    DeclareLaunchArgument('bag', description='Path of a rosbag2.'),
    DeclareLaunchArgument('topic', description='Image topic of the recording to enhance.'),
    DeclareLaunchArgument('rate', default_value='1.0', description='Times the pace of the bag.'),
    DeclareLaunchArgument('loop', default_value='false', description='Begin again at the end.'),
    DeclareLaunchArgument(
        'metrics', default_value='', description='Path of a JSON file for what was measured.'
    ),
]


def generate_launch_description():
    """Arguments, the enhance node in the camera's namespace, and the player."""
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=_nodes)])


def _nodes(context):
    def value(name):
        return LaunchConfiguration(name).perform(context)

    if value('topic').endswith('/compressed'):
        raise RuntimeError(
            'replay.launch.py plays raw images: for a compressed topic use dap-led replay'
        )
    namespace = value('topic').rpartition('/')[0]
    enhance = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(SHARE / 'launch' / 'enhance.launch.py')),
        launch_arguments={
            'image': value('topic'),
            'namespace': namespace,
            'use_sim_time': 'true',
        }.items(),
    )
    player = Node(
        package='dap_led_ros',
        executable='player_node',
        name='player',
        output='screen',
        parameters=[
            str(SHARE / 'config' / 'replay.yaml'),
            {
                'bag': value('bag'),
                'topic': value('topic'),
                'enhanced': f'{namespace}/enhanced/image_raw',
                'rate': float(value('rate')),
                'loop': value('loop').lower() == 'true',
                'metrics': value('metrics'),
            },
        ],
        additional_env=environment.additions(SHARE / 'config' / environment.PROFILE, os.environ),
    )
    done = RegisterEventHandler(OnProcessExit(target_action=player, on_exit=[Shutdown()]))
    return [enhance, player, done]
