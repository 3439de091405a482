"""Enhance one camera: ros2 launch dap_led_ros enhance.launch.py image:=/camera/image_raw.

Several cameras: multi_camera.launch.py, which includes this one.
"""

import os
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, OpaqueFunction
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
        'cameras',
        default_value='',
        description='Names with commas between them, for several cameras that share the model: '
        'NAME/image_raw and so on; image and camera_info are not used then.',
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
        description='Model that ships, or path of an .onnx or .safetensors file; '
        'empty: as in params_file.',
    ),
    DeclareLaunchArgument(
        'device',
        default_value='',
        description='auto, cpu, cuda or tensorrt; empty: as in params_file.',
    ),
    DeclareLaunchArgument(
        'detect',
        default_value='',
        choices=['', 'true', 'false', 'True', 'False'],
        description='true: run YOLOv8 on the enhanced frames; empty: as in params_file.',
    ),
    DeclareLaunchArgument(
        'detect_model',
        default_value='',
        description='Path of a YOLO model, .onnx or .engine; empty: as in params_file.',
    ),
    DeclareLaunchArgument(
        'use_sim_time',
        default_value='',
        choices=['', 'true', 'false', 'True', 'False'],
        description='true: follow /clock (rosbag replay); empty: as in params_file.',
    ),
    DeclareLaunchArgument(
        'log_level', default_value='info', description='debug, info, warn, error or fatal.'
    ),
]


def generate_launch_description():
    """Arguments and the node."""
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=_node)])


def _node(context):
    """The node; an argument left empty does not override params_file.

    Its environment gets what large images need, except what is set already.
    """

    def value(name):
        return LaunchConfiguration(name).perform(context)

    image = value('image')
    camera_info = value('camera_info') or '/'.join([*image.split('/')[:-1], 'camera_info'])
    given = {name: value(name) for name in ('model', 'device') if value(name)}
    for argument, name in (('use_sim_time', 'use_sim_time'), ('detect', 'detect.enabled')):
        if value(argument):
            given[name] = value(argument).lower() == 'true'
    if value('detect_model'):
        given['detect.model'] = value('detect_model')
    remappings = [('image_raw', image), ('camera_info', camera_info)]
    if value('cameras'):
        given['cameras'] = [name for name in value('cameras').replace(' ', '').split(',') if name]
        remappings = []
    profile = SHARE / 'config' / environment.PROFILE
    node = Node(
        package='dap_led_ros',
        executable='enhance_node',
        name='enhance',
        namespace=value('namespace'),
        output='screen',
        remappings=remappings,
        parameters=[value('params_file'), given],
        additional_env=environment.additions(profile, os.environ),
        ros_arguments=['--log-level', value('log_level')],
    )
    return [node]
