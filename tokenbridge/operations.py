"""Floating-point operations, counted while code runs, on tensors with values or without."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Operations(TorchDispatchMode):
    """Counts in `total` the operations of the matrix products, convolutions and attention of its block.

    Torch's own formulas, as FlopCounterMode counts by them: 2 for each multiplication with its addition, none for what
    works element by element. That class imports torch._dynamo, which takes two seconds, and counts for each module.
    """

    def __init__(self) -> None:
        super().__init__()
        from torch.utils.flop_counter import flop_registry  # with triton, half a second

        self.total = 0
        self.formulas: dict[Any, Callable[..., int]] = flop_registry

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing in the block is compiled

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _composed(func):
            with self:
                return func.decompose(*args, **kwargs)
        result = func(*args, **kwargs)
        if formula := self.formulas.get(func._overloadpacket):
            self.total += formula(*args, **kwargs, out_val=result)
        return result


@cache
def _composed(func: Any) -> bool:
    """Whether an operator is made of others."""
    key = torch._C.DispatchKey.CompositeImplicitAutograd
    return key in func.py_kernels or func.has_kernel_for_dispatch_key(key)
