"""dap-led replay: enhance bags and report what that did to them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from dap_led_ros.cli.arguments import path_of_bag
from dap_led_ros.replay.errors import clear
from dap_led_ros.replay.options import ReplayOptions


def add_command(commands: Any) -> None:
    """Add it to the sub-parsers of dap-led."""
    replay = commands.add_parser('replay', help='enhance a rosbag2 and report what that did to it')
    add = replay.add_argument
    add(
        'bag',
        type=path_of_bag,
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
    replay.set_defaults(run=_run)


def typed(options: argparse.Namespace) -> ReplayOptions:
    """The options of one bag, the first one that is named."""
    return ReplayOptions(
        bag=options.bag[0],
        out=options.out,
        topics=tuple(options.topic),
        model=options.model,
        device=options.device,
        detect=options.detect,
        allow_pickle=options.allow_pickle,
        references=tuple(options.reference),
        features=options.features,
        odometry=options.odometry,
        iqa=options.iqa,
        video=options.video,
        storage=options.format,
        humble=options.humble,
        require=tuple(options.require),
        resume=options.resume,
    )


def _run(options: argparse.Namespace) -> int:
    from dap_led_ros.replay import many_bags, run

    one = typed(options)
    try:
        if len(options.bag) > 1 or options.ray:
            return many_bags.replay_all(options.bag, one, options.ray)
        return run.replay(one)
    except OSError as error:
        raise OSError(clear(error)) from error
