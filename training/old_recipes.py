"""Where the recipes of release 0.1 are now.

Their old paths work for one release, with a warning.
"""

from __future__ import annotations

import warnings
from pathlib import Path

HERE = Path(__file__).parent / 'recipes'
MOVED = {
    'clip_lit': 'companions/clip_lit',
    'clip_lit_tiny': 'tiny/clip_lit',
    'da_clip': 'companions/da_clip/1_controller',
    'da_clip_nafnet': 'companions/da_clip/2_nafnet',
    'da_clip_nafnet_tiny': 'tiny/da_clip_2_nafnet',
    'da_clip_small': 'companions/da_clip/2_dap_led_small',
    'da_clip_tiny': 'tiny/da_clip_1_controller',
    'dap_led/1_night': 'dap_led/1_night',
    'dap_led/2_losses': 'dap_led/2_losses',
    'degradation_clip_tiny': 'clip/1_captions',
    'degradation_clip_tiny_2': 'clip/2_half_rate',
    'degradation_clip_tiny_3': 'clip/3_longer',
    'degradation_clip_tiny_4': 'clip/4_tokens',
    'devudp': 'companions/devudp',
    'devudp_distortion': 'companions/devudp_distortion',
    'devudp_tiny': 'tiny/devudp',
    'distilled': 'clip/5_distilled',
    'nafnet': 'companions/nafnet',
    'nano': 'nano_0_1/1_night',
    'nano/1_day': 'nano/1_day',
    'nano/2_night': 'nano/2_night',
    'nano/3_all': 'nano/3_all',
    'nano/4_exposure': 'nano/4_exposure',
    'nano/5_gate': 'nano/5_gate',
    'nano/6_time': 'nano/6_time',
    'nano_2': 'nano_0_1/2_blur_and_lamps',
    'nano_commercial': 'nano_0_1/commercial',
    'nano_gate': 'nano_0_1/3_gate',
    'nano_keep': 'nano_0_1/5_keep',
    'nano_tone': 'nano_0_1/4_tone',
    'paper': 'dap_led/paper',
    'refiner_nano': 'companions/ptg_rm_nano',
    'refiner_tiny': 'tiny/ptg_rm',
    'refiner_tone_curve': 'companions/ptg_rm_tone_curve',
    'small': 'dap_led/small',
}
"""Old place below configs/ to new place below recipes/, both without .yaml."""


def today(path: str | Path) -> Path:
    """The path itself, or where the recipe that was there is now."""
    path = Path(path)
    if path.exists() or 'configs' not in path.parts:
        return path
    below = path.parts[len(path.parts) - path.parts[::-1].index('configs') :]
    name = MOVED.get('/'.join(below).removesuffix('.yaml'))
    if name is None:
        return path
    warnings.warn(
        f'{path} is training/recipes/{name}.yaml now; its old path goes with the next release',
        FutureWarning,
        stacklevel=2,
    )
    return HERE / f'{name}.yaml'
