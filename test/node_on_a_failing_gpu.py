"""The enhance node as it is, on a GPU that starts well and then fails every frame."""

from __future__ import annotations

import sys

from dap_led_ros.inference import Enhancer
from dap_led_ros.nodes.enhance_node import EnhanceNode, run


class FailingGpu:
    """What CUDA does when its memory is gone: load and warm up, then raise."""

    def __init__(self, enhancer: Enhancer) -> None:
        self.model, self.network = enhancer.model, enhancer.network
        self.provider = 'CUDAExecutionProvider'
        self.settings = None

    def stream(self, settings) -> FailingGpu:
        return self

    def enhance(self, frame, stamp_ns=None):
        raise RuntimeError('CUDA failure 2: out of memory')


def load(model: str, device: str, threads: int) -> Enhancer | FailingGpu:
    enhancer = Enhancer.load(model, 'cpu', threads)
    return enhancer if device == 'cpu' else FailingGpu(enhancer)


if __name__ == '__main__':
    sys.exit(run(lambda: EnhanceNode(load), None))
