"""What a notebook shows of a run: plain HTML tables without style or script of their own."""

from collections.abc import Mapping
from html import escape
from typing import Any

_LONGEST = 200  # characters of a value


def as_html(title: str, tables: Mapping[str, Mapping[str, Any]]) -> str:
    """title: of the whole. tables: heading -> name -> value; empty ones are left out. All text is escaped."""
    found = [f"<strong>{_text(title)}</strong>"]
    for heading, values in tables.items():
        rows = "".join(f"<tr><th>{_text(name)}</th><td>{_text(value)}</td></tr>" for name, value in values.items())
        if rows:
            found.append(f"<table><thead><tr><th colspan='2'>{_text(heading)}</th></tr></thead>{rows}</table>")
    return "\n".join(found)


def _text(value: Any) -> str:
    if isinstance(value, list):
        value = ",".join(map(str, value))
    shown = f"{value:.6g}" if isinstance(value, float) else "-" if value is None else str(value)
    shown = shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}..."
    printable = (char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in shown)
    return escape("".join(printable))
