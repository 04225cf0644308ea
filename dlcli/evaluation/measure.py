"""Metrics of a model on a split, and of a run's checkpoint."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import nn

from dlcli.compute.devices import autocast, set_deterministic
from dlcli.compute.ranks import Ranks
from dlcli.compute.threads import computing
from dlcli.config.ranges import check_range
from dlcli.core.errors import ConfigError, DataError, ResourceError, RunError
from dlcli.data.batches import in_order
from dlcli.data.dataset import Dataset, Split
from dlcli.evaluation.importance import Importance, columns_of, importance
from dlcli.experiment.load import load_data
from dlcli.experiment.restore import Restored, preprocessing_of, restore
from dlcli.runs.names import as_run
from dlcli.runs.run import Run, now
from dlcli.runs.sample_answers import MOST_SAMPLES, packed
from dlcli.tasks.binary import Binary
from dlcli.tasks.choose import choose_task, why_undefined
from dlcli.tasks.task import AnsweringTask, Measures, Task

_LONGEST_NAME = 150  # bytes, of a data set in the name of a record


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    metrics: name -> value, None if undefined. per_class: one row per class with precision, recall, f1 and count.
    confusion: one row per actual class, one column per predicted class. Both are None for a task without classes.
    status, reason: of the run; unless the status is `finished`, the training did not run to its end.
    threshold: of two classes, the probability above which the second is predicted.
    damage: of newer checkpoints that could not be used. unrecorded: why the record could not be written to the run.
    fingerprint: of the data. unknown: a sentence about what is in the text that the training text does not have; empty
        without.
    """

    run: Run
    status: str
    reason: str | None
    checkpoint: str
    epoch: int
    step: int
    data: str
    split: str
    samples: int
    metrics: dict[str, float | None]
    class_names: tuple[str, ...]
    per_class: list[dict[str, Any]] | None
    confusion: list[list[int]] | None
    threshold: float | None = None
    importance: Importance | None = None
    damage: tuple[str, ...] = ()
    unrecorded: str | None = None
    fingerprint: str = ""
    unknown: str = ""

    @property
    def undefined(self) -> dict[str, str]:
        """Why each metric without a value has none."""
        return {name: why_undefined(name, self.metrics) for name, value in self.metrics.items() if value is None}

    def as_dict(self) -> dict[str, Any]:
        return {
            "run": str(self.run),
            "status": self.status,
            "reason": self.reason,
            "checkpoint": self.checkpoint,
            "epoch": self.epoch,
            "step": self.step,
            "data": self.data,
            "split": self.split,
            "samples": self.samples,
            "threshold": self.threshold,
            "metrics": self.metrics,
            "undefined": self.undefined,
            "class_names": list(self.class_names),
            "per_class": self.per_class,
            "confusion": self.confusion,
            "damage": list(self.damage),
            **({"unknown": self.unknown} if self.unknown else {}),
            **({} if self.importance is None else {"importance": self.importance.as_dict()}),
        }


