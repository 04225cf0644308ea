"""Session: one opened training. The command line, the library and the checks all open one here.

Only here do a new run, a resumed one and an extended one differ: `begun` and `resumed` take the run's lock, restore the
state, decide whether the result will be exact, and record how the training ended.
"""

import contextlib
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from dlcli.checkpoints import checkpoint
from dlcli.checkpoints.checkpoint import Checkpoint
from dlcli.compute.ranks import join
from dlcli.config.layers import flatten
from dlcli.config.settings import TrainConfig
from dlcli.core.blame import asked_for, out_of_memory, told
from dlcli.core.documents import shown
from dlcli.core.errors import BusyError, ConfigError, DivergedError, RankError, ResourceError, RunError
from dlcli.core.files import write_bytes
from dlcli.data.preprocessing import Preprocessing
from dlcli.evaluation.baseline import baseline
from dlcli.experiment.build import Experiment, build, resolve_options
from dlcli.experiment.estimate import check_memory, check_space, memory_told
from dlcli.experiment.kept import Load
from dlcli.experiment.load import import_own, load_data
from dlcli.experiment.restore import preprocessing_of
from dlcli.experiment.teacher import with_teacher_found
from dlcli.runs import events
from dlcli.runs.given_names import create
from dlcli.runs.run import Run, now
from dlcli.runs.tensorboard import Live
from dlcli.training.joining import check_alike, join_ranks, of_first
from dlcli.training.provenance import describe, differences
from dlcli.training.saver import Saver
from dlcli.training.state import TrainingState

# The status of a run that its sweep gave up, and how the reason begins for which it stopped.
PRUNED = "pruned"

# What run.json says of the sweep to which a run belongs.
OF_A_SWEEP = ("sweep", "trial", "seed", "over", "confirms")


@dataclass
class Session:
    """An opened training: what the loop works on.

    info: the content of run.json, updated by the loop. reasons: why the result will not be bit for bit that of a run
    that never stopped; empty if it will be. changes: setting that differs from the run's -> old and new value.
    damage: one sentence for each newer checkpoint that could not be used. tensorboard: the event file, if log asks
    for it. unused: the parameters that had no gradient in the last step, if there are several processes.
    """

    run: Run
    built: Experiment
    state: TrainingState
    info: dict[str, Any]
    reasons: tuple[str, ...] = ()
    changes: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    damage: tuple[str, ...] = ()
    tensorboard: Live | None = None
    unused: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        config, model = self.built.config, self.state.model
        self.ranks = self.built.ranks
        self.ranks.share([*([] if self.built.sharded else model.parameters()), *model.buffers()])
        self.saver = Saver(
            self.run, every=config.checkpoint_every, keep_last=config.keep_last, writes=self.ranks.first
        )  # fmt: skip
        self.saver.saved_at = self.state.step
        self._waited = self.ranks.waited

    def tell_speed(self, *, seconds: float, rate: float) -> None:
        """Put into run.json how fast the processes are, and which part of the time one of them waits for others.

        seconds: since this was last called. rate: samples per second of all together.
        """
        if self.ranks.size == 1:
            return
        waited, self._waited = self.ranks.waited - self._waited, self.ranks.waited
        share = float(self.ranks.sum(torch.tensor(waited, dtype=torch.float64))) / self.ranks.size / max(seconds, 1e-9)
        told = {} if self.built.sharded else {"waiting": round(min(1.0, share), 3)}  # FSDP waits unseen
        self.info["ranks"] = {
            "hosts": self.ranks.hosts,
            "samples_per_second": round(rate, 1),
            "samples_per_second_of_one": round(rate / self.ranks.size, 1),
            **told,
        }

    @property
    def verdict(self) -> str:
        return f"exact: no ({', '.join(self.reasons)})" if self.reasons else "exact: yes"


