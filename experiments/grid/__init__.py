"""Grids: rows of the paper's tables and points of axes, run together so that what cells share runs once.

request.Request says what is asked for, and makes the Grid of cells; forecast says what it would cost; run.run runs it
here, and slurm runs its rounds on a cluster. search chooses guidance and temperature for each row of a table, tune does
so for a trained model (`tokenbridge tune`). The plan that a report is made by is in experiments/paper/plan.py.
"""
