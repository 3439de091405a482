"""Training, evaluation and export of the networks; imported as dap_led_training."""
