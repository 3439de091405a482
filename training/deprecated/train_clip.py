"""Old name of dap_led_training.trainers.clip, for one release."""

from dap_led_training.deprecated import stand_in

stand_in(__name__, 'train_clip')
