"""Gradients of several processes, added while the backward pass goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

from torch import Tensor, nn

BUCKET_BYTES = 25 * 2**20
"""of gradients that are sent together"""


class Sums:
    """The sums of gradients over the processes, of a bucket of parameters as soon as its last gradient is there.

    Buckets are fixed, from the model's last parameter to its first, as a backward pass comes to them. (Those of
    DistributedDataParallel are laid out anew after a process's first step, so a resumed run would add in another order
    than an undisturbed one.) Each is begun after the one before it, so all processes send them in the same order.

    Args:
        parameters: of the model, in its order; float32, on one device.
        adding: of the processes (tokenbridge.distributed), begins to add tensors; None of a single process.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], adding: Callable[[list[Tensor]], Callable[[], None]] | None):
        self.adding = adding
        self.buckets = list(_buckets([*parameters][::-1])) if adding else []
        self._left: list[int] = []
        self._ends: list[Callable[[], None]] = []
        for number, bucket in enumerate(self.buckets):
            for parameter in bucket:
                parameter.register_post_accumulate_grad_hook(partial(self._arrived, number))

    def begin(self) -> None:
        """The next backward pass is the step's last: gradients are whole when they arrive."""
        self._left = [len(bucket) for bucket in self.buckets]

    def end(self, total: Tensor) -> None:
        """Wait until all gradients, and a tensor of float32 with them, are their sums, equal in all to the last bit."""
        while len(self._ends) < len(self.buckets) - 1:
            self._send([])
        if self.buckets:
            self._send([total])
        for end in self._ends:
            end()
        self._left, self._ends = [], []

    def _arrived(self, number: int, parameter: Tensor) -> None:
        if not self._left:
            return
        self._left[number] -= 1
        while len(self._ends) < len(self.buckets) - 1 and not self._left[len(self._ends)]:
            self._send([])

    def _send(self, more: list[Tensor]) -> None:
        assert self.adding is not None
        bucket = self.buckets[len(self._ends)]
        self._ends.append(self.adding([*more, *(p.grad for p in bucket if p.grad is not None)]))


def _buckets(parameters: list[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """The parameters in turn, in parts of up to BUCKET_BYTES, or of one that is larger."""
    part, size = list[nn.Parameter](), 0
    for parameter in parameters:
        if part and size + parameter.nbytes > BUCKET_BYTES:
            yield part
            part, size = [], 0
        part.append(parameter)
        size += parameter.nbytes
    yield part
