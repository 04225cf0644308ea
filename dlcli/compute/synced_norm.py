"""Batch normalisation over the samples of all ranks. torch.nn.SyncBatchNorm is for GPUs only."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dlcli.compute.ranks import Ranks, here


class SyncedNorm(_BatchNorm):
    """As BatchNorm1d, 2d or 3d, with mean and variance of the whole batch: x (N, C, ...), N samples of this rank.

    The names of its parameters and buffers are those of the layer that it replaces.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2 dimensions, not {input.dim()}")

    def forward(self, x: Tensor) -> Tensor:
        ranks = here()
        if not self.training or ranks.size == 1:
            return super().forward(x)
        self._check_input_dim(x)
        dims = [0, *range(2, x.dim())]
        shape = [1, -1, *[1] * (x.dim() - 2)]
        values = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        own = torch.full((1,), x.numel() / x.shape[1], dtype=values.dtype, device=x.device)
        sums: Tensor = _Sum.apply(torch.cat([values.sum(dims), own]), ranks)
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = values - mean.view(shape)
        variance = _Sum.apply((centred * centred).sum(dims), ranks) / count
        self._remember(mean.detach(), variance.detach(), count)
        result: Tensor = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            result = result * self.weight.view(shape) + self.bias.view(shape)
        return result.to(x.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Moves the running statistics, whose variance is the unbiased one, as in torch."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        factor = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), factor)
        self.running_var.lerp_((variance * count / (count - 1)).to(self.running_var.dtype), factor)


class _Sum(torch.autograd.Function):
    """The sum over all ranks. Each rank's loss depends on it, so its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        total = x.contiguous().clone()
        ranks.finish([ranks.reduce(total)])
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        total = gradients[0].contiguous().clone()
        ctx.ranks.finish([ctx.ranks.reduce(total)])
        return total, None


def synced(model: nn.Module) -> nn.Module:
    """The model with each of its batch normalisations over all ranks; parameters and buffers are the same tensors."""
    for name, child in model.named_children():
        if isinstance(child, _BatchNorm) and not isinstance(child, SyncedNorm):
            norm = SyncedNorm(
                child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats, device="meta"
            )  # fmt: skip
            norm._parameters, norm._buffers, norm.training = child._parameters, child._buffers, child.training
            setattr(model, name, norm)
        else:
            synced(child)
    return model


def normalises_batches(model: nn.Module) -> bool:
    return any(isinstance(module, _BatchNorm) for module in model.modules())
