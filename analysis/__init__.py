"""What the runs say. Never imports torch."""
