"""The function under test: a model at one random point, its two objectives, and their analytic gradients.

At the point, parameters and inputs have random values drawn from a seed. Everything is float64 on the CPU. For every
evaluation the random state (dropout) is seeded and the buffers (batch statistics) are restored, so that the model is a
function of its parameters and inputs also in training mode.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from dlcli.core.blame import told
from dlcli.core.errors import ConfigError, DlcliError
from dlcli.core.seeds import derive
from dlcli.gradcheck.inputs import Input
from dlcli.gradcheck.report import Kind
from dlcli.gradcheck.structure import float_tensors
from dlcli.gradcheck.taps import Tap, tapped

OBJECTIVES = ("loss", "cotangent")
MODEL = "(model)"
EPSILON = torch.finfo(torch.float64).eps


@dataclass(frozen=True)
class Case:
    """One thing to check.

    build: makes the module, in its own dtype. inputs: its arguments. label, loss: the loss is `loss(output, label)`;
    without them it is the output itself if that is a scalar, else the mean squared distance to random values, summed
    over the outputs and halved. before: applied to the arguments first. note: added to the report.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: tuple[Input, ...]
    label: Input | None = None
    loss: Callable[[Any, Tensor], Tensor] | None = None
    before: Callable[[list[Tensor]], list[Tensor]] | None = None
    note: str = ""


@dataclass(frozen=True)
class Variable:
    """A tensor with respect to which the objectives are differentiated: a parameter, an input, or one at a tap.

    module: qualified name of the module that holds it.
    """

    name: str
    kind: Kind
    module: str
    shape: tuple[int, ...]
    tap: Tap | None = None


@dataclass(frozen=True)
class Gradients:
    """centre: value of each objective. of: for each objective, variable -> gradient; None if autograd has none.
    values: variable at a tap -> the tensor that passed there."""

    centre: tuple[float, ...]
    variables: tuple[Variable, ...]
    of: tuple[dict[Variable, Tensor | None], ...]
    values: dict[Variable, Tensor]


@contextlib.contextmanager
def quiet_double() -> Iterator[None]:
    """Inside the block: float64 as the default dtype, one thread and no warnings. Restores the global random state.

    With one thread, sums are rounded in the same way every time. Warnings would be repeated thousands of times.
    """
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_num_threads(threads)


def build(case: Case, seed: int) -> nn.Module:
    """The module of the case, with weights determined by the seed. ConfigError if it cannot be built."""
    dtype = torch.get_default_dtype()
    torch.manual_seed(derive(seed, "gradcheck weights"))
    torch.set_default_dtype(torch.float32)  # so that the module gets its own dtype
    try:
        return case.build()
    except DlcliError:
        raise
    except Exception as error:
        raise ConfigError(f"{case.name} cannot be built: {told(error)}") from error
    finally:
        torch.set_default_dtype(dtype)


def check_parameters(module: nn.Module, name: str) -> None:
    """ConfigError for parameters that cannot be checked: without a shape, or complex."""
    for parameter_name, parameter in module.named_parameters():
        if isinstance(parameter, UninitializedParameter):
            raise ConfigError(f"{name}: {parameter_name} has no shape before the first call: build it with its sizes")
        if parameter.is_complex():
            raise ConfigError(f"{name}: {parameter_name} is complex, and only real derivatives are checked")


