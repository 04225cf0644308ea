"""The training loop, top to bottom. It yields records; bars, tables and notebooks all read the same ones."""

import contextlib
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dlcli.checkpoints import checkpoint
from dlcli.checkpoints.checkpoint import Checkpoint
from dlcli.compute.devices import autocast
from dlcli.compute.schedules import learning_rate
from dlcli.compute.threads import bound, places
from dlcli.config.intervals import interval
from dlcli.config.settings import TrainConfig
from dlcli.core.errors import DivergedError, ResourceError
from dlcli.core.files import write_bytes
from dlcli.data import batches
from dlcli.data.batches import Batch
from dlcli.evaluation.measure import finite, measure
from dlcli.experiment.build import Experiment, build
from dlcli.experiment.estimate import check_space
from dlcli.experiment.load import import_own
from dlcli.runs.run import Run, now
from dlcli.tasks.task import Task
from dlcli.training import compiling
from dlcli.training.provenance import describe
from dlcli.training.saver import Saver
from dlcli.training.state import TrainingState
from dlcli.training.watch import Watch

_PROGRESS_SECONDS = 0.2

# The metrics that fit on the line of an epoch; all are in metrics.csv.
_TOLD = ("loss", "accuracy", "auc", "r2", "bits_per_char")


@dataclass(frozen=True)
class Progress:
    """Where the run is, several times a second. loss: mean over the samples since the last row."""

    epoch: int
    step: int
    steps: int
    loss: float | None
    samples_per_second: float


