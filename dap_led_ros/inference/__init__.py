"""Enhance frames: numpy in, numpy out. The way in is Enhancer.load()."""

from dap_led_ros.inference.enhancer import Enhancer
from dap_led_ros.inference.frames import Enhanced

__all__ = ['Enhanced', 'Enhancer']
