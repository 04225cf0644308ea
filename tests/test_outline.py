"""dlcli models NAME draws the tree of a model: shapes, parameters and FLOPs; as a flowchart and as a picture."""

import json
import re
from xml.etree import ElementTree

import pytest
from torch import Tensor, nn
from typer.testing import CliRunner

from dlcli import DataSpec
from dlcli.cli.main import app
from dlcli.compute.cost import measure_cost
from dlcli.config.settings import TrainConfig
from dlcli.core.zoo import zoo_model
from dlcli.data.kinds import sample_input
from dlcli.experiment.guard import build_model
from dlcli.experiment.load import read_source


class Odd(nn.Module):
    """A module that is not called, one that is called twice, and a name with signs of Mermaid and of XML."""

    def __init__(self, spec: DataSpec) -> None:
        super().__init__()
        self.flat, self.unused, self.twice = nn.Flatten(), nn.Linear(3, 3), nn.Linear(64, 64)
        self.add_module('a"]<b>&', nn.Linear(64, spec.outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self._modules['a"]<b>&'](self.twice(self.twice(self.flat(x))))  # type: ignore[misc, no-any-return]


def shown(*words: str, check: int = 0) -> str:
    done = CliRunner().invoke(app, ["models", *words])
    assert done.exit_code == check, done.output
    return done.stdout if check == 0 else done.stderr


@pytest.mark.parametrize("model", ["mlp", "cnn", "lenet", "rnn", "attention"])
def test_the_tree_has_all_parameters_and_the_operations_of_the_model(model: str) -> None:
    layers = json.loads(shown(model, "--json"))["layers"]
    config = TrainConfig(model)
    built = build_model(config, spec := read_source(config).spec)
    assert layers[0]["name"] == model and layers[0]["depth"] == 0
    assert layers[0]["parameters"] == sum(p.numel() for p in built.parameters())
    assert layers[0]["flops"] == measure_cost(built, sample_input(spec, 1)).flops  # another way to count
    assert [layer["name"] for layer in layers[1:]] == [name for name, _ in built.named_modules() if name]
    for number, layer in enumerate(layers):
        inside = [other for other in layers[number + 1 :] if other["name"].startswith(f"{layer['name']}.")]
        children = [other for other in inside if other["depth"] == layer["depth"] + 1]
        assert layer["flops"] >= sum(child["flops"] for child in children)


def test_a_model_of_torchvision_has_the_published_operations_without_its_weights_in_memory() -> None:
    found = json.loads(shown("resnet18", "--json"))
    known = zoo_model("resnet18")
    assert known is not None and found["input"] == [3, 224, 224]
    whole, layers = found["layers"][0], {layer["name"]: layer for layer in found["layers"]}
    assert whole["parameters"] == known.parameters
    assert whole["flops"] == pytest.approx(2e9 * known.weights[0].gflops, rel=0.01)  # they count multiply-adds as one
    assert layers["layer1.0"]["output"] == [64, 56, 56] and layers["layer1.0"]["depth"] == 2


def test_the_flowchart_has_an_edge_from_each_module_to_what_is_in_it() -> None:
    lines = shown("cnn", "--mermaid").splitlines()
    assert lines[0] == "flowchart LR"
    names = {m[1]: m[2] for line in lines if (m := re.fullmatch(r' +(n\d+)\["([^"<]+)<br/>[^"]*"\]', line))}
    edges = {(names[m[1]], names[m[2]]) for line in lines if (m := re.fullmatch(r" +(n\d+) --> (n\d+)", line))}
    assert edges == {
        ("cnn", "convolutions"), ("convolutions", "convolutions.0"), ("convolutions", "convolutions.1"),
        ("cnn", "hidden"), ("cnn", "output"),
    }  # fmt: skip
    assert len(lines) == 1 + len(names) + len(edges)


def test_odd_models_are_drawn_and_no_name_is_markup() -> None:
    own = f"{__name__}:Odd"
    layers = {layer["name"]: layer for layer in json.loads(shown(own, "--json"))["layers"]}
    assert layers["unused"]["output"] is None and layers["unused"]["flops"] == 0
    assert layers["twice"]["flops"] == 2 * (2 * 64 * 64)
    assert "a&quot;]&lt;b&gt;&amp;" in shown(own, "--mermaid")
    svg = shown(own, "--svg")
    texts = [element.text for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
    assert 'a"]<b>&' in texts and "twice" in texts and "64" in texts


class Deaf(Odd):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("no, thanks")


def test_a_model_that_cannot_be_called_has_no_tree_and_says_why() -> None:
    error = f"model {__name__}:Deaf cannot be called with a sample: ValueError: no, thanks"
    done = CliRunner().invoke(app, ["models", f"{__name__}:Deaf", "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout)["layers"] == []
    assert done.stderr.endswith(f"no tree is shown: {error}\n")
    assert shown(f"{__name__}:Deaf", "--svg", check=2).endswith(f"error: {error}\n")


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--svg",), "--svg draws one model: name it, as in dlcli models cnn --svg"),
        (("cnn", "--svg", "--mermaid"), "--mermaid and --svg exclude each other: choose one"),
        (("cnn", "--mermaid", "--json"), "--mermaid and --json exclude each other: choose one"),
    ],
    ids=str,
)
def test_what_excludes_each_other(words: tuple[str, ...], error: str) -> None:
    assert error in shown(*words, check=2)
