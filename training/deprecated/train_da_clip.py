"""Old name of dap_led_training.trainers.da_clip, for one release."""

from dap_led_training.deprecated import stand_in

stand_in(__name__, 'train_da_clip')
