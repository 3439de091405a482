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

import argparse
import contextlib
import copy
import dataclasses
import functools
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import onnxscript
import torch
from onnx import ModelProto, NodeProto
from torch import Tensor, nn
from torch.export import Dim
from torch.utils.flop_counter import FlopCounterMode

from dap_led_ros import sample
from dap_led_ros.inference import checkpoint, weights
from dap_led_ros.inference.backends.onnx import HISTORY
from dap_led_ros.inference.checkpoint import Exposed, Guided, innermost, remembers
from dap_led_ros.inference.fast_graph import ExposureFirstGraph, NanoGraph
from dap_led_ros.inference.frames import to_tensor
from dap_led_ros.inference.priors import build_prior
from dap_led_ros.inference.refined import OnnxBase, Refined
from dap_led_ros.models.dap_led import DapLed, DapLedConfig, preset_name
from dap_led_ros.models.exposure_first import ExposureFirst
from dap_led_ros.models.nano import Nano
from dap_led_ros.models.refiner import Refiner, RefinerConfig
from dap_led_ros.priors import PriorConfig
from dap_led_ros.priors.distilled import SIZE as DISTILLED_SIZE
from dap_led_ros.priors.distilled import DistilledPrior

OPSET = 20
"""The first with Gelu in one node; ONNX Runtime 1.17 has it."""
OUTSIDE_OPSET = 18
"""With somebody else's base: from 19 on ONNX Runtime 1.31 pools fifty times slower on a CPU."""
IR_VERSION = 9
ODD_SIZES = ((37, 51), (120, 161), (241, 333))
BATCH = 3
"""Neither this nor the sizes are those that a graph was traced at."""
TOLERANCE = 1e-4
PRECISIONS = ('fp32', 'fp16', 'int8')
_ANY = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
INT8_LAYERS = ('encoder', 'down')
"""Of nano: what looks at the frame. What makes the enhanced one needs more than 8 bits."""
INT8_LAYERS_BEHIND_EXPOSURE = ('encoder', 'down', 'decoder', 'up8', 'up4')
"""Of exposure-first, which adds what it makes to a frame that is bright already."""
INT8_BETWEEN = ('Relu', 'Add', 'Transpose', 'Reshape')
"""Operations that stay in int8 between its layers."""
INT8_PERCENTILE = 99.99
"""Of the values of a layer on the calibration frames: what lies beyond is clipped. With steps wide
enough for the largest of all, the small values of dark frames would be rounded away."""
INT8_FRAMES = 48
"""To calibrate on at the most: what every layer makes of every frame is in memory at once."""

BEFORE = """
<ir_version: 9, opset_import: ["" : 20]>
before (uint8[B, H, W, 3] frames) => (float[B, 3, H, W] planes, float[B, 3, H, W] input)
{
    codes = Transpose <perm = [0, 3, 1, 2]> (frames)
    values = Cast <to = 1> (codes)
    full = Constant <value = float {255.0}> ()
    planes = Div (values, full)
    input = Identity (planes)
}
"""
AFTER = """
<ir_version: 9, opset_import: ["" : 20]>
after (float[B, 3, H, W] unchanged, float[B, 3, H, W] changed, float strength)
    => (uint8[B, H, W, 3] enhanced_frames)
{
    change = Sub (changed, unchanged)
    share = Mul (change, strength)
    mixed = Add (unchanged, share)
    scale = Constant <value = float {255.0}> ()
    scaled = Mul (mixed, scale)
    rounded = Round (scaled)
    least = Constant <value = float {0.0}> ()
    most = Constant <value = float {255.0}> ()
    clamped = Clip (rounded, least, most)
    codes = Cast <to = 2> (clamped)
    enhanced_frames = Transpose <perm = [0, 2, 3, 1]> (codes)
}
"""
FORK = """
<ir_version: 9, opset_import: ["" : 20]>
fork (float[B, 3, H, W] frame) => (float[B, 3, H, W] outside, float[B, 3, H, W] unchanged)
{
    outside = Identity(frame)
    unchanged = Identity(frame)
}
"""


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
            core = _core(module, ['frame'] if second else inputs, kind)
            if kind == 'int8':
                core = quantized(core, calibration, part)
            takes_frames = frames and not second
            if takes_frames:
                core = wrapped(core)
            described = metadata(network, kind, takes_frames) | (notes or {})
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


def _core(module: nn.Module, inputs: list[str], precision: str) -> ModelProto:
    """The graph of a module in evaluation mode."""
    if isinstance(module, Refined):
        return composed(module)
    module = _exportable(module.eval(), precision)
    sizes = {'frame': (3, 64, 80), 'fused': (3, 64, 80), 'count': (1, 64, 80)}
    tensors = [torch.rand(2, *sizes.get(name, (1, 16, 16))) for name in inputs]
    output = 'heatmap' if isinstance(module, Heatmap) else 'enhanced'
    core = convert(module, tuple(tensors), inputs, [output], [_ANY] * len(inputs))
    _name_sizes(core)
    return core


