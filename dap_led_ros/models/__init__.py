"""Networks in pure torch: no file, no ROS, no command line. One file per network."""
