"""The fit of a regression on one feature: the samples, and the line of the predictions."""

from dlcli.core.errors import ConfigError
from dlcli.plots.answers import Answers
from dlcli.plots.curves import run_name
from dlcli.plots.picture import Line, Panel
from dlcli.plots.pixels import Place, data_of
from dlcli.plots.thinning import evenly

_MOST = 1500  # samples


def fit(one: Answers, notes: list[str], *, place: Place) -> Panel:
    """Targets and predictions over the feature, in the units of the data. Of more than 1500 samples an even choice
    along the feature is drawn. ConfigError (exit 2) if there are several features."""
    import torch

    from dlcli.data.batches import in_order

    data = data_of(one.run, place)
    if data.spec.kind != "features" or data.spec.input_shape != (1,):
        raise ConfigError(f"--what fit is for one feature, and {one.run} expects {data.spec}")
    about, part = data.preprocessing, data.split(one.split)
    x = torch.cat([batch.x[:, 0] for batch in in_order(part, 100_000)]).double()
    x = x * about.std[0] + about.mean[0] if about.mean else x
    order = torch.argsort(x, stable=True).tolist()
    rows = [(float(x[k]), float(one.target[k]), float(one.predicted[k])) for k in order]
    if len(rows) > _MOST:
        notes.append(f"of {len(rows):,} samples of {one.run} about {_MOST} are drawn")
    name, feature = run_name(one.run), about.feature_names[0] if about.feature_names else "feature"
    lines = [
        Line("samples", evenly([(x, y) for x, y, _ in rows], most=_MOST), style=7, joined=False),
        Line(name, evenly([(x, y) for x, _, y in rows], most=_MOST), style=one.run.number),
    ]
    return Panel(f"fit on {one.split}, {name}", feature, "target", lines)
