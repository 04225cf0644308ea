"""Analytic against numeric derivatives, tensor by tensor and module by module."""
