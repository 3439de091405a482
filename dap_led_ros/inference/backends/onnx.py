"""ONNX Runtime backend, on a CPU or with CUDA."""

from __future__ import annotations

from pathlib import Path

import numpy as np

_PROVIDERS = {'cpu': 'CPUExecutionProvider', 'cuda': 'CUDAExecutionProvider'}
DEVICES = ('auto', 'cpu', 'cuda')


class OnnxBackend:
    """A float core: (1, 3, H, W) float32 RGB in [0, 1] to the same shape, not clamped."""

    def __init__(self, path: Path, device: str = 'auto', threads: int = 0) -> None:
        """Load a model.

        :param device: auto (CUDA if it works, else CPU), cpu, or cuda (an error if it does not).
        :param threads: threads of one inference; 0 is one per physical core.
        :raises ValueError: the device's name is wrong, or the file is no model of this kind.
        :raises RuntimeError: ONNX Runtime is missing, or `cuda` was asked for and is not there.
        """
        if device not in DEVICES:
            raise ValueError(f'device is {device!r}: use one of {", ".join(DEVICES)}')
        try:
            import onnxruntime
        except ImportError as error:
            raise RuntimeError(
                "ONNX Runtime is missing: pip install 'onnxruntime' (CPU) or 'onnxruntime-gpu' "
                f'(CUDA), never both ({error})'
            ) from None
        available = onnxruntime.get_available_providers()
        wanted = [_PROVIDERS[d] for d in (('cuda', 'cpu') if device == 'auto' else (device,))]
        if device == 'cuda' and _PROVIDERS['cuda'] not in available:
            raise RuntimeError(
                'device is cuda, but this ONNX Runtime has no CUDA: install onnxruntime-gpu in '
                'place of onnxruntime, or set device to cpu or auto'
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors only; what is wrong is raised
        # Threads that wait between frames shall sleep: the camera's driver needs the core.
        options.add_session_config_entry('session.force_spinning_stop', '1')
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=[p for p in wanted if p in available]
            )
        except Exception as error:  # ONNX Runtime raises many classes of its own
            raise ValueError(f'{path} cannot be loaded as a model: {error}') from None
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1 or inputs[0].type != 'tensor(float)':
            raise ValueError(
                f'{path} is not an enhancer: expected one float input (B, 3, H, W) and one output'
            )
        self._input = inputs[0].name
        self.provider = self._session.get_providers()[0]
        """What the session really runs on."""
        if device == 'cuda' and self.provider != _PROVIDERS['cuda']:
            raise RuntimeError('device is cuda, but CUDA failed to start: see the error above')

    def run(self, frames: np.ndarray) -> np.ndarray:
        """Run the network once; thread-safe."""
        return self._session.run(None, {self._input: frames})[0]
