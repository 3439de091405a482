"""Old name of dap_led_training.measure.comparison, for one release."""

from dap_led_training.deprecated import stand_in

stand_in(__name__, 'ladder')
