"""dlcli's optimizers, compared with torch.optim step by step, and the average of the weights, compared with a loop."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dlcli.compute.optimizers import Optimizer, WeightAverage

STEPS = 20

CASES: dict[str, tuple[dict[str, Any], Any, dict[str, Any]]] = {
    "gd": ({"name": "gd"}, torch.optim.SGD, {}),
    "sgd": ({"name": "sgd"}, torch.optim.SGD, {}),
    "momentum": ({"name": "sgd", "momentum": 0.9}, torch.optim.SGD, {"momentum": 0.9}),
    "nesterov": (
        {"name": "sgd", "momentum": 0.8, "nesterov": True},
        torch.optim.SGD,
        {"momentum": 0.8, "nesterov": True},
    ),
    "adam": ({"name": "adam"}, torch.optim.Adam, {}),
    "adamw": ({"name": "adamw"}, torch.optim.AdamW, {"weight_decay": 0.0}),
    "rmsprop": ({"name": "rmsprop"}, torch.optim.RMSprop, {}),
    "rmsprop-momentum": ({"name": "rmsprop", "momentum": 0.9}, torch.optim.RMSprop, {"momentum": 0.9}),
}


def a_model(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)


def both(dtype: torch.dtype, ours: dict[str, Any], theirs: Any, settings: dict[str, Any]) -> tuple[Any, Any]:
    """Parameters after 20 steps with a learning rate that changes at each step: dlcli's, torch's."""
    model = a_model(dtype)
    twin = copy.deepcopy(model)
    optimizer = Optimizer(model.parameters(), **ours)
    settings = dict(settings)
    groups = settings.pop("groups", nn.Module.parameters)
    reference = theirs(groups(twin), lr=1, **settings)
    generator = torch.Generator().manual_seed(1)
    for step in range(STEPS):
        x = torch.randn(16, 5, generator=generator, dtype=dtype)
        y = torch.randn(16, 3, generator=generator, dtype=dtype)
        lr = 0.02 / (1 + 0.1 * step)
        for m in (model, twin):
            m.zero_grad()
            nn.functional.mse_loss(m(x), y).backward()
        optimizer.step(lr)
        for group in reference.param_groups:
            group["lr"] = lr
        reference.step()
    return list(model.parameters()), list(twin.parameters())


def decayed_and_others(model: nn.Module) -> list[dict[str, Any]]:
    """The usual parameter groups for torch: no decay on biases and normalization layers."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": 0.1},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]


