"""Old name of dap_led_training.make.night_bag, for one release."""

from dap_led_training.deprecated import stand_in

stand_in(__name__, 'night_bag')
