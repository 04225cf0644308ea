"""How a training ended, and what `dlcli eval` measured."""

from typing import Any

from dlcli.core.wording import duration, number
from dlcli.plots.draw import stored_answers
from dlcli.report.blocks import Block, Drawing, Fold, Section, Table, Text
from dlcli.report.facts import Facts, numbers_in

_PER_CLASS = ("precision", "recall", "f1", "count")
_MOST_CLASSES = 1000


def results(one: Facts) -> Section:
    blocks: list[Block] = [Text(_end(one))]
    if one.info.get("warning"):
        blocks.append(Text(f"Warning: {one.info['warning']}"))
    last, usual = numbers_in(one.info.get("metrics")), numbers_in(one.info.get("baseline"))
    if last:
        header = ["metric", "last evaluation", *(["without the input"] if usual else [])]
        rows = [[name, value, *([usual.get(name)] if usual else [])] for name, value in last.items()]
        blocks.append(Fold("Metrics at the end of the training", [Table("metrics in training", header, rows)]))
    for name, record in one.evaluations.items():
        blocks += _evaluation(one, name, record)
    if not one.evaluations:
        blocks.append(Text(f"It was not measured on a test split: dlcli eval {one.run} does that."))
    elif (picture := stored_answers(one.run, "test")) is not None:
        blocks.append(Drawing(picture))
    return Section("Results", blocks)


def _end(one: Facts) -> str:
    info, best = one.info, one.best
    status = str(info.get("status", "broken"))
    done = f"{info.get('step', 0):,} of {info.get('steps', info.get('step', 0)):,} steps"
    took = f" in {duration(info['seconds'])}" if info.get("seconds") is not None else ""
    told = {
        "finished": f"Finished after {done}{took}.",
        "running": f"Still in training: {done} are done, and all below is as of now.",
        "broken": "Its records cannot be read.",
    }.get(status, f"Ended as {status} after {done}{took}.")
    if why := info.get("reason") or info.get("stop"):
        told += f" Reason: {why}."
    if info.get("stopped_early"):
        told += " It stopped early, since the monitored metric did not improve."
    if best and best.get("value") is not None:
        told += (
            f" Best {best['metric']}: {number(best['value'])}, in epoch {best.get('epoch')} (step {best.get('step')})."
        )
    return told


def _evaluation(one: Facts, name: str, record: dict[str, Any]) -> list[Block]:
    of = f"{record['split']} split of {record.get('data', 'the data')}, {record.get('samples', 0):,} samples"
    other = f" (eval/{name}.json)" if name != record["split"] else ""
    found: list[Block] = []
    best = one.best.get("step")
    if best is not None and record.get("step") not in (None, best):
        found.append(
            Text(f"What follows was measured at step {record['step']}, and the best checkpoint now is of step {best}.")
        )
    metrics, undefined = numbers_in(record.get("metrics")), record.get("undefined") or {}
    rows: list[list[Any]] = [[metric, value] for metric, value in metrics.items()]
    rows += [[metric, f"undefined: {why}"] for metric, why in undefined.items() if metric not in metrics]
    found.append(Table(f"{of}{other}", ["metric", "value"], rows))
    return [*found, *_per_class(record, of), *_importance(record, of)]


def _per_class(record: dict[str, Any], of: str) -> list[Block]:
    names, per_class = record.get("class_names") or [], record.get("per_class") or []
    if not per_class or len(names) != len(per_class):
        return []
    measures = [name for name in _PER_CLASS if any(name in row for row in per_class)]
    rows = [[name, *map(row.get, measures)] for name, row in zip(names, per_class, strict=True)]
    return [Table(f"each class on the {of}", ["class", *measures], rows[:_MOST_CLASSES])]


def _importance(record: dict[str, Any], of: str) -> list[Block]:
    """The importance of each column, where `dlcli eval --importance` measured it."""
    found = record.get("importance") or {}
    rows = found.get("columns")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows) or not rows:
        return []
    header = list(dict.fromkeys(name for row in rows for name in row))
    return [Table(f"importance of each column on the {of}", header, [[row.get(n) for n in header] for row in rows])]
