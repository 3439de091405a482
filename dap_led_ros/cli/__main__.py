"""python -m dap_led_ros.cli is dap-led."""

import sys

from dap_led_ros.cli import main

sys.exit(main())
