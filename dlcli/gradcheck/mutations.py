"""Bugs to plant into a model: each leaves its values unchanged and makes one backward wrong.

There are two ways to make a backward wrong. `spoiled` returns a tensor unchanged but modifies the gradient that comes
back. `disguised` combines the value of one computation with the gradient of another.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlcli.models.blocks import SelfAttention


class _Spoil(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.change = change
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.change(gradients[0]), None


def spoiled(x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """x unchanged; in backward its gradient g becomes change(g)."""
    return _Spoil.apply(x, change)  # type: ignore[no-any-return]


def disguised(value: Tensor, gradient_of: Tensor) -> Tensor:
    """The value of the first tensor with the gradient of the second, whose values may be different."""
    return gradient_of + (value - gradient_of).detach()


@dataclass(frozen=True)
class Mutation:
    """One kind of bug.

    fits: whether a module can have it. plant: replaces the `forward` of a module by one with the bug.
    """

    name: str
    fits: Callable[[nn.Module], bool]
    plant: Callable[[nn.Module], None]


def _is(*kinds: type[nn.Module]) -> Callable[[nn.Module], bool]:
    return lambda module: type(module) in kinds


_weighted = _is(nn.Linear, nn.Conv2d)


def _biased(module: nn.Module) -> bool:
    return _weighted(module) and module.bias is not None


def _square(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) and module.in_features == module.out_features > 1


def _has_norm_over_some(module: nn.Module) -> bool:
    return isinstance(module, nn.LayerNorm) and module.weight.numel() > 2


def _of_parameter(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[nn.Module], None]:
    """A bug that modifies the gradient of a parameter."""

    def plant(module: nn.Module) -> None:
        own = module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            parameter = module._parameters[name]
            assert parameter is not None
            module._parameters[name] = spoiled(parameter, change)  # type: ignore[assignment]
            try:
                return own(*args, **kwargs)
            finally:
                module._parameters[name] = parameter

        module.forward = forward

    return plant


def _of_input(change: Callable[[Tensor], Tensor]) -> Callable[[nn.Module], None]:
    def plant(module: nn.Module) -> None:
        own = module.forward
        module.forward = lambda x: own(spoiled(x, change))

    return plant


def _instead(wrong: Callable[[nn.Module, Tensor], Tensor]) -> Callable[[nn.Module], None]:
    """A bug that keeps the values of the module but gives them the gradients of `wrong(module, x)`."""

    def plant(module: nn.Module) -> None:
        own = module.forward
        module.forward = lambda x: disguised(own(x), wrong(module, x))

    return plant


def _in_functional(name: str, wrong: Callable[..., Tensor]) -> Callable[[nn.Module], None]:
    """A bug in a function of torch.nn.functional: while the module runs, `wrong(right, ...)` is called instead.

    The bug is attributed to the module that calls the function.
    """
    right = getattr(F, name)

    @contextlib.contextmanager
    def replaced() -> Iterator[None]:
        with mock.patch.object(F, name, lambda *args, **kwargs: wrong(right, *args, **kwargs)):
            yield

    def plant(module: nn.Module) -> None:
        own = module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            with replaced():
                return own(*args, **kwargs)

        module.forward = forward

    return plant


def _one_element(change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Modify only the largest element of a gradient."""

    def changed(gradient: Tensor) -> Tensor:
        flat = gradient.flatten().clone()
        if flat.numel():
            at = int(flat.abs().argmax())
            flat[at] = change(flat[at])
        return flat.view_as(gradient)

    return changed


def _transposed(gradient: Tensor) -> Tensor:
    return gradient.T.contiguous()


def _flipped(gradient: Tensor) -> Tensor:
    return gradient.flip(-1, -2)


def _flipped_convolution(module: nn.Module, x: Tensor) -> Tensor:
    """The input gradient is computed with a flipped kernel: a convolution instead of its transpose."""
    assert isinstance(module, nn.Conv2d)
    right = F.conv2d(x.detach(), module.weight, module.bias, module.stride, module.padding)
    flipped = module.weight.detach().flip(-1, -2)
    return _plus_gradient(right, F.conv2d(x, flipped, None, module.stride, module.padding))


