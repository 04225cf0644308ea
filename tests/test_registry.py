"""MODELS and DATASETS: every entry can be built; for an unknown name the error suggests the nearest one."""

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import nn

from dlcli.config.own_code import load
from dlcli.config.registry import DATASETS, MODELS
from dlcli.config.schemes import data_entry, model_entry
from dlcli.config.settings import TrainConfig
from dlcli.core import options
from dlcli.core.errors import ConfigError, RunError


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_a_module_whose_options_have_good_defaults(name: str) -> None:
    found = load(MODELS[name].target)
    assert issubclass(found, nn.Module)
    assert found.__doc__
    assert list(inspect.signature(found).parameters)[0] == "spec"
    assert options.resolve(found, {}, where="model") == options.defaults(found)


@pytest.mark.parametrize("name", DATASETS)
def test_every_data_set_is_a_function_of_the_data_folder(name: str) -> None:
    found = load(DATASETS[name].target)
    assert found.__doc__
    assert list(inspect.signature(found).parameters)[0] == "data_dir"
    given = {"path": "a.txt"} if DATASETS[name].file else {}
    assert options.resolve(found, given, where="data") == options.defaults(found) | given


@pytest.mark.parametrize("name", MODELS)
def test_every_model_has_a_config_of_its_own_defaults(name: str) -> None:
    config = TrainConfig(model=name)
    assert config.data == MODELS[name].data
    assert config.data in DATASETS
    for setting, value in {**MODELS[name].defaults, **DATASETS[config.data].defaults}.items():
        if not (setting == "batch_size" and config.optimizer == "gd"):
            assert getattr(config, setting) == value


def test_the_eleven_models_and_all_data_sets_are_there() -> None:
    models = "linear logistic mlp tabular lenet cnn simple-cnn airbench rnn attention ngrams"
    assert list(MODELS) == models.split()
    assert set(DATASETS) >= set(
        "digits breast-cancer iris wine diabetes line make-regression random recall pydocs "
        "mnist fashion-mnist kmnist cifar10 text table arrays tinyshakespeare".split()
    )


def test_every_entry_says_what_it_is() -> None:
    for model in MODELS.values():
        assert model.summary and model.takes
    for data in DATASETS.values():
        assert all((data.summary, data.task, data.shape, data.size, data.licence, data.origin))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cmn", "unknown model 'cmn': did you mean cnn?"),
        ("lenet5", "unknown model 'lenet5': did you mean lenet?"),
        (
            "zebra",
            "unknown model 'zebra': known are linear, logistic, mlp, tabular, lenet, cnn, simple-cnn, airbench, rnn, "
            "attention, ngrams, and those of `dlcli models --zoo`",
        ),
    ],
)
def test_an_unknown_model_names_the_nearest(name: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        model_entry(name)
    assert str(caught.value) == message


def test_an_unknown_data_set_names_the_nearest() -> None:
    with pytest.raises(ConfigError) as caught:
        data_entry("fashion-mist")
    assert str(caught.value) == "unknown data 'fashion-mist': did you mean fashion-mnist?"
    with pytest.raises(ConfigError) as caught:
        data_entry("digit")
    assert str(caught.value) == "unknown data 'digit': did you mean digits?"


def test_a_text_file_is_the_entry_of_text() -> None:
    assert data_entry("text:some/file.txt") is DATASETS["text"]


@pytest.fixture
def own_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "ownmodels.py").write_text("class Tiny:\n    pass\n\nclass Tall:\n    pass\n")
    (tmp_path / "brokenmodels.py").write_text("import does_not_exist_anywhere\n")
    (tmp_path / "failing.py").write_text("raise ValueError('at import')\n")
    yield tmp_path
    for name in ("ownmodels", "brokenmodels", "failing"):
        sys.modules.pop(name, None)


