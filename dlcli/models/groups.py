"""Groups of parameters that have a learning rate of their own."""

from dataclasses import dataclass

from torch import nn

from dlcli.core.errors import ConfigError
from dlcli.models.parts import head, inside, stage_of, stages


@dataclass(frozen=True)
class Group:
    """name: `backbone`, or that of a stage. factor: of the learning rate. members: names of parameters."""

    name: str
    factor: float
    members: frozenset[str]


def rate_groups(
    model: nn.Module, *, backbone: float, decay: float | None, never: tuple[str, ...], model_name: str
) -> tuple[Group, ...]:
    """The groups of the backbone, from the input to the head; the head has the learning rate itself.

    backbone: factor of the learning rate of all of them. decay: layer-wise decay as of BEiT (Bao et al. 2022,
        arXiv:2106.08254; Clark et al. 2020, ELECTRA): the last stage before the head has `decay` times the rate of the
        head, the one before decay**2, and so on; see `stages` in parts.py.
    never: the names of parameters that are never trained; they are in no group.
    Raises ConfigError if no parameter outside the head is trained, so that there is no group.
    """
    last = head(model)
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    outside = [name for name in names if not inside(name, last)]
    if not set(outside) - set(never):
        why = "freeze leaves only the head to train" if outside else f"model {model_name} has only a head"
        setting = "lr_backbone" if decay is None else "layer_decay"
        raise ConfigError(f"{setting} has no effect, since {why}: leave it out")
    if decay is None:
        return (Group("backbone", backbone, frozenset(outside) - set(never)),)
    parts = stages(model)
    members: dict[int, set[str]] = {}
    for name in outside:
        members.setdefault(stage_of(name, parts), set()).add(name)
    numbers = sorted(members)
    found = (
        Group(parts[number], backbone * decay ** (len(numbers) - place), frozenset(members[number]) - set(never))
        for place, number in enumerate(numbers)
    )
    return tuple(group for group in found if group.members)
