"""The entry of the command `tokenbridge`, also as `python -m experiments.cli`."""

import sys

from experiments.cli import INTERRUPTED, STOPPED


def main() -> None:
    """Import the command, which takes a while in which Ctrl-C may come, and run it."""
    try:
        from experiments.cli.main import main as command
    except KeyboardInterrupt:
        print(STOPPED, file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    command()


if __name__ == "__main__":
    main()
