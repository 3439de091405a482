"""How dark and how blurred a frame is, without torch: the distilled prior in ONNX Runtime."""

from __future__ import annotations

import cv2
import numpy as np

from dap_led_ros.inference import weights

NAMES = ('joint', 'low_light', 'blur')
SIZE = (160, 120)


class DegradationScorer:
    """Scores frames; thread-safe."""

    def __init__(self) -> None:
        """Load the prior that ships.

        :raises RuntimeError: ONNX Runtime is missing.
        """
        try:
            import onnxruntime
        except ImportError as error:
            raise RuntimeError(
                f'ONNX Runtime is missing: pip install onnxruntime ({error})'
            ) from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1  # it takes a millisecond
        self._session = onnxruntime.InferenceSession(
            str(weights.PRIORS / 'degradation.onnx'),
            options,
            providers=['CPUExecutionProvider'],
        )

    def score(self, frame: np.ndarray) -> dict[str, float]:
        """Scores in [0, 1] by name (joint, low_light, blur) of an (H, W, 3) RGB frame.

        :param frame: uint8 or uint16, full range.
        """
        small = cv2.resize(frame, SIZE, interpolation=cv2.INTER_AREA)
        tensor = small.astype(np.float32) / np.iinfo(frame.dtype).max
        planes = np.ascontiguousarray(tensor.transpose(2, 0, 1)[None])
        scores = self._session.run(['scores'], {'frame': planes})[0][0]
        return {name: float(score) for name, score in zip(NAMES, scores)}
