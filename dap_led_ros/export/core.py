"""The ONNX graph of a network, and graphs put together to one."""

from __future__ import annotations

from typing import Any

import onnx
import onnxscript
import torch
from onnx import ModelProto
from torch import Tensor, nn
from torch.export import Dim

from dap_led_ros.checkpoints.refined import OnnxBase, Refined
from dap_led_ros.export.exportable import Heatmap, exportable

OPSET = 20
"""The first with Gelu in one node; ONNX Runtime 1.17 has it."""
OUTSIDE_OPSET = 18
"""With somebody else's base: from 19 on ONNX Runtime 1.31 pools fifty times slower on a CPU."""
IR_VERSION = 9
ANY = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
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


def core_of(module: nn.Module, inputs: list[str], precision: str) -> ModelProto:
    """The graph of a module in evaluation mode."""
    if isinstance(module, Refined):
        return composed(module)
    module = exportable(module.eval(), precision)
    sizes = {'frame': (3, 64, 80), 'fused': (3, 64, 80), 'count': (1, 64, 80)}
    tensors = [torch.rand(2, *sizes.get(name, (1, 16, 16))) for name in inputs]
    output = 'heatmap' if isinstance(module, Heatmap) else 'enhanced'
    core = convert(module, tuple(tensors), inputs, [output], [ANY] * len(inputs))
    name_sizes(core)
    return core


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


def name_sizes(model: ModelProto) -> None:
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
        base, given, of_base = core_of(refined.base, ['frame'], 'fp32'), 'frame', 'enhanced'
    second = convert(
        Refinement(refined).eval(),
        (torch.rand(2, 3, 64, 80), torch.rand(2, 3, 64, 80)),
        ['degraded', 'of_base'],
        ['enhanced'],
        [ANY, ANY],
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
    name_sizes(merged)
    return merged


class Refinement(nn.Module):
    """A Refined without its base."""

    def __init__(self, refined: Refined) -> None:
        super().__init__()
        self.refined = Refined(nn.Identity(), refined.refiner, refined.prior)

    def forward(self, frame: Tensor, enhanced: Tensor) -> Tensor:
        """Frames and what the base made of them, (B, 3, H, W) each, to the same shape."""
        return self.refined.refine(frame, enhanced)
