"""The entry of the command in a checkout, `python -m experiments.cli`; in any folder it is tokenbridge/__main__.py."""

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
