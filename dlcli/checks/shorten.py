"""Makes a training short enough for a check."""

import math
from collections.abc import Callable

from dlcli.config.settings import TrainConfig
from dlcli.experiment.build import build

_STEPS = 200
_SAVES = 20


def shorten(config: TrainConfig, *, saves: bool, tell: Callable[[str], None] = lambda line: None) -> TrainConfig:
    """`config` with about 200 steps, but at least two epochs and those up to `unfreeze_at`, unless its epochs or steps
    were given.

    saves: also set about 20 saves, unless checkpoint_every was given. tell: called with a line about the length.
    """
    per_epoch = build(config).steps_per_epoch
    if config.epochs is not None and "epochs" not in config.given:
        config = config.replace(
            epochs=min(config.epochs, max(2, config.unfreeze_at or 2, math.ceil(_STEPS / per_epoch)))
        )
    steps = config.total_steps(per_epoch)
    if saves and "checkpoint_every" not in config.given:
        config = config.replace(checkpoint_every=f"{max(1, steps // _SAVES)}steps")
    length = f"{steps} step{'s' * (steps > 1)}"
    if config.epochs is not None:
        length = f"{config.epochs} epoch{'s' * (config.epochs > 1)} of {per_epoch} step{'s' * (per_epoch > 1)}"
    how = f", saved every {config.checkpoint_every}" if saves else ""
    tell(f"{config.model} on {config.data}: {length}{how}")
    return config
