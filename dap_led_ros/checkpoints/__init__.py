"""Checkpoints: a network's weights with its configuration, its prior and its base. Needs torch."""
