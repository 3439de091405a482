"""How a node starts and how it runs until Ctrl-C, whatever it is."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from typing import TypeVar

import rclpy
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node

from dap_led_ros.nodes import arguments

EXPECTED_AT_START = (ValueError, RuntimeError, OSError, ImportError, ParameterException)
"""What is told in one line."""
Made = TypeVar('Made')


def start(
    name: str, make: Callable[[], Made], given: list[str] | None, usage: Callable[[], str]
) -> Made | int:
    """Make a node; where it fails, and after Ctrl-C and --help, the exit status.

    :param given: arguments of the process; None: of sys.argv.
    """
    given = sys.argv[1:] if given is None else given
    if arguments.wants_help(given):
        print(usage())
        return 0
    try:
        arguments.init(given)
    except ValueError as error:
        rclpy.logging.get_logger(name).fatal(f'cannot start: {error}')
        return 1
    try:
        return make()
    except (KeyboardInterrupt, ExternalShutdownException):
        return 0
    except Exception as error:
        if not rclpy.ok():  # Ctrl-C while starting: rclpy raises whatever it was busy with
            return 0
        if not isinstance(error, EXPECTED_AT_START):
            raise
        rclpy.logging.get_logger(name).fatal(f'cannot start: {error}')
        rclpy.shutdown()
        return 1


def spin(node: Node) -> None:
    """Serve the node until Ctrl-C, of which a second one shall not interrupt the end."""
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except Exception:
        if rclpy.ok():  # else Ctrl-C took the middleware away under a callback
            raise
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def end(node: Node) -> None:
    """Let go of the node, and of the middleware if Ctrl-C has not done so."""
    node.destroy_node()
    if rclpy.ok():
        rclpy.shutdown()
