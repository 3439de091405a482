"""Parameters of the enhance node: names, defaults, descriptions, limits, and how they change.

Nothing else of the node knows about ROS parameters: it gets a `Parameters` at start and a new one
whenever a change has been accepted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields, replace
from typing import Any

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import ParameterUninitializedException
from rclpy.node import Node
from rclpy.parameter import Parameter

from dap_led_ros import image_codec
from dap_led_ros.bit_depth import AUTO
from dap_led_ros.bit_depth import SETTINGS as BIT_SETTINGS
from dap_led_ros.inference import weights
from dap_led_ros.inference.backends.onnx import DEVICES
from dap_led_ros.inference.frames import MIN_SIDE
from dap_led_ros.inference.stream import MODES, StreamSettings

QOS = ('auto', 'sensor_data', 'reliable')
INPUT_TRANSPORTS = ('raw', 'compressed', 'ffmpeg', 'foxglove')
OUTPUT_TRANSPORTS = ('raw', 'jpeg', 'png', 'h264')
_NAME = re.compile(r'([A-Za-z_]\w*(/[A-Za-z_]\w*)*)?')


def _parameter(default: Any, description: str, **more: Any) -> Any:
    """Describe a parameter: allowed values, (least, most), and when it can change.

    `changes` is 'always', 'unconfigured' (only while the node is not configured) or 'never';
    `loose`: YAML may take a value for one of another type.
    """
    return field(default=default, metadata={'description': description, **more})


_GATE = StreamSettings()


@dataclass(frozen=True)
class Parameters:
    """Values of all parameters; the order is that of the table in docs/node.md."""

    model: str = _parameter(
        weights.DEFAULT,
        f'Model: one that ships ({", ".join(weights.names())}), or the path of an .onnx file or '
        'of a .safetensors checkpoint (needs PyTorch).',
        changes='unconfigured',
    )
    device: str = _parameter(
        'auto',
        'Where the model runs. A device that is asked for and is not there is an error; auto is '
        'the best that works.',
        allowed=DEVICES,
        changes='unconfigured',
    )
    threads: int = _parameter(
        0,
        'Threads of one inference; 0 is one per usable core, and 8 at the most.',
        limits=(0, 256),
        changes='unconfigured',
    )
    warm_up: tuple[str, ...] = _parameter(
        ('640x480',),
        'Sizes, WIDTHxHEIGHT, at which the model runs once when it is loaded.',
        changes='unconfigured',
    )
    cameras: tuple[str, ...] = _parameter(
        ('',),
        'Cameras that share the model: for each name NAME/image_raw and so on. An empty name: '
        'image_raw.',
        changes='unconfigured',
    )
    qos: str = _parameter(
        'auto',
        'Reliability of the image subscription: auto (that of the publishers), sensor_data (best '
        'effort, matches every camera) or reliable (matches reliable cameras only).',
        allowed=QOS,
        changes='unconfigured',
    )
    input_transport: str = _parameter(
        'raw',
        'raw (image_raw); compressed (image_raw/compressed: JPEG, PNG or, with PyAV, H.264 and '
        'H.265); ffmpeg (image_raw/ffmpeg: FFMPEGPacket) or foxglove (image_raw/foxglove: '
        'CompressedVideo), both with PyAV.',
        allowed=INPUT_TRANSPORTS,
        changes='unconfigured',
    )
    output_transport: str = _parameter(
        'raw',
        'raw (enhanced/image_raw); jpeg, png or, with PyAV, h264 (enhanced/image_raw/compressed).',
        allowed=OUTPUT_TRANSPORTS,
        changes='unconfigured',
    )
    output_encoding: str = _parameter(
        '',
        'Encoding of the enhanced frames; empty: that of the frame that came in (of Bayer: rgb8 '
        'or rgb16).',
        allowed=('', *image_codec.WRITABLE),
        changes='unconfigured',
    )
    detect: bool = _parameter(
        False,
        name='detect.enabled',
        description='Run YOLOv8 on the enhanced frames, see detect.*.',
        changes='unconfigured',
    )
    detect_raw: bool = _parameter(
        False,
        name='detect.raw',
        description='With detect.enabled: run it on the frames that came in, too.',
        changes='unconfigured',
    )
    autostart: bool = _parameter(
        True,
        'Configure and activate at start, without a lifecycle manager.',
        changes='never',
    )
    enabled: bool = _parameter(
        True, 'false: pass every frame through. The service ~/enable sets it, too.'
    )
    mode: str = _parameter(
        _GATE.mode,
        'auto (good frames pass through, bad ones are enhanced, between them it blends), always '
        'or off.',
        allowed=MODES,
        loose=True,
    )
    strength: float = _parameter(
        _GATE.strength,
        'Share of the enhancement: 1 is all of it, 0 is the frame as it came in.',
        limits=(0.0, 1.0),
    )
    pass_below: float = _parameter(
        _GATE.pass_below,
        'Mode auto: degradation below which a frame passes through.',
        limits=(0.0, 1.0),
    )
    enhance_above: float = _parameter(
        _GATE.enhance_above,
        'Mode auto: degradation above which a frame is enhanced at full strength.',
        limits=(0.0, 1.0),
    )
    temporal: bool = _parameter(
        _GATE.temporal,
        'Let the network see what came before, which takes noise away; of models that do. false: '
        'each frame alone.',
    )
    bits: str = _parameter(
        AUTO,
        'Significant bits of 16-bit frames: auto (learned from the brightest pixel), 8 to 16, or '
        'counts (they are measurements, such as thermal ones, and pass through).',
        allowed=BIT_SETTINGS,
        loose=True,
    )
    max_rate: float = _parameter(
        0.0,
        'Enhance at most so many frames per second and camera; 0 is no limit.',
        limits=(0, 1e3),
    )
    max_age: float = _parameter(
        0.0,
        'Drop frames whose stamp is older than so many seconds; 0 is no limit.',
        limits=(0, 1e3),
    )
    debug_images: bool = _parameter(
        True, 'Publish enhanced/heat_map and enhanced/side_by_side while somebody listens.'
    )
    latency_budget: float = _parameter(
        0.2,
        'Seconds from receiving a frame to publishing it; a median above it is a WARN.',
        limits=(0.001, 60.0),
    )
    stuck_after: float = _parameter(
        5.0,
        'Seconds that one frame may take before diagnostics say ERROR.',
        limits=(0.1, 600.0),
    )

    @property
    def stream(self) -> StreamSettings:
        """What the engine wants to know."""
        return StreamSettings(
            mode=self.mode,
            strength=self.strength,
            pass_below=self.pass_below,
            enhance_above=self.enhance_above,
            temporal=self.temporal,
        )


def declare(node: Node) -> None:
    """Declare all parameters on the node.

    :raises rclpy.exceptions.ParameterException: a value of the wrong type or out of its range.
    """
    for spec in fields(Parameters):
        default = list(spec.default) if isinstance(spec.default, tuple) else spec.default
        node.declare_parameter(ros_name(spec), default, _descriptor(spec.default, spec.metadata))


def read(node: Node) -> Parameters:
    """Read all parameters.

    :raises ValueError: a value that is none of the allowed ones; the text says which are.
    """
    values = {s.name: _value(node, ros_name(s)) for s in fields(Parameters)}
    return check(Parameters(**{n: _converted(n, value) for n, value in values.items()}))


def check(parameters: Parameters) -> Parameters:
    """Return the parameters if each is allowed and they go together.

    :raises ValueError: the text says what is wrong and what is right.
    """
    for spec in fields(Parameters):
        value, allowed = getattr(parameters, spec.name), spec.metadata.get('allowed')
        if allowed and value not in allowed:
            choices = ', '.join(choice or 'empty' for choice in allowed)
            raise ValueError(f'parameter {ros_name(spec)} is {value!r}: use one of {choices}')
    for size in parameters.warm_up:
        if size and not re.fullmatch(r'[1-9]\d{1,4}x[1-9]\d{1,4}', size):
            raise ValueError(f'parameter warm_up has {size!r}: write sizes as 640x480')
        if size and min(map(int, size.split('x'))) < MIN_SIDE:
            raise ValueError(f'parameter warm_up has {size}: the least is {MIN_SIDE}x{MIN_SIDE}')
    names = [name.lstrip('/') for name in parameters.cameras]
    if not names or len(set(names)) < len(names) or not all(map(_NAME.fullmatch, names)):
        raise ValueError(
            f'parameter cameras is {list(parameters.cameras)}: use distinct names, such as front'
        )
    parameters.stream  # noqa: B018, it checks its own
    return parameters


def watch(node: Node, configured: Callable[[], bool], apply: Callable[[Parameters], None]) -> None:
    """Check every change before it happens, and hand the new values over after it.

    :param configured: whether the node is configured, so that its model and topics are fixed.
    :param apply: gets all parameters, checked.
    """
    specs = {ros_name(spec): spec for spec in fields(Parameters)}

    def accept(changes: list[Parameter]) -> SetParametersResult:
        try:
            wanted = read(node)
            for change in changes:
                spec = specs.get(change.name)
                if spec is None:
                    continue
                if spec.metadata.get('changes') == 'unconfigured' and configured():
                    raise ValueError(
                        f'parameter {change.name} is fixed while the node is configured: '
                        'deactivate and clean it up first'
                    )
                wanted = replace(wanted, **{spec.name: _converted(spec.name, change.value)})
            check(wanted)
        except ValueError as error:
            return SetParametersResult(successful=False, reason=str(error))
        if not hasattr(node, 'add_post_set_parameters_callback'):  # Humble
            apply(wanted)
        return SetParametersResult(successful=True)

    node.add_on_set_parameters_callback(accept)
    if hasattr(node, 'add_post_set_parameters_callback'):
        node.add_post_set_parameters_callback(lambda changes: apply(read(node)))


def _descriptor(default: Any, metadata: Mapping[str, Any]) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(
        description=metadata['description'],
        read_only=metadata.get('changes') == 'never',
        # YAML, and so ROS's command line, takes a plain off for the boolean and 12 for a number.
        dynamic_typing=metadata.get('loose', False),
    )
    if allowed := metadata.get('allowed'):
        descriptor.additional_constraints = 'One of: ' + ', '.join(map(repr, allowed))
    if limits := metadata.get('limits'):
        if isinstance(default, float):
            least, most = map(float, limits)
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=least, to_value=most, step=0.0)
            ]
        else:
            least, most = limits
            descriptor.integer_range = [IntegerRange(from_value=least, to_value=most, step=1)]
    return descriptor


def ros_name(spec: Field) -> str:
    """Name of a field of Parameters as a ROS parameter."""
    return spec.metadata.get('name', spec.name)


def _value(node: Node, name: str) -> Any:
    try:
        return node.get_parameter(name).value
    except ParameterUninitializedException:  # what rclpy makes of an empty list
        return []


def _converted(name: str, value: Any) -> Any:
    if name == 'mode' and value is False:
        return 'off'
    if name == 'bits' and type(value) is int:
        return str(value)
    return tuple(value) if isinstance(value, (list, tuple)) else value
