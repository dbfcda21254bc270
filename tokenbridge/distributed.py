"""The processes that train one cell together, as torchrun or submitit's TorchDistributedEnvironment started them.

They read RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT. Without them there is one process, and torch is
not imported here. Gradients go over NCCL between GPUs, everything else over gloo.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from tokenbridge.config import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
LONGEST_MEETING = timedelta(minutes=10)
"""until all processes have started"""
LONGEST_WAIT = timedelta(days=7)
"""for rank 0 while it runs a stage alone; a process that died is noticed at once"""
T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process among `size` that train together; all of them call each method, in the same order.

    UserError where another process has ended; that process's message says why.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def main(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    def device(self, device: torch.device) -> torch.device:
        """The device for this process: one GPU of the node's for each, any other device unchanged."""
        if self.size == 1 or device.type != "cuda":
            return device
        import torch

        gpu = torch.device("cuda", self.local_rank % torch.cuda.device_count())  # submitit may show one GPU to each
        torch.cuda.set_device(gpu)
        return gpu

    def adding(self, tensors: Sequence[Tensor]) -> Callable[[], None]:
        """Begin to replace float32 tensors on one device by their sums over the processes, equal in all to the bit.

        As one vector, whose parts are added in an order that depends on its length alone.

        Returns:
            What waits for the sums and puts them in place.
        """
        if self.size == 1 or not tensors:
            return lambda: None
        import torch
        import torch.distributed as dist

        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        with self._others():
            under_way = dist.all_reduce(flat, dist.ReduceOp.SUM, async_op=True)

        def end() -> None:
            with self._others():
                assert under_way is not None
                under_way.wait()
            for tensor, total in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
                tensor.copy_(total.view_as(tensor))

        return end

    def max(self, value: int) -> int:
        """The largest of the processes' numbers."""
        if self.size == 1:
            return value
        import torch
        import torch.distributed as dist

        largest = torch.tensor(value)
        with self._others():
            dist.all_reduce(largest, dist.ReduceOp.MAX)
        return int(largest)

    def barrier(self) -> None:
        """Wait until all processes are here."""
        self.max(0)

    def first(self, value: T) -> T:
        """The value of rank 0, any object that can be pickled."""
        if self.size == 1:
            return value
        import torch
        import torch.distributed as dist

        values = [value]
        with self._others():
            dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
        return values[0]

    @contextmanager
    def _others(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            first = str(error).splitlines()[0]
            raise UserError(f"process {self.rank} of {self.size} lost another, which says why ({first})") from error


ONE = World()
_joined: ContextVar[World] = ContextVar("joined", default=ONE)


def world() -> World:
    """The processes joined here; this one alone outside `joined`."""
    return _joined.get()


@contextmanager
def joined() -> Iterator[World]:
    """Join the processes that the environment names, until the end; inside another `joined`, the same ones.

    Standard output of all but rank 0 is dropped.
    """
    here = _environment()
    if here.size == 1 or world().size > 1:
        yield world()
        return
    import torch
    import torch._dynamo  # imported later, as optimizers do, it would keep the group and its threads beyond their end
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    store, rank, size = next(rendezvous("env://", timeout=LONGEST_MEETING))
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=LONGEST_WAIT)
    token = _joined.set(here)
    try:
        if here.main:
            yield here
        else:
            with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
                yield here
    finally:
        _joined.reset(token)
        dist.destroy_process_group()


def require_one(command: str) -> None:
    """Refuse a command that several processes cannot share."""
    if (size := _environment().size) > 1:
        raise UserError(f"{command} is one process, not WORLD_SIZE={size}; start `run` with torchrun, or use --jobs")


def _environment() -> World:
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return ONE
    if missing := [name for name in NAMES if name not in os.environ]:
        raise UserError(
            f"WORLD_SIZE={os.environ['WORLD_SIZE']} needs {', '.join(missing)} as well; start with torchrun or Slurm"
        )
    try:
        return World(*(int(os.environ[name]) for name in NAMES[:3]))
    except ValueError as error:
        raise UserError(f"{', '.join(NAMES[:3])} must be integers ({error}); start with torchrun or Slurm") from None
