"""dlcli's faster GRU, compared with torch's and with the equations in numpy."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dlcli.models import gru
from dlcli.models.gru import GRU


@pytest.fixture(autouse=True)
def pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit on rows that splits sequences into several pieces, the last one shorter."""
    monkeypatch.setattr(gru, "_ROWS", 9)


def pair(layers: int = 1, *, batch_first: bool = False, dropout: float = 0.0) -> tuple[GRU, nn.GRU]:
    """dlcli's and torch's, with the same weights."""
    torch.manual_seed(1)
    ours = GRU(5, 6, layers, batch_first=batch_first, dropout=dropout, dtype=torch.float64)
    theirs = nn.GRU(5, 6, layers, batch_first=batch_first, dropout=dropout, dtype=torch.float64)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def is_ours(layer: nn.GRU, x: Tensor) -> bool:
    found = layer(x)[0].grad_fn
    while found is not None and found.name() not in ("_LayerBackward", "StackBackward0"):
        found = found.next_functions[0][0]
    return found is not None and found.name() == "_LayerBackward"


@pytest.mark.parametrize("used", ["states", "last", "both"])
@pytest.mark.parametrize("begins", ["zeros", "state"])
@pytest.mark.parametrize(
    ("layers", "batch_first", "steps", "batch"), [(1, False, 7, 4), (2, True, 8, 3), (3, False, 1, 2), (1, True, 5, 20)]
)
def test_states_and_gradients_are_those_of_torch(
    layers: int, batch_first: bool, steps: int, batch: int, begins: str, used: str
) -> None:
    ours, theirs = pair(layers, batch_first=batch_first)
    x = normal(batch, steps, 5) if batch_first else normal(steps, batch, 5)
    state = normal(layers, batch, 6) if begins == "state" else None
    wanted = [x] if state is None else [x, state]
    assert is_ours(ours, x)
    results = []
    for layer in (ours, theirs):
        states, last = layer(x, state)
        weights = torch.cos(torch.arange(states.numel(), dtype=torch.float64)).view_as(states)
        scalar = (states * weights).sum() * (used != "last") + (last**2).sum() * (used != "states")
        results.append((states, last, *torch.autograd.grad(scalar, [*wanted, *layer.parameters()])))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_states_follow_the_equations() -> None:
    ours, _ = pair()
    w, u, b, c = (p.detach().numpy() for p in ours.all_weights[0])
    x = normal(4, 1, 5)
    h, expected = np.zeros(6), []
    for value in x.detach().numpy()[:, 0]:
        of_input, of_state = w @ value + b, u @ h + c
        r, z = 1 / (1 + np.exp(-(of_input + of_state)[:12].reshape(2, 6)))
        n = np.tanh(of_input[12:] + r * of_state[12:])
        h = (1 - z) * n + z * h
        expected.append(h)
    np.testing.assert_allclose(ours(x)[0].detach().numpy()[:, 0], expected, rtol=1e-12)


def test_derivatives_of_the_first_and_the_second_order_are_those_of_finite_differences() -> None:
    ours, _ = pair()
    x, state = normal(3, 4, 5), normal(1, 4, 6)
    names, values = zip(*ours.named_parameters(), strict=True)

    def run(x: Tensor, state: Tensor, *values: Tensor) -> tuple[Tensor, Tensor]:
        return torch.func.functional_call(ours, dict(zip(names, values, strict=True)), (x, state))  # type: ignore[no-any-return]

    assert is_ours(ours, x)
    assert torch.autograd.gradcheck(run, (x, state, *values), fast_mode=True)
    assert torch.autograd.gradgradcheck(run, (x, state, *values), fast_mode=True)


def test_dropout_between_layers_is_torchs() -> None:
    ours, theirs = pair(3, dropout=0.5)
    x = normal(7, 4, 5)
    found = []
    for layer in (ours, theirs):
        torch.manual_seed(5)
        found.append(layer(x)[0])
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(ours.eval()(x)[0], theirs.eval()(x)[0], rtol=1e-9, atol=1e-12)


def test_what_is_frozen_gets_no_gradient() -> None:
    ours, _ = pair()
    ours.requires_grad_(False).bias_hh_l0.requires_grad_()
    x = normal(7, 4, 5).detach()
    assert is_ours(ours, x)
    ours(x)[0].sum().backward()
    assert [p.grad is None for p in ours.parameters()] == [True, True, True, False]
    gradient = torch.autograd.grad(ours(x)[0].sum(), ours.bias_hh_l0, create_graph=True)[0]
    torch.testing.assert_close(gradient, ours.bias_hh_l0.grad)


def test_results_of_two_passes_do_not_share_memory() -> None:
    ours, theirs = pair()
    first, second = normal(7, 4, 5), normal(7, 4, 5)
    for x, found in zip((first, second), [ours(first), ours(second)], strict=True):
        torch.testing.assert_close(found, theirs(x))


@pytest.mark.parametrize("batch_first", [False, True])
def test_what_it_does_not_speed_up_it_leaves_to_torch(batch_first: bool) -> None:
    ours, theirs = pair(batch_first=batch_first)
    x = normal(7, 4, 5)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=0)
    torch.testing.assert_close(ours(x[0]), theirs(x[0]), rtol=0, atol=0)  # one sequence, not a batch
    packed = nn.utils.rnn.pack_padded_sequence(x, [7, 5, 2, 1] if not batch_first else [4] * 7, batch_first=batch_first)
    torch.testing.assert_close(ours(packed)[0].data, theirs(packed)[0].data, rtol=0, atol=0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not is_ours(ours.float(), x.detach().float())
    for other in (GRU(5, 6, bidirectional=True), GRU(5, 6, bias=False)):
        assert other(x.float())[0].shape == (7, 4, 6 * (1 + other.bidirectional))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch uses it itself
def test_derivatives_forwards_are_torchs() -> None:
    ours, theirs = pair()
    x, along = normal(7, 4, 5), normal(7, 4, 5)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, along)
        found = [torch.autograd.forward_ad.unpack_dual(layer(dual)[0]).tangent for layer in (ours, theirs)]
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("empty", [(0, 4, 5), (7, 0, 5)])
@pytest.mark.parametrize("wrong", [(7, 4, 6), (7, 4, 5, 1)])
def test_wrong_shapes_are_told_as_by_torch(wrong: tuple[int, ...], empty: tuple[int, ...]) -> None:
    ours, theirs = pair()
    for x, state in itertools.product([normal(*wrong), normal(*empty), normal(7, 4, 5)], [None, normal(1, 3, 6)]):
        said = []
        for layer in (ours, theirs):
            try:
                said.append(str(layer(x, state)[0].shape))
            except (RuntimeError, ValueError) as error:
                said.append(str(error))
        assert said[0] == said[1]
