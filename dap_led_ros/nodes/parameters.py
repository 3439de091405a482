"""Parameters of the enhance node: names, defaults, descriptions."""

from __future__ import annotations

from dataclasses import dataclass

from rcl_interfaces.msg import IntegerRange, ParameterDescriptor
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy

from dap_led_ros.inference import weights
from dap_led_ros.inference.backends.onnx import DEVICES

QOS = {'sensor_data': ReliabilityPolicy.BEST_EFFORT, 'reliable': ReliabilityPolicy.RELIABLE}


@dataclass(frozen=True)
class Parameters:
    """Values at start; none of them can change while the node runs."""

    model: str
    device: str
    threads: int
    qos: str


def declare(node: Node) -> Parameters:
    """Declare all parameters on the node and read them.

    :raises ValueError: a value that is none of the allowed ones.
    """

    def value(name: str, default: str | int, description: str, **limits):
        descriptor = ParameterDescriptor(description=description, read_only=True, **limits)
        return node.declare_parameter(name, default, descriptor).value

    parameters = Parameters(
        model=value(
            'model',
            weights.DEFAULT,
            f'Model: one that ships ({", ".join(weights.names())}), or the path of an .onnx file '
            'or of a .safetensors checkpoint.',
        ),
        device=value(
            'device',
            'auto',
            'Where the model runs: cpu, cuda (an error if it is not there), or auto (CUDA if it '
            'works, else CPU).',
        ),
        threads=value(
            'threads',
            0,
            'Threads of one inference; 0 is one per physical core.',
            integer_range=[IntegerRange(from_value=0, to_value=256, step=1)],
        ),
        qos=value(
            'qos',
            'sensor_data',
            'Reliability of the image subscription: sensor_data (best effort, matches every '
            'camera) or reliable (matches reliable cameras only).',
        ),
    )
    for name, allowed in (('device', DEVICES), ('qos', tuple(QOS))):
        if getattr(parameters, name) not in allowed:
            raise ValueError(
                f'parameter {name} is {getattr(parameters, name)!r}: '
                f'use one of {", ".join(allowed)}'
            )
    return parameters


def subscription_profile(qos: str) -> QoSProfile:
    """QoS of the image subscription; deep enough that a burst reaches the node's own counters."""
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=5, reliability=QOS[qos])
