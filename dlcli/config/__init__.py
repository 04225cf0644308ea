"""Settings: what may be set, where it was set, and what the names of models and data stand for."""
