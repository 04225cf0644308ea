"""What the last layer of a model gets of each sample."""

import torch
from torch import Tensor

from dlcli.core.errors import ConfigError
from dlcli.data.dataset import Split
from dlcli.experiment.features import features_of
from dlcli.experiment.restore import Restored
from dlcli.models.parts import head

_AT_ONCE = 100  # samples


def hidden(restored: Restored, part: Split, *, what: str) -> tuple[str, Tensor]:
    """The name of the last layer, and what it gets: float32 (N, D). Values over the positions of an image or a sequence
    are averaged over these. what: the option that asks for it. ConfigError (exit 2) if the model has no last layer that
    gets one tensor."""
    model, run = restored.model, restored.run
    refused = f"{what} is for models whose last layer gets one tensor, and {run} ({restored.config.model}) "
    path = head(model)[0]
    if not path or path not in dict(model.named_modules()):
        raise ConfigError(f"{refused}has none")
    found = []
    for start in range(0, len(part), _AT_ONCE):
        some = part.part(torch.arange(start, min(start + _AT_ONCE, len(part))))
        try:
            values = features_of(
                model, path, some, batch_size=_AT_ONCE, threads=torch.get_num_threads(),
                precision=restored.config.precision, device=restored.device,
            ).rows.take(torch.arange(len(some), device=restored.device))[0]  # fmt: skip
        except (IndexError, AssertionError):
            raise ConfigError(f"{refused}does not call {path} with one") from None
        if len(values) != len(some) or (values.dim() == 3 and restored.preprocessing.spec.padding):
            raise ConfigError(f"{refused}calls {path} with {tuple(values.shape)}, which is not one row for each sample")
        found.append(
            values.flatten(2).mean(2) if values.dim() == 4 else values.mean(1) if values.dim() == 3 else values
        )
    return path, torch.cat([each.reshape(len(each), -1).float() for each in found])
