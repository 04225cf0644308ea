"""The training loop, top to bottom. It yields records; bars, tables and notebooks all read the same ones."""

import contextlib
import copy
import os
import platform
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import dlcli
from dlcli import experiment, tasks
from dlcli.config import TrainConfig
from dlcli.data import batches
from dlcli.data.batches import Batch
from dlcli.errors import DivergedError, ResourceError
from dlcli.evaluation import finite, measure
from dlcli.experiment import Experiment
from dlcli.runs import Run, now
from dlcli.seeds import derive
from dlcli.training import checkpoint
from dlcli.training.devices import autocast
from dlcli.training.optimizers import Optimizer, WeightAverage
from dlcli.training.schedules import learning_rate

# Seconds between progress records, and at least between two writings of checkpoints: a run of very short
# epochs would otherwise do little else.
_PROGRESS_SECONDS = 0.2
_SAVE_SECONDS = 1.0

# The metrics that fit on the line of an epoch; all are in metrics.csv.
_TOLD = ("loss", "accuracy", "auc", "r2", "bits_per_char")


@dataclass(frozen=True)
class Progress:
    """Where the run is, several times a second. loss: mean over the samples since the last row."""

    epoch: int
    step: int
    steps: int
    loss: float
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
    for record in fit(experiment.build(config), Run.create(runs_dir), stop=stop):
        if isinstance(record, Epoch):
            yield record


def fit(
    built: Experiment, run: Run, *, stop: Callable[[], str | None] | None = None, command: str = ""
) -> Iterator[Progress | Epoch]:
    """Train in `run`, which must be new, and yield records.

    stop: asked after every step; a reason (such as "SIGINT") ends the run after a checkpoint, as
        `interrupted`. So does a consumer that takes no more records.
    Raises DivergedError (exit 5) when the loss is no longer finite; the last checkpoint is then the last
    one with finite weights.
    """
    torch.set_num_threads(built.threads)
    with run.locked():
        run.write_config(built.config)
        run.write_data(built.dataset.preprocessing.as_dict(), built.dataset.fingerprint)
        info = _describe(built, command)
        run.write_info(info)
        started = time.monotonic()
        saver = _Saver(run)
        try:
            yield from _loop(built, run, info, saver, stop)
            info.setdefault("stop", None)
            info["status"] = "interrupted" if info["stop"] else "finished"
        except GeneratorExit:
            info["status"], info["stop"] = "interrupted", "no more records were wanted"
            raise
        except KeyboardInterrupt:
            info["status"], info["stop"] = "interrupted", "SIGINT"
            raise
        except DivergedError as error:
            info["status"], info["reason"] = "diverged", str(error)
            raise
        except torch.OutOfMemoryError as error:
            message = f"out of memory on {built.device} at batch_size = {built.batch_size}: take a smaller one"
            info["status"], info["reason"] = "failed", message
            raise ResourceError(message) from error
        except BaseException as error:
            info["status"], info["reason"] = "failed", str(error) or type(error).__name__
            with contextlib.suppress(OSError):
                (run.path / "error.log").write_text(traceback.format_exc())
            raise
        finally:
            info["ended"], info["seconds"] = now(), round(time.monotonic() - started, 3)
            with contextlib.suppress(ResourceError):  # a full disk is told by the error that is on its way
                run.write_info(info)
                saver.write_best()  # a copy that waited for its turn outlives whatever happened


