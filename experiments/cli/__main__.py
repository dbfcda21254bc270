"""The entry of the command in a checkout, `python -m experiments.cli`; in any folder it is tokenbridge/__main__.py."""

import os
import signal
import sys
from typing import Any

from experiments.cli import INTERRUPTED, STOPPED


def main() -> None:
    """Import the command, which takes a while in which Ctrl-C may come, and run it."""
    asked = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if asked:  # and not ignored, as behind nohup
        signal.signal(signal.SIGINT, _leave)
    from experiments.cli.main import main as command

    if asked:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    command()


def _leave(number: int, frame: Any) -> None:
    """Leave at once: an exception could be lost in a library that is being imported, and there is nothing to undo."""
    print(STOPPED, file=sys.stderr, flush=True)
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    main()
