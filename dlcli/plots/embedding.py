"""What the last layer of a model gets of each sample, in two dimensions."""

from typing import TYPE_CHECKING

from dlcli.core.errors import ConfigError
from dlcli.plots.components import components
from dlcli.plots.curves import run_name
from dlcli.plots.picture import Line, Panel
from dlcli.plots.pixels import Place, data_of
from dlcli.runs.run import Run

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from dlcli.data.dataset import Split
    from dlcli.data.preprocessing import Preprocessing
    from dlcli.experiment.restore import Restored

_MOST = 2000  # samples
_CLASSES, _PARTS = 10, 5
_AT_ONCE = 100  # samples


def embedding(run: Run, notes: list[str], *, split: str, place: Place) -> Panel:
    """The outputs of the last hidden layer of the best checkpoint for the samples of a split, projected onto their two
    principal components, with the share of the variance along each.

    One colour for each class; of more than 10, for each of the 10 most frequent. Of a regression, for each fifth of the
    samples by target. Of more than 2000 samples an even choice is computed and drawn. Values over the positions of an
    image or a sequence are averaged over these. ConfigError (exit 2) if the model has no last layer that gets one
    tensor.
    """
    import torch

    from dlcli.data.batches import in_order
    from dlcli.experiment.restore import restore

    data = data_of(run, place)
    part = data.split(split)
    if len(part) > _MOST:
        notes.append(f"of {len(part):,} samples of {run} {_MOST:,} are drawn")
        part = part.part(torch.linspace(0, len(part) - 1, _MOST).round().long())
    restored = restore(run, device="cpu")
    path, values = _hidden(restored, part, notes)
    places, shares = components(values)
    target = torch.cat([batch.y for batch in in_order(part, _MOST)])
    about = restored.preprocessing
    lines = []
    for number, (name, members) in enumerate(_groups(target, about, notes, run), 1):
        points = [(float(x), float(y)) for x, y in places[members]]
        lines.append(Line(name, points, style=number, joined=False))
    x, y = (f"component {k}, {share:.1%} of the variance" for k, share in enumerate(shares, 1))
    title = f"{values.shape[1]} values before {path} on {split}, {run_name(run)}"
    return Panel(f"{title}: {shares[0]:.1%} + {shares[1]:.1%} of the variance", x, y, lines)


def _hidden(restored: "Restored", part: "Split", notes: list[str]) -> tuple[str, "Tensor"]:
    """The name of the last layer, and what it gets: (N, D)."""
    import torch

    from dlcli.experiment.features import features_of
    from dlcli.models.parts import head

    model, run = restored.model, restored.run
    refused = f"--what embedding is for models whose last layer gets one tensor, and {run} ({restored.config.model}) "
    path = head(model)[0]
    modules = dict(model.named_modules())
    if not path or path not in modules:
        raise ConfigError(f"{refused}has none")
    if sum(bool(module._parameters) for module in modules.values()) == 1:
        notes.append(f"{restored.config.model} of {run} has no hidden layer: its inputs are drawn")
    found = []
    for start in range(0, len(part), _AT_ONCE):
        some = part.part(torch.arange(start, min(start + _AT_ONCE, len(part))))
        try:
            values = features_of(
                model, path, some, batch_size=_AT_ONCE, threads=torch.get_num_threads(),
                precision=restored.config.precision, device=restored.device,
            ).rows.take(torch.arange(len(some)))[0]  # fmt: skip
        except (IndexError, AssertionError):
            raise ConfigError(f"{refused}does not call {path} with one") from None
        if len(values) != len(some) or (values.dim() == 3 and restored.preprocessing.spec.padding):
            raise ConfigError(f"{refused}calls {path} with {tuple(values.shape)}, which is not one row for each sample")
        found.append(
            values.flatten(2).mean(2) if values.dim() == 4 else values.mean(1) if values.dim() == 3 else values
        )
    return path, torch.cat([each.reshape(len(each), -1).float() for each in found])


def _groups(target: "Tensor", about: "Preprocessing", notes: list[str], run: Run) -> list[tuple[str, "torch.Tensor"]]:
    """Names, and which samples are in each group: bool (N,)."""
    import torch

    if about.spec.task == "regression":
        values = target.double() * about.target_std + about.target_mean
        order = torch.argsort(values, stable=True)
        found = []
        for chunk in (each for each in torch.tensor_split(order, _PARTS) if len(each)):
            members = torch.zeros(len(values), dtype=torch.bool)
            members[chunk] = True
            found.append((f"{values[chunk].min():.4g} to {values[chunk].max():.4g}", members))
        return found
    counts = torch.bincount(target)
    shown = torch.argsort(-counts, stable=True)[:_CLASSES].sort().values.tolist()
    groups = [(about.class_names[k] if about.class_names else str(k), target == k) for k in shown if int(counts[k])]
    rest = ~torch.isin(target, torch.tensor(shown))
    if bool(rest.any()):
        notes.append(f"of the classes of {run} the {_CLASSES} most frequent have a colour of their own")
        groups.append(("other classes", rest))
    return groups
