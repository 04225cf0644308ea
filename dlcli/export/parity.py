"""Compares an artifact, running in a process of its own, with the trained model on real samples."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dlcli.export.child import RuntimeProcess
from dlcli.export.original import Original, Reference
from dlcli.export.signature import Signature
from dlcli.tasks.task import AnsweringTask

# Largest accepted difference from the trained model, relative to the standard deviation of its answers. int8: largest
# accepted loss of the metric, the only criterion there.
TOLERANCE = {"float32": 1e-4, "float16": 1e-2, "int8": 1e-2}
_MOST_DROP = 0.01
# Two classes whose logits differ by less, relative to the same deviation, are a tie: rounding decides between them.
_TIE = 1e-5
_FEW = 16  # samples for all questions except the one on the whole split


@dataclass(frozen=True)
class Question:
    """One way to run the artifact on the first `rows` samples. steps: use only the first steps of each sequence.
    pieces: split each sequence into this many parts and carry the state over."""

    batch_size: int
    rows: int
    steps: int | None = None
    pieces: int = 1

    def __str__(self) -> str:
        text = f"batch size {self.batch_size}"
        text += f" with {self.steps} step{'s' * (self.steps != 1)}" if self.steps else ""
        return text + (f" in {self.pieces} pieces" if self.pieces > 1 else "")


@dataclass(frozen=True)
class Discrepancy:
    """The differences for one question. relative: max_absolute divided by the deviation of the trained model's answers
    on the whole split, see `_deviation`. agreement: fraction of equal predictions; None in a regression.
    disagreements: number of unequal predictions. ties: those of them that rounding decides."""

    question: Question
    max_absolute: float
    relative: float
    agreement: float | None
    disagreements: int
    ties: int

    def as_dict(self) -> dict[str, Any]:
        return {
            "batch_size": self.question.batch_size,
            "samples": self.question.rows,
            "steps": self.question.steps,
            "pieces": self.question.pieces,
            "max_absolute_difference": _finite(self.max_absolute),
            "max_relative_difference": _finite(self.relative),
            "agreement": self.agreement,
            "disagreements": self.disagreements,
            "ties": self.ties,
        }


@dataclass(frozen=True)
class Parity:
    """The result of all questions. trained, exported: metrics on the whole split. faults: sentences about why the
    artifact fails the comparison; empty if it passes."""

    split: str
    samples: int
    tolerance: float
    metric: str
    differences: tuple[Discrepancy, ...]
    trained: dict[str, float | None]
    exported: dict[str, float | None]
    faults: tuple[str, ...]

    @property
    def holds(self) -> bool:
        return not self.faults

    @property
    def whole(self) -> Discrepancy:
        """The differences on the whole split."""
        return max(self.differences, key=lambda d: d.question.rows)

    @property
    def worst(self) -> Discrepancy:
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


def compare(
    child: RuntimeProcess,
    original: Original,
    signature: Signature,
    *,
    inputs: Sequence[str],
    folder: Path,
    tolerance: float | None,
) -> Parity:
    """Ask `child`, which has opened the artifact, every question, and compare its answers with the trained model's.

    folder: for the arrays that the processes exchange. inputs: the files with those of the samples, in order.
    """
    reference, task = original.reference, original.restored.task
    limit = TOLERANCE[original.dtype] if tolerance is None else tolerance
    deviation = _deviation(reference.answer)
    differences = []
    exported: dict[str, float | None] = {}
    for question in _questions(reference, signature):
        expected = _expected(original, question)
        file = folder / "answer.npy"
        child.ask(
            "run",
            inputs=inputs,
            outputs=str(file),
            rows=question.rows,
            batch_size=question.batch_size,
            steps=question.steps,
            pieces=question.pieces,
        )
        answer = torch.from_numpy(np.load(file, allow_pickle=False))
        differences.append(_difference(question, expected, answer, deviation=deviation, task=task))
        if question.rows >= reference.samples and question.steps is None and question.pieces == 1:
            exported = original.metrics(answer[: reference.samples], reference.target)
    parity = Parity(
        split=reference.split,
        samples=reference.samples,
        tolerance=limit,
        metric=task.judged_by,
        differences=tuple(differences),
        trained=reference.metrics,
        exported=exported,
        faults=(),
    )
    return replace(parity, faults=tuple(_faults(parity, original.dtype)))


def _questions(reference: Reference, signature: Signature) -> list[Question]:
    few, steps = min(_FEW, len(reference.x)), reference.x.shape[1]
    questions = [Question(64, len(reference.x)), Question(1, few), Question(2, few)]
    if signature.steps_are_free and steps > 1:
        questions.append(Question(2, few, steps=steps // 2))
    if signature.stateful and steps > 1:
        questions.append(Question(2, few, pieces=2))
    return questions


def _expected(original: Original, question: Question) -> Tensor:
    reference = original.reference
    if question.steps is not None:
        return original.restored.answer(torch.from_numpy(reference.x[: question.rows, : question.steps].copy()))
    repeats = -(-question.rows // reference.samples)
    return torch.cat([reference.answer] * repeats)[: question.rows]


def _deviation(answer: Tensor) -> float:
    """The scale of relative differences: the standard deviation of all answers, but at least one hundredth of the
    largest absolute answer; 1 if all are zero."""
    values = answer.double()
    return max(values.std(correction=0).item(), 0.01 * values.abs().max().item()) or 1.0


def _difference(
    question: Question, expected: Tensor, answer: Tensor, *, deviation: float, task: AnsweringTask
) -> Discrepancy:
    scores = task.scores(expected)
    if answer.shape != expected.shape:
        return Discrepancy(question, math.inf, math.inf, None if scores is None else 0.0, question.rows, 0)
    gap = (answer.double() - expected.double()).abs().max().item()
    found = task.scores(answer)
    if scores is None or found is None:
        return Discrepancy(question, gap, gap / deviation, None, 0, 0)
    chosen = found.argmax(-1)
    differ = chosen != scores.argmax(-1)
    margin = scores.amax(-1) - scores.gather(-1, chosen[..., None])[..., 0]
    ties = differ & (margin <= _TIE * deviation)
    return Discrepancy(
        question, gap, gap / deviation, 1 - differ.double().mean().item(), int(differ.sum()), int(ties.sum())
    )


def _faults(parity: Parity, dtype: str) -> list[str]:
    faults = []
    worst, whole = parity.worst, parity.whole
    if dtype != "int8" and not worst.relative <= parity.tolerance:
        faults.append(
            f"its answers differ by {_number(worst.relative)} of the deviation of the trained model's, "
            f"more than {parity.tolerance:g} (at {worst.question})"
        )
    if dtype == "float32":
        for found in parity.differences:
            if found.disagreements > found.ties:
                faults.append(f"{found.disagreements - found.ties:,} of its predictions differ (at {found.question})")
                break
    trained, exported = parity.trained.get(parity.metric), parity.exported.get(parity.metric)
    most = parity.tolerance if dtype == "int8" else _MOST_DROP
    if trained is None or exported is None:
        if trained is not None or dtype == "int8":
            faults.append(f"{parity.metric} on {parity.split} is undefined, so it cannot be compared")
    elif not trained - exported <= most:
        faults.append(f"{parity.metric} on {parity.split} is {exported:.4f} against {trained:.4f}")
    elif dtype == "int8" and not math.isfinite(whole.max_absolute):
        faults.append("its answers are not finite")
    return faults


def _number(value: float) -> str:
    return f"{value:.2g}" if math.isfinite(value) else "no finite number"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
