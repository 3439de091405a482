"""Start a node: python -m dap_led_ros.nodes enhance|detect|player --ros-args ...

Python's own answer to Ctrl-C, an exception anywhere, is lost where it hits an import of a compiled
library: the node then runs on, or says that the library is missing. So Ctrl-C plainly ends the
process until rclpy has taken over; rclpy leaves it to us which exception, if any, follows.
"""

from __future__ import annotations

import importlib
import signal
import sys


def enhance() -> int:
    """Run the enhance node."""
    return _run('enhance_node')


def detect() -> int:
    """Run the detect node."""
    return _run('detect_node')


def player() -> int:
    """Run the player of recordings."""
    return _run('player')


def _run(module: str) -> int:
    """Run a node's main(); 1, with one line, where a library is missing."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        main = importlib.import_module(f'dap_led_ros.nodes.{module}').main
    except ImportError as error:  # rclpy, whose log it would be, may be what is missing
        name = module.removesuffix('_node')
        print(f'[FATAL] [{name}]: cannot start: {error}', file=sys.stderr)
        return 1
    return main()


if __name__ == '__main__':
    nodes = {'enhance': enhance, 'detect': detect, 'player': player}
    if len(sys.argv) < 2 or sys.argv[1] not in nodes:
        sys.exit(f'usage: python -m dap_led_ros.nodes {"|".join(nodes)} [--ros-args ...]')
    sys.exit(nodes[sys.argv.pop(1)]())
