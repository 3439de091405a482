"""Parameters and multiply-accumulates of each preset: python -m dap_led_training measure cost.

Counted by torch's FlopCounterMode on tensors without data, attention included, one MAC for two
FLOPs; elementwise work is not counted. What the CLIP prior adds stands in rows of its own; a
refiner stands without its base.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dap_led_ros.checkpoints import checkpoint
from dap_led_ros.models.dap_led import DapLedConfig
from dap_led_ros.models.refiner import RefinerConfig
from dap_led_training import configuration

SIZES = ((256, 256), (640, 480), (1280, 720))
"""Width and height."""
CLIPS = ('ViT-L-14',)


def count(network: nn.Module, *inputs: torch.Tensor) -> tuple[float, float]:
    """Millions of parameters, and 1e9 MACs of one call."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network(*inputs)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return parameters / 1e6, counter.get_total_flops() / 2e9


def costs() -> dict[str, tuple[float, list[float]]]:
    """For each preset: millions of parameters, and 1e9 MACs at each of SIZES."""
    table = {}
    for name, preset in checkpoint.PRESETS.items():
        macs = []
        with torch.device('meta'):
            network = checkpoint.create(preset)
            for width, height in SIZES:
                inputs = [torch.rand(1, 3, height, width)]
                if isinstance(preset, DapLedConfig):
                    inputs.append(torch.rand(1, 1, 16, 16))  # the heat-map
                elif isinstance(preset, RefinerConfig):
                    inputs.append(inputs[0])  # what its base made
                parameters, mac = count(network, *inputs)
                macs.append(mac)
        table[name] = parameters, macs
    return table


def clip_costs() -> dict[str, tuple[float, float]]:
    """The same of the image towers, at their own size; empty without open_clip."""
    try:
        import open_clip
    except ImportError:
        return {}
    from dap_led_ros.checkpoints.priors import load_clip
    from dap_led_ros.priors import PriorConfig

    towers = {'degradation-clip-tiny': load_clip(PriorConfig()).visual.to('meta')}
    with torch.device('meta'):
        for name in CLIPS:
            towers[name] = open_clip.CLIP(**open_clip.get_model_config(name)).visual
    return {
        name: count(tower, torch.rand(1, 3, *_pair(tower.image_size), device='meta'))
        for name, tower in towers.items()
    }


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = configuration.parser('measure cost', __doc__)
    parser.parse_args(arguments)
    heads = ''.join(f'{f"{width}x{height}":>12}' for width, height in SIZES)
    print(f'{"preset":18}{"parameters":>12}{heads}   (1e9 MACs)')
    for name, (parameters, macs) in costs().items():
        print(f'{name:18}{parameters:10.3f} M' + ''.join(f'{mac:12.2f}' for mac in macs))
    for name, (parameters, mac) in clip_costs().items():
        print(f'image tower {name}: {parameters:.2f} M parameters, {mac:.2f} 1e9 MACs a frame')
