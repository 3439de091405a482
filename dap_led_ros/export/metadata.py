"""What an exported file says of itself, and what its network costs."""

from __future__ import annotations

import copy
import dataclasses
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dap_led_ros.checkpoints import checkpoint
from dap_led_ros.checkpoints.checkpoint import Exposed, innermost, remembers
from dap_led_ros.checkpoints.refined import OnnxBase, Refined
from dap_led_ros.inference import weights
from dap_led_ros.models.dap_led import DapLed
from dap_led_ros.models.exposure_first import ExposureFirst
from dap_led_ros.models.refiner import Refiner


def metadata_of(network: nn.Module, precision: str, frames: bool) -> dict[str, str]:
    """What a file says of itself; see inference/info.py."""
    inner = innermost(network)
    if isinstance(network, Refined):
        inner = network.refiner
    config = getattr(inner, 'config', None)
    parts = (network, getattr(network, 'network', None))
    exposed = any(isinstance(one, Exposed) for one in parts)
    described = {
        'producer': 'dap_led_ros',
        'preset': _preset(config),
        'prior': 'none',
        'exposure': 'first' if exposed or isinstance(inner, ExposureFirst) else 'as it comes',
        'precision': precision,
        'input': 'uint8 (B, H, W, 3)' if frames else 'float (B, 3, H, W) RGB in [0, 1]',
        'sizes': 'any from 16x16',
        'history': 'fused, count' if remembers(network) else 'none',
        'revision': revision(),
        'gmac_per_megapixel': f'{gmac_per_megapixel(network):.4g}',
    }
    if isinstance(network, Refined):
        base = innermost(network.base)
        known = 'onnx' if isinstance(base, OnnxBase) else _preset(getattr(base, 'config', None))
        described['base'] = known
        described['prior'] = 'baked' if config.baked else config.prior.clip
    if isinstance(inner, DapLed):
        prior = config.prior
        described['prior'] = (
            f'{prior.clip}, {prior.dense_mode}' if prior.kind == 'clip' else prior.kind
        )
        described['prompts'] = Path(prior.prompts).name  # of learned ones: the file's
    elif getattr(config, 'embedding', 0):
        described['prior'] = config.prior.kind
    return described


def gmac_per_megapixel(network: nn.Module) -> float:
    """1e9 multiply-accumulates for 1e6 pixels, without the prior and a base that is ONNX."""
    if isinstance(network, Refined):
        parts = [network.refiner, *([] if isinstance(network.base, OnnxBase) else [network.base])]
        return sum(map(gmac_per_megapixel, parts))
    inner = innermost(network)
    side = 512
    inner = copy.deepcopy(inner).to('meta')
    given = [torch.empty(1, 3, side, side, device='meta')]
    if isinstance(inner, DapLed):
        given.append(torch.empty(1, 1, 16, 16, device='meta'))
    if isinstance(inner, Refiner):
        given *= 2
    if embedding := getattr(getattr(inner, 'config', None), 'embedding', 0):
        given.append(torch.empty(1, 2, embedding, device='meta'))
    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode():
        inner(*given)
    return counter.get_total_flops() / 2e9 / (side**2 / 1e6)


def _preset(config: object) -> str:
    """Name of a configuration; its prior does not matter, nor whether it remembers."""
    for name, preset in checkpoint.PRESETS.items():
        if type(preset) is type(config):
            of_prior = ('prior', 'prior_width', 'embedding', 'baked', 'history')
            changed = {one: getattr(config, one) for one in of_prior if hasattr(config, one)}
            if dataclasses.replace(preset, **changed) == config:
                return name
    return 'custom'


def presets_table() -> str:
    """Each preset, its parameters, 1e9 MACs at 640x480, and the models that ship of it."""
    shipped: dict[str, list[str]] = {}
    for path in sorted(weights.FOLDER.glob('*.safetensors')):
        network = innermost(checkpoint.load(path))
        shipped.setdefault(_preset(network.config), []).append(path.stem)
    lines = ['preset                parameters     GMAC  weights']
    for name, config in checkpoint.PRESETS.items():
        with torch.device('meta'):
            network = checkpoint.create(config)
        millions = sum(one.numel() for one in network.parameters()) / 1e6
        gmac = gmac_per_megapixel(network) * 640 * 480 / 1e6
        models = ', '.join(shipped.get(name, [])) or '-'
        lines.append(f'{name:20}{millions:10.3f} M{gmac:9.2f}  {models}')
    return '\n'.join(lines)


def revision() -> str:
    """The revision of the code: git's where there is a checkout, else the release."""
    folder = Path(__file__).parent
    command = ['git', '-C', str(folder), 'describe', '--always', '--dirty', '--tags']
    tracked = ['git', '-C', str(folder), 'ls-files', '--error-unmatch', Path(__file__).name]
    try:
        # An installation may lie in the checkout of something else.
        subprocess.run(tracked, capture_output=True, check=True)
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return version('dap_led_ros')
