"""A model and a split -> numbers; a run -> numbers."""

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dlcli import experiment, tasks
from dlcli.data.batches import in_order
from dlcli.data.dataset import Split
from dlcli.errors import CheckError, ConfigError, did_you_mean
from dlcli.runs import Run, now
from dlcli.training.devices import autocast
from dlcli.training.threads import computing

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}
_RULE = re.compile(r"\s*([\w/]+)\s*(>=|<=|==|!=|>|<)\s*([-+.\w]+)\s*")


@dataclass(frozen=True)
class Report:
    """What an evaluation found.

    metrics: name -> value, None where undefined. per_class: a row a class with precision, recall, f1 and
    count. confusion: a row an actual class, a column a predicted one. Both are None but for classes.
    damage: of newer checkpoints that could not be used.
    """

    run: Run
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
    damage: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return {
            "run": str(self.run),
            "checkpoint": self.checkpoint,
            "epoch": self.epoch,
            "step": self.step,
            "data": self.data,
            "split": self.split,
            "samples": self.samples,
            "metrics": self.metrics,
            "class_names": list(self.class_names),
            "per_class": self.per_class,
            "confusion": self.confusion,
            "damage": list(self.damage),
        }


@torch.inference_mode()
def measure(
    model: nn.Module,
    split: Split,
    task: tasks.Task,
    *,
    batch_size: int,
    threads: int,
    precision: str,
    device: torch.device,
) -> list[tasks.Measures]:
    """The task's measures of every batch, in order; the model is left in the mode in which it was.

    Training and `dlcli eval` both come through here, with the same batches and as many threads, so their numbers
    are the same.
    """
    was_training = model.training
    model.eval()
    try:
        with computing(threads), autocast(precision, device):
            return [task.measure(model(batch.x), batch.y) for batch in in_order(split, batch_size)]
    finally:
        model.train(was_training)


def evaluate(
    run: Run, *, split: str = "test", checkpoint: str = "best", data: str | None = None, device: str = "auto"
) -> Report:
    """Measure a run's checkpoint and write eval/SPLIT.json into the run.

    data: a data set of the same shape, normalised as the run's own; of another one the record is
        eval/SPLIT-DATA.json. Without it, the run's data must be what they were at the training, else DataError.
    """
    restored = experiment.restore(run, role=checkpoint, device=device)
    config = restored.config
    dataset = experiment.load_data(
        config,
        device=restored.device,
        name=data,
        preprocessing=restored.preprocessing,
        fingerprint=run.data().get("fingerprint") if data is None else None,
    )
    part = dataset.split(split)
    measures = measure(
        restored.model,
        part,
        restored.task,
        batch_size=restored.eval_batch_size,
        threads=torch.get_num_threads(),
        precision=config.precision,
        device=restored.device,
    )
    metrics = finite(restored.task.metrics(measures))
    per_class, confusion = _of_classes(measures, restored.task)
    if per_class is not None:
        metrics["macro_f1"] = tasks.macro_f1(per_class)
    report = Report(
        run=run,
        checkpoint=checkpoint,
        epoch=restored.checkpoint.state["epoch"],
        step=restored.checkpoint.state["step"],
        data=data or config.data,
        split=split,
        samples=len(part),
        metrics=metrics,
        class_names=restored.preprocessing.class_names,
        per_class=per_class,
        confusion=confusion,
        damage=restored.checkpoint.damage,
    )
    record = {**report.as_dict(), "fingerprint": dataset.fingerprint, "device": str(restored.device), "when": now()}
    other = "" if data is None or data == config.data else "-" + re.sub(r"[^\w.-]+", "-", data)
    run.write_record("eval", split + other, record)
    return report


def check_rules(metrics: dict[str, float | None], rules: list[str]) -> list[tuple[str, float | None, bool]]:
    """Each rule, such as `accuracy>=0.98`, with the metric's value and whether it holds.

    ConfigError (exit 2) for a rule that is none, or a metric that is not there. An undefined metric (None)
    satisfies no rule.
    """
    results = []
    for rule in rules:
        match = _RULE.fullmatch(rule)
        try:
            name, comparison, bound = (match[1], match[2], float(match[3])) if match else ("", "", 0.0)
        except ValueError:
            match = None
        if match is None:
            raise ConfigError(f"--require {rule!r} is no rule such as 'accuracy>=0.98'")
        if name not in metrics:
            raise ConfigError(f"--require {rule!r}: there is no metric {name}: {did_you_mean(name, metrics)}")
        value = metrics[name]
        results.append((rule, value, value is not None and _COMPARISONS[comparison](value, bound)))
    return results


def check_drop(report: Report, baseline: Report, max_drop: float, metric: str) -> str:
    """A sentence that compares both runs; CheckError (exit 7) when this one is worse by more than `max_drop`."""
    value, base = report.metrics.get(metric), baseline.metrics.get(metric)
    if value is None or base is None:
        raise CheckError(f"{metric} is undefined in {report.run if value is None else baseline.run}")
    drop = base - value if tasks.higher_is_better(metric) else value - base
    sentence = f"{metric} {value:.6g} against {base:.6g} of {baseline.run}: a drop of {drop:.6g}"
    if drop > max_drop:
        raise CheckError(f"{sentence}, more than the {max_drop:g} that --max-drop allows")
    return sentence


def main_metric(run: Run) -> str:
    """The metric by which this run's best checkpoint was chosen, else its task's own."""
    monitor = run.config().monitor.removeprefix("val/")
    if monitor != "auto":
        return monitor
    return tasks.make(experiment.preprocessing_of(run).spec).monitor


def finite(metrics: dict[str, float | None]) -> dict[str, float | None]:
    """NaN and infinity, which JSON does not have, as None."""
    return {name: v if v is not None and abs(v) < float("inf") else None for name, v in metrics.items()}


def _of_classes(
    measures: list[tasks.Measures], task: tasks.Task
) -> tuple[list[dict[str, Any]] | None, list[list[int]] | None]:
    target = torch.cat([m["target"] for m in measures]) if "target" in measures[0] else None
    if isinstance(task, tasks.Multiclass) and target is not None:
        prediction: Tensor = torch.cat([m["prediction"] for m in measures])
        classes = task.classes
    elif isinstance(task, tasks.Binary) and target is not None:
        prediction = (torch.cat([m["score"] for m in measures]) > 0).long()
        classes = 2
    else:
        return None, None
    confusion = tasks.confusion_matrix(prediction, target, classes)
    return tasks.per_class(confusion), confusion.tolist()
