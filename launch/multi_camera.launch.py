"""Enhance several cameras with one model: ros2 launch ... multi_camera.launch.py cameras:=a,b.

Takes every other argument of enhance.launch.py, too.
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

from launch import LaunchDescription

ENHANCE = Path(get_package_share_directory('dap_led_ros')) / 'launch' / 'enhance.launch.py'


def generate_launch_description():
    """Arguments and the one node."""
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                'cameras',
                description='Names with commas between them: front,left for front/image_raw and '
                'left/image_raw.',
            ),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(str(ENHANCE)),
                launch_arguments={'cameras': LaunchConfiguration('cameras')}.items(),
            ),
        ]
    )
