"""The trainer: one loop for every family, its clock, checkpoints, card and report. No Ray."""
