"""The state of a training: everything that determines its next steps, saved and restored as a whole."""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dlcli.checkpoints.checkpoint import Checkpoint
from dlcli.compute.gradients import Gradients
from dlcli.compute.optimizers import Optimizer, WeightAverage, keep_zeros
from dlcli.compute.sharding import ShardedGradients, divided, gathered, shard, whole
from dlcli.core.errors import RunError
from dlcli.core.seeds import derive
from dlcli.experiment.build import Experiment
from dlcli.experiment.probe import separable
from dlcli.models.freezing import training_mode
from dlcli.tasks.choose import higher_is_better
from dlcli.training.meter import Meter


class TrainingState:
    """The model, its optimizer and average, the position, the sums, and the best evaluation so far.

    trained: the names of the parameters that the optimizer updates, in its order. frozen: those of the others.

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
        named = dict(built.model.named_parameters())
        for name in built.frozen:
            named[name].requires_grad_(False)
        average = None
        if config.ema:
            shared: dict[int, Any] = {} if built.sharded else {id(named[name]): named[name] for name in built.frozen}
            average = copy.deepcopy(built.model, shared)
        if built.sharded:
            for each in filter(None, (built.model, average)):
                modules = separable(each, built.dataset.spec)
                shard(each, modules, device=device, compress=config.compress_gradients)
        self.frozen = built.frozen
        self.groups = built.groups
        self.unfreeze_at = config.unfreeze_at
        self.trained = [name for name, parameter in named.items() if parameter.requires_grad]
        self.optimizer = Optimizer(
            built.model.parameters(),
            name=config.optimizer,
            momentum=config.momentum or 0.0,
            nesterov=config.nesterov,
            weight_decay=config.weight_decay,
            l1=config.l1,
            decay_all=config.decay_all,
            factors=self._factors(self.trained),
        )
        self.average = None if average is None else WeightAverage(built.model, average, config.ema)
        self.keeps_zeros = config.pruned == "unstructured"
        self.scaler = torch.amp.GradScaler(device.type) if config.precision == "fp16" else None
        self.epoch, self.batch, self.step = 1, 0, 0
        self.batches_per_epoch = built.batches_per_epoch
        self.lr = 0.0
        self.meter = Meter(device, built.ranks)
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

    @property
    def rates(self) -> dict[str, float | None]:
        """`lr`, the learning rate of the last step, and `lr/GROUP` of each group: None while all of it is frozen."""
        still = set(self.frozen)
        found = {f"lr/{g.name}": None if g.members <= still else self.lr * g.factor for g in self.groups}
        return {"lr": self.lr, **found}

    def _factors(self, names: Iterable[str]) -> list[float]:
        """Of the learning rate, for each of these parameters."""
        factors = {name: group.factor for group in self.groups for name in group.members}
        return [factors.get(name, 1.0) for name in names]

    def begin_epoch(self) -> bool:
        """Go to the first batch of the next epoch. From the epoch `unfreeze_at` on, all parameters are trained. Returns
        whether that begins now."""
        self.epoch, self.batch = self.epoch + 1, 0
        return self._unfreeze_if_due()

    def training_mode(self) -> None:
        training_mode(self.model, self.frozen)

    def _unfreeze_if_due(self) -> bool:
        """The state of the optimizer for what was frozen begins at zero, and its average at its value."""
        if not self.frozen or self.unfreeze_at is None or self.epoch < self.unfreeze_at:
            return False
        named = dict(self.model.named_parameters())
        joining = [named[name] for name in self.frozen]
        for parameter in joining:
            parameter.requires_grad_()
        if self.average:
            self.average.separate()
        self.optimizer.join(joining, factors=self._factors(self.frozen))
        self.trained += self.frozen
        self.frozen = ()
        self.training_mode()
        return True

    def backward(self, loss: Tensor) -> None:
        (self.scaler.scale(loss) if self.scaler else loss).backward()  # type: ignore[no-untyped-call]

    def update(self, *, lr: float, clip_norm: float | None) -> Tensor | None:
        """One optimizer step with the accumulated gradients. Returns their norm if clipping computes it, else None.

        With `pruned = unstructured`, a weight of two or more dimensions that is exactly zero stays zero: neither its
        gradient nor its penalty moves it, so that its momentum and its average stay zero, too.
        """
        norm = None
        if self.keeps_zeros:
            keep_zeros(self.optimizer.parameters)
        if clip_norm is not None:
            if self.scaler:
                self.scaler.unscale_(self.optimizer)  # type: ignore[arg-type]
            norm = whole(torch.nn.utils.clip_grad_norm_(self.optimizer.parameters, clip_norm))
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

    def gradients(self, built: Experiment) -> Gradients | ShardedGradients:
        """Of what is trained now: summed over all processes."""
        if built.sharded:
            return ShardedGradients(self.model, built.ranks)
        return Gradients(self.optimizer.parameters, built.ranks, compress=built.config.compress_gradients)

    def weights(self, *, kept: bool) -> dict[str, Tensor]:
        """Those that are measured and saved. kept, and who calls this: see `tensors`."""
        return gathered(self.evaluated.state_dict(), kept=kept)

    def tensors(self, *, kept: bool) -> dict[str, Tensor]:
        """For training.safetensors. The weights that are evaluated are in model.safetensors instead.

        All processes call this together. kept: whether this one needs the tensors that are divided among them.
        """
        found = {f"optimizer.{name}": t for name, t in self.optimizer.state_dict().items()}
        found["loss_sum"] = self.meter.loss_sums()
        found["random.cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            found["random.cuda"] = torch.cuda.get_rng_state(self.device)
        if self.average:
            found |= {f"model.{name}": t for name, t in self.model.state_dict().items() if name not in self.frozen}
        return gathered(found, kept=kept)

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
            "optimizer_names": self.trained,
            "optimizer_since": self.optimizer.since,
            "average_steps": self.average.steps if self.average else None,
            "scaler": self.scaler.state_dict() if self.scaler else None,
        }

    def restore(self, saved: Checkpoint, *, regrouped: bool = False) -> None:
        """Restore the state stored in `saved`; the random states are set last.

        regrouped: other parameters are trained than in the checkpoint. The optimizer keeps its state of those that both
        have, by their names; that of others begins at zero.
        Raises RunError (exit 4) if it holds no training state, or one that does not fit.
        """
        tensors, values = saved.training, saved.state.get("training")
        if tensors is None or not isinstance(values, dict):
            raise RunError(f"{saved.path} holds weights but no training to go on from")
        try:
            self.epoch, self.batch, self.step = values["epoch"], values["batch"], values["step"]
            self._unfreeze_if_due()
            weights = saved.weights
            if self.average:
                self.average.model.load_state_dict(divided(saved.weights, like=self.average.model.state_dict()))
                self.average.steps = values["average_steps"]
                own = {n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")}
                weights = weights | own if values.get("optimizer_names") else own
            self.model.load_state_dict(divided(weights, like=self.model.state_dict()))
            self._restore_optimizer(tensors, values, regrouped=regrouped)
            if self.scaler:
                self.scaler.load_state_dict(values["scaler"])
            self.lr = values["lr"]
            # A checkpoint without evaluated_at comes from a version that evaluated only at the ends of epochs and
            # reset its sums at each row.
            self.evaluated_at = values.get("evaluated_at", 0 if self.batch else self.step)
            self.evaluations, self.warned = values.get("evaluations", 0), values.get("warned", False)
            self.meter.samples = values["samples"]
            self.meter.told_samples, self.meter.told_loss = values.get("told_samples", 0), values.get("told_loss", 0.0)
            self.waited, self.best, self.best_loss = values["waited"], values["best"], values["best_loss"]
            self.meter.restore_loss(tensors["loss_sum"])
            torch.set_rng_state(tensors["random.cpu"])
            if self.device.type == "cuda" and "random.cuda" in tensors:
                torch.cuda.set_rng_state(tensors["random.cuda"], self.device)
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise RunError(f"{saved.path} does not fit the training that its run describes: {reason}") from None

    def _restore_optimizer(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any], *, regrouped: bool) -> None:
        """KeyError, RuntimeError or ValueError if the state does not fit."""
        moments = {n.removeprefix("optimizer."): t for n, t in tensors.items() if n.startswith("optimizer.")}
        steps = values["optimizer_steps"]
        if "optimizer_names" not in values:  # of a version that trained all parameters, in the order of the model
            if self.frozen and not regrouped:
                raise ValueError("its optimizer has the state of all parameters")
            order = [name for name, _ in self.model.named_parameters()]
            values = {"optimizer_names": order, "optimizer_since": [0] * len(order)}
        names, since = values["optimizer_names"], values["optimizer_since"]
        if len(set(names)) != len(names) or len(names) != len(since) or any(s > steps for s in since):
            raise ValueError("the names of its optimizer do not belong to its state")
        if set(names) != set(self.trained) and not regrouped:
            raise ValueError("its optimizer has the state of other parameters")
        numbers = {name: number for number, name in enumerate(names)}
        wanted = [numbers.get(name) for name in self.trained]
        self.optimizer.load_state_dict(moments, steps=steps, numbers=wanted, since=since)
