"""Exports a trained run to files for other programs; each is compared with the trained model before it is kept."""
