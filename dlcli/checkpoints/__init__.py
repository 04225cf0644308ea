"""Weights and state on the disk: saved as a whole, verified before they are used."""
