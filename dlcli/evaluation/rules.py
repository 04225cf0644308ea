"""Conditions on metrics for a gate in CI: --require and --baseline."""

import math
import operator
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dlcli.core.errors import CheckError, ConfigError, did_you_mean
from dlcli.evaluation.measure import Evaluation
from dlcli.tasks.choose import higher_is_better, why_undefined

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
class Rule:
    """A condition on a metric. text: as typed, such as `accuracy>=0.98`."""

    text: str
    metric: str
    comparison: str
    bound: float


@dataclass(frozen=True)
class Verdict:
    """Whether a rule holds. value: of its metric; None if that is undefined, and then the rule does not hold."""

    rule: Rule
    value: float | None
    holds: bool
    sentence: str

    def as_dict(self) -> dict[str, Any]:
        return {"rule": self.rule.text, "value": self.value, "holds": self.holds}


def parse_rules(texts: Sequence[str]) -> list[Rule]:
    """The conditions of --require. ConfigError (exit 2) for a text that is not a rule with a finite number."""
    return [_parsed(text) for text in texts]


def _parsed(text: str) -> Rule:
    match = _RULE.fullmatch(text)
    try:
        rule = Rule(text, match[1], match[2], float(match[3])) if match else None
    except ValueError:
        rule = None
    if rule is None:
        raise ConfigError(f"--require {text!r} is no rule such as 'accuracy>=0.98'")
    if not math.isfinite(rule.bound):
        raise ConfigError(f"--require {text!r} compares with {rule.bound}: take a finite number")
    return rule


def check_names(rules: Sequence[Rule], names: Collection[str]) -> None:
    """ConfigError (exit 2) for a rule on a metric that is not among `names`."""
    for rule in rules:
        if rule.metric not in names:
            raise ConfigError(
                f"--require {rule.text!r}: there is no metric {rule.metric}: {did_you_mean(rule.metric, names)}"
            )


def check_rules(metrics: Mapping[str, float | None], rules: Sequence[Rule]) -> list[Verdict]:
    """The verdict on each rule; none holds for an undefined metric. ConfigError (exit 2) for an unknown metric."""
    check_names(rules, metrics)
    return [_verdict(rule, metrics) for rule in rules]


def _verdict(rule: Rule, metrics: Mapping[str, float | None]) -> Verdict:
    value = metrics[rule.metric]
    if value is None:
        reason = why_undefined(rule.metric, metrics)
        return Verdict(rule, None, False, f"{rule.text} does not hold: {rule.metric} is undefined, since {reason}")
    holds = _COMPARISONS[rule.comparison](value, rule.bound)
    return Verdict(rule, value, holds, f"{rule.text} {'holds' if holds else 'does not hold'}: the value is {value:.6g}")


def check_drop(report: Evaluation, baseline: Evaluation, max_drop: float, metric: str) -> str:
    """A sentence that compares both runs. CheckError (exit 7) if the first is worse by more than `max_drop`, or the
    metric is undefined in one of them."""
    value, base = report.metrics.get(metric), baseline.metrics.get(metric)
    if value is None or base is None:
        raise CheckError(f"{metric} is undefined in {report.run if value is None else baseline.run}")
    drop = base - value if higher_is_better(metric) else value - base
    sentence = f"{metric} {value:.6g} against {base:.6g} of {baseline.run}: a drop of {drop:.6g}"
    if drop > max_drop:
        raise CheckError(f"{sentence}, more than the {max_drop:g} that --max-drop allows")
    return sentence