def _exportable(module: nn.Module, precision: str) -> nn.Module:
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


def convert(
    module: nn.Module,
    tensors: tuple[Tensor, ...],
    inputs: list[str],
    outputs: list[str],
    dynamic: list[dict],
    opset: int = OPSET,
) -> ModelProto:
    """The ONNX graph of a module; nothing of this machine is in it."""
    program = torch.onnx.export(
        module,
        tensors,
        dynamo=True,
        verbose=False,
        input_names=inputs,
        output_names=outputs,
        dynamic_shapes=dynamic,
        opset_version=opset,
        custom_translation_table={torch.ops.aten.gelu.default: _gelu} if opset >= 20 else {},
    )
    model = program.model_proto
    model.ir_version = IR_VERSION
    for node in model.graph.node:  # exporter's notes: paths and line numbers of its machine
        del node.metadata_props[:]
        node.doc_string = ''
    del model.graph.value_info[:]
    return model


def _gelu(x: Any, approximate: str = 'none') -> Any:
    """One node, which every runtime has fused, in place of the exporter's five."""
    return onnxscript.opset20.Gelu(x, approximate=approximate)


def _name_sizes(model: ModelProto) -> None:
    """Call the free sizes B, H and W (h and w of a heat-map).

    Whoever fixes sizes does it by these names, and torch calls the height s78 in one export and
    the enhanced frame's Min(s78, 2*(((s78 + (PythonMod(-s78, 16)))//2))).
    """
    for tensor in (*model.graph.input, *model.graph.output):
        names = 'BChw' if tensor.name == 'heatmap' else 'BCHW'
        for name, size in zip(names, tensor.type.tensor_type.shape.dim):
            if not size.HasField('dim_value'):
                size.dim_param = name


def wrapped(core: ModelProto) -> ModelProto:
    """Put BEFORE and AFTER around a core."""
    before, after = onnx.parser.parse_model(BEFORE), onnx.parser.parse_model(AFTER)
    opset = next(one.version for one in core.opset_import if not one.domain)
    for model in (before, after):
        model.ir_version = core.ir_version
        model.opset_import[0].version = opset
    core = onnx.compose.add_prefix(core, 'core/', rename_inputs=False, rename_outputs=False)
    after = onnx.compose.add_prefix(after, 'after/', rename_inputs=False, rename_outputs=False)
    front = onnx.compose.merge_models(before, core, io_map=[('planes', 'frame')])
    return onnx.compose.merge_models(
        front, after, io_map=[('input', 'unchanged'), ('enhanced', 'changed')]
    )


def composed(refined: Refined) -> ModelProto:
    """The graphs of a base, ours or somebody else's, and of its refiner, in one.

    :raises ValueError: the base cannot be brought to our version of ONNX's operators.
    """
    opset = OUTSIDE_OPSET if isinstance(refined.base, OnnxBase) else OPSET
    if isinstance(refined.base, OnnxBase):
        given, of_base = refined.base.input, refined.base.output
        try:
            base = onnx.load_model_from_string(refined.base.content)
            base = onnx.version_converter.convert_version(base, opset)
        except Exception as error:  # onnx raises many classes of its own
            raise ValueError(f'the base cannot be converted to opset {opset}: {error}') from None
    else:
        base, given, of_base = _core(refined.base, ['frame'], 'fp32'), 'frame', 'enhanced'
    second = convert(
        Refinement(refined).eval(),
        (torch.rand(2, 3, 64, 80), torch.rand(2, 3, 64, 80)),
        ['degraded', 'of_base'],
        ['enhanced'],
        [_ANY, _ANY],
        opset,
    )
    fork = onnx.parser.parse_model(FORK)
    batch = base.graph.input[0].type.tensor_type.shape.dim[0]
    fork.graph.input[0].type.tensor_type.shape.dim[0].CopyFrom(batch)
    fork.opset_import[0].version = opset
    for one in (fork, base, second):
        one.ir_version = IR_VERSION
    base = onnx.compose.add_prefix(base, 'base/')
    forked = onnx.compose.merge_models(fork, base, io_map=[('outside', f'base/{given}')])
    merged = onnx.compose.merge_models(
        forked, second, io_map=[('unchanged', 'degraded'), (f'base/{of_base}', 'of_base')]
    )
    _name_sizes(merged)
    return merged


class Refinement(nn.Module):
    """A Refined without its base."""

    def __init__(self, refined: Refined) -> None:
        super().__init__()
        self.refined = Refined(nn.Identity(), refined.refiner, refined.prior)

    def forward(self, frame: Tensor, enhanced: Tensor) -> Tensor:
        """Frames and what the base made of them, (B, 3, H, W) each, to the same shape."""
        return self.refined.refine(frame, enhanced)


def int8_layers(core: ModelProto) -> tuple[str, ...]:
    """Where the names of the parameters begin that int8 costs little."""
    first = any(tensor.name.startswith(('told', 'exposure')) for tensor in core.graph.initializer)
    return INT8_LAYERS_BEHIND_EXPOSURE if first else INT8_LAYERS


