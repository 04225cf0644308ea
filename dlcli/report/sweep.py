"""A sweep: its trials, the best first, each setting against the result, and which settings matter."""

from collections.abc import Sequence

from dlcli.core.errors import RunError
from dlcli.plots.sweep import parallel, sweep
from dlcli.report.blocks import Block, Cell, Drawing, Section, Table, Text, chosen
from dlcli.runs.sweeps import Sweep
from dlcli.runs.trials import Trial, ranked, trials
from dlcli.sweeps.importance import importances


def of_sweep(found: Sweep) -> Section:
    """Without pictures if no trial has finished, and without importances if too few have."""
    plan, tried = found.plan(), ranked(trials(found.trials()))
    blocks: list[Block] = [_about(plan, tried), _table(tried)]
    if any(one.loss is not None for one in tried):
        blocks += [Drawing(sweep(found)), Drawing(parallel(found))]
    try:
        matter = importances(tried)
    except RunError as error:
        return Section(f"Sweep {found.number}", [*blocks, Text(f"{str(error)[:1].upper()}{str(error)[1:]}.")])
    blocks.append(
        Table(
            f"How much each setting matters: loss of R2 when its values are permuted; forest R2 {matter.r2:.2f}",
            ("setting", "importance", "sd"),
            [(one.name, one.mean, one.std) for one in matter.settings],
        )
    )
    return Section(f"Sweep {found.number}", blocks)


def _about(plan: dict[str, object], tried: Sequence[Trial]) -> Text:
    finished = [one for one in tried if one.loss is not None]
    told = f"{len(tried):,} trials, method {plan.get('method')}, pruning {plan.get('prune')}."
    if not finished:
        return Text(f"{told} None has finished.")
    best, metric = finished[0], finished[0].runs[0].metric
    assert best.value is not None
    told += f" The best is trial {best.number}: {metric} {best.value.mean:.4f}"
    if best.value.count > 1:
        told += f", the mean of {best.value.count} seeds"
    if best.confirmed is None:
        return Text(f"{told}. It was picked from {len(tried):,}, so that this value is optimistic.")
    interval = best.confirmed.interval
    sure = "" if interval is None else f" (95 % interval {interval.low:.4f} to {interval.high:.4f})"
    return Text(f"{told}. With {best.confirmed.count} fresh seeds it has {best.confirmed.mean:.4f}{sure}.")


def _table(tried: Sequence[Trial]) -> Table:
    names = list(dict.fromkeys(name for one in tried for name in one.settings))
    rows = [
        (
            one.number,
            one.status,
            *(chosen(one.settings.get(name)) for name in names),
            None if one.value is None else one.value.mean,
            None if one.value is None else one.value.std,
            None if one.confirmed is None else one.confirmed.mean,
            Cell(" ".join(str(run.run) for run in (*one.runs, *one.confirming) if run.run is not None)),
            one.reason,
        )
        for one in tried
    ]
    return Table(
        "Trials, the best first", ("trial", "status", *names, "mean", "sd", "confirmed", "runs", "reason"), rows
    )
