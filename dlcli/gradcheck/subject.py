"""The function under test: a model at one random point, its two objectives, and their analytic gradients.

The point is a redrawing of parameters and inputs from a seed. Everything is float64 on the CPU. Randomness
inside the model (dropout) is seeded anew in every evaluation and buffers (batch statistics) are put back, so
that the model is a function of its parameters and inputs in training mode too.
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

    build: makes the module, in its own dtype. inputs: its arguments. label, loss: the loss of an output and
    a label drawn like `label`; without them the loss is the output itself where that is a scalar, else the
    mean squared distance to random values. before: what is done to the arguments first.
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
    """Something that the objectives are differentiated by: a parameter, an input, or what passes a tap.

    module: qualified name of the module that holds it.
    """

    name: str
    kind: Kind
    module: str
    shape: tuple[int, ...]
    tap: Tap | None = None


@dataclass(frozen=True)
class Gradients:
    """centre: value of each objective. of: for each objective, the gradient of each variable; None where
    autograd has none. values: what passed each tap."""

    centre: tuple[float, ...]
    variables: tuple[Variable, ...]
    of: tuple[dict[Variable, Tensor | None], ...]
    values: dict[Variable, Tensor]


@contextlib.contextmanager
def quiet_double() -> Iterator[None]:
    """float64 as the default, one thread, and the global random state as it was afterwards.

    One thread, so that sums are rounded the same way every time; modules' warnings would come by the thousand.
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
    """The case's module with weights that follow from the seed. ConfigError when it cannot be built."""
    dtype = torch.get_default_dtype()
    torch.manual_seed(derive(seed, "gradcheck weights"))
    torch.set_default_dtype(torch.float32)  # the module's own dtype, whatever ours is
    try:
        return case.build()
    except DlcliError:
        raise
    except Exception as error:
        raise ConfigError(f"{case.name} cannot be built: {told(error)}") from error
    finally:
        torch.set_default_dtype(dtype)


def check_parameters(module: nn.Module, name: str) -> None:
    """ConfigError for parameters that cannot be moved: without a shape, or complex."""
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
        """The model's output. module, inputs: to be called, and with what, in place of its own."""
        for owner, name, value in self._buffers:
            owner._buffers[name] = value.clone()
        torch.default_generator.manual_seed(self._noise_seed)  # of the CPU alone: torch.manual_seed is slow
        args = list(self.args if inputs is None else inputs)
        if self.case.before is not None:
            args = self.case.before(args)
        return (module or self.module)(*args)

    def objectives(self, output: Any) -> tuple[Tensor, Tensor]:
        """The loss, and the sum of all outputs weighted by random numbers: two scalars."""
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
        """Both objectives as numbers. With autograd on: it is the way that training takes through the model."""
        loss, projection = self.objectives(self.run())
        return loss.item(), projection.item()

    def first_value(self) -> tuple[float, ...]:
        """As `value`, but what the model raises becomes a ConfigError that says what it said."""
        try:
            return self.value()
        except DlcliError:
            raise
        except Exception as error:
            given = " ".join(f"--input {i}" for i in self.case.inputs)
            raise ConfigError(f"{self.case.name} does not take {given}: {told(error)}") from error

    def gradients(self, *, taps: bool) -> Gradients:
        """Analytic gradients of both objectives by every variable, from one forward pass and two backward ones.

        taps: by what passes the modules' boundaries too. Raises what the forward or backward pass raises.
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
        """Yields `move(t)`, which sets the variable to its value + t * direction; puts it back at the end."""
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
        """The rounding error in each objective's value: see `magnified`."""
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
        """The rounding error of what `evaluate` gives, whose largest summands have these sizes.

        Some units in the last place of `sizes`, or more where the model magnifies what happens when its
        parameters and inputs change in their last places, which is tried out three times.
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
    """What an exception says, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def class_name(module: nn.Module) -> str:
    """The name under which the module shows itself."""
    return str(module._get_name())  # type: ignore[no-untyped-call]


def _redraw(parameter: Tensor, generator: torch.Generator) -> None:
    """Change a parameter at random, keeping signs, so that no gradient is zero only because an initial value is."""
    with torch.no_grad():
        uniform = torch.rand(parameter.shape, generator=generator, dtype=torch.float64)
        normal = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.copy_(torch.where(parameter == 0, 0.1 * normal, parameter * (0.8 + 0.4 * uniform)))


def backward(objective: Tensor, leaves: Sequence[Tensor]) -> list[Tensor | None]:
    """The gradient of each leaf by the call that training makes; None where it gets none."""
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
