"""Attention maps: how much each step of a text looks at each other one, by layer and head."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dlcli.analysis.explain.subject import Subject
from dlcli.analysis.explain.texts import token_names
from dlcli.core.errors import ConfigError
from dlcli.data.kinds import without_padding
from dlcli.models.blocks import SelfAttention


@dataclass(frozen=True)
class Head:
    """layer: the name of the module. head: counted from 0. weights: (T, T), row t is how step t divides its attention;
    each row sums to 1."""

    layer: str
    head: int
    weights: Tensor

    def facts(self) -> dict[str, Any]:
        """entropy: of the rows, their mean, in bits. itself, previous, first: the mean attention that a step gives to
        itself, to the step before it and to the first one."""
        w = self.weights
        entropy = torch.special.entr(w).sum(1).mean() / math.log(2)
        before = torch.diagonal(w, -1).mean() if len(w) > 1 else None
        return {
            "layer": self.layer,
            "head": self.head,
            "entropy": float(entropy),
            "itself": float(torch.diagonal(w).mean()),
            "previous": None if before is None else float(before),
            "first": float(w[:, 0].mean()),
        }


@dataclass(frozen=True)
class AttentionMaps:
    """tokens: T, in words. heads: in the order in which the layers are computed."""

    tokens: list[str]
    heads: list[Head]

    def as_dict(self, subject: Subject, *, checkpoint: str) -> dict[str, Any]:
        return {
            "run": str(subject.run),
            "checkpoint": checkpoint,
            "tokens": self.tokens,
            "heads": [{**head.facts(), "weights": head.weights.tolist()} for head in self.heads],
        }


@torch.no_grad()
def attention_maps(subject: Subject, tokens: Tensor) -> AttentionMaps:
    """Of a text, tokens (1, T): softmax(Q K^T / sqrt(D/H)) of each `attention` layer of ours and of each
    nn.MultiheadAttention that attends to the text itself. ConfigError (exit 2) for a model without one."""
    tokens = without_padding(tokens, subject.spec)
    heads: list[Head] = []
    with _listening(subject.model, heads):
        subject.output(tokens)
    if not heads:
        raise ConfigError(
            f"--attention is for models with attention, and {subject.run} ({subject.name}) has none: leave it out, "
            "and name the text as an input"
        )
    return AttentionMaps(token_names(subject.about, tokens[0].tolist()), heads)


@contextmanager
def _listening(model: nn.Module, heads: list[Head]) -> Iterator[None]:
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, SelfAttention | nn.MultiheadAttention):

            def hear(
                each: Any, given: tuple[Any, ...], named: dict[str, Any], output: object, name: str = name
            ) -> None:
                weights = (
                    _ours(each, *given, **named) if isinstance(each, SelfAttention) else _torchs(each, given, named)
                )
                heads.extend(Head(name, k, w) for k, w in enumerate(weights.double().cpu()))

            hooks.append(module.register_forward_hook(hear, with_kwargs=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _ours(layer: SelfAttention, x: Tensor, real: Tensor | None = None) -> Tensor:
    """(H, T, T) of the first text."""
    steps = x.shape[1]

    def split(y: Tensor) -> Tensor:
        return y[0].view(steps, layer.heads, layer.head_width).transpose(0, 1)

    scores = split(layer.query(x)) @ split(layer.key(x)).transpose(1, 2) / math.sqrt(layer.head_width)
    seen = torch.ones(steps, steps, dtype=torch.bool, device=x.device)
    seen = seen.tril() if layer.causal else seen
    if real is not None:
        seen = seen & real[0][None]
    return scores.masked_fill(~seen, -math.inf).softmax(-1)


def _torchs(layer: nn.MultiheadAttention, given: tuple[Any, ...], named: dict[str, Any]) -> Tensor:
    """(H, T, S) of the first text: the layer is computed a second time, with its weights."""
    names = ("query", "key", "value", "key_padding_mask", "need_weights", "attn_mask", "average_attn_weights")
    arguments = {**dict(zip(names, given, strict=False)), **named}
    arguments |= {"need_weights": True, "average_attn_weights": False}
    found = layer.forward(**arguments)[1]
    assert found is not None
    return found[0] if found.dim() == 4 else found
