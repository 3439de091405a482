"""Joint low-light enhancement and deblurring of camera topics for ROS 2."""
