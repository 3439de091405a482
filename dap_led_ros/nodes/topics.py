"""What the ROS graph says of a camera's topics, in words: who is there, and what does not fit.

rclpy counts by the name that it is given and does not remap it, but it does remap the name whose
endpoints it lists. So a topic that is listed comes here by the name that it was created with.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from rclpy.node import Node
from rclpy.qos import QoSCompatibility, qos_check_compatible

TRANSPORTS = {
    'sensor_msgs/msg/Image': ('raw', ''),
    'sensor_msgs/msg/CompressedImage': ('compressed', '/compressed'),
    'ffmpeg_image_transport_msgs/msg/FFMPEGPacket': ('ffmpeg', '/ffmpeg'),
    'foxglove_msgs/msg/CompressedVideo': ('foxglove', '/foxglove'),
}
"""input_transport for each type of message, and what its topic's name ends in."""
MOST_NAMES = 3


class View(NamedTuple):
    """What the graph says of a camera."""

    topic: str
    """Of its images, resolved."""
    silent: str
    """What to say when no image comes."""
    unfit: str
    """A camera whose QoS does not fit; empty: there is none."""
    troubles: dict[str, str]
    """What else is wrong, by kind."""


def nodes_of(endpoints: Iterable[Any]) -> str:
    """Names of the nodes that the endpoints belong to, for messages."""
    names = sorted({f'{e.node_namespace.rstrip("/")}/{e.node_name}' for e in endpoints})
    return ', '.join(names[:MOST_NAMES] + ['...'] * (len(names) > MOST_NAMES))


def type_name(kind: type) -> str:
    """Name of a message class as the graph has it: sensor_msgs/msg/Image."""
    return f'{kind.__module__.split(".")[0]}/msg/{kind.__name__}'


def of_type(endpoints: Iterable[Any], kind: type) -> list[Any]:
    """Those endpoints that are of a message class."""
    return [endpoint for endpoint in endpoints if endpoint.topic_type == type_name(kind)]


def why_silent(node: Node, topic: str, publishers: list[Any], kind: type) -> str:
    """Why no image may come: nobody is there, or another type, or it is silent.

    :param topic: resolved.
    :param publishers: those of the right type.
    """
    if publishers:
        return f'no images on {topic}'
    hints = _elsewhere(node, topic, kind)
    return '; '.join([f'nobody publishes {topic}', *hints])


def unfit_publishers(node: Node, created_as: str, publishers: list[Any]) -> str:
    """What to say of publishers that offer less than this node asks for; empty: none."""
    topic = node.resolve_topic_name(created_as)
    for own in _own(node, node.get_subscriptions_info_by_topic(created_as)):
        for publisher in publishers:
            misfit = _misfit(publisher, own)
            if 'Best effort' in misfit:
                return (
                    f'{topic} is best effort and this node reliable: set the parameter qos to auto'
                )
            if misfit:
                return f'{topic} does not fit qos_overrides of this node: {misfit}'
    return ''


def unfit_listeners(node: Node, created_as: str, publisher: Any) -> str:
    """What to say of listeners that ask for more, or for other types; empty: none."""
    topic, kind = publisher.topic_name, type_name(publisher.msg_type)
    listeners = node.get_subscriptions_info_by_topic(created_as)
    own = _own(node, node.get_publishers_info_by_topic(created_as)) if listeners else []
    for listener in listeners:
        if listener.topic_type != kind:
            return (
                f'{nodes_of([listener])} listens to {topic} as {_short(listener.topic_type)} and '
                f'gets nothing: it is {_short(kind)}'
            )
        if misfit := next(filter(None, (_misfit(one, listener) for one in own)), ''):
            return (
                f'{nodes_of([listener])} listens to {topic} and gets nothing, since its QoS does '
                f'not fit: {misfit}; change it there, or qos_overrides of this node'
            )
    return ''


def listeners_elsewhere(node: Node, topic: str) -> str:
    """What to say of listeners to whichever of raw and compressed is not published."""
    raw = topic.removesuffix('/compressed')
    other, value = (f'{topic}/compressed', 'jpeg') if raw == topic else (raw, 'raw')
    listeners = [
        listener
        for listener in node.get_subscriptions_info_by_topic(other)
        if nodes_of([listener]) != node.get_fully_qualified_name()
    ]
    if not listeners or node.count_publishers(other):
        return ''
    return (
        f'{nodes_of(listeners)} listens to {other}, which nobody publishes: listen to {topic}, '
        f'or set output_transport to {value}'
    )


def _elsewhere(node: Node, topic: str, kind: type) -> list[str]:
    """Where else there are images, and how to get them."""
    endings = tuple(ending for _, ending in TRANSPORTS.values() if ending)
    base = topic
    while base.endswith(endings):  # twice, where the ending was remapped, too
        base = base.rpartition('/')[0]
    names = {topic, *(base + ending for _, ending in TRANSPORTS.values())}
    hints = []
    for name in sorted(names):
        for found in sorted({e.topic_type for e in node.get_publishers_info_by_topic(name)}):
            if name == topic and found == type_name(kind):
                continue
            hint = f'{name} carries {_short(found)}'
            if found not in TRANSPORTS:
                hint += f', not {_short(type_name(kind))}: remap image_raw to a camera'
            elif found == type_name(kind):
                hint += f': remap image_raw to {base}'
            else:
                transport, ending = TRANSPORTS[found]
                hint += f': set input_transport to {transport}'
                if name == topic and ending and name.endswith(ending):
                    hint += f' and remap image_raw to {base}'
            hints.append(hint)
    return hints


def _short(type_: str) -> str:
    """sensor_msgs/Image, as people write it."""
    return type_.replace('/msg/', '/')


def _own(node: Node, endpoints: list[Any]) -> list[Any]:
    """Those of this node, as the graph has them: what rclpy keeps leaves defaults open."""
    return [e for e in endpoints if nodes_of([e]) == node.get_fully_qualified_name()]


def _misfit(publisher: Any, subscription: Any) -> str:
    """Why two endpoints do not connect, in rclpy's words without capitals; empty: they do."""
    result, reason = qos_check_compatible(publisher.qos_profile, subscription.qos_profile)
    if result != QoSCompatibility.ERROR:
        return ''
    return reason.replace('ERROR: ', '').strip('; ')
