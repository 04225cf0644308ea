"""Runs as folders: one run, the names that people call it by, the table of all of them, the trash."""
