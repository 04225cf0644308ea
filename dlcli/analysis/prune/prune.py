"""`prune`: a trained run made smaller, as a new run that is trained on."""

import copy
import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dlcli.analysis.prune.choosing import by_amount, by_flops, in_order
from dlcli.analysis.prune.cutting import cut, differs
from dlcli.analysis.prune.figures import Latency, latencies, scores, sizes
from dlcli.analysis.prune.importance import of_units, of_weights
from dlcli.analysis.prune.structure import Unit, find_structure
from dlcli.analysis.prune.zeros import set_zeros, share_of_zeros
from dlcli.checkpoints import checkpoint
from dlcli.compute.cost import measure_cost
from dlcli.compute.devices import set_precision
from dlcli.config.settings import TrainConfig
from dlcli.core.blame import blamed
from dlcli.core.errors import CheckError, ConfigError, RunError
from dlcli.data import batches
from dlcli.data.kinds import sample_input
from dlcli.experiment.build import Experiment, build, with_model
from dlcli.experiment.guard import check_not_too_narrow
from dlcli.experiment.load import import_own
from dlcli.experiment.teacher import with_teacher_found
from dlcli.runs.run import Run
from dlcli.training.session import Session, begun, check_ready
from dlcli.training.untrained import parent_record, validation_metrics, write_untrained

_SAMPLES = 16  # for which the narrower network must answer as the masked one


@dataclass(frozen=True)
class Wish:
    """How a run is pruned. structured: channels and heads are removed, else single weights become zero. by: magnitude
    or gradient. amount: the share of the channels, or of the weights, that goes. flops: instead of it, the share of the
    FLOPs that may stay. epochs: of the training afterwards; 0 for none. lr: its learning rate, None for the run's own.
    round, rounds: which of several in a row this is."""

    structured: bool
    by: str
    amount: float | None
    flops: float | None
    epochs: int
    lr: float | None = None
    round: int = 1
    rounds: int = 1


@dataclass(frozen=True)
class Pruned:
    """before: the experiment of the run, as it was. built: of the new run, whose model is cut.

    record: what run.json says of it. figures: sizes and metrics of `before` and `cut`. latencies: of both. removed: one
    row for each group of layers that share their channels. left: layer -> why it is left alone. notes: sentences.
    """

    parent: Run
    before: Experiment
    built: Experiment
    record: dict[str, Any]
    figures: dict[str, dict[str, Any]]
    latencies: list[Latency]
    removed: list[dict[str, Any]]
    left: dict[str, str]
    notes: tuple[str, ...]


def prune(
    run: Run, wish: Wish, *, split: str, runs_dir: str | Path, device: str = "auto", data_dir: str | None = None,
    check: Callable[[Experiment], None] = lambda built: None,
) -> Pruned:  # fmt: skip
    """Cut the model of a run, prove that nothing else has changed, and measure both. Makes no run.

    split: on which both are measured. check: called with the experiment before the work begins.
    Raises ConfigError (exit 2) if nothing can be removed, or not so much, RunError (exit 4) for a run without a
    checkpoint, CheckError (exit 7) if the narrower network does not answer as the masked one.
    """
    if not any(checkpoint.exists(run.checkpoints, role) for role in ("best", "last")):
        raise RunError(f"{run} has no checkpoint: there is nothing to prune")
    role = "best" if checkpoint.exists(run.checkpoints, "best") else "last"
    saved = checkpoint.load(run.checkpoints, role)
    parent = parent_record(run, saved)  # at once: a run that is still trained soon has another one
    config = with_teacher_found(_config(run, wish, data_dir), run.root)
    import_own(config, runs_dir=run.root)
    if device == "auto" and str(run.info().get("device", "")).startswith("cpu"):
        device = "cpu"
    now = config.pruned if run.config().pruned == config.pruned else "none"
    built = build(
        config.with_values(device=device, pruned=now), start=saved, fingerprint=run.data().get("fingerprint"),
        runs_dir=runs_dir,
    )  # fmt: skip
    built = dataclasses.replace(built, config=built.config.with_values(pruned=config.pruned))
    check(built)
    notes: list[str] = [] if run.config().processes == 1 else ["a pruned run is trained by one process"]
    notes += _about_warmup(run, config)
    if wish.structured and run.config().pruned == "unstructured":
        notes.append(f"the zeros of {run} are trained from now on")
    removed: list[dict[str, Any]] = []
    left: dict[str, str] = {}
    if wish.structured:
        model, removed, left = _narrower(built, wish)
        check_not_too_narrow(built.model, model)
    else:
        model = _with_zeros(built, wish)
    after = with_model(built, model)
    check_ready(after, runs_dir)
    figures = {"before": _figures(built, split), "cut": _figures(after, split)}
    record = {
        "parent": parent,
        "kind": config.pruned,
        "by": wish.by,
        "amount": wish.amount,
        "flops": wish.flops,
        "round": wish.round,
        "rounds": wish.rounds,
        "trained": wish.epochs > 0,
        "split": split,
        "before": figures["before"],
        "cut": figures["cut"],
        "removed": removed,
        "left": left,
    }
    return Pruned(
        parent=run, before=built, built=after, record=record, figures=figures,
        latencies=latencies(built, after.model), removed=removed, left=left, notes=tuple(notes),
    )  # fmt: skip


