"""Export to ONNX: dap-led export. Needs the extra `train` (torch, onnx).

The core is the network as torch has it: `frame` to `enhanced`, both (B, 3, H, W) float RGB in
[0, 1], B, H and W free, the prior folded in. Three things can change around it:

* `frames`: a wrapper, `frames` and `strength` to `enhanced_frames`, both (B, H, W, 3) uint8, so
  that no numpy stands between a camera and the device. strength (a scalar) 0 is the input, 1 the
  enhanced frame.
* A network of `history` takes `fused` (B, 3, H, W) and `count` (B, 1, H, W), float, too: what a
  stream has seen before; a count of 0 is a frame that stands alone. Not behind `frames`.
* `prior='second'`: the core takes `heatmap` (B, 1, h, w) too, and a second graph beside it,
  NAME.prior.onnx, makes it from `frame`: so heat-maps need not be made for each frame.

What is written has been compared with torch on ODD_SIZES first.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from dap_led_ros import media
from dap_led_ros.checkpoints import checkpoint
from dap_led_ros.checkpoints.checkpoint import Guided, remembers
from dap_led_ros.checkpoints.priors import build_prior
from dap_led_ros.checkpoints.refined import Refined
from dap_led_ros.export.core import core_of, wrapped
from dap_led_ros.export.exportable import Heatmap
from dap_led_ros.export.int8 import INT8_FRAMES, quantized
from dap_led_ros.export.metadata import metadata_of
from dap_led_ros.export.verify import ODD_SIZES, TOLERANCE, parity
from dap_led_ros.inference import weights
from dap_led_ros.inference.backends.onnx import HISTORY
from dap_led_ros.models.dap_led import DapLed, DapLedConfig, preset_name
from dap_led_ros.models.exposure_first import ExposureFirst
from dap_led_ros.models.nano import Nano
from dap_led_ros.models.refiner import RefinerConfig
from dap_led_ros.priors import PriorConfig

PRECISIONS = ('fp32', 'fp16', 'int8')


@dataclass(frozen=True)
class ExportOptions:
    """What `dap-led export` is asked for."""

    model: str
    """Name or path of a checkpoint, or a preset if untrained."""
    output: Path
    """An .onnx file; of untrained weights also a .safetensors file."""
    precision: str = 'fp32'
    frames: bool = False
    prior: str = 'folded'
    """folded or second."""
    history: bool = False
    calibrate: Path | None = None
    """Folder of night pictures, for int8."""
    terms: str = ''
    untrained: bool = False


def load_network(path: Path) -> Nano | ExposureFirst:
    """A convolutional network in evaluation mode from a checkpoint.

    :raises ValueError: the file is no checkpoint, or of another network.
    """
    network = checkpoint.load(path)
    if not isinstance(network, (Nano, ExposureFirst)):
        raise ValueError(f'{path} is no nano')
    return network


def untrained(preset: str) -> nn.Module:
    """A preset with weights by chance, in evaluation mode: to measure what it costs.

    Whatever its prior is, it gets the one that ships.

    :raises ValueError: there is no such preset.
    """
    # A refiner is nothing without a base.
    known = {n: c for n, c in checkpoint.PRESETS.items() if not isinstance(c, RefinerConfig)}
    preset = preset_name(preset)
    if preset not in known:
        raise ValueError(f'no preset {preset!r}: use one of {", ".join(known)}')
    config = known[preset]
    torch.manual_seed(0)
    if isinstance(config, DapLedConfig):
        config = dataclasses.replace(config, prior=PriorConfig())
    network = checkpoint.create(config)
    for parameter in network.parameters():
        if parameter.dim() > 1 and not parameter.any():  # else a part would do nothing
            nn.init.kaiming_uniform_(parameter, a=5**0.5)
    if isinstance(network, DapLed):
        network = Guided(network, build_prior(config.prior))
    return network.eval().requires_grad_(False)


def export(
    network: nn.Module,
    path: Path,
    precision: str = 'fp32',
    frames: bool = False,
    prior: str = 'folded',
    calibration: Iterable[np.ndarray] = (),
    notes: dict[str, str] | None = None,
) -> float:
    """Write an ONNX file, or two; returns the largest difference from torch over ODD_SIZES.

    :param network: a Nano, a Guided or another module from (B, 3, H, W) to the same.
    :param precision: fp32, fp16 (the prior stays in fp32), or int8 (a nano alone).
    :param frames: put the uint8 wrapper around it.
    :param prior: folded, or second: a graph of its own beside `path`.
    :param calibration: night frames (H, W, 3), uint8 or uint16, for int8.
    :param notes: further metadata, name to text.
    :raises ValueError: the difference is above TOLERANCE, or one grey level where the frames or
        the precision are rounded; int8 is lossy and is not held to it. Nothing is written then.
    """
    if isinstance(network, Refined) and precision != 'fp32':
        raise ValueError('a refiner and its base are exported as fp32 alone')
    if frames and remembers(network):
        network = forgetful(network)
    inputs, graphs = ['frame'], {path: network}
    if prior == 'second':
        if not isinstance(network, Guided):
            raise ValueError('this network has no prior: export it without --prior second')
        if network.network.config.embedding:
            raise ValueError('a controller is no second graph: export it without --prior second')
        inputs.append('heatmap')
        graphs = {path: network.network, path.with_suffix('.prior.onnx'): Heatmap(network)}
    if remembers(network):
        inputs += HISTORY
    worst, parts = 0.0, {}
    try:
        for name, module in graphs.items():
            second = isinstance(module, Heatmap)
            parts[name] = part = name.with_suffix('.part')
            kind = 'fp32' if second else precision
            core = core_of(module, ['frame'] if second else inputs, kind)
            if kind == 'int8':
                core = quantized(core, calibration, part)
            takes_frames = frames and not second
            if takes_frames:
                core = wrapped(core)
            described = metadata_of(network, kind, takes_frames) | (notes or {})
            onnx.helper.set_model_props(core, described)
            onnx.save(core, part)
            difference = parity(module, part)
            bound = 1.001 / 255 if takes_frames or kind == 'fp16' else TOLERANCE
            if difference > bound and kind != 'int8':
                raise ValueError(f'ONNX and torch differ by {difference:.1e}, above {bound:.0e}')
            worst = max(worst, difference)
        for name, part in parts.items():
            os.replace(part, name)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
    return worst


def remembering(network: nn.Module) -> ExposureFirst:
    """The same network behind the mean of a frame and its past, as it is before it is trained so.

    :raises ValueError: it is another network than ExposureFirst.
    """
    if not isinstance(network, ExposureFirst):
        raise ValueError('only exposure-first takes a history: export it without --history')
    if network.config.history:
        return network
    more = ExposureFirst(dataclasses.replace(network.config, history=True))
    more.load_state_dict(network.state_dict(), strict=False)
    return more.eval().requires_grad_(False)


def forgetful(network: ExposureFirst) -> ExposureFirst:
    """The same network for single frames."""
    alone = ExposureFirst(dataclasses.replace(network.config, history=False))
    known = alone.state_dict()
    alone.load_state_dict({n: t for n, t in network.state_dict().items() if n in known})
    return alone.eval().requires_grad_(False)


def run(options: ExportOptions) -> int:
    """Load the network, write it, and print how far the file is from torch."""
    if options.untrained:
        network = untrained(options.model)
        terms = 'weights by chance: to measure times, not to look at'
    else:
        network = checkpoint.load(weights.checkpoint(options.model))
        terms = options.terms
    if options.history:
        network = remembering(network)
    if options.output.suffix == '.safetensors':
        inner, prior = network, None
        if isinstance(network, Guided):
            inner, prior = network.network, network.prior
        checkpoint.save(inner, options.output, prior)
        print(f'{options.output}: written')
        return 0
    calibration: list[np.ndarray] = []
    if options.calibrate:
        pictures = media.find_images(options.calibrate)
        spread = pictures[:: max(1, len(pictures) // INT8_FRAMES)][:INT8_FRAMES]
        calibration = [media.read_image(path) for path in spread]
    difference = export(
        network,
        options.output,
        options.precision,
        options.frames,
        options.prior,
        calibration,
        {'terms': terms},
    )
    sizes = ', '.join(f'{width}x{height}' for height, width in ODD_SIZES)
    levels = f'{difference * 255:.2f} grey levels'
    print(
        f'{options.output}: differs from torch by {difference:.1e} ({levels}) at most, at {sizes}'
    )
    return 0
