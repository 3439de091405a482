"""Weights that lose less in int8: make equalized WEIGHTS OUT [--photographs FOLDER ...].

Cross-layer equalization (Nagel et al. 2019, section 4.1) of the default's network: the features
at 1/4 and 1/8, which run on through many sums, are scaled channel by channel, so that one step of
8 bit suits all of them. What is multiplied into a channel where it is made is divided out where it
is read: the function stays the same. At 1/4 it goes half way (the square root), since encoder and
decoder share these features and differ in range.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from dap_led_ros.checkpoints import checkpoint
from dap_led_ros.models.exposure_first import ExposureFirst
from dap_led_training import configuration
from dap_led_training.data import crops
from dap_led_training.data.batches import Stage
from dap_led_training.night.night_batches import Drawn, NightConfig, degrade

FRAMES = NightConfig(daylight=0.25, clean=0.05)
QUANTILE, LEAST = 0.9995, 0.05
"""Of a channel's values, its range; and the least range, as a share of the median."""


def equalize(network: ExposureFirst, frames: list[Tensor]) -> None:
    """Scale the channels at 1/4 and 1/8 in place, by their ranges on (B, 3, H, W) in [0, 1]."""
    readers = {'4': (network.up2, network.down8), '8': (network.up4, network.down16)}
    found = _ranges(network, frames, readers)
    quarter, eighth = (_factors(found[name], share) for name, share in (('4', 0.5), ('8', 1.0)))
    with torch.no_grad():
        made = [(network.stem, 1), (network.up4, 4)]
        if network.config.history:
            made.append((network.past_stem, 1))
        blocks = [*network.encoder4, *network.decoder4]
        _scale(quarter, made, blocks, (network.down8, network.up2))
        made = [(network.down8, 1), (network.told, 1), (network.up8, 4)]
        blocks = [*network.encoder8, *network.decoder8]
        _scale(eighth, made, blocks, (network.down16, network.up4))


def _factors(ranges: Tensor, share: float) -> Tensor:
    middle = ranges.median()
    return (middle / ranges.clamp(min=LEAST * middle)) ** share


def _scale(
    factors: Tensor, made: list[tuple[nn.Module, int]], blocks: list[nn.Module], read: tuple
) -> None:
    """Multiply into what makes the channels, each so many times over; divide out of what reads."""
    for layer, times in (*made, *((block.conv2, 1) for block in blocks)):
        each = factors.repeat_interleave(times)
        layer.weight.mul_(each.view(-1, *[1] * (layer.weight.dim() - 1)))
        if layer.bias is not None:
            layer.bias.mul_(each)
    for layer in (*read, *(block.conv1 for block in blocks)):
        layer.weight.div_(factors.view(1, -1, 1, 1))


def _ranges(
    network: ExposureFirst, frames: list[Tensor], readers: dict[str, tuple[nn.Module, ...]]
) -> dict[str, Tensor]:
    """By name, the range of each channel that any of the layers reads."""
    found: dict[str, Tensor] = {}
    hooks = []
    for name, layers in readers.items():

        def note(_: nn.Module, given: tuple[Tensor], name: str = name) -> None:
            values = given[0].abs().transpose(0, 1).flatten(1)
            values = values[:, :: max(1, values.shape[1] // 20_000)]
            reach = torch.quantile(values, QUANTILE, dim=1)
            found[name] = torch.maximum(found[name], reach) if name in found else reach

        hooks += [layer.register_forward_pre_hook(note) for layer in layers]
    with torch.no_grad():
        for batch in frames:
            network(batch)
    for hook in hooks:
        hook.remove()
    return found


def main(arguments: list[str] | None = None) -> None:
    """Write the weights and say how far the function has moved."""
    parser = configuration.parser('make equalized', __doc__)
    parser.add_argument('weights', type=Path, metavar='WEIGHTS')
    parser.add_argument('out', type=Path, metavar='OUT')
    parser.add_argument(
        '--photographs',
        nargs='+',
        default=[
            '../shared/data/sharp',
            '../shared/data/sharp_free',
            '../shared/data/sharp_research',
        ],
        metavar='FOLDER',
    )
    options = parser.parse_args(arguments)
    network = checkpoint.load(options.weights)
    if not isinstance(network, ExposureFirst):
        raise ValueError(f'{options.weights} is not of the default network: nothing to equalize')
    photographs = crops.load(options.photographs, validation=False)
    batches = crops.NightBatches(photographs, [Stage(256, 12, 4)], FRAMES, seed=5)
    made = [
        degrade(given.permute(0, 3, 1, 2), Drawn(*drawn)).degraded
        for given, *drawn in (batches[step] for step in range(len(batches)))
    ]
    with torch.inference_mode():
        before = network(made[0])
        equalize(network, made)
        moved = float((network(made[0]) - before).abs().max())
    checkpoint.save(network, options.out)
    print(f'{options.out}: the function has moved by {moved:.1e} at most')
