"""Tracking: the only writer to MLflow, which it brings up to date from what the stages left in their folders.

Others use `sync` (sync, catch_up, log_report, ui) and, beside a job, `live.beside`. A record (records) reads what
MLflow shall hold of a cell, a training, a sweep or a report into plain values (content); sender sends what MLflow
lacks, memory remembers what was sent, store makes and serves MLflow's store, views say what its page opens with.
Nothing here imports MLflow before something is sent, and an outage of MLflow loses nothing.
"""
