"""The commands replay, look and compare. They import what they need when they run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dap_led_ros.replay.errors import clear


def add_commands(commands: Any) -> None:
    """Add them to the sub-parsers of dap-led."""
    replay = commands.add_parser('replay', help='enhance a rosbag2 and report what that did to it')
    add = replay.add_argument
    add(
        'bag',
        type=_bag,
        nargs='+',
        metavar='BAG',
        help='folder of a rosbag2, or an .mcap or .db3 file; of several, one report in all',
    )
    add('--out', type=Path, required=True, help='folder for the bag, the video and the report')
    add(
        '--topic',
        action='append',
        default=[],
        help='image topic to enhance, may be given again; default: all of colour or grey',
    )
    add('--model', default='nano', help='name, or path of an .onnx or .safetensors file')
    add('--device', default='auto', help='auto, cpu or cuda')
    add('--detect', metavar='WEIGHTS', help='YOLO model: count detections before and after')
    add('--allow-pickle', action='store_true', help='open .pt WEIGHTS, which may execute anything')
    add(
        '--reference',
        action='append',
        default=[],
        metavar='[CAMERA=]TOPIC',
        help='topic with what a perfect camera would have seen, at equal stamps: PSNR, SSIM',
    )
    add('--no-features', dest='features', action='store_false', help='without ORB features')
    add(
        '--odometry',
        action='store_true',
        help='visual odometry on each side, and its errors where the bag has poses',
    )
    add('--no-iqa', dest='iqa', action='store_false', help='without NIQE, MUSIQ and NRQM')
    add('--no-video', dest='video', action='store_false', help='without side-by-side videos')
    add(
        '--format', choices=('mcap', 'sqlite3'), help='of the bag that is written; default: as BAG'
    )
    add('--humble', action='store_true', help='write a bag that ROS 2 Humble and Iron can read')
    add(
        '--require',
        action='append',
        default=[],
        metavar='CONDITION',
        help='such as inliers>=1.2x (of before) or harmed<=2%%, for every camera; may be given '
        'again; else the exit status is 3',
    )
    add('--resume', action='store_true', help='go on with a run that was interrupted')
    add('--ray', action='store_true', help='spread BAGs and parts of them over a Ray cluster')
    replay.set_defaults(run=_replay)

    _add_others(commands)


def _add_others(commands: Any) -> None:
    look = commands.add_parser('look', help='say what a bag, a video or a folder holds')
    look.add_argument('input', type=_bag, metavar='BAG', help='also a video, or a folder')
    look.add_argument('--html', type=Path, metavar='FILE.html', help='also a page with pictures')
    look.add_argument('--overwrite', action='store_true', help='replace FILE.html')
    look.set_defaults(run=_look)

    compare = commands.add_parser('compare', help='compare two runs of replay on the same bag')
    compare.add_argument('a', type=Path, metavar='OUT_A')
    compare.add_argument('b', type=Path, metavar='OUT_B')
    compare.add_argument('--out', type=Path, metavar='FILE.html', help='also write a page')
    compare.add_argument('--overwrite', action='store_true', help='replace FILE.html')
    compare.set_defaults(run=_compare)


def _bag(text: str) -> Path:
    """Path of a bag; storages are searched by their indices, so that it must be a file system."""
    if '://' in text:
        raise argparse.ArgumentTypeError(
            f'{text} is no path: mount the bucket (mount-s3, rclone mount) or copy the bag'
        )
    return Path(text)


def _replay(options: argparse.Namespace) -> int:
    from dap_led_ros.replay import many_bags
    from dap_led_ros.replay import run as replay

    try:
        if len(options.bag) > 1 or options.ray:
            return many_bags.run(options)
        options.bag = options.bag[0]
        return replay.run(options)
    except OSError as error:
        raise OSError(clear(error)) from error


def _look(options: argparse.Namespace) -> int:
    from dap_led_ros.replay import look

    try:
        return look.run(options)
    except OSError as error:
        raise OSError(clear(error)) from error


def _compare(options: argparse.Namespace) -> int:
    from dap_led_ros.replay import compare

    try:
        return compare.run(options)
    except OSError as error:
        raise OSError(clear(error)) from error
