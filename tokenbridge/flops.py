"""What training costs, counted: floating-point operations of its matrix products, forward and backward."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tokenbridge.batches import Batch, Draws

SAMPLED_STEPS = 8


def training_flops(loss: Callable[[Batch], Tensor], draws: Draws) -> float:
    """Operations of all steps, from the mean of a few that are spread over the training (mask ratios differ).

    Matrix products and attention, as torch counts them; elementwise work and the optimizer are left out. No weight and
    no random state is changed; gradients are.
    """
    steps = range(0, draws.steps, max(1, draws.steps // SAMPLED_STEPS))
    total = 0
    for step in steps:
        with torch.random.fork_rng(), FlopCounterMode(display=False) as counter:
            loss(draws.batch(step)).backward()
        total += counter.get_total_flops()
    return total / len(steps) * draws.steps
