"""Runs as one page and as a model card: records -> sections of plain blocks -> HTML, Markdown."""
