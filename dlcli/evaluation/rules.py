"""Conditions on metrics for a gate in CI: --require. Those of --baseline are in against.py."""

import math
import operator
import re
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dlcli.core.errors import ConfigError, RunError, did_you_mean
from dlcli.evaluation.measure import Evaluation
from dlcli.runs.run import Run
from dlcli.tasks.choose import why_undefined

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}

# What of the values of several runs a rule can compare.
_OVER: dict[str, Callable[[Sequence[float]], float]] = {
    "mean": statistics.fmean,
    "median": statistics.median,
    "min": min,
    "max": max,
    "std": statistics.stdev,
}

_RULE = re.compile(
    r"\s*(?:(?P<over>\w+)\(\s*(?P<inner>[\w/]+)\s*\)|(?P<metric>[\w/]+))\s*(?P<sign>>=|<=|==|!=|>|<)"
    r"\s*(?P<bound>[-+.\w]+)\s*"
)


@dataclass(frozen=True)
class Rule:
    """A condition on a metric. text: as typed, such as `accuracy>=0.98` or `mean(accuracy) >= 0.98`. over: mean,
    median, min, max or std of all runs; empty for a rule that each run must satisfy."""

    text: str
    metric: str
    comparison: str
    bound: float
    over: str = ""


@dataclass(frozen=True)
class Verdict:
    """Whether a rule holds. value: of its metric; None if that is undefined, and then the rule does not hold. run: of
    which it is the verdict, among several; None if it is one on all."""

    rule: Rule
    value: float | None
    holds: bool
    sentence: str
    run: Run | None = None

    def as_dict(self) -> dict[str, Any]:
        return {"rule": self.rule.text, "value": self.value, "holds": self.holds}


def parse_rules(texts: Sequence[str]) -> list[Rule]:
    """The conditions of --require. ConfigError (exit 2) for a text that is not a rule with a finite number."""
    return [_parsed(text) for text in texts]


def _parsed(text: str) -> Rule:
    match = _RULE.fullmatch(text)
    try:
        bound = float(match["bound"]) if match else None
    except ValueError:
        bound = None
    if match is None or bound is None:
        raise ConfigError(f"--require {text!r} is no rule such as 'accuracy>=0.98'")
    if not math.isfinite(bound):
        raise ConfigError(f"--require {text!r} compares with {bound}: take a finite number")
    over = match["over"] or ""
    if over and over not in _OVER:
        raise ConfigError(f"--require {text!r}: there is no {over}() of runs: {did_you_mean(over, _OVER)}")
    return Rule(text, match["inner"] or match["metric"], match["sign"], bound, over)


def check_names(rules: Sequence[Rule], names: Collection[str]) -> None:
    """ConfigError (exit 2) for a rule on a metric that is not among `names`."""
    for rule in rules:
        if rule.metric not in names:
            raise ConfigError(
                f"--require {rule.text!r}: there is no metric {rule.metric}: {did_you_mean(rule.metric, names)}"
            )


def check_rules(metrics: Mapping[str, float | None], rules: Sequence[Rule]) -> list[Verdict]:
    """The verdict on each rule by the metrics of one run; none holds for an undefined metric. ConfigError (exit 2) for
    an unknown metric."""
    check_names(rules, metrics)
    return [_verdict_on_all(rule, {"the run": metrics}) if rule.over else _verdict(rule, metrics) for rule in rules]


def check_rules_of(reports: Sequence[Evaluation], rules: Sequence[Rule]) -> list[Verdict]:
    """The verdicts on several runs: of each rule one for each run, or one for all if it is on their mean or the like.

    ConfigError (exit 2) for a metric that a run does not have. RunError (exit 4) for a rule on the mean of runs that
    were measured on different data.
    """
    for report in reports:
        check_names(rules, report.metrics)
    if any(rule.over for rule in rules):
        _check_same_data(reports)
    by_run = {str(report.run): report.metrics for report in reports}
    several = len(reports) > 1
    verdicts = []
    for rule in rules:
        if rule.over:
            verdicts.append(_verdict_on_all(rule, by_run))
        else:
            verdicts += [_verdict(rule, report.metrics, run=report.run if several else None) for report in reports]
    return verdicts


def _check_same_data(reports: Sequence[Evaluation]) -> None:
    first = reports[0]
    for report in reports:
        if (report.fingerprint, report.samples) != (first.fingerprint, first.samples):
            raise RunError(
                f"{first.run} and {report.run} were measured on different data, so that no mean of theirs can be "
                "required: name runs on the same data"
            )


def _verdict(rule: Rule, metrics: Mapping[str, float | None], *, run: Run | None = None) -> Verdict:
    value, where = metrics[rule.metric], f" in {run}" if run else ""
    if value is None:
        why = f"{rule.metric} is undefined, since {why_undefined(rule.metric, metrics)}"
        return Verdict(rule, None, False, f"{rule.text} does not hold{where}: {why}", run)
    holds = _COMPARISONS[rule.comparison](value, rule.bound)
    told = f"{rule.text} {'holds' if holds else 'does not hold'}{where}: the value is {value:.6g}"
    return Verdict(rule, value, holds, told, run)


def _verdict_on_all(rule: Rule, by_run: Mapping[str, Mapping[str, float | None]]) -> Verdict:
    values = []
    for run, metrics in by_run.items():
        value = metrics[rule.metric]
        if value is None:
            why = f"{rule.metric} is undefined in {run}, since {why_undefined(rule.metric, metrics)}"
            return Verdict(rule, None, False, f"{rule.text} does not hold: {why}")
        values.append(value)
    if rule.over == "std" and len(values) < 2:
        return Verdict(rule, None, False, f"{rule.text} does not hold: one run has no std")
    value = _OVER[rule.over](values)
    holds = _COMPARISONS[rule.comparison](value, rule.bound)
    count = f" of {len(values)} runs" if len(values) > 1 else ""
    return Verdict(rule, value, holds, f"{rule.text} {'holds' if holds else 'does not hold'}: it is {value:.6g}{count}")
