"""Layers, compared with torch's, with the formulas of the papers, and with loops."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from dlcli.core.errors import ConfigError
from dlcli.core.spec import DataSpec
from dlcli.models.blocks import ACTIVATIONS, MeanMixing, SelfAttention, need_image, sinusoidal_positions


def torch_twin(ours: SelfAttention, width: int, heads: int) -> nn.MultiheadAttention:
    """torch's layer with the weights of dlcli's."""
    twin = nn.MultiheadAttention(width, heads, batch_first=True, dtype=torch.float64)
    parts = (ours.query, ours.key, ours.value)
    with torch.no_grad():
        twin.in_proj_weight.copy_(torch.cat([p.weight for p in parts]))
        twin.in_proj_bias.copy_(torch.cat([p.bias for p in parts]))
        twin.out_proj.weight.copy_(ours.output.weight)
        twin.out_proj.bias.copy_(ours.output.bias)
    return twin


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("width", "heads", "steps"), [(8, 1, 5), (12, 3, 7), (16, 16, 2), (6, 2, 1)])
def test_self_attention_equals_torchs_forward_and_gradients(causal: bool, width: int, heads: int, steps: int) -> None:
    torch.manual_seed(1)
    ours = SelfAttention(width, heads=heads, causal=causal).double()
    twin = torch_twin(ours, width, heads)
    x = torch.randn(3, steps, width, dtype=torch.float64, requires_grad=True)
    x2 = x.detach().clone().requires_grad_()
    mask = torch.triu(torch.ones(steps, steps, dtype=torch.bool), 1) if causal else None
    weights = torch.randn(3, steps, width, dtype=torch.float64)

    out, expected = ours(x), twin(x2, x2, x2, attn_mask=mask, need_weights=False)[0]
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-12)

    (out * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(x.grad, x2.grad, rtol=1e-9, atol=1e-11)
    packed = torch.cat([p.weight.grad for p in (ours.query, ours.key, ours.value)])
    torch.testing.assert_close(packed, twin.in_proj_weight.grad, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(ours.output.weight.grad, twin.out_proj.weight.grad, rtol=1e-9, atol=1e-11)


def test_self_attention_is_the_papers_formula() -> None:
    torch.manual_seed(2)
    layer = SelfAttention(6, heads=2).double()
    x = torch.randn(1, 4, 6, dtype=torch.float64)
    q, k, v = (f(x)[0].detach().numpy() for f in (layer.query, layer.key, layer.value))
    heads = []
    for h in range(2):
        own = slice(3 * h, 3 * h + 3)
        score = q[:, own] @ k[:, own].T / math.sqrt(3)
        share = np.exp(score) / np.exp(score).sum(1, keepdims=True)
        heads.append(share @ v[:, own])
    mixed = np.concatenate(heads, 1)
    expected = mixed @ layer.output.weight.detach().numpy().T + layer.output.bias.detach().numpy()
    np.testing.assert_allclose(layer(x)[0].detach().numpy(), expected, rtol=1e-10)


def test_causal_self_attention_does_not_look_ahead() -> None:
    torch.manual_seed(3)
    layer = SelfAttention(8, heads=2, causal=True)
    x = torch.randn(2, 6, 8)
    changed = x.clone()
    changed[:, 4:] += 1
    before, after = layer(x), layer(changed)
    torch.testing.assert_close(after[:, :4], before[:, :4])
    assert (after[:, 4:] - before[:, 4:]).abs().amax(-1).min() > 1e-3


def test_self_attention_drops_out_in_training_only() -> None:
    torch.manual_seed(4)
    layer = SelfAttention(8, heads=2, dropout=0.5)
    x = torch.randn(2, 6, 8)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


@pytest.mark.parametrize("heads", [0, 3, 16, -2])
def test_heads_must_divide_the_width(heads: int) -> None:
    with pytest.raises(ConfigError) as caught:
        SelfAttention(8, heads=heads)
    assert str(caught.value) == f"model.heads = {heads} must divide model.width = 8"


@pytest.mark.parametrize("causal", [False, True])
def test_mean_mixing_is_a_plain_mean(causal: bool) -> None:
    torch.manual_seed(5)
    layer = MeanMixing(4, causal=causal).double()
    x = torch.randn(2, 5, 4, dtype=torch.float64)
    value = layer.value(x)
    mean = torch.stack([value[:, : t + 1 if causal else 5].mean(1) for t in range(5)], 1)
    torch.testing.assert_close(layer(x), layer.output(mean))


@pytest.mark.parametrize(("steps", "width"), [(1, 1), (10, 8), (7, 5), (50, 64)])
def test_sinusoidal_positions_are_the_papers(steps: int, width: int) -> None:
    expected = np.zeros((steps, width))
    for position in range(steps):
        for column in range(width):
            angle = position / 10_000 ** (2 * (column // 2) / width)
            expected[position, column] = math.cos(angle) if column % 2 else math.sin(angle)
    np.testing.assert_allclose(sinusoidal_positions(steps, width).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("relu", lambda x: max(x, 0)),
        ("gelu", lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2),
        ("silu", lambda x: x / (1 + math.exp(-x))),
        ("tanh", math.tanh),
        ("sigmoid", lambda x: 1 / (1 + math.exp(-x))),
        ("none", lambda x: x),
    ],
)
def test_activations_are_what_they_are_called(name, expected) -> None:
    values = [-2.5, -0.3, 0.0, 0.7, 3.0]
    out = ACTIVATIONS[name]()(torch.tensor(values, dtype=torch.float64))
    assert out.tolist() == pytest.approx([expected(v) for v in values])
    assert len(ACTIVATIONS) == 6


def test_need_image_gives_height_and_width() -> None:
    assert need_image("cnn", DataSpec("multiclass", "image", (3, 13, 9), 10), shortest=4) == (13, 9)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            DataSpec("binary", "features", (30,), 1),
            "model cnn is for images, but the data is features of 30: choose --data digits, or model mlp",
        ),
        (
            DataSpec("multiclass", "image", (1, 3, 9), 10),
            "model cnn needs images of at least 4 pixels, but the data is image of 1x3x9",
        ),
    ],
)
def test_need_image_refuses(spec: DataSpec, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        need_image("cnn", spec, shortest=4)
    assert str(caught.value) == message
