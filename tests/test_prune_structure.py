"""Which channels belong together, found by probing, and that removing them changes nothing else."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dlcli.analysis.prune.choosing import in_order
from dlcli.analysis.prune.cutting import cut, differs
from dlcli.analysis.prune.importance import of_units
from dlcli.analysis.prune.structure import Structure, Unit, find_structure
from dlcli.config.own_code import load
from dlcli.config.schemes import model_entry
from dlcli.core.spec import DataSpec
from dlcli.models.blocks import SelfAttention
from dlcli.models.narrowing import narrow


class Residual(nn.Module):
    """A depthwise convolution and a squeeze and excitation in a residual connection, and a flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.expand, self.depthwise = nn.Conv2d(6, 12, 1), nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.squeeze, self.excite = nn.Conv2d(12, 4, 1), nn.Conv2d(4, 12, 1)
        self.project = nn.Conv2d(12, 6, 1)
        self.output = nn.Linear(6 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x))
        y = F.hardswish(self.depthwise(F.relu6(self.expand(x))))
        y = y * F.hardsigmoid(self.excite(F.relu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        return self.output(F.max_pool2d(x + self.project(y), 2).flatten(1))  # type: ignore[no-any-return]


class Dense(nn.Module):
    """What one layer makes is put beside what it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(8, 6), nn.Linear(6, 4), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.third(torch.cat((x, self.second(x.relu())), 1))  # type: ignore[no-any-return]


class Shuffled(nn.Module):
    """Halves of its channels: if one becomes narrower, the cut between them moves."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.output = nn.Linear(8, 12), nn.Linear(6, 6), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.first(x).chunk(2, 1)
        return self.output(torch.cat((left, self.inner(right).relu()), 1))  # type: ignore[no-any-return]


class Counted(nn.Module):
    """Divides by the number of its channels, which a narrower layer changes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.output = nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.output(x / x.shape[1])  # type: ignore[no-any-return]


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.output = nn.Linear(8, 6), nn.LayerNorm(6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.norm(self.first(x)))  # type: ignore[no-any-return]


def structure(model: nn.Module, *shape: int) -> Structure:
    torch.manual_seed(0)
    return find_structure(model.eval(), torch.randn(1, *shape))


def places(found: Structure) -> list[set[tuple[str, str]]]:
    families: dict[Any, None] = dict.fromkeys(unit.family for unit in found.units)
    return [set(family) for family in families]


def test_a_residual_connection_a_depthwise_layer_an_excitation_and_a_flatten() -> None:
    found = structure(Residual(), 3, 8, 8)
    of_stem, inner, squeezed = places(found)
    assert of_stem == {
        ("stem", "out"), ("norm", "out"), ("expand", "in"), ("project", "out"), ("output", "in")
    }  # fmt: skip
    assert inner == {
        ("expand", "out"), ("depthwise", "out"), ("squeeze", "in"), ("excite", "out"), ("project", "in")
    }  # fmt: skip
    assert squeezed == {("squeeze", "out"), ("excite", "in")}
    assert found.left == {"output": "they are answers"}
    second = next(unit for unit in found.units if ("stem", "out") in unit.slots and unit.slots["stem", "out"] == (2,))
    assert second.slots["output", "in"] == tuple(range(32, 48))


def test_channels_that_are_put_beside_each_other() -> None:
    found = structure(Dense(), 8)
    assert places(found) == [
        {("first", "out"), ("second", "in"), ("third", "in")},
        {("second", "out"), ("third", "in")},
    ]
    last = [unit.slots for unit in found.units if ("second", "out") in unit.slots][-1]
    assert last == {("second", "out"): (3,), ("third", "in"): (9,)}


def test_heads_are_removed_as_heads() -> None:
    torch.manual_seed(0)
    model = load(model_entry("attention").target)(DataSpec("multiclass", "image", (1, 8, 8), 10), width=12, heads=3)
    found = structure(model, 1, 8, 8)
    assert len(found.units) == 3
    assert found.units[1].slots["layers.0.query", "out"] == (4, 5, 6, 7)
    made = cut(model, found.units[1:2]).get_submodule("layers.0")
    assert isinstance(made, SelfAttention)
    assert (made.heads, made.head_width, made.output.in_features) == (2, 4, 8)


def half(units: list[Unit]) -> list[Unit]:
    order = in_order(units, [float(number % 5) for number in range(len(units))])
    return order[: max(1, len(units) // 2)]


def by_hooks(model: nn.Module, units: list[Unit], x: Tensor) -> Tensor:
    """The answers of the whole network in which what layers read is masked: the inputs, not the weights."""
    gone: dict[str, list[int]] = {}
    for unit in units:
        for (name, side), chosen in unit.slots.items():
            if side == "in":
                gone.setdefault(name, []).extend(chosen)

    def masking(channels: list[int], axis: int) -> Callable[..., Any]:
        return lambda module, given: (given[0].index_fill(axis, torch.tensor(channels), 0.0), *given[1:])

    hooks = [
        (layer := model.get_submodule(name)).register_forward_pre_hook(
            masking(channels, 1 if isinstance(layer, nn.Conv2d) else -1)
        )
        for name, channels in gone.items()
    ]
    try:
        return model(x)  # type: ignore[no-any-return]
    finally:
        for hook in hooks:
            hook.remove()


IMAGE = DataSpec("multiclass", "image", (1, 28, 28), 10)
MODELS: dict[str, tuple[DataSpec, dict[str, Any]]] = {
    "lenet": (IMAGE, {}),
    "cnn": (IMAGE, {"channels": (4, 8), "hidden": 16}),
    "simple-cnn": (IMAGE, {}),
    "airbench": (IMAGE, {"channels": (4, 6, 8)}),
    "mlp": (IMAGE, {}),
    "attention": (IMAGE, {"layers": 2}),
    "tabular": (DataSpec("binary", "features", (6,), 1), {"width": 16}),
    "ngrams": (DataSpec("multiclass", "tokens", (12,), 3, vocabulary=20), {"buckets": 50}),
    "squeezenet1_1": (DataSpec("multiclass", "image", (3, 32, 32), 10), {}),
}


@pytest.mark.parametrize("name", [*MODELS, "Residual", "Dense"])
@torch.no_grad()
def test_the_narrower_network_answers_as_the_masked_one(name: str) -> None:
    """Against masks of the inputs of layers, where `dlcli prune` masks weights."""
    torch.manual_seed(0)
    spec, options = MODELS.get(name, (DataSpec("multiclass", "image", (3, 8, 8), 5), {}))
    if name == "Dense":
        spec = DataSpec("multiclass", "features", (8,), 3)
    model = (globals()[name]() if name in globals() else load(model_entry(name).target)(spec, **options)).eval()
    x = torch.randint(0, 20, (6, *spec.input_shape)) if spec.kind == "tokens" else torch.randn(6, *spec.input_shape)
    units = find_structure(model, x[:1]).units
    chosen = half(units)
    made = cut(model, chosen)
    assert differs(model, chosen, x) == ""
    assert sum(p.numel() for p in made.parameters()) < sum(p.numel() for p in model.parameters())
    wanted = by_hooks(model, chosen, x)
    torch.testing.assert_close(made(x), wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))


@torch.no_grad()
def test_hidden_channels_of_a_gru_are_cut_out_of_all_its_layers() -> None:
    """Against the GRU whose hidden channel is held at zero: its update gate is open, and its new value zero."""
    torch.manual_seed(0)
    spec = DataSpec("next-token", "tokens", (7,), 20, vocabulary=20)
    model = load(model_entry("rnn").target)(spec, embedding=6, hidden=8, layers=2).eval()
    tokens = torch.randint(0, 20, (3, 7))
    units = [unit for unit in find_structure(model, tokens[:1]).units if ("gru", "out") in unit.slots]
    assert len(units) == 8
    made = cut(model, [units[2], units[5]])
    assert (made.gru.hidden_size, made.gru.weight_hh_l1.shape, made.output.in_features) == (6, (18, 6), 6)
    for layer in range(2):
        for channel in (2, 5):
            for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                tensor = getattr(model.gru, f"{kind}_l{layer}")
                tensor[[channel, 8 + channel, 16 + channel]] = 0.0
    torch.testing.assert_close(made(tokens), model(tokens), rtol=1e-4, atol=1e-6)
    assert differs(model, [units[2], units[5]], tokens) == ""


@pytest.mark.parametrize("kind", [Shuffled, Counted])
def test_what_cannot_be_cut_safely_is_found_by_the_proof(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = kind().eval()
    x = torch.randn(5, 8)
    units = [unit for unit in find_structure(model, x[:1]).units if ("first", "out") in unit.slots]
    why = differs(model, units[:2], x)
    wanted = "its answers then differ"
    if kind is Shuffled:
        wanted = "without some of them it cannot be computed (RuntimeError in tests/test_prune_structure.py, line "
    assert why.startswith(wanted), why


def test_channels_that_a_normalisation_reads_are_left_alone() -> None:
    found = structure(Normed(), 8)
    assert found.units == []
    assert found.left == {
        "first": "norm reads them, and is of a kind that is not known here", "output": "they are answers"
    }  # fmt: skip


def test_a_tied_weight_stays_one() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.output = nn.Embedding(9, 6), nn.Linear(6, 9, bias=False)
            self.output.weight = self.embedding.weight

        def forward(self, tokens: Tensor) -> Tensor:
            return self.output(self.embedding(tokens))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    model = Tied().eval()
    tokens = torch.randint(0, 9, (4, 5))
    units = find_structure(model, tokens[:1]).units
    assert len(units) == 6
    made = cut(model, units[1:3])
    assert made.output.weight is made.embedding.weight
    assert made.output.weight.shape == (9, 4)
    assert differs(model, units[1:3], tokens) == ""


def test_only_ever_narrower() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2))
    before = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    narrow(model, {"0.weight": (7, 4), "0.bias": (0,), "1.weight": (2, 6, 1), "other": (1,)})
    assert {name: tuple(t.shape) for name, t in model.state_dict().items()} == before
    narrow(model, {"0.weight": (3, 4), "0.bias": (3,), "1.weight": (2, 3)})
    assert [(layer.in_features, layer.out_features) for layer in model] == [(4, 3), (3, 2)]


def test_scores_are_sums_over_all_weights_of_a_unit_in_units_of_their_mean() -> None:
    model = Dense().eval()
    units = structure(model, 8).units
    named = dict(model.named_parameters())
    scores = of_units(model, units, {name: p.detach().square() for name, p in named.items()})
    w = {name: p.detach().double() for name, p in named.items()}
    raw = (
        w["first.weight"].square().sum(1) + w["first.bias"].square()
        + w["second.weight"].square().sum(0) + w["third.weight"][:, :6].square().sum(0)
    )  # fmt: skip
    torch.testing.assert_close(torch.tensor(scores[:6]).double(), (raw / raw.mean()), rtol=1e-5, atol=0)
