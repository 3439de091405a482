"""Joint low-light enhancement and deblurring for ROS 2; see README.md."""

import os

# ONNX Runtime 1.29 and later report to their maker unless this is set before their import. A robot
# does not talk to anybody unasked.
os.environ.setdefault('ORT_DISABLE_TELEMETRY', '1')
