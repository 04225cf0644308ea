"""Runs that are made of other runs without training: an average, a network that was cut."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dlcli.checkpoints import checkpoint
from dlcli.checkpoints.checkpoint import Checkpoint
from dlcli.core.files import read_manifest
from dlcli.evaluation.measure import finite, measure
from dlcli.experiment.build import Experiment
from dlcli.runs.given_names import create
from dlcli.runs.run import Run, now
from dlcli.tasks.choose import higher_is_better
from dlcli.training.provenance import describe


def parent_record(run: Run, saved: Checkpoint) -> dict[str, Any]:
    """What run.json says of the checkpoint of another run, of which a run was made."""
    return {
        "run": str(run.path.absolute()),
        "checkpoint": saved.path.name,
        "epoch": saved.state["epoch"],
        "step": saved.state["step"],
        "sha256": read_manifest(saved.path)["model.safetensors"],
        "metrics": saved.state["metrics"],
    }


def validation_metrics(built: Experiment) -> dict[str, float | None]:
    """val/NAME of the model, and the threshold if the settings choose it; nothing without a validation split."""
    if built.dataset.val is None:
        return {}
    further = [built.monitor] if built.monitor in built.task.table_names else []
    measures = measure(
        built.model, built.dataset.val, built.task,
        batch_size=built.eval_batch_size, threads=built.eval_threads, precision=built.config.precision,
        device=built.device, whole=bool(further),
    )  # fmt: skip
    task = built.task.settled(measures)
    found = task.metrics(measures)
    if further:
        found |= {built.monitor: task.tables(measures).metrics[built.monitor]}
    if isinstance(built.config.threshold, str):
        found["threshold"] = task.threshold
    return {f"val/{name}": value for name, value in finite(found).items()}


def write_untrained(
    built: Experiment, metrics: Mapping[str, float | None], about: Mapping[str, Any], *,
    runs_dir: str | Path, name: str | None, command: str, epoch: int, step: int,
) -> Run:  # fmt: skip
    """A new run of the model as it is, finished: its best checkpoint, and one row of metrics.csv. Its last file is
    run.json that says so.

    metrics: as `validation_metrics` gives them. about: what run.json says beyond that. epoch, step: until which its
    weights were trained elsewhere.
    """
    place = {"epoch": epoch, "step": step}
    best: dict[str, Any] = {"metric": None, "value": None, "higher_is_better": None, **place}
    if metrics:
        monitor = built.monitor if metrics[f"val/{built.monitor}"] is not None else "loss"
        higher = higher_is_better(monitor)
        best |= {"metric": f"val/{monitor}", "value": metrics[f"val/{monitor}"], "higher_is_better": higher}
    if "val/threshold" in metrics:
        best["threshold"] = metrics["val/threshold"]
    started = now()
    info = describe(built, command) | dict(about) | {"best": best, "metrics": dict(metrics), "started": started}
    info |= {"epochs_done": epoch, "step": step}
    run = create(runs_dir, name=name)
    with run.locked():
        run.write_config(built.config)
        run.write_data(built.dataset.preprocessing.as_dict(), built.dataset.fingerprint)
        run.write_info(info)
        if metrics:
            run.append_metrics({**place, **metrics}, [*place, *metrics])
        state = {**place, "metrics": dict(metrics)}
        checkpoint.save(run.checkpoints, "best", weights=built.model.state_dict(), state=state)
        run.write_info(info | {"status": "finished", "ended": now(), "seconds": 0.0})
    return run
