"""Enhance one camera: ros2 launch dap_led_ros enhance.launch.py image:=/camera/image_raw."""

import os
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from dap_led_ros.nodes import environment
from launch import LaunchDescription

SHARE = Path(get_package_share_directory('dap_led_ros'))

ARGUMENTS = [
    DeclareLaunchArgument(
        'image', default_value='image_raw', description='Topic of the camera to enhance.'
    ),
    DeclareLaunchArgument(
        'camera_info',
        default_value='',
        description='Topic of its camera_info; empty: the one beside the image.',
    ),
    DeclareLaunchArgument(
        'namespace',
        default_value='',
        description='Namespace of the node and of enhanced/image_raw and enhanced/camera_info.',
    ),
    DeclareLaunchArgument(
        'params_file',
        default_value=str(SHARE / 'config' / 'enhance.yaml'),
        description='YAML file of parameters.',
    ),
    DeclareLaunchArgument(
        'model',
        default_value='',
        description='Model that ships, or path of an .onnx file; empty: as in params_file.',
    ),
    DeclareLaunchArgument(
        'device',
        default_value='',
        description='auto, cpu or cuda; empty: as in params_file.',
    ),
    DeclareLaunchArgument(
        'use_sim_time', default_value='false', description='Follow /clock (rosbag replay).'
    ),
    DeclareLaunchArgument(
        'log_level', default_value='info', description='debug, info, warn, error or fatal.'
    ),
]


def generate_launch_description():
    """Arguments, the environment that large images need, and the node."""
    profile = SHARE / 'config' / environment.PROFILE
    variables = environment.additions(profile, os.environ)
    return LaunchDescription(
        [
            *ARGUMENTS,
            *(SetEnvironmentVariable(name, value) for name, value in variables.items()),
            OpaqueFunction(function=_node),
        ]
    )


def _node(context):
    """The node; an argument left empty does not override params_file."""

    def value(name):
        return LaunchConfiguration(name).perform(context)

    image = value('image')
    camera_info = value('camera_info') or '/'.join([*image.split('/')[:-1], 'camera_info'])
    given = {name: value(name) for name in ('model', 'device') if value(name)}
    sim_time = {'use_sim_time': value('use_sim_time').lower() == 'true'}
    node = Node(
        package='dap_led_ros',
        executable='enhance_node',
        name='enhance',
        namespace=value('namespace'),
        output='screen',
        remappings=[('image_raw', image), ('camera_info', camera_info)],
        parameters=[value('params_file'), {**given, **sim_time}],
        ros_arguments=['--log-level', value('log_level')],
    )
    return [node]
