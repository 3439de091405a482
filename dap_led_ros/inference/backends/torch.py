"""PyTorch backend: the checkpoints that training writes, as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dap_led_ros.inference.backends.onnx import DEVICES


class TorchBackend:
    """(1, 3, H, W) float32 RGB in [0, 1] to the same shape, not clamped."""

    def __init__(self, path: Path, device: str = 'auto', threads: int = 0) -> None:
        """Load a checkpoint.

        :param device: auto (CUDA where there is one, else CPU), cpu, or cuda.
        :param threads: threads of one inference, of the whole process; 0 leaves torch's own.
        :raises ValueError: the device's name is wrong, or the file is no checkpoint.
        :raises FileNotFoundError: the CLIP that guides the network is not there.
        :raises RuntimeError: PyTorch or open_clip is missing, or `cuda` was asked for and is not
            there.
        """
        if device not in DEVICES:
            raise ValueError(f'device is {device!r}: use one of {", ".join(DEVICES)}')
        try:
            import torch

            from dap_led_ros.inference import checkpoint
        except ImportError as error:
            raise RuntimeError(
                f'{path.name} needs PyTorch: pip install torch safetensors ({error})'
            ) from None
        if device == 'cuda' and not torch.cuda.is_available():
            raise RuntimeError(
                'device is cuda, but this PyTorch finds none: set device to cpu or auto'
            )
        if threads:
            torch.set_num_threads(threads)
        self._torch = torch
        self._device = 'cuda' if device != 'cpu' and torch.cuda.is_available() else 'cpu'
        self._network = checkpoint.load(path).to(self._device, memory_format=torch.channels_last)
        self.provider = f'torch {self._device}'

    def run(self, frames: np.ndarray) -> np.ndarray:
        """Run the network once; thread-safe."""
        torch = self._torch
        with torch.inference_mode():
            enhanced = self._network(torch.from_numpy(frames).to(self._device))
        return enhanced.float().cpu().numpy()
