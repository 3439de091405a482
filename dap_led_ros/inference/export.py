"""The former place of dap_led_ros.export, for one release."""

import warnings

from dap_led_ros.export import *  # noqa: F403

warnings.warn(
    'dap_led_ros.inference.export is dap_led_ros.export now', FutureWarning, stacklevel=2
)
