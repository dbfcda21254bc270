"""What training costs, counted: floating-point operations of its matrix products, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tokenbridge.model.batches import Batch, Draws

MASK_RATIOS = 8


def training_flops(loss: Callable[[Batch], Tensor], draws: Draws) -> float:
    """Operations of all steps: the mean over evenly spaced quantiles of the mask ratio, times the number of steps.

    Matrix products and attention, as torch counts them; elementwise work and the optimizer are left out. No weight and
    no random state is changed; gradients are.
    """
    batch, total = draws.batch(0), 0
    order = torch.arange(batch.mask.shape[1]).expand_as(batch.mask)
    for i in range(MASK_RATIOS):
        mask = draws.mask(order, (i + 0.5) / MASK_RATIOS)
        with torch.random.fork_rng(), FlopCounterMode(display=False) as counter:
            loss(replace(batch, mask=mask)).backward()
        total += counter.get_total_flops()
    return total / MASK_RATIOS * draws.steps
