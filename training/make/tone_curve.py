"""Gamma and local contrast as an ONNX file: python -m dap_led_training make tone_curve OUT.onnx.

An enhancer that is not ours, to refine: it stands for CLAHE with gamma, whose histograms would be
hard to write as ONNX. A gamma lifts the mean of the frame to 0.4, as the classical baseline of
`measure frames` does, then each pixel's distance from the mean around it grows by 40%. It
knows nothing of noise and blur, and amplifies both.
"""

from __future__ import annotations

from pathlib import Path

import onnx

from dap_led_training import configuration

GRAPH = """
<ir_version: 8, opset_import: ["" : 17]>
tone_curve (float[N, 3, rows, columns] picture) => (float[N, 3, rows, columns] result)
{
    whole = ReduceMean <axes = [1, 2, 3], keepdims = 1> (picture)
    least = Constant <value = float {0.02}> ()
    most = Constant <value = float {0.98}> ()
    mean = Clip (whole, least, most)
    wanted = Constant <value = float {-0.9162907}> ()
    logarithm = Log (mean)
    quotient = Div (wanted, logarithm)
    none = Constant <value = float {0.0}> ()
    one = Constant <value = float {1.0}> ()
    gamma = Min (quotient, one)
    inside = Clip (picture, none, one)
    bright = Pow (inside, gamma)
    luma = ReduceMean <axes = [1], keepdims = 1> (bright)
    around = AveragePool <kernel_shape = [31, 31], pads = [15, 15, 15, 15]> (luma)
    detail = Sub (luma, around)
    share = Constant <value = float {0.4}> ()
    contrast = Mul (detail, share)
    raised = Add (bright, contrast)
    result = Clip (raised, none, one)
}
"""


def tone_curve() -> onnx.ModelProto:
    """The graph: `picture` to `result`, both (N, 3, H, W) float RGB in [0, 1]."""
    return onnx.parser.parse_model(GRAPH)


def main(arguments: list[str] | None = None) -> None:
    """Write the file."""
    parser = configuration.parser('make tone_curve', __doc__)
    parser.add_argument('out', type=Path, metavar='OUT.onnx')
    options = parser.parse_args(arguments)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(tone_curve(), options.out)
    print(f'wrote {options.out}')
