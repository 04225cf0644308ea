"""The layers of a model, and what Grad-CAM needs of one: its activations, and the derivative of the score by them."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dlcli.analysis.explain.subject import Subject, recording
from dlcli.core.errors import ConfigError, did_you_mean

_OTHERS = "choose --method gradient, integrated or occlusion"


@dataclass(frozen=True)
class Layer:
    """A module that gives one tensor. shape: of its output for one sample. holds: whether a convolution is in it that
    is not only the cut of an image into patches."""

    name: str
    shape: tuple[int, ...]
    holds: bool

    @property
    def is_map(self) -> bool:
        """Whether its output is (N, C, H, W) with more than one place."""
        return len(self.shape) == 4 and math.prod(self.shape[2:]) > 1


@torch.no_grad()
def layers_of(subject: Subject, x: Tensor) -> list[Layer]:
    """The modules that are called for x (1, ...), below the model itself, in the order in which they return."""
    found: dict[str, Layer] = {}
    hooks = []
    for name, module in subject.model.named_modules():
        if name:

            def hear(each: nn.Module, given: object, output: object, name: str = name) -> None:
                if isinstance(output, Tensor) and output.is_floating_point():
                    found.pop(name, None)
                    found[name] = Layer(name, tuple(output.shape), any(map(_is_convolution, each.modules())))

            hooks.append(module.register_forward_hook(hear))
    try:
        subject.output(x)
    finally:
        for hook in hooks:
            hook.remove()
    return list(found.values())


def _is_convolution(module: nn.Module) -> bool:
    if not isinstance(module, nn.Conv2d):
        return False
    return module.kernel_size == (1, 1) or module.kernel_size != module.stride


def last_convolution(subject: Subject, x: Tensor) -> str | None:
    """The last layer that holds a convolution and whose output has places, the outermost of those that return at once;
    None if there is none, as in an MLP or in a transformer."""
    return next((layer.name for layer in reversed(layers_of(subject, x)) if layer.holds and layer.is_map), None)


def chosen_layer(subject: Subject, x: Tensor, name: str | None) -> str:
    """The layer for Grad-CAM. ConfigError (exit 2) if it does not exist, is not called, or has no places, or if none is
    named and no convolution is found."""
    if name is None:
        found = last_convolution(subject, x)
        if found is None:
            raise ConfigError(
                f"--method gradcam needs a convolution, and {subject.run} ({subject.name}) has none: {_OTHERS}"
            )
        return found
    called = {layer.name: layer for layer in layers_of(subject, x)}
    maps = [layer.name for layer in called.values() if layer.is_map]
    if name not in called:
        why = "is not called" if name in dict(subject.model.named_modules()) else "is no layer"
        raise ConfigError(f"--layer {name} {why} of {subject.run} ({subject.name}): {did_you_mean(name, maps)}")
    if name not in maps:
        shape = "x".join(map(str, called[name].shape[1:]))
        hint = f"choose one of {', '.join(maps[-3:])}" if maps else _OTHERS
        raise ConfigError(
            f"--layer {name} gives {shape} for an image, and Grad-CAM needs channels x height x width: {hint}"
        )
    return name


def activation_and_gradient(subject: Subject, x: Tensor, number: int, layer: str) -> tuple[Tensor, Tensor]:
    """The output A (N, C, H, W) of a layer, and the derivative of the scores by it.

    The hook puts a copy in the place of the output: the graph begins there, whatever is frozen before it, and what the
    next layer does in place (a ReLU, an addition) leaves A as it was. Of a layer that is called several times, the last
    call counts.
    """
    held: list[Tensor] = []

    def hear(module: nn.Module, given: object, output: Tensor) -> Tensor:
        held.append(output.detach().clone().requires_grad_())
        return held[-1].clone()

    hook = subject.model.get_submodule(layer).register_forward_hook(hear)
    try:
        with recording():
            score = subject.scores(x, number).sum()
            (gradient,) = torch.autograd.grad(score, held[-1])
    finally:
        hook.remove()
    return held[-1].detach(), gradient
