"""Evaluations against those of a baseline: --baseline and --max-drop."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dlcli.core.errors import RunError
from dlcli.evaluation.measure import Evaluation
from dlcli.experiment.restore import preprocessing_of
from dlcli.runs.names import compact
from dlcli.runs.run import Run
from dlcli.runs.sample_tests import SampleTest, compare_samples
from dlcli.runs.statistics import Interval, paired, unpaired
from dlcli.tasks.choose import higher_is_better


@dataclass(frozen=True)
class Against:
    """The mean of a metric over some runs, and over the runs of a baseline.

    value, baseline: None if the metric is undefined in a run, `undefined`. drop: by how much the baseline is better.
    difference: of the runs less the baseline. interval: of the difference, at 95 %; None if it is not known. method:
    how it was found: `samples` (one run each, on the same samples: bootstrap), `seeds` (pairs of the same seed) or
    `welch`. samples: of one run each, their answers to the same samples; None if these cannot be compared.
    """

    metric: str
    runs: tuple[Run, ...]
    baseline_runs: tuple[Run, ...]
    value: float | None
    baseline: float | None
    max_drop: float
    undefined: Run | None = None
    interval: Interval | None = None
    method: str = ""
    samples: SampleTest | None = None

    @property
    def difference(self) -> float | None:
        return None if self.value is None or self.baseline is None else self.value - self.baseline

    @property
    def drop(self) -> float | None:
        if self.difference is None or self.value is None or self.baseline is None:
            return None
        return self.baseline - self.value if higher_is_better(self.metric) else self.value - self.baseline

    @property
    def holds(self) -> bool:
        return self.drop is not None and self.drop <= self.max_drop

    @property
    def sentence(self) -> str:
        if self.drop is None:
            return f"{self.metric} is undefined in {self.undefined}"
        of = f" (mean of {len(self.runs)} runs)" if len(self.runs) > 1 else ""
        other = f"{self.baseline_runs[0]}"
        if len(self.baseline_runs) > 1:
            other = f"runs {compact(run.number for run in self.baseline_runs)}"
        told = f"{self.metric} {self.value:.6g}{of} against {self.baseline:.6g} of {other}: a drop of {self.drop:.6g}"
        return told if self.holds else f"{told}, more than the {self.max_drop:g} that --max-drop allows"

    def as_dict(self) -> dict[str, Any]:
        test = self.samples
        return {
            "runs": [str(run) for run in self.baseline_runs],
            "metric": self.metric,
            "value": self.value,
            "baseline": self.baseline,
            "difference": self.difference,
            "interval": None if self.interval is None else list(self.interval),
            "method": self.method or None,
            "drop": self.drop,
            "max_drop": self.max_drop,
            "holds": self.holds,
            "samples": None
            if test is None
            else {
                "metric": test.metric,
                "count": test.samples,
                "difference": test.difference,
                "interval": list(test.interval),
                "only_baseline": test.only_first,
                "only_run": test.only_second,
                "p": test.p,
            },
        }


def against(
    reports: Sequence[Evaluation],
    baseline: Sequence[Evaluation],
    metric: str,
    *,
    max_drop: float = 0.0,
    on_samples: bool = True,
) -> Against:
    """Compare evaluations on one split with those of a baseline.

    on_samples: whether the answers of one run each may be compared sample by sample: those that `evaluate` stored last.
    RunError (exit 4) if the data are not the same. Language models with other tokens are compared by their bits per
    character, whatever the metric: a loss is one of a token.
    """
    for report in (*reports, *baseline):
        if report.fingerprint != baseline[0].fingerprint:
            raise RunError(
                f"{report.run} and {baseline[0].run} were measured on different data, so they cannot be compared: name "
                "runs on the same data, or one data set with --data"
            )
    if "bits_per_char" in baseline[0].metrics and _tokens_differ([report.run for report in (*reports, *baseline)]):
        metric = "bits_per_char"
    values, others = ([report.metrics.get(metric) for report in group] for group in (reports, baseline))
    undefined = next((r.run for r in (*reports, *baseline) if r.metrics.get(metric) is None), None)
    runs, baseline_runs = (tuple(report.run for report in group) for group in (reports, baseline))
    if undefined is not None:
        return Against(metric, runs, baseline_runs, None, None, max_drop, undefined)
    numbers, other_numbers = ([value for value in group if value is not None] for group in (values, others))
    interval, method, samples = None, "", None
    if len(numbers) == len(other_numbers) == 1:
        samples = _on_samples(baseline[0], reports[0], metric) if on_samples else None
        if samples is not None and samples.metric == metric:
            interval, method = samples.interval, "samples"
    elif (pairs := _by_seed(runs, numbers, baseline_runs, other_numbers)) is not None:
        interval, method = paired(*pairs).interval, "seeds"
    elif (found := unpaired(other_numbers, numbers).interval) is not None:
        interval, method = found, "welch"
    return Against(
        metric, runs, baseline_runs, _mean(numbers), _mean(other_numbers), max_drop,
        interval=interval, method=method, samples=samples,
    )  # fmt: skip


def _tokens_differ(runs: Sequence[Run]) -> bool:
    first, *others = (preprocessing_of(run).spelling for run in runs)
    return any(other != first for other in others)


def _on_samples(baseline: Evaluation, report: Evaluation, metric: str) -> SampleTest | None:
    try:
        return compare_samples(baseline.run, report.run, report.split, metric)
    except RunError:  # no answers were stored, or not of the same samples
        return None


def _by_seed(
    runs: Sequence[Run], values: Sequence[float], others: Sequence[Run], other_values: Sequence[float]
) -> tuple[list[float], list[float]] | None:
    """The values of the baseline and of the runs, seed by seed; None unless both have the same seeds, each once."""
    ours, theirs = (
        {repr(run.settings().get("seed")): value for run, value in zip(group, found, strict=True)}
        for group, found in ((runs, values), (others, other_values))
    )
    if ours.keys() != theirs.keys() or len(ours) < len(runs) or len(theirs) < len(others):
        return None
    return [theirs[seed] for seed in ours], [*ours.values()]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if len(values) > 1 else values[0]
