"""The former place of dap_led_ros.checkpoints.checkpoint, for one release."""

import warnings

from dap_led_ros.checkpoints.checkpoint import *  # noqa: F403

warnings.warn(
    'dap_led_ros.inference.checkpoint is dap_led_ros.checkpoints.checkpoint now',
    FutureWarning,
    stacklevel=2,
)
