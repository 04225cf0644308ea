"""Layers of settings: which layer overrides, what it removes, what a change affects, and what a run records."""

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dlcli import Run, TrainConfig, train
from dlcli.cli.main import app
from dlcli.config.recipe import recipes
from dlcli.config.toml import read_file, to_toml
from dlcli.core.errors import ConfigError
from dlcli.training.train import resume
from tests.test_config import CONFIGS


def invoke(*words: str, code: int = 0, env: dict[str, str] | None = None) -> Any:
    result = CliRunner().invoke(app, words, env=env)
    assert result.exit_code == code, result.output
    return result


def settled(tmp_path: Path, files: list[str], *words: str, env: dict[str, str] | None = None) -> dict[str, Any]:
    """The settings of `dlcli train` from config files, the environment and the command line, as one flat dict."""
    given: list[str] = []
    for number, content in enumerate(files):
        (tmp_path / f"{number}.toml").write_text(content)
        given += ["--config", str(tmp_path / f"{number}.toml")]
    document = json.loads(invoke("train", *words, *given, "--print-config", "--json", env=env).stdout)
    return {**document, **{f"model.{n}": v for n, v in document["model"].items()}} | {
        f"data.{n}": v for n, v in document["data"].items()
    }


# Precedence


def test_built_in_below_model_below_data_below_files_below_environment_below_what_is_typed(tmp_path: Path) -> None:
    files = ["lr = 0.1\nseed = 1\nl1 = 1\nema = 0.5\n", "lr = 0.2\nseed = 2\nl1 = 2\n"]
    env = {"DLCLI_LR": "0.3", "DLCLI_SEED": "3"}
    found = settled(tmp_path, files, "logistic", "--data", "mnist", "--lr", "0.4", "--set", "lr=0.5", env=env)
    assert [found[name] for name in ("lr", "seed", "l1", "ema", "epochs", "batch_size")] == [0.4, 3, 2, 0.5, 5, 64]
    assert settled(tmp_path, files, "logistic", "--set", "lr=0.5", env=env)["lr"] == 0.5
    assert settled(tmp_path, [], "logistic")["epochs"] == 50


HIDDEN = 'epochs = 3\n[model]\nname = "mlp"\nhidden = [9]\n[data]\nname = "random"\nclasses = 4\nshape = [3]\n'


