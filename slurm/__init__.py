"""Where stages run: submission to Slurm. Empty until that is built; today stages run on this machine (--jobs)."""
