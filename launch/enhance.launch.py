"""Enhance one camera: ros2 launch dap_led_ros enhance.launch.py image:=/camera/image_raw.

With a USB camera at hand: ros2 launch dap_led_ros enhance.launch.py camera:=usb rviz:=true.
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

# Package and executable of each camera.
DRIVERS = {
    'usb': ('v4l2_camera', 'v4l2_camera_node'),
    'usb_cam': ('usb_cam', 'usb_cam_node_exe'),
}

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
        description='auto, cpu, cuda, tensorrt, openvino, ...; empty: as in params_file.',
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
        'camera',
        default_value='',
        choices=['', *DRIVERS],
        description='Start a driver, too, as /camera/image_raw: usb (v4l2_camera) or usb_cam.',
    ),
    DeclareLaunchArgument(
        'rviz',
        default_value='false',
        choices=['true', 'false', 'True', 'False'],
        description='true: show before, after and heat-map in RViz.',
    ),
    DeclareLaunchArgument(
        'log_level', default_value='info', description='debug, info, warn, error or fatal.'
    ),
]


def generate_launch_description():
    """Arguments and the nodes."""
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=_nodes)])


def _nodes(context):
    """The node, and perhaps a camera and RViz; an argument left empty overrides no params_file.

    The environment of node and camera gets what large images need, except what is set already.
    """

    def value(name):
        return LaunchConfiguration(name).perform(context)

    image = value('image')
    if value('camera') and image == 'image_raw':
        image = '/camera/image_raw'
    camera_info = value('camera_info') or '/'.join([*image.split('/')[:-1], 'camera_info'])
    remappings = [('image_raw', image), ('camera_info', camera_info)]
    given = {name: value(name) for name in ('model', 'device') if value(name)}
    for argument, name in (('use_sim_time', 'use_sim_time'), ('detect', 'detect.enabled')):
        if value(argument):
            given[name] = value(argument).lower() == 'true'
    if value('detect_model'):
        given['detect.model'] = value('detect_model')
    if value('cameras'):
        given['cameras'] = [name for name in value('cameras').replace(' ', '').split(',') if name]
        remappings = []
    node = Node(
        package='dap_led_ros',
        executable='enhance_node',
        name='enhance',
        namespace=value('namespace'),
        output='screen',
        remappings=remappings,
        parameters=[value('params_file'), given],
        additional_env=_environment(),
        ros_arguments=['--log-level', value('log_level')],
    )
    nodes = [node]
    if value('camera'):
        nodes.append(_camera(*DRIVERS[value('camera')]))
    if value('rviz').lower() == 'true':
        nodes.append(_rviz(image, value('namespace')))
    return nodes


def _environment():
    return environment.additions(SHARE / 'config' / environment.PROFILE, os.environ)


def _camera(package, executable):
    """A driver as /camera, with the shared memory that its images need."""
    return Node(
        package=package,
        executable=executable,
        name='camera',
        namespace='/camera',
        output='screen',
        additional_env=_environment(),
    )


def _rviz(image, namespace):
    """RViz with the topics of its configuration remapped as the node's are."""
    below = f'/{namespace.strip("/")}/' if namespace.strip('/') else '/'
    names = {'/image_raw': image if image.startswith('/') else below + image}
    for name in ('enhanced/image_raw', 'enhanced/heat_map'):
        names[f'/{name}'] = below + name
    return Node(
        package='rviz2',
        executable='rviz2',
        arguments=['-d', str(SHARE / 'config' / 'enhance.rviz')],
        remappings=list(names.items()),
        additional_env=_environment(),
    )