@pytest.mark.parametrize(
    ("below", "words", "expected"),
    [
        ('epochs = 3\nmodel = "mlp"', ("--steps", "50"), {"epochs": None, "steps": 50}),
        ('steps = 50\nmodel = "mlp"', ("--epochs", "3"), {"epochs": 3, "steps": None}),
        ('model = "mlp"', ("--steps", "50"), {"epochs": None, "steps": 50}),  # mlp has its own default for epochs
        ('model = "cnn"\nmomentum = 0.5\nnesterov = true', ("--optimizer", "adam"), {"momentum": None, "lr": 0.001}),
        ('model = "cnn"\nmomentum = 0.5\nlr = 0.3', ("--optimizer", "adamw"), {"momentum": None, "lr": 0.3}),
        ('model = "cnn"\nmomentum = 0.5\nnesterov = true', ("--optimizer", "rmsprop"), {"momentum": 0.5}),
        ('model = "cnn"\nnesterov = true', ("--momentum", "0"), {"momentum": 0, "nesterov": False}),
        ('model = "cnn"\nbatch_size = 32', ("--optimizer", "gd"), {"batch_size": "full", "momentum": None}),
        ('model = "cnn"\noptimizer = "gd"', ("--optimizer", "sgd"), {"batch_size": 64, "momentum": 0.9, "lr": 0.01}),
        ('model = "rnn"', ("--optimizer", "sgd"), {"lr": 0.01, "clip_norm": 1.0}),
        (
            'model = "cnn"\nschedule = "step"\nstep_epochs = 2\nstep_gamma = 0.5',
            ("--schedule", "cosine"),
            {"step_epochs": None, "step_gamma": None},
        ),
        ('model = "cnn"\nschedule = "step"\nstep_epochs = 2', ("--schedule", "step"), {"step_epochs": 2}),
        ('model = "cnn"\nweight_decay = 0.1\ndecay_all = true', ("--weight-decay", "0"), {"decay_all": False}),
        ('model = "cnn"\nweight_decay = 0.1\nl1 = 1\ndecay_all = true', ("--l1", "0"), {"decay_all": True}),
        ('model = "cnn"\npatience = 3\nmonitor = "loss"', ("--val-fraction", "0"), {"patience": 0, "monitor": "auto"}),
        ('model = "cnn"\nlr = 0.5', ("--lr", "none"), {"lr": 0.01}),
        (HIDDEN, ("mlp",), {"model.hidden": [9], "data.classes": 4}),
        (HIDDEN, ("linear",), {"model.name": "linear", "data.classes": 4, "epochs": 3}),
        (HIDDEN, ("mlp", "--set", "model.dropout=0.5"), {"model.hidden": [9], "model.dropout": 0.5}),
        (HIDDEN, ("--data", "iris"), {"data.name": "iris", "model.hidden": [9]}),
        (
            'model = "rnn"\n[data]\nname = "text:a.txt"\nlength = 7',
            ("--data", "text:b.txt"),
            {"data.length": 7},
        ),
    ],
)  # fmt: skip
def test_a_later_layer_takes_away_what_means_nothing_beside_it(
    below: str, words: tuple[str, ...], expected: dict[str, Any], tmp_path: Path
) -> None:
    found = settled(tmp_path, [below], *words)
    assert {name: found.get(name) for name in expected} == expected
    for gone in ("model.hidden", "data.classes"):
        owner = gone.partition(".")[0]
        if below == HIDDEN and expected.get(f"{owner}.name"):
            assert gone not in found


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--epochs", "3", "--steps", "9"), "epochs = 3 and steps = 9 exclude each other: give one of them"),
        (("--set", "epochs=3", "--steps", "9"), "epochs = 3 and steps = 9 exclude each other: give one of them"),
        (
            ("--optimizer", "adam", "--momentum", "0.5"),
            "momentum does not go with optimizer = adam: use sgd or rmsprop",
        ),
        (("--step-gamma", "0.5"), "step_epochs and step_gamma need schedule = step, not constant"),
    ],
)
def test_in_one_layer_both_are_refused(words: tuple[str, ...], message: str) -> None:
    assert invoke("train", "cnn", *words, "--print-config", code=2).stderr == f"error: {message}\n"


