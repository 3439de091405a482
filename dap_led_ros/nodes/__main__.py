"""Start a node: python -m dap_led_ros.nodes enhance|detect|player --ros-args ...

Python's own answer to Ctrl-C, an exception anywhere, is lost where it hits an import of a compiled
library: the node then runs on, or says that the library is missing. So Ctrl-C plainly ends the
process until rclpy has taken over; rclpy leaves it to us which exception, if any, follows.
"""

from __future__ import annotations

import signal
import sys


def enhance() -> int:
    """Run the enhance node."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from dap_led_ros.nodes.enhance_node import main

    return main()


def detect() -> int:
    """Run the detect node."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from dap_led_ros.nodes.detect_node import main

    return main()


def player() -> int:
    """Run the player of recordings."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from dap_led_ros.nodes.player import main

    return main()


if __name__ == '__main__':
    nodes = {'enhance': enhance, 'detect': detect, 'player': player}
    if len(sys.argv) < 2 or sys.argv[1] not in nodes:
        sys.exit(f'usage: python -m dap_led_ros.nodes {"|".join(nodes)} [--ros-args ...]')
    sys.exit(nodes[sys.argv.pop(1)]())
