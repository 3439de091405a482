"""Old name of dap_led_training.make.tone_curve, for one release."""

from dap_led_training.deprecated import stand_in

stand_in(__name__, 'tone_curve')
