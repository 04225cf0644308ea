"""What the last layer of a model gets of each sample, in two dimensions."""

from typing import TYPE_CHECKING

from dlcli.plots.components import components
from dlcli.plots.curves import run_name
from dlcli.plots.picture import Line, Panel
from dlcli.plots.pixels import Place, data_of
from dlcli.runs.run import Run

if TYPE_CHECKING:
    from torch import Tensor

    from dlcli.data.preprocessing import Preprocessing

_MOST = 2000  # samples
_CLASSES, _PARTS = 10, 5


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
    from dlcli.evaluation.hidden import hidden
    from dlcli.experiment.restore import restore

    data = data_of(run, place)
    part = data.split(split)
    if len(part) > _MOST:
        notes.append(f"of {len(part):,} samples of {run} {_MOST:,} are drawn")
        part = part.part(torch.linspace(0, len(part) - 1, _MOST).round().long())
    restored = restore(run, device="cpu")
    path, values = hidden(restored, part, what="--what embedding")
    if not any(bool(module._parameters) for name, module in restored.model.named_modules() if name != path):
        notes.append(f"{restored.config.model} of {run} has no hidden layer: its inputs are drawn")
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


def _groups(target: "Tensor", about: "Preprocessing", notes: list[str], run: Run) -> list[tuple[str, "Tensor"]]:
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
