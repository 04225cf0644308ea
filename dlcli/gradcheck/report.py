"""The results of a gradient check, as plain data."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["parameter", "input", "module input", "module output", "second order", "forward mode", "device"]
RowVerdict = Literal["pass", "wrong", "detached", "non-finite", "undecided", "unused"]
Verdict = Literal["pass", "fail", "undecided"]

# From best to worst: the row of a tensor has the worst of its verdicts in all modes.
_ORDER: tuple[RowVerdict, ...] = ("unused", "pass", "undecided", "detached", "wrong", "non-finite")
FAILING: frozenset[RowVerdict] = frozenset(("wrong", "detached", "non-finite"))


def worst_verdict(*verdicts: RowVerdict) -> RowVerdict:
    return max(verdicts, key=_ORDER.index)


@dataclass(frozen=True)
class Worst:
    """The probe with the largest error. index: the coordinate; None for a random direction.

    mode: train or eval. objective: loss, or cotangent (the sum of all outputs with random weights).
    """

    index: tuple[int, ...] | None
    analytic: float
    numeric: float
    mode: str
    objective: str

    def as_dict(self) -> dict[str, Any]:
        return {
            "index": None if self.index is None else list(self.index),
            "analytic": finite(self.analytic),
            "numeric": finite(self.numeric),
            "mode": self.mode,
            "objective": self.objective,
        }

    def __str__(self) -> str:
        where = "a random direction" if self.index is None else f"[{', '.join(map(str, self.index))}]"
        return f"{where} analytic {self.analytic:.6g}, numeric {self.numeric:.6g} ({self.mode}, {self.objective})"


@dataclass(frozen=True)
class Row:
    """One tensor, over all modes and objectives.

    module: qualified name of the module that holds it. gradient_norm: largest Euclidean norm of its gradient.
    max_absolute, max_relative: largest error of a probe that was compared. probes: number of comparisons.
    kinks: probes dropped because the function has a kink there. unresolved: probes dropped because rounding hides the
    numeric derivative. smallest_caught: the smallest relative error of this gradient that would have been detected;
    None if the gradient is zero.
    """

    tensor: str
    kind: Kind
    module: str
    shape: tuple[int, ...]
    gradient_norm: float
    max_absolute: float
    max_relative: float
    probes: int
    kinks: int
    unresolved: int
    verdict: RowVerdict
    reason: str = ""
    worst: Worst | None = None
    smallest_caught: float | None = None

    def merged(self, other: "Row") -> "Row":
        """This row and the one of the same tensor in another mode, as one row with the worse verdict."""
        first, second = (self, other) if _badness(self) >= _badness(other) else (other, self)
        caught = [c for c in (self.smallest_caught, other.smallest_caught) if c is not None]
        return Row(
            tensor=self.tensor,
            kind=self.kind,
            module=self.module,
            shape=self.shape,
            gradient_norm=max(self.gradient_norm, other.gradient_norm),
            max_absolute=max(self.max_absolute, other.max_absolute),
            max_relative=max(self.max_relative, other.max_relative),
            probes=self.probes + other.probes,
            kinks=self.kinks + other.kinks,
            unresolved=self.unresolved + other.unresolved,
            verdict=first.verdict,
            reason=first.reason,
            worst=first.worst or second.worst,
            smallest_caught=max(caught, default=None),
        )

    def as_dict(self) -> dict[str, Any]:
        return {
            "tensor": self.tensor,
            "kind": self.kind,
            "module": self.module,
            "shape": list(self.shape),
            "gradient_norm": finite(self.gradient_norm),
            "max_absolute_error": finite(self.max_absolute),
            "max_relative_error": finite(self.max_relative),
            "probes": self.probes,
            "kinks": self.kinks,
            "unresolved": self.unresolved,
            "verdict": self.verdict,
            "reason": self.reason,
            "worst": self.worst.as_dict() if self.worst else None,
            "smallest_caught": finite(self.smallest_caught),
        }


@dataclass(frozen=True)
class Blame:
    """The module whose own backward is wrong: the gradient of its output is right, that of `tensor` is not.

    module: qualified name, "(model)" for the whole model, "(loss)" for the loss after it. also: other modules that the
    same evidence fits, such as those that share the parameter.
    """

    module: str
    class_name: str
    tensor: str
    worst: Worst | None
    also: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return {
            "module": self.module,
            "class": self.class_name,
            "tensor": self.tensor,
            "worst": self.worst.as_dict() if self.worst else None,
            "also": list(self.also),
        }

    def __str__(self) -> str:
        others = f" (or {', '.join(self.also)}, which shares it)" if self.also else ""
        worst = f" at {self.worst}" if self.worst else ""
        return f"{self.module} ({self.class_name}){others}: gradient of {self.tensor} is wrong{worst}"


@dataclass(frozen=True)
class Finding:
    """A fact about the target as a whole; `verdict` is the verdict on the target that follows from it."""

    verdict: Verdict
    text: str

    def as_dict(self) -> dict[str, Any]:
        return {"verdict": self.verdict, "text": self.text}


@dataclass(frozen=True)
class Opinion:
    """The result of torch's own check of the same target. agrees: whether this check has the same result."""

    check: str
    passes: bool
    agrees: bool
    text: str

    def as_dict(self) -> dict[str, Any]:
        return {"check": self.check, "passes": self.passes, "agrees": self.agrees, "text": self.text}