def test_own_code_is_imported_by_its_address(own_package: Path) -> None:
    assert model_entry("ownmodels:Tiny").target == "ownmodels:Tiny"
    assert data_entry("ownmodels:Tiny").target == "ownmodels:Tiny"
    assert load("ownmodels:Tiny").__name__ == "Tiny"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("ownmodels:", "'ownmodels:' is not of the form package.module:Name"),
        (":Tiny", "':Tiny' is not of the form package.module:Name"),
        ("ownmodels", "'ownmodels' is not of the form package.module:Name"),
        ("nowhere.at.all:Tiny", "no module 'nowhere' on the Python path, needed for 'nowhere.at.all:Tiny'"),
        ("dlcli.nowhere:Tiny", "no module 'dlcli.nowhere' on the Python path, needed for 'dlcli.nowhere:Tiny'"),
        ("ownmodels:Tiyn", "module 'ownmodels' has no 'Tiyn': did you mean Tiny?"),
        ("ownmodels:Zoo", "module 'ownmodels' has no 'Zoo': known are Tiny, Tall"),
    ],
)
def test_what_is_not_there_is_told(own_package: Path, target: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(target)
    assert str(caught.value) == message


def test_a_module_that_is_broken_inside_names_its_line(own_package: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load("brokenmodels:Tiny")
    assert str(caught.value) == (
        f"brokenmodels:Tiny cannot be imported: ModuleNotFoundError in {own_package / 'brokenmodels.py'}, line 1: "
        "No module named 'does_not_exist_anywhere'"
    )
    with pytest.raises(ConfigError) as caught:
        load("failing:Tiny")
    assert str(caught.value) == (
        f"failing:Tiny cannot be imported: ValueError in {own_package / 'failing.py'}, line 1: at import"
    )
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with a user's module, and a runs folder with modules that create a file when imported."""
    runs = tmp_path / "runs"
    for module in ("own_net.py", "runs/came_net.py", "runs/1/came_package/__init__.py", "runs/1/came_package/net.py",
                   "runs/1/came_space/net.py"):  # fmt: skip
        file = tmp_path / module
        file.parent.mkdir(parents=True, exist_ok=True)
        note = f"import pathlib\npathlib.Path({str(tmp_path / 'imported')!r}).touch()\n" if "came" in module else ""
        file.write_text(f"{note}import sys\npath = list(sys.path)\nclass Net:\n    pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry] + [str(runs), str(runs / "1")])
    yield tmp_path
    for name in ("own_net", "came_net", "came_package", "came_package.net", "came_space", "came_space.net"):
        sys.modules.pop(name, None)


def test_the_current_folder_is_on_the_path_for_own_code_only(project: Path) -> None:
    load("dlcli.models.mlp:MLP")
    assert str(project) not in sys.path
    assert load("own_net:Net").__name__ == "Net"
    assert sys.path[-1] == str(project)
    assert load("own_net:Net", runs_dir=Path("runs")).__name__ == "Net"


def test_own_code_finds_nothing_in_the_runs_while_it_is_imported(project: Path) -> None:
    before = list(sys.path)
    load("own_net:Net", runs_dir=Path("runs"))
    seen = sys.modules["own_net"].path
    assert not [entry for entry in seen if entry.startswith(str(project / "runs"))] and seen[-1] == str(project)
    assert sys.path == [*before, str(project)]


@pytest.mark.parametrize(
    ("target", "place"),
    [
        ("came_net:Net", "came_net.py"),
        ("came_package:Net", "1/came_package"),
        ("came_package.net:Net", "1/came_package"),
        ("came_space.net:Net", "1/came_space"),
    ],
)
def test_what_came_with_a_run_is_not_imported(project: Path, target: str, place: str) -> None:
    before = list(sys.path)
    with pytest.raises(RunError) as caught:
        load(target, runs_dir=Path("runs"))
    assert str(caught.value) == (
        f"{target!r} is refused: {project}/runs/{place} lies in the folder of runs runs, and no code that came with a "
        "run is executed; keep your own in another folder"
    )
    assert not (project / "imported").exists()
    assert sys.path[: len(before)] == before


def test_a_link_to_what_came_with_a_run_is_refused(project: Path) -> None:
    (project / "own_link.py").symlink_to(project / "runs" / "came_net.py")
    with pytest.raises(RunError, match="is refused"):
        load("own_link:Net", runs_dir=Path("runs"))


def test_who_stands_in_the_runs_gets_nothing_from_there(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project / "runs" / "1")
    with pytest.raises(RunError, match="is refused"):
        load("came_space.net:Net", runs_dir=Path(".."))
    assert sys.path.count(str(project / "runs" / "1")) == 1  # the entry that the test itself added
    assert not (project / "imported").exists()


@pytest.mark.parametrize("target", ["os:system", "antigravity:fly", "builtins:eval", "__main__:x", "xml.sax:parse"])
def test_pythons_own_library_is_not_even_imported_for_a_run(target: str) -> None:
    loaded = set(sys.modules)
    with pytest.raises(ConfigError) as caught:
        load(target, runs_dir=Path("runs"))
    assert str(caught.value) == f"{target!r} is part of Python, not a model or data set: name one of your own"
    assert "antigravity" not in set(sys.modules) - loaded
