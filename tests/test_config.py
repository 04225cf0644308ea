"""TrainConfig: sources of settings, error messages, and reading back what it wrote."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from dlcli.cli.flags import parse_assignment
from dlcli.config.environment import read_environment
from dlcli.config.layers import flatten
from dlcli.config.recipe import recipes
from dlcli.config.registry import DATASETS, MODELS
from dlcli.config.settings import TrainConfig
from dlcli.config.toml import read_file, to_toml
from dlcli.core.errors import ConfigError


def refused(model: str = "cnn", **settings: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        TrainConfig(model=model, **settings)
    return str(caught.value)


# Defaults


def test_a_learning_rate_belongs_to_its_optimizer() -> None:
    rates = {"sgd": 0.01, "adam": 0.001, "adamw": 0.001, "rmsprop": 0.001, "gd": 0.1}
    for optimizer, lr in rates.items():
        assert TrainConfig(model="cnn", optimizer=optimizer).lr == lr
    assert TrainConfig(model="cnn", optimizer="adam", lr=0.5).lr == 0.5


@pytest.mark.parametrize(("optimizer", "momentum"), [("sgd", 0.9), ("rmsprop", 0.0), ("adam", None), ("gd", None)])
def test_momentum_belongs_to_its_optimizer(optimizer: str, momentum: float | None) -> None:
    assert TrainConfig(model="cnn", optimizer=optimizer).momentum == momentum


def test_gd_takes_all_data_at_once() -> None:
    assert TrainConfig(model="cnn", optimizer="gd").batch_size == "full"
    assert TrainConfig(model="linear", data="diabetes").batch_size == "full"  # although the data set's default is 32


def test_a_models_learning_rate_does_not_outlive_its_optimizer() -> None:
    assert (TrainConfig(model="rnn").optimizer, TrainConfig(model="rnn").lr) == ("adam", 0.005)
    assert TrainConfig(model="rnn", optimizer="sgd").lr == 0.01
    assert TrainConfig(model="rnn", optimizer="adam").lr == 0.005


def test_what_is_given_beats_the_datas_defaults_which_beat_the_models() -> None:
    assert MODELS["logistic"].defaults["epochs"] == 50 and DATASETS["mnist"].defaults["epochs"] == 5
    assert TrainConfig(model="logistic").epochs == 50
    assert TrainConfig(model="logistic", data="mnist").epochs == 5
    assert TrainConfig(model="logistic", data="mnist", epochs=7).epochs == 7
    assert TrainConfig(model="mlp", data="line").normalize is False
    assert TrainConfig(model="mlp", data="line", normalize=True).normalize is True


def test_schedules_fill_in_their_own_settings() -> None:
    assert TrainConfig(model="cnn", schedule="one-cycle", epochs=8).warmup_epochs == 2
    assert TrainConfig(model="cnn", schedule="cosine").warmup_epochs == 0
    step = TrainConfig(model="cnn", schedule="step", epochs=10)
    assert (step.step_epochs, step.step_gamma) == (3, 0.1)
    assert TrainConfig(model="cnn", schedule="step", epochs=1).step_epochs == 1
    plain = TrainConfig(model="cnn")
    assert (plain.step_epochs, plain.step_gamma) == (None, None)


def test_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert TrainConfig(model="rnn", data="text:a.txt").data == f"text:{tmp_path}/a.txt"
    assert TrainConfig(model="cnn", data_dir="data").data_dir == f"{tmp_path}/data"
    monkeypatch.setenv("HOME", "/home/me")
    assert TrainConfig(model="cnn", data_dir="~/data").data_dir == "/home/me/data"


def test_text_from_a_shell_is_converted() -> None:
    made = TrainConfig(
        model="cnn", lr="1e-2", epochs="3", batch_size="full", nesterov="true", augment="flip,shift=1", clip_norm="1"
    )
    assert (made.lr, made.epochs, made.batch_size, made.nesterov) == (0.01, 3, "full", True)
    assert (made.augment, made.clip_norm) == (("flip", "shift=1"), 1.0)


def test_a_config_cannot_be_changed() -> None:
    made = TrainConfig(model="cnn")
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.lr = 1.0  # type: ignore[misc]


def test_replace_changes_what_it_is_told_and_keeps_the_rest() -> None:
    made = TrainConfig(model="cnn", epochs=3, model_options={"hidden": 9})
    other = made.replace(seed=5)
    assert other.seed == 5 and other.replace(seed=0) == made


# Refusals


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epoch": 3}, "unknown setting epoch: did you mean epochs?"),
        ({"weight_deacy": 3}, "unknown setting weight_deacy: did you mean weight_decay or weights?"),
        ({"model": "cmn"}, "unknown model 'cmn': did you mean cnn?"),
        ({"data": "digit"}, "unknown data 'digit': did you mean digits?"),
        ({"optimizer": "adma"}, "optimizer = 'adma' is not one of gd, sgd, adam, adamw, rmsprop"),
        ({"schedule": "linear"}, "schedule = 'linear' is not one of constant, step, cosine, one-cycle"),
        ({"precision": "fp8"}, "precision = 'fp8' is not one of fp32, tf32, bf16, fp16"),
        ({"loss": "nll"}, "loss = 'nll' is not one of auto, mse, l1, huber, bce, cross-entropy"),
        ({"lr": "fast"}, "lr = 'fast' is not a number"),
        ({"epochs": 1.5}, "epochs = 1.5 is not a whole number"),
        ({"batch_size": "half"}, "batch_size = 'half' is not a whole number or one of full, auto"),
        ({"threads": "all"}, "threads = 'all' is not a whole number or one of auto"),
        ({"normalize": "maybe"}, "normalize = 'maybe' is not true or false"),
        ({"batch_size": None}, "batch_size = None is not a whole number or one of full, auto"),
        ({"eval_every": 0}, "eval_every = 0 is not of the form 250steps or 1epoch"),
        ({"eval_every": "30s"}, "eval_every = '30s' is not of the form 250steps or 1epoch"),
        (
            {"checkpoint_every": "5 minutes"},
            "checkpoint_every = '5 minutes' is not of the form 500steps, 30s, 2min or 1epoch",
        ),
    ],
)
def test_unknown_names_and_wrong_types_are_refused(settings: dict[str, Any], message: str) -> None:
    assert refused(**settings) == message


@pytest.mark.parametrize(
    ("name", "value", "range"),
    [
        ("val_fraction", -0.1, "in [0, 1)"),
        ("val_fraction", 1.0, "in [0, 1)"),
        ("test_fraction", 1.0, "in [0, 1)"),
        ("epochs", 0, ">= 1"),
        ("unfreeze_at", 1, ">= 2"),
        ("layer_decay", 1.0, "in (0, 1)"),
        ("temperature", 0.0, "> 0"),
        ("distill_weight", 1.1, "in (0, 1]"),
        ("steps", 0, ">= 1"),
        ("batch_size", 0, ">= 1"),
        ("accumulate", 0, ">= 1"),
        ("label_smoothing", 1.0, "in [0, 1)"),
        ("lr", 0.0, "> 0"),
        ("lr", float("inf"), "> 0"),
        ("lr", float("nan"), "> 0"),
        ("momentum", 1.0, "in [0, 1)"),
        ("weight_decay", -1.0, ">= 0"),
        ("l1", -1.0, ">= 0"),
        ("clip_norm", 0.0, "> 0"),
        ("warmup_epochs", -1.0, ">= 0"),
        ("step_epochs", 0, ">= 1"),
        ("step_gamma", 0.0, "in (0, 1)"),
        ("step_gamma", 1.0, "in (0, 1)"),
        ("ema", 1.0, "in [0, 1)"),
        ("threshold", 1.0, "in (0, 1)"),
        ("patience", -1, ">= 0"),
        ("keep_last", 0, ">= 1"),
        ("threads", 0, "in [1, 1025)"),
        ("rank_timeout", 0.0, "> 0"),
        ("processes", 0, "in [1, 4097)"),
        ("seed", -1, "in [0, 4294967296)"),
        ("seed", 2**32, "in [0, 4294967296)"),
        ("eval_batch_size", 0, ">= 1"),
        ("log_every", -1, ">= 0"),
    ],
)
def test_values_out_of_range_are_refused(name: str, value: Any, range: str) -> None:
    assert refused(**{name: value}) == f"{name} = {value} is out of range: it must be {range}"


def test_every_setting_with_a_range_is_in_the_table_above() -> None:
    table = test_values_out_of_range_are_refused.pytestmark[0].args[1]
    ranged = {f.name for f in dataclasses.fields(TrainConfig) if f.metadata.get("range")}
    assert {row[0] for row in table} == ranged


def test_every_setting_has_a_sentence_of_help() -> None:
    for f in dataclasses.fields(TrainConfig):
        if f.name not in ("model", "model_options", "data_options"):
            assert f.metadata["help"].endswith(".") and "default" not in f.metadata["help"]
            assert f.metadata["group"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"optimizer": "gd", "batch_size": 32},
            "batch_size = 32 does not go with optimizer = gd, which takes all data at once: "
            "use optimizer = sgd or batch_size = full",
        ),
        ({"optimizer": "gd", "momentum": 0.5}, "momentum does not go with optimizer = gd: use optimizer = sgd"),
        ({"optimizer": "adam", "momentum": 0.5}, "momentum does not go with optimizer = adam: use sgd or rmsprop"),
        ({"optimizer": "adamw", "nesterov": True}, "momentum does not go with optimizer = adamw: use sgd or rmsprop"),
        ({"optimizer": "rmsprop", "nesterov": True}, "nesterov needs optimizer = sgd with a momentum above 0"),
        ({"nesterov": True, "momentum": 0}, "nesterov needs optimizer = sgd with a momentum above 0"),
        ({"step_epochs": 2}, "step_epochs and step_gamma need schedule = step, not constant"),
        (
            {"step_gamma": 0.5, "schedule": "cosine"},
            "step_epochs and step_gamma need schedule = step, not cosine",
        ),
        ({"decay_all": True}, "decay_all needs a weight_decay or l1 above 0"),
        ({"patience": 3, "val_fraction": 0}, "patience needs a validation split: val_fraction above 0"),
        ({"epochs": 3, "steps": 9}, "epochs = 3 and steps = 9 exclude each other: give one of them"),
        ({"warmup_epochs": 4, "epochs": 3}, "warmup_epochs = 4.0 is more than epochs = 3"),
    ],
)
def test_settings_that_would_be_ignored_beside_others_are_refused(settings: dict[str, Any], message: str) -> None:
    assert refused(**settings) == message


# Where settings come from


def test_a_name_with_a_dot_is_an_option_of_model_or_data() -> None:
    made = TrainConfig.from_flat(
        {"model": "mlp", "model.hidden": "9", "data": "random", "data.classes": 4, "lr": "0.5"}
    )
    assert made.model_options == {"hidden": "9"} and made.data_options == {"classes": 4} and made.lr == 0.5
    with pytest.raises(ConfigError) as caught:
        TrainConfig.from_flat({"model": "mlp", "optimizer.lr": 1})
    assert str(caught.value) == "unknown setting optimizer.lr: only model. and data. have options of their own"
    with pytest.raises(ConfigError) as caught:
        TrainConfig.from_flat({"lr": 1})
    assert str(caught.value) == "no model is given: name one, as in `dlcli train cnn`"


def test_flatten_puts_a_tables_name_on_top() -> None:
    nested = {"model": {"name": "mlp", "hidden": [9]}, "data": "digits", "lr": 1}
    assert flatten(nested) == {"model": "mlp", "model.hidden": [9], "data": "digits", "lr": 1}


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("model.hidden=256", ("model.hidden", "256")),
        ("weight-decay = 0.1", ("weight_decay", "0.1")),
        ("data=text:a=b.txt", ("data", "text:a=b.txt")),
        ("lr=", ("lr", "")),
    ],
)
def test_an_assignment_is_a_name_and_a_value(text: str, pair: tuple[str, str]) -> None:
    assert parse_assignment(text) == pair


@pytest.mark.parametrize("text", ["lr", "=3", ""])
def test_what_is_no_assignment_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_assignment(text)
    assert str(caught.value) == f"--set {text} is not of the form name=value"


def test_the_environment_gives_settings() -> None:
    environment = {
        "DLCLI_LR": "0.5",
        "DLCLI_DATA_DIR": "/data",
        "DLCLI_BATCH_SIZE": "",
        "DLCLI_RUNS_DIR": "/runs",
        "DLCLI_DEBUG": "1",
        "HOME": "/root",
    }
    assert read_environment(environment) == {"lr": "0.5", "data_dir": "/data"}
    with pytest.raises(ConfigError) as caught:
        read_environment({"DLCLI_LABEL_SMOTHING": "3"})
    sentence = "unknown environment variable DLCLI_LABEL_SMOTHING: did you mean DLCLI_LABEL_SMOOTHING"
    assert str(caught.value).startswith(sentence)


def test_the_environment_of_the_process_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLCLI_SEED", "7")
    assert read_environment() == {"seed": "7"}


def test_files_are_read_flat(tmp_path: Path) -> None:
    expected = {"lr": 0.5, "model": "mlp", "model.hidden": [9]}
    (tmp_path / "a.toml").write_text('lr = 0.5\n[model]\nname = "mlp"\nhidden = [9]\n[recipe]\nsummary = "s"\n')
    (tmp_path / "a.json").write_text('{"format": 1, "lr": 0.5, "model": {"name": "mlp", "hidden": [9]}}')
    assert read_file(str(tmp_path / "a.toml")) == expected
    assert read_file(str(tmp_path / "a.json")) == expected


def test_files_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    def said(name: str, content: bytes | None) -> str:
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError) as caught:
            read_file(str(tmp_path / name))
        return str(caught.value).replace(f"{tmp_path}/", "")

    assert said("a.yaml", b"") == "config file a.yaml must end in .toml or .json"
    assert said("b.toml", None) == "config file b.toml cannot be read: No such file or directory"
    assert said("c.toml", b"\xff\xfe") == "config file c.toml cannot be read: it is not UTF-8 text"
    assert said("d.toml", b"lr =") == "config file d.toml is damaged: Invalid value (at end of document)"
    assert said("e.json", b"{") == (
        "config file e.json is damaged: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"
    )
    assert said("f.json", b"[1]") == "config file f.json must hold a table of settings"


# Round trips


CONFIGS = {
    "zoo": TrainConfig(model="resnet18", data="images:/photos", pretrained="DEFAULT", processes=2, shard=True),
    "plain": TrainConfig(model="cnn"),
    "all": TrainConfig(
        model="mlp",
        data="random",
        model_options={"hidden": [3, 4], "activation": "tanh", "dropout": 0.25},
        data_options={"shape": [3, 4, 5], "classes": 4, "seed": 9},
        data_dir='/data/with "quotes" and \\ and é',
        val_fraction=0.25,
        test_fraction=0.125,
        normalize=False,
        augment=("shift=2", "flip"),
        epochs=7,
        batch_size=33,
        accumulate=2,
        processes=3,
        rank_timeout=7.5,
        sync_batch_norm=True,
        compress_gradients=True,
        label_smoothing=0.1,
        class_weights=("1", "2", "3", "4"),
        optimizer="sgd",
        lr=1e-7,
        momentum=0.5,
        nesterov=True,
        weight_decay=5e-4,
        decay_all=True,
        l1=1e-5,
        clip_norm=1.5,
        schedule="step",
        warmup_epochs=0.5,
        step_epochs=2,
        step_gamma=0.3,
        ema=0.99,
        freeze="1",
        unfreeze_at=3,
        lr_backbone="0.1x",
        layer_decay=0.75,
        teacher="/runs/7",
        temperature=2.0,
        distill_weight=0.5,
        weights="12",
        partial=True,
        pruned="structured",
        monitor="accuracy",
        threshold=0.25,
        patience=3,
        eval_every=2,
        device="cpu",
        precision="bf16",
        compile=True,
        threads=2,
        seed=2**32 - 1,
        eval_batch_size=100,
        log_every=10,
        log="tensorboard",
        log_weights=True,
        checkpoint_every="500steps",
        keep_last=3,
        deterministic=True,
    ),
    "gd": TrainConfig(model="linear"),
    "rnn": TrainConfig(model="rnn", data="text:/a file/with\ttab\x7f.txt"),
    "steps": TrainConfig(model="cnn", steps=500, schedule="one-cycle", eval_every="250steps", optimizer="adam"),
    "steps-warmup": TrainConfig(model="rnn", steps=50, warmup_epochs=1.5, schedule="step", step_gamma=0.5),
    "no-clip": TrainConfig(model="rnn", clip_norm=None),
    **{f"model-{name}": TrainConfig(model=name) for name in MODELS},
    **{f"data-{name}": TrainConfig(model="mlp", data=name) for name in DATASETS},
    **{f"recipe-{name}": TrainConfig.from_flat(r["settings"]) for name, r in recipes().items()},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_json_reads_back(name: str) -> None:
    made = CONFIGS[name]
    assert TrainConfig.from_dict(json.loads(json.dumps(made.as_dict(), allow_nan=False))) == made


@pytest.mark.parametrize("name", list(CONFIGS))
def test_toml_reads_back(name: str, tmp_path: Path) -> None:
    made = CONFIGS[name]
    file = tmp_path / "config.toml"
    file.write_text(to_toml(made), encoding="utf-8")
    read = TrainConfig.from_flat(read_file(str(file)))
    assert read == made
    assert to_toml(read) == to_toml(made)


def test_the_case_of_every_setting_differs_from_its_default() -> None:
    for f in dataclasses.fields(TrainConfig):
        # nesterov needs sgd, the loss depends on the task, steps exclude epochs, weights exclude pretrained,
        # cached features exclude augmentation, and sharded weights much
        if f.metadata and f.name not in ("optimizer", "loss", "steps", "cache_features"):
            case = "zoo" if f.name in ("pretrained", "mean", "std", "shard") else "all"
            assert getattr(CONFIGS[case], f.name) != f.default, f.name


# Recipes


def test_there_is_a_recipe_for_every_model() -> None:
    models = {recipe["settings"]["model"] for recipe in recipes().values()}
    assert models >= set(MODELS)  # and those of a zoo


@pytest.mark.parametrize("name", recipes())
def test_recipes_load_and_say_what_they_are(name: str) -> None:
    recipe = recipes()[name]
    assert recipe["summary"] and recipe["split"] in ("train", "val", "test") and recipe["require"]
    settings = read_file(f"recipe:{name}")
    assert settings == recipe["settings"]
    kind, _, file = TrainConfig.from_flat(settings).data.partition(":")  # names: test_recipes.py
    assert settings["data"] == (f"{kind}:{Path(file).name}" if file else kind)


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        read_file("recipe:lenet-minst")
    assert str(caught.value) == "unknown recipe 'lenet-minst': did you mean lenet-mnist or mlp-mnist or cnn-mnist?"