@dataclass(frozen=True)
class TargetReport:
    """The report on one target. smallest_caught: a relative error of this size in the gradient of any one tensor would
    have been detected, except in a gradient that is zero."""

    target: str
    class_name: str
    parameters: int
    rows: tuple[Row, ...]
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    blame: Blame | None = None
    opinions: tuple[Opinion, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """fail: a row or finding fails. undecided: a parameter, an input or a requested extra check is undecided.

        An undecided module input or output is only reported, since an error there also affects parameters or inputs.
        """
        if any(row.verdict in FAILING for row in self.rows) or any(f.verdict == "fail" for f in self.findings):
            return "fail"
        leaves = [row for row in self.rows if not row.kind.startswith("module")]
        if any(row.verdict == "undecided" for row in leaves) or any(f.verdict == "undecided" for f in self.findings):
            return "undecided"
        return "pass"

    @property
    def clean(self) -> bool:
        """Whether nothing is undecided and no parameter is unused, as `--strict` requires."""
        return self.verdict == "pass" and not any(
            row.verdict == "undecided" or (row.verdict == "unused" and row.kind == "parameter") for row in self.rows
        )

    @property
    def smallest_caught(self) -> float | None:
        return max((r.smallest_caught for r in self.rows if r.smallest_caught is not None), default=None)

    def as_dict(self) -> dict[str, Any]:
        return {
            "target": self.target,
            "class": self.class_name,
            "parameters": self.parameters,
            "verdict": self.verdict,
            "smallest_caught": finite(self.smallest_caught),
            "blame": self.blame.as_dict() if self.blame else None,
            "findings": [finding.as_dict() for finding in self.findings],
            "notes": list(self.notes),
            "opinions": [opinion.as_dict() for opinion in self.opinions],
            "rows": [row.as_dict() for row in self.rows],
        }


@dataclass(frozen=True)
class Report:
    """All targets of one command. The same seed and targets give the same report."""

    seed: int
    strict: bool
    tolerance: float
    targets: tuple[TargetReport, ...] = field(default=())

    @property
    def passed(self) -> bool:
        return all(t.clean if self.strict else t.verdict != "fail" for t in self.targets)

    @property
    def verdict(self) -> Verdict:
        verdicts = {t.verdict for t in self.targets}
        return "fail" if not self.passed or "fail" in verdicts else "undecided" if "undecided" in verdicts else "pass"

    @property
    def smallest_caught(self) -> float | None:
        return max((t.smallest_caught for t in self.targets if t.smallest_caught is not None), default=None)

    def as_dict(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict,
            "passed": self.passed,
            "seed": self.seed,
            "strict": self.strict,
            "tolerance": self.tolerance,
            "smallest_caught": finite(self.smallest_caught),
            "targets": [target.as_dict() for target in self.targets],
        }


def finite(value: float | None) -> float | None:
    """The value, or None for NaN and infinity, which JSON cannot represent."""
    return value if value is not None and math.isfinite(value) else None


def _badness(row: Row) -> tuple[int, float]:
    return _ORDER.index(row.verdict), row.max_relative if math.isfinite(row.max_relative) else math.inf