def opened(pruned: Pruned, *, runs_dir: str | Path, name: str | None, command: str) -> AbstractContextManager[Session]:
    """The training of the new run. A kill leaves a run that can be resumed."""
    return begun(pruned.built, runs_dir=runs_dir, name=name, command=command, pruning=pruned.record)


def written(pruned: Pruned, *, runs_dir: str | Path, name: str | None, command: str) -> Run:
    """The new run, without training."""
    parent = pruned.record["parent"]
    run = write_untrained(
        pruned.built, validation_metrics(pruned.built), {"pruning": pruned.record}, runs_dir=runs_dir, name=name,
        command=command, epoch=parent["epoch"], step=parent["step"],
    )  # fmt: skip
    for line in told(pruned):
        run.log(line)
    return run


def told(pruned: Pruned) -> list[str]:
    """What was removed, and what was left alone, in sentences."""
    lines = []
    before, after = pruned.figures["before"], pruned.figures["cut"]
    if pruned.removed:
        gone = sum(row["before"] - row["after"] for row in pruned.removed)
        whole = sum(row["before"] for row in pruned.removed)
        lines.append(
            f"{gone:,} of {whole:,} channels and heads removed: {after['flops'] / before['flops']:.3g} of the FLOPs "
            f"and {after['parameters'] / before['parameters']:.3g} of the parameters are left; the answers are those "
            "of the whole network with these channels masked"
        )
        reasons = Counter(pruned.left.values())
        for reason, count in reasons.items():
            names = [layer for layer, why in pruned.left.items() if why == reason]
            more = f" and {count - 3} more" if count > 3 else ""
            lines.append(f"left alone: {', '.join(names[:3])}{more}, since {reason}")
    else:
        lines.append(
            f"{after['zeros']:.1%} of the weights are zero, {before['zeros']:.1%} before; this saves no time and no "
            f"memory: compressed, the file takes {after['compressed_bytes']:,} bytes instead of "
            f"{before['compressed_bytes']:,}"
        )
    return [*lines, *pruned.notes]


def _config(run: Run, wish: Wish, data_dir: str | None) -> TrainConfig:
    """Of the new run: that of the old one, with its weights as the start."""
    config = run.config()
    changes: dict[str, Any] = {
        "weights": os.path.abspath(run.path),
        "pruned": "structured" if wish.structured else "unstructured",
        "partial": False,
    }
    if not wish.structured and config.pruned == "structured":
        raise ConfigError(
            f"{run} was pruned by channels: removing single weights of it would forget that; add --structured"
        )
    if config.pretrained:  # what followed from it stays
        changes |= {
            "pretrained": None, "mean": config.mean, "std": config.std, "data_options": dict(config.data_options)
        }  # fmt: skip
    if wish.epochs:
        changes |= {"epochs": wish.epochs, "lr": wish.lr or config.lr}
        if config.unfreeze_at is not None:
            changes["freeze"] = "none"
        given = config.warmup_epochs if "warmup_epochs" in config.given else None  # else it follows from the epochs
        if given is not None and given > wish.epochs:
            share = given / config.epochs if config.epochs else 0.1
            changes["warmup_epochs"] = wish.epochs * share
    if config.processes > 1:
        changes |= {"processes": 1, "shard": False, "compress_gradients": False, "sync_batch_norm": False}
    if data_dir is not None:
        changes["data_dir"] = data_dir
    return config.replace(**changes)