def quantized(
    core: ModelProto,
    calibration: Iterable[np.ndarray],
    part: Path,
    layers: tuple[str, ...] | None = None,
) -> ModelProto:
    """Convolutions in int8 with one scale a channel, calibrated on real frames.

    :param calibration: frames (H, W, 3), uint8 or uint16.
    :param part: where a file may be written on the way.
    :param layers: where the names of the parameters begin that are quantised; see int8_layers().
    :raises ValueError: the graph has no such layers, or there are no frames.
    """
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    layers = int8_layers(core) if layers is None else layers
    taken = [n for n in core.graph.node if any(i.startswith(layers) for i in n.input)]
    if not taken:
        raise ValueError('int8 is for nano: the transformer loses too much and gains no speed')
    taken += _between(core, taken)
    frames = [to_tensor(frame) for frame in calibration]
    if not frames:
        raise ValueError('int8 needs night frames to calibrate on: give --calibrate FOLDER')
    # Where all frames are alike, so is the gate: the runtime makes no histogram of one value.
    frames.append(np.full_like(frames[0], 0.5))

    names = [one.name for one in core.graph.input]

    class Frames(CalibrationDataReader):
        left = iter(frames)

        def get_next(self) -> dict[str, np.ndarray] | None:
            frame = next(self.left, None)
            if frame is None:
                return None
            alone = {'fused': frame, 'count': np.zeros_like(frame[:, :1])}
            return {'frame': frame} | {name: alone[name] for name in alone if name in names}

    with contextlib.redirect_stdout(sys.stderr):  # it tells what it does
        quantize_static(
            core,
            part,
            Frames(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=['Conv', *INT8_BETWEEN],
            nodes_to_quantize=[node.name for node in taken],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            reduce_range=True,  # without VNNI, products of 8 bit saturate
            calibrate_method=CalibrationMethod.Percentile,
            extra_options={'CalibPercentile': INT8_PERCENTILE},
        )
    return onnx.load(part)


def _between(core: ModelProto, taken: list[NodeProto]) -> list[NodeProto]:
    """What takes its values from quantised nodes alone, and would else lead out of int8 and back.

    With its ReLU a convolution has one rounding, and that of the positive range.
    """
    fixed = {one.name for one in core.graph.initializer}
    ends = {output for node in taken for output in node.output}
    found = []
    for node in core.graph.node:
        given = node.input[:1] if node.op_type in ('Transpose', 'Reshape') else node.input
        inside = all(name in ends for name in given) and not fixed.intersection(given)
        if node.op_type in INT8_BETWEEN and inside:
            found.append(node)
            ends.update(node.output)
    return found


def metadata(network: nn.Module, precision: str, frames: bool) -> dict[str, str]:
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
        from importlib.metadata import version

        return version('dap_led_ros')


@functools.cache
def night(count: int, height: int, width: int) -> np.ndarray:
    """Frames (count, height, width, 3) uint8 of the sample night."""
    frames = (camera for camera, _ in sample.night_sequence(count))
    size, area = (width, height), cv2.INTER_AREA
    return np.stack([cv2.resize(frame, size, interpolation=area) for frame in frames])


def parity(
    network: nn.Module, path: Path, sizes: tuple[tuple[int, int], ...] = ODD_SIZES
) -> float:
    """Largest absolute difference between torch and ONNX Runtime, of all outputs, over sizes.

    On the sample night: a trained network leaves bright frames alone, which would compare nothing.
    Where the file takes uint8 frames, both are compared after rounding, in shares of 255.
    """
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    names = [one.name for one in session.get_inputs()]
    batch = session.get_inputs()[0].shape[0]
    batch = batch if isinstance(batch, int) else BATCH  # fixed: a refiner's base fixes it
    rng = np.random.default_rng(0)
    worst = 0.0
    for size in sizes:
        codes = night(batch, *size)
        frame = np.ascontiguousarray(codes.transpose(0, 3, 1, 2)).astype(np.float32) / 255
        given = {
            'frame': frame,
            'frames': codes,
            'heatmap': rng.random((batch, 1, 15, 20), dtype=np.float32),
            'strength': np.ones((), np.float32),
            'fused': frame[:, :, ::-1].copy(),
            'count': rng.integers(0, 3, (batch, 1, *size)).astype(np.float32),
        }
        tensors = [frame, *(given[n] for n in names if n in ('heatmap', *HISTORY))]
        with torch.inference_mode():
            expected = network(*map(torch.from_numpy, tensors))
        expected = expected if isinstance(expected, tuple) else (expected,)
        for one, other in zip(expected, session.run(None, {n: given[n] for n in names})):
            one = one.numpy()
            if other.dtype == np.uint8:
                one = np.rint(one.transpose(0, 2, 3, 1).clip(0, 1) * 255) / 255
                other = other / 255
            worst = max(worst, float(np.abs(one - other).max()))
    return worst


def run(options: argparse.Namespace) -> int:
    """Do what `dap-led export` was asked for; see model_commands.py."""
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
        from dap_led_ros import media

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