def _loop(
    built: Experiment, run: Run, info: dict[str, Any], saver: "_Saver", stop: Callable[[], str | None] | None
) -> Iterator[Progress | Epoch]:
    config, device, task, data = built.config, built.device, built.task, built.dataset
    model = torch.compile(built.model) if config.compile else built.model
    optimizer = Optimizer(
        built.model.parameters(),
        name=config.optimizer,
        momentum=config.momentum or 0.0,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
        l1=config.l1,
        decay_all=config.decay_all,
    )
    average = WeightAverage(built.model, copy.deepcopy(built.model), config.ema) if config.ema else None
    evaluated = average.model if average else built.model
    scaler = torch.amp.GradScaler(device.type) if config.precision == "fp16" else None
    blank = data.preprocessing.blank(data.train.x) if data.spec.kind == "image" else None
    context = autocast(config.precision, device)

    steps_per_epoch, batch_size = built.steps_per_epoch, built.batch_size
    steps = config.epochs * steps_per_epoch
    columns = _columns(built)
    whole = batches.full(data.train) if batch_size == len(data.train) and not built.augmentations else None

    # Dropout draws from torch's own generator; weights were drawn before with a seed of their own.
    torch.manual_seed(derive(config.seed, "training"))

    # Sums since the last row, on the device: reading one of them waits for it.
    loss_sum = torch.zeros((), device=device, dtype=torch.float32 if device.type == "mps" else torch.float64)
    samples, earlier_samples = 0, 0  # since the last row; between the last evaluation and that row
    step, lr, waited, reason = 0, 0.0, 0, None
    mark = last_progress = time.perf_counter()
    built.model.train()

    for epoch in range(1, config.epochs + 1):
        if whole is not None:
            epoch_batches: Iterator[Batch] = iter((whole,))
        else:
            epoch_batches = batches.shuffled(
                data.train,
                batch_size,
                seed=config.seed,
                epoch=epoch,
                augmentations=built.augmentations,
                blank=blank,
            )
        left = -(-len(data.train) // batch_size)

        while left:
            group = min(config.accumulate, left)
            left -= group
            # ---------------------------------------------------------------- the step
            for _ in range(group):
                batch = next(epoch_batches)
                with context:
                    loss = _loss(model(batch.x), batch, task)
                loss_sum.add_(loss.detach(), alpha=len(batch))
                samples += len(batch)
                if group > 1:
                    loss = loss / group
                (scaler.scale(loss) if scaler else loss).backward()  # type: ignore[no-untyped-call]
            if config.clip_norm is not None:
                if scaler:
                    scaler.unscale_(optimizer)  # type: ignore[arg-type]
                torch.nn.utils.clip_grad_norm_(optimizer.parameters, config.clip_norm)
            lr = _lr(step, config, steps, steps_per_epoch)
            if scaler:
                scaler.step(optimizer, lr)  # type: ignore[arg-type]
                scaler.update()
            else:
                optimizer.step(lr)
            optimizer.zero_grad()
            if average:
                average.update()
            step += 1
            # ------------------------------------------------------------------------

            if stop is not None and (reason := stop()):
                break
            clock = time.perf_counter()
            if clock - last_progress >= _PROGRESS_SECONDS:
                last_progress = clock
                mean = float(loss_sum) / samples  # waits for the device
                _check_finite(mean, step, epoch, lr)
                yield Progress(epoch, step, steps, mean, (earlier_samples + samples) / (clock - mark))
            if config.log_every and step % config.log_every == 0 and step % steps_per_epoch:
                mean = float(loss_sum) / samples  # waits for the device
                _check_finite(mean, step, epoch, lr)
                spent = time.perf_counter() - mark
                row: dict[str, float | None] = {"epoch": epoch, "step": step, "train/loss": mean, "lr": lr}
                row |= {"seconds": round(spent, 4), "samples_per_second": round((earlier_samples + samples) / spent, 1)}
                run.append_metrics(row, columns)
                loss_sum.zero_()
                earlier_samples, samples = earlier_samples + samples, 0

        if reason:
            break
        if epoch % config.eval_every and epoch != config.epochs:
            continue

        # Evaluate, write the row, keep the best.
        train_loss = float(loss_sum) / samples if samples else None  # waits for the device
        seconds = time.perf_counter() - mark
        _check_finite(train_loss, step, epoch, lr)
        metrics: dict[str, float | None] = {"train/loss": train_loss}
        if data.val is not None:
            measures = measure(
                evaluated, data.val, task,
                batch_size=config.eval_batch_size, precision=config.precision, device=device,
            )  # fmt: skip
            metrics |= {f"val/{name}": value for name, value in finite(task.metrics(measures)).items()}
        rate = (earlier_samples + samples) / seconds
        best = saver.is_best(metrics, built.monitor)
        record = Epoch(epoch, config.epochs, step, steps, metrics, lr, seconds, rate, best)
        row = {"epoch": epoch, "step": step, **metrics, "lr": lr}
        run.append_metrics(row | {"seconds": round(seconds, 4), "samples_per_second": round(rate, 1)}, columns)
        run.log(str(record))
        info |= {"epochs_done": epoch, "step": step, "metrics": metrics, "best": saver.best}
        saver.offer(evaluated, epoch, step, metrics, best=best)
        if saver.due():
            saver.write()
            run.write_info(info)
        yield record

        waited = 0 if best else waited + 1
        if config.patience and waited >= config.patience:
            info["stopped_early"] = epoch
            run.log(f"stopped after epoch {epoch}: {config.patience} evaluations without a better {built.monitor}")
            break
        loss_sum.zero_()
        samples = earlier_samples = 0
        mark = time.perf_counter()

    if reason:
        info["stop"], info["step"] = reason, step
        saver.offer(evaluated, epoch, step, {}, best=False)
    saver.write()


class _Saver:
    """Keeps what is to be saved, and writes it no more often than the disk deserves.

    best: metric, value, epoch and step of the best evaluation so far, as in run.json.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.best: dict[str, Any] | None = None
        self._loss = float("inf")
        self._pending_best: tuple[dict[str, Tensor], dict[str, Any]] | None = None
        self._last: tuple[nn.Module, dict[str, Any]] | None = None
        self._written = time.monotonic() - _SAVE_SECONDS

    def is_best(self, metrics: Mapping[str, float | None], monitor: str) -> bool:
        """Better in the monitored metric, or as good with a smaller loss; without validation the latest is."""
        value, loss = metrics.get(f"val/{monitor}"), metrics.get("val/loss")
        higher = tasks.higher_is_better(monitor)
        if not any(name.startswith("val/") for name in metrics):
            self.best = {"metric": None, "value": None, "higher_is_better": None}
            return True
        if value is None:
            return False
        if self.best is not None:
            gain = value - self.best["value"] if higher else self.best["value"] - value
            if gain < 0 or (gain == 0 and (loss is None or loss >= self._loss)):
                return False
        self._loss = loss if loss is not None else float("inf")
        self.best = {"metric": f"val/{monitor}", "value": value, "higher_is_better": higher}
        return True

    def offer(
        self, model: nn.Module, epoch: int, step: int, metrics: Mapping[str, float | None], *, best: bool
    ) -> None:
        """Remember the state of this moment; a best one is copied, since training goes on."""
        state = {"epoch": epoch, "step": step, "metrics": dict(metrics)}
        self._last = model, state
        if best and self.best is not None:
            self.best |= {"epoch": epoch, "step": step}
            self._pending_best = {n: t.detach().clone() for n, t in model.state_dict().items()}, state

    def due(self) -> bool:
        return time.monotonic() - self._written >= _SAVE_SECONDS

    def write(self) -> None:
        """Write what is pending. Weights that are not finite are never written."""
        if self._last is not None:
            model, state = self._last
            weights = model.state_dict()
            if not all(bool(torch.isfinite(t).all()) for t in weights.values() if t.is_floating_point()):
                raise DivergedError(f"weights are no longer finite at step {state['step']}: lower lr")
            path = checkpoint.save(self.run.checkpoints, "last", weights=weights, state=state)
            if self._pending_best is not None and self._pending_best[1] is state:
                checkpoint.link(path, "best", step=state["step"])
                self._pending_best = None
        self.write_best()
        self._last = None
        self._written = time.monotonic()

    def write_best(self) -> None:
        if self._pending_best is not None:
            weights, state = self._pending_best
            self._pending_best = None
            checkpoint.save(self.run.checkpoints, "best", weights=weights, state=state)


def _loss(output: Tensor, batch: Batch, task: tasks.Task) -> Tensor:
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


def _check_finite(loss: float | None, step: int, epoch: int, lr: float) -> None:
    if loss is not None and not abs(loss) < float("inf"):
        raise DivergedError(f"the loss became {loss} by step {step} (epoch {epoch}, lr {lr:g}): lower lr or clip_norm")


def _columns(built: Experiment) -> list[str]:
    val = [f"val/{name}" for name in built.task.names] if built.dataset.val is not None else []
    return ["epoch", "step", "train/loss", *val, "lr", "seconds", "samples_per_second"]


def _describe(built: Experiment, command: str) -> dict[str, Any]:
    """run.json of a run that starts now."""
    config, device = built.config, built.device
    return {
        "status": "running",
        "model": config.model,
        "data": config.data,
        "epochs": config.epochs,
        "epochs_done": 0,
        "step": 0,
        "steps": config.epochs * built.steps_per_epoch,
        "metrics": {},
        "best": None,
        "started": now(),
        "ended": None,
        "seconds": None,
        "device": f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type,
        "threads": built.threads,
        "parameters": sum(p.numel() for p in built.model.parameters()),
        "flops_per_step": built.flops_per_step,
        "train_samples": len(built.dataset.train),
        "val_samples": len(built.dataset.val or ()),
        "test_samples": len(built.dataset.test or ()),
        "fingerprint": built.dataset.fingerprint,
        "command": command,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "dlcli": dlcli.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "platform": sys.platform,
        **_git(),
    }


def _git() -> dict[str, Any]:
    """Commit of the folder in which the command was given, and whether it had changes."""
    try:
        commit = _ask_git("rev-parse", "HEAD")
        return {"git_commit": commit, "git_dirty": bool(_ask_git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return {"git_commit": None, "git_dirty": None}


def _ask_git(*words: str) -> str:
    return subprocess.run(["git", *words], capture_output=True, text=True, timeout=5, check=True).stdout.strip()


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}" if abs(value) < 1e4 else f"{value:.4g}"
