"""Stopping on signals: work under way notes them, writes its checkpoint and raises Interrupted."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


def there(*names: str) -> tuple[signal.Signals, ...]:
    """Those of these signals that the platform has."""
    return tuple(signal.Signals[name] for name in names if hasattr(signal, name))


# the last one wins: a job that is to be requeued (USR2, USR1) may get SIGTERM as well
SIGNALS = there("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2")


class Interrupted(SystemExit):
    """Work stopped on a signal, with a checkpoint written; the exit code is 128 + the signal's number."""

    @property
    def number(self) -> int:
        assert isinstance(self.code, int)
        return self.code - 128


class Noted:
    """Handler that notes signals; `urgency` is 0 before the first, else 1 + the highest index in SIGNALS."""

    urgency = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.urgency = max(self.urgency, 1 + SIGNALS.index(signal.Signals(number)))


def interrupted(urgency: int) -> Interrupted:
    """The exception for the signal of this urgency."""
    return Interrupted(128 + SIGNALS[urgency - 1])


@contextmanager
def signals() -> Iterator[Noted]:
    """Note SIGTERM and SIGINT, and SIGUSR1 and SIGUSR2 where a Python function handles them now.

    The earlier handlers are restored at the end, so that a caller who catches Interrupted can raise `number` again for
    them, as a Slurm job that submitit requeues does with SIGUSR2. SIGTERM, which submitit would ignore, is noted too.
    """
    noted = Noted()
    asked = [n for n in SIGNALS if n in (signal.SIGTERM, signal.SIGINT) or callable(signal.getsignal(n))]
    try:
        before = [signal.signal(number, noted) for number in asked]
    except ValueError:  # not the main thread: signals go elsewhere
        yield noted
        return
    try:
        yield noted
    finally:
        for number, handler in zip(asked, before, strict=True):
            signal.signal(number, handler)
