"""`python -m experiments.cli`: the command, where its name is not on the path."""

from experiments.cli.main import main

main()
