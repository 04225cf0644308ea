"""Values in the words of a person, without control characters: for tables, pages and cards."""

import re
from typing import Any

# Control characters, line separators, characters that change the direction of a text, non-UTF-8 bytes of a path, and
# what is no character.
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
# Longest text that is shown to the user in full, in characters.
_LONGEST = 1000


def cut(value: str) -> str:
    """A text, truncated if it is very long."""
    return value if len(value) <= _LONGEST else f"{value[:_LONGEST]}..."


def number(value: float | None) -> str:
    """Four decimals, or four significant digits for very small and very large values."""
    if value is None:
        return "-"
    if value != 0 and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.4g}"
    return f"{value:.4f}"


def plain(value: str) -> str:
    """Text without control characters, so that text from data and files cannot control the terminal."""
    return value if value.isprintable() else CONTROL.sub("\N{REPLACEMENT CHARACTER}", value)


def setting(value: Any) -> str:
    """A setting in the form that options accept: `0.1`, `128,64`, `yes`."""
    if isinstance(value, list | tuple):
        return ",".join(map(setting, value)) or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else text(value)


def text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return number(value)
    return plain(cut(str(value)))


def byte_size(count: int) -> str:
    """`512 B`, `3.4 kB`, `1.2 MB`, `5.0 GB`."""
    if count < 1000:
        return f"{count} B"
    value, units = count / 1000, ["kB", "MB", "GB", "TB"]
    while value >= 999.95 and len(units) > 1:
        value /= 1000
        del units[0]
    return f"{value:,.1f} {units[0]}"


def duration(seconds: float | None) -> str:
    """`7.1s`, `2m05s`, `3h20m`."""
    if seconds is None:
        return "-"
    if seconds < 59.95:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02d}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}m"
