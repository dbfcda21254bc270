"""Gradients of several processes: which are sent when, and that nothing else is."""

import torch
from torch import nn

from tokenbridge.model import gradients
from tokenbridge.model.gradients import Sums


def adding(tensors):
    """As of two processes with the same gradients; notes what is sent, and which gradients are there."""
    SENT.append(([tensor.data_ptr() for tensor in tensors], [p.grad is not None for p in MODEL.parameters()]))

    def end():
        for tensor in tensors:
            tensor.mul_(2)

    return end


SENT = []
MODEL = nn.Sequential(*(nn.Linear(5, 5) for _ in range(4)))


def test_each_gradient_is_summed_once_and_most_before_the_backward_pass_ends(monkeypatch):
    monkeypatch.setattr(gradients, "BUCKET_BYTES", 4 * (25 + 5))  # a layer's
    sums, x, total = Sums(MODEL.parameters(), adding), torch.ones(2, 5), torch.tensor(3.0)
    MODEL(x).sum().backward()  # of an earlier micro-batch: adds to the gradients, sends nothing
    assert SENT == []
    MODEL.zero_grad()
    MODEL(x).sum().backward()
    alone = [p.grad.clone() for p in MODEL.parameters()]
    for _ in range(2):  # steps
        SENT.clear()
        MODEL.zero_grad()
        sums.begin()
        MODEL(x).sum().backward()
        begun = len(SENT)
        sums.end(total)
        assert [there for _, there in SENT[:begun]] == [[False] * (6 - 2 * i) + [True] * (2 + 2 * i) for i in range(3)]
        sent = [pointer for pointers, _ in SENT for pointer in pointers]
        wanted = [total.data_ptr(), *(p.grad.data_ptr() for p in MODEL.parameters())]
        assert sorted(sent) == sorted(wanted)
        assert all(torch.equal(p.grad, 2 * g) for p, g in zip(MODEL.parameters(), alone, strict=True))
    assert total == 12


def test_what_gets_no_gradient_keeps_nobody_waiting(monkeypatch):
    """Nor does a parameter larger than a bucket."""
    monkeypatch.setattr(gradients, "BUCKET_BYTES", 8)
    sums, total = Sums(MODEL.parameters(), adding), torch.tensor(1.0)
    assert [len(bucket) for bucket in sums.buckets] == [1] * 8
    MODEL.zero_grad()
    SENT.clear()
    sums.begin()
    MODEL[2](torch.ones(1, 5)).sum().backward()
    sums.end(total)
    assert [len(pointers) for pointers, _ in SENT] == [0, 0, 1, 1, 0, 0, 0, 1]
    assert total == 2
