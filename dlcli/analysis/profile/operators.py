"""The operators of some steps, as torch.profiler records them, and the Chrome trace of these steps."""

import bisect
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from dlcli.core.errors import ConfigError, DlcliError
from dlcli.core.files import write_bytes

OUTSIDE = "outside operators"
_ON_CPU = "DeviceType.CPU"
_LEFT_OUT = "checks"  # a phase of the first steps only


def recorder(device: torch.device, *, memory: bool) -> Any:
    """A torch.profiler.profile for work on this device. memory: whether it records allocations."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    return torch.profiler.profile(activities=activities, profile_memory=memory)


def operators(profiler: Any, *, steps: int, seconds: float, memory: bool) -> list[dict[str, Any]]:
    """A row for each operator, the longest first, and one for what is outside operators.

    seconds: of a recorded step. Of each step: calls, seconds (of the operator itself, without those that it calls; on a
    GPU those of its kernels) and, with `memory`, allocated, the bytes that it has allocated and not given back.
    """
    events = [event for event in profiler.events() if str(event.device_type) == _ON_CPU]
    left_out = sorted((e.time_range.start, e.time_range.end) for e in events if e.name == _LEFT_OUT)
    starts = [start for start, _ in left_out]
    on_device = any(event.self_device_time_total for event in events)
    rows: dict[str, dict[str, Any]] = {}
    for event in events:
        place = bisect.bisect_right(starts, event.time_range.start) - 1
        if event.is_user_annotation or event.name == "[memory]":
            continue
        if place >= 0 and event.time_range.start < left_out[place][1]:
            continue
        name = event.name.removeprefix("autograd::engine::evaluate_function: ")
        row = rows.setdefault(name, {"operator": name, "calls": 0.0, "seconds": 0.0})
        taken = event.self_device_time_total if on_device else event.self_cpu_time_total
        row["calls"] += (name == event.name) / steps
        row["seconds"] += taken / 1e6 / steps
        if memory:
            used = event.self_device_memory_usage if on_device else event.self_cpu_memory_usage
            row["allocated"] = row.get("allocated", 0) + used
    for row in rows.values():
        if memory:
            row["allocated"] = round(row["allocated"] / steps)
    found = sorted(rows.values(), key=lambda row: -row["seconds"])
    inside = sum(row["seconds"] for row in found)
    found.append({"operator": OUTSIDE, "calls": None, "seconds": max(0.0, seconds - inside)})
    return [{**row, "share": row["seconds"] / max(seconds, inside)} for row in found]


def check_trace(file: Path, *, force: bool) -> None:
    """ConfigError (exit 2) if the trace cannot have this name."""
    if file.suffix != ".json":
        raise ConfigError(f"--trace {file} must end in .json")
    if file.is_dir():
        raise ConfigError(f"--trace {file} is a folder: name a file in it")
    if file.exists() and not force:
        raise ConfigError(f"--trace {file} exists: add --force to replace it, or choose another file")


def write_trace(profiler: Any, file: Path, *, force: bool) -> None:
    """The recorded steps in the trace event format of Chrome, which Perfetto and chrome://tracing open."""
    check_trace(file, force=force)
    with tempfile.TemporaryDirectory(prefix="dlcli-") as folder:
        written = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(written))
        content = written.read_bytes()
    try:
        document = json.loads(content)
    except ValueError as error:
        raise DlcliError(f"the trace that torch.profiler wrote is not JSON: {error}") from None
    for name in ("traceName", "host_name"):  # of a temporary file, and of this machine
        document.pop(name, None)
    write_bytes(file, json.dumps(document).encode())
