"""`dlcli models NAME` and `dlcli datasets NAME`: the details of one; numbers are compared with torch."""

import inspect
import json
from pathlib import Path

import pytest
from torch import nn

from dlcli.config.own_code import load
from dlcli.config.registry import DATASETS, MODELS
from tests.conftest import Dlcli
from tests.test_start_up import call, heavy_after


def test_a_model_tells_its_options_parameters_and_defaults(dlcli: Dlcli) -> None:
    assert dlcli("models", "cnn").stdout == (
        "cnn\n"
        "what              value\n"
        "what it is        two convolutions with pooling, two linear layers\n"
        "takes             images\n"
        "parameters        53,002 on digits\n"
        "default data      digits\n"
        "its own defaults  epochs=20\n"
        "\n"
        "options, as in --set model.channels=VALUE\n"
        "option          type                     default\n"
        "model.channels  a list of whole numbers  32,64\n"
        "model.hidden    a whole number           128\n"
        "model.dropout   a number                 0\n"
        "\n"
        "modules, with the shape of what they give for one sample of 1x8x8\n"
        "module          kind         gives  parameters    FLOPs\n"
        "cnn             CNN             10      53,002  694,784\n"
        "  convolutions  ModuleList       -      18,816  626,688\n"
        "    0           Conv2d      32x8x8         320   36,864\n"
        "    1           Conv2d      64x4x4      18,496  589,824\n"
        "  hidden        Linear         128      32,896   65,536\n"
        "  output        Linear          10       1,290    2,560\n"
        "\n"
    )


@pytest.mark.slow
def test_the_number_of_parameters_is_that_of_torchs_own_layers(dlcli: Dlcli) -> None:
    found = json.loads(dlcli("models", "mlp", "--json").stdout)
    layers = nn.Sequential(nn.Linear(64, 128), nn.Linear(128, 64), nn.Linear(64, 10))
    assert found["parameters"] == sum(p.numel() for p in layers.parameters())
    assert found["options"][0] == {
        "name": "hidden", "type": "a list of whole numbers", "default": [128, 64], "required": False
    }  # fmt: skip
    assert (found["data"], found["defaults"]) == ("digits", {"epochs": 20})
    assert dlcli("models", "mlp", "--csv").stdout == (
        "name,type,default\n"
        'model.hidden,a list of whole numbers,"128,64"\n'
        'model.activation,"one of relu, gelu, silu, tanh, sigmoid, none",relu\n'
        "model.dropout,a number,0\n"
    )


@pytest.mark.parametrize("name", MODELS)
def test_every_option_of_every_model_is_told_with_its_default(name: str) -> None:
    from dlcli.experiment.catalogue import about_model

    found = about_model(name)
    signature = inspect.signature(load(MODELS[name].target))
    own = {p.name: p.default for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY}
    assert {option["name"]: option["default"] for option in found["options"]} == own
    assert found["parameters"] > 0 and found["takes"] == MODELS[name].takes


@pytest.mark.parametrize("name", DATASETS)
def test_every_data_set_is_told_without_a_download(name: str, tmp_path: Path) -> None:
    from dlcli.experiment.catalogue import about_data

    found = about_data(name, data_dir=str(tmp_path / "data"))
    assert (found["task"], found["licence"], found["origin"]) == (
        DATASETS[name].task, DATASETS[name].licence, DATASETS[name].origin,
    )  # fmt: skip
    assert (found["files"] is not None) == DATASETS[name].origin.startswith("downloaded")
    assert not (tmp_path / "data").exists()


def test_a_data_set_says_where_its_files_are_and_whether_they_are_there(dlcli: Dlcli, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "MNIST" / "raw"
    lines = dlcli("datasets", "mnist", "--data-dir", "data").stdout.splitlines()
    assert lines[0] == "mnist"
    assert "licence              CC BY-SA 3.0" in lines
    assert "its own defaults     epochs=5" in lines
    assert lines[-2] == f"files                not there yet, in {folder}; a training downloads 11.6 MB"
    folder.mkdir(parents=True)
    names = json.loads(dlcli("datasets", "mnist", "--json", DLCLI_DATA_DIR="data").stdout)["files"]["names"]
    assert len(names) == 4
    (folder / names[0]).touch()
    line = dlcli("datasets", "mnist", DLCLI_DATA_DIR="data").stdout.splitlines()[-2]
    assert line == f"files                1 of 4 there, in {folder}; a training downloads 11.6 MB"
    for name in names:
        (folder / name).touch()
    line = dlcli("datasets", "mnist", DLCLI_DATA_DIR="data").stdout.splitlines()[-2]
    assert line == f"files                all there, in {folder}"
    assert dlcli("datasets", "recall").stdout.splitlines()[-8:] == [
        "options, as in --set data.samples=VALUE",
        "option        type            default",
        "data.samples  a whole number  20000",
        "data.pairs    a whole number  8",
        "data.keys     a whole number  16",
        "data.values   a whole number  8",
        "data.seed     a whole number  0",
        "",
    ]


def test_own_code_is_told_too_and_an_unknown_name_names_the_nearest(dlcli: Dlcli, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import math\nfrom torch import nn\n\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, spec, *, width: int = 4):\n"
        "        super().__init__()\n"
        "        self.net = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(spec.input_shape), width))\n\n"
        "class Wide(nn.Module):\n"
        "    def __init__(self, spec, *, width: int):\n"
        "        super().__init__()\n"
    )
    found = json.loads(dlcli("models", "mine:Net", "--json").stdout)
    assert found["parameters"] == 64 * 4 + 4
    lines = dlcli("models", "mine:Wide").stdout.splitlines()
    assert "model.width  a whole number  must be given" in lines
    assert "parameters    -" in lines
    done = dlcli("models", "ccnn", check=2)
    assert (done.stdout, done.stderr) == ("", "error: unknown model 'ccnn': did you mean cnn?\n")
    done = dlcli("datasets", "mnits", check=2)
    assert (done.stdout, done.stderr) == ("", "error: unknown data 'mnits': did you mean mnist or kmnist?\n")


@pytest.mark.parametrize("command", ["models", "datasets"])
def test_the_lists_import_nothing_heavy(command: str) -> None:
    assert heavy_after(call(command)) == []
