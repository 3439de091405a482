"""Modules under the names they had, for one release."""

from __future__ import annotations

import importlib
import sys

import pytest

pytest.importorskip('torch', reason="no torch: pip install 'dap_led_ros[train]'")


@pytest.mark.parametrize(
    ('old', 'new', 'name'),
    [
        ('dap_led_ros.inference.export', 'dap_led_ros.export', 'load_network'),
        ('dap_led_ros.inference.checkpoint', 'dap_led_ros.checkpoints.checkpoint', 'load'),
    ],
)
def test_former_places_still_import_and_name_the_new_one(old, new, name):
    sys.modules.pop(old, None)
    with pytest.warns(FutureWarning, match=f'is {new} now'):
        module = importlib.import_module(old)
    assert getattr(module, name) is getattr(importlib.import_module(new), name)
