"""Arguments of several verbs."""

from __future__ import annotations

import argparse
from pathlib import Path


def path_of_bag(text: str) -> Path:
    """Path of a bag; storages are searched by their indices, so that it must be a file system."""
    if '://' in text:
        raise argparse.ArgumentTypeError(
            f'{text} is no path: mount the bucket (mount-s3, rclone mount) or copy the bag'
        )
    return Path(text)


def size(text: str) -> tuple[int, int]:
    """Width and height of an argument such as 640x480."""
    try:
        width, height = map(int, text.split('x'))
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text} is no size: write 640x480') from None
    if min(width, height) < 16:
        raise argparse.ArgumentTypeError(f'{text}: the least is 16x16')
    return width, height
