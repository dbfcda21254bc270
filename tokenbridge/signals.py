"""Stopping on signals: what is under way notes them, comes to a good end of its own and raises Interrupted."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# the last one wins: a job that is to be requeued (USR2, USR1) may get SIGTERM as well
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class Interrupted(SystemExit):
    """Work stopped on a signal, with a checkpoint written; the exit code is 128 + the signal's number."""

    @property
    def number(self) -> int:
        assert isinstance(self.code, int)
        return self.code - 128


class Noted:
    """Signals that have come: `urgency` is 0 for none, else 1 + the place in SIGNALS."""

    urgency = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.urgency = max(self.urgency, 1 + SIGNALS.index(signal.Signals(number)))


def interrupted(urgency: int) -> Interrupted:
    return Interrupted(128 + SIGNALS[urgency - 1])


@contextmanager
def signals() -> Iterator[Noted]:
    """Note SIGTERM and SIGINT, and SIGUSR1 and SIGUSR2 where a Python function handles them now.

    The handlers before are back at the end, so that who catches Interrupted may raise `number` again for them: a Slurm
    job that submitit is to requeue does so for SIGUSR2. SIGTERM is noted there too, which submitit alone would ignore.
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
