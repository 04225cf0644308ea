"""Compares analytic with numeric derivatives, tensor by tensor and module by module."""
