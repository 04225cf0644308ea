"""Which places of an image speak for a class, and how far the map can be trusted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dlcli.analysis.explain.inputs import Sample
from dlcli.analysis.explain.layers import chosen_layer, last_convolution
from dlcli.analysis.explain.maps import METHODS, Map, compute
from dlcli.analysis.explain.removal import Scores, removal_scores
from dlcli.analysis.explain.subject import Answer, Subject, answer_of
from dlcli.core.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Method:
    """name: of METHODS. layer: the one of gradcam, else None."""

    name: str
    layer: str | None = None


@dataclass(frozen=True)
class Explained:
    """A sample, what the model says of it, the map, and deletion and insertion scores where there are any."""

    sample: Sample
    answer: Answer
    map: Map
    scores: Scores | None

    def facts(self, subject: Subject) -> dict[str, Any]:
        """All that is told of it, but the map."""
        return {
            "input": self.sample.name,
            **({"target": self.sample.target} if self.sample.target else {}),
            **self.answer.values,
            **({"explained": self.answer.explained} if self.answer.explained else {}),
            subject.score_name: self.answer.score,
            **self.map.facts,
            **({} if self.scores is None else self.scores.as_dict()),
        }


def choose_method(subject: Subject, sample: Sample, *, method: str | None, layer: str | None) -> Method:
    """Of a model of images: by default gradcam if there is a convolution, else integrated gradients. ConfigError (exit
    2) for a method that does not suit the model, and for a layer that there is not."""
    if method is not None and method not in METHODS:
        raise ConfigError(f"unknown method {method!r}: {did_you_mean(method, METHODS)}")
    if layer is not None and method not in (None, "gradcam"):
        raise ConfigError(f"--layer {layer} is for --method gradcam: leave it out, or choose that method")
    if method is None:
        there = layer is not None or last_convolution(subject, sample.x) is not None
        method = "gradcam" if there else "integrated"
    return Method(method, chosen_layer(subject, sample.x, layer) if method == "gradcam" else None)


def explain_images(
    subject: Subject, samples: Sequence[Sample], method: Method, *, class_name: str | None
) -> list[Explained]:
    """class_name: whose score is explained; None for the predicted class of each sample. The same samples give the
    same bits, alone or among others."""
    number, found = subject.number(class_name), []
    for sample in samples:
        answer = answer_of(subject, sample.x, number)
        values = compute(subject, sample.x, answer.number, method=method.name, layer=method.layer)
        scores = removal_scores(subject, sample.x, answer.number, values)
        found.append(Explained(sample, answer, values, scores))
    return found


def as_dict(
    subject: Subject, found: Sequence[Explained], method: Method, *, checkpoint: str, check: dict[str, Any] | None
) -> dict[str, Any]:
    """The document of --json: the facts, and each map as rows of numbers."""
    return {
        "run": str(subject.run),
        "checkpoint": checkpoint,
        "method": method.name,
        "layer": method.layer,
        "score": subject.score_name,
        "inputs": [{**each.facts(subject), "map": each.map.values.tolist()} for each in found],
        **({} if check is None else {"check": check}),
    }
