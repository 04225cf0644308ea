"""What was trained, on what."""

from typing import Any

from dlcli.report.blocks import Block, Cell, Fold, Section, Table, Text, pairs
from dlcli.report.facts import Facts

_MOST_NAMES = 1000


def trained(one: Facts) -> Section:
    info, spec = one.info, one.spec
    blocks: list[Block] = [Text(f"Note: {one.note}")] if one.note else []
    model: dict[str, Any] = {
        "model": info.get("model") or one.settings.get("model"),
        "parameters": info.get("parameters"),
        "of them trained": info.get("trained_parameters"),
        "starts from": _weights(info.get("weights")),
        "teacher": _teacher(info.get("teacher")),
        "average of": _parents(info.get("parents")),
        "pruned": _pruning(info.get("pruning")),
        "tags": one.tags or None,
    }
    if model["of them trained"] == model["parameters"]:
        del model["of them trained"]
    data: dict[str, Any] = {
        "data": info.get("data") or one.settings.get("data"),
        "task": spec and spec.task,
        "input": spec and str(spec),
        "classes": len(_class_names(one)) or None,
        "training samples": info.get("train_samples"),
        "validation samples": info.get("val_samples"),
        "test samples": info.get("test_samples"),
        "target": one.settings.get("data.target"),
    }
    blocks += pairs("Model", model)
    blocks += pairs("Data", data)
    return Section("Model and data", [*blocks, *_classes(one), *_features(one)])


def _class_names(one: Facts) -> list[Any]:
    names = one.data.get("class_names")
    return names if isinstance(names, list) else []


def _classes(one: Facts) -> list[Block]:
    """Each class with its training samples, as far as they are known."""
    columns = {"class": _class_names(one), "training samples": one.data.get("class_counts")}
    return _named("Classes", columns)


def _features(one: Facts) -> list[Block]:
    """The inputs of a table, with what they were normalised by."""
    about = {"feature": "feature_names", "mean": "mean", "standard deviation": "std"}
    return _named("Features", {heading: one.data.get(name) for heading, name in about.items()})


def _named(title: str, columns: dict[str, Any]) -> list[Block]:
    """The columns that are as long as the first, which has the names."""
    names, *_ = columns.values()
    if not isinstance(names, list) or not names:
        return []
    there = {heading: v for heading, v in columns.items() if isinstance(v, list) and len(v) == len(names)}
    rows = [*zip(*(values[:_MOST_NAMES] for values in there.values()), strict=True)]
    caption = title.lower() if len(rows) == len(names) else f"{len(rows):,} of {len(names):,} {title.lower()}"
    return [Fold(title, [Table(caption, [*there], rows)])]


def _weights(start: Any) -> str | None:
    """As `run.json` says of published weights, a file or another run."""
    if not isinstance(start, dict):
        return None
    return (
        ", ".join(f"{name} {value}" for name, value in start.items() if isinstance(value, str | int) and value) or None
    )


def _teacher(teacher: Any) -> str | None:
    if not isinstance(teacher, dict):
        return None
    return ", ".join(f"{name} {value}" for name, value in teacher.items() if isinstance(value, str | int))


def _pruning(about: Any) -> str | None:
    """Of which run it was cut out, how, and what was left."""
    if not isinstance(about, dict):
        return None
    parent, sizes = about.get("parent"), (about.get("before"), about.get("cut"))
    told = [f"{about.get('kind')}, by {about.get('by')}"]
    if isinstance(parent, dict):
        told.append(f"from {parent.get('run')} ({parent.get('checkpoint')})")
    for name in ("parameters", "flops"):
        values = [size.get(name) for size in sizes if isinstance(size, dict)]
        if len(values) == 2 and all(type(value) is int for value in values):
            told.append(f"{values[1]:,} of {values[0]:,} {'FLOPs' if name == 'flops' else name}")
    return ", ".join(told)


def _parents(parents: Any) -> Any:
    """The runs of which this one is the average."""
    if not isinstance(parents, list) or not parents:
        return None
    told = [f"{parent.get('run')} ({parent.get('checkpoint')})" for parent in parents if isinstance(parent, dict)]
    return Cell(", ".join(told))