@torch.inference_mode()
def measure(
    model: nn.Module,
    split: Split,
    task: Task,
    *,
    batch_size: int,
    threads: int,
    precision: str,
    device: torch.device,
    whole: bool = False,
    ranks: Ranks | None = None,
    together: bool = False,
) -> list[Measures]:
    """The task's measures of every batch, in order; the mode of each module (training or evaluation) is restored.

    whole: those that the tables of the task need, too. ranks: the processes that take turns at the batches; each gets
    the measures of all. together: whether they have to make each forward pass at the same time, as with a
    sharded model.

    Training and `dlcli eval` both call this function with the same batches and the same number of threads, so their
    numbers are the same.
    """
    was_training, modes = model.training, [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with computing(threads), autocast(precision, device):
            turn = (0, 1) if ranks is None else (ranks.rank, ranks.size)
            batches = in_order(split, batch_size, turn=turn)
            found = [task.measure(model(batch.x), batch.y, whole=whole) for batch in batches]
            if together and len(found) < -(-len(split) // (batch_size * turn[1])):
                model(next(iter(in_order(split, 1))).x)
    finally:
        model.train(was_training)
        for module, mode in modes:  # what is frozen stays in evaluation mode
            module.training = mode
    return found if ranks is None or ranks.size == 1 else _of_all(found, ranks, device)


def _of_all(found: list[Measures], ranks: Ranks, device: torch.device) -> list[Measures]:
    """The measures of all ranks, which took turns at the batches, in the order of the batches."""
    named = {f"{k} {name}": t.detach().cpu().contiguous() for k, one in enumerate(found) for name, t in one.items()}
    lists = []
    for content in ranks.gather_bytes(save(named)):
        measures: dict[int, Measures] = {}
        for name, tensor in load(content).items():
            number, _, key = name.partition(" ")
            measures.setdefault(int(number), {})[key] = tensor.to(device)
        lists.append([measures[k] for k in sorted(measures)])
    return [one for turn in zip_longest(*lists) for one in turn if one is not None]


def evaluate(
    run: Run | str | Path,
    *,
    split: str = "test",
    checkpoint: str = "best",
    data: str | None = None,
    data_dir: str | Path | None = None,
    device: str = "auto",
    allow_fallback: bool = False,
    loaded: Dataset | None = None,
    threshold: float | None = None,
    importances: bool = False,
) -> Evaluation:
    """Measure a run's checkpoint and write eval/SPLIT.json into the run, and the answer to each sample beside it.

    run: a Run, a path (`runs/3`), or a name as on the command line (`3`, `latest`, `best:accuracy`).
    data: another data set of the same shape, normalised like the run's own; the record is then eval/SPLIT-DATA.json.
        Without it the run's own data is used; DataError if it has changed since the training.
    data_dir: the data folder, if it is not the one of the training.
    allow_fallback: measure an older checkpoint if the newest is damaged, instead of raising RunError.
    threshold: of two classes, another one than that of the run; the record is then eval/SPLIT-threshold-X.json.
    importances: also measure the importance of each column. ConfigError for images and texts.
    loaded: the run's data, if it is in memory on `device` already; it is then not read again.
    """
    run = as_run(run)
    check_range(threshold, "(0, 1)", name="--threshold")
    restored = restore(run, role=checkpoint, device=device)
    info, config, saved = run.info(), restored.config, restored.checkpoint
    if saved.damage and not allow_fallback:
        raise RunError(
            f"{'; '.join(saved.damage)}; the previous checkpoint, of epoch {saved.state['epoch']}, is measured only "
            "with --allow-fallback"
        )
    set_deterministic(config.deterministic)
    dataset = loaded or data_of(restored, data, data_dir)
    part, task = dataset.split(split), restored.task
    if threshold is not None:
        if not isinstance(task, Binary):
            raise ConfigError(f"--threshold is for two classes, and {run} is for {restored.preprocessing.spec.task}")
        task = replace(task, threshold=threshold)
    columns = columns_of(restored.preprocessing, run=run) if importances else []
    measures = _measures(restored, part, task)
    tables = task.tables(measures)
    metrics = finite(task.metrics(measures)) | finite(tables.metrics)
    ranked = _importance(restored, part, task, columns, metrics) if importances else None
    found = Evaluation(
        run=run,
        status=info["status"],
        reason=info.get("reason") or info.get("stop"),
        checkpoint=checkpoint,
        epoch=saved.state["epoch"],
        step=saved.state["step"],
        data=data or config.data,
        split=split,
        samples=len(part),
        metrics=metrics,
        class_names=restored.preprocessing.class_names,
        per_class=tables.per_class,
        confusion=tables.confusion,
        threshold=task.threshold,
        importance=ranked,
        damage=saved.damage,
        fingerprint=dataset.fingerprint,
        unknown=dataset.unknown.get(split, ""),
    )
    record = {**found.as_dict(), "fingerprint": dataset.fingerprint, "device": str(restored.device), "when": now()}
    other = "" if data is None or data == config.data else "-" + _file_name(data)
    other += "" if threshold is None else f"-threshold-{threshold:g}"
    try:
        run.write_record("eval", split + other, record, npz=_answers(part, task, measures))
    except ResourceError as error:  # a read-only folder or a full disk: the numbers are valid
        if (run.path / "eval").is_symlink():  # it could lead out of the run
            raise
        return replace(found, unrecorded=str(error))
    return found


def _file_name(data: str) -> str:
    """The name of a data set as part of the name of a file; of a long one its end, and what tells it from others."""
    name = re.sub(r"[^\w.-]+", "-", data)
    if len(name.encode()) <= _LONGEST_NAME:
        return name
    return f"{hashlib.sha256(name.encode()).hexdigest()[:12]}-{name[-30:]}"


def answer_split(
    run: Run, split: str, *, data: str | None = None, data_dir: str | None = None, loaded: Dataset | None = None
) -> dict[str, torch.Tensor]:
    """The answers of the best checkpoint, as `AnsweringTask.per_sample` describes them, with the `index` of each
    sample, and of more than two classes the `probabilities` of all, (N, K) float64. The arguments are as in
    `evaluate`, but nothing is written."""
    restored = restore(run, device="auto" if loaded is None else str(loaded.train.rows.device))
    dataset = loaded or data_of(restored, data, data_dir)
    part = dataset.split(split)
    measures = _measures(restored, part, restored.task)
    found = {"index": _index(part), **restored.task.per_sample(measures)}
    outputs = [each["output"] for each in measures if "output" in each]
    if outputs and (probabilities := restored.task.probabilities(torch.cat(outputs))) is not None:
        found["probabilities"] = probabilities
    return found


def data_of(restored: Restored, name: str | None, data_dir: str | Path | None) -> Dataset:
    """The data of a run, on its device. name, data_dir: other data, or another folder of it, than in the training;
    DataError if the run's own data has changed since."""
    config = restored.config if data_dir is None else restored.config.with_values(data_dir=str(data_dir))
    return load_data(
        config,
        device=restored.device,
        name=name,
        preprocessing=restored.preprocessing,
        fingerprint=restored.run.data().get("fingerprint") if name is None else None,
    )


def column_importance(restored: Restored, part: Split) -> Importance:
    """The importance of each column on a split, as `evaluate` measures it; nothing is written. ConfigError (exit 2) for
    images and texts."""
    columns = columns_of(restored.preprocessing, run=restored.run)
    measures = _measures(restored, part, restored.task)
    metrics = finite(restored.task.metrics(measures)) | finite(restored.task.tables(measures).metrics)
    return _importance(restored, part, restored.task, columns, metrics)


def _measures(restored: Restored, part: Split, task: AnsweringTask) -> list[Measures]:
    return measure(
        restored.model,
        part,
        task,
        batch_size=restored.eval_batch_size,
        threads=torch.get_num_threads(),
        precision=restored.config.precision,
        device=restored.device,
        whole=True,
    )


def _answers(part: Split, task: AnsweringTask, measures: list[Measures]) -> bytes | None:
    """The answer to each sample as a file; None if there are too many, or more than one to a sample."""
    if len(part) > MOST_SAMPLES or not (found := task.per_sample(measures)):
        return None
    return packed({name: tensor.cpu().numpy() for name, tensor in {"index": _index(part), **found}.items()})


def _index(part: Split) -> torch.Tensor:
    return torch.arange(len(part)) if part.index is None else part.index


def _importance(
    restored: Restored,
    part: Split,
    task: AnsweringTask,
    columns: list[tuple[str, slice]],
    metrics: Mapping[str, float | None],
) -> Importance:
    metric = main_metric(restored.run)
    if metrics.get(metric) is None:
        reason = why_undefined(metric, metrics)
        raise DataError(f"the importance of columns cannot be measured: {metric} is undefined, since {reason}")

    def score(shuffled: Split) -> float | None:
        measures = _measures(restored, shuffled, task)
        found = task.tables(measures).metrics if metric in task.table_names else task.metrics(measures)
        return finite(found)[metric]

    return importance(part, columns, score, metric=metric, seed=restored.config.seed)


def finite(metrics: dict[str, float | None]) -> dict[str, float | None]:
    """NaN and infinity, which JSON cannot represent, become None."""
    return {name: v if v is not None and abs(v) < float("inf") else None for name, v in metrics.items()}


def main_metric(run: Run) -> str:
    """The metric by which this run's best checkpoint was chosen, else the setting `monitor` or its default."""
    chosen = (run.info().get("best") or {}).get("metric")
    if chosen is not None:
        return str(chosen).removeprefix("val/")
    monitor = run.settings().get("monitor", "auto")
    if isinstance(monitor, str) and monitor != "auto":
        return monitor.removeprefix("val/")
    return choose_task(preprocessing_of(run).spec).monitor
