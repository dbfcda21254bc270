"""Where stages run: a graph of stages becomes arrays of Slurm jobs that submitit starts.

plan (which arrays, who waits for whom) ─ submit ─ job (a stage on its node) ─ status, logs, retry, cancel
"""
