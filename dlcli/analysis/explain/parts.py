"""An answer, divided among the columns of a row or the tokens of a text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dlcli.analysis.explain.inputs import Sample
from dlcli.analysis.explain.path import Attributions
from dlcli.analysis.explain.subject import Answer, Subject


@dataclass(frozen=True)
class Part:
    """name: of a column, or the place of a token, counted from 0. value: the cell, or the token. attribution: what it
    adds to the score, compared with the baseline."""

    name: str
    value: str | float
    attribution: float


@dataclass(frozen=True)
class Parts:
    """parts: in the order of the columns or tokens."""

    sample: Sample
    answer: Answer
    attributions: Attributions
    parts: Sequence[Part]

    def facts(self, subject: Subject) -> dict[str, Any]:
        return {
            "input": self.sample.name,
            **({"target": self.sample.target} if self.sample.target else {}),
            **self.answer.values,
            **({"explained": self.answer.explained} if self.answer.explained else {}),
            subject.score_name: self.answer.score,
            "attributions": self.attributions.total,
            "difference": self.attributions.difference,
            "completeness_error": self.attributions.error,
            "points": self.attributions.points,
        }


def parts_document(subject: Subject, found: Sequence[Parts], *, checkpoint: str, of: str) -> dict[str, Any]:
    """The document of --json. of: what the parts are, `columns` or `tokens`."""
    name, value = ("column", "value") if of == "columns" else ("place", "token")
    return {
        "run": str(subject.run),
        "checkpoint": checkpoint,
        "method": "integrated",
        "score": subject.score_name,
        "inputs": [
            {
                **each.facts(subject),
                of: [
                    {name: part.name if of == "columns" else int(part.name), value: part.value,
                     "attribution": part.attribution}
                    for part in each.parts
                ],
            }
            for each in found
        ],
    }  # fmt: skip
