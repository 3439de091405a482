"""Enhance frames: numpy in, numpy out. The way in is Enhancer.load()."""

from dap_led_ros.inference.enhancer import Enhanced, Enhancer

__all__ = ['Enhanced', 'Enhancer']
