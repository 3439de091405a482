"""What the node costs and bears: python -m dap_led_ros.nodes.benchmark overhead|load|soak.

overhead: frames go to a bare relay (a callback that publishes what it got) and to the enhance node
with a model that does nothing, in turn, each in its own process; the node decodes and encodes in
full. Printed: medians of the way there and back, and their ratio.

load: 30 frames/s of 640x480 for a minute into the node with an ONNX model of about 80 ms, or with
--model. Printed: the age of the results beside the time of one inference, what became of the
frames, how long a parameter request takes meanwhile, and what the memory does.

soak: an hour in the life of a camera, see soak.py.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import rclpy
from rcl_interfaces.srv import GetParameters
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from sensor_msgs.msg import Image
from tqdm import tqdm

from dap_led_ros.inference.frames import Enhanced
from dap_led_ros.inference.stream import StreamSettings
from dap_led_ros.nodes import soak
from dap_led_ros.nodes.probe import PATIENCE, graph, picture, resident

WARM_UP = 20


class NoModel:
    """An enhancer and its stream that hand back what they get."""

    model, provider = 'none', 'none (CPU)'
    settings: StreamSettings

    def stream(self, settings: StreamSettings) -> NoModel:
        """Keep no state."""
        self.settings = settings
        return self

    def network(self, frame: np.ndarray) -> tuple[np.ndarray, dict[str, float]]:
        """Do nothing."""
        return frame, {}

    def enhance(self, frame: np.ndarray, stamp_ns: int | None = None) -> Enhanced:
        """Do nothing, and say that all of it was done."""
        return Enhanced(frame, {}, {}, 1.0)


def overhead(frames: int, width: int, height: int) -> None:
    """Print the table of the node against a bare relay."""
    me = [sys.executable, '-m', 'dap_led_ros.nodes.benchmark']
    frame = picture(width, height)
    times: dict[str, list[float]] = {'relay': [], 'node': []}
    with graph({'relay': [*me, 'be-relay'], 'node': [*me, 'be-node']}) as (probe, _):
        for number in tqdm(range(WARM_UP + frames), unit='frame', leave=False):
            for index, name in enumerate(times):
                start = probe.send(name, frame, 2 * number + index)
                if not probe.arrived.wait(PATIENCE):
                    raise RuntimeError(f'the {name} lost a frame')
                if number >= WARM_UP:
                    times[name].append(probe.received[2 * number + index] - start)
    print(f'{frames} frames of {width}x{height} bgr8, there and back, in turn')
    print(f'{"":24}median      p95')
    for name, label in (('relay', 'bare relay'), ('node', 'enhance node, no model')):
        median, p95 = np.percentile(times[name], [50, 95]) * 1e3
        print(f'{label:22}{median:6.2f} ms {p95:6.2f} ms')
    print(f'ratio of the medians  {np.median(times["node"]) / np.median(times["relay"]):6.2f}')


def load(seconds: float, model: str) -> None:
    """Print what a minute of too many frames does."""
    frame = picture(640, 480)
    with tempfile.TemporaryDirectory() as folder:
        if not model:
            model = str(Path(folder) / 'load.onnx')
            _write_model(Path(model))
        command = [sys.executable, '-m', 'dap_led_ros.nodes', 'enhance', '--ros-args']
        command += ['-r', '__ns:=/node', '-p', f'model:={model}', '-p', 'mode:=always']
        with graph({'node': command}) as (probe, nodes):
            client = probe.create_client(GetParameters, '/node/enhance/get_parameters')
            request = GetParameters.Request(names=['strength'])
            sent: dict[int, float] = {}
            answers, memory = [], []
            start = time.monotonic()
            for number in tqdm(range(int(seconds * 30)), unit='frame', leave=False):
                time.sleep(max(0.0, start + number / 30 - time.monotonic()))
                sent[number] = probe.send('node', frame, number)
                if number % 15 == 0:
                    asked = time.monotonic()
                    future = client.call_async(request)
                    future.add_done_callback(
                        lambda _, asked=asked: answers.append(time.monotonic() - asked)
                    )
                if number % 30 == 0:
                    memory.append(resident(nodes['node'].pid))
            time.sleep(2.5)  # the last frames, and a diagnostics message after them
            counts = probe.counts
    inference = float(counts['infer (ms)']) / 1e3  # in the same run
    age = np.median([came - sent[n] for n, came in probe.received.items() if n in sent])
    print(f'{len(sent)} frames of 640x480 at 30 frames/s into a model of {inference * 1e3:.0f} ms')
    print(f'age of the results      {age * 1e3:6.0f} ms median, {age / inference:.2f} inferences')
    names = ('received', 'enhanced', 'passed_through', 'dropped', 'refused')
    print('the node                ' + ', '.join(f'{counts.get(n)} {n}' for n in names))
    print(f'enhanced                {int(counts.get("enhanced", 0)) / seconds:6.1f} frames/s')
    print(f'sent and not received   {len(sent) - int(counts.get("received", 0)):6d}')
    print(
        f'parameter request       {np.median(answers) * 1e3:6.1f} ms median, {len(answers)} times'
    )
    third = max(1, len(memory) // 3)
    middle, end = np.median(memory[third : 2 * third]), np.median(memory[-third:])
    print(
        f'resident memory         {middle:6.0f} MB in the second third, {end:.0f} MB in the last'
    )


def _write_model(path: Path, target: float = 0.08) -> None:
    """Write convolutions that take about `target` seconds at 640x480."""
    import onnx
    import onnxruntime
    from onnx import helper, numpy_helper

    rng = np.random.default_rng(0)
    shapes = {'wide': (16, 3, 3, 3), 'kernel': (16, 16, 3, 3), 'narrow': (3, 16, 3, 3)}
    tensors = [
        numpy_helper.from_array(rng.normal(size=shape).astype(np.float32) * 0.05, name)
        for name, shape in shapes.items()
    ]
    frame = np.zeros((1, 3, 480, 640), np.float32)
    layers = 4
    for _ in range(3):  # the time of one layer is not known before
        nodes = [helper.make_node('Conv', ['frame', 'wide'], ['x0'], pads=[1] * 4)]
        for i in range(layers):
            nodes.append(
                helper.make_node('Conv', [f'x{i}', 'kernel'], [f'x{i + 1}'], pads=[1] * 4)
            )
        nodes.append(
            helper.make_node('Conv', [f'x{layers}', 'narrow'], ['enhanced'], pads=[1] * 4)
        )
        ends = [
            helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ['B', 3, 'H', 'W'])
            for name in ('frame', 'enhanced')
        ]
        made = helper.make_graph(nodes, 'load', ends[:1], ends[1:], tensors)
        model = helper.make_model(made, opset_imports=[helper.make_opsetid('', 17)])
        model.ir_version = 8
        onnx.save(model, str(path))
        session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
        times = []
        for _ in range(12):
            start = time.monotonic()
            session.run(None, {'frame': frame})
            times.append(time.monotonic() - start)
        layers = max(1, round(layers * target / float(np.median(times))))


def _be_relay() -> None:
    rclpy.init()
    node = Node('relay')
    publisher = node.create_publisher(Image, 'relay/enhanced/image_raw', 5)
    node.create_subscription(Image, 'relay/image_raw', publisher.publish, 5)
    with suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(node)


def _be_node() -> None:
    from dap_led_ros.nodes.enhance_node import EnhanceNode, run

    run(lambda: EnhanceNode(lambda *_: NoModel()), ['--ros-args', '-r', '__ns:=/node'])


def main(arguments: list[str] | None = None) -> int:
    """Run one of the three; 0 when it was measured."""
    parser = argparse.ArgumentParser(
        prog='dap_led_ros.nodes.benchmark',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('what', choices=('overhead', 'load', 'soak', 'be-relay', 'be-node'))
    parser.add_argument('--frames', type=int, default=300, help='of overhead (300)')
    parser.add_argument('--width', type=int, default=1280, help='of overhead (1280)')
    parser.add_argument('--height', type=int, default=720, help='of overhead (720)')
    parser.add_argument('--seconds', type=float, default=60.0, help='of load (60)')
    parser.add_argument('--model', default='', help='of load: a name or a path')
    parser.add_argument('--minutes', type=float, default=60.0, help='of soak (60)')
    options = parser.parse_args(arguments)
    if options.what == 'be-relay':
        _be_relay()
    elif options.what == 'be-node':
        _be_node()
    else:
        try:
            if options.what == 'overhead':
                overhead(options.frames, options.width, options.height)
            elif options.what == 'soak':
                soak.run(options.minutes)
            else:
                load(options.seconds, options.model)
        except (RuntimeError, ImportError, ValueError) as error:
            print(f'benchmark: {error}', file=sys.stderr)
            return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
