"""All runs -> rows, one row per run."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dlcli.core.errors import DlcliError
from dlcli.runs.given_names import name_of
from dlcli.runs.run import Run, all_runs
from dlcli.runs.tags import note_of, tags_of

COLUMNS = (
    "run", "name", "status", "model", "data", "fingerprint", "epochs", "metric", "higher_is_better", "best",
    "best_epoch", "best_step", "seconds", "device", "started", "tags", "note", "reason", "sweep", "trial",
)  # fmt: skip


def rows(root: str | Path, *, limit: int = 0) -> list[dict[str, Any]]:
    """One row per run, newest first, at most `limit` unless 0. The row of a broken folder has a `reason`."""
    found = [(run, row(run)) for run in all_runs(root)[: limit or None]]
    return [values for run, values in found if values["model"] is not None or run.path.exists()]  # else just removed


def row(run: Run) -> dict[str, Any]:
    """COLUMNS of one run, and its `metrics` at the last evaluation, of which the best one is that of the best
    checkpoint; for a running one, `seconds` is the time since its start."""
    empty: dict[str, Any] = dict.fromkeys(COLUMNS) | {
        "run": run.number, "name": name_of(run), "tags": tags_of(run), "note": note_of(run), "metrics": {},
    }  # fmt: skip
    try:
        info = run.info()
        best = info.get("best") or {}
        return empty | {
            "status": info["status"],
            "model": info["model"],
            "data": info["data"],
            "epochs": f"{info['epochs_done']}/{info['epochs']}",
            "metric": best.get("metric"),
            "best": best.get("value"),
            "best_epoch": best.get("epoch"),
            "best_step": best.get("step"),
            "higher_is_better": best.get("higher_is_better"),
            "seconds": _seconds_since(info["started"]) if info["status"] == "running" else info["seconds"],
            "device": info["device"],
            "fingerprint": info.get("fingerprint"),
            "started": info["started"],
            "metrics": (info.get("metrics") or {}) | ({best["metric"]: best["value"]} if best.get("metric") else {}),
            "reason": info.get("reason") or _stop(info),
            **{name: info[name] for name in ("sweep", "trial") if type(info.get(name)) is int},
        }
    except DlcliError as error:
        return empty | {"status": "starting" if run.is_locked() else "broken", "reason": str(error)}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        return empty | {"status": "broken", "reason": f"{run.path / 'run.json'} is damaged: {error!r}"}


def _seconds_since(started: str) -> float:
    return max(0.0, (datetime.now(UTC) - datetime.fromisoformat(started)).total_seconds())


def _stop(info: dict[str, Any]) -> str | None:
    if info.get("stopped_early"):
        return "stopped early"
    return str(info["stop"]) if info.get("stop") else None
