"""Data sets, and the way from a file to a batch on the device."""
