"""The loss of a training whose learning rate rises, and the rate that it suggests."""

import math
from collections.abc import Sequence

from dlcli.plots.picture import Line, Panel, Picture


def learning_rate(
    rates: Sequence[float], losses: Sequence[float], smoothed: Sequence[float], *, suggestion: float, title: str
) -> Picture:
    """rates, losses: of each step. smoothed: the mean of the losses."""
    across = [math.log10(rate) for rate in rates]
    place = min(range(len(rates)), key=lambda n: abs(across[n] - math.log10(suggestion)))
    lines = [
        Line("loss", list(zip(across, losses, strict=True)), style=2, joined=False),
        Line("its mean", list(zip(across, smoothed, strict=True)), style=1),
        Line(f"suggested: {suggestion:g}", [(across[place], smoothed[place])], style=3, joined=False),
    ]
    return Picture(title, [Panel(title, "logarithm of the learning rate (base 10)", "loss", lines, log=True)])
