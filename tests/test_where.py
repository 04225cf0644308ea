"""`dlcli runs --where --sort --columns` and `dlcli runs select`: which runs, in which order, with which columns."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dlcli.cli.main import app
from dlcli.config.layers import flatten
from dlcli.core.errors import ConfigError
from dlcli.runs.table import COLUMNS
from dlcli.runs.where import check_names, values
from tests.test_compare import make
from tests.test_differences import measured


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runs 1 to 4 of cnn and 5 of mlp; 4 was interrupted, 5 has no validation split."""
    monkeypatch.chdir(tmp_path)
    root = Path("runs")
    for number, (lr, value) in enumerate(((0.1, 0.91), (0.01, 0.97), (0.001, 0.95), (0.1, 0.99)), start=1):
        loss = {"metrics": {"val/loss": 1 - value}}
        make(root, value, seed=number, lr=lr, info=loss | ({"status": "interrupted"} if number == 4 else {}))
    measured(make(root, None, seed=5, model="mlp", model_options={"hidden": [32, 16]}), accuracy=0.5)
    return root


def call(*words: str, code: int = 0) -> tuple[str, str]:
    result = CliRunner().invoke(app, ["runs", *words])
    assert result.exit_code == code, result.output
    return result.stdout, result.stderr


def listed(*words: str) -> list[int]:
    return [row["run"] for row in json.loads(call(*words, "--json")[0])]


@pytest.mark.parametrize(
    ("condition", "runs"),
    [
        ("lr < 0.1", [5, 3, 2]),
        ("lr<=0.01 and val/accuracy>0.96", [2]),
        ("lr = 0.1 AND status = finished", [1]),
        ("model = mlp", [5]),
        ("model != mlp and seed >= 3", [4, 3]),
        ("model.hidden = 32,16", [5]),
        ("model.hidden != 32,16", [4, 3, 2, 1]),
        ("val/accuracy = none", [5]),
        ("test/accuracy < 0.6", [5]),
        ("val/loss < 0.04", [4, 2]),
        ("nesterov = no", [5, 4, 3, 2, 1]),
        ("age > 7d", [5, 4, 3, 2, 1]),
        ("age < 1.5h", []),
        ("seconds = 1.5", [5, 4, 3, 2, 1]),
        ("data = 'digits'", [5, 4, 3, 2, 1]),
        ("name = none", [5, 4, 3, 2, 1]),
        ("clip_norm > 1", []),
    ],
)
def test_conditions(root: Path, condition: str, runs: list[int]) -> None:
    assert listed("--where", condition) == runs


def test_order_and_number(root: Path) -> None:
    assert listed("--sort", "val/accuracy") == [1, 3, 2, 4, 5]
    assert listed("--sort", "val/accuracy:desc") == [4, 2, 3, 1, 5]
    assert listed("--sort", "model") == [4, 3, 2, 1, 5]
    assert listed("--sort", "val/loss:asc", "--limit", "2") == [4, 2]
    assert listed("--where", "model = cnn", "--where", "lr = 0.1", "-n", "1") == [4]


def test_columns(root: Path) -> None:
    out = call("--columns", "lr,val/loss", "--where", "model = cnn", "--sort", "lr")[0]
    assert out.splitlines() == [
        "run     lr  val/loss",
        "  3  0.001      0.05",
        "  2   0.01      0.03",
        "  4    0.1      0.01",
        "  1    0.1      0.09",
    ]
    out = call("--columns", "+val/loss,-device,-age,-time", "--where", "run = 2")[0]
    assert out.splitlines()[0].split() == ["run", "status", "model", "data", "epochs", "metric", "best", "val/loss"]
    row = next(csv.DictReader(io.StringIO(call("--columns", "+test/accuracy", "--sort", "seed:desc", "--csv")[0])))
    assert (row["run"], row["test/accuracy"]) == ("5", "0.5")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--where", "learning"],
            "--where 'learning' is not a condition such as 'lr < 0.1' or 'model = cnn and seed != 3'",
        ),
        (["--where", "lr < big"], "--where 'lr < big' needs a number after <"),
        (["--where", "model < 3"], "--where 'model < 3' compares model = mlp with a number: use = or !="),
        (["--where", "val/acuracy > 0.9"], "no run has val/acuracy: did you mean val/accuracy or test/accuracy?"),
        (["--sort", "lrr"], "no run has lrr: did you mean lr?"),
        (["--sort", "lr:down"], "--sort lr:down is not of the form NAME, NAME:asc or NAME:desc"),
        (["--columns", "+val/los"], "no run has val/los: did you mean val/loss?"),
        (["--columns", "-devise"], "--columns -devise is no column: did you mean device?"),
        (["--columns", "lr,+seed"], "--columns lr,+seed mixes the only columns with ones to add or remove: write +lr"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant(root: Path, words: list[str], message: str) -> None:
    assert call(*words, code=2)[1] == f"error: {message}\n"


def test_select_prints_numbers_alone(root: Path) -> None:
    assert call("select") == ("5\n", "")
    assert call("select", "--where", "status = finished", "--sort", "val/accuracy:desc") == ("2\n", "")
    assert call("select", "--where", "lr = 0.1", "--all") == ("4\n1\n", "")
    assert call("select", "best:val/accuracy") == ("4\n", "")
    assert call("select", "1:3", "--where", "lr < 0.1", "--all", "--path") == ("runs/3\nruns/2\n", "")
    assert call("select", "--where", "lr > 5", code=4) == ("", "error: no run in runs fits: see `dlcli runs`\n")
    assert call("--where", "lr > 5") == ("", "there are no runs that fit in runs\n")
    assert call("select", "--where", "lrr > 5", code=2)[1] == "error: no run has lrr: did you mean lr?\n"


def test_what_is_looked_up_is_what_the_settings_have() -> None:
    """Every name of a config, flat, and none beside them; a metric counts before a setting, a column before both."""
    config = {
        "format": 1, "given": ["lr"], "model": {"name": "mlp", "hidden": [3], "lr": 7}, "data": {"name": "iris"},
        "lr": 0.1, "epochs": 3, "empty": None, "odd.name": 2,
    }  # fmt: skip
    row: dict[str, Any] = dict.fromkeys(COLUMNS) | {
        "metrics": {"lr": 5.0, "val/loss": 1.0},
        "tags": ["good"],
        "seconds": 2,
    }
    expected = {name: value for name, value in flatten(config).items() if name not in ("format", "given")}
    names = [*expected, "val/loss", "seconds", "tag", "format", "given", "model.name", "model.none", "none.name", "odd"]
    found = values(row, config, names)
    assert found == expected | {
        "lr": 5.0, "val/loss": 1.0, "seconds": 2, "tag": ["good"], "tags": ["good"],
    }  # fmt: skip
    assert values(row | {"epochs": "3/3"}, config, ["epochs"])["epochs"] == "3/3"
    with pytest.raises(ConfigError, match="^no run has model.hiden: did you mean model.hidden or model.lr or model.$"):
        check_names(["lr", "odd.name", "model.hiden"], [(row, config)])
