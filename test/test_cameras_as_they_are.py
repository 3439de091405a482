"""Cameras as they are, over real DDS: camera info, significant bits, JPEG with a tail."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='no ROS 2 here: source one, or let make test install it')

from conftest import wait_until
from ros_graph import graph, image, running, settle, stamp
from sensor_msgs.msg import CameraInfo, Image

__all__ = ['graph', 'running']


def test_the_camera_info_beside_a_remapped_image(graph, start_node, night):
    """As image_transport: where only image_raw is remapped, its camera_info goes with it."""
    camera = graph.camera()
    for publisher in (camera.images, camera.camera_infos):
        camera.destroy_publisher(publisher)
    images = camera.create_publisher(Image, '/cam/front/image_raw', 5)
    infos = camera.create_publisher(CameraInfo, '/cam/front/camera_info', 5)
    remap = ['-r', 'image_raw:=/cam/front/image_raw']
    node = start_node('enhance', remap, graph.variables)
    assert wait_until(
        lambda: images.get_subscription_count() and infos.get_subscription_count()
    ), node.log
    settle()
    message = image(night[0][:48, :64], 'rgb8', 1)
    infos.publish(CameraInfo(header=message.header, height=48, width=64))
    settle()
    images.publish(message)
    assert wait_until(lambda: stamp(message) in camera.enhanced_infos), node.log
    assert node.interrupt()[0] == 0
    explicit = start_node('enhance', [*remap, '-r', 'camera_info:=/calibration'], graph.variables)
    assert wait_until(lambda: camera.count_subscribers('/calibration') == 1), explicit.log
    assert infos.get_subscription_count() == 0


def test_intrinsics_of_another_size_are_never_published(running, night):
    """Not even with the stamp of the image; a region of interest, binned, is what it covers."""
    camera, node = running
    roomy = CameraInfo(height=480, width=640)
    binned = CameraInfo(height=192, width=256, binning_x=2, binning_y=2)
    binned.roi.height, binned.roi.width = 96, 128
    for number, (info, comes) in enumerate(
        ((roomy, False), (binned, True), (CameraInfo(), True), (roomy, False))
    ):
        message = image(night[0][:48, :64], 'rgb8', number)
        info.header = message.header
        camera.camera_infos.publish(info)
        settle()
        assert camera.send(message) is not None, node.log
        assert wait_until(lambda m=message: stamp(m) in camera.enhanced_infos, 1) == comes
    text = 'camera_info is of 640x480 and the images are of 64x48: it is not republished'
    assert camera.diagnosed(lambda s: text in s.message) is not None, node.log
