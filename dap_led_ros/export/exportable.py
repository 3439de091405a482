"""Networks in operations that export well, and in fp16; see graphs.py for the fast ones."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from dap_led_ros.checkpoints.checkpoint import Exposed, Guided
from dap_led_ros.export.graphs import ExposureFirstGraph, NanoGraph
from dap_led_ros.models.exposure_first import ExposureFirst
from dap_led_ros.models.nano import Nano
from dap_led_ros.priors.distilled import SIZE as DISTILLED_SIZE
from dap_led_ros.priors.distilled import DistilledPrior


class Heatmap(nn.Module):
    """The prior of a Guided: frames to the heat-map that guides its network."""

    def __init__(self, guided: Guided) -> None:
        super().__init__()
        self.prior = guided.prior
        self.guide = guided.network.config.prior.guide

    def forward(self, frame: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, 1, h, w)."""
        return self.prior(frame).heatmaps[:, self.guide : self.guide + 1]


class Half(nn.Module):
    """A network in fp16 between fp32 tensors."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.half()

    def forward(
        self, frame: Tensor, guide: Tensor | None = None, more: Tensor | None = None
    ) -> Tensor:
        """As the network's, with as many guides as it takes."""
        given = [one for one in (guide, more) if one is not None]
        return self.network(frame.half(), *given).float()


class AreaByMatrices(nn.Module):
    """The distilled prior; it shrinks the frame by two products of matrices.

    For torch's own area interpolation to a fixed size the exporter writes a graph that is wrong at
    other sizes than the one it was traced at.
    """

    def __init__(self, prior: DistilledPrior) -> None:
        super().__init__()
        self.prior = prior

    def forward(self, frame: Tensor) -> object:
        """Estimate the degradation of (B, 3, H, W)."""
        rows = _cells(frame.shape[2], DISTILLED_SIZE[0])
        columns = _cells(frame.shape[3], DISTILLED_SIZE[1])
        return self.prior.of_small(rows @ (frame @ columns.T))


def _cells(size: int, count: int) -> Tensor:
    """(count, size): row i averages the pixels that cell i of an area interpolation touches."""
    cells = torch.arange(count)[:, None]
    first, end = cells * size // count, ((cells + 1) * size + count - 1) // count
    pixels = torch.arange(size)
    inside = (pixels >= first) & (pixels < end)
    return inside.float() / (end - first)


def exportable(module: nn.Module, precision: str) -> nn.Module:
    """The module in operations that export and run well, in fp16 if so; itself stays as it is."""
    if isinstance(module, Guided):
        prior = module.prior
        prior = AreaByMatrices(prior) if isinstance(prior, DistilledPrior) else prior
        network = _half(module.network) if precision == 'fp16' else module.network
        return Guided(network, prior).eval()
    if isinstance(module, Nano):
        module = NanoGraph(module).eval()
    if isinstance(module, ExposureFirst):
        # A copy: in fp16 the layers themselves would change.
        half, int8 = precision == 'fp16', precision == 'int8'
        return ExposureFirstGraph(copy.deepcopy(module), half, int8).eval()
    if isinstance(module, Heatmap) and isinstance(module.prior, DistilledPrior):
        changed = copy.copy(module)
        changed._modules = {'prior': AreaByMatrices(module.prior)}
        return changed
    return _half(module).eval() if precision == 'fp16' else module


def _half(module: nn.Module) -> nn.Module:
    """A copy in fp16; exposure stays in fp32, for the dark needs its last bits."""
    if isinstance(module, Exposed):
        return Exposed(_half(module.network), module.exposure)
    half = Half(copy.deepcopy(module))
    half.config = getattr(module, 'config', None)
    return half
