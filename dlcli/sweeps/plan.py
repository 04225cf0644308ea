"""Plan: all that decides which runs a sweep makes. It is sweep.json, and as TOML what `--config` accepts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dlcli.config.layers import nested, stack
from dlcli.config.settings import TrainConfig
from dlcli.config.toml import document_to_toml
from dlcli.core.documents import COUNT, TABLE, TEXT, WHOLE, check, list_of, optional
from dlcli.core.errors import ConfigError, RunError, did_you_mean
from dlcli.sweeps import samplers
from dlcli.sweeps.methods import Listed, Method, Randomly, everything
from dlcli.sweeps.pruning import PRUNERS
from dlcli.sweeps.space import Axis, parse, size

METHODS = ("grid", "random", *samplers.SAMPLERS)

FORMAT = 1

# Trials of a method that has no end, when none are asked for; and the largest grid that is taken without a question.
_TRIALS, _MOST = 20, 200

_DOCUMENT = {
    "format": COUNT, "base": TABLE, "over": TABLE, "method": TEXT, "trials": optional(COUNT), "seeds": COUNT,
    "prune": TEXT, "confirm": WHOLE, "listed": optional(list_of(TABLE)),
}  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """base: the layer of settings that all trials share. axes: what differs. listed: the settings of all trials, if
    they come from a file. method: of METHODS, or `list`. trials: at most so many; None for all there are.
    seeds: runs of each trial. confirm: runs of the best with fresh seeds, in the end.
    """

    base: Mapping[str, Any]
    axes: tuple[Axis, ...]
    method: str
    trials: int | None
    seeds: int
    prune: str
    confirm: int
    listed: tuple[Mapping[str, Any], ...] | None = None

    @property
    def first_seed(self) -> int:
        return int(TrainConfig.from_flat(self._some_layer()).seed)

    @property
    def names(self) -> list[str]:
        """The settings that differ."""
        if self.listed is not None:
            return list(dict.fromkeys(name for settings in self.listed for name in settings))
        return [axis.name for axis in self.axes]

    @property
    def size(self) -> int | None:
        """How many trials there will be; None if only the method knows."""
        there = len(self.listed) if self.listed is not None else size(self.axes)
        return min((count for count in (there, self.trials) if count is not None), default=None)

    @property
    def cpus_and_gpus(self) -> tuple[int, int]:
        """What a run asks of a cluster: as many CPUs as `threads` says, else one, and a GPU if `device` is one."""
        config = TrainConfig.from_flat(self._some_layer())
        return (1 if config.threads == "auto" else int(config.threads)), int(config.device.startswith("cuda"))

    def layer(self, settings: Mapping[str, Any], *, seed: int) -> dict[str, Any]:
        """The layer of one run."""
        return stack(self.base, settings, {"seed": seed})

    def method_of(self, *, jobs: int, earlier: int) -> Method:
        """What suggests the trials. earlier: trials that there are already, which are to be told to it."""
        if self.listed is not None:
            return Listed(self.listed)
        if self.method == "grid":
            return everything(self.axes)
        if self.method == "random":
            return Randomly(self.axes, seed=self.first_seed)
        samplers.check(self.method, self.axes)
        return samplers.Sampled(self.method, self.axes, seed=self.first_seed, jobs=jobs, earlier=earlier)

    def layers_to_check(self) -> list[dict[str, Any]]:
        """Layers of which each must be valid: every value that is listed, and both ends of each range."""
        if self.listed is not None:
            return [stack(self.base, settings) for settings in self.listed]
        first = {axis.name: axis.extremes[0] for axis in self.axes}
        layers = [stack(self.base, first)]
        for axis in self.axes:
            layers += [stack(self.base, first, {axis.name: value}) for value in axis.extremes[1:]]
        return layers

    def _some_layer(self) -> dict[str, Any]:
        return self.layers_to_check()[0]

    def extended(self, *, trials: int, confirm: int | None) -> "Plan":
        """With more trials, counted from those that were asked for."""
        if trials and (self.listed is not None or self.method == "grid"):
            raise ConfigError(f"--trials +{trials}: this sweep tries all of a fixed list; make a new one")
        confirm = self.confirm if confirm is None else confirm
        return replace(self, trials=(self.trials or 0) + trials if trials else self.trials, confirm=confirm)

    def as_document(self) -> dict[str, Any]:
        return {
            "format": FORMAT, "base": dict(self.base), "over": {axis.name: axis.text for axis in self.axes},
            "method": self.method, "trials": self.trials, "seeds": self.seeds, "prune": self.prune,
            "confirm": self.confirm, "listed": None if self.listed is None else [dict(one) for one in self.listed],
        }  # fmt: skip

    def to_toml(self) -> str:
        """As `dlcli sweep --config` accepts it."""
        sweep = {
            "method": self.method if self.listed is None else None, "trials": self.trials, "seeds": self.seeds,
            "prune": self.prune, "confirm": self.confirm, "listed": self.listed,
            "over": {axis.name: axis.text for axis in self.axes},
        }  # fmt: skip
        return document_to_toml(nested(self.base) | {"sweep": sweep})


def from_document(document: Mapping[str, Any], *, file: str) -> Plan:
    """The plan of sweep.json. RunError (exit 4) if it is damaged or of another version."""
    try:
        check(document, _DOCUMENT, needed=True)
        if document["format"] != FORMAT or document["method"] not in (*METHODS, "list"):
            raise ValueError("it is of another version of dlcli")
        over = parse([f"{name}={text}" for name, text in document["over"].items()])
        listed = document["listed"]
        return Plan(
            base=document["base"], axes=tuple(over), method=document["method"], trials=document["trials"],
            seeds=document["seeds"], prune=document["prune"], confirm=document["confirm"],
            listed=None if listed is None else tuple(listed),
        )  # fmt: skip
    except (ValueError, ConfigError) as error:
        raise RunError(f"{file} is damaged: {error}") from None


def make(
    *,
    base: Mapping[str, Any],
    over: Sequence[str],
    method: str | None,
    trials: int | None,
    seeds: int,
    prune: str,
    confirm: int,
    listed: Sequence[Mapping[str, Any]] | None = None,
) -> Plan:
    """What was asked for, checked as far as it can be without torch. Raises ConfigError (exit 2)."""
    axes = tuple(parse(over))
    if listed is not None and (axes or method):
        raise ConfigError("--trials-from lists all trials: leave out --over and --method")
    if listed is None and not axes and seeds > 1:
        listed = [{}]
    if listed is None and not axes:
        raise ConfigError("--over is missing: name a setting and its values, as in --over lr=0.1,0.01")
    if method is not None and method not in METHODS:
        raise ConfigError(f"--method {method}: {did_you_mean(method, METHODS)}")
    if prune not in PRUNERS:
        raise ConfigError(f"--prune {prune}: {did_you_mean(prune, PRUNERS)}")
    finite = size(axes)
    if listed is not None:
        method = "list"
    elif method is None:
        all_of_it = finite is not None and (trials is None or trials >= finite)
        method = "grid" if all_of_it else "tpe" if samplers.installed() and finite is None else "random"
    if method in samplers.SAMPLERS:
        samplers.check(method, axes)
    if method == "grid":
        if finite is None:
            ranges = ", ".join(axis.name for axis in axes if not axis.finite)
            raise ConfigError(f"--method grid needs single values, and {ranges} is a range: take --method random")
        if trials is not None and trials < finite:
            raise ConfigError(
                f"--method grid tries all {finite:,} combinations, and --trials is {trials}: leave it out, or take "
                "--method random"
            )
        if trials is None and finite > _MOST:
            raise ConfigError(
                f"there are {finite:,} combinations: --trials {finite} tries all of them, a smaller number some at "
                "random"
            )
        trials = None
    elif method != "list" and trials is None:
        trials = _TRIALS
    plan = Plan(
        base=dict(base), axes=axes, method=method, trials=trials, seeds=seeds, prune=prune, confirm=confirm,
        listed=None if listed is None else tuple(listed),
    )  # fmt: skip
    for layer in plan.layers_to_check():
        if TrainConfig.from_flat(layer).batch_size == "auto":
            raise ConfigError(
                "batch_size = auto would measure a size for each run, which then differ by it: give the number that "
                "dlcli train MODEL --batch-size auto takes"
            )
    return plan
