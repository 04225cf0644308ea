"""Weights and training state on the disk: saved atomically, verified before use."""
