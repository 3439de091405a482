"""ROS 2 nodes. Nothing outside this folder and launch/ imports rclpy."""
