"""The trials of a sweep as a table, and what is to be said of the best."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from dlcli.cli.output import Column, Format, emit, number, say
from dlcli.core.errors import ConfigError
from dlcli.runs.sweeps import Sweep

if TYPE_CHECKING:
    from dlcli.runs.trials import Trial
    from dlcli.sweeps.plan import Plan


def show(found: Sweep, format: Format) -> list["Trial"]:
    """Print the trials of a sweep, the best first, and a word about the best."""
    from dlcli.runs.trials import ranked, trials
    from dlcli.sweeps.plan import from_document

    plan = from_document(found.plan(), file=str(found.path / "sweep.json"))
    runs = found.trials()
    rows = ranked(trials(runs))
    metrics = sorted({one.metric for one in runs if one.metric is not None})
    finished = [one for one in rows if one.loss is not None]
    status = "running" if found.is_driven() and any(one.status == "running" for one in runs) else "stopped"
    if rows and not any(one.status in ("running", "waiting", "interrupted") for one in rows):
        status = "finished" if plan.size is None or len(rows) >= plan.size else "stopped"
    whole = {
        "sweep": found.number,
        "path": str(found.path),
        "status": status,
        "metric": metrics[0] if len(metrics) == 1 else None,
        "method": plan.method,
        "best": document(finished[0]) if finished else None,
        "trials": [document(one) for one in rows],
    }
    if format is Format.table and not rows:
        say(f"{found} has no trials yet")
        return rows
    emit([row(one) for one in rows], columns(rows), format=format, title=", ".join(metrics), document=whole)
    if format is Format.table:
        for line in _remarks(found, finished, len(rows)):
            say(line)
    return rows


def show_importance(found: Sweep, format: Format) -> None:
    """Print by how much each setting matters, and whether that can be trusted."""
    from dlcli.runs.trials import trials
    from dlcli.sweeps.importance import importances

    result = importances(trials(found.trials()))
    rows = [{"setting": one.name, "importance": one.mean, "std": one.std} for one in result.settings]
    columns = [
        Column("setting", "setting"),
        Column("importance", "importance", number, right=True),
        Column("std", "sd", number, right=True),
    ]
    emit(rows, columns, format=format, document={"settings": rows, "r2": result.r2, "trials": result.trials})
    if format is Format.table:
        doubt = ": do not trust them" if result.r2 < 0.3 else ""
        say(f"of {result.trials} trials; the forest behind it predicts unseen ones with R2 {result.r2:.2f}{doubt}")


def _remarks(found: Sweep, finished: Sequence["Trial"], tried: int) -> list[str]:
    if not finished:
        return []
    best = finished[0]
    lines = []
    if tried > 1 and best.confirmed is None:
        lines.append(
            f"best: trial {best.number}, picked from {tried}, so its value is optimistic; measure it with fresh seeds: "
            f"dlcli sweep resume {found.number} --confirm 5"
        )
    if best.confirmed is not None and best.value is not None:
        lines.append(
            f"best: trial {best.number}, {number(best.value.mean)} when it was picked from {tried}; with fresh seeds "
            f"{_told(best.confirmed)}"
        )
    elif tried == 1 and best.value is not None and best.value.count > 1:
        lines.append(_told(best.value))
    return lines


def _told(summary: Any) -> str:
    text = f"{number(summary.mean)}, the mean of {summary.count}"
    if summary.interval is None:
        return text
    return f"{text} (95 % interval {number(summary.interval.low)} to {number(summary.interval.high)})"


def columns(rows: Sequence["Trial"]) -> list[Column]:
    names = list(dict.fromkeys(name for one in rows for name in one.settings))
    several = any(len(one.runs) > 1 for one in rows)
    confirmed = any(one.confirmed for one in rows)
    return [
        Column("trial", "trial", right=True, fixed=True),
        Column("status", "status"),
        *(Column(f"set:{name}", name, right=True) for name in names),
        Column("value", "mean" if several else "value", number, right=True),
        *([Column("std", "sd", number, right=True), Column("n", "n", right=True)] if several else []),
        *([Column("confirmed", "confirmed", number, right=True)] if confirmed else []),
        Column("runs", "runs" if several else "run", drop=5),
        Column("reason", "reason", drop=9),
    ]


def row(one: "Trial") -> dict[str, Any]:
    from dlcli.sweeps.space import shown

    summary = one.value
    return {
        "trial": one.number,
        "status": one.status,
        **{f"set:{name}": shown(value) for name, value in one.settings.items()},
        "value": None if summary is None else summary.mean,
        "std": None if summary is None else summary.std,
        "n": None if summary is None else summary.count,
        "confirmed": None if one.confirmed is None else one.confirmed.mean,
        "runs": " ".join(str(run.run) for run in (*one.runs, *one.confirming) if run.run is not None),
        "reason": one.reason,
    }


def document(one: "Trial") -> dict[str, Any]:
    return {
        "trial": one.number,
        "status": one.status,
        "settings": dict(one.settings),
        "value": _summary(one.value),
        "confirmed": _summary(one.confirmed),
        "reason": one.reason,
        "runs": [
            {"run": run.run, "seed": run.seed, "status": run.status, "metric": run.metric, "value": run.value,
             "confirms": run.confirms, "needed": run.needed}
            for run in (*one.runs, *one.confirming)
        ],
    }  # fmt: skip


def _summary(summary: Any) -> dict[str, Any] | None:
    if summary is None:
        return None
    return {
        "mean": summary.mean,
        "std": summary.std,
        "n": summary.count,
        "interval": None if summary.interval is None else list(summary.interval),
    }


def print_trials(plan: "Plan", format: Format) -> None:
    from dlcli.sweeps.samplers import SAMPLERS
    from dlcli.sweeps.space import shown

    if plan.method in SAMPLERS:
        raise ConfigError(f"--print-trials: those of --method {plan.method} depend on results: take --method random")
    suggested = plan.method_of(jobs=1, earlier=0)
    rows: list[dict[str, Any]] = []
    while plan.trials is None or len(rows) < plan.trials:
        settings = suggested.suggest(len(rows) + 1)
        if settings is None:
            break
        rows.append({"trial": len(rows) + 1, **settings})
    as_text: Callable[[Any], str] = lambda value: "" if value is None else _typeable(value, shown)  # noqa: E731
    columns = [Column("trial", "trial", right=True), *(Column(n, n, as_text, right=True) for n in plan.names)]
    emit(rows, columns, format=format)


def _typeable(value: Any, shown: Callable[[Any], str]) -> str:
    return repr(value) if isinstance(value, float) else shown(value)
