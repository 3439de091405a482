"""Objects in a frame: numpy in, numpy out."""

from dap_led_ros.detection.yolo import Detections, Detector, draw

__all__ = ['Detections', 'Detector', 'draw']
