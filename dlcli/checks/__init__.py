"""Promises proved on the user's own machine; each check returns plain data."""