@pytest.mark.parametrize("case", CASES)
def test_several_passes_over_a_few_parameters_are_one_over_all(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dlcli.compute.optimizers._IN_CACHE", 100)  # bytes
    ours = CASES[case][0] | {"weight_decay": 0.1, "l1": 0.001}
    passes = Optimizer(a_model(torch.float32).parameters(), **ours)._groups
    assert [len(group.parameters) for group in passes] == [1, 2, 2, 1]
    few, _ = both(torch.float32, ours, *CASES[case][1:])
    monkeypatch.undo()
    assert len(Optimizer(a_model(torch.float32).parameters(), **ours)._groups) == 1
    all_at_once, _ = both(torch.float32, ours, *CASES[case][1:])
    assert all(torch.equal(a, b) for a, b in zip(few, all_at_once, strict=True))


@pytest.mark.parametrize("case", CASES)
def test_twenty_steps_are_torchs_bit_by_bit(case: str) -> None:
    ours, theirs = both(torch.float32, *CASES[case])
    start = list(a_model(torch.float32).parameters())
    for a, b, before in zip(ours, theirs, start, strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, before)


@pytest.mark.parametrize("case", CASES)
def test_twenty_steps_are_torchs_in_double(case: str) -> None:
    for a, b in zip(*both(torch.float64, *CASES[case]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("case", CASES)
def test_weight_decay_on_everything_is_torchs(case: str) -> None:
    ours, theirs, settings = CASES[case]
    decayed = both(
        torch.float64, {**ours, "weight_decay": 0.1, "decay_all": True}, theirs, {**settings, "weight_decay": 0.1}
    )
    for a, b in zip(*decayed, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("case", CASES)
def test_weight_decay_spares_biases_and_norms(case: str) -> None:
    ours, theirs, settings = CASES[case]
    settings = {name: value for name, value in settings.items() if name != "weight_decay"}
    decayed = both(torch.float64, {**ours, "weight_decay": 0.1}, theirs, {**settings, "groups": decayed_and_others})
    for a, b in zip(*decayed, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-15)
    plain = both(torch.float64, ours, theirs, settings | ({"weight_decay": 0} if ours["name"] == "adamw" else {}))
    assert not torch.equal(decayed[0][0], plain[0][0])


def one_step(parameter: list[float], gradient: list[float], lr: float, **settings: Any) -> list[float]:
    p = nn.Parameter(torch.tensor([parameter], dtype=torch.float64))
    p.grad = torch.tensor([gradient], dtype=torch.float64)
    Optimizer([p], **settings).step(lr)
    return p[0].tolist()


def test_plain_descent_by_hand() -> None:
    assert one_step([1.0, -2.0], [0.5, 0.25], 0.1, name="gd") == pytest.approx([0.95, -2.025], rel=1e-15)


def test_l1_adds_the_sign_of_the_weight_to_the_gradient() -> None:
    stepped = one_step([1.0, -2.0, 0.0], [0.5, 0.25, 0.0], 0.1, name="sgd", l1=0.3)
    assert stepped == pytest.approx([1 - 0.1 * (0.5 + 0.3), -2 - 0.1 * (0.25 - 0.3), 0.0], rel=1e-15)


def test_l1_and_l2_add_up() -> None:
    stepped = one_step([1.0, -2.0], [0.5, 0.25], 0.1, name="sgd", l1=0.3, weight_decay=0.01)
    assert stepped == pytest.approx([1 - 0.1 * (0.5 + 0.01 + 0.3), -2 - 0.1 * (0.25 - 0.02 - 0.3)], rel=1e-15)


def test_adamw_decays_the_weight_and_not_the_gradient() -> None:
    stepped = one_step([1.0, -2.0], [0.5, 0.25], 0.1, name="adamw", weight_decay=0.5)
    # A first step of Adam is lr times the sign of the gradient.
    assert stepped == pytest.approx([1 * 0.95 - 0.1, -2 * 0.95 - 0.1], rel=1e-6)


def test_l1_spares_biases_unless_decay_all() -> None:
    for decay_all, expected in ((False, 1.0), (True, 0.97)):
        bias = nn.Parameter(torch.ones(1, dtype=torch.float64))
        bias.grad = torch.zeros(1, dtype=torch.float64)
        Optimizer([bias], name="sgd", l1=0.3, decay_all=decay_all).step(0.1)
        assert bias.item() == pytest.approx(expected)


def test_penalties_do_not_change_the_gradients_themselves() -> None:
    p = nn.Parameter(torch.ones(2, 2))
    p.grad = torch.full((2, 2), 0.5)
    Optimizer([p], name="sgd", l1=0.1, weight_decay=0.1, momentum=0.9, nesterov=True).step(0.1)
    assert torch.equal(p.grad, torch.full((2, 2), 0.5))


def test_a_parameter_without_gradient_counts_as_one_of_zero() -> None:
    settings = {"name": "sgd", "momentum": 0.5, "weight_decay": 0.1}
    with_none, with_zero = (nn.Parameter(torch.ones(2, 2)) for _ in range(2))
    for p in (with_none, with_zero):
        optimizer = Optimizer([p], **settings)
        for _ in range(3):
            p.grad = None if p is with_none else torch.zeros(2, 2)
            optimizer.step(0.1)
    assert torch.equal(with_none, with_zero)
    assert with_none[0, 0] < 1


def test_frozen_parameters_stay() -> None:
    frozen, free = nn.Parameter(torch.ones(2, 2), requires_grad=False), nn.Parameter(torch.ones(2, 2))
    free.grad = torch.ones(2, 2)
    optimizer = Optimizer([frozen, free], name="sgd", weight_decay=0.1)
    optimizer.step(0.1)
    assert torch.equal(frozen, torch.ones(2, 2)) and not torch.equal(free, torch.ones(2, 2))
    optimizer.zero_grad()
    assert free.grad is None


class WithBuffer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, dtype=torch.float64))
        self.register_buffer("count", torch.zeros(1))


@pytest.mark.parametrize("decay", [0.5, 0.999])
def test_the_average_of_the_weights_is_a_loop_in_numpy(decay: float) -> None:
    model, averaged = WithBuffer(), WithBuffer()
    model.weight.data.copy_(torch.tensor([1.0, 2.0, 3.0]))
    average = WeightAverage(model, averaged, decay)
    expected = np.array([1.0, 2.0, 3.0])
    rng = np.random.default_rng(0)
    for t in range(1, 30):
        values = rng.normal(size=3)
        model.weight.data.copy_(torch.from_numpy(values))
        model.count += 1
        average.update()
        d = min(decay, (1 + t) / (10 + t))
        expected = d * expected + (1 - d) * values
        np.testing.assert_allclose(averaged.weight.detach().numpy(), expected, rtol=1e-12)
        assert averaged.count.item() == t  # buffers are copied