def _untransposed(module: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(module, nn.Linear)
    return _plus_gradient(F.linear(x.detach(), module.weight, module.bias), x @ module.weight.detach())


def _plus_gradient(value: Tensor, gradient_of: Tensor) -> Tensor:
    """The value of the first tensor with the gradients of both."""
    return value + (gradient_of - gradient_of.detach())


def _with_attention(wrong: Callable[..., Tensor]) -> Callable[[nn.Module], None]:
    return _in_functional("scaled_dot_product_attention", wrong)


def _scores(q: Tensor, k: Tensor, *, is_causal: bool) -> Tensor:
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if is_causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    return scores


class _SoftmaxWithoutSum(torch.autograd.Function):
    """Softmax over the last dimension whose backward is p g, without - p sum(p g)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        p = x.softmax(-1)
        ctx.save_for_backward(p)
        return p

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (p,) = ctx.saved_tensors
        return p * gradients[0]  # type: ignore[no-any-return]


def _softmax_without_sum(right: Any, q: Tensor, k: Tensor, v: Tensor, **settings: Any) -> Tensor:
    p = _SoftmaxWithoutSum.apply(_scores(q, k, is_causal=settings.get("is_causal", False)))
    return disguised(right(q, k, v, **settings), p @ v)


def _detached_key(right: Any, q: Tensor, k: Tensor, v: Tensor, **settings: Any) -> Tensor:
    return right(q, k.detach(), v, **settings)  # type: ignore[no-any-return]


def _unscaled(right: Any, q: Tensor, k: Tensor, v: Tensor, **settings: Any) -> Tensor:
    """Backward without the division of the scores by the square root of the width."""
    change = math.sqrt(q.shape[-1])
    return right(spoiled(q, lambda g: g * change), spoiled(k, lambda g: g * change), v, **settings)  # type: ignore[no-any-return]


def _unmasked(right: Any, q: Tensor, k: Tensor, v: Tensor, **settings: Any) -> Tensor:
    wrong = right(q, k, v, **(settings | {"is_causal": False}))
    return disguised(right(q, k, v, **settings), wrong)


def _heads_mixed(right: Any, q: Tensor, k: Tensor, v: Tensor, **settings: Any) -> Tensor:
    return right(q, k, spoiled(v, lambda g: g.roll(1, 1)), **settings)  # type: ignore[no-any-return]


def _norm_missing_term(module: nn.Module, x: Tensor) -> Tensor:
    """Backward without the derivative of the variance."""
    assert isinstance(module, nn.LayerNorm)
    mean = x.mean(-1, keepdim=True)
    deviation = (x.var(-1, keepdim=True, unbiased=False) + module.eps).sqrt().detach()
    return (x - mean) / deviation * module.weight + module.bias


def _norm_detached(module: nn.Module, x: Tensor) -> Tensor:
    """Backward that treats mean and variance as constants."""
    assert isinstance(module, nn.LayerNorm)
    mean = x.mean(-1, keepdim=True).detach()
    deviation = (x.var(-1, keepdim=True, unbiased=False) + module.eps).sqrt().detach()
    return (x - mean) / deviation * module.weight + module.bias


def _batch_detached(module: nn.Module, x: Tensor) -> Tensor:
    """Backward that treats the batch statistics as constants, which they are in evaluation mode only."""
    assert isinstance(module, nn.BatchNorm2d)
    mean, variance = x.mean((0, 2, 3)).detach(), x.var((0, 2, 3), unbiased=False).detach()
    if not module.training:
        assert module.running_mean is not None and module.running_var is not None
        mean, variance = module.running_mean, module.running_var
    normal = (x - mean[:, None, None]) / (variance[:, None, None] + module.eps).sqrt()
    return normal * module.weight[:, None, None] + module.bias[:, None, None]


def _spread(right: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Max pooling whose backward distributes the gradient over all elements of the window."""
    return disguised(right(x, *args, **kwargs), F.avg_pool2d(x, 2))


def _gru_backward(change: Callable[..., list[Tensor]]) -> Callable[[nn.Module], None]:
    """A bug in a GRU, which gets the gradients of an explicitly written GRU. At each step of that, `change` maps the
    states so far and the right weights to the state that the gates see and the weights that are used."""

    def plant(module: nn.Module) -> None:
        assert isinstance(module, nn.GRU)
        own = module.forward

        def forward(x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
            steps, last = own(x, state)
            return disguised(steps, _written_out(module, x, change)), last

        module.forward = forward  # type: ignore[method-assign, assignment]

    return plant


def _written_out(module: nn.GRU, x: Tensor, change: Callable[..., list[Tensor]]) -> Tensor:
    """An explicitly written GRU (Cho et al. 2014, arXiv:1406.1078): gates r, z, n; batch first; initial state zero; no
    dropout. x: (B, T, F) -> (B, T, H)."""
    for layer in range(module.num_layers):
        w_x, w_h, b_x, b_h = (
            getattr(module, f"{name}_l{layer}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        h = x.new_zeros(x.shape[0], module.hidden_size)
        states = [h]
        last = x.shape[1] - 1
        for t in range(x.shape[1]):
            seen, w, u = change(states, [w_x, w_h], last=t == last)
            r_x, z_x, n_x = (x[:, t] @ w.T + b_x).chunk(3, -1)
            r_h, z_h, n_h = (seen @ u.T + b_h).chunk(3, -1)
            r, z = (r_x + r_h).sigmoid(), (z_x + z_h).sigmoid()
            n = (n_x + r * n_h).tanh()
            h = (1 - z) * n + z * h
            states.append(h)
        x = torch.stack(states[1:], 1)
    return x


def _gru_off_by_one(states: list[Tensor], weights: list[Tensor], *, last: bool) -> list[Tensor]:
    """The gates see the state of the step before the right one."""
    return [states[-2] if len(states) > 1 else states[-1], *weights]


def _gru_last_step_only(states: list[Tensor], weights: list[Tensor], *, last: bool) -> list[Tensor]:
    """The gradient of the weights is that of the last step, instead of the sum over all steps."""
    return [states[-1], *(weights if last else [w.detach() for w in weights])]


def _gru_truncated(states: list[Tensor], weights: list[Tensor], *, last: bool) -> list[Tensor]:
    """No gradient flows through the gates to the previous step."""
    return [states[-1].detach(), *weights]


def _not_accumulated(module: nn.Module, tokens: Tensor) -> Tensor:
    """An embedding whose gradient for a repeated token is that of its first occurrence only."""
    assert isinstance(module, nn.Embedding)
    seen: set[int] = set()
    keep = []
    for token in tokens.flatten().tolist():
        keep.append(token not in seen)
        seen.add(token)
    mask = torch.tensor(keep).view(*tokens.shape, 1)
    right = F.embedding(tokens, module.weight)
    return torch.where(mask, right, right.detach())


def _neighbour(module: nn.Module, tokens: Tensor) -> Tensor:
    """The gradient of each row goes to the next row."""
    assert isinstance(module, nn.Embedding)
    return F.embedding((tokens + 1) % module.num_embeddings, module.weight)


def _second_use_detached(module: nn.Module) -> None:
    """The parameters of a module that is called twice per pass get the gradient of the first call only."""
    own = module.forward
    calls = 0

    def forward(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls % 2:
            return own(x)  # type: ignore[no-any-return]
        held = dict(module._parameters)
        module._parameters.update({name: None if p is None else p.detach() for name, p in held.items()})  # type: ignore[misc]
        try:
            return own(x)  # type: ignore[no-any-return]
        finally:
            module._parameters.update(held)

    module.forward = forward


def _wrong_dropout(right: Any, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Dropout whose backward masks but does not divide by 1 - p."""
    return right(spoiled(x, lambda g: g * (1 - p)) if training else x, p, training, inplace)  # type: ignore[no-any-return]


def _relu_passes_all(right: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return disguised(right(x), x)


def _drops(module: nn.Module) -> bool:
    ours = type(module).__module__.startswith("dlcli.models")
    return isinstance(module, nn.Dropout) or (ours and isinstance(getattr(module, "dropout", None), float))


def _pools(module: nn.Module) -> bool:
    """Whether it is one of dlcli's models that call max pooling and ReLU as functions."""
    return type(module).__module__.startswith("dlcli.models") and type(module).__name__ in ("CNN", "LeNet", "SimpleCNN")


def _several_biases(module: nn.Module) -> bool:
    return _biased(module) and sum(b.numel() for n, b in module.named_parameters() if n == "bias") > 1


def _masked(module: nn.Module) -> bool:
    return isinstance(module, SelfAttention) and module.causal


def _many_headed(module: nn.Module) -> bool:
    return isinstance(module, SelfAttention) and module.heads > 1


def _used_twice(module: nn.Module) -> bool:
    return _weighted(module) and bool(getattr(module, "used_twice", False))


def _mutations() -> Iterator[Mutation]:
    weight, bias = "weight", "bias"
    yield Mutation("weight gradient off by 1 %", _weighted, _of_parameter(weight, lambda g: g * 1.01))
    yield Mutation("weight gradient off by 0.09 %", _weighted, _of_parameter(weight, lambda g: g * 1.0009))
    yield Mutation("sign of one element", _weighted, _of_parameter(weight, _one_element(torch.neg)))
    yield Mutation("one element off by 5 %", _weighted, _of_parameter(weight, _one_element(lambda g: g * 1.05)))
    yield Mutation("one element not a number", _weighted, _of_parameter(weight, _one_element(lambda g: g * torch.nan)))
    yield Mutation("weight gradient transposed", _square, _of_parameter(weight, _transposed))
    yield Mutation("bias gradient zeroed", _biased, _of_parameter(bias, torch.zeros_like))
    yield Mutation("bias gradient a mean for a sum", _biased, _of_parameter(bias, lambda g: g / 3))
    yield Mutation("bias gradient moved by one", _several_biases, _of_parameter(bias, lambda g: g.roll(1)))
    yield Mutation("input gradient by the untransposed weight", _square, _instead(_untransposed))
    yield Mutation("input gradient halved", _weighted, _of_input(lambda g: g / 2))
    yield Mutation("input detached", _weighted, _of_input(torch.zeros_like))
    yield Mutation("input gradient clipped", _weighted, _of_input(lambda g: g.clamp(-1e-3, 1e-3)))
    yield Mutation("kernel gradient flipped", _is(nn.Conv2d), _of_parameter(weight, _flipped))
    yield Mutation("convolution for its transpose", _is(nn.Conv2d), _instead(_flipped_convolution))
    yield Mutation("image gradient moved by one pixel", _is(nn.Conv2d), _of_input(lambda g: g.roll(1, -1)))
    yield Mutation("max pooling spread over its window", _pools, _in_functional("max_pool2d", _spread))
    yield Mutation("function relu passes all", _pools, _in_functional("relu", _relu_passes_all))
    yield Mutation("ReLU passes all", _is(nn.ReLU), _instead(lambda m, x: x))
    yield Mutation("tanh with 1 - y for 1 - y^2", _is(nn.Tanh), _instead(lambda m, x: x * (1 - x.tanh()).detach()))
    yield Mutation("GELU with its tanh form's", _is(nn.GELU), _instead(lambda m, x: F.gelu(x, approximate="tanh")))
    yield Mutation("dropout without its scale", _drops, _in_functional("dropout", _wrong_dropout))
    yield Mutation("layer norm without the variance's term", _has_norm_over_some, _instead(_norm_missing_term))
    yield Mutation("layer norm's statistics detached", _has_norm_over_some, _instead(_norm_detached))
    yield Mutation("batch statistics detached", _is(nn.BatchNorm2d), _instead(_batch_detached))
    yield Mutation("softmax without its sum", _is(SelfAttention), _with_attention(_softmax_without_sum))
    yield Mutation("key detached", _is(SelfAttention), _with_attention(_detached_key))
    yield Mutation("attention without its scale", _is(SelfAttention), _with_attention(_unscaled))
    yield Mutation("attention without its mask", _masked, _with_attention(_unmasked))
    yield Mutation("heads exchanged", _many_headed, _with_attention(_heads_mixed))
    yield Mutation("GRU gates off by one step", _is(nn.GRU), _gru_backward(_gru_off_by_one))
    yield Mutation("GRU weights of the last step only", _is(nn.GRU), _gru_backward(_gru_last_step_only))
    yield Mutation("GRU truncated to one step", _is(nn.GRU), _gru_backward(_gru_truncated))
    yield Mutation("embedding not accumulated", _is(nn.Embedding), _instead(_not_accumulated))
    yield Mutation("embedding row off by one", _is(nn.Embedding), _instead(_neighbour))
    yield Mutation("second use not accumulated", _used_twice, _second_use_detached)


MUTATIONS: tuple[Mutation, ...] = tuple(_mutations())
