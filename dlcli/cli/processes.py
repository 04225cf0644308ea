"""Runs a training in this process, as one of those that torchrun or srun has started, or in several that it starts."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from dlcli.core.errors import ConfigError

if TYPE_CHECKING:
    from dlcli.config.settings import TrainConfig
    from dlcli.experiment.kept import Load
    from dlcli.runs.run import Run

Devices = Annotated[
    str | None,
    typer.Option("--devices", metavar="0,1", help="With --processes: the CUDA device of each."),
]
Restarts = Annotated[
    str | None,
    typer.Option(
        "--max-restarts",
        metavar="N",
        help="With --processes: how often to start them anew, from the last checkpoint, after one has failed.",
    ),
]


def in_processes(
    config: "TrainConfig",
    work: Callable[["Load", "Run | None"], None],
    *,
    devices: str | None,
    max_restarts: str | None,
) -> None:
    """Call `work` in this process, or in as many as `config.processes` says.

    work: gets where the data comes from, and the run that a restart goes on with. devices, max_restarts: the options.
    """
    from dlcli.cli.output import silence
    from dlcli.compute.ranks import join, launched, leave
    from dlcli.experiment.load import load_data

    places = [word.strip() for word in (devices or "").split(",") if word.strip()]
    if not all(word.isdigit() for word in places):
        raise ConfigError(f"--devices {devices} is not a list of numbers such as 0,1")
    if not (max_restarts or "0").isdigit():
        raise ConfigError(f"--max-restarts {max_restarts} is not a number from 0 on")
    restarts = int(max_restarts or 0)
    if launched() or config.processes == 1:
        for option, given in (("--devices", devices), ("--max-restarts", restarts)):
            if given:
                raise ConfigError(f"{option} {given} is for processes that dlcli starts: give --processes above 1")
        if not join(config.rank_timeout).first:
            silence()
        work(load_data, None)
        leave()
        return
    from dlcli.cli.output import say
    from dlcli.experiment.build import resolve_options
    from dlcli.experiment.kept import Kept
    from dlcli.training.launch import launch

    if config.shard:
        import torch.distributed.fsdp  # noqa: F401  # takes seconds: once, before the fork
    kept = Kept()
    kept.load_before_fork(resolve_options(config))

    def in_one(run: "Run | None") -> None:
        if not join(config.rank_timeout).first:
            silence()
        try:
            work(kept.load, run)
        except typer.Exit as asked:
            raise SystemExit(asked.exit_code) from None

    code = launch(
        in_one, processes=config.processes, devices=places, max_restarts=restarts, tell=say, sentence=_sentence
    )  # fmt: skip
    if code:
        raise typer.Exit(code)


def _sentence(error: BaseException) -> tuple[str, int]:
    from dlcli.cli.main import told

    return told(error)
