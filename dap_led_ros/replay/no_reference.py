"""NIQE, MUSIQ and NRQM of frames, where pyiqa and its weights are on this machine.

pyiqa's terms are non-commercial: it is never required, and imported only here. It would download
weights; here only those count that are there already. They are slow, on a CPU up to seconds for a
frame, so one frame of EVERY is measured.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from dap_led_ros.replay import measures
from dap_led_ros.replay.pairs import Pair

EVERY = 30
WEIGHTS = {
    'niqe': 'niqe_modelparameters.mat',
    'musiq': 'musiq_koniq_ckpt-e95806b9.pth',
    'nrqm': 'NRQM_model.mat',
}
"""Files that pyiqa 0.1 keeps in its folder of torch.hub, by the name of the metric."""


def available() -> tuple[list[str], list[str]]:
    """Names of the metrics that can be measured here, and one line for what is missing."""
    if importlib.util.find_spec('pyiqa') is None or importlib.util.find_spec('torch') is None:
        return [], ['NIQE, MUSIQ, NRQM: pip install pyiqa (its terms are non-commercial)']
    import torch

    folder = Path(torch.hub.get_dir()) / 'pyiqa'
    there = [name for name, file in WEIGHTS.items() if (folder / file).is_file()]
    return there, [
        f'{name.upper()}: {folder / file} is missing; pyiqa.create_metric({name!r}) downloads it'
        for name, file in WEIGHTS.items()
        if name not in there
    ]


class NoReference:
    """Metrics of pyiqa, each side of a pair alone."""

    def __init__(self, names: Collection[str]) -> None:
        """Load them, of those that are available()."""
        import pyiqa
        import torch

        self._torch = torch
        self._device = 'cuda' if torch.cuda.is_available() else 'cpu'
        self._metrics = {
            name: pyiqa.create_metric(name, device=self._device) for name in sorted(names)
        }

    @property
    def names(self) -> list[str]:
        """Of what is measured."""
        return list(self._metrics)

    def measure(self, pair: Pair) -> dict[str, Any]:
        """The metrics of each side; of most pairs nothing."""
        if pair.row['index'] % EVERY:
            return {}
        return {side: self._of(getattr(pair, side)) for side in measures.SIDES}

    def _of(self, frame: np.ndarray) -> dict[str, float]:
        planes = np.ascontiguousarray(frame.transpose(2, 0, 1))
        tensor = self._torch.from_numpy(planes)[None].to(self._device).float().div_(255)
        with self._torch.inference_mode():
            return {name: float(metric(tensor)) for name, metric in self._metrics.items()}
