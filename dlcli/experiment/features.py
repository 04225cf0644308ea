"""The features of a frozen backbone, computed once: what the trained part of a model gets as its input.

Which part that is, is found by looking at a batch: a module that holds all trained parameters, is called once with one
tensor, and whose output is that of the model. Nothing is assumed about the code of the model.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dlcli.compute.devices import autocast, memory
from dlcli.compute.threads import computing
from dlcli.core.errors import ConfigError, ResourceError
from dlcli.core.spec import DataSpec
from dlcli.data.batches import in_order
from dlcli.data.dataset import Split
from dlcli.models.freezing import training_mode

_REFUSED = "cache_features needs a frozen backbone whose features never change"


class _Heard(NamedTuple):
    """inputs: of each call of a module. output: of the last one."""

    inputs: list[tuple[Any, ...]]
    output: object


def trained_part(
    model: nn.Module, frozen: tuple[str, ...], x: Tensor, *, spec: DataSpec, model_name: str, precision: str
) -> str:
    """The name of the module that is trained on features: the smallest part of the model that is possible.

    x: (B, ...) a batch of the training, on the device of the model. Random states, mode, weights and statistics of the
    model stay as they are.
    Raises ConfigError if the trained parameters are in no such module, or if anything random, or anything that depends
    on the other samples of a batch, precedes it.
    """
    with _as_it_was(model), torch.no_grad(), autocast(precision, x.device):
        training_mode(model, frozen)
        last = [name for name in _candidates(model, frozen) if _ends_with(model, name, x)]
        if not last:
            raise ConfigError(f"{_REFUSED}: model {model_name} has no last module that holds all that is trained")
        path = next((name for name in last if _stays(model, frozen, name, x)), "")
        if not path:
            raise ConfigError(
                f"{_REFUSED}: what model {model_name} does before {last[0]} is random or depends on the batch; set its "
                "dropout to 0, or freeze more of it"
            )
        features = _features(model, path, x)
    if spec.padding and features.dim() > 2:
        raise ConfigError(f"{_REFUSED}: those of model {model_name} before {path} are as long as the longest text")
    return path


def check_room(model: nn.Module, path: str, x: Tensor, *, samples: int, precision: str) -> None:
    """ResourceError if the features of so many samples would take more than half of the memory of the device."""
    with _as_it_was(model), torch.no_grad(), autocast(precision, x.device):
        a_sample = _features(model.eval(), path, x[:1]).nbytes
    if samples * a_sample > memory(x.device) / 2:
        raise ResourceError(
            f"cache_features would keep {samples * a_sample / 1e9:.1f} GB, more than half of the memory, which is "
            f"{memory(x.device) / 1e9:.1f} GB: leave it out, or freeze more"
        )


def features_of(
    model: nn.Module, path: str, split: Split, *, batch_size: int, threads: int, precision: str, device: torch.device
) -> Split:
    """The inputs of the module `path` for all samples of `split`, in its order, computed in evaluation mode.

    With the batch size and the threads of a training, or of an evaluation, they have the bits that these compute, but
    for a last batch of another size.
    """
    xs, ys = [], []
    with _as_it_was(model), torch.no_grad(), computing(threads), autocast(precision, device):
        model.eval()
        for batch in in_order(split, batch_size):
            xs.append(_features(model, path, batch.x))
            ys.append(batch.y)
    return Split.of(torch.cat(xs), torch.cat(ys))


def _candidates(model: nn.Module, frozen: tuple[str, ...]) -> list[str]:
    """The names of the modules below the model that hold all trained parameters, but not all that are frozen.

    Those with the fewest frozen ones are first; of those with as many, the outermost, which has the dropout of a head.
    """
    named = dict(model.named_parameters())
    still = {id(named[name]) for name in frozen}
    trained = {id(parameter) for parameter in named.values() if parameter.requires_grad} - still
    inside = {name: {id(p) for p in module.parameters()} for name, module in model.named_modules() if name}
    holding = [name for name, held in inside.items() if trained <= held and not still <= held]
    return sorted(holding, key=lambda name: len(inside[name] & still))  # stable: named_modules has the outer one first


def _stays(model: nn.Module, frozen: tuple[str, ...], path: str, x: Tensor) -> bool:
    """Whether the input of the module is the same whenever it is computed in training mode, and in evaluation mode."""
    found = [_features(training_mode(model, frozen), path, x) for _ in range(2)]
    found.append(_features(model.eval(), path, x))
    return all(torch.equal(found[0], other) for other in found[1:])


def _ends_with(model: nn.Module, path: str, x: Tensor) -> bool:
    """Whether the model calls this module once, with one tensor, and returns its output."""
    heard, answer = _listen(model, path, x)
    return len(heard.inputs) == 1 and _is_one_tensor(heard.inputs[0], len(x)) and heard.output is answer


def _is_one_tensor(inputs: tuple[Any, ...], samples: int) -> bool:
    return len(inputs) == 1 and isinstance(inputs[0], Tensor) and len(inputs[0]) == samples


def _features(model: nn.Module, path: str, x: Tensor) -> Tensor:
    """(B, ...) the input of the module for a batch, in memory of its own."""
    found = _listen(model, path, x)[0].inputs[0][0]
    assert isinstance(found, Tensor)
    return found.detach().clone()


def _listen(model: nn.Module, path: str, x: Tensor) -> tuple[_Heard, object]:
    """What the module gets and gives while the model answers, and the answer."""
    inputs: list[tuple[Any, ...]] = []
    outputs: list[object] = [None]

    def hear(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any], output: object) -> None:
        inputs.append((*given, *named.values()))
        outputs[0] = output

    hook = model.get_submodule(path).register_forward_hook(hear, with_kwargs=True)
    try:
        answer = model(x)
    finally:
        hook.remove()
    return _Heard(inputs, outputs[0]), answer


@contextlib.contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """Leaves random states, the mode of each module, and the buffers as they were."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    on_cuda = [b.device for b in (*model.parameters(), *model.buffers()) if b.device.type == "cuda"][:1]
    try:
        with torch.random.fork_rng(devices=on_cuda):
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