def _about_warmup(run: Run, config: TrainConfig) -> list[str]:
    before, now = run.config().warmup_epochs, config.warmup_epochs
    if before is None or now is None or before == now or "warmup_epochs" not in config.given:
        return []
    return [f"warmup_epochs = {now:.3g}: the {before:g} of {run} are more than --epochs {config.epochs}"]


def _narrower(built: Experiment, wish: Wish) -> tuple[nn.Module, list[dict[str, Any]], dict[str, str]]:
    """The narrower model on the CPU, what was removed, and what was left alone."""
    model, x = _copied(built).eval(), _samples(built)
    set_precision("fp32")
    try:
        units, left = _removable(model, x)
        if not units:
            raise ConfigError(_nothing(built, left))
        order = in_order(units, of_units(model, units, _on_cpu(of_weights(built, wish.by))))
        if wish.flops is not None:
            sample = sample_input(built.dataset.spec, 1)

            def share(gone: Sequence[Unit]) -> float:
                return measure_cost(cut(model, gone), sample).flops / built.cost.flops

            chosen = by_flops(order, wish.flops, share)
        else:
            assert wish.amount is not None
            chosen = by_amount(units, order, wish.amount)
        made = cut(model, chosen)
        if why := differs(model, chosen, x, made=made.eval()):
            raise CheckError(f"the narrower network of {built.config.model} is not kept: {why}")
    finally:
        set_precision(built.config.precision)
    return made, _removed(units, chosen), left


def _removable(model: nn.Module, x: Tensor) -> tuple[list[Unit], dict[str, str]]:
    """The units of all families of which half can be removed with proof, and why others are left alone."""
    structure = find_structure(model, x[:1])
    families: dict[frozenset[tuple[str, str]], list[Unit]] = {}
    for unit in structure.units:
        families.setdefault(unit.family, []).append(unit)
    left, safe = dict(structure.left), []
    for units in families.values():
        if len(units) < 2:
            left |= dict.fromkeys(units[0].makers, "it has one channel, and one stays")
        elif why := differs(model, units[1::2], x):
            left |= dict.fromkeys(units[0].makers, why)
        else:
            safe += units
    return safe, left


def _removed(units: Sequence[Unit], chosen: Sequence[Unit]) -> list[dict[str, Any]]:
    before, gone = Counter(unit.family for unit in units), Counter(unit.family for unit in chosen)
    makers = {unit.family: unit.makers for unit in units}
    return [
        {"layers": list(makers[family]), "before": count, "after": count - gone[family]}
        for family, count in before.items()
    ]


def _nothing(built: Experiment, left: dict[str, str]) -> str:
    told = "; ".join(f"{layer}: {why}" for layer, why in list(left.items())[:5])
    more = f"; and {len(left) - 5} more" if len(left) > 5 else ""
    return (
        f"model {built.config.model} has no channels that can be removed safely ({told}{more}): leave out --structured"
    )


def _with_zeros(built: Experiment, wish: Wish) -> nn.Module:
    assert wish.amount is not None
    model = _copied(built)
    set_zeros(model, _on_cpu(of_weights(built, wish.by)), wish.amount, frozen=built.frozen)
    return model


def _copied(built: Experiment) -> nn.Module:
    """On the CPU. ConfigError for a model that cannot be copied, such as one that keeps a tensor it has computed."""
    with blamed(ConfigError, f"model {built.config.model} cannot be pruned, since it cannot be copied"):
        return copy.deepcopy(built.model).cpu()


def _on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.cpu() for name, tensor in tensors.items()}


def _samples(built: Experiment) -> Tensor:
    """Real samples as the model gets them, on the CPU."""
    data = built.dataset.train
    return next(batches.in_order(data, min(_SAMPLES, len(data)))).x.cpu()


def _figures(built: Experiment, split: str) -> dict[str, Any]:
    found = sizes(built) | {"metrics": scores(built, split)}
    if built.config.pruned == "unstructured":
        found["zeros"] = share_of_zeros(built.model, built.frozen)
    return found
