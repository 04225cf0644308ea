"""The weights from which a training starts: of a published entry, a file, or another run; what of them was taken."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dlcli.checkpoints import checkpoint
from dlcli.checkpoints.checkpoint import Checkpoint
from dlcli.checkpoints.foreign import read_weights
from dlcli.checkpoints.matching import match
from dlcli.config.schemes import listed_model
from dlcli.config.settings import TrainConfig
from dlcli.config.zoo_settings import published
from dlcli.core.errors import ConfigError, RunError
from dlcli.core.spec import DataSpec
from dlcli.data.weights import fetch_weights
from dlcli.experiment.guard import narrow_to
from dlcli.experiment.load import data_folder
from dlcli.models.adapting import adapted
from dlcli.models.blocks import first_convolution
from dlcli.models.parts import head, inside
from dlcli.runs.names import find_one

_LEAST = 0.5  # of the parameters of the backbone
_SHOWN = 5  # names in a line


@dataclass(frozen=True)
class Start:
    """What was taken of given weights. origin: what they are, in words. sha256: of the file, empty for those of a run.

    how: the way in which their names were matched. taken, new, left: names of tensors: in both; of the model only; of
    the weights only. shapes: (name, shape here, shape there) of those with another shape, which are new as well. notes:
    sentences about what was adapted, and about the head. parameters, taken_parameters: of the model.
    """

    origin: str
    sha256: str
    how: str
    taken: tuple[str, ...]
    new: tuple[str, ...]
    left: tuple[str, ...]
    shapes: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    notes: tuple[str, ...]
    parameters: int
    taken_parameters: int

    @property
    def lines(self) -> list[str]:
        """For the beginning of a training."""
        share = f"{self.taken_parameters:,} of {self.parameters:,} parameters"
        counts = f"{len(self.taken):,} tensors taken ({share}), {len(self.new):,} new, {len(self.left):,} left over"
        lines = [f"weights of {self.origin}: {counts}; matched {self.how}", *self.notes]
        if self.shapes:
            told = [
                f"{name} ({_size(ours)} here, {_size(theirs)} there)" for name, ours, theirs in self.shapes[:_SHOWN]
            ]
            more = f" and {len(self.shapes) - _SHOWN} more" if len(self.shapes) > _SHOWN else ""
            lines.append(f"of another shape, and new: {', '.join(told)}{more}")
        return lines

    def as_dict(self) -> dict[str, Any]:
        """For run.json."""
        return {
            "of": self.origin, "sha256": self.sha256 or None, "matched": self.how, "taken": list(self.taken),
            "new": list(self.new), "left_over": list(self.left),
            "of_another_shape": [{"name": n, "here": list(a), "there": list(b)} for n, a, b in self.shapes],
            "notes": list(self.notes), "taken_parameters": self.taken_parameters,
        }  # fmt: skip


def start_from(
    config: TrainConfig, model: nn.Module, spec: DataSpec, *, runs_dir: str | Path, saved: Checkpoint | None = None
) -> Start | None:
    """Put the weights that `config.pretrained` or `config.weights` names into `model`; None if there are none. With
    `pruned = structured` the model becomes as narrow as they are, except for its answers.

    Names, runs and numbers are those of the folder `runs_dir`. saved: the checkpoint of the run that `config.weights`
    names, if it was read already. DataError (exit 3) if published weights cannot be had,
    RunError (exit 4) for a file or run that is not there, damaged or not finite, ConfigError (exit 2) if less than half
    of the backbone is taken and `partial` is not set.
    """
    if config.pretrained:
        origin, digest, found = _published(config)
    elif config.weights:
        origin, digest, found = _named(config.weights, runs_dir, saved)
    else:
        return None
    if config.pruned == "structured":
        _narrow(model, found, spec, origin=origin)
    elif config.pruned == "unstructured":
        _check_zeros(found, origin=origin)
    return _taken(model, found, config, origin=origin, digest=digest)


def _narrow(model: nn.Module, found: Mapping[str, Tensor], spec: DataSpec, *, origin: str) -> None:
    """RunError if the layers do not fit each other then."""
    own, parts = model.state_dict(), head(model)
    outlines = {}
    rows = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Embedding)}
    for name, tensor in own.items():
        if name in found and found[name].dim() == tensor.dim():
            sizes = [min(pair) for pair in zip(tensor.shape, found[name].shape, strict=True)]
            if tensor.dim() and (inside(name, parts) or name in rows):
                sizes[0] = tensor.shape[0]  # as many answers, or tokens, as the data has
            outlines[name] = tensor[tuple(slice(size) for size in sizes)]
    narrow_to(model, outlines, spec, where=f"the weights of {origin} do not fit model {type(model).__name__}")
    if _shapes(own) == _shapes(model.state_dict()):
        raise ConfigError(
            f"pruned = structured, but the weights of {origin} are as wide as the model: name a pruned run as weights, "
            "or leave pruned out"
        )


def _check_zeros(found: Mapping[str, Tensor], *, origin: str) -> None:
    if not any(bool((tensor == 0).any()) for tensor in found.values() if tensor.dim() >= 2):
        raise ConfigError(
            f"pruned = unstructured, but the weights of {origin} have no zeros: name a pruned run as weights, or leave "
            "pruned out"
        )


def _published(config: TrainConfig) -> tuple[str, str, dict[str, Tensor]]:
    from dlcli.models.zoo import weights_url

    known, entry = listed_model(config.model), published(config.model, config.pretrained)
    assert known is not None and entry is not None
    url = weights_url(known.name, entry.entry)
    path = fetch_weights(url, title=config.model, megabytes=entry.megabytes, data_folder=data_folder(config))
    return f"{known.name} {entry.entry} of torchvision", _sha256(path), read_weights(path)


def _named(name: str, runs_dir: str | Path, saved: Checkpoint | None) -> tuple[str, str, dict[str, Tensor]]:
    path = Path(name)
    if path.is_file():
        return str(path), _sha256(path), read_weights(path)
    if path.suffix.lower() in (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar"):
        raise RunError(f"weights = {name}: there is no such file")
    run = find_one(name, runs_dir)
    if saved is None:
        saved = checkpoint.load(run.checkpoints, "best" if checkpoint.exists(run.checkpoints, "best") else "last")
    return f"{run} ({saved.role} checkpoint, epoch {saved.state['epoch']})", "", saved.weights


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@torch.no_grad()
def _taken(model: nn.Module, found: Mapping[str, Tensor], config: TrainConfig, *, origin: str, digest: str) -> Start:
    own, parts = model.state_dict(), head(model)
    of_head = {name for name in own if inside(name, parts)}
    matched = match(_shapes(own) | _of_colour(model), _shapes(found), head=of_head)
    values: dict[str, Tensor] = {}
    notes: list[str] = []
    shapes = []
    for name, theirs in matched.pairs.items():
        tensor = found[theirs]
        if tensor.shape != own[name].shape:
            change = adapted(model, name, tensor)
            if change is None:
                if name not in of_head:
                    shapes.append((name, tuple(own[name].shape), tuple(tensor.shape)))
                continue
            tensor, note = change
            notes.append(note)
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise RunError(f"the weights of {origin} are damaged: {theirs} holds values that are not finite")
        values[name] = tensor
    parameters = dict(model.named_parameters())
    backbone = [name for name in parameters if name not in of_head] or list(parameters)
    count = sum(parameters[name].numel() for name in backbone if name in values)
    total = sum(parameters[name].numel() for name in backbone)
    if not any(name in values for name in parameters) or (count < _LEAST * total and not config.partial):
        raise ConfigError(_too_few(config, own, found, origin=origin, count=count, total=total))
    for name, tensor in values.items():
        own[name].copy_(tensor)  # converts the type
    return Start(
        origin=origin,
        sha256=digest,
        how=matched.how,
        taken=tuple(values),
        new=tuple(name for name in own if name not in values),
        left=tuple(name for name in found if name not in set(matched.pairs.values())),
        shapes=tuple(shapes),
        notes=(*notes, _about_head(parts, of_head, own, found, values, matched.pairs)),
        parameters=sum(p.numel() for p in parameters.values()),
        taken_parameters=sum(p.numel() for name, p in parameters.items() if name in values),
    )


def _about_head(
    parts: tuple[str, ...],
    of_head: set[str],
    own: Mapping[str, Tensor],
    found: Mapping[str, Tensor],
    values: Mapping[str, Tensor],
    pairs: Mapping[str, str],
) -> str:
    name = ", ".join(parts) or "all"
    if of_head and of_head <= values.keys():
        return f"head {name}: taken"
    bias = next((n for n in sorted(of_head) if n in pairs and own[n].shape != found[pairs[n]].shape), None)
    if bias is not None:
        return f"head {name}: new, with {own[bias].shape[0]} outputs instead of {found[pairs[bias]].shape[0]}"
    return f"head {name}: new, the weights have none" if not of_head & values.keys() else f"head {name}: partly taken"


def _too_few(
    config: TrainConfig, own: Mapping[str, Tensor], found: Mapping[str, Tensor], *, origin: str, count: int, total: int
) -> str:
    """The message if the weights seem to be of another model."""
    names = f"{next(iter(found), 'none')[:60]} there, {next(iter(own), 'none')[:60]} here"
    mend = "take those of this model" + ("" if not count or config.partial else ", or --partial to use them anyway")
    return (
        f"the weights of {origin} fit {count:,} of {total:,} parameters of {config.model} without its head ({names}): "
        f"{mend}"
    )


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _of_colour(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """The shape of the first convolution for three channels, to which weights can be adapted."""
    first = first_convolution(model)
    if first is None:
        return {}
    name, (outputs, _, *kernel) = f"{first[0]}.weight", first[1].weight.shape
    return {name: (outputs, 3, *kernel)}


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "one value"
