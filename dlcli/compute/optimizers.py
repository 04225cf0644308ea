"""Optimizers that compute what those of torch.optim do, for all parameters at once.

They are our own because constructing any torch.optim class imports torch._dynamo and sympy, which takes 0.8 to 1.7 s of
a start-up of two seconds. Tests compare each with torch.optim, step by step.
"""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

_ALPHA = 0.99  # rmsprop: decay of the squared gradients
_BETAS = (0.9, 0.999)  # adam: decay of the gradients and of their squares
_EPS = 1e-8


class Optimizer:
    """Updates parameters in place from their `.grad`; the learning rate is an argument of `step`.

    name: gd, sgd, adam, adamw or rmsprop. L2 (`weight_decay`, decoupled for adamw) and L1 penalties apply to parameters
    with two or more dimensions, so not to biases and normalization layers, unless `decay_all`.
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
    ) -> None:
        self.parameters: list[Tensor] = [p for p in parameters if p.requires_grad]
        self.momentum, self.nesterov = momentum, nesterov
        self.weight_decay, self.l1 = weight_decay, l1
        self.decoupled = name == "adamw"
        self._decayed = [i for i, p in enumerate(self.parameters) if decay_all or p.dim() >= 2]
        self.steps = 0
        self.state: dict[str, list[Tensor]] = {}
        updates: dict[str, Callable[[list[Tensor], float], None]] = {
            "gd": self._sgd,
            "sgd": self._sgd,
            "adam": self._adam,
            "adamw": self._adam,
            "rmsprop": self._rmsprop,
        }
        self._update = updates[name]
        if name in ("adam", "adamw"):
            self._allocate("mean", "square")
        elif name == "rmsprop":
            self._allocate("square", *(["momentum"] if momentum else []))
        elif momentum:
            self._allocate("momentum")

    @property
    def param_groups(self) -> list[dict[str, list[Tensor]]]:
        """What torch.amp.GradScaler reads."""
        return [{"params": self.parameters}]

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """One update. A parameter without a gradient is treated as if its gradient were zero."""
        self.steps += 1
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        if self._decayed and (self.weight_decay or self.l1):
            self._penalise(gradients, lr)
        self._update(gradients, lr)

    def state_dict(self) -> dict[str, Tensor]:
        """The state tensors, as `slot.number of the parameter`; the count `steps` is not among them."""
        return {f"{slot}.{i}": t for slot, tensors in self.state.items() for i, t in enumerate(tensors)}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor], *, steps: int) -> None:
        """The inverse of `state_dict`. Raises KeyError or RuntimeError if the state does not fit."""
        self.steps = steps
        for slot, tensors in self.state.items():
            for i, tensor in enumerate(tensors):
                tensor.copy_(state[f"{slot}.{i}"])

    @torch.no_grad()
    def gradient_norm(self) -> Tensor | None:
        """Euclidean norm of all gradients together, on the device; None before the first backward."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if not gradients:
            return None
        norms = torch.stack([n.float() for n in torch._foreach_norm(gradients)])
        return norms.square().sum().sqrt()

    def zero_grad(self) -> None:
        for p in self.parameters:
            p.grad = None

    def _allocate(self, *names: str) -> None:
        for name in names:
            self.state[name] = [torch.zeros_like(p, memory_format=torch.preserve_format) for p in self.parameters]

    def _penalise(self, gradients: list[Tensor], lr: float) -> None:
        parameters = [self.parameters[i] for i in self._decayed]
        if self.decoupled and self.weight_decay:
            torch._foreach_mul_(parameters, 1 - lr * self.weight_decay)
        penalised = [gradients[i] for i in self._decayed]
        if not self.decoupled and self.weight_decay:
            penalised = list(torch._foreach_add(penalised, parameters, alpha=self.weight_decay))
        if self.l1:
            penalised = list(torch._foreach_add(penalised, torch._foreach_sign(parameters), alpha=self.l1))
        for i, gradient in zip(self._decayed, penalised, strict=True):
            gradients[i] = gradient

    def _sgd(self, gradients: list[Tensor], lr: float) -> None:
        if self.momentum:
            velocity = self.state["momentum"]
            torch._foreach_mul_(velocity, self.momentum)
            torch._foreach_add_(velocity, gradients)
            if self.nesterov:
                gradients = list(torch._foreach_add(gradients, velocity, alpha=self.momentum))
            else:
                gradients = velocity
        torch._foreach_add_(self.parameters, gradients, alpha=-lr)

    def _adam(self, gradients: list[Tensor], lr: float) -> None:
        mean, square = self.state["mean"], self.state["square"]
        torch._foreach_lerp_(mean, gradients, 1 - _BETAS[0])
        torch._foreach_mul_(square, _BETAS[1])
        torch._foreach_addcmul_(square, gradients, gradients, 1 - _BETAS[1])
        root = torch._foreach_sqrt(square)
        torch._foreach_div_(root, (1 - _BETAS[1] ** self.steps) ** 0.5)
        torch._foreach_add_(root, _EPS)
        torch._foreach_addcdiv_(self.parameters, mean, root, -lr / (1 - _BETAS[0] ** self.steps))

    def _rmsprop(self, gradients: list[Tensor], lr: float) -> None:
        square = self.state["square"]
        torch._foreach_mul_(square, _ALPHA)
        torch._foreach_addcmul_(square, gradients, gradients, 1 - _ALPHA)
        root = torch._foreach_sqrt(square)
        torch._foreach_add_(root, _EPS)
        if self.momentum:
            velocity = self.state["momentum"]
            torch._foreach_mul_(velocity, self.momentum)
            torch._foreach_addcdiv_(velocity, gradients, root)
            torch._foreach_add_(self.parameters, velocity, alpha=-lr)
        else:
            torch._foreach_addcdiv_(self.parameters, gradients, root, -lr)


class WeightAverage:
    """Exponential moving average of a model's weights, kept in a copy of the model.

    average = d * average + (1 - d) * weights after each step, with d = min(decay, (1 + t) / (10 + t)), so that the
    initial weights are forgotten; buffers are copied.
    """

    def __init__(self, model: nn.Module, average: nn.Module, decay: float) -> None:
        self.decay, self.steps, self.model = decay, 0, average
        average.load_state_dict(model.state_dict())
        self._sources: list[Tensor] = list(model.parameters())
        self._averages: list[Tensor] = list(average.parameters())
        self._buffers = list(zip(model.buffers(), average.buffers(), strict=True))

    @torch.no_grad()
    def update(self) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self._averages, self._sources, 1 - decay)
        for source, average in self._buffers:
            average.copy_(source)
