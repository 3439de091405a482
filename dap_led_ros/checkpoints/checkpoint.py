"""Checkpoints: a network's weights and its configuration in one safetensors file.

A DAP-LED's checkpoint also holds what its CLIP prior needs besides the image tower, the embedded
prompts and the controller; the image tower itself stays where the CLIP is. A refiner's also holds
its base, whole. Loading executes nothing of the file.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from dap_led_ros.checkpoints.priors import build_prior
from dap_led_ros.checkpoints.refined import OnnxBase, Refined
from dap_led_ros.models import (
    dap_led,
    devudp,
    exposure,
    exposure_first,
    illumination,
    nafnet,
    nano,
    refiner,
)
from dap_led_ros.models.dap_led import DapLed, DapLedConfig
from dap_led_ros.models.devudp import Devudp, DevudpConfig
from dap_led_ros.models.exposure import Exposure
from dap_led_ros.models.exposure_first import ExposureFirst, ExposureFirstConfig
from dap_led_ros.models.illumination import Illumination, IlluminationConfig
from dap_led_ros.models.nafnet import Nafnet, NafnetConfig
from dap_led_ros.models.nano import Nano, NanoConfig
from dap_led_ros.models.refiner import Refiner, RefinerConfig
from dap_led_ros.priors import PriorConfig
from dap_led_ros.priors.clip import ClipPrior

NETWORKS = {
    'DapLed': (DapLed, DapLedConfig),
    'Devudp': (Devudp, DevudpConfig),
    'ExposureFirst': (ExposureFirst, ExposureFirstConfig),
    'Illumination': (Illumination, IlluminationConfig),
    'Nafnet': (Nafnet, NafnetConfig),
    'Nano': (Nano, NanoConfig),
    'Refiner': (Refiner, RefinerConfig),
}
PRESETS: dict[str, Any] = {
    **dap_led.PRESETS,
    **exposure_first.PRESETS,
    **nano.PRESETS,
    **nafnet.PRESETS,
    **illumination.PRESETS,
    **devudp.PRESETS,
    **refiner.PRESETS,
}
"""The named configuration of every network."""
CACHED = ('texts', 'logit_scale', 'controller.')
"""How the names of a prior's tensors begin that a checkpoint holds."""


def create(config: Any) -> nn.Module:
    """The network of a configuration, with new weights."""
    return next(kind for kind, of in NETWORKS.values() if of is type(config))(config)


