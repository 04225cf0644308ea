"""The name of the processor."""

import contextlib
import platform

_FILE = "/proc/cpuinfo"
# Clouds give the same name to several generations, which round differently.
_FIELDS = ("cpu family", "model", "model name")


def processor() -> str:
    """Name, family and model where Linux reports them, as `AMD EPYC (family 25, model 17)`, else the architecture."""
    found: dict[str, str] = {}
    with contextlib.suppress(OSError), open(_FILE, encoding="utf-8", errors="replace") as file:
        for line in file:
            field, _, value = line.partition(":")
            if field.strip() in _FIELDS:
                found.setdefault(field.strip(), value.strip())
            if len(found) == len(_FIELDS):
                return f"{found['model name']} (family {found['cpu family']}, model {found['model']})"
    return found.get("model name") or platform.processor() or platform.machine()
