"""The processes of one training: joined, alike, and at the run that the first of them has opened."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import torch

from dlcli.compute.ranks import Ranks, here, join, launch_key, restarted
from dlcli.config.layers import flatten
from dlcli.config.settings import TrainConfig
from dlcli.core.errors import ConfigError, DataError, RunError
from dlcli.core.version import __version__
from dlcli.experiment.build import Experiment
from dlcli.runs.onlooker import Onlooker
from dlcli.runs.run import Run, all_runs


def join_ranks(config: TrainConfig, *, asked: bool) -> TrainConfig:
    """Join the other processes of this training, if a launcher has started several, and put their number into the
    settings.

    asked: whether the user has asked for the number in the settings now. ConfigError if another one was started, or for
    settings that only several processes can have.
    """
    ranks = join(config.rank_timeout)
    if ranks.size == config.processes:
        for name in ("sync_batch_norm", "compress_gradients", "shard"):
            if getattr(config, name) and ranks.size == 1:
                raise ConfigError(f"{name} is for several processes: give processes above 1, or leave it out")
        return config
    if ranks.size == 1:
        raise ConfigError(
            f"processes = {config.processes}, but this is one process: start the training with dlcli train, dlcli "
            "resume or torchrun, or take processes = 1"
        )
    if asked:
        raise ConfigError(f"processes = {config.processes}, but {ranks.size} were started: leave the setting out")
    return config.with_values(processes=ranks.size)


def of_this_launch(runs_dir: str | Path) -> Run | None:
    """The run that this launch of torchrun or job of SLURM has begun before it was started anew; None if it is new."""
    if not restarted() or not (key := launch_key()):
        return None
    ranks, number = here(), None
    if ranks.first:
        with contextlib.suppress(StopIteration):
            number = next(run.number for run in all_runs(runs_dir) if _launch_of(run) == key)
    number = ranks.tell(number)
    return None if number is None else Run(Path(runs_dir), number)


def _launch_of(run: Run) -> str | None:
    with contextlib.suppress(RunError):
        return run.info().get("launch")
    return None


def of_first(ranks: Ranks, make: Callable[[], Run]) -> Run:
    """The run that the first process has opened; the others take part in it, and write nothing."""
    run = make() if ranks.first else None
    root, number = ranks.tell(None if run is None else [str(run.root), run.number])
    return Onlooker(Path(root), number) if run is None else run


def check_alike(built: Experiment) -> None:
    """ConfigError or DataError if the processes of a training differ in what has to be the same."""
    ranks, config = built.ranks, built.config.as_dict()
    for name in ("data_dir", "device"):
        config.pop(name)
    told = ranks.gather([__version__, torch.__version__, built.dataset.fingerprint, flatten(config)])
    for rank, (dlcli, engine, fingerprint, settings) in enumerate(told):
        versions = [told[0][:2], [dlcli, engine]]
        where = f"rank {rank} on {ranks.hosts[rank]}"
        if versions[0] != versions[1]:
            first, other = (f"dlcli {own} with torch {torch_}" for own, torch_ in versions)
            raise ConfigError(f"{where} has {other}, and rank 0 has {first}: install the same on all machines")
        if settings != told[0][3]:
            names = [name for name in settings | told[0][3] if settings.get(name) != told[0][3].get(name)]
            raise ConfigError(f"{where} has other settings than rank 0 ({', '.join(names)}): give all the same")
        if fingerprint != told[0][2]:
            raise DataError(f"{where} has other data {built.config.data} than rank 0: give all machines the same")
