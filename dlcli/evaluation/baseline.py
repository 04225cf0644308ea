"""The baseline: what a model reaches that ignores its input. One that has learned something is better.

It predicts the frequency of each class or token in the training split, or the mean target. Its accuracy is that of the
most frequent class, its r2 about 0, its AUC 0.5.
"""

import math
from collections.abc import Mapping

from torch import Tensor, nn

from dlcli.core.spec import DataSpec
from dlcli.evaluation.measure import finite, measure
from dlcli.experiment.build import Experiment
from dlcli.tasks.choose import higher_is_better

# A loss within one percent of the baseline's, or a metric within two standard errors, is no better than it.
_LOSS_MARGIN = 0.01
_STANDARD_ERRORS = 2.0

# A loss that is so many times the baseline's is exploding.
_EXPLODING = 100.0


class _Constant(nn.Module):
    """The same output (K,) for every sample, or for every step of a sample."""

    def __init__(self, output: Tensor, *, steps: tuple[int, ...]) -> None:
        super().__init__()
        self.output, self.steps = output, steps

    def forward(self, x: Tensor) -> Tensor:
        return self.output.expand(len(x), *self.steps, len(self.output))


def baseline(built: Experiment) -> dict[str, float | None]:
    """Metrics by name, such as `val/accuracy`; without a validation split `train/loss`."""
    data = built.dataset
    steps = data.spec.input_shape if data.spec.task == "next-token" else ()

    def reached(typical: Tensor) -> dict[str, float | None]:
        measures = measure(
            _Constant(_output(data.spec, typical).to(built.device), steps=steps), data.val or data.train, built.task,
            batch_size=built.eval_batch_size, threads=built.eval_threads, precision=built.config.precision,
            device=built.device,
        )  # fmt: skip
        return finite(built.task.metrics(measures))

    metrics, weighted = reached(data.typical), built.task.weighted(data.typical)
    if weighted is not data.typical:  # another output has the least loss
        metrics["loss"] = reached(weighted)["loss"]
    if data.val is None:
        return {"train/loss": metrics["loss"]}
    return {f"val/{name}": value for name, value in metrics.items()}


def explodes(metrics: Mapping[str, float | None], than: Mapping[str, float | None]) -> bool:
    """Whether the loss is far above that of the baseline `than`."""
    name = _loss_of(than)
    loss, base = metrics.get(name), than[name]
    return base is not None and (loss is None or loss > _EXPLODING * max(base, 1e-9))


def learned(metrics: Mapping[str, float | None], than: Mapping[str, float | None], samples: int) -> bool:
    """Whether one of these metrics is better than that of the baseline `than`, over so many samples."""
    return any(_better(name, value, than[name], samples) for name, value in metrics.items() if name in than)


def against(metrics: Mapping[str, float | None], than: Mapping[str, float | None]) -> str:
    """The first of these metrics beside that of the baseline `than`, in words."""
    name, value = next((name, value) for name, value in metrics.items() if than.get(name) is not None)
    shown = "not finite" if value is None else f"{value:.4g}"
    return f"{name} is {shown}, and {than[name]:.4g} without looking at the input"


def _loss_of(than: Mapping[str, float | None]) -> str:
    return "val/loss" if "val/loss" in than else "train/loss"


def _better(name: str, value: float | None, base: float | None, samples: int) -> bool:
    if value is None or base is None:
        return value is not None
    metric = name.rpartition("/")[2]
    if metric in ("accuracy", "top5_accuracy", "auc"):
        return value - base > _STANDARD_ERRORS * math.sqrt(base * (1 - base) / samples)
    if higher_is_better(metric):
        return value - base > _LOSS_MARGIN
    return value < (1 - _LOSS_MARGIN) * base


def _output(spec: DataSpec, typical: Tensor) -> Tensor:
    """The output (K,) that suits the targets of the training split best. typical: see Dataset.

    Logits of the frequency of each class or token, all counted once more so that none is impossible; or the mean.
    """
    if spec.task == "regression":
        return typical
    logits = (typical.double() + 1).log()
    if spec.task == "binary":
        return (logits[1:] - logits[:1]).float()
    return logits.log_softmax(0).float()
