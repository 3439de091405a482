"""Checkpoints: a network's weights and its configuration in one safetensors file.

A DAP-LED's checkpoint also holds what its CLIP prior needs besides the image tower, the embedded
prompts; the image tower itself stays where the CLIP is. Loading executes nothing of the file.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from dap_led_ros.inference.priors import build_prior
from dap_led_ros.models.dap_led import DapLed, DapLedConfig
from dap_led_ros.models.nano import Nano, NanoConfig
from dap_led_ros.priors import PriorConfig
from dap_led_ros.priors.clip import ClipPrior

NETWORKS = {'DapLed': (DapLed, DapLedConfig), 'Nano': (Nano, NanoConfig)}
CACHED = ('texts', 'logit_scale')


class Guided(nn.Module):
    """A DAP-LED with its prior: frames in, enhanced frames out."""

    def __init__(self, network: DapLed, prior: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.prior = prior

    def forward(self, frame: Tensor) -> Tensor:
        """Enhance (B, 3, H, W) in [0, 1]; not clamped."""
        guide = self.network.config.prior.guide
        return self.network(frame, self.prior(frame).heatmaps[:, guide : guide + 1])


def save(network: nn.Module, path: Path, prior: nn.Module | None = None) -> None:
    """Write a network, and what its prior needs of the prompts."""
    tensors = dict(network.state_dict())
    described: dict[str, Any] = {
        'network': type(network).__name__,
        'config': dataclasses.asdict(network.config),
    }
    if isinstance(prior, ClipPrior):
        described['tower'] = prior.fingerprint
        tensors |= {f'prior.{name}': getattr(prior, name) for name in CACHED}
    save_file(
        {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()},
        path,
        metadata={'dap_led_ros': json.dumps(described)},
    )


def load(path: Path) -> nn.Module:
    """A network in evaluation mode that maps frames (B, 3, H, W) to enhanced ones.

    :raises ValueError: the file is no checkpoint of this package, or damaged.
    :raises FileNotFoundError: the CLIP that guides the network is not there.
    :raises RuntimeError: open_clip is needed and not installed.
    """
    try:
        with safe_open(path, 'pt') as file:
            metadata = (file.metadata() or {}).get('dap_led_ros')
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f'{path} is no safetensors file, or damaged: {error}') from None
    if metadata is None:
        raise ValueError(
            f'{path} does not say which network it is: give a checkpoint that '
            'dap_led_training.train wrote'
        )
    cached = {name: tensors.pop(f'prior.{name}', None) for name in CACHED}
    try:
        described = json.loads(metadata)
        kind, config_kind = NETWORKS[described['network']]
        network = kind(_config(config_kind, described['config']))
        network.load_state_dict(tensors)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f'{path} was written by another version of dap_led_ros, or damaged: {error}'
        ) from None
    if isinstance(network, DapLed):
        config = network.config.prior
        prior = build_prior(config, cached if cached['texts'] is not None else None)
        if isinstance(prior, ClipPrior) and prior.fingerprint != described.get('tower'):
            raise ValueError(
                f'{path} was trained with another image tower than the one that is now found as '
                f'{config.clip!r}'
            )
        network = Guided(network, prior)
    return network.eval().requires_grad_(False)


def _config(kind: type, values: dict[str, Any]) -> Any:
    """A configuration from what JSON made of it: tuples have become lists."""
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    if 'prior' in values:
        values['prior'] = PriorConfig(**values['prior'])
    return kind(**values)
