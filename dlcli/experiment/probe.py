"""A trial of a model on a batch before a run is created: it must accept the data and return what the task expects."""

import contextlib
from collections import Counter
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from dlcli.core.blame import blamed, defined
from dlcli.core.errors import ConfigError
from dlcli.core.spec import DataSpec
from dlcli.data.kinds import sample_input
from dlcli.models.parts import stages
from dlcli.tasks.task import Task


def try_model(model: nn.Module, task: Task, spec: DataSpec, *, model_name: str, data_name: str) -> None:
    """Compute model, loss and metrics for one sample in evaluation mode and two in training mode, zeros, on the CPU.

    Raises ConfigError if the model fails, if its output does not have the shape `expected_output`, or if the loss does
    not depend on its parameters.
    """
    with undisturbed(model):
        for training, samples in ((False, 1), (True, 2)):
            loss = _try(model.train(training), task, spec, samples, model_name=model_name, data_name=data_name)
    if not loss.requires_grad:
        raise ConfigError(f"model {model_name} has nothing to train: its output depends on no parameter")


def trains_on_one(model: nn.Module, spec: DataSpec) -> bool:
    """Whether the model, which can be trained on two samples, can be trained on one; batch normalization of features
    cannot."""
    try:
        with undisturbed(model), torch.no_grad():
            model.train()(sample_input(spec, 1))
    except (ValueError, RuntimeError):
        return False
    return True


def separable(model: nn.Module, spec: DataSpec) -> list[nn.Module]:
    """The modules that can be gathered and given up one by one: the stages of the model, without those whose input or
    output is changed in place by what comes before or after them, or which share a parameter."""
    candidates = [module for name in stages(model) for module in _that_compute(model.get_submodule(name))]
    seen: dict[nn.Module, list[tuple[Tensor, int]]] = {module: [] for module in candidates if module is not model}

    def keep(module: nn.Module, tensors: object) -> None:
        found = tensors if isinstance(tensors, tuple | list) else (tensors,)
        seen[module] += [(tensor, tensor._version) for tensor in found if isinstance(tensor, Tensor)]

    hooks = [module.register_forward_pre_hook(lambda module, inputs: keep(module, inputs)) for module in seen]
    hooks += [module.register_forward_hook(lambda module, inputs, output: keep(module, output)) for module in seen]
    try:
        with undisturbed(model), torch.no_grad():
            model.train()(sample_input(spec, 2))
    finally:
        for hook in hooks:
            hook.remove()
    uses = Counter(id(p) for module in model.modules() for p in module._parameters.values() if p is not None)
    return [
        module
        for module, kept in seen.items()
        if kept
        and all(tensor._version == version for tensor, version in kept)
        and all(uses[id(p)] == 1 for p in module.parameters())
    ]


def _that_compute(module: nn.Module) -> list[nn.Module]:
    """The module, or if it is only a list of modules, which is never called itself, those in it."""
    if type(module) in (nn.ModuleList, nn.ModuleDict):
        return [inner for child in module.children() for inner in _that_compute(child)]
    return [module]


@contextlib.contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Leaves random state, mode, parameters and buffers as they were: a forward pass may change any of them."""
    was_training = model.training
    saved = [(tensor, tensor.detach().clone()) for tensor in (*model.parameters(), *model.buffers())]
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        model.train(was_training)
        with torch.no_grad():
            for tensor, before in saved:
                tensor.copy_(before)


def check_output(
    output: object, spec: DataSpec, samples: int, *, name: str, data: str, mode: str = "", place: str = ""
) -> None:
    """ConfigError with both shapes unless `output` is what the task of `spec` expects for this number of samples.

    name, data, mode, place: of the model, for the message.
    """
    wanted, has = expected_output(spec, samples)
    if isinstance(output, Tensor) and tuple(output.shape) == wanted and output.is_floating_point():
        return
    gave: object = f"a {type(output).__name__}"
    if isinstance(output, Tensor):
        gave = f"{tuple(output.shape)}" + ("" if output.is_floating_point() else f" of {output.dtype}")
    when = f" in {mode} mode" if mode else ""
    raise ConfigError(
        f"{name} gave {gave}{when}, but {data} has {has}: return {wanted} for a batch of {samples}"
        + (f", in {place}" if place else "")
    )


def expected_output(spec: DataSpec, samples: int) -> tuple[tuple[int, ...], str]:
    """The required shape of a model's output, and what in the data requires it, as a phrase."""
    if spec.task == "next-token":
        return (samples, *spec.input_shape, spec.outputs), f"{spec.input_shape[0]} steps and {spec.outputs} tokens"
    has = {"binary": "two classes, predicted with one logit", "regression": "one number to predict"}
    return (samples, spec.outputs), has.get(spec.task, f"{spec.outputs} classes")


def _try(model: nn.Module, task: Task, spec: DataSpec, samples: int, *, model_name: str, data_name: str) -> Tensor:
    """The loss for a batch of zeros, after the output has been checked."""
    x = sample_input(spec, samples)
    with blamed(ConfigError, f"model {model_name} fails on a batch {tuple(x.shape)} of {data_name}"):
        output = model(x)
    mode = "training" if model.training else "evaluation"
    check_output(
        output, spec, samples, name=f"model {model_name}", data=data_name, mode=mode, place=defined(type(model).forward)
    )
    steps = spec.input_shape if spec.task == "next-token" else ()
    target = torch.zeros(samples, *steps, dtype=torch.float32 if spec.task == "regression" else torch.int64)
    with torch.no_grad():
        task.metrics([task.measure(output, target)])
    return task.loss(output, target)
