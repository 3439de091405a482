"""Begin a larger network as the same function as a smaller one of its kind.

What is new starts without a say (as in Net2Net, Chen et al. 2016, but without copies): new
features are drawn as always and nothing old listens to them yet, new residual blocks add zero. So
training goes on where the smaller network's training ended.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dap_led_ros.models.nano import Nano


@torch.no_grad()
def grow(weights: dict[str, Tensor], network: Nano) -> dict[str, Tensor]:
    """Weights for a network that make it the function of a smaller one.

    :param weights: of the smaller network; blocks may be missing, widths smaller.
    :returns: all of `weights`, enlarged, and zeros for the last layers of new blocks.
    :raises ValueError: the weights are of a larger network, or of another kind.
    """
    grown = dict(weights)
    for name, new in network.state_dict().items():
        if name not in weights:
            if '.conv2.' in name:
                grown[name] = torch.zeros_like(new)
            continue
        old = weights[name]
        if old.dim() != new.dim() or any(a > b for a, b in zip(old.shape, new.shape)):
            raise ValueError(f'cannot grow {name} from {tuple(old.shape)} to {tuple(new.shape)}')
        # The gate sees means and spreads of the same features, one after the other.
        grown[name] = _embedded(old, new, inputs=2 if name == 'gate.0.weight' else 1)
    return grown


def _embedded(old: Tensor, new: Tensor, inputs: int) -> Tensor:
    """Old weights (O, I, ...) within new ones, whose old outputs ignore the new inputs.

    :param inputs: how many groups of features the inputs consist of.
    """
    new, outputs = new.clone(), len(old)
    if old.dim() == 1:
        new[:outputs] = old
        return new
    new[:outputs] = 0
    for mine, theirs in zip(new[:outputs].chunk(inputs, 1), old.chunk(inputs, 1)):
        mine[:, : theirs.shape[1]] = theirs
    return new
