"""What the runs say: frame, tables, figures, verdicts, report. Never imports torch.

The rooms build on one another in one order: frame ← tables ← figures and verdicts ← report. `stats` stands below all.
"""