@contextlib.contextmanager
def begun(
    built: Experiment,
    *,
    runs_dir: str | Path = "runs",
    name: str | None = None,
    command: str = "",
    run: Run | None = None,
    trial: Mapping[str, Any] | None = None,
    pruning: Mapping[str, Any] | None = None,
    repository: Mapping[str, Any] | None = None,
) -> Iterator[Session]:
    """Open a new run in the folder `runs_dir`.

    name: of the run; ConfigError if another run in the folder has it. command: the command line, recorded in run.json.
    run: a run that was made already, and has no checkpoint. trial: what run.json says of the sweep it belongs to.
    pruning: what it says of the run whose model was cut, and of what was. repository: what it says of the
        code's, if that is known already.
    Raises ResourceError (exit 6), before the run gets a number, if memory or disk space is too small.
    """
    check_ready(built, runs_dir)
    check_alike(built)
    run = of_first(built.ranks, lambda: create(runs_dir, name=name) if run is None else run)
    with run.locked():
        built.ranks.barrier()
        run.cut_back({"metrics_bytes": 0, "log_bytes": 0})
        info = describe(built, command, repository) | {"baseline": baseline(built)} | dict(trial or {})
        info |= {} if pruning is None else {"pruning": dict(pruning)}
        session = Session(run, built, TrainingState(built), info)
        with _recorded(session):
            if built.start is not None:
                session.saver.write_first(session.state, info=session.info)
            yield session


def check_ready(built: Experiment, runs_dir: str | Path) -> None:
    """All that can be checked before a run gets a number: ConfigError, or ResourceError if memory or disk space is too
    small."""
    _check_log(built.config)
    check_memory(built)
    check_space(built, runs_dir)


@contextlib.contextmanager
def resumed(
    run: Run,
    changes: Mapping[str, Any] | None = None,
    *,
    exact: bool = False,
    command: str = "",
    load: Load = load_data,
) -> Iterator[Session]:
    """Open a run to continue from its last checkpoint, or from the start if it has none.

    changes: settings to change, such as {"epochs": 200} or {"model.dropout": 0.1}. Data that has changed is a
        DataError (exit 3), unless `data` or `data.NAME` is among the changes.
    exact: RunError (exit 4) unless the result will be bit for bit that of a run that never stopped.
    load: where the data comes from.
    Raises BusyError (exit 9) if another process trains the run, ConfigError if it has nothing left to do.
    """
    changes = dict(changes or {})
    stored = run.config()
    ranks = join(stored.under(changes).rank_timeout)
    before = ranks.tell(_info(run) if ranks.first else None)
    if before["status"] == "running":
        raise BusyError(f"{run} is being trained by process {before.get('pid')} on {before.get('host')}")
    config = join_ranks(with_teacher_found(stored.under(changes), run.root), asked="processes" in changes)
    run = of_first(ranks, lambda: run)
    _check_log(config)
    _check_start_is_kept(run, stored, config)
    import_own(config, runs_dir=run.root)
    with run.locked():
        before = ranks.tell(_info(run) if ranks.first else None)
        if before.get("parents"):
            raise RunError(
                f"{run} is an average of {len(before['parents'])} checkpoints: it has no training to go on from"
            )
        if (before.get("pruning") or {}).get("trained") is False:
            raise RunError(
                f"{run} was pruned without training: train it in a new run, dlcli train {stored.model} --weights "
                f"{run} --pruned {stored.pruned}"
            )
        saved = _last(run)
        if saved is None and (stored.pretrained or stored.weights):
            raise RunError(f"{run} was stopped before the weights that it starts from were saved: train a new run")
        if saved is not None:
            _check_state_is_kept(run, stored, config)
        other_data = any(name.split(".")[0] == "data" for name in changes) or not (run.path / "data.json").exists()
        built = build(
            config,
            weights=saved.weights if saved else None,
            fingerprint=None if other_data else run.data().get("fingerprint"),
            spelled=_spelled(run, changes) if saved is not None else None,
            load=load,
        )
        if "teacher" not in changes:
            _check_teacher_is_the_same(before, built)
        check_alike(built)
        _check_something_is_left(run, built, saved, finished=before["status"] == "finished")
        check_memory(built)
        now_is = describe(built, command)
        settings = (flatten(_complete(stored).as_dict()), flatten(built.config.as_dict()))
        reasons = differences(before | {"config": settings[0]}, now_is | {"config": settings[1]}) if saved else []
        if reasons and exact:
            raise RunError(f"exact: no ({', '.join(reasons)}); without --exact it continues anyway")
        state = TrainingState(built)
        if saved is not None:
            frozen = [(one.freeze, one.unfreeze_at) for one in (stored, config)]
            state.restore(saved, regrouped=frozen[0] != frozen[1])
        session = Session(
            run,
            built,
            state,
            _continued(before, now_is, state, saved, command, reasons) | {"baseline": baseline(built)},
            reasons=tuple(reasons),
            changes={k: (settings[0].get(k), v) for k, v in settings[1].items() if settings[0].get(k) != v},
            damage=saved.damage if saved else (),
        )
        run.cut_back(saved.state["training"] if saved else {"metrics_bytes": 0, "log_bytes": 0})
        with _recorded(session, earlier=float(before.get("seconds") or 0.0)):
            yield session


