"""Runs as folders: a run, the ways to name one, the table of all runs, the trash."""
