"""A model whose weights, gradients and optimizer state are divided among the processes of its training.

By torch's FSDP2 (Zhao et al. 2023, PyTorch FSDP, arXiv:2304.11277): each process keeps a part of each parameter, as a
DTensor. The parameters of a stage are gathered while the stage computes, and its gradients are divided again when its
backward pass is over. Its import takes seconds, so it is done when asked for.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dlcli.compute.ranks import Ranks


def shard(model: nn.Module, stages: Iterable[nn.Module], *, device: torch.device, compress: bool = False) -> None:
    """Divide the parameters of `model` among all processes, and move them to `device`.

    stages: the modules in it whose parameters are gathered only while they compute; those of the others are gathered
    together. compress: send gradients as bfloat16.
    From now on all processes have to make every forward pass together.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    policy = MixedPrecisionPolicy(reduce_dtype=torch.bfloat16 if compress else None)
    model.to(memory_format=torch.contiguous_format)  # FSDP takes no other
    for module in stages:
        fully_shard(module, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)


class ShardedGradients:
    """As compute/gradients.py has it, for the gradients of a sharded model: FSDP adds them up. scale: of the loss of
    each process, since FSDP takes the mean over the processes."""

    unused: tuple[int, ...] = ()

    def __init__(self, model: nn.Module, ranks: Ranks) -> None:
        self.scale = ranks.size
        self._model: Any = model
        self.finish()

    def arm(self) -> None:
        self._model.set_requires_gradient_sync(True)

    def finish(self) -> None:
        self._model.set_requires_gradient_sync(False)

    def close(self) -> None:
        pass


def is_part(tensor: Tensor) -> bool:
    """Whether it is a DTensor; asked without importing them."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """The tensor of which this is a part, gathered from all processes, which have to call this together."""
    gather: Callable[[], Tensor] | None = getattr(tensor, "full_tensor", None)
    return tensor if gather is None else gather()


def gathered(tensors: Mapping[str, Tensor], *, kept: bool) -> dict[str, Tensor]:
    """All tensors, whole; if they are not `kept`, no parts of them, which takes no memory."""
    found = {}
    for name, tensor in tensors.items():
        entire = whole(tensor)
        if not is_part(tensor):
            found[name] = tensor
        elif kept:
            found[name] = entire.cpu()
    return found


def divided(tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of whole tensors the parts that this process has of the tensors in `like` of the same names."""
    return {name: part_of(tensor, like=like[name]) if name in like else tensor for name, tensor in tensors.items()}


def part_of(tensor: Tensor, *, like: Tensor) -> Tensor:
    """Of a whole tensor the part that `like` is of its own."""
    if not is_part(like):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    own: Any = like
    return distribute_tensor(tensor.to(own.device), own.device_mesh, own.placements, src_data_rank=None)
