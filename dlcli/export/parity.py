"""The comparison of an artifact, in a process of its own, with the trained model on real samples."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dlcli.export.child import Child
from dlcli.export.signature import Signature
from dlcli.export.subject import Reference, Subject

# Largest difference from the trained model, as a part of the deviation of its answers; and largest loss of the
# metric. Integers are judged by the metric alone.
TOLERANCE = {"float32": 1e-4, "float16": 1e-2, "int8": 1e-2}
_MOST_DROP = 0.01
# Two classes whose logits lie closer, as a part of the same deviation, are a tie: rounding decides between them.
_TIE = 1e-5
_FEW = 16  # samples, for all probes but the one with large batches


@dataclass(frozen=True)
class Probe:
    """How the artifact is asked. steps: of each sequence, its first ones. pieces: parts that a sequence is cut
    into, the state being carried over."""

    batch_size: int
    rows: int
    steps: int | None = None
    pieces: int = 1

    def __str__(self) -> str:
        text = f"batch size {self.batch_size}"
        text += f" with {self.steps} step{'s' * (self.steps != 1)}" if self.steps else ""
        return text + (f" in {self.pieces} pieces" if self.pieces > 1 else "")


@dataclass(frozen=True)
class Difference:
    """Of one probe. relative: max_absolute over the deviation of the trained model's answers on the whole split.
    agreement: part of the predictions that are equal; None for real numbers. ties: unequal ones between classes
    that rounding decides."""

    probe: Probe
    max_absolute: float
    relative: float
    agreement: float | None
    disagreements: int
    ties: int

    def as_dict(self) -> dict[str, Any]:
        return {
            "batch_size": self.probe.batch_size,
            "samples": self.probe.rows,
            "steps": self.probe.steps,
            "pieces": self.probe.pieces,
            "max_absolute_difference": _finite(self.max_absolute),
            "max_relative_difference": _finite(self.relative),
            "agreement": self.agreement,
            "disagreements": self.disagreements,
            "ties": self.ties,
        }


@dataclass(frozen=True)
class Parity:
    """faults: why the artifact is not the trained model, in words; empty when it is."""

    split: str
    samples: int
    tolerance: float
    metric: str
    differences: tuple[Difference, ...]
    trained: dict[str, float | None]
    exported: dict[str, float | None]
    faults: tuple[str, ...]

    @property
    def holds(self) -> bool:
        return not self.faults

    @property
    def whole(self) -> Difference:
        """That of the whole split."""
        return max(self.differences, key=lambda d: d.probe.rows)

    @property
    def worst(self) -> Difference:
        return max(self.differences, key=lambda d: math.inf if math.isnan(d.relative) else d.relative)

    def as_dict(self) -> dict[str, Any]:
        return {
            "holds": self.holds,
            "faults": list(self.faults),
            "split": self.split,
            "samples": self.samples,
            "tolerance": self.tolerance,
            "max_absolute_difference": _finite(max(d.max_absolute for d in self.differences)),
            "max_relative_difference": _finite(self.worst.relative),
            "agreement": self.whole.agreement,
            "metric": self.metric,
            "trained": self.trained,
            "exported": self.exported,
            "probes": [d.as_dict() for d in self.differences],
        }


def compare(child: Child, subject: Subject, signature: Signature, *, folder: Path, tolerance: float | None) -> Parity:
    """Ask `child`, which has opened the artifact, for every probe's answers.

    folder: for the arrays that pass between the processes; x.npy, the samples, is there.
    """
    reference, task = subject.reference, subject.preprocessing.spec.task
    limit = TOLERANCE[subject.dtype] if tolerance is None else tolerance
    deviation = _deviation(reference.answer)
    differences = []
    exported: dict[str, float | None] = {}
    for probe in _probes(reference, signature):
        expected = _expected(subject, probe)
        file = folder / "answer.npy"
        child.ask(
            "run",
            inputs=str(folder / "x.npy"),
            outputs=str(file),
            rows=probe.rows,
            batch_size=probe.batch_size,
            steps=probe.steps,
            pieces=probe.pieces,
        )
        answer = torch.from_numpy(np.load(file, allow_pickle=False))
        differences.append(_difference(probe, expected, answer, deviation=deviation, task=task))
        if probe.rows >= reference.samples and probe.steps is None and probe.pieces == 1:
            exported = subject.metrics(answer[: reference.samples], reference.target)
    parity = Parity(
        split=reference.split,
        samples=reference.samples,
        tolerance=limit,
        metric="r2" if task == "regression" else "accuracy",
        differences=tuple(differences),
        trained=reference.metrics,
        exported=exported,
        faults=(),
    )
    return replace(parity, faults=tuple(_faults(parity, subject.dtype)))


def _probes(reference: Reference, signature: Signature) -> list[Probe]:
    few, steps = min(_FEW, len(reference.x)), reference.x.shape[1]
    probes = [Probe(64, len(reference.x)), Probe(1, few), Probe(2, few)]
    if signature.steps_are_free and steps > 1:
        probes.append(Probe(2, few, steps=steps // 2))
    if signature.stateful and steps > 1:
        probes.append(Probe(2, few, pieces=2))
    return probes


def _expected(subject: Subject, probe: Probe) -> Tensor:
    reference = subject.reference
    if probe.steps is not None:
        return subject.output(torch.from_numpy(reference.x[: probe.rows, : probe.steps].copy()))
    repeats = -(-probe.rows // reference.samples)
    return torch.cat([reference.answer] * repeats)[: probe.rows]


def _deviation(answer: Tensor) -> float:
    """What differences are relative to: the standard deviation of all answers, or a hundredth of the largest
    where they hardly differ from each other."""
    values = answer.double()
    return max(values.std(correction=0).item(), 0.01 * values.abs().max().item()) or 1.0


def _difference(probe: Probe, expected: Tensor, answer: Tensor, *, deviation: float, task: str) -> Difference:
    if answer.shape != expected.shape:
        return Difference(probe, math.inf, math.inf, None if task == "regression" else 0.0, probe.rows, 0)
    gap = (answer.double() - expected.double()).abs().max().item()
    if task == "regression":
        return Difference(probe, gap, gap / deviation, None, 0, 0)
    if task == "binary":
        chosen, margin = answer > 0, expected.abs()
        differ = chosen != (expected > 0)
    else:
        chosen = answer.argmax(-1)
        differ = chosen != expected.argmax(-1)
        margin = expected.amax(-1) - expected.gather(-1, chosen[..., None])[..., 0]
    ties = differ & (margin <= _TIE * deviation)
    return Difference(
        probe, gap, gap / deviation, 1 - differ.double().mean().item(), int(differ.sum()), int(ties.sum())
    )


def _faults(parity: Parity, dtype: str) -> list[str]:
    faults = []
    worst, whole = parity.worst, parity.whole
    if dtype != "int8" and not worst.relative <= parity.tolerance:
        faults.append(
            f"its answers differ by {_number(worst.relative)} of the deviation of the trained model's, "
            f"more than {parity.tolerance:g} (at {worst.probe})"
        )
    if dtype == "float32":
        for found in parity.differences:
            if found.disagreements > found.ties:
                faults.append(f"{found.disagreements - found.ties:,} of its predictions differ (at {found.probe})")
                break
    trained, exported = parity.trained.get(parity.metric), parity.exported.get(parity.metric)
    most = parity.tolerance if dtype == "int8" else _MOST_DROP
    if trained is None or exported is None:
        if trained is not None or dtype == "int8":
            faults.append(f"{parity.metric} on {parity.split} is undefined, by which it would be judged")
    elif not trained - exported <= most:
        faults.append(f"{parity.metric} on {parity.split} is {exported:.4f} against {trained:.4f}")
    elif dtype == "int8" and not math.isfinite(whole.max_absolute):
        faults.append("its answers are not finite")
    return faults


def _number(value: float) -> str:
    return f"{value:.2g}" if math.isfinite(value) else "no finite number"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
