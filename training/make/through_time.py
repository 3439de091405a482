"""The same frame after 1, 4 and 16: python -m dap_led_training make through_time OUT.jpg [MODEL].

The last frame of the sample night, as a stream makes it that has seen no frame before it, three,
and fifteen. From left: the camera, these, and what a perfect camera would have seen.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dap_led_ros import sample
from dap_led_ros.inference import Enhancer
from dap_led_ros.inference.stream import StreamSettings
from dap_led_ros.media import write_image
from dap_led_training import configuration
from dap_led_training.make.contact_sheet import tile
from dap_led_training.measure import metrics
from dap_led_training.measure.judge import toned

COUNTS = (1, 4, 16)
"""Frames that a stream has seen, the last one with them."""
PART = slice(60, 320), slice(250, 530)
"""Rows and columns of the frame that are shown."""


def through_time(enhancer: Enhancer) -> tuple[np.ndarray, dict[int, tuple[float, float]]]:
    """The picture (RGB), and PSNR (dB) and SSIM of the last frame, toned, for each count."""
    pairs = list(sample.night_sequence(max(COUNTS)))
    camera, reference = pairs[-1]
    shown, figures = {'camera': camera}, {}
    for count in COUNTS:
        stream = enhancer.stream(StreamSettings(mode='always'))
        for index, (frame, _) in enumerate(pairs[-count:]):
            last = stream.enhance(frame, round(index / sample.RATE * 1e9)).frame
        shown['one frame' if count == 1 else f'{count} frames'] = last
        curved = toned(last, reference)
        figures[count] = (
            metrics.psnr(curved, reference, metrics.PSNR_CAP),
            metrics.ssim_rgb(curved, reference),
        )
    shown['reference'] = reference
    height, width = (part.stop - part.start for part in PART)
    tiles = [tile(frame[PART], name, width, height) for name, frame in shown.items()]
    return np.hstack(tiles), figures


def main(arguments: list[str] | None = None) -> None:
    """Write the picture and print its figures."""
    parser = configuration.parser('make through_time', __doc__)
    parser.add_argument('out', type=Path, metavar='OUT.jpg')
    parser.add_argument('model', nargs='?', default='nano', metavar='MODEL')
    options = parser.parse_args(arguments)
    picture, figures = through_time(Enhancer.load(options.model, 'cpu'))
    write_image(options.out, picture)
    for count, (psnr, ssim) in figures.items():
        print(f'{count:2} frames: {psnr:.2f} dB, SSIM {ssim:.3f} (after the best tone curve)')
    print(f'wrote {options.out}')