class Subject:
    """A case at the random point number `point`, in training or evaluation mode."""

    def __init__(self, case: Case, *, seed: int, point: int, training: bool) -> None:
        self.case, self.training = case, training
        self.mode = "train" if training else "eval"
        self.module = build(case, seed).to("cpu").double().train(training)
        generator = torch.Generator().manual_seed(derive(seed, "gradcheck point", point))
        self.parameters: dict[str, Tensor] = {n: p for n, p in self.module.named_parameters() if p.requires_grad}
        for p in self.parameters.values():
            _redraw(p, generator)
        self.args = [i.draw(generator) for i in case.inputs]
        self.inputs: dict[str, Tensor] = {}
        for k, x in enumerate(self.args):
            if x.is_floating_point():
                self.inputs["input" if len(self.args) == 1 else f"input {k + 1}"] = x.requires_grad_()
        if not self.parameters and not self.inputs:
            raise ConfigError(
                f"{case.name} has no parameters and no floating-point inputs: there is nothing to differentiate by"
            )
        label = case.label.draw(generator) if case.label else None
        self.label = label
        self._buffers = [
            (m, n, b.detach().clone()) for m in self.module.modules() for n, b in m._buffers.items() if b is not None
        ]
        self._noise_seed = derive(seed, "gradcheck dropout", point) % 2**63
        self._generator = generator
        self._cotangents: list[Tensor] | None = None
        self._aims: list[Tensor] = []

    @property
    def leaves(self) -> dict[str, Tensor]:
        """Parameters and floating-point inputs by name."""
        return self.parameters | self.inputs

    def run(self, *, module: Callable[..., Any] | None = None, inputs: Sequence[Tensor] | None = None) -> Any:
        """The model's output. module, inputs: called instead of its own module, or with these inputs."""
        for owner, name, value in self._buffers:
            owner._buffers[name] = value.clone()
        torch.default_generator.manual_seed(self._noise_seed)  # of the CPU only, since torch.manual_seed is slow
        args = list(self.args if inputs is None else inputs)
        if self.case.before is not None:
            args = self.case.before(args)
        return (module or self.module)(*args)

    def objectives(self, output: Any) -> tuple[Tensor, Tensor]:
        """The loss, and the sum of all outputs with random weights (the cotangent): two scalars."""
        floats = float_tensors(output)
        if self._cotangents is None:
            self._draw_cotangents(output, floats)
        cotangents = self._cotangents
        assert cotangents is not None
        if [c.shape for c in cotangents] != [f.shape for f in floats]:
            raise ConfigError(f"{self.case.name} returns other shapes each time: it is no function of its inputs")
        projection = torch.stack([(f.double() * c).sum() for f, c in zip(floats, cotangents, strict=True)]).sum()
        if self.case.loss is not None and self.label is not None:
            return self.case.loss(output, self.label), projection
        if len(floats) == 1 and floats[0].dim() == 0:
            return floats[0].double(), projection
        losses = [(f.double() - a).square().mean() for f, a in zip(floats, self._aims, strict=True)]
        return torch.stack(losses).sum() / 2, projection

    def value(self) -> tuple[float, ...]:
        """Both objectives as numbers. Autograd stays enabled, so that the model runs as in training."""
        loss, projection = self.objectives(self.run())
        return loss.item(), projection.item()

    def first_value(self) -> tuple[float, ...]:
        """As `value`, but an exception from the model becomes a ConfigError with its message."""
        try:
            return self.value()
        except DlcliError:
            raise
        except Exception as error:
            given = " ".join(f"--input {i}" for i in self.case.inputs)
            raise ConfigError(f"{self.case.name} does not take {given}: {told(error)}") from error

    def gradients(self, *, taps: bool) -> Gradients:
        """Analytic gradients of both objectives for every variable, from one forward pass and two backward passes.

        taps: also for the inputs and outputs of modules. Raises what the forward or backward pass raises.
        """
        variables = [
            Variable(name, "parameter", name.rpartition(".")[0], tuple(p.shape)) for name, p in self.parameters.items()
        ] + [Variable(name, "input", "", tuple(x.shape)) for name, x in self.inputs.items()]
        leaves = list(self.leaves.values())
        values: dict[Variable, Tensor] = {}

        def receive(tap: Tap, passing: Tensor) -> Tensor:
            receiver = torch.zeros_like(passing, requires_grad=True)
            kind: Kind = "module input" if tap.side == "input" else "module output"
            variable = Variable(str(tap), kind, tap.module, tuple(passing.shape), tap)
            values[variable] = passing.detach().clone()
            variables.append(variable)
            leaves.append(receiver)
            return passing + receiver

        with tapped(self.module, receive) if taps else contextlib.nullcontext():
            objectives = self.objectives(self.run())
        return Gradients(
            tuple(o.item() for o in objectives),
            tuple(variables),
            tuple(dict(zip(variables, backward(o, leaves), strict=True)) for o in objectives),
            values,
        )

    @contextlib.contextmanager
    def moving(self, variable: Variable, direction: Tensor) -> Iterator[Callable[[float], None]]:
        """Yields `move(t)`, which sets the variable to its value + t * direction. The value is restored at the end."""
        if variable.tap is not None:
            shift = 0.0
            tap = variable.tap

            def move_tap(t: float) -> None:
                nonlocal shift
                shift = t
                restart()

            def pass_on(here: Tap, passing: Tensor) -> Tensor:
                return passing.add(direction, alpha=shift) if here == tap else passing

            with tapped(self.module, pass_on, only=tap.module) as restart:
                yield move_tap
            return
        leaf = self.leaves[variable.name]
        base = leaf.detach().clone()

        def move(t: float) -> None:
            with torch.no_grad():
                leaf.copy_(base.add(direction, alpha=t))

        try:
            yield move
        finally:
            with torch.no_grad():
                leaf.copy_(base)

    def roundoff(self, centre: Sequence[float]) -> tuple[float, ...]:
        """The rounding error in the value of each objective: see `magnified`."""
        output = float_tensors(self.run())
        assert self._cotangents is not None
        summands = sum(
            float((o.detach().double() * c).abs().sum()) for o, c in zip(output, self._cotangents, strict=True)
        )
        largest = max((float(o.detach().abs().max()) for o in output if o.numel()), default=0.0)
        sizes = [max(abs(centre[0]), min(largest, 10 * abs(centre[0]) + 1)), summands]
        return self.magnified(self.value, centre, sizes)

    def magnified(
        self, evaluate: Callable[[], Sequence[float]], centre: Sequence[float], sizes: Sequence[float]
    ) -> tuple[float, ...]:
        """The rounding error in each value of `evaluate`. sizes: the size of the largest summands of each value.

        It is a few units in the last place of `sizes`, or more if the model magnifies rounding errors: parameters and
        inputs are perturbed in their last places three times, and the largest effect counts twice.
        """
        errors = [4 * EPSILON * size for size in sizes]
        leaves = list(self.leaves.values())
        bases = [leaf.detach().clone() for leaf in leaves]
        generator = torch.Generator().manual_seed(self._noise_seed)
        for _ in range(3):
            with torch.no_grad():
                for leaf, base in zip(leaves, bases, strict=True):
                    leaf.copy_(base * (1 + 2 * EPSILON * torch.randn(base.shape, generator=generator)))
            errors = [max(e, 2 * abs(v - c)) for e, v, c in zip(errors, evaluate(), centre, strict=True)]
        with torch.no_grad():
            for leaf, base in zip(leaves, bases, strict=True):
                leaf.copy_(base)
        return tuple(errors)

    def _draw_cotangents(self, output: Any, floats: list[Tensor]) -> None:
        if not floats:
            kind = f"only {output.dtype}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
            raise ConfigError(f"{self.case.name} returns {kind}, no floating-point numbers: there is no derivative")

        def draw() -> list[Tensor]:
            return [torch.randn(f.shape, generator=self._generator, dtype=torch.float64) for f in floats]

        self._cotangents, self._aims = draw(), draw()


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, or its class name if it has none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def class_name(module: nn.Module) -> str:
    """The name that the module has in its own repr."""
    return str(module._get_name())  # type: ignore[no-untyped-call]


def _redraw(parameter: Tensor, generator: torch.Generator) -> None:
    """Perturb a parameter at random, keeping signs; zeros, which could make a gradient zero, get random values."""
    with torch.no_grad():
        uniform = torch.rand(parameter.shape, generator=generator, dtype=torch.float64)
        normal = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.copy_(torch.where(parameter == 0, 0.1 * normal, parameter * (0.8 + 0.4 * uniform)))


def backward(objective: Tensor, leaves: Sequence[Tensor]) -> list[Tensor | None]:
    """The gradient of each leaf, by `Tensor.backward` as in training; None if it gets no gradient."""
    for leaf in leaves:
        leaf.grad = None
    if objective.requires_grad:
        objective.backward(retain_graph=True)  # type: ignore[no-untyped-call]
    gradients = []
    for leaf in leaves:
        gradient = leaf.grad
        if gradient is not None and gradient.is_sparse:
            gradient = gradient.to_dense()
        gradients.append(None if gradient is None else gradient.detach().clone())
        leaf.grad = None
    return gradients
