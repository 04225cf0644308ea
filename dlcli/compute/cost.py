"""The cost of a model: floating-point operations, memory, and a suitable batch size for its evaluation."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from dlcli.models.blocks import SelfAttention
from dlcli.models.ngrams import NGrams
from dlcli.models.tabular import Periodic

# Largest tensor between two layers in an evaluation, in bytes, so that the next layer finds it in the cache and the
# allocator can reuse memory. On a GPU long kernels matter more.
_LARGEST_BYTES = {"cpu": 8_000_000}
_LARGEST_BYTES_ELSEWHERE = 256_000_000
_MOST_SAMPLES = 512


class Cost(NamedTuple):
    """The cost of one evaluation.

    flops: of the matrix products; a multiply-add counts as two.
    bytes: of the outputs of all layers that take memory of their own.
    largest: bytes of the largest of these outputs, or of the input if that is larger.
    chain: number of steps that a recurrent layer computes one after the other; 1 without such a layer.
    """

    flops: int
    bytes: int
    largest: int
    chain: int


@torch.no_grad()
def measure_cost(model: nn.Module, x: Tensor) -> Cost:
    """The cost of `model(x)`, counted layer by layer: linear, convolutional and recurrent weights, attention,
    the embeddings of numbers, and sums of n-grams."""
    flops, total, largest, chain = 0, 0, x.numel() * x.element_size(), 1

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
        nonlocal flops, total, largest, chain
        first = output[0] if isinstance(output, tuple) and output else output
        if isinstance(first, Tensor):
            size = first.numel() * first.element_size()
            largest = max(largest, size)
            if not list(module.children()) and not _shares_memory(first, inputs):
                total += size
        if isinstance(module, SelfAttention):
            b, t, _ = inputs[0].shape
            flops += 4 * b * t * t * module.heads * module.head_width
        elif isinstance(module, Periodic):
            flops += 2 * module.weight.numel() * len(inputs[0])
        elif isinstance(module, NGrams):  # the weighted sum of all vectors
            b, t = inputs[0].shape
            flops += 2 * b * t * (module.longest - module.shortest + 1) * module.embedding.embedding_dim
        elif isinstance(module, nn.RNNBase):
            weights = sum(p.numel() for name, p in module.named_parameters() if "weight" in name)
            flops += 2 * weights * inputs[0].shape[:-1].numel()
            chain = max(chain, inputs[0].shape[-2 if module.batch_first else 0])
        elif isinstance(module, nn.Linear) and isinstance(output, Tensor):
            flops += 2 * module.in_features * output.numel()
        elif isinstance(module, nn.modules.conv._ConvNd) and isinstance(output, Tensor):
            flops += 2 * module.weight[0].numel() * output.numel()

    hooks = [module.register_forward_hook(count) for module in model.modules()]
    was_training = model.training
    model.eval()
    try:
        model(x)
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return Cost(flops, total, largest, chain)


def _shares_memory(output: Tensor, inputs: tuple[Tensor, ...]) -> bool:
    """Whether it is a view of an input, or the input itself, changed in place."""
    place = output.untyped_storage().data_ptr()
    return any(isinstance(x, Tensor) and x.untyped_storage().data_ptr() == place for x in inputs)


def choose_eval_batch_size(setting: int | str, *, device: torch.device, largest: int) -> int:
    """Samples per batch in evaluation; `auto` is a power of two that fits the caches.

    largest: bytes of the largest tensor for one sample.
    """
    if setting != "auto":
        return int(setting)
    fitting = _LARGEST_BYTES.get(device.type, _LARGEST_BYTES_ELSEWHERE) // max(largest, 1)
    return min(1 << max(fitting.bit_length() - 1, 0), _MOST_SAMPLES)
