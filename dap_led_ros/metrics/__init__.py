"""Metrics of frames, boxes and means, for training and replay alike; NumPy and OpenCV only."""
