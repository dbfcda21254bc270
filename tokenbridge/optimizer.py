"""The optimizer of every training, AdamW (arXiv 1711.05101)."""

from __future__ import annotations

from inspect import unwrap

import torch


class AdamW(torch.optim.AdamW):
    """torch's own, with the same steps, without torch._dynamo: two seconds at the start of each training.

    Torch's methods import it at their first call, to keep torch.compile out of them. So neither a step nor what calls
    one can be compiled; the model can.
    """

    add_param_group = unwrap(torch.optim.AdamW.add_param_group)
    zero_grad = unwrap(torch.optim.AdamW.zero_grad)
    state_dict = unwrap(torch.optim.AdamW.state_dict)
    load_state_dict = unwrap(torch.optim.AdamW.load_state_dict)
    step = torch.no_grad()(unwrap(torch.optim.AdamW.step))