class Guided(nn.Module):
    """A network with its prior: frames in, enhanced frames out."""

    def __init__(self, network: DapLed | Nafnet, prior: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.prior = prior

    def forward(self, frame: Tensor) -> Tensor:
        """Enhance (B, 3, H, W) in [0, 1]; not clamped."""
        return self.network(frame, *guidance(self.network.config, self.prior, frame))


class Exposed(nn.Module):
    """A network behind exposure first: it sees every frame by the frame's tone curve."""

    def __init__(self, network: DapLed | Nafnet, exposure: Exposure) -> None:
        super().__init__()
        self.network = network
        self.exposure = exposure

    @property
    def config(self) -> Any:
        """That of the network."""
        return self.network.config

    def forward(self, frame: Tensor, *given: Tensor) -> Tensor:
        """Enhance (B, 3, H, W) in [0, 1]; `given` is what the network takes besides."""
        curve, _ = self.exposure(frame)
        return self.network(exposure.apply(curve, frame), *given)


def innermost(network: nn.Module) -> nn.Module:
    """The network itself, without its prior and its exposure."""
    if isinstance(network, Guided):
        network = network.network
    return network.network if isinstance(network, Exposed) else network


def remembers(network: nn.Module) -> bool:
    """Whether a network takes what a stream has seen before."""
    return isinstance(network, ExposureFirst) and network.config.history


def guidance(config: Any, prior: nn.Module | None, frame: Tensor) -> list[Tensor]:
    """What a network of this configuration takes besides the frame.

    A DAP-LED: the heat-map (B, 1, h, w). Whatever has a controller: its embeddings (B, 2, D).
    """
    given = []
    if isinstance(config, DapLedConfig):
        given.append(prior(frame).heatmaps[:, config.prior.guide : config.prior.guide + 1])
    if config.embedding:
        given.append(prior.embeddings(frame))
    return given


def save(network: nn.Module, path: Path, prior: nn.Module | None = None) -> None:
    """Write a network, and what its prior needs of the prompts."""
    tensors, described = _packed(network, prior)
    save_file(
        {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()},
        path,
        metadata={'dap_led_ros': json.dumps(described)},
    )


def _packed(
    network: nn.Module, prior: nn.Module | None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and description of a network; those of a refiner's base stand under `base`."""
    if isinstance(network, Guided):
        return _packed(network.network, network.prior)
    if isinstance(network, Exposed):
        tensors, described = _packed(network.network, prior)
        front = network.exposure.state_dict().items()
        tensors |= {f'exposure.{name}': tensor for name, tensor in front}
        return tensors, described | {'exposure': 'first'}
    if isinstance(network, OnnxBase):
        content = torch.frombuffer(bytearray(network.content), dtype=torch.uint8)
        return {'onnx': content}, {'network': 'onnx'}
    if isinstance(network, Refined):
        tensors, described = _packed(network.refiner, network.prior)
        base, described['base'] = _packed(network.base, None)
        return tensors | {f'base.{name}': tensor for name, tensor in base.items()}, described
    tensors = dict(network.state_dict())
    described = {'network': type(network).__name__, 'config': dataclasses.asdict(network.config)}
    if isinstance(prior, ClipPrior):
        described['tower'] = prior.fingerprint
        kept = prior.state_dict().items()
        tensors |= {f'prior.{n}': tensor for n, tensor in kept if n.startswith(CACHED)}
    return tensors, described


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
            'dap_led_training train wrote'
        )
    try:
        described = json.loads(metadata)
    except ValueError as error:
        raise ValueError(f'{path} is damaged: {error}') from None
    return _unpacked(path, described, tensors).eval().requires_grad_(False)


def _unpacked(path: Path, described: dict[str, Any], tensors: dict[str, Tensor]) -> nn.Module:
    """The opposite of _packed()."""
    names = [name for name in tensors if name.startswith('prior.')]
    cached = {name.removeprefix('prior.'): tensors.pop(name) for name in names}
    inner = {n.removeprefix('base.'): t for n, t in tensors.items() if n.startswith('base.')}
    front = None
    if 'exposure' in described:
        names = [name for name in tensors if name.startswith('exposure.')]
        front = {name.removeprefix('exposure.'): tensors.pop(name) for name in names}
    try:
        if described['network'] == 'onnx':
            return OnnxBase(tensors['onnx'].numpy().tobytes())
        kind, config_kind = NETWORKS[described['network']]
        network = kind(_config(config_kind, described['config']))
        base = described['base'] if kind is Refiner else None
        network.load_state_dict({n: t for n, t in tensors.items() if not n.startswith('base.')})
        exposed = None
        if front is not None:
            exposed = Exposed(network, Exposure())
            exposed.exposure.load_state_dict(front)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f'{path} was written by another version of dap_led_ros, or damaged: {error}'
        ) from None
    prior = None
    config = network.config
    guided = isinstance(network, DapLed) or getattr(config, 'embedding', 0)
    refiner = isinstance(network, Refiner) and not config.baked
    if guided or refiner:
        config = network.config.prior
        prior = build_prior(config, cached or None)
        if isinstance(prior, ClipPrior) and prior.fingerprint != described.get('tower'):
            raise ValueError(
                f'{path} was trained with another image tower than the one that is now found as '
                f'{config.clip!r}'
            )
    if isinstance(network, Refiner):
        return Refined(_unpacked(path, base, inner), network, prior)
    network = exposed or network
    return network if prior is None else Guided(network, prior)


def _config(kind: type, values: dict[str, Any]) -> Any:
    """A configuration from what JSON made of it: tuples have become lists."""
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    if 'prior' in values:
        values['prior'] = PriorConfig(**values['prior'])
    return kind(**values)
