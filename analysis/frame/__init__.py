"""The frame: what the runs measured, one row per cell, for notebooks, tables and figures; without torch.

load      frame of all runs from MLflow, what its metrics are, and the source folder of a report
source    a source folder as one typed frame with the plan, curves and example images: what tables and figures read
mlflow    the only module that reads MLflow
"""
