"""The command `tokenbridge`, also as `python -m tokenbridge` and `torchrun -m tokenbridge`, in any folder."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command; on Windows, whose files have no such locks, say where it runs."""
    if sys.platform == "win32":
        print("tokenbridge: needs POSIX locks and signals; use Linux, macOS, or WSL 2 on Windows", file=sys.stderr)
        raise SystemExit(2)
    from tokenbridge.packages import ours_first

    ours_first()
    from experiments.cli.__main__ import main as command

    command()


if __name__ == "__main__":
    main()
