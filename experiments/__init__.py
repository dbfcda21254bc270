"""Which runs exist, and running them.

presets and axes say what can be run, paper which cells fill a table of the paper; pipeline turns a configuration into
stages with ids, and runner runs them on this machine. grid runs tables and searches, tracking writes to MLflow, and cli
is the command. budget, doctor, reconstructions and speed serve the commands of their names.
"""
