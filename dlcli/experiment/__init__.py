"""Builds data, model and task from settings, and restores the trained model of a run."""