def test_a_later_layer_is_not_excused_from_an_earlier_one(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('model = "cnn"\noptimizer = "adam"\n')
    done = invoke("train", "--config", str(tmp_path / "a.toml"), "--momentum", "0.5", "--print-config", code=2)
    assert done.stderr == "error: momentum does not go with optimizer = adam: use sgd or rmsprop\n"


# replace


@pytest.mark.parametrize(
    ("made", "changes", "same_as"),
    [
        ({"schedule": "one-cycle", "epochs": 20}, {"epochs": 40}, {"schedule": "one-cycle", "epochs": 40}),
        ({"schedule": "step", "epochs": 9}, {"epochs": 30}, {"schedule": "step", "epochs": 30}),
        ({}, {"optimizer": "adam"}, {"optimizer": "adam"}),
        ({"batch_size": 32}, {"optimizer": "gd"}, {"optimizer": "gd"}),
        ({"momentum": 0.5, "lr": 0.3}, {"optimizer": "adam"}, {"optimizer": "adam", "lr": 0.3}),
        ({"optimizer": "adam"}, {"optimizer": "sgd"}, {"optimizer": "sgd"}),
        ({"seed": 3}, {"model": "rnn"}, {"model": "rnn", "seed": 3}),
        ({"model_options": {"dropout": 0.1}}, {"model": "mlp"}, {"model": "mlp"}),
        ({"model_options": {"dropout": 0.1}}, {"model_options": {"hidden": 9}}, {"model_options": {"hidden": 9}}),
        ({"model": "logistic"}, {"data": "mnist"}, {"model": "logistic", "data": "mnist"}),
        ({"data": "line"}, {"data": "digits"}, {"data": "digits"}),
        ({"epochs": 3}, {"steps": 50}, {"steps": 50}),
        ({"steps": 50}, {"epochs": 3}, {"epochs": 3}),
        ({"warmup_epochs": 2, "schedule": "one-cycle"}, {"warmup_epochs": None}, {"schedule": "one-cycle"}),
    ],
)
def test_replace_is_as_if_it_had_been_given_in_the_first_place(
    made: dict[str, Any], changes: dict[str, Any], same_as: dict[str, Any]
) -> None:
    found = TrainConfig(**({"model": "cnn"} | made)).replace(**changes)
    expected = TrainConfig(**({"model": "cnn"} | same_as))
    assert found == expected
    assert found.given == expected.given


def test_what_was_given_stays_and_what_was_not_moves() -> None:
    derived = TrainConfig("cnn", schedule="one-cycle", epochs=20)
    assert (derived.warmup_epochs, derived.replace(epochs=40).warmup_epochs) == (5, 10)
    typed = TrainConfig("cnn", schedule="one-cycle", epochs=20, warmup_epochs=5)
    assert typed == derived and typed.given - derived.given == {"warmup_epochs"}
    assert typed.replace(epochs=40).warmup_epochs == 5
    with pytest.raises(ConfigError) as caught:
        typed.replace(epochs=4)
    assert str(caught.value) == "warmup_epochs = 5.0 is more than epochs = 4"
    with pytest.raises(ConfigError, match="unknown setting epoch: did you mean epochs"):
        typed.replace(epoch=4)


def test_values_that_are_put_in_do_not_count_as_given() -> None:
    made = TrainConfig("cnn", lr=0.5)
    found = made.with_values(loss="cross-entropy", model_options={"dropout": 0.0, "hidden": 64})
    assert (found.loss, found.model_options) == ("cross-entropy", {"dropout": 0.0, "hidden": 64})
    assert found.given == made.given == {"model", "lr"}
    assert found.replace(model="mlp") == TrainConfig("mlp", lr=0.5, loss="cross-entropy")
    assert found.replace(seed=1).model_options == {"dropout": 0.0, "hidden": 64}
    assert found.under({"model.dropout": 0.3}).model_options == {"dropout": 0.3, "hidden": 64}
    assert found.replace(data="line").loss == "auto"


def test_a_change_leaves_alone_what_another_version_had_as_its_default() -> None:
    stored = TrainConfig("rnn").as_dict() | {"clip_norm": 0.7, "lr": 0.02, "label_smoothing": 0.3}
    made = TrainConfig.from_dict(stored, given=["model", "data"])
    found = made.replace(epochs=9)
    assert (found.clip_norm, found.lr, found.label_smoothing, found.epochs) == (0.7, 0.02, 0.3, 9)
    assert found.replace(optimizer="sgd").lr == 0.01


def test_a_run_without_a_record_counts_what_would_follow_as_not_given() -> None:
    old = TrainConfig("cnn", schedule="one-cycle", epochs=20).as_dict() | {"eval_every": 1}
    del old["steps"]
    made = TrainConfig.from_dict(old)
    assert made == TrainConfig("cnn", schedule="one-cycle", epochs=20)
    assert made.replace(epochs=40).warmup_epochs == 10
    assert made.replace(optimizer="adam").lr == 0.001
    typed = TrainConfig.from_dict(old | {"warmup_epochs": 3, "lr": 0.2})
    assert typed.replace(epochs=40, optimizer="adam").warmup_epochs == 3
    assert typed.replace(epochs=40, optimizer="adam").lr == 0.2


# Round trips


@pytest.mark.parametrize("name", [*recipes(), "all", "steps", "steps-warmup", "no-clip"])
def test_print_config_is_taken_back(name: str, tmp_path: Path) -> None:
    first = tmp_path / "first.toml"
    words = ("--config", f"recipe:{name}")
    if name not in recipes():
        first.write_text(to_toml(CONFIGS[name]))
        words = ("--config", str(first))
    printed = invoke("train", *words, "--print-config").stdout
    assert 'epochs = "none"' not in printed  # steps replace it
    second = tmp_path / "second.toml"
    second.write_text(printed)
    assert invoke("train", "--config", str(second), "--print-config").stdout == printed
    made, again = (TrainConfig.from_flat(read_file(str(file))) for file in (words[1], second))
    assert made.replace(model_options={}, data_options={}) == again.replace(model_options={}, data_options={})
    third = tmp_path / "third.json"
    third.write_text(invoke("train", "--config", str(second), "--print-config", "--json").stdout)
    assert invoke("train", "--config", str(third), "--print-config").stdout == printed


# What a run records

SMALL: dict[str, Any] = {
    "model": "linear", "data": "diabetes", "optimizer": "sgd", "batch_size": 128, "device": "cpu",
    "eval_every": "1epoch",
}  # fmt: skip
ONE_CYCLE = TrainConfig(**SMALL, schedule="one-cycle", epochs=4)


def stored(run: Run) -> dict[str, Any]:
    """config.json without its checksum, as somebody edits it."""
    document = dict(json.loads((run.path / "config.json").read_text()))
    document.pop("checksum", None)
    return document


def edit(run: Run, **changes: Any) -> None:
    """Change config.json by hand; None removes a key."""
    document = {name: value for name, value in (stored(run) | changes).items() if value is not None}
    (run.path / "config.json").write_text(json.dumps(document))


def as_of_an_earlier_version(run: Run) -> None:
    document = stored(run)
    for name in ("given", "steps"):
        del document[name]
    (run.path / "config.json").write_text(json.dumps(document | {"eval_every": 1}))


def test_config_json_says_which_settings_were_given(tmp_path: Path) -> None:
    words = ("--data", "diabetes", "--lr", "0.01", "--epochs", "1", "--device", "cpu", "--runs-dir", str(tmp_path))
    invoke("train", "linear", *words)
    document = stored(Run(tmp_path, 1))
    assert document["given"] == ["data", "device", "epochs", "lr", "model"]
    assert (document["format"], document["loss"], document["batch_size"]) == (1, "mse", "full")
    assert Run(tmp_path, 1).config().given == {"data", "device", "epochs", "lr", "model"}
    again = ("--config", str(tmp_path / "1" / "config.json"), "--print-config", "--json")
    assert json.loads(invoke("train", *again).stdout) == {
        name: value for name, value in document.items() if name not in ("format", "given")
    }


@pytest.mark.parametrize("old", [False, True])
def test_a_longer_one_cycle_moves_its_warm_up_and_says_so(old: bool, tmp_path: Path) -> None:
    list(train(ONE_CYCLE, runs_dir=tmp_path))
    run = Run(tmp_path, 1)
    if old:
        as_of_an_earlier_version(run)
    told = invoke("resume", "1", "--epochs", "8", "--runs-dir", str(tmp_path)).stderr.splitlines()
    verdict = "exact: no (warmup_epochs 1.0 -> 2.0, schedule one-cycle stretched from 4 epochs to 8 epochs)"
    assert told[0].endswith(f"step 12; {verdict}")
    assert told[1:3] == ["epochs: 4 -> 8", "warmup_epochs: 1.0 -> 2.0"]
    assert run.config() == TrainConfig(**SMALL, schedule="one-cycle", epochs=8, loss="mse")


def test_a_warm_up_that_was_given_stays(tmp_path: Path) -> None:
    list(train(ONE_CYCLE.replace(warmup_epochs=1), runs_dir=tmp_path))
    told = invoke("resume", "1", "--epochs", "8", "--runs-dir", str(tmp_path)).stderr.splitlines()
    assert told[0].endswith("exact: no (schedule one-cycle stretched from 4 epochs to 8 epochs)")
    assert told[1] == "epochs: 4 -> 8" and not told[2].startswith("warmup_epochs")


def test_the_library_moves_it_too(tmp_path: Path) -> None:
    list(train(ONE_CYCLE, runs_dir=tmp_path))
    list(resume(Run(tmp_path, 1), epochs=8))
    assert Run(tmp_path, 1).config().warmup_epochs == 2


def test_a_run_of_an_earlier_version_is_resumed_exactly(tmp_path: Path) -> None:
    calls = iter(range(100))
    list(train(ONE_CYCLE, runs_dir=tmp_path, stop=lambda: "SIGINT" if next(calls) == 4 else None))
    run = Run(tmp_path, 1)
    before = run.config()
    as_of_an_earlier_version(run)
    assert run.config() == before
    told = invoke("resume", "1", "--exact", "--runs-dir", str(tmp_path)).stderr.splitlines()
    assert told[0].endswith("exact: yes") and told[1].startswith("epoch 2/4")
    assert "given" in stored(run) and stored(run)["eval_every"] == "1epoch"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (["lr", 3], "['lr', 3]"),
        ([[]], "[[]]"),
        (7, "7"),
        ({"lr": 1}, "{'lr': 1}"),
    ],
)
def test_a_damaged_record_is_told(given: Any, shown: str, tmp_path: Path) -> None:
    run = Run.create(tmp_path)
    run.write_config(TrainConfig("cnn"))
    edit(run, given=given)
    done = invoke("eval", "1", "--runs-dir", str(tmp_path), code=4)
    message = f"given = {shown} is not a list, each of it text, or null"
    assert done.stderr == f"error: {run.path / 'config.json'} is damaged: {message}\n"


