"""How two runs differ: settings, data, metrics and environment. Only what differs is listed."""

from collections.abc import Mapping
from typing import Any

from dlcli.runs.run import Run
from dlcli.runs.table import row

_DATA = ("data", "fingerprint", "train_samples", "val_samples", "test_samples")
_ENVIRONMENT = (
    "dlcli", "torch", "python", "cuda", "platform", "host", "cpu", "cpu_capability", "device", "threads",
    "eval_threads", "git_commit", "git_dirty",
)  # fmt: skip


def diff(first: Run, second: Run) -> list[dict[str, Any]]:
    """One row per difference: {"kind", "name", "first", "second"}; None where a run does not have the value.

    kind: settings, data, metrics (at the best checkpoint, see `runs.table.row`) or environment. RunError if a run is
    damaged.
    """
    kinds = [_kinds(run) for run in (first, second)]
    return [
        {"kind": kind, "name": name, "first": one.get(name), "second": other.get(name)}
        for kind, one, other in zip(kinds[0], kinds[0].values(), kinds[1].values(), strict=True)
        for name in dict.fromkeys((*one, *other))
        if one.get(name) != other.get(name)
    ]


def _kinds(run: Run) -> dict[str, Mapping[str, Any]]:
    info, settings = run.info(), run.settings()
    variables = info.get("environment")
    named = {f"${name}": value for name, value in variables.items()} if isinstance(variables, dict) else {}
    return {
        "settings": {name: value for name, value in settings.items() if name != "data"},
        "data": {name: info.get(name) for name in _DATA},
        "metrics": row(run)["metrics"],
        "environment": {name: info.get(name) for name in _ENVIRONMENT} | named,
    }
