"""Signals are noted, and the handlers before are back afterwards."""

import os
import signal

import pytest

from tokenbridge.signals import SIGNALS, Interrupted, interrupted, signals


def test_user_signals_are_noted_only_where_python_handles_them():
    """As in a job of submitit, which handles USR2 and not USR1; the earlier handler gets it when it is raised again."""
    got = []
    before = signal.signal(signal.SIGUSR2, lambda number, frame: got.append(number))
    try:
        with pytest.raises(Interrupted) as stop, signals() as noted:
            assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
            for number in (signal.SIGUSR2, signal.SIGTERM):
                os.kill(os.getpid(), number)
            raise interrupted(noted.urgency)
        assert stop.value.number == signal.SIGUSR2
        assert stop.value.code == 128 + signal.SIGUSR2
        assert got == []
        os.kill(os.getpid(), stop.value.number)
        assert got == [signal.SIGUSR2]
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_the_code_tells_the_signal():
    assert [interrupted(1 + i).number for i in range(len(SIGNALS))] == list(SIGNALS)
