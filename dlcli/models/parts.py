"""The parts of a model by the names of its parameters: the head, and the stages from the input to the output.

A part is a prefix: `layer1` stands for every parameter whose name begins with `layer1.`, and for one of that name.
"""

from collections.abc import Collection

from torch import nn


def head(model: nn.Module) -> tuple[str, ...]:
    """The prefixes of the head, which makes answers of features; everything else is the backbone.

    A model may say it by an attribute `head`, a tuple of prefixes. Otherwise it is the last module, in the order in
    which they were registered, that has parameters of its own; `""` if that is the model itself.
    """
    said = _said(model, "head")
    if said is not None:
        return said
    return next(
        ((name,) for name, module in reversed(list(model.named_modules())) if module._parameters),
        ("",),
    )


def stages(model: nn.Module) -> tuple[str, ...]:
    """The prefixes of the stages, in the order in which they were registered; the head lies in the last ones.

    A model may say it by an attribute `stages`, a tuple of prefixes. Otherwise they are the children that have
    parameters. If there is only one, or only one before the head, its children take its place, so that
    `nn.Sequential(features, classifier)` has as many stages as its features have layers. Parameters of the model
    itself, such as positions, belong to the first stage.
    """
    said = _said(model, "stages")
    if said is not None:
        return said
    found = _children(model, "")
    while len(found) == 1 and (inner := _children(model.get_submodule(found[0]), found[0])):
        found = inner
    before = [stage for stage in found if not any(inside(part, (stage,)) for part in head(model))]
    if len(before) == 1 and (inner := _children(model.get_submodule(before[0]), before[0])):
        found = [*inner, *found[1:]] if found[0] == before[0] else found
    return tuple(found)


def stage_of(name: str, stages: Collection[str]) -> int:
    """The number of the stage in which a parameter lies, from 0; 0 if it lies in none."""
    return next((number for number, stage in enumerate(stages) if inside(name, (stage,))), 0)


def inside(name: str, prefixes: Collection[str]) -> bool:
    """Whether a parameter lies in one of the parts."""
    return any(not prefix or name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def _children(module: nn.Module, prefix: str) -> list[str]:
    """The children with parameters; none if the module has parameters of its own below the top, which belong to no
    child."""
    if prefix and module._parameters:
        return []
    named = ((f"{prefix}.{name}" if prefix else name, child) for name, child in module.named_children())
    return [name for name, child in named if next(child.parameters(), None) is not None]


def _said(model: nn.Module, what: str) -> tuple[str, ...] | None:
    """The attribute of the model, unless it is something else, such as a layer."""
    found = getattr(model, what, None)
    is_said = isinstance(found, tuple) and bool(found) and all(isinstance(part, str) for part in found)
    return found if is_said else None
