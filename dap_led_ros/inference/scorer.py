"""How dark and how blurred a frame is, without torch: the distilled prior in ONNX Runtime."""

from __future__ import annotations

import cv2
import numpy as np

from dap_led_ros.inference import weights
from dap_led_ros.inference.backends.onnx import runtime

NAMES = ('joint', 'low_light', 'blur')
SIZE = (320, 240)


class DegradationScorer:
    """Scores frames; thread-safe."""

    def __init__(self) -> None:
        """Load the prior that ships.

        :raises RuntimeError: ONNX Runtime is missing, or the installation is damaged.
        """
        onnxruntime = runtime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # it takes two milliseconds
        path = weights.PRIORS / 'degradation.onnx'
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=['CPUExecutionProvider']
            )
        except Exception as error:  # ONNX Runtime raises many classes of its own
            raise RuntimeError(
                f'{path}, which ships with dap_led_ros, does not load: install the package again '
                f'({error})'
            ) from None

    def score(self, frame: np.ndarray) -> dict[str, float]:
        """Scores in [0, 1] by name (joint, low_light, blur) of an (H, W, 3) RGB frame.

        :param frame: uint8 or uint16, full range.
        """
        scores = self._run('scores', frame)
        return {name: float(score) for name, score in zip(NAMES, scores)}

    def heatmaps(self, frame: np.ndarray) -> dict[str, np.ndarray]:
        """Where an (H, W, 3) RGB frame is degraded: maps (15, 20) float32 in [0, 1] by name."""
        return dict(zip(NAMES, self._run('heatmaps', frame)))

    def _run(self, output: str, frame: np.ndarray) -> np.ndarray:
        small = cv2.resize(frame, SIZE, interpolation=cv2.INTER_AREA)
        tensor = small.astype(np.float32) / np.iinfo(frame.dtype).max
        planes = np.ascontiguousarray(tensor.transpose(2, 0, 1)[None])
        return self._session.run([output], {'frame': planes})[0][0]
