"""PyTorch backend: the checkpoints that training writes, as they are."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from dap_led_ros.inference import model_file
from dap_led_ros.inference.backends.onnx import OPENVINO, check_device, default_threads
from dap_led_ros.inference.tiling import run_tiled

PRECISIONS = ('auto', 'fp32', 'bf16', 'fp16')
MIN_TILE = 192
"""Smallest tile, in pixels: below, most of it is overlap."""


class TorchBackend:
    """(1, 3, H, W) float32 RGB in [0, 1] to the same shape, not clamped."""

    takes_frames = False

    def __init__(
        self,
        path: Path,
        device: str = 'auto',
        threads: int = 0,
        precision: str = 'auto',
        compiled: bool = False,
        tile: int = 0,
    ) -> None:
        """Load a checkpoint.

        :param device: auto (CUDA where there is one, else CPU), cpu, or cuda.
        :param threads: threads of one inference, of the whole process; 0 is one per core that
            this process may use, at most MOST_THREADS.
        :param precision: of the network's arithmetic: fp32, bf16, fp16, or auto: fp16 on CUDA,
            fp32 on a CPU. The sum of frame and residual stays in fp32; the prior has its own
            precision (CLIP: fp16 on CUDA).
        :param compiled: by torch.compile, all but the prior; at the first frame, for minutes.
        :param tile: longest side, in pixels, that the network sees at once; 0 is the whole frame.
            See tiling.py; not of a network with an exposure or without a heat-map, nor compiled.
        :raises ValueError: the device's or the precision's name is wrong, the file is no
            checkpoint, or it takes no tiles of this size.
        :raises FileNotFoundError: the CLIP that guides the network is not there.
        :raises RuntimeError: PyTorch or open_clip is missing, `cuda` was asked for and is not
            there, or there is no compiler.
        """
        model_file.check(path)
        _check_options(device, precision, compiled, tile)
        try:
            import torch

            from dap_led_ros.checkpoints import checkpoint
        except ImportError as error:
            raise RuntimeError(
                f'{path.name} needs PyTorch: pip install torch safetensors ({error})'
            ) from None
        if device == 'cuda' and not torch.cuda.is_available():
            raise RuntimeError(
                'device is cuda, but this PyTorch finds none: set device to cpu or auto'
            )
        if threads or default_threads():
            torch.set_num_threads(threads or default_threads())
        self._torch = torch
        self._device = 'cuda' if device != 'cpu' and torch.cuda.is_available() else 'cpu'
        if precision == 'auto':
            precision = 'fp16' if self._device == 'cuda' else 'fp32'
        self._type = {'fp32': None, 'bf16': torch.bfloat16, 'fp16': torch.float16}[precision]
        network = checkpoint.load(path).to(self._device, memory_format=torch.channels_last)
        guided = isinstance(network, checkpoint.Guided)
        self.guided = guided and not network.network.config.embedding
        """A heat-map alone guides it, which can be made less often than frames come."""
        if tile and (not self.guided or isinstance(network.network, checkpoint.Exposed)):
            # Its exposure is that of the whole frame.
            raise ValueError(f'{path.name} takes no tiles, but whole frames: set tile to 0')
        self._tile = tile
        self.remembers = checkpoint.remembers(network)
        """Takes what a stream has seen before."""
        self._network = network
        self.provider = f'torch {next(network.parameters()).device.type} {precision}'
        if compiled:
            (network.network if guided else network).compile()
            self.provider += ', compiled'

    def heatmap(self, planes: np.ndarray) -> np.ndarray:
        """(1, 3, H, W) float32 RGB in [0, 1] to the heat-map (1, 1, h, w) that guides."""
        guide = self._network.network.config.prior.guide
        with self._torch.inference_mode():
            heatmaps = self._network.prior(self._moved(planes)).heatmaps
        return heatmaps[:, guide : guide + 1].float().cpu().numpy()

    def run(
        self,
        frames: np.ndarray,
        heatmap: np.ndarray | None = None,
        past: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> np.ndarray:
        """Run the network, once or tile by tile; thread-safe.

        :param heatmap: (1, 1, h, w); made from the frame where none is given.
        :param past: fused (1, 3, H, W) and count (1, 1, H, W) float32, if remembers; without it
            the frame stands alone.
        """
        if self._tile and past is None:
            return run_tiled(self, frames, self._tile, heatmap)
        return self.whole(frames, heatmap, past)

    def whole(
        self,
        frames: np.ndarray,
        heatmap: np.ndarray | None = None,
        past: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> np.ndarray:
        """Run the network once, as run()."""
        torch = self._torch
        half = self._type is not None
        with torch.inference_mode(), torch.autocast(self._device, self._type, enabled=half):
            if heatmap is None:
                enhanced = self._network(*map(self._moved, (frames, *(past or ()))))
            else:
                enhanced = self._network.network(self._moved(frames), self._moved(heatmap))
        return enhanced.float().cpu().numpy()

    @property
    def multiple(self) -> int:
        """Of so many pixels are the sides to which a guided network pads a frame."""
        return 8 * self._network.network.config.unshuffle

    def attentions(self) -> list[Any]:
        """The modules whose averages over the frame tiles must share."""
        from dap_led_ros.models.dap_led import Products

        return [one for one in self._network.modules() if isinstance(one, Products)]

    def _moved(self, tensor: np.ndarray) -> Any:
        return self._torch.from_numpy(tensor).to(self._device)


def _check_options(device: str, precision: str, compiled: bool, tile: int) -> None:
    """Refuse what no checkpoint takes.

    :raises ValueError: an option is wrong, or does not go with another.
    :raises RuntimeError: there is no compiler.
    """
    check_device(device)
    if device in ('tensorrt', *OPENVINO):
        raise ValueError(f'{device} runs .onnx files: make one with dap-led export')
    if precision not in PRECISIONS:
        raise ValueError(f'precision is {precision!r}: use one of {", ".join(PRECISIONS)}')
    if tile and tile < MIN_TILE:
        raise ValueError(f'tile is {tile}: use 0 or at least {MIN_TILE} pixels')
    if tile and compiled:
        raise ValueError('tiles change the network as it runs: do not compile it')
    if compiled and not shutil.which(os.environ.get('CXX', 'g++')):
        raise RuntimeError('to compile needs a C++ compiler: install g++, or set CXX to one')
