"""Optuna's samplers, by ask and tell: nothing of a study is stored but the sweep's own log."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dlcli.core.errors import ConfigError
from dlcli.sweeps.space import Axis

SAMPLERS = ("tpe", "cmaes", "qmc")

# Samplers for ranges only.
_OF_RANGES = ("cmaes", "qmc")


def installed() -> bool:
    import importlib.util

    return importlib.util.find_spec("optuna") is not None


def check(sampler: str, axes: Sequence[Axis]) -> None:
    """ConfigError (exit 2) if a sampler is not installed or cannot take the space."""
    if not installed():
        raise ConfigError(f"--method {sampler} needs optuna: pip install 'dlcli[sweep]', or take --method random")
    choices = [axis.name for axis in axes if axis.finite]
    if sampler in _OF_RANGES and choices:
        raise ConfigError(
            f"--method {sampler} takes ranges such as uniform(0,1) only, and {', '.join(choices)} has single values: "
            "take --method tpe"
        )


class Sampled:
    """Settings that a sampler of Optuna suggests from what was found so far.

    tpe: Bergstra et al. 2011; with several jobs a running trial counts as a bad one, so that two do not try the same.
    cmaes: Hansen 2016. qmc: Sobol's sequence.
    """

    def __init__(self, sampler: str, axes: Sequence[Axis], *, seed: int, jobs: int, earlier: int) -> None:
        """earlier: trials of earlier processes, which are told next; they make the random numbers others."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        seed = (seed + 1_000_003 * earlier) % 2**32
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            makers: dict[str, Callable[[], Any]] = {
                "tpe": lambda: optuna.samplers.TPESampler(seed=seed, constant_liar=jobs > 1),
                "cmaes": lambda: optuna.samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False),
                "qmc": lambda: optuna.samplers.QMCSampler(scramble=True, seed=seed, warn_asynchronous_seeding=False),
            }
            made = makers[sampler]()
        self._study = optuna.create_study(sampler=made, direction="minimize")
        self._axes = axes
        self._space = {axis.name: _distribution(axis) for axis in axes}
        self._asked: dict[int, Any] = {}

    def suggest(self, trial: int) -> dict[str, Any] | None:
        asked = self._study.ask(self._space)
        self._asked[trial] = asked
        return {
            axis.name: axis.values[asked.params[axis.name]] if axis.finite else axis.rounded(asked.params[axis.name])
            for axis in self._axes
        }

    def tell(self, trial: int, settings: Mapping[str, Any], *, loss: float | None, pruned: bool) -> None:
        """A pruned trial counts as tried with the loss that it had reached; a failed one is left out."""
        import optuna

        state = optuna.trial.TrialState
        ended = state.FAIL if loss is None or not math.isfinite(loss) else state.PRUNED if pruned else state.COMPLETE
        reports = {1: float(loss)} if ended is state.PRUNED and loss is not None else {}
        asked = self._asked.pop(trial, None)
        if asked is not None:
            for step, value in reports.items():
                asked.report(value, step)
            self._study.tell(asked, loss if ended is state.COMPLETE else None, state=ended)
            return
        parameters = {
            axis.name: axis.values.index(settings[axis.name]) if axis.finite else settings[axis.name]
            for axis in self._axes
        }
        self._study.add_trial(
            optuna.trial.create_trial(
                params=parameters, distributions=self._space, state=ended, intermediate_values=reports,
                value=loss if ended is state.COMPLETE else None,
            )
        )  # fmt: skip


def _distribution(axis: Axis) -> Any:
    """Values of a choice are known to Optuna by their place, since it takes neither lists nor two that are equal."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if axis.finite:
        return CategoricalDistribution(range(len(axis.values)))
    log = axis.kind.startswith("log")
    if axis.kind in ("int", "logint"):
        return IntDistribution(int(axis.low), int(axis.high), log=log)
    return FloatDistribution(axis.low, axis.high, log=log)
