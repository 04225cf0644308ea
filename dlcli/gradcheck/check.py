"""The check of a target: every parameter, input and module boundary, in training and evaluation mode."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import torch

from dlcli.core.errors import DlcliError
from dlcli.gradcheck import device as device_check
from dlcli.gradcheck import forward_mode, opinion, second_order
from dlcli.gradcheck.localise import localise
from dlcli.gradcheck.numeric import TOLERANCE
from dlcli.gradcheck.probing import (
    Effort,
    Result,
    choose,
    floors_of,
    results,
    row,
    unravel,
    worst_coordinate,
)
from dlcli.gradcheck.report import FAILING, Blame, Finding, Report, Row, TargetReport, Worst, worst_verdict
from dlcli.gradcheck.subject import (
    OBJECTIVES,
    Case,
    Gradients,
    Subject,
    Variable,
    build,
    check_parameters,
    class_name,
    first_line,
    quiet_double,
)

# A model with more parameters gets fewer probes unless `exhaustive`, since each probe evaluates the whole model.
_LARGE = 200_000
_LIGHT = Effort(
    directions=1,
    coordinates=2,
    whole=2,
    boundary_directions=1,
    boundary_coordinates=0,
    boundary_whole=0,
    boundaries_always=False,
)
# Points at which a failure is tried again. It is confirmed if it occurs at one of them.
_OTHER_POINTS = (1, 2, 3)


@dataclass(frozen=True)
class Settings:
    """order: 2 also checks double backward. forward_mode: also check forward-mode derivatives.

    device: compare the gradients on this device, in the model's own dtype, with the float64 reference.
    second_opinion: also run torch.autograd.gradcheck if the target is small enough.
    """

    seed: int = 0
    effort: Effort = field(default_factory=Effort)
    order: int = 1
    forward_mode: bool = False
    device: torch.device | None = None
    second_opinion: bool = True


def check(cases: Iterable[Case], *, settings: Settings, strict: bool = False) -> Report:
    """The report on all cases. Raises ConfigError for a target that cannot be run or differentiated at all."""
    return Report(settings.seed, strict, TOLERANCE, tuple(check_case(case, settings=settings) for case in cases))


def check_case(case: Case, *, settings: Settings) -> TargetReport:
    """The report on one case."""
    with quiet_double():
        model = build(case, settings.seed)
        check_parameters(model, case.name)
        parameters = sum(p.numel() for p in model.parameters())
        if parameters > _LARGE and not settings.effort.exhaustive:
            settings = replace(settings, effort=_LIGHT)
        runs = [_Run(case, settings=settings, training=training) for training in (True, False)]
        rows: dict[tuple[str, str], Row] = {}
        findings: list[Finding] = []
        notes = [case.note] if case.note else []
        frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
        if frozen:
            notes.append(f"not checked, since they require no gradient: {_some(frozen)}")
        for run in runs:
            run.check()
            extra: list[Row] = []
            if run.readable and settings.order == 2:
                more, finding = second_order.check(run.subject, settings.effort, seed=settings.seed)
                extra, findings = [*extra, *more], [*findings, *finding]
            if run.readable and settings.forward_mode:
                more, finding = forward_mode.check(run.subject, seed=settings.seed)
                extra, findings = [*extra, *more], [*findings, *finding]
            for new in [*run.rows, *extra]:
                key = (new.tensor, new.kind)
                rows[key] = _merge(rows[key], new) if key in rows else new
            findings += run.findings
            notes += run.notes
        if settings.device is not None and all(run.readable for run in runs):
            compared, more_notes = device_check.compare(case, settings.device, seed=settings.seed)
            rows |= {(r.tensor, r.kind): r for r in compared}
            notes += more_notes
        report = TargetReport(
            target=case.name,
            class_name=class_name(model),
            parameters=parameters,
            rows=tuple(rows.values()),
            findings=tuple(dict.fromkeys(findings)),
            notes=tuple(dict.fromkeys(notes)),
            blame=next((run.blame for run in runs if run.blame is not None), None),
        )
        if settings.second_opinion and all(run.readable for run in runs):
            opinions = opinion.ask([run.subject for run in runs], report, order=settings.order)
            report = replace(report, opinions=tuple(opinions))
        return report


class _Run:
    """A case in one mode. readable: its values are finite and repeatable, and backward runs."""

    def __init__(self, case: Case, *, settings: Settings, training: bool) -> None:
        self.case, self.settings = case, settings
        self.subject = Subject(case, seed=settings.seed, point=0, training=training)
        self.rows: list[Row] = []
        self.findings: list[Finding] = []
        self.notes: list[str] = []
        self.blame: Blame | None = None
        self.readable = False

    def check(self) -> None:
        subject, mode = self.subject, self.subject.mode
        centre = subject.first_value()
        if not all(map(math.isfinite, centre)):
            self.findings.append(Finding("undecided", f"in {mode} mode the output is not finite at a random point"))
            return
        if subject.value() != centre:
            text = f"in {mode} mode two evaluations at the same point differ: it is no function of its inputs"
            self.findings.append(Finding("undecided", text))
            return
        gradients = self._gradients(centre)
        if gradients is None:
            return
        self.readable = True
        self._check_repeatable(gradients)
        roundoff = subject.roundoff(centre)
        found: dict[Variable, list[Result]] = {}
        rows: dict[tuple[Variable, int], Row] = {}
        for variable in gradients.variables:  # parameters and inputs come first
            sound = not any(r.verdict in FAILING for r in rows.values())
            if variable.tap is not None and sound and not self.settings.effort.boundaries_always:
                gradients = _without_boundaries(gradients)
                self.notes.append("modules' inputs and outputs are left out: the model is large and nothing is wrong")
                break
            floors = floors_of(gradients, variable)
            found[variable] = []
            if all(bool(torch.isfinite(g).all()) for o in gradients.of if (g := o[variable]) is not None):
                probes = choose(variable, gradients, self.settings.effort, seed=self.settings.seed)
                found[variable] += results(subject, gradients, variable, probes, floors=floors, roundoff=roundoff)
            for j in range(len(OBJECTIVES)):
                rows[variable, j] = row(subject, gradients, variable, found[variable], j, floors=floors)
        self._confirm(rows, found)
        self._locate(rows, gradients, found, roundoff)
        for variable in gradients.variables:
            first, *others = (rows[variable, j] for j in range(len(OBJECTIVES)))
            for other in others:
                first = _merge(first, other)
            self.rows.append(first)

    def _gradients(self, centre: tuple[float, ...]) -> Gradients | None:
        """Analytic gradients, including those at module boundaries unless the taps change the values of the model;
        None if backward fails."""
        subject = self.subject
        try:
            gradients = subject.gradients(taps=True)
            if all(
                math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12) for a, b in zip(gradients.centre, centre, strict=True)
            ):
                return replace(gradients, centre=centre)
            reason = "its values change when what passes between modules is copied"
        except DlcliError:
            raise
        except Exception as error:
            reason = f"that fails with: {first_line(error)}"
        try:
            gradients = subject.gradients(taps=False)
        except DlcliError:
            raise
        except Exception as error:
            self.findings.append(Finding("fail", f"in {subject.mode} mode backward fails: {first_line(error)}"))
            return None
        self.notes.append(f"modules' inputs and outputs are not checked: {reason}")
        return gradients

    def _check_repeatable(self, gradients: Gradients) -> None:
        """Two backward passes over one graph, and one over another of the same values, must agree up to rounding."""
        subject = self.subject
        leaves = list(subject.leaves.values())
        loss, projection = subject.objectives(subject.run())
        worst, where = 0.0, ""
        for objective, first in zip((loss, projection), gradients.of, strict=True):
            if not objective.requires_grad:
                continue
            passes = [torch.autograd.grad(objective, leaves, retain_graph=True, allow_unused=True) for _ in range(2)]
            for name, a, b in zip(subject.leaves, *passes, strict=True):
                of_first = next(g for v, g in first.items() if v.name == name and v.tap is None)
                for one, other in ((a, b), (a, of_first)):
                    if one is None or other is None:
                        continue
                    one, other = one.to_dense(), other.to_dense()
                    size = max(float(one.abs().max()), 1e-300) if one.numel() else 1.0
                    gap = float((one - other).abs().max()) / size if one.numel() else 0.0
                    if gap > max(worst, 1e-11):  # taps may change the order of a sum
                        worst, where = gap, name
        if worst:
            text = (
                f"in {subject.mode} mode backward is not deterministic: two gradients of {where} differ by {worst:.2g}"
            )
            self.findings.append(Finding("fail", text))

    def _confirm(self, rows: dict[tuple[Variable, int], Row], found: dict[Variable, list[Result]]) -> None:
        """Keep a failure only if the same tensor also fails at another random point; otherwise it is undecided."""
        pending = {key for key, r in rows.items() if r.verdict in ("wrong", "detached")}
        for point in _OTHER_POINTS:
            if not pending:
                return
            other = Subject(self.case, seed=self.settings.seed, point=point, training=self.subject.training)
            try:
                centre = other.value()
                gradients = replace(other.gradients(taps=any(v.tap for v, _ in pending)), centre=centre)
                roundoff = other.roundoff(centre)
            except DlcliError:
                raise
            except Exception:  # it cannot be run at this point; the next one may work
                continue
            if not all(map(math.isfinite, centre)):
                continue
            same = {v.name: v for v in gradients.variables}
            for variable in dict.fromkeys(v for v, _ in sorted(pending, key=lambda key: (key[0].name, key[1]))):
                here = same.get(variable.name)
                if here is None or here.shape != variable.shape:
                    continue
                waiting = {j for v, j in pending if v == variable}
                differing = [r.probe for r in found[variable] if any(o.what == "differ" for o in r.outcomes)]
                others = [r.probe for r in found[variable] if r.probe not in differing]
                probes = differing[:8] + others[:8]
                floors = floors_of(gradients, here)
                for result in results(other, gradients, here, probes, floors=floors, roundoff=roundoff):
                    met = {j for j in waiting if result.outcomes[j].what == "differ"}
                    pending -= {(variable, j) for j in met}
                    waiting -= met
                    if not waiting:
                        break
        for key in pending:
            reason = "wrong at one random point, right at others: a kink or a rare case"
            rows[key] = replace(rows[key], verdict="undecided", reason=reason)

    def _locate(
        self,
        rows: dict[tuple[Variable, int], Row],
        gradients: Gradients,
        found: dict[Variable, list[Result]],
        roundoff: tuple[float, ...],
    ) -> None:
        """Find the module to blame. The cotangent objective, a plain weighted sum, comes first: unlike a loss, it
        cannot have a wrong backward of its own."""
        for j in (1, 0):
            wrong = [v for v in gradients.variables if rows[v, j].verdict in FAILING]
            if not wrong:
                continue
            worst = {v: w for v in wrong if (w := rows[v, j].worst) is not None}
            blame = localise(self.subject.module, gradients.variables, wrong, worst)
            if blame is None:
                blame = self._blame_the_loss(wrong, worst)
            variable = next((v for v in wrong if v.name == blame.tensor), None)
            if variable is not None and rows[variable, j].verdict != "non-finite":
                blame = replace(blame, worst=self._coordinate(variable, gradients, found, j, roundoff) or blame.worst)
                rows[variable, j] = replace(rows[variable, j], worst=blame.worst)
            elif variable is not None:
                blame = replace(blame, worst=_not_finite(variable, gradients, j, self.subject.mode))
                rows[variable, j] = replace(rows[variable, j], worst=blame.worst)
            self.blame = blame
            return

    def _blame_the_loss(self, wrong: list[Variable], worst: dict[Variable, Worst]) -> Blame:
        output = next((v for v in wrong if v.kind == "module output" and not v.module), wrong[0])
        loss = self.case.loss
        name = getattr(getattr(loss, "__self__", loss), "__class__", type(loss)).__name__
        if output.kind != "module output":  # without taps the modules cannot be distinguished
            return Blame("(model)", class_name(self.subject.module), output.name, worst.get(output))
        return Blame("(loss)", name, output.name, worst.get(output))

    def _coordinate(
        self,
        variable: Variable,
        gradients: Gradients,
        found: dict[Variable, list[Result]],
        j: int,
        roundoff: tuple[float, ...],
    ) -> Worst | None:
        """The worst wrong coordinate among those probed; if only directions were wrong, one found by bisection."""
        differing = [r for r in found[variable] if r.outcomes[j].what == "differ"]
        single = [r for r in differing if r.probe.index is not None]
        if not single and differing:
            direction = differing[0].probe.direction
            return worst_coordinate(self.subject, gradients, variable, direction, j, roundoff=roundoff)
        if not single:
            return None
        worst = max(single, key=lambda r: r.outcomes[j].error)
        outcome, index = worst.outcomes[j], worst.probe.index
        assert index is not None
        place = unravel(index, variable.shape)
        return Worst(place, outcome.analytic, outcome.numeric, self.subject.mode, OBJECTIVES[j])


def _without_boundaries(gradients: Gradients) -> Gradients:
    return replace(gradients, variables=tuple(v for v in gradients.variables if v.tap is None))


def _merge(first: Row, other: Row) -> Row:
    """The rows of two objectives or modes as one row with the worse verdict; "unused" only if both are unused."""
    merged = first.merged(other)
    verdicts = (first.verdict, other.verdict)
    return replace(merged, verdict=worst_verdict(*verdicts), reason=merged.reason)


def _not_finite(variable: Variable, gradients: Gradients, j: int, mode: str) -> Worst:
    gradient = gradients.of[j][variable]
    assert gradient is not None
    index = int((~torch.isfinite(gradient.flatten())).nonzero()[0])
    value = float(gradient.flatten()[index])
    return Worst(unravel(index, variable.shape), value, math.nan, mode, OBJECTIVES[j])


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
