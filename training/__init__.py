"""Train networks, measure them, and make what they need; imported as dap_led_training."""

from pathlib import Path

# Old names of modules are found as if they were still here, for one release.
__path__.append(str(Path(__file__).parent / 'deprecated'))
