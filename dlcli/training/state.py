"""The state of a training: everything that determines its next steps, saved and restored as a whole."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from dlcli.checkpoints.checkpoint import Checkpoint
from dlcli.compute.optimizers import Optimizer, WeightAverage
from dlcli.core.errors import RunError
from dlcli.core.seeds import derive
from dlcli.experiment.build import Experiment
from dlcli.tasks.choose import higher_is_better
from dlcli.training.meter import Meter


class TrainingState:
    """The model, its optimizer and average, the position, the sums, and the best evaluation so far.

    epoch, batch: the next batch, epochs counted from 1 and batches from 0; at the end of an epoch, one after its last
    batch. step: number of optimizer steps done. lr: learning rate of the last one.
    evaluated_at: the step of the last evaluation. evaluations: their number. waited: those since the best one.
    best: metric, value, epoch and step of the best evaluation, and the threshold that it chose, as in run.json.
    warned: whether a warning said that the model has learned nothing.
    """

    def __init__(self, built: Experiment) -> None:
        config, device = built.config, built.device
        self.device = device
        self.model = built.model
        self.optimizer = Optimizer(
            built.model.parameters(),
            name=config.optimizer,
            momentum=config.momentum or 0.0,
            nesterov=config.nesterov,
            weight_decay=config.weight_decay,
            l1=config.l1,
            decay_all=config.decay_all,
        )
        self.average = WeightAverage(built.model, copy.deepcopy(built.model), config.ema) if config.ema else None
        self.scaler = torch.amp.GradScaler(device.type) if config.precision == "fp16" else None
        self.epoch, self.batch, self.step = 1, 0, 0
        self.batches_per_epoch = built.batches_per_epoch
        self.lr = 0.0
        self.meter = Meter(device)
        self.evaluated_at = 0
        self.evaluations = 0
        self.waited = 0
        self.warned = False
        self.best: dict[str, Any] | None = None
        self.best_loss: float | None = None
        # Dropout draws from torch's global generator; the weights were drawn before, with a seed of their own.
        torch.manual_seed(derive(config.seed, "training"))

    @property
    def at_epoch_end(self) -> bool:
        return self.batch >= self.batches_per_epoch

    @property
    def epochs_done(self) -> int:
        return self.epoch if self.at_epoch_end else self.epoch - 1

    @property
    def evaluated(self) -> nn.Module:
        """The model whose weights are measured and saved: the average if there is one."""
        return self.average.model if self.average else self.model

    def backward(self, loss: Tensor) -> None:
        (self.scaler.scale(loss) if self.scaler else loss).backward()  # type: ignore[no-untyped-call]

    def update(self, *, lr: float, clip_norm: float | None) -> Tensor | None:
        """One optimizer step with the accumulated gradients. Returns their norm if clipping computes it, else None."""
        norm = None
        if clip_norm is not None:
            if self.scaler:
                self.scaler.unscale_(self.optimizer)  # type: ignore[arg-type]
            norm = torch.nn.utils.clip_grad_norm_(self.optimizer.parameters, clip_norm)
        self.lr = lr
        if self.scaler:
            self.scaler.step(self.optimizer, lr)  # type: ignore[arg-type]
            self.scaler.update()
        else:
            self.optimizer.step(lr)
        if self.average:
            self.average.update()
        self.step += 1
        return norm

    def is_best(self, metrics: dict[str, float | None], monitor: str) -> bool:
        """Whether these metrics are the best so far; if so, they are stored in `best`.

        Best is the better monitored metric, or an equal one with a smaller loss; without validation, the latest. If the
        metric is undefined at the first evaluation, the loss is monitored instead for the whole training.
        """
        place: dict[str, float | None] = {"epoch": self.epoch, "step": self.step}
        place |= {"threshold": metrics["val/threshold"]} if "val/threshold" in metrics else {}
        if not any(name.startswith("val/") for name in metrics):
            self.best = {"metric": None, "value": None, "higher_is_better": None, **place}
            return True
        if self.best is None and metrics[f"val/{monitor}"] is None:
            monitor = "loss"
        elif self.best is not None:
            monitor = self.best["metric"].removeprefix("val/")
        value, loss = metrics[f"val/{monitor}"], metrics["val/loss"]
        if value is None and self.best is not None:
            return False
        higher = higher_is_better(monitor)
        if self.best is not None and self.best["value"] is not None:
            assert value is not None
            gain = value - self.best["value"] if higher else self.best["value"] - value
            smaller_loss = loss is not None and (self.best_loss is None or loss < self.best_loss)
            if gain < 0 or (gain == 0 and not smaller_loss):
                return False
        self.best_loss = loss
        self.best = {"metric": f"val/{monitor}", "value": value, "higher_is_better": higher, **place}
        return True

    def tensors(self) -> dict[str, Tensor]:
        """For training.safetensors. The weights that are evaluated are in model.safetensors instead."""
        found = {f"optimizer.{name}": t for name, t in self.optimizer.state_dict().items()}
        found["loss_sum"] = self.meter.loss_sum
        found["random.cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            found["random.cuda"] = torch.cuda.get_rng_state(self.device)
        if self.average:
            found |= {f"model.{name}": t for name, t in self.model.state_dict().items()}
        return found

    def values(self) -> dict[str, Any]:
        """For state.json."""
        return {
            "epoch": self.epoch,
            "batch": self.batch,
            "step": self.step,
            "lr": self.lr,
            "samples": self.meter.samples,
            "told_samples": self.meter.told_samples,
            "told_loss": self.meter.told_loss,
            "evaluated_at": self.evaluated_at,
            "evaluations": self.evaluations,
            "warned": self.warned,
            "waited": self.waited,
            "best": self.best,
            "best_loss": self.best_loss,
            "optimizer_steps": self.optimizer.steps,
            "average_steps": self.average.steps if self.average else None,
            "scaler": self.scaler.state_dict() if self.scaler else None,
        }

    def restore(self, saved: Checkpoint) -> None:
        """Restore the state stored in `saved`; the random states are set last.

        Raises RunError (exit 4) if it holds no training state, or one that does not fit.
        """
        tensors, values = saved.training, saved.state.get("training")
        if tensors is None or not isinstance(values, dict):
            raise RunError(f"{saved.path} holds weights but no training to go on from")
        try:
            weights = saved.weights
            if self.average:
                self.average.model.load_state_dict(saved.weights)
                self.average.steps = values["average_steps"]
                weights = {n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")}
            self.model.load_state_dict(weights)
            moments = {n.removeprefix("optimizer."): t for n, t in tensors.items() if n.startswith("optimizer.")}
            self.optimizer.load_state_dict(moments, steps=values["optimizer_steps"])
            if self.scaler:
                self.scaler.load_state_dict(values["scaler"])
            self.epoch, self.batch, self.step = values["epoch"], values["batch"], values["step"]
            self.lr = values["lr"]
            # A checkpoint without evaluated_at comes from a version that evaluated only at the ends of epochs and
            # reset its sums at each row.
            self.evaluated_at = values.get("evaluated_at", 0 if self.batch else self.step)
            self.evaluations, self.warned = values.get("evaluations", 0), values.get("warned", False)
            self.meter.samples = values["samples"]
            self.meter.told_samples, self.meter.told_loss = values.get("told_samples", 0), values.get("told_loss", 0.0)
            self.waited, self.best, self.best_loss = values["waited"], values["best"], values["best_loss"]
            self.meter.loss_sum.copy_(tensors["loss_sum"])
            torch.set_rng_state(tensors["random.cpu"])
            if self.device.type == "cuda" and "random.cuda" in tensors:
                torch.cuda.set_rng_state(tensors["random.cuda"], self.device)
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise RunError(f"{saved.path} does not fit the training that its run describes: {reason}") from None
