"""The command `tokenbridge`, one file per command or per kind of command; `main` is the entry point.

This room is the roof: the only one that imports slurm and analysis. Heavy libraries are imported inside the commands
that need them, so that `--help` takes a moment. `options` holds the options that several commands take (slurm.commands
too), `common` how commands that run cells end.
"""

STOPPED = "tokenbridge: stopped; what is finished stays, and the same command goes on"
INTERRUPTED = 130
"""exit code, as of a process that SIGINT ended"""
