"""A trained model as the function that is explained: one score for each sample."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dlcli.core.errors import ConfigError, RunError, did_you_mean
from dlcli.core.spec import DataSpec
from dlcli.data.kinds import laid_out
from dlcli.data.preprocessing import Preprocessing
from dlcli.experiment.restore import Restored
from dlcli.runs.run import Run
from dlcli.tasks.task import AnsweringTask

_MOST_AT_ONCE, _VALUES = 32, 1_000_000  # samples, and values of them


@dataclass(frozen=True)
class Subject:
    """The model of a run, in evaluation mode and float32, whatever the precision of the training was.

    The score of a class is its logit; of the first of two classes, the negative logit of the second. The score of a
    regression is its answer in the units of the target. The score of a next token is its logit after the last step.
    """

    run: Run
    name: str
    model: nn.Module
    task: AnsweringTask
    about: Preprocessing
    device: torch.device

    @classmethod
    def of(cls, restored: Restored) -> "Subject":
        for parameter in restored.model.parameters():
            parameter.requires_grad_(False)  # only derivatives by inputs and activations are needed
        return cls(
            restored.run, restored.config.model, restored.model, restored.task, restored.preprocessing, restored.device
        )

    @property
    def spec(self) -> DataSpec:
        return self.about.spec

    @property
    def score_name(self) -> str:
        return "answer" if self.spec.task == "regression" else "logit"

    @property
    def names(self) -> tuple[str, ...]:
        """Of the classes or characters, their numbers if they have none; empty for a regression."""
        if self.spec.task == "regression":
            return ()
        if self.about.spelling is not None:
            return self.about.spelling.names
        count = 2 if self.spec.task == "binary" else self.spec.outputs
        return self.about.class_names or tuple(map(str, range(count)))

    def number(self, name: str | None) -> int | None:
        """The number of a class; None without a name. ConfigError (exit 2) if there is no such class."""
        if name is None:
            return None
        if not self.names:
            raise ConfigError(f"--class {name} is for classes, and {self.run} is for {self.spec.task}: leave it out")
        if name not in self.names:
            raise ConfigError(f"--class {name} is no class of {self.run}: {did_you_mean(name, self.names)}")
        return self.names.index(name)

    def output(self, x: Tensor) -> Tensor:
        """(N, ...) model input -> the output of the model, float32, with a graph where one is recorded. The input is
        copied: a model may change it in place. RunError (exit 4) if a value is not finite."""
        found: Tensor = self.model(laid_out(x).clone()).float()
        if not bool(torch.isfinite(found).all()):
            raise RunError(
                f"the model of {self.run} gives values that are not finite: its weights are of no use, or its input "
                "is far from the training data"
            )
        return found

    def scored(self, output: Tensor, number: int) -> Tensor:
        """(N, ...) output -> (N,) scores of the class with this number; of a regression, whatever the number."""
        if self.spec.task == "regression":
            return self.task.in_units(output)[:, 0]
        if self.spec.task == "binary":
            return output[:, 0] if number else -output[:, 0]
        return output[:, -1, number] if self.spec.task == "next-token" else output[:, number]

    def scores(self, x: Tensor, number: int) -> Tensor:
        return self.scored(self.output(x), number)

    @torch.no_grad()
    def scores_of(self, x: Tensor, number: int) -> Tensor:
        """(N,) without a graph, float64, a few samples at a time."""
        return torch.cat([self.scores(part, number).double() for part in torch.split(x, at_once(x))])

    @torch.no_grad()
    def probabilities_of(self, x: Tensor) -> Tensor | None:
        """(N, K) float64, a few samples at a time; None for a regression."""
        outputs = [self.output(part) for part in torch.split(x, at_once(x))]
        return self.probabilities(torch.cat(outputs))

    def probabilities(self, output: Tensor) -> Tensor | None:
        """(N, ...) output -> (N, K) float64, of the last step of a sequence of next tokens; None for a regression."""
        if self.spec.task == "next-token":
            return torch.softmax(output[:, -1].double(), 1)
        return self.task.probabilities(output)

    def gradient(self, x: Tensor, number: int) -> Tensor:
        """The derivative of the score of each sample by the (N, ...) input."""
        leaf = x.detach().clone().requires_grad_()
        with recording():
            (found,) = torch.autograd.grad(self.scores(leaf, number).sum(), leaf)
        return found


def at_once(x: Tensor) -> int:
    """How many of the samples (N, ...) are computed at once: few large ones, since many would not fit a cache."""
    return max(1, min(_MOST_AT_ONCE, _VALUES // max(1, x[0].numel())))


@contextlib.contextmanager
def recording() -> Iterator[None]:
    """Records a graph. cuDNN has no derivative of a recurrent layer in evaluation mode: torch computes it then."""
    with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
        yield


@dataclass(frozen=True)
class Answer:
    """What a model says of one sample. number: of the class whose score is explained, 0 for a regression.

    explained: its name; empty for a regression. values: class and probability, or value. score: what is explained.
    """

    number: int
    explained: str
    values: dict[str, str | float]
    score: float


@torch.no_grad()
def answer_of(subject: Subject, x: Tensor, number: int | None) -> Answer:
    """x: (1, ...). number: of the class that is explained, None for the predicted one."""
    output = subject.output(x)
    probability = subject.probabilities(output)
    if probability is None:
        (value,) = subject.scored(output, 0).tolist()
        return Answer(0, "", {"value": value}, value)
    scores = probability if subject.spec.task == "next-token" else subject.task.scores(output)
    assert scores is not None
    likeliest = int(scores[0].argmax())
    number = likeliest if number is None else number
    names: Sequence[str] = subject.names
    values: dict[str, str | float] = {"class": names[likeliest], "probability": float(probability[0, likeliest])}
    return Answer(number, names[number], values, float(subject.scored(output, number)[0]))
