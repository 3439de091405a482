"""A wider and deeper nano begins as the function of a smaller one."""

from __future__ import annotations

import pytest

torch = pytest.importorskip('torch', reason="no torch: pip install 'dap_led_ros[train]'")

from dap_led_ros.models.nano import PRESETS, Nano, NanoConfig
from dap_led_training.trainers.grow import grow

LARGER = NanoConfig((16, 16, 24), (2, 1, 2), (2, 1), detail_blocks=2, gate_width=8)


def networks() -> tuple[Nano, Nano]:
    """A tiny network that does something, and a larger one that has grown out of it."""
    torch.manual_seed(3)
    small, large = Nano(PRESETS['nano-tiny']), Nano(LARGER)
    torch.nn.init.normal_(small.head.weight, std=0.1)
    missing, unknown = large.load_state_dict(grow(small.state_dict(), large), strict=False)
    assert not unknown
    assert all('.conv1.' in name for name in missing)  # first halves of new blocks
    return small, large


def test_the_function_is_the_same():
    small, large = networks()
    frame = torch.rand(2, 3, 48, 80)
    (before, gate_before), (after, gate_after) = (
        network.enhance_and_gate(frame) for network in (small, large)
    )
    assert (before - frame).abs().max() > 0.01
    torch.testing.assert_close(after, before, atol=1e-6, rtol=0)
    torch.testing.assert_close(gate_after, gate_before)


def test_what_is_new_learns():
    _, large = networks()
    large(torch.rand(1, 3, 32, 32)).square().mean().backward()
    blocks = (large.encoder4[1].conv2.weight, large.decoder2[1].conv2.weight)
    for weight in (*blocks, large.down16.weight[:16, 8:]):
        assert not weight.any()
    for weight in blocks:
        assert weight.grad.any()
    assert large.down16.weight.grad[:16, 8:].any()


def test_what_is_larger_does_not_fit():
    with pytest.raises(ValueError, match=r'cannot grow .* from \(16, .* to \(8, '):
        grow(Nano(LARGER).state_dict(), Nano(PRESETS['nano-tiny']))
