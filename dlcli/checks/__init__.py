"""Checks that test dlcli's promises on the user's machine; each returns plain data."""
