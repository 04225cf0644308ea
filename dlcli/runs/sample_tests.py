"""Two single runs on the same samples: McNemar's test and a paired bootstrap, from the answers that were stored."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dlcli.core.errors import RunError
from dlcli.runs.run import Run
from dlcli.runs.sample_answers import SampleAnswers, read_answers
from dlcli.runs.statistics import Interval, bootstrap_of_counts, bootstrap_of_means, mcnemar

if TYPE_CHECKING:
    import numpy as np

# So many of the samples with different answers are listed.
_MOST_LISTED = 1_000


@dataclass(frozen=True)
class SampleTest:
    """metric: accuracy, or for a regression mse, rmse or mae. difference: of the second run less the first.

    only_first, only_second: samples that only this run gets right, and p of McNemar's test; None for a regression.
    differing: row, target and both answers of the samples with different classes, at most 1,000 of them, and how many
    there are in all; None for a regression.
    """

    first: Run
    second: Run
    split: str
    samples: int
    metric: str
    difference: float
    interval: Interval
    only_first: int | None = None
    only_second: int | None = None
    p: float | None = None
    adjusted_p: float | None = None
    differing: list[dict[str, int]] | None = None
    differing_count: int | None = None

    def as_dict(self) -> dict[str, Any]:
        return vars(self) | {"first": self.first.number, "second": self.second.number}


def compare_samples(first: Run, second: Run, split: str, metric: str) -> SampleTest:
    """Of two runs that `dlcli eval --split SPLIT` measured. metric: without the split; accuracy is compared for any
    metric of a classification, and rmse for any of a regression other than mse and mae.

    RunError (exit 4) without stored answers of both, or if their samples are not the same.
    """
    one, other = read_answers(first, split), read_answers(second, split)
    _refuse_other_samples(first, one, second, other, split)
    if not len(one.target):
        raise RunError(f"the {split} split of {first} has no samples")
    if one.of_classes:
        return _of_classes(first, one, second, other, split)
    return _of_values(first, one, second, other, split, metric if metric in ("mse", "mae") else "rmse")


def _refuse_other_samples(first: Run, one: SampleAnswers, second: Run, other: SampleAnswers, split: str) -> None:
    import numpy as np

    if one.fingerprint != other.fingerprint:
        raise RunError(f"{first} and {second} were measured on different data, so their answers cannot be compared")
    if (
        one.of_classes != other.of_classes
        or not np.array_equal(one.index, other.index)
        or not np.array_equal(one.target, other.target)
    ):
        raise RunError(
            f"the {split} splits of {first} and {second} hold different samples, so their answers cannot be compared"
        )


def _of_classes(first: Run, one: SampleAnswers, second: Run, other: SampleAnswers, split: str) -> SampleTest:
    right, also = one.predicted == one.target, other.predicted == other.target
    only_first, only_second, count = int((right & ~also).sum()), int((also & ~right).sum()), len(right)
    places = (one.predicted != other.predicted).nonzero()[0]
    return SampleTest(
        first,
        second,
        split,
        count,
        "accuracy",
        (only_second - only_first) / count,
        bootstrap_of_counts(only_first, only_second, count),
        only_first,
        only_second,
        mcnemar(only_first, only_second),
        differing=[
            {
                "row": int(one.index[place]),
                "target": int(one.target[place]),
                "first": int(one.predicted[place]),
                "second": int(other.predicted[place]),
            }
            for place in places[:_MOST_LISTED]
        ],
        differing_count=len(places),
    )


def _of_values(
    first: Run, one: SampleAnswers, second: Run, other: SampleAnswers, split: str, metric: str
) -> SampleTest:
    import numpy as np

    def errors(answers: SampleAnswers) -> "np.ndarray[Any, Any]":
        error = answers.predicted.astype(np.float64) - answers.target
        return abs(error) if metric == "mae" else error**2

    ours, theirs = errors(one), errors(other)
    for run, found in ((first, ours), (second, theirs)):
        if not np.isfinite(found).all():
            raise RunError(f"an answer of {run} on its {split} split is not finite, so {metric} cannot be compared")
    measure = np.sqrt if metric == "rmse" else np.positive
    return SampleTest(
        first,
        second,
        split,
        len(ours),
        metric,
        float(measure(theirs.mean()) - measure(ours.mean())),
        bootstrap_of_means(ours, theirs, measure),
    )
