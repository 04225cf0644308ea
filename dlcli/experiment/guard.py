"""Building a model within a limit of memory, and checking that it fits given weights."""

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.nn.parameter import is_lazy
from torch.utils import deterministic

from dlcli.compute import devices
from dlcli.config.own_code import load
from dlcli.config.schemes import model_entry
from dlcli.config.settings import TrainConfig
from dlcli.core import options
from dlcli.core.blame import blamed, defined
from dlcli.core.errors import ConfigError, DlcliError, ResourceError, RunError
from dlcli.core.spec import DataSpec
from dlcli.data.kinds import sample_input
from dlcli.experiment.probe import expected_output, undisturbed
from dlcli.models.narrowing import narrow

# Bytes per parameter: its value, its gradient, and at least one value that the optimizer or the average keeps.
_BYTES_TO_TRAIN = 12

# Largest number of parameters and buffers of a model that is built without given weights.
_MOST_TENSORS = 10_000

# With weights of a pruned model: how many times as many values it may have had.
_MOST_CUT = 200

# With given weights: what the model may have in addition.
_SPARE_TENSORS, _SPARE_VALUES = 100, 2**24


def build_model(
    config: TrainConfig, spec: DataSpec, *, weights: Mapping[str, Tensor] | None = None, where: object = ""
) -> nn.Module:
    """The model of `config` for data of `spec`, on the CPU; for images in channels-last memory format.

    weights: name -> tensor, or an outline without values, which the model must fit. where: names their source in the
    RunError that is raised if it does not. With `pruned = structured` it becomes as narrow as they are.
    A short setting can ask for a model of any size, so building stops if the model grows beyond its weights (RunError)
    or the memory of this machine (ResourceError). ConfigError if the class cannot be built with its options.
    """
    maker = maker_of(config.model)
    chosen = options.resolve(maker, config.model_options, where="model")
    settings = ", ".join(f"{k}={v}" for k, v in chosen.items())
    memory = devices.memory()
    most_values, most_tensors = memory // _BYTES_TO_TRAIN, _MOST_TENSORS
    if weights is not None:
        # Some slack: a parameter may be registered twice, and not every buffer is saved.
        factor = _MOST_CUT if config.pruned == "structured" else 2
        most_values = min(most_values, factor * sum(t.numel() for t in weights.values()) + _SPARE_VALUES)
        most_tensors = 2 * len(weights) + _SPARE_TENSORS

    def too_large(values: int) -> DlcliError:
        if weights is not None:
            return RunError(f"{where} does not fit the model that the run describes, which is far larger")
        if values <= most_values:
            return ResourceError(
                f"model {config.model} with {settings} has more than {most_tensors:,} parameters and buffers"
            )
        return ResourceError(
            f"model {config.model} with {settings} takes more than {values * _BYTES_TO_TRAIN / 1e9:.1f} GB of memory, "
            f"and this machine has {memory / 1e9:.1f} GB: take a smaller one"
        )

    how = f"with {settings}" if settings else f"as {maker.__name__}(spec)"
    with (
        blamed(ConfigError, f"model {config.model} cannot be built {how}"),
        _stopped_beyond(most_tensors, most_values, too_large),
    ):
        model = maker(spec, **chosen)
    if weights is not None:
        if config.pruned == "structured":
            narrow_to(model, weights, spec, where=f"{where} does not fit the model that the run describes")
        check_fit(model.state_dict(), weights, f"{where} does not fit the model that the run describes")
    return model.to(memory_format=torch.channels_last) if spec.kind == "image" else model


def check_not_too_narrow(model: nn.Module, narrower: nn.Module) -> None:
    """ConfigError if so little of the model is left that a run of it would be refused as far too large."""
    before, after = (sum(t.numel() for t in each.state_dict().values()) for each in (model, narrower))
    if before > _MOST_CUT * after + _SPARE_VALUES:
        raise ConfigError(
            f"{after:,} of {before:,} values would be left, and at least 1 in {_MOST_CUT} has to be: remove less"
        )


def narrow_to(model: nn.Module, weights: Mapping[str, Tensor], spec: DataSpec, *, where: str) -> None:
    """Make the layers of `model` as narrow as those of `weights`, in place. RunError, which begins with `where`, if
    they then do not fit each other, or the data."""
    narrow(model, {name: tuple(tensor.shape) for name, tensor in weights.items()})
    try:
        with undisturbed(model), torch.no_grad():
            output = model.eval()(sample_input(spec, 1))
    except (RuntimeError, ValueError, IndexError, AssertionError) as error:
        raise RunError(f"{where} (its layers do not fit each other: {' '.join(str(error).split())[:200]})") from None
    wanted, _ = expected_output(spec, 1)
    if not isinstance(output, Tensor) or tuple(output.shape) != wanted:
        raise RunError(f"{where} (its answers are not of the shape {wanted})")


def maker_of(name: str) -> Callable[..., nn.Module]:
    """The nn.Module class of a model, or for one of a zoo the function that builds it: (spec, *, options)."""
    entry = model_entry(name)
    found = load(entry.target)
    if not entry.builds and not (isinstance(found, type) and issubclass(found, nn.Module)):
        place = defined(found)
        raise ConfigError(f"model {name!r} is no torch.nn.Module class" + (f": see {place}" if place else ""))
    return cast(Callable[..., nn.Module], found)


def check_fit(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], refused: str) -> None:
    """RunError, which begins with `refused`, unless the weights have the names, shapes and types of `own`."""
    missing, unexpected = own.keys() - weights.keys(), weights.keys() - own.keys()
    both = own.keys() & weights.keys()
    shape = [n for n in both if own[n].shape != weights[n].shape]
    dtype = [n for n in both if own[n].shape == weights[n].shape and own[n].dtype != weights[n].dtype]
    parts = [("missing", missing), ("unexpected", unexpected), ("of another shape", shape), ("of another type", dtype)]
    told = "; ".join(f"{what}: {_first(names)}" for what, names in parts if names)
    if told:
        raise RunError(f"{refused} ({told})")


def _first(names: Collection[str]) -> str:
    shown = ", ".join(name[:80] for name in sorted(names)[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


@contextlib.contextmanager
def _stopped_beyond(tensors: int, values: int, error: Callable[[int], DlcliError]) -> Iterator[None]:
    """Inside the block, raise `error(number of values so far)` as soon as the modules that are built have registered
    more parameters and buffers than `tensors`, or more values than `values`.

    torch's own layers allocate memory, register the parameter, and only then fill it, so the memory is not in use yet.
    """
    made = [0, 0]

    def count(module: nn.Module, name: str, tensor: Tensor | None) -> None:
        if tensor is not None and not is_lazy(tensor):
            made[0] += 1
            made[1] += tensor.numel()
            if made[0] > tensors or made[1] > values:
                raise error(made[1])

    hooks = [register_module_parameter_registration_hook(count), register_module_buffer_registration_hook(count)]
    fill = deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
        for hook in hooks:
            hook.remove()