@contextlib.contextmanager
def _recorded(session: Session, *, earlier: float = 0.0) -> Iterator[None]:
    """Write config.json, data.json and run.json, and at the end how the training ended.

    earlier: seconds of training before this session.
    """
    run, built, info = session.run, session.built, session.info
    run.write_config(built.config)
    run.write_data(built.dataset.preprocessing.as_dict(), built.dataset.fingerprint)
    run.write_info(info)
    started = time.monotonic()
    suppressed: tuple[type[Exception], ...] = (ResourceError,)  # after an error, a full disk must not hide that error
    try:
        if built.config.log == "tensorboard" and built.ranks.first:
            session.tensorboard = Live(run, info)
        yield
        session.saver.close()
        pruned = str(info["stop"]).startswith(PRUNED)
        info["status"] = PRUNED if pruned else "interrupted" if info["stop"] else "finished"
        suppressed = ()
    except GeneratorExit:
        info["status"], info["stop"] = "interrupted", "no more records were wanted"
        raise
    except (KeyboardInterrupt, SystemExit) as error:
        info["status"], info["stop"] = "interrupted", f"stopped at once ({type(error).__name__})"
        raise
    except RankError as error:
        info["status"], info["reason"] = "failed", str(error)
        raise
    except DivergedError as error:
        info["status"], info["reason"], info["diverged"] = "diverged", str(error), error.details
        raise
    except BaseException as error:
        if isinstance(error, Exception) and out_of_memory(error):
            message = f"there is not enough memory{asked_for(error)}: {memory_told(built)}"
            info["status"], info["reason"] = "failed", message
            raise ResourceError(message) from error
        info["status"], info["reason"] = "failed", told(error)
        with contextlib.suppress(ResourceError):
            write_bytes(run.path / "error.log", traceback.format_exc().encode(errors="replace"))
        raise
    finally:
        info["ended"], info["seconds"] = now(), round(earlier + time.monotonic() - started, 3)
        with contextlib.suppress(*suppressed):
            session.saver.close()  # best weights that have not been saved yet are written even after an error
        with contextlib.suppress(*suppressed):
            if session.tensorboard is not None:
                session.tensorboard.end(info["status"])
        with contextlib.suppress(*suppressed):
            run.write_info(info)


def _check_log(config: TrainConfig) -> None:
    """ConfigError if what `log` needs is not installed."""
    if config.log == "tensorboard":
        events.check_installed(asked="log = tensorboard")


def _info(run: Run) -> dict[str, Any]:
    """The content of run.json; status `dead` if the run was killed before the file was written."""
    if not (run.path / "run.json").exists():
        return {"status": "dead"}
    return run.info()


def _last(run: Run) -> Checkpoint | None:
    """The last checkpoint of a run; None if it has none."""
    if not checkpoint.exists(run.checkpoints, "last"):
        return None
    return checkpoint.load(run.checkpoints, "last", with_training=True)


