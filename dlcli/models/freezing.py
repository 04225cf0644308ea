"""Frozen parameters: which they are, and the mode of the modules that hold them."""

import re
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from dlcli.core.errors import ConfigError, nearest
from dlcli.models.parts import head, inside, stages


def frozen_names(model: nn.Module, freeze: str, *, model_name: str) -> tuple[str, ...]:
    """The names of the parameters that `freeze` says are not trained, in the order of the model.

    freeze: `none`; `backbone`, all but the head; N, the first N stages (see parts.py); or patterns of names, separated
    by commas, as in a shell: `features.*`. A pattern that is the name of a module stands for all that is in it.
    Raises ConfigError if a pattern matches nothing, or if nothing is left to train.
    """
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    if freeze == "none":
        return ()
    if freeze == "backbone":
        last = head(model)
        found = [name for name in names if not inside(name, last)]
        if not found:
            raise ConfigError(f"freeze = backbone, but model {model_name} has none: all its parameters are in its head")
    elif re.fullmatch("[0-9]{1,9}", freeze):
        found = _first_stages(model, names, int(freeze), model_name=model_name)
    else:
        found = _matching(names, freeze, model_name=model_name)
    if len(found) == len(names):
        raise ConfigError(
            f"freeze = {freeze} leaves nothing to train in model {model_name}: leave out its head, "
            f"{' and '.join(head(model)) or 'the whole model'}"
        )
    return tuple(found)


def _first_stages(model: nn.Module, names: list[str], count: int, *, model_name: str) -> list[str]:
    parts = stages(model)
    if not 0 < count < len(parts):
        shown = ", ".join(parts[:20]) + (", ..." if len(parts) > 20 else "")
        raise ConfigError(
            f"freeze = {count} must be at least 1 and less than {len(parts)}, the number of stages of model "
            f"{model_name} ({shown})"
        )
    later = parts[count:]
    return [name for name in names if not inside(name, later)]


def _matching(names: list[str], patterns: str, *, model_name: str) -> list[str]:
    places = {name: [name, *_modules_of(name)] for name in names}
    found: set[str] = set()
    for pattern in (part.strip() for part in patterns.split(",")):
        matched = {name for name, known in places.items() if any(fnmatchcase(place, pattern) for place in known)}
        if not matched:
            known = list(dict.fromkeys(place for places_of in places.values() for place in places_of))
            near = nearest(pattern, known)
            mend = f"did you mean {' or '.join(near)}?" if near else f"its parameters are {_some(names)}"
            raise ConfigError(f"freeze = {pattern} matches no parameter of model {model_name}: {mend}")
        found |= matched
    return [name for name in names if name in found]


def _modules_of(name: str) -> list[str]:
    """`a` and `a.b` of the parameter `a.b.weight`."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def _some(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def training_mode(model: nn.Module, frozen: tuple[str, ...]) -> nn.Module:
    """`model` in training mode, and in evaluation mode what is frozen: the statistics of its batch normalization do not
    move, and its dropout drops nothing.

    A module is frozen if it has parameters and all of them are. One without parameters is if it stands, in the order of
    registration, between two that are, or before the first; a batch normalization without parameters if it follows one.
    """
    model.train()
    if not frozen:
        return model
    named = dict(model.named_parameters())
    still = {id(named[name]) for name in frozen}
    modules = list(model.modules())
    own = [[id(p) in still for p in module._parameters.values() if p is not None] for module in modules]
    known = [all(flags) if flags else None for flags in own]
    before = _last_known(known, first=True)
    after = _last_known(known[::-1], first=False)[::-1]
    for module, follows_frozen, precedes_frozen in zip(modules, before, after, strict=True):
        inside = [id(parameter) in still for parameter in module.parameters()]
        between = follows_frozen and (precedes_frozen or isinstance(module, _BatchNorm))
        if all(inside) if inside else between:
            module.eval()
    return model


def _last_known(flags: list[bool | None], *, first: bool) -> list[bool]:
    """For each place the last flag before it that is not None; `first` if there is none."""
    found, last = [], first
    for flag in flags:
        found.append(last)
        last = last if flag is None else flag
    return found
