"""Which units are removed, for an amount or for FLOPs that shall be left."""

from collections import Counter
from collections.abc import Callable, Sequence

from dlcli.analysis.prune.structure import Unit
from dlcli.core.errors import ConfigError


def in_order(units: Sequence[Unit], scores: Sequence[float]) -> list[Unit]:
    """The units from the first to be removed to the last; of each family one stays, which is not among them."""
    left = Counter(unit.family for unit in units)
    found = []
    for number in sorted(range(len(units)), key=lambda n: (scores[n], n)):
        unit = units[number]
        if left[unit.family] > 1:
            left[unit.family] -= 1
            found.append(unit)
    return found


def by_amount(units: Sequence[Unit], order: Sequence[Unit], amount: float) -> list[Unit]:
    """The first of the order, in number this share of all units. ConfigError if that is none, or more than may go."""
    count = round(amount * len(units))
    if not count:
        raise ConfigError(f"--amount {amount:g} of {len(units):,} channels and heads is none: take a larger amount")
    if count > len(order):
        raise ConfigError(
            f"--amount {amount:g} is {count:,} of {len(units):,} channels and heads, and one of each layer stays: take "
            f"at most {len(order) / len(units):.3g}"
        )
    return list(order[:count])


def by_flops(order: Sequence[Unit], target: float, cost: Callable[[Sequence[Unit]], float]) -> list[Unit]:
    """As few of the order as leave at most the share `target` of the FLOPs, found by bisection. cost: the share that is
    left without these units. ConfigError if even all of them leave more."""
    if not order or (least := cost(order)) > target:
        told = f"{least:.3g}" if order else "1"
        raise ConfigError(f"--flops {target:g} cannot be reached by removing channels: at least {told} is left")
    low, high = 0, len(order)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if cost(order[:middle]) <= target else (middle, high)
    return list(order[:high])