def _check_state_is_kept(run: Run, stored: TrainConfig, config: TrainConfig) -> None:
    """ConfigError for a change that the state in the run's checkpoint does not fit."""
    if config.optimizer != stored.optimizer:
        raise ConfigError(
            f"optimizer = {config.optimizer}, but {run} has the state of {stored.optimizer}: leave it, or train a new "
            "run"
        )
    if config.ema and not stored.ema:
        raise ConfigError(f"ema = {config.ema}, but {run} has no average of its weights: leave it, or train a new run")


def _check_teacher_is_the_same(before: Mapping[str, Any], built: Experiment) -> None:
    """RunError if the teacher of a run has other weights than when the run was trained."""
    known = before.get("teacher")
    if built.teacher is None or known is None or known.get("sha256") == built.teacher.identity["sha256"]:
        return
    now_is = built.teacher.identity
    raise RunError(
        f"teacher {now_is['run']} has changed: its best checkpoint is {now_is['checkpoint']}, and the run was trained "
        f"with {shown(known.get('checkpoint'))}; give --teacher {now_is['run']} to go on with it as it is"
    )


def _spelled(run: Run, changes: Mapping[str, Any]) -> Preprocessing | None:
    """The preprocessing of a language model, whose tokens belong to its weights; None for other models. ConfigError if
    others are asked for."""
    known = None
    try:
        known = preprocessing_of(run) if (run.path / "data.json").exists() else None
    except RunError:  # what is damaged is learned again of the same data, to the same
        if any(name.startswith(("data", "val_", "test_")) for name in changes):
            raise
    if known is None or known.spelling is None:
        return None
    name = next((name for name in ("data.tokens", "data.vocabulary", "data.length") if name in changes), None)
    if name is not None:
        raise ConfigError(f"{name} = {changes[name]}, but the weights of {run} know its tokens: train a new run")
    return known


def _check_start_is_kept(run: Run, stored: TrainConfig, config: TrainConfig) -> None:
    """ConfigError for other weights to start from: the run has started."""
    for name in ("pretrained", "weights", "partial", "pruned"):
        if getattr(config, name) != getattr(stored, name):
            raise ConfigError(f"{name} = {getattr(config, name)}, but {run} has started already: train a new run")


def _complete(stored: TrainConfig) -> TrainConfig:
    """With the options of the model and the data set that there were not yet when the run was made: their defaults are
    what it was trained with."""
    try:
        return resolve_options(stored)
    except ConfigError:  # an option that there is no longer, or none of its own code
        return stored


def _check_something_is_left(run: Run, built: Experiment, saved: Checkpoint | None, *, finished: bool) -> None:
    """ConfigError for a run that has done all its steps, or more than its settings now ask for."""
    done, total = 0 if saved is None else saved.state["step"], built.total_steps
    name = "steps" if built.config.epochs is None else "epochs"
    length = getattr(built.config, name)
    if done > total:
        raise ConfigError(
            f"{name} = {length} ends at step {total:,}, but {run} has done {done:,} steps: take a larger --{name}"
        )
    if finished and done == total:
        raise ConfigError(f"{run} has done its {length} {name}: extend it with --{name} above {length}")


def _continued(
    before: dict[str, Any],
    fresh: dict[str, Any],
    state: TrainingState,
    saved: Checkpoint | None,
    command: str,
    reasons: Sequence[str],
) -> dict[str, Any]:
    """The content of run.json for a run that continues. reasons: see Session."""
    status = "dead" if before["status"] == "running" else before["status"]  # this process holds the lock
    resume = {"when": now(), "after": status, "step": state.step, "command": command, "not_exact": list(reasons)}
    resumes = [*before.get("resumes", []), resume]
    info = fresh | {
        name: before[name] for name in ("started", "command", "weights", "pruning", *OF_A_SWEEP) if name in before
    }
    if state.step:
        info |= {name: before[name] for name in ("epochs_done", "metrics") if name in before}
    if saved is not None and saved.state["metrics"]:  # run.json may be older than the checkpoint
        info |= {"epochs_done": saved.state["epoch"], "metrics": saved.state["metrics"]}
    return info | {"step": state.step, "best": state.best, "resumes": resumes}
