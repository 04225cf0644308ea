"""Tables and lines on terminals of 80 and 60 columns: none is wider, no word is broken, hidden columns are named."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from dlcli.training.records import Row
from tests.conftest import Dlcli
from tests.test_cli import in_terminal
from tests.test_runs import make

REASON = "the loss is not finite at step 7 of epoch 2: batch 7 holds the samples 3, 14, 159, 265, 358 and 979"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    best = {"metric": "val/accuracy", "higher_is_better": True, "value": 0.9861, "epoch": 14, "step": 294}
    make(tmp_path / "runs", model="simple-cnn", data="fashion-mnist", epochs=20, epochs_done=20, best=best)
    make(tmp_path / "runs", model="mine.models:ConvolutionalNet", best=best)
    make(tmp_path / "runs", status="failed", reason=REASON, best={**best, "value": 0.5})
    return tmp_path


def shown(folder: Path, *words: str, columns: int) -> list[str]:
    """The lines of a command on a terminal; a table contains no escape codes."""
    text = in_terminal(folder, *words, columns=columns)
    assert "\x1b" not in text
    return text.replace("\r\n", "\n").splitlines()


TABLES = (["runs"], ["models"], ["datasets"], ["recipes"], ["runs", "restore"])


@pytest.mark.parametrize("words", TABLES, ids=" ".join)
@pytest.mark.parametrize("columns", [80, 60])
def test_no_line_is_wider_than_the_terminal_and_no_word_is_broken(runs: Path, words: list[str], columns: int) -> None:
    if words[-1] == "restore":
        in_terminal(runs, "runs", "rm", "1", "3", columns=columns)
    lines = shown(runs, *words, columns=columns)
    assert max(map(len, lines)) <= columns
    whole = set(re.split(r"[\s]+", " ".join(shown(runs, *words, columns=1000))))
    table, _, _ = " ".join(lines).partition("not shown in ")
    for word in table.split():
        assert word in whole or word.removesuffix("...") in whole, word


@pytest.mark.parametrize("words", TABLES[:4], ids=" ".join)
def test_a_wide_terminal_shows_what_a_pipe_gets(runs: Path, dlcli: Dlcli, words: list[str]) -> None:
    assert shown(runs, *words, columns=1000) == dlcli(*words).stdout.splitlines()


def test_columns_are_left_out_and_a_footnote_says_which(runs: Path) -> None:
    lines = shown(runs, "runs", "restore", columns=60)
    assert lines == ["the trash of runs is empty"]
    lines = shown(runs, "models", columns=80)
    assert lines[0].split() == ["model", "what", "it", "is", "default", "data"]
    assert lines[-1] == "not shown in 80 columns: takes, its own defaults; --json has all"
    lines = shown(runs, "models", columns=60)
    assert lines[0].split() == ["model", "what", "it", "is"]
    assert lines[-2:] == ["not shown in 60 columns: takes, default data, its own", "defaults; --json has all"]
    lines = shown(runs, "datasets", columns=80)
    assert lines[0].split("  ")[-1] == " task"
    assert lines[-2] == "not shown in 80 columns: a sample, samples, licence, where it comes from; --json"


def test_a_long_reason_is_cut_on_a_terminal_and_whole_elsewhere(runs: Path, dlcli: Dlcli) -> None:
    make(runs / "own", status="failed", reason=REASON)
    wide = shown(runs, "runs", "--runs-dir", "own", columns=120)
    assert re.search(r"  the loss is not finite at step 7 of epoch 2:\.\.\.$", wide[1]), wide
    assert len(wide[1]) <= 120
    narrow = shown(runs, "runs", "--runs-dir", "own", columns=60)
    assert narrow[1].endswith("...") and "the loss is not" in narrow[1]
    assert json.loads(dlcli("runs", "--runs-dir", "own", "--json").stdout)[0]["reason"] == REASON
    assert REASON in dlcli("runs", "--runs-dir", "own").stdout
    folded = shown(runs, "runs", "show", "1", "--runs-dir", "own", columns=60)
    assert REASON in " ".join(" ".join(folded).split())
    assert max(map(len, folded)) <= 60


def test_characters_that_take_two_columns_stand_in_line(tmp_path: Path) -> None:
    make(tmp_path / "runs", model="mine:モデル", data="data:e\u0301te\u0301")
    make(tmp_path / "runs", model="mine:Net", data="iris")
    lines = shown(tmp_path, "runs", columns=100)
    assert lines[1].index("iris") == lines[2].index("data:") + 3  # three characters occupy six columns


ROW = Row(
    epoch=20, epochs=20, step=420, steps=420, lr=0.01, seconds=1.0, samples_per_second=11190.4, best=True,
    metrics={"train/loss": 0.0233, "val/loss": 0.0748, "val/accuracy": 0.9792, "val/top5_accuracy": 1.0},
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({}, "epoch 20/20  loss 0.0233  val/loss 0.0748  val/accuracy 0.9792  11,190/s  best"),
        ({"best": False}, "epoch 20/20  loss 0.0233  val/loss 0.0748  val/accuracy 0.9792  11,190/s"),
        (
            {"metrics": {"train/loss": 0.1, "val/loss": 0.2, "val/accuracy": 0.9, "val/auc": 0.95}},
            "epoch 20/20  loss 0.1000  val/loss 0.2000  val/accuracy 0.9000  11,190/s  best",
        ),
        (
            {"metrics": {"train/loss": 0.1, "val/loss": None, "val/accuracy": 0.9}, "epochs": None, "step": 5},
            "step 5/420  loss 0.1000  val/loss -  val/accuracy 0.9000  11,190/s  best",
        ),
        (
            {"metrics": {"train/loss": 2e9, "val/loss": 3e9, "val/r2": -4e9}, "epoch": 1000, "epochs": 1000},
            "epoch 1000/1000  loss 2e+09  val/loss 3e+09  val/r2 -4e+09  11,190/s  best",
        ),
        (
            {
                "metrics": {"train/loss": 2.0233, "val/loss": 2.0748, "val/bits_per_char": 2.9792},
                "epochs": None, "step": 1234567, "steps": 1234567,
            },
            "step 1234567/1234567  val/loss 2.0748  val/bits_per_char 2.9792  11,190/s  best",
        ),
        ({"metrics": {"train/loss": 0.5}}, "epoch 20/20  loss 0.5000  11,190/s  best"),
    ],
)  # fmt: skip
def test_the_line_of_an_epoch_fits_80_columns(change: dict[str, object], line: str) -> None:
    assert str(replace(ROW, **change)) == line  # type: ignore[arg-type]
    assert len(line) <= 80


@pytest.mark.parametrize(("model", "columns"), [("cnn", 60), ("logistic", 80), ("linear", 80)])
def test_a_training_shows_no_line_that_is_wider_than_80(tmp_path: Path, model: str, columns: int) -> None:
    text = in_terminal(
        tmp_path, "train", model, "--epochs", "2", "--eval-every", "1epoch", "--device", "cpu", columns=columns
    )
    drawn = re.split(r"\r\n|\r|\n", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text))
    epochs = [line.rstrip() for line in drawn if line.startswith("epoch ")]
    assert any(line.startswith("epoch 2/2  loss ") for line in epochs)
    assert max(map(len, epochs)) <= 80
    assert "…" not in text
