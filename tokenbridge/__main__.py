"""The command `tokenbridge`, also as `python -m tokenbridge` and `torchrun -m tokenbridge`, in any folder."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any


def main() -> None:
    """Import the command, which takes a while in which Ctrl-C may come, and run it; on Windows, say where it runs.

    SIGTERM ends it as Ctrl-C does, so that nothing half-written stays.
    """
    if sys.platform == "win32":  # whose files have no such locks
        print("tokenbridge: needs POSIX locks and signals; use Linux, macOS, or WSL 2 on Windows", file=sys.stderr)
        raise SystemExit(2)
    asked = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if asked:  # and not ignored, as behind nohup
        signal.signal(signal.SIGINT, _leave)
    from tokenbridge.packages import ours_first

    ours_first()
    from experiments.cli.main import main as command

    if asked:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL and "RANK" not in os.environ:
        signal.signal(signal.SIGTERM, _end)  # one of several processes may be deaf to it, waiting for another
    command()


def _leave(number: int, frame: Any) -> None:
    """Leave at once: an exception could be lost in a library that is being imported, and there is nothing to undo."""
    from experiments.cli import INTERRUPTED, STOPPED

    print(STOPPED, file=sys.stderr, flush=True)
    os._exit(INTERRUPTED)


def _end(number: int, frame: Any) -> None:
    from tokenbridge.signals import Interrupted

    raise Interrupted(128 + number)


if __name__ == "__main__":
    main()
