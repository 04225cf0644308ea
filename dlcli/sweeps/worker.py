"""A process of a sweep: it imports torch once, keeps the data, and trains one run after the other."""

import contextlib
import os
import select
import shlex
import signal
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from dlcli.checkpoints import checkpoint
from dlcli.compute.ranks import here, join
from dlcli.config.layers import stack
from dlcli.config.settings import TrainConfig
from dlcli.core.blame import told
from dlcli.core.errors import BusyError, ConfigError, DivergedError, DlcliError, RankError
from dlcli.experiment.build import Experiment, build, resolve_options
from dlcli.experiment.kept import Kept
from dlcli.experiment.load import import_own
from dlcli.experiment.teacher import with_teacher_found
from dlcli.runs.run import Run
from dlcli.sweeps.messages import receive, send
from dlcli.sweeps.space import shown
from dlcli.training.launch import launch, tell_launcher
from dlcli.training.provenance import ask_git
from dlcli.training.records import Row
from dlcli.training.session import PRUNED, Session, begun, check_ready, resumed
from dlcli.training.signals import Stop
from dlcli.training.train import fit

# How often the processes of a run are started anew when one of them has failed.
_RESTARTS = 2

_LEFT = "the process that drives the sweep has ended"


def work(connection: Connection, runs_dir: str, threads: int, *, device: str = "", alone: bool = True) -> None:
    """Do what is asked until there is nobody to ask, or a signal stops it, after a checkpoint.

    threads: the most for each run. device: of CUDA, or empty. alone: whether nobody else gets a Ctrl-C that it gets.
    """
    for number in () if alone else (signal.SIGINT, signal.SIGHUP):  # the driver gets it, and tells its workers
        signal.signal(number, signal.SIG_IGN)
    if device:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    worker = _Worker(connection, Path(runs_dir), threads)
    with contextlib.suppress(EOFError):
        while True:
            worker.serve(receive(connection))


