"""Where stages run: a graph of stages becomes arrays of Slurm jobs that submitit starts.

launch (what a sweep costs, then its submission) ─ rounds (which cells run now, which wait for a choice) ─ submit
(arrays of jobs and what each waits for) ─ job (its stages on a node); sweep (what is written down of it).
status (where each stage stands) ─ screen (that on a terminal) ─ logs ─ commands. Slurm's programs are called in
scheduler alone; resources reads the cluster's file; snapshot copies the code that jobs run.
Others use `commands` and `launch`, which experiments.cli adds to `tokenbridge`.
"""
