"""Finds the module whose backward is wrong: its output's gradient is right, that of an input or parameter is not."""

from collections.abc import Collection, Mapping, Sequence

from torch import nn

from dlcli.gradcheck.report import Blame, Worst
from dlcli.gradcheck.subject import MODEL, Variable, class_name


def localise(
    model: nn.Module, variables: Sequence[Variable], wrong: Collection[Variable], worst: Mapping[Variable, Worst]
) -> Blame | None:
    """The module to blame, given the variables whose gradients are wrong for one objective.

    Candidates are modules whose outputs are all right while an input, or a parameter inside, is wrong. Modules that
    contain another candidate are dropped; of several that remain, the last one called is chosen. So an error between
    two modules is attributed to the module that calls both. None if the output of the model itself is wrong: then the
    loss is to blame.

    variables: in the order of the forward pass. wrong: those whose gradient is wrong. worst: the worst probe of each.
    """
    modules = dict(model.named_modules())
    called = list(dict.fromkeys(v.tap.module for v in variables if v.tap is not None and v.tap.side == "output"))
    used_by = _users(model, called)
    # A module that is called twice is judged call by call, since an error in the later call makes the output of the
    # earlier one wrong. For a parameter only the sum over all calls is known.
    output_wrong = {(v.module, v.tap.call) for v in wrong if v.tap is not None and v.tap.side == "output"}
    sometimes_wrong = {name for name, _ in output_wrong}
    bad: dict[str, list[Variable]] = {name: [] for name in called}
    for v in wrong:
        if (
            v.tap is not None
            and v.tap.side == "input"
            and (v.module, v.tap.call) not in output_wrong
            and v.module in bad
        ):
            bad[v.module].append(v)
        if v.kind == "input" and "" in bad and "" not in sometimes_wrong:
            bad[""].append(v)
        if v.kind == "parameter":
            for user in used_by.get(v.name, [""]):
                for name in _with_ancestors(user):
                    if name in bad and name not in sometimes_wrong:
                        bad[name].append(v)
    candidates = [name for name in called if bad[name]]
    deepest = [name for name in candidates if not any(_inside(other, name) for other in candidates)]
    if not deepest:
        return None
    chosen = deepest[-1]  # `called` is in the order in which modules returned
    reasons = bad[chosen]
    own = [v for v in reasons if v.module == chosen] or reasons
    first = own[0]
    shared = [name for name in deepest if name != chosen and set(bad[name]) == set(reasons)]
    return Blame(
        module=chosen or MODEL,
        class_name=class_name(modules[chosen]),
        tensor=first.name,
        worst=worst.get(first),
        also=tuple(shared),
    )


def _users(model: nn.Module, called: Sequence[str]) -> dict[str, list[str]]:
    """Name of a parameter -> the called modules that hold it. A holder that is never called itself is replaced by the
    nearest called module that contains it. A shared parameter has its first name."""
    first_names = {id(p): name for name, p in model.named_parameters()}
    users: dict[str, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        for parameter in module._parameters.values():
            if parameter is not None:
                user = next((around for around in _with_ancestors(name) if around in called), "")
                holders = users.setdefault(first_names[id(parameter)], [])
                if user not in holders:
                    holders.append(user)
    return users


def _with_ancestors(name: str) -> list[str]:
    """`a.b.c` -> a.b.c, a.b, a and the model itself."""
    names = [name] if name else []
    while "." in name:
        name = name.rpartition(".")[0]
        names.append(name)
    return [*names, ""]


def _inside(name: str, around: str) -> bool:
    return name != around and (not around or name.startswith(f"{around}."))
