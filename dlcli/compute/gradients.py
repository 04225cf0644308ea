"""Gradients of several ranks, added up while the backward pass still runs.

Parameters are put into buckets, the last ones first, since the backward pass reaches them first. As soon as all
gradients of a bucket are there, it is sent; so the sums are on their way while the rest is computed (Li et al. 2020,
PyTorch Distributed, arXiv:2006.15704). torch's DistributedDataParallel does the same, but it imports torch._dynamo,
which takes as long as torch itself, and it lays its buckets anew after the first step: with three ranks or more a
resumed training would then round its first sum differently.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from dlcli.compute.ranks import Ranks

# At most so many buckets of one kind, and the bytes that fill one: what is sent last is not hidden behind the backward
# pass.
_BUCKETS = 10
_LEAST, _MOST = 64_000, 25_000_000


class _Bucket:
    """flat: room for the gradients. views: a part of it for each parameter, with its shape and strides."""

    def __init__(self, parameters: list[Tensor]) -> None:
        first = parameters[0]
        self.parameters = parameters
        sizes = [p.numel() for p in parameters]
        self.flat = torch.zeros(sum(sizes), dtype=first.dtype, device=first.device)
        self.views = [
            part.as_strided(p.shape, p.stride())
            for part, p in zip(torch.split(self.flat, sizes), parameters, strict=True)
        ]
        self.missing = len(parameters)


class Gradients:
    """The gradients of these parameters, summed over all ranks. With one rank it does nothing.

    scale: of the loss of each. compress: send float32 as bfloat16, half as many bytes. unused: the numbers of
    parameters that had no gradient at the last step.
    """

    scale = 1

    def __init__(self, parameters: Iterable[nn.Parameter | Tensor], ranks: Ranks, *, compress: bool = False) -> None:
        self._ranks, self._compress = ranks, compress
        self.parameters = [p for p in parameters if p.requires_grad] if ranks.size > 1 else []
        self._buckets = [_Bucket(members) for members in _dealt(self.parameters)]
        self._armed = False
        self._sent: list[tuple[Any, _Bucket, Tensor]] = []
        self.unused: list[int] = []
        self._hooks = [
            p.register_post_accumulate_grad_hook(self._ready_hook(bucket, number))  # type: ignore[no-untyped-call]
            for bucket in self._buckets
            for number, p in enumerate(bucket.parameters)
        ]

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def arm(self) -> None:
        """The next backward pass is the last one before the step: what it accumulates is sent."""
        self._armed, self._sent = True, []
        for bucket in self._buckets:
            bucket.missing = len(bucket.parameters)

    def finish(self) -> None:
        """Wait for the sums, which are then the gradients. A parameter that no rank has used gets zeros."""
        if not self._buckets:
            return
        self._armed = False
        self.unused = [number for number, p in enumerate(self.parameters) if p.grad is None]
        while len(self._sent) < len(self._buckets):
            self._send(self._buckets[len(self._sent)])
        self._ranks.finish([work for work, _, _ in self._sent])
        for _, bucket, sent in self._sent:
            if sent is not bucket.flat:
                bucket.flat.copy_(sent)
            for parameter, view in zip(bucket.parameters, bucket.views, strict=True):
                parameter.grad = view

    def _ready_hook(self, bucket: _Bucket, number: int) -> Any:
        view = bucket.views[number]

        def ready(parameter: Tensor) -> None:
            if not self._armed:
                return
            assert parameter.grad is not None
            view.copy_(parameter.grad)
            parameter.grad = view  # the memory of the other one is free for that of the next parameter
            bucket.missing -= 1
            # In the same order on all ranks, whatever was ready first.
            while len(self._sent) < len(self._buckets) and self._buckets[len(self._sent)].missing <= 0:
                self._send(self._buckets[len(self._sent)])

        return ready

    def _send(self, bucket: _Bucket) -> None:
        for view, parameter in zip(bucket.views, bucket.parameters, strict=True):
            if parameter.grad is None:
                view.zero_()
        sent = bucket.flat.bfloat16() if self._compress and bucket.flat.dtype == torch.float32 else bucket.flat
        self._sent.append((self._ranks.reduce(sent), bucket, sent))


def _dealt(parameters: list[Tensor]) -> list[list[Tensor]]:
    """Buckets of parameters of one kind, the last ones first. The one that fills a bucket is its last: a small bucket
    costs as many messages as a large one."""
    buckets: list[list[Tensor]] = []
    most = min(_MOST, max(_LEAST, sum(p.nbytes for p in parameters) // _BUCKETS))
    size, kind = most, None
    for p in reversed(parameters):
        if size >= most or (p.dtype, p.device) != kind:
            buckets.append([])
            size, kind = 0, (p.dtype, p.device)
        buckets[-1].append(p)
        size += p.nbytes
    return buckets