class _Worker:
    def __init__(self, connection: Connection, runs_dir: Path, threads: int) -> None:
        self._connection, self._runs_dir, self._threads = connection, runs_dir, threads
        self._kept = Kept()
        self._repository = ask_git()  # of the code that is loaded now, with which it trains every run
        self._waiting = select.poll()
        self._waiting.register(connection.fileno(), select.POLLIN)
        self._reason: str | None = None
        self._speaks = True  # unless it is one of several processes of a run, and not the first

    def serve(self, message: Mapping[str, Any]) -> None:
        if message["do"] == "check":
            self._answer_check(message["layers"])
        elif message["do"] == "train":
            config = self._config(message)
            if config is None or config.processes == 1:
                self._train(message)
            else:
                self._train_in_processes(message, config)

    def _answer_check(self, layers: list[dict[str, Any]]) -> None:
        try:
            for layer in layers:
                config = TrainConfig.from_flat(layer)
                import_own(config, runs_dir=self._runs_dir)
                resolve_options(config)
        except Exception as error:
            self._send("refused", **_failure(error))
        else:
            self._send("valid")

    def _config(self, message: Mapping[str, Any]) -> TrainConfig | None:
        """The settings of a run; None if they cannot be read, which is told when it is trained."""
        try:
            if message["run"] is not None and (Run(self._runs_dir, message["run"]).path / "config.json").exists():
                return Run(self._runs_dir, message["run"]).config()
            return TrainConfig.from_flat(stack(message["base"], message["settings"], {"seed": message["seed"]}))
        except DlcliError:
            return None

    def _train_in_processes(self, message: Mapping[str, Any], config: TrainConfig) -> None:
        """As `_train`, in several processes, of which the first one speaks with the driver."""

        def work(again: Run | None) -> None:
            ranks = join(config.rank_timeout)
            self._speaks, self._threads = ranks.first, max(1, self._threads // ranks.size)
            self._train(message if again is None else {**message, "run": again.number})

        def quiet(line: str) -> None:
            pass

        try:
            import_own(config, runs_dir=self._runs_dir)
            self._kept.load_before_fork(resolve_options(config))
            code = launch(
                work, processes=config.processes, max_restarts=_RESTARTS, tell=quiet,
                sentence=lambda error: (told(error), error.exit_code if isinstance(error, DlcliError) else 1),
            )  # fmt: skip
        except Exception as error:
            self._send("ended", status="failed", busy=False, **_failure(error))
        else:
            if code:
                raise SystemExit(code)

    def _train(self, message: Mapping[str, Any]) -> None:
        """Train a run, new or from its last checkpoint, and tell how it goes. RankError if it is one of several
        processes of which another one has failed."""
        self._reason = None
        stop = Stop()
        try:
            with stop.receiving(), self._opened(message) as session:
                if session is not None:
                    tell_launcher(session.run)
                    self._follow(session, stop, answered=message["prunes"])
        except RankError:
            raise  # the launcher knows the cause, and tells it
        except Exception as error:
            if not self._speaks:
                raise
            status = "diverged" if isinstance(error, DivergedError) else "failed"
            self._send("ended", status=status, busy=isinstance(error, BusyError), **_failure(error))
        else:
            if session is not None:
                info = session.info
                self._send("ended", status=info["status"], reason=info["stop"], steps=info["step"], best=info["best"])
        if stop.signal is not None:
            raise SystemExit(128 + stop.signal)

    @contextlib.contextmanager
    def _opened(self, message: Mapping[str, Any]) -> Any:
        """A session; None if it was refused, or the driver has the answer to it already."""
        number = message["run"]
        if number is not None and checkpoint.exists(Run(self._runs_dir, number).checkpoints, "last"):
            with resumed(Run(self._runs_dir, number), load=self._kept.load) as session:
                yield session
            return
        layer = stack(message["base"], message["settings"], {"seed": message["seed"]})
        try:
            built = self._built(layer)
            check_ready(built, self._runs_dir)
            if built.dataset.val is None:
                raise ConfigError(
                    "nothing is held out for validation, by which a sweep chooses: take val_fraction above 0"
                )
        except Exception as error:
            self._send("refused", **_failure(error))
            yield None
            return
        if number is None:
            settings = built.config.as_dict()
            self._send("built", config=settings, fingerprint=built.dataset.fingerprint, steps=built.total_steps)
            number = self._answer().get("run") if self._speaks else None
        number = here().tell(number)
        if number is None:
            yield None
            return
        trial = {name: message[name] for name in ("sweep", "trial", "seed", "confirms")} | {"over": message["settings"]}
        run, command = Run(self._runs_dir, number), _command(layer)
        with begun(
            built, runs_dir=self._runs_dir, command=command, run=run, trial=trial, repository=self._repository
        ) as session:
            yield session

    def _built(self, layer: dict[str, Any]) -> Experiment:
        built = self._build(TrainConfig.from_flat(layer))
        if built.device.type == "cpu" and built.config.threads == "auto" and built.threads > self._threads:
            # Their number decides how sums are rounded, so that it is a setting of the run.
            built = self._build(TrainConfig.from_flat(stack(layer, {"threads": self._threads})))
        return built

    def _build(self, config: TrainConfig) -> Experiment:
        import_own(config, runs_dir=self._runs_dir)
        return build(with_teacher_found(config, self._runs_dir), runs_dir=self._runs_dir, load=self._kept.load)

    def _follow(self, session: Session, stop: Stop, *, answered: bool) -> None:
        """Train, and report each evaluation. answered: whether the driver then says if the run goes on."""

        def reason() -> str | None:
            if self._speaks and self._reason is None and self._waiting.poll(0):
                self._heard()
            return self._reason or stop.reason()

        for record in fit(session, stop=reason):
            if not isinstance(record, Row):
                continue
            best = session.info["best"] or {}
            self._send("evaluated", step=record.step, steps=record.steps, best=best)
            if answered and self._speaks and record.step < record.steps and self._reason is None:
                why = self._answer().get("prune")
                self._reason = self._reason or (f"{PRUNED}: {why}" if why else None)

    def _answer(self) -> dict[str, Any]:
        """What the driver answers, empty if it has ended; a request to stop, before it, is remembered."""
        while self._reason != _LEFT:
            message = self._heard()
            if message["do"] != "stop":
                return message
        return {}

    def _heard(self) -> dict[str, Any]:
        try:
            message = receive(self._connection)
        except EOFError:
            message = {"do": "stop", "reason": _LEFT}
        if message["do"] == "stop":
            self._reason = message["reason"]
        return message

    def _send(self, do: str, **values: Any) -> None:
        if not self._speaks:
            return
        try:
            send(self._connection, do, **values)
        except (BrokenPipeError, ConnectionResetError):
            self._reason = _LEFT


def _failure(error: Exception) -> dict[str, Any]:
    exit_code = error.exit_code if isinstance(error, DlcliError) else 1
    return {"reason": told(error), "exit_code": exit_code}


def _command(layer: Mapping[str, Any]) -> str:
    """The command that trains the same outside the sweep."""
    rest = [f"{name}={shown(value) if not isinstance(value, float) else repr(value)}"
            for name, value in layer.items() if name != "model"]  # fmt: skip
    return shlex.join(["dlcli", "train", str(layer["model"]), *(w for text in rest for w in ("--set", text))])