def test_what_was_edited_away_is_not_missed(tmp_path: Path) -> None:
    run = Run.create(tmp_path)
    run.write_config(TrainConfig("mlp", lr=0.5, model_options={"hidden": [9]}))
    edit(run, model={"name": "linear"}, lr=None)
    found = run.config()
    assert (found.model, found.model_options, found.lr, found.given) == ("linear", {}, 0.01, {"model"})


# Runs that this version cannot build


@pytest.mark.parametrize(
    ("change", "reason", "shown"),
    [
        ({"model": {"name": "lstm", "cells": 3}}, "unknown model 'lstm': known are linear, ", ("model.cells", "3")),
        ({"model": {"name": "linaer"}}, "unknown model 'linaer': did you mean linear?", ("model", "linaer")),
        ({"data": {"name": "svhn"}}, "unknown data 'svhn': known are digits, ", ("data", "svhn")),
        ({"optimizer": "lion"}, "optimizer = 'lion' is not one of gd, sgd, ", ("optimizer", "lion")),
        ({"lr": -1}, "lr = -1.0 is out of range: it must be > 0", ("lr", "-1")),
        ({"cutout": 4}, "unknown setting cutout: known are ", ("cutout", "4")),
    ],
    ids=["model", "renamed", "data", "choice", "range", "setting"],
)
def test_a_run_that_cannot_be_built_lists_shows_and_compares(
    change: dict[str, Any], reason: str, shown: tuple[str, str], tmp_path: Path
) -> None:
    list(train(ONE_CYCLE.replace(epochs=1), runs_dir=tmp_path))
    run, where = Run(tmp_path, 1), ("--runs-dir", str(tmp_path))
    edit(run, **change)
    assert "finished" in invoke("runs", *where).stdout
    lines = invoke("runs", "show", "1", *where).stdout.splitlines()
    assert shown in [tuple(line.split()) for line in lines]
    document = json.loads(invoke("runs", "show", "1", "--json", *where).stdout)
    assert str(document["config"][shown[0]]) == shown[1] and "damage" not in document["config"]
    for words in (("eval", "1"), ("resume", "1", "--epochs", "2"), ("predict", "1", "a.csv"), ("export", "1")):
        told = invoke(*words, *where, code=4).stderr
        start = f"error: {run.path / 'config.json'} does not fit this version of dlcli "
        start += "(edit it, or use the version that wrote it): "
        assert told.startswith(start + reason), words
        assert told.count("\n") == 1


