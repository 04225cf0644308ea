"""A training that leaves nothing behind: the loop of `dlcli train` in a temporary folder, watched from outside."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any, Protocol

from torch import Tensor, nn

from dlcli.data.batches import Batch
from dlcli.experiment.build import Experiment
from dlcli.experiment.objective import Objective
from dlcli.training.session import Session, begun

# What a step consists of, in its order. `checks` look for values that are not finite, in the first steps only.
PHASES = ("data", "forward", "loss", "backward", "optimizer", "checks", "logging")


class Observer(Protocol):
    """Is told what the loop does. A step begins with `turn("optimizer")`, which sets the gradients aside."""

    def turn(self, phase: str) -> None:
        """What follows belongs to this phase, one of PHASES."""
        ...

    def model(self, model: nn.Module) -> Callable[[Tensor], Any]:
        """What is called in place of the model, which torch.compile may have compiled."""
        ...

    def loss(self, loss: Tensor, batch: Batch) -> None:
        """The loss of a batch, before its backward pass."""
        ...


@dataclass(frozen=True)
class Observed(Experiment):
    """An experiment whose objective tells an observer what it does."""

    observer: Observer | None = None

    @property
    def objective(self) -> Objective:
        original, observer = super().objective, self.observer
        assert observer is not None

        def observed(model: nn.Module, batch: Batch) -> Tensor:
            chosen = observer.model(model)

            def forward(x: Tensor) -> Any:
                observer.turn("forward")
                output = chosen(x)
                observer.turn("loss")
                return output

            observer.turn("loss")
            loss = original(forward, batch)  # type: ignore[arg-type]
            observer.turn("logging")
            observer.loss(loss, batch)
            return loss

        return observed


@contextlib.contextmanager
def practice(built: Experiment, observer: Observer, *, steps: int) -> Iterator[Session]:
    """A session for `fit` that tells `observer` all that it does; its run is in a temporary folder.

    steps: those that are wanted; the training is made long enough for them, and does not evaluate or save in between.
    Changes the weights of `built.model`.
    Raises what `begun` raises.
    """
    values = {f.name: getattr(built, f.name) for f in fields(Experiment)}
    observed = Observed(**values | {"config": _long_enough(built, steps)}, observer=observer)
    with tempfile.TemporaryDirectory(prefix="dlcli-") as folder, begun(observed, runs_dir=folder) as session:
        _watch(session, observer)
        yield session


def _long_enough(built: Experiment, steps: int) -> Any:
    config = built.config
    never = f"{10**8}steps"
    changes: dict[str, Any] = {"patience": 0, "eval_every": never, "checkpoint_every": never}
    if built.total_steps < steps:
        if config.steps is not None:
            changes["steps"] = steps
        else:
            changes["epochs"] = -(-steps // built.steps_per_epoch)
    return config.with_values(**changes)


def _watch(session: Session, observer: Observer) -> None:
    """The observer is told of what the loop asks of the state."""
    state = session.state
    zero_grad, backward, update = state.optimizer.zero_grad, state.backward, state.update
    wants_to_show = state.meter.wants_to_show

    def zero_grad_observed() -> None:
        observer.turn("optimizer")
        zero_grad()
        observer.turn("data")

    def backward_observed(loss: Tensor) -> None:
        observer.turn("backward")
        backward(loss)
        observer.turn("data")  # of the next batch, if gradients are accumulated

    def update_observed(**settings: Any) -> Tensor | None:
        observer.turn("optimizer")
        norm = update(**settings)
        observer.turn("checks")
        return norm

    def wants_to_show_observed() -> bool:
        observer.turn("logging")
        return wants_to_show()

    state.optimizer.zero_grad = zero_grad_observed  # type: ignore[method-assign]
    state.backward = backward_observed  # type: ignore[method-assign]
    state.update = update_observed  # type: ignore[method-assign]
    state.meter.wants_to_show = wants_to_show_observed  # type: ignore[method-assign]
