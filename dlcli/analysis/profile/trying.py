"""Settings that may make a training faster, measured in turns: A B C A B C, so that a busy machine hits all."""

import math
import statistics
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

from dlcli.compute import devices
from dlcli.compute.threads import usable_cores
from dlcli.core.errors import ConfigError, DlcliError
from dlcli.experiment.build import Experiment, build
from dlcli.experiment.kept import Load
from dlcli.experiment.load import load_data
from dlcli.training.practice import practice
from dlcli.training.step_clock import Timer
from dlcli.training.train import fit

AS_IT_IS = "as it is"
AGAIN = "as it is, again"
_ROUNDS = 5
_FIRST = 2  # steps of each turn that do not count
_SECONDS, _MOST_STEPS = 0.2, 1000  # of a turn: at least, and at most unless more are asked for
_WORKERS = "data.workers"
_CLEAR = 0.03  # a smaller difference is none


@dataclass(frozen=True)
class Choice:
    """A setting to try, as options of `dlcli train`. changes: a layer over the config. reason: why it cannot be tried,
    if so."""

    name: str
    changes: Mapping[str, Any]
    reason: str = ""


def choices(built: Experiment) -> list[Choice]:
    """Threads, batch size, memory format, workers, precision and compilation."""
    config, device, cores = built.config, built.device, usable_cores()
    found = []
    if device.type == "cpu":
        found += [Choice(f"--threads {n}", {"threads": n}) for n in sorted({1, cores} - {built.threads})]
        if cores == 1:
            found.append(Choice("--threads", {}, "there is one core"))
    else:
        found.append(Choice("--threads", {}, f"{device} computes, not the processor"))
    samples = len(built.dataset.train)
    sizes = [n for n in (2 * built.batch_size, 4 * built.batch_size) if n <= samples]
    if config.batch_size == "full":
        found.append(Choice("--batch-size", {}, "batch_size = full takes all samples at once"))
    elif not sizes:
        found.append(Choice("--batch-size", {}, f"there are {samples:,} training samples, less than twice a batch"))
    else:
        found += [Choice(f"--batch-size {n}", {"batch_size": n}) for n in sizes]
    images = built.dataset.spec.kind == "image"
    found.append(
        Choice("channels-last", {}, "images and weights are stored so already" if images else "the data is not images")
    )
    found += _workers(built)
    found.append(_precision(built))
    if config.compile:
        found.append(Choice("--compile", {}, "it is in use already"))
    else:
        found.append(Choice("--compile", {"compile": True}))
    return found


def _workers(built: Experiment) -> list[Choice]:
    """One, as many as there are cores, and twice as many."""
    if not built.dataset.train.is_decoded:
        return [Choice("--workers", {}, "no images are decoded during the training")]
    cores, given = usable_cores(), built.config.data_options["workers"]
    now = cores if given == "auto" else given
    return [Choice(f"--workers {n}", {_WORKERS: n}) for n in sorted({1, cores, 2 * cores} - {now})]


def _precision(built: Experiment) -> Choice:
    name = "--precision bf16"
    if built.config.precision in ("bf16", "fp16"):
        return Choice(name, {}, f"precision = {built.config.precision} already")
    try:
        devices.check_precision("bf16", built.device)
    except ConfigError as error:
        return Choice(name, {}, str(error))
    return Choice(name, {"precision": "bf16"})


def try_settings(
    built: Experiment, *, steps: int, tell: Callable[[str], None] = lambda line: None
) -> list[dict[str, Any]]:
    """A row for each setting: name, samples_per_second (the median), ratio to the settings as they are, low and high
    (the ratios of the rounds without the smallest and the largest), verdict (helps, hurts, no difference), and reason
    where it could not be tried.

    The training takes at least `steps` steps of each in all, in rounds. As it is it has two turns in each round, whose
    ratio is what the machine alone changes: only a larger difference counts. tell: called with a line now and then.
    """
    rows: dict[str, dict[str, Any]] = {}
    with ExitStack() as opened:
        turns: dict[str, _Contender] = {}
        for choice in [Choice(AS_IT_IS, {}), *choices(built), Choice(AGAIN, {})]:
            rows[choice.name] = {"setting": choice.name, "reason": choice.reason or None}
            if choice.reason:
                continue
            tell(f"building: {choice.name}")
            try:
                contender = opened.enter_context(closing(_Contender(built, choice, steps=steps)))
                contender.warm_up()
                turns[choice.name] = contender
            except DlcliError as error:
                rows[choice.name]["reason"] = str(error)
            except Exception as error:  # of the compiler, which may be missing
                if not choice.changes.get("compile"):
                    raise
                rows[choice.name]["reason"] = f"torch.compile fails: {type(error).__name__}"
        rates: dict[str, list[float]] = {name: [] for name in turns}
        for number in range(_ROUNDS):
            tell(f"round {number + 1} of {_ROUNDS}")
            for name, contender in turns.items():
                rates[name].append(contender.rate())
    for name, found in rates.items():
        ratios = sorted(a / b for a, b in zip(found, rates[AS_IT_IS], strict=True))
        rows[name] |= {"samples_per_second": statistics.median(found), "ratio": statistics.median(ratios)}
        rows[name] |= {"low": ratios[1], "high": ratios[-2]}
    noise = rows[AGAIN]
    for name in rates.keys() - {AS_IT_IS, AGAIN}:
        row = rows[name]
        row["verdict"] = verdict(row["low"], row["high"], noise=(noise["low"], noise["high"]))
    return list(rows.values())


def verdict(low: float, high: float, *, noise: tuple[float, float]) -> str:
    """Of the ratios of the rounds to the settings as they are. noise: the ratios of these to themselves."""
    if low > max(1 + _CLEAR, noise[1]):
        return "helps"
    return "hurts" if high < min(1 - _CLEAR, noise[0]) else "no difference"


class _Contender:
    """A training with some settings, which goes on for a few steps at each turn."""

    def __init__(self, built: Experiment, choice: Choice, *, steps: int) -> None:
        config = built.config.under(choice.changes) if choice.changes else built.config
        weights = {name: tensor.clone() for name, tensor in built.model.state_dict().items()}
        load: Load = load_data if _WORKERS in choice.changes else lambda config, **how: built.dataset
        self.built = build(config, weights=weights, load=load)
        self._steps = max(2, -(-steps // _ROUNDS))
        self._timer = Timer(built.device)
        self._opened = ExitStack()
        whole = (_ROUNDS + 1) * (max(self._steps, _MOST_STEPS) + _FIRST)
        self._session = self._opened.enter_context(practice(self.built, self._timer, steps=whole))

    def warm_up(self) -> None:
        """A first turn, in which torch.compile compiles; the later ones are long enough to be measured."""
        rate = self.rate()
        samples = self._timer.times[-1][0]
        self._steps = max(self._steps, min(math.ceil(_SECONDS * rate / samples), _MOST_STEPS - _FIRST))

    def rate(self) -> float:
        """Samples per second in one turn."""
        devices.set_precision(self.built.config.precision)
        self._timer.begin(self._steps + _FIRST)
        with closing(fit(self._session, stop=self._timer.stop)) as records:
            for _ in records:
                pass
        self._session.saver.wait()  # or it would write while another has its turn
        counted = self._timer.times[_FIRST:]
        return sum(samples for samples, _ in counted) / sum(seconds for _, seconds in counted)

    def close(self) -> None:
        self._opened.close()
