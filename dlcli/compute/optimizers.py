"""Optimizers that compute what those of torch.optim do, for all parameters at once.

They are our own because constructing any torch.optim class imports torch._dynamo and sympy, which takes 0.8 to 1.7 s of
a start-up of two seconds. Tests compare each with torch.optim, step by step.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dlcli.compute.sharding import part_of, whole

_ALPHA = 0.99  # rmsprop: decay of the squared gradients
_BETAS = (0.9, 0.999)  # adam: decay of the gradients and of their squares
_EPS = 1e-8
_IN_CACHE = 2**22  # bytes of parameters


@dataclass
class _Group:
    """Parameters that are updated together: with one learning rate, and the same number of steps.

    factor: of the learning rate. since: steps of the optimizer before they joined it. decayed: numbers in `parameters`
    of those with penalties. state: their state tensors by slot, in the same order.
    """

    factor: float
    since: int
    parameters: list[Tensor]
    decayed: list[int]
    state: dict[str, list[Tensor]]


class Optimizer:
    """Updates parameters in place from their `.grad`; the learning rate is an argument of `step`.

    name: gd, sgd, adam, adamw or rmsprop. L2 (`weight_decay`, decoupled for adamw) and L1 penalties apply to parameters
    with two or more dimensions, so not to biases and normalization layers, unless `decay_all`.
    factors: of the learning rate of each parameter that requires a gradient; 1 without.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        name: str,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        l1: float = 0.0,
        decay_all: bool = False,
        factors: Sequence[float] | None = None,
    ) -> None:
        self.parameters: list[Tensor] = []
        self.momentum, self.nesterov = momentum, nesterov
        self.weight_decay, self.l1, self.decay_all = weight_decay, l1, decay_all
        self.decoupled = name == "adamw"
        self.steps = 0
        updates: dict[str, Callable[[_Group, list[Tensor], float], None]] = {
            "gd": self._sgd,
            "sgd": self._sgd,
            "adam": self._adam,
            "adamw": self._adam,
            "rmsprop": self._rmsprop,
        }
        self._update = updates[name]
        slots: dict[str, tuple[str, ...]] = {"adam": ("mean", "square"), "adamw": ("mean", "square")}
        slots["rmsprop"] = ("square", "momentum") if momentum else ("square",)
        self.state: dict[str, list[Tensor]] = {slot: [] for slot in slots.get(name, ("momentum",) if momentum else ())}
        self._factors: list[float] = []
        self._since: list[int] = []
        self._groups: list[_Group] = []
        self.join(parameters, factors=factors)

    @property
    def param_groups(self) -> list[dict[str, list[Tensor]]]:
        """What torch.amp.GradScaler reads."""
        return [{"params": self.parameters}]

    @property
    def since(self) -> list[int]:
        """For each parameter, the steps before it joined."""
        return list(self._since)

    def join(self, parameters: Iterable[nn.Parameter], *, factors: Sequence[float] | None = None) -> None:
        """Update these parameters from now on, too; their state begins at zero."""
        joined = [p for p in parameters if p.requires_grad]
        self.parameters += joined
        self._factors += [1.0] * len(joined) if factors is None else factors
        self._since += [self.steps] * len(joined)
        for tensors in self.state.values():
            tensors += [torch.zeros_like(p, memory_format=torch.preserve_format) for p in joined]
        self._regroup()

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """One update. A parameter without a gradient is treated as if its gradient were zero."""
        self.steps += 1
        for group in self._groups:
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in group.parameters]
            rate = lr * group.factor
            if group.decayed and (self.weight_decay or self.l1):
                self._penalise(group, gradients, rate)
            self._update(group, gradients, rate)

    def state_dict(self) -> dict[str, Tensor]:
        """The state tensors, as `slot.number of the parameter`; the count `steps` is not among them."""
        return {f"{slot}.{i}": t for slot, tensors in self.state.items() for i, t in enumerate(tensors)}

    @torch.no_grad()
    def load_state_dict(
        self,
        state: Mapping[str, Tensor],
        *,
        steps: int,
        numbers: Sequence[int | None] | None = None,
        since: Sequence[int] | None = None,
    ) -> None:
        """The inverse of `state_dict`. Raises KeyError or RuntimeError if the state does not fit.

        numbers: for each parameter its number in `state`; None if it has no state there, which then begins at zero.
        Without it, the parameters have the same numbers. since: for each number in `state`, see the property; 0
        without it.
        """
        self.steps = steps
        numbers = range(len(self.parameters)) if numbers is None else numbers
        for slot, tensors in self.state.items():
            for number, tensor in zip(numbers, tensors, strict=True):
                if number is None:
                    tensor.zero_()
                else:
                    tensor.copy_(part_of(state[f"{slot}.{number}"], like=tensor))
        self._since = [steps if n is None else 0 if since is None else since[n] for n in numbers]
        self._regroup()

    @torch.no_grad()
    def gradient_norm(self) -> Tensor | None:
        """Euclidean norm of all gradients together, on the device; None before the first backward."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if not gradients:
            return None
        norms = torch.stack([whole(n).float() for n in torch._foreach_norm(gradients)])
        return norms.square().sum().sqrt()

    def zero_grad(self) -> None:
        for p in self.parameters:
            p.grad = None

    def _regroup(self) -> None:
        """One group for each learning rate and number of steps, mostly one in all; on a CPU of so many parameters that
        all passes over them find them in its cache."""
        members: dict[tuple[float, int, int], list[int]] = {}
        before: Counter[tuple[float, int]] = Counter()
        for number, (p, key) in enumerate(
            zip(self.parameters, zip(self._factors, self._since, strict=True), strict=True)
        ):
            block = before[key] // _IN_CACHE if p.device.type == "cpu" else 0
            members.setdefault((*key, block), []).append(number)
            before[key] += p.nbytes
        self._groups = []
        for (factor, since, _), numbers in members.items():
            parameters = [self.parameters[n] for n in numbers]
            decayed = [i for i, p in enumerate(parameters) if self.decay_all or p.dim() >= 2]
            state = {slot: [tensors[n] for n in numbers] for slot, tensors in self.state.items()}
            self._groups.append(_Group(factor, since, parameters, decayed, state))

    def _penalise(self, group: _Group, gradients: list[Tensor], lr: float) -> None:
        parameters = [group.parameters[i] for i in group.decayed]
        if self.decoupled and self.weight_decay:
            torch._foreach_mul_(parameters, 1 - lr * self.weight_decay)
        penalised = [gradients[i] for i in group.decayed]
        if not self.decoupled and self.weight_decay:
            penalised = list(torch._foreach_add(penalised, parameters, alpha=self.weight_decay))
        if self.l1:
            penalised = list(torch._foreach_add(penalised, torch._foreach_sign(parameters), alpha=self.l1))
        for i, gradient in zip(group.decayed, penalised, strict=True):
            gradients[i] = gradient

    def _sgd(self, group: _Group, gradients: list[Tensor], lr: float) -> None:
        if self.momentum:
            velocity = group.state["momentum"]
            torch._foreach_mul_(velocity, self.momentum)
            torch._foreach_add_(velocity, gradients)
            if self.nesterov:
                gradients = list(torch._foreach_add(gradients, velocity, alpha=self.momentum))
            else:
                gradients = velocity
        torch._foreach_add_(group.parameters, gradients, alpha=-lr)

    def _adam(self, group: _Group, gradients: list[Tensor], lr: float) -> None:
        mean, square = group.state["mean"], group.state["square"]
        steps = self.steps - group.since
        torch._foreach_lerp_(mean, gradients, 1 - _BETAS[0])
        torch._foreach_mul_(square, _BETAS[1])
        torch._foreach_addcmul_(square, gradients, gradients, 1 - _BETAS[1])
        root = torch._foreach_sqrt(square)
        torch._foreach_div_(root, (1 - _BETAS[1] ** steps) ** 0.5)
        torch._foreach_add_(root, _EPS)
        torch._foreach_addcdiv_(group.parameters, mean, root, -lr / (1 - _BETAS[0] ** steps))

    def _rmsprop(self, group: _Group, gradients: list[Tensor], lr: float) -> None:
        square = group.state["square"]
        torch._foreach_mul_(square, _ALPHA)
        torch._foreach_addcmul_(square, gradients, gradients, 1 - _ALPHA)
        root = torch._foreach_sqrt(square)
        torch._foreach_add_(root, _EPS)
        if self.momentum:
            velocity = group.state["momentum"]
            torch._foreach_mul_(velocity, self.momentum)
            torch._foreach_addcdiv_(velocity, gradients, root)
            torch._foreach_add_(group.parameters, velocity, alpha=-lr)
        else:
            torch._foreach_addcdiv_(group.parameters, gradients, root, -lr)


@torch.no_grad()
def keep_zeros(parameters: Iterable[Tensor]) -> None:
    """Set the gradient of each value that is exactly zero to zero, in parameters of two or more dimensions."""
    for p in parameters:
        if p.dim() >= 2 and p.grad is not None:
            p.grad.masked_fill_(p == 0, 0.0)


class WeightAverage:
    """Exponential moving average of a model's weights, kept in a copy of the model.

    average = d * average + (1 - d) * weights after each step, with d = min(decay, (1 + t) / (10 + t)), so that the
    initial weights are forgotten; buffers are copied. A parameter that both models share has no average.
    """

    def __init__(self, model: nn.Module, average: nn.Module, decay: float) -> None:
        self.decay, self.steps, self.model = decay, 0, average
        average.load_state_dict(model.state_dict())
        self._source = model
        self._buffers = list(zip(model.buffers(), average.buffers(), strict=True))
        self._pair()

    @torch.no_grad()
    def update(self) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self._averages, self._sources, 1 - decay)
        for source, average in self._buffers:
            average.copy_(source)

    def separate(self) -> None:
        """From now on the average has parameters of its own for those that it shared; they begin at their values."""
        own: dict[nn.Parameter, nn.Parameter] = {}
        for ours, theirs in zip(self._source.modules(), self.model.modules(), strict=True):
            for name, parameter in ours._parameters.items():
                if parameter is not None and theirs._parameters[name] is parameter:
                    theirs._parameters[name] = own.setdefault(parameter, nn.Parameter(parameter.detach().clone()))
        self._pair()

    def _pair(self) -> None:
        pairs = list(zip(self._source.parameters(), self.model.parameters(), strict=True))
        self._sources: list[Tensor] = [source for source, average in pairs if average is not source]
        self._averages: list[Tensor] = [average for source, average in pairs if average is not source]
