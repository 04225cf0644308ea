"""Rules that a gate in CI asks for: --require and --baseline."""

import operator
import re
from collections.abc import Callable

from dlcli.core.errors import CheckError, ConfigError, did_you_mean
from dlcli.evaluation.measure import Report
from dlcli.experiment.restore import preprocessing_of
from dlcli.runs.run import Run
from dlcli.tasks.choose import choose_task, higher_is_better

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}

_RULE = re.compile(r"\s*([\w/]+)\s*(>=|<=|==|!=|>|<)\s*([-+.\w]+)\s*")


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
    drop = base - value if higher_is_better(metric) else value - base
    sentence = f"{metric} {value:.6g} against {base:.6g} of {baseline.run}: a drop of {drop:.6g}"
    if drop > max_drop:
        raise CheckError(f"{sentence}, more than the {max_drop:g} that --max-drop allows")
    return sentence


def main_metric(run: Run) -> str:
    """The metric by which this run's best checkpoint was chosen, else its task's own."""
    monitor = run.settings().get("monitor", "auto")
    if isinstance(monitor, str) and monitor != "auto":
        return monitor.removeprefix("val/")
    return choose_task(preprocessing_of(run).spec).monitor