def test_its_main_metric_is_known(tmp_path: Path) -> None:
    from dlcli.evaluation.measure import main_metric

    list(train(ONE_CYCLE.replace(epochs=1), runs_dir=tmp_path))
    run = Run(tmp_path, 1)
    edit(run, model={"name": "gone"})
    assert main_metric(run) == "loss"
    info = run.info()
    run.write_info(info | {"best": info["best"] | {"metric": "val/r2"}})  # the one that chose the best checkpoint
    assert main_metric(run) == "r2"
    run.write_info(info | {"best": None})
    edit(run, monitor="val/mae")
    assert main_metric(run) == "mae"


# The help


def test_the_help_shows_each_default_once_and_what_a_value_looks_like() -> None:
    text, _, _ = invoke("train", "--help").stdout.partition("\nData:\n")[2].partition("\nOptions:\n")
    lines = [" ".join(entry.split()) for entry in re.split(r"\n  (?=-)", "\n" + text)[1:]]
    names = "target|text|split-.*|val-data|test-data|image-size|channels|storage|workers"
    short = [line for line in lines if re.match(f"--({names}) ", line)]
    assert len(short) == 11  # they stand for options of the data
    lines = [line for line in lines if line not in short]
    assert len(lines) == sum(1 for f in fields(TrainConfig) if f.metadata)
    for line in lines:
        assert line.count("(default: ") == 1, line
    for start in (
        "--data-dir PATH Folder", "--augment LIST Aug", "--eval-every INTERVAL How", "--checkpoint-every INTERVAL How",
        "--batch-size N|full|auto Samples", "--threads N|auto CPU", "--normalize, --no-normalize Sub",
        "--lr X Learning",
    ):  # fmt: skip
        assert any(line.startswith(start) for line in lines), start