@dataclass(frozen=True)
class Epoch:
    """The row of an evaluation: the same values as in metrics.csv.

    metrics: train/loss, and val/... where there is a validation split; None where undefined.
    seconds: of training since the last such row, without evaluation. best: whether the monitored metric
    is the best so far.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    metrics: dict[str, float | None]
    lr: float
    seconds: float
    samples_per_second: float
    best: bool

    @property
    def loss(self) -> float | None:
        return self.metrics["train/loss"]

    def __str__(self) -> str:
        shown = {n: v for n, v in self.metrics.items() if n.rpartition("/")[2] in _TOLD}
        values = "  ".join(f"{name} {_short(value)}" for name, value in shown.items())
        mark = "  best" if self.best else ""
        return f"epoch {self.epoch}/{self.epochs}  {values}  {self.samples_per_second:,.0f} samples/s{mark}"


def train(
    config: TrainConfig, *, runs_dir: str | Path = "runs", stop: Callable[[], str | None] | None = None
) -> Iterator[Epoch]:
    """Train `config` in a new run and yield a record an evaluation. See `fit`."""
    import_own(config, runs_dir=runs_dir)
    built = build(config)
    check_space(built, runs_dir)
    for record in fit(built, Run.create(runs_dir), stop=stop):
        if isinstance(record, Epoch):
            yield record


def resume(run: Run, *, stop: Callable[[], str | None] | None = None, **changes: Any) -> Iterator[Epoch]:
    """Go on with a run where its last checkpoint stands and yield a record an evaluation.

    changes: settings to change, such as epochs=200. With `data` or `data_options` among them the data may have
        changed; else that is a DataError (exit 3). See `fit`.
    """
    config, saved = run.config().replace(**changes), standing(run)
    import_own(config, runs_dir=run.root)
    anew = bool({"data", "data_options"} & changes.keys()) or not (run.path / "data.json").exists()
    fingerprint = None if anew else run.data().get("fingerprint")
    built = build(config, weights=saved.weights if saved else None, fingerprint=fingerprint)
    for record in fit(built, run, stop=stop, saved=saved):
        if isinstance(record, Epoch):
            yield record


def standing(run: Run) -> Checkpoint | None:
    """The last checkpoint of a run, to go on from; None when it stopped before there was one."""
    if not checkpoint.exists(run.checkpoints, "last"):
        return None
    return checkpoint.load(run.checkpoints, "last", with_training=True)


def fit(
    built: Experiment,
    run: Run,
    *,
    stop: Callable[[], str | None] | None = None,
    saved: Checkpoint | None = None,
    command: str = "",
    log: Sequence[str] = (),
) -> Iterator[Progress | Epoch]:
    """Train in `run` and yield records.

    command, log: the command line, and lines to begin the log with, for the record.

    saved: the run's last checkpoint, to go on from. Without it the run begins, or begins again in its folder.
    stop: asked after every step; a reason (such as "SIGINT") ends the run after a checkpoint, as
        `interrupted`. So does a consumer that takes no more records.
    Raises DivergedError (exit 5) when the loss is no longer finite; the last checkpoint is then the last
    one with finite weights. Raises BusyError (exit 9) when another process trains the run.
    """
    torch.set_num_threads(built.threads)
    with run.locked():
        state = TrainingState(built)
        info = describe(built, command)
        earlier = 0.0
        if saved is not None:
            state.restore(saved)
        if (run.path / "run.json").exists():
            info, earlier = _continued(run, info, state, saved, command)
            run.cut_back(saved.state["training"] if saved else {"metrics_bytes": 0, "log_bytes": 0})
        run.write_config(built.config)
        run.write_data(built.dataset.preprocessing.as_dict(), built.dataset.fingerprint)
        run.write_info(info)
        for line in log:
            run.log(line)
        started = time.monotonic()
        saver = Saver(run, every=built.config.checkpoint_every, keep_last=built.config.keep_last)
        suppressed: tuple[type[Exception], ...] = (
            ResourceError,
        )  # a full disk is told by the error that is on its way
        try:
            records = _in_place(_loop(built, run, state, saver, info, stop), built.threads)
            yield from _judging_compilation(records, built, info) if built.config.compile else records
            saver.close()
            info["status"] = "interrupted" if info["stop"] else "finished"
            suppressed = ()
        except GeneratorExit:
            info["status"], info["stop"] = "interrupted", "no more records were wanted"
            raise
        except (KeyboardInterrupt, SystemExit) as error:
            info["status"], info["stop"] = "interrupted", f"stopped at once ({type(error).__name__})"
            raise
        except DivergedError as error:
            info["status"], info["reason"], info["diverged"] = "diverged", str(error), error.details
            raise
        except torch.OutOfMemoryError as error:
            message = f"out of memory on {built.device} at batch_size = {built.batch_size}: take a smaller one"
            info["status"], info["reason"] = "failed", message
            raise ResourceError(message) from error
        except BaseException as error:
            info["status"], info["reason"] = "failed", str(error) or type(error).__name__
            with contextlib.suppress(ResourceError):
                write_bytes(run.path / "error.log", traceback.format_exc().encode(errors="replace"))
            raise
        finally:
            info["ended"], info["seconds"] = now(), round(earlier + time.monotonic() - started, 3)
            with contextlib.suppress(*suppressed):
                saver.close()  # a copy that waited for its turn outlives whatever happened
            with contextlib.suppress(*suppressed):
                run.write_info(info)


def _in_place(
    records: Generator[Progress | Epoch, None, None], threads: int
) -> Generator[Progress | Epoch, None, None]:
    """The records, computed by threads that are kept on a core each; who takes them is not."""
    with contextlib.closing(records):
        kept = places(threads)
        while True:
            with bound(kept):
                record = next(records, None)
            if record is None:
                return
            yield record


def _loop(
    built: Experiment,
    run: Run,
    state: TrainingState,
    saver: Saver,
    info: dict[str, Any],
    stop: Callable[[], str | None] | None,
) -> Generator[Progress | Epoch, None, None]:
    config, device, task, data = built.config, built.device, built.task, built.dataset
    model = torch.compile(built.model) if config.compile else built.model
    blank = data.blank()
    context = autocast(config.precision, device)
    optimizer, scaler = state.optimizer, state.scaler
    watch = Watch(built)

    steps_per_epoch, batch_size = built.steps_per_epoch, built.batch_size
    batches_per_epoch = -(-len(data.train) // batch_size)
    steps = config.epochs * steps_per_epoch
    columns = _columns(built)
    whole = batches.full(data.train) if batches_per_epoch == 1 and not built.augmentations else None

    reason = None
    mark = last_progress = time.perf_counter()
    before = state.earlier_samples + state.samples  # of this row, trained by another process: not in its seconds
    built.model.train()

    # One that stopped early and was killed before it could say so has nothing left to do; one that is extended has.
    resumed = info.get("resumes", [])
    enough = bool(resumed) and resumed[-1]["after"] != "finished" and _waited_enough(config, state)
    while state.epoch <= config.epochs and not enough:
        if whole is not None:
            epoch_batches: Iterator[Batch] = iter((whole,))
        else:
            epoch_batches = batches.shuffled(
                data.train,
                batch_size,
                seed=config.seed,
                epoch=state.epoch,
                augmentations=built.augmentations,
                blank=blank,
                first=state.batch,
            )

        while state.batch < batches_per_epoch:
            group = min(config.accumulate, batches_per_epoch - state.batch)
            # ---------------------------------------------------------------- the step
            optimizer.zero_grad()
            for number in range(state.batch, state.batch + group):
                batch = next(epoch_batches)
                with context:
                    loss = _loss(model(batch.x), batch, task)
                seen = loss.detach()
                state.loss_sum.add_(seen, alpha=len(batch))
                state.samples += len(batch)
                watch.add(state, number, seen)
                if group > 1:
                    loss = loss / group
                (scaler.scale(loss) if scaler else loss).backward()  # type: ignore[no-untyped-call]
            if config.clip_norm is not None:
                if scaler:
                    scaler.unscale_(optimizer)  # type: ignore[arg-type]
                watch.norm = torch.nn.utils.clip_grad_norm_(optimizer.parameters, config.clip_norm)
            state.lr = _lr(state.step, config, steps, steps_per_epoch)
            if scaler:
                scaler.step(optimizer, state.lr)  # type: ignore[arg-type]
                scaler.update()
            else:
                optimizer.step(state.lr)
            if state.average:
                state.average.update()
            state.step += 1
            state.batch += group
            # ------------------------------------------------------------------------

            if watch.wants_a_look(state):
                watch.look(state)  # waits for the device
            clock = time.perf_counter()
            if clock - last_progress >= _PROGRESS_SECONDS:
                last_progress = clock
                mean = watch.look(state)  # waits for the device
                rate = (state.earlier_samples + state.samples - before) / (clock - mark)
                yield Progress(state.epoch, state.step, steps, mean, rate)
            if config.log_every and state.step % config.log_every == 0 and state.batch < batches_per_epoch:
                mean = watch.look(state)  # waits for the device
                state.earlier_samples += state.samples
                spent = time.perf_counter() - mark
                row: dict[str, float | None] = {
                    "epoch": state.epoch,
                    "step": state.step,
                    "train/loss": mean,
                    "lr": state.lr,
                }
                rate = (state.earlier_samples - before) / spent
                row |= {"seconds": round(spent, 4), "samples_per_second": round(rate, 1)}
                run.append_metrics(row, columns)
                state.loss_sum.zero_()
                state.samples = 0
            if saver.due(state, epoch_done=False):
                watch.look(state)  # waits for the device; nothing that is not finite is saved
                saver.write(state, epoch=state.epoch, metrics={})
            if stop is not None and (reason := stop()):
                break

        if reason:
            break
        if state.epoch % interval(config.eval_every, name="eval_every").count and state.epoch != config.epochs:
            epoch, save = state.epoch, saver.due(state, epoch_done=True)
            state.epoch, state.batch = epoch + 1, 0
            if save:
                watch.look(state)  # waits for the device; nothing that is not finite is saved
                saver.write(state, epoch=epoch, metrics={})
            continue

        # Evaluate, write the row, keep the best.
        train_loss = watch.look(state)  # waits for the device
        seconds = time.perf_counter() - mark
        metrics: dict[str, float | None] = {"train/loss": train_loss}
        if data.val is not None:
            measures = measure(
                state.evaluated, data.val, task,
                batch_size=built.eval_batch_size, threads=built.eval_threads, precision=config.precision,
                device=device,
            )  # fmt: skip
            metrics |= {f"val/{name}": value for name, value in finite(task.metrics(measures)).items()}
        rate = (state.earlier_samples + state.samples - before) / seconds
        best = state.is_best(metrics, built.monitor)
        epoch = state.epoch
        record = Epoch(epoch, config.epochs, state.step, steps, metrics, state.lr, seconds, rate, best)
        row = {"epoch": epoch, "step": state.step, **metrics, "lr": state.lr}
        run.append_metrics(row | {"seconds": round(seconds, 4), "samples_per_second": round(rate, 1)}, columns)
        run.log(str(record))
        info |= {"epochs_done": epoch, "step": state.step, "metrics": metrics, "best": state.best}
        if best:
            saver.keep_best(state, metrics)
        state.waited = 0 if best else state.waited + 1
        state.loss_sum.zero_()
        state.samples = state.earlier_samples = before = 0
        enough = _waited_enough(config, state)
        save = saver.due(state, epoch_done=True) or enough or epoch == config.epochs
        state.epoch, state.batch = epoch + 1, 0
        if save:
            saver.write(state, epoch=epoch, metrics=metrics, info=info)
        yield record
        mark = time.perf_counter()

    if enough:
        info["stopped_early"] = epoch = state.epoch - 1
        run.log(f"stopped after epoch {epoch}: {config.patience} evaluations without a better {built.monitor}")
    if reason:
        info["stop"], info["step"] = reason, state.step
        watch.look(state)
        saver.write(state, epoch=state.epoch, metrics={})


def _judging_compilation(
    records: Iterator[Progress | Epoch], built: Experiment, info: dict[str, Any]
) -> Iterator[Progress | Epoch]:
    """The records as they are; info["compile"] says whether compilation has paid for itself so far."""
    eager_step, seconds, first = compiling.seconds_of_an_eager_step(built), 0.0, info["step"]
    for record in records:
        if isinstance(record, Epoch):
            seconds += record.seconds
            info["compile"] = compiling.verdict(seconds=seconds, steps=record.step - first, eager_step=eager_step)
        yield record


def _waited_enough(config: TrainConfig, state: TrainingState) -> bool:
    return bool(config.patience) and state.waited >= config.patience


def _continued(
    run: Run, fresh: dict[str, Any], state: TrainingState, saved: Checkpoint | None, command: str
) -> tuple[dict[str, Any], float]:
    """run.json of a run that goes on, and the seconds that it has been trained for already."""
    before = run.info()
    status = "dead" if before["status"] == "running" else before["status"]  # the lock is held by ourselves
    resume = {"when": now(), "after": status, "step": state.step, "command": command}
    resumes = [*before.get("resumes", []), resume]
    info = fresh | {name: before.get(name) for name in ("started", "command")}
    if state.step:
        info |= {name: before.get(name) for name in ("epochs_done", "metrics")}
    if saved is not None and saved.state["metrics"]:  # run.json may be older than the checkpoint
        info |= {"epochs_done": saved.state["epoch"], "metrics": saved.state["metrics"]}
    info |= {"step": state.step, "best": state.best, "resumes": resumes}
    return info, float(before.get("seconds") or 0.0)


def _loss(output: Tensor, batch: Batch, task: Task) -> Tensor:
    loss = task.loss(output, batch.y)
    if batch.other_y is not None:
        loss = batch.weight * loss + (1 - batch.weight) * task.loss(output, batch.other_y)
    return loss


def _lr(step: int, config: TrainConfig, steps: int, steps_per_epoch: int) -> float:
    assert config.lr is not None
    return learning_rate(
        step,
        lr=config.lr,
        schedule=config.schedule,
        steps=steps,
        warmup_steps=round((config.warmup_epochs or 0) * steps_per_epoch),
        steps_per_drop=(config.step_epochs or 1) * steps_per_epoch,
        gamma=config.step_gamma or 0.1,
    )


def _columns(built: Experiment) -> list[str]:
    val = [f"val/{name}" for name in built.task.names] if built.dataset.val is not None else []
    return ["epoch", "step", "train/loss", *val, "lr", "seconds", "samples_per_second"]


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}" if abs(value) < 1e4 else f"{value:.4g}"
