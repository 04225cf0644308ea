"""The statistics of batch normalization, estimated anew for weights that were not trained together."""

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from dlcli.data.batches import shuffled
from dlcli.experiment.build import Experiment


@torch.no_grad()
def estimate_statistics(built: Experiment) -> int:
    """Estimate means and variances from one pass over the training split, and return how many modules have them.

    Izmailov et al. 2018 (arXiv:1803.05407), as torch.optim.swa_utils.update_bn does: each is the mean of those of all
    batches. Nothing is augmented, and dropout drops nothing. A last batch of one sample is left out.
    """
    model, config = built.model, built.config
    found = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not found:
        return 0
    momenta = [module.momentum for module in found]
    was_training, modes = model.training, [(module, module.training) for module in model.modules()]
    model.eval()
    for module in found:
        module.reset_running_stats()
        module.momentum = None  # the mean of all batches
        module.train()
    try:
        for batch in shuffled(built.dataset.train, built.batch_size, seed=config.seed, epoch=1):
            if len(batch) > 1:
                model(batch.x)
    finally:
        for module, momentum in zip(found, momenta, strict=True):
            module.momentum = momentum
        model.train(was_training)
        for part, mode in modes:
            part.training = mode
    return len(found)
