"""The optimizer takes torch's steps to the last bit, and its checkpoints are torch's, without torch._dynamo."""

import subprocess
import sys

import pytest
import torch

from tokenbridge.optimizer import AdamW

ALONE = """
import sys
import torch
from tokenbridge.optimizer import AdamW

weight = torch.nn.Parameter(torch.ones(3))
optimizer = AdamW([weight], 0.1, fused=True)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=3)
for _ in range(2):
    optimizer.zero_grad()
    (weight**2).sum().backward()
    optimizer.step()
    schedule.step()
optimizer.load_state_dict(optimizer.state_dict())
assert "torch._dynamo" not in sys.modules
"""


@pytest.mark.slow
def test_torch_dynamo_is_not_imported():
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_steps_and_checkpoints_are_those_of_torch():
    ends = []
    for kind in (torch.optim.AdamW, AdamW):
        draws = torch.Generator().manual_seed(0)
        weights = [torch.nn.Parameter(torch.randn(size, generator=draws)) for size in ((5, 3), (7,))]
        groups = [{"params": weights[:1], "weight_decay": 0.02}, {"params": weights[1:], "weight_decay": 0.0}]
        optimizer = kind(groups, 1e-2, (0.9, 0.95), fused=True)
        for _ in range(5):
            optimizer.zero_grad(set_to_none=True)
            sum((weight * torch.randn(weight.shape, generator=draws)).sin().sum() for weight in weights).backward()
            optimizer.step()
        ends.append((weights, optimizer.state_dict()))
    (theirs, their_state), (ours, our_state) = ends
    assert all(torch.equal(a, b) for a, b in zip(theirs, ours, strict=True))
    assert our_state["param_groups"] == their_state["param_groups"]
    for index, state in their_state["state"].items():
        assert all(torch.equal(value, our_state["state"][index][key]) for key, value in state.items())
    again = AdamW(ours, 1e-3)
    again.load_state_dict(AdamW(ours, 1e-2).state_dict())
    assert again.param_groups[0]["lr"] == 1e-2
