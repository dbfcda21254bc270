"""A server that ends with the command that started it, whatever ends that: its whole process group does.

MLflow's server starts processes of its own, which SIGTERM to the first leaves behind. So a guard starts it, in a group
of their own, and ends the group when its standard input closes, as it does when the command ends in any way.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

END_SECONDS = 10.0
"""from SIGTERM to SIGKILL"""
SIGNALS = tuple(
    signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)  # Windows lacks one


class _Told(BaseException):
    """A signal asks to end."""


def run(argv: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a server until it ends, or a signal asks this process to.

    Args:
        argv: its command.
        environment: all of its environment.

    Returns:
        Its exit status; 0 after Ctrl+C, 128 + the number of SIGTERM or SIGHUP.
    """

    def told(number: int, frame: FrameType | None) -> None:
        raise _Told(number)

    before = {number: signal.signal(number, told) for number in SIGNALS}
    try:
        own = [sys.executable, "-P", str(Path(__file__)), str(END_SECONDS)]
        guard = subprocess.Popen([*own, *argv], stdin=subprocess.PIPE, env=environment, start_new_session=True)
        try:
            return guard.wait()
        except _Told as signals:
            return 0 if signals.args[0] == signal.SIGINT else 128 + signals.args[0]
        finally:
            for number in SIGNALS:  # it ends within seconds
                signal.signal(number, signal.SIG_IGN)
            assert guard.stdin is not None
            guard.stdin.close()
            guard.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(argv: Sequence[str], seconds: float) -> int:
    """The guard: runs a command in a group of its own, which ends when the other end of stdin does; its exit status.

    Args:
        argv: the command.
        seconds: from SIGTERM to SIGKILL.
    """
    for number in SIGNALS:
        signal.signal(number, lambda *_: None)  # the pipe tells it to end; SIG_IGN would be the server's too
    server = subprocess.Popen(argv, stdin=subprocess.DEVNULL, start_new_session=True)
    while server.poll() is None and not select.select([0], [], [], 0.2)[0]:
        pass
    late = time.monotonic() + seconds
    _signal(server.pid, signal.SIGTERM)
    while _signal(server.pid, 0) and time.monotonic() < late:  # others of the group may outlive it
        server.poll()
        time.sleep(0.1)
    _signal(server.pid, signal.SIGKILL)
    status = server.wait()
    return status if status >= 0 else 128 - status


def _signal(group: int, number: int) -> bool:
    """Whether the group is there to take it, or 0, which is none."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[2:], float(sys.argv[1])))
