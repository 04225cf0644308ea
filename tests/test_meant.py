"""Unknown names: suggestions of the nearest known name. Complete messages, through the command line."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from dlcli.cli.main import app
from tests.conftest import Dlcli

READ = (
    "of your own are not read yet; read them in a function of your own, load(data_dir) -> Source in mine.py, and name "
    "mine:load"
)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("train CNN", "unknown model 'CNN': did you mean cnn?"),
        ("train SimpleCNN", "unknown model 'SimpleCNN': did you mean simple-cnn?"),
        ("train resnet", "unknown model 'resnet': did you mean resnet50 or resnet34 or resnet18?"),
        ("train vit_b16", "unknown model 'vit_b16': did you mean vit_b_16?"),
        ("train MobileNetV2", "unknown model 'MobileNetV2': did you mean mobilenet_v2?"),
        (
            "train torchvision:resnet-18",
            "unknown model 'torchvision:resnet-18': resnet-18 is no name of a model of torchvision, such as "
            "torchvision:resnet18",
        ),
        ("train timm:", "unknown model 'timm:': nothing is no name of a model of timm, such as timm:resnet18"),
        ("train digits", "unknown model 'digits': it is a data set, as in `dlcli train MODEL --data digits`"),
        ("train mine.py", "unknown model 'mine.py': did you mean mine:Net?"),
        ("train src/mine.py:Big", "unknown model 'src/mine.py:Big': did you mean src.mine:Big?"),
        ("train mine.Big", "unknown model 'mine.Big': did you mean mine:Big?"),
        ("train cnn --data MNIST", "unknown data 'MNIST': did you mean mnist?"),
        ("train cnn --data Fashion_MNIST", "unknown data 'Fashion_MNIST': did you mean fashion-mnist?"),
        ("train cnn --data cnn", "unknown data 'cnn': it is a model, as in `dlcli train cnn`"),
        ("train cnn --data mine.py", "unknown data 'mine.py': did you mean mine:load?"),
        (
            "train cnn --data foo.csv",
            "unknown data 'foo.csv': did you mean --data table:foo.csv --set data.target=COLUMN?",
        ),
        ("train cnn --data a/b/X.npz", "unknown data 'a/b/X.npz': did you mean arrays:a/b/X.npz?"),
        ("train cnn --data photos", "unknown data 'photos': did you mean images:photos?"),
        ("train cnn --data nowhere/", "unknown data 'nowhere/': did you mean images:nowhere/?"),
        (
            "train cnn --data cat.JPG",
            "unknown data 'cat.JPG': images are read from a folder that has a sub-folder for each class: name it, "
            "images:FOLDER",
        ),
        ("train cnn --data photos.zip", f"unknown data 'photos.zip': archives {READ}"),
        ("train cnn --data foo.xlsx", f"unknown data 'foo.xlsx': .xlsx files {READ}"),
        ("train cnn --data archive:a.zip", f"unknown data 'archive:a.zip': archives {READ}"),
        ("train rnn --data story.txt", "unknown data 'story.txt': did you mean text:story.txt?"),
        ("train rnn --data README", "unknown data 'README': did you mean text:README?"),
        ("train cnn digits", "unexpected extra argument digits: did you mean --data digits?"),
        ("train cnn --learning-rate 1", "no such option --learning-rate: did you mean --lr?"),
        ("train cnn --learning_rate=1", "no such option --learning_rate: did you mean --lr?"),
        ("resume 1 --max-epochs 3", "no such option --max-epochs: did you mean --epochs?"),
        ("train cnn --output-dir x", "no such option --output-dir: did you mean --runs-dir?"),
        ("train cnn --set wd=1", "unknown setting wd: did you mean weight_decay?"),
        (
            "train cnn --hidden 3",
            "no such option --hidden: see `dlcli train --help`; an option of the model itself is set with "
            "--set model.hidden=VALUE",
        ),
        ("eval 1 --frobnicate", "no such option --frobnicate: see `dlcli eval --help`"),
        ("tran cnn", "no such command 'tran': did you mean `dlcli train`?"),
        (
            "train foo.csv",
            "unknown model 'foo.csv': it is a file or a folder: name a model first, as in "
            "`dlcli train mlp --data foo.csv`",
        ),
        ("Train cnn", "no such command 'Train': did you mean `dlcli train`?"),
        ("test 1", "no such command 'test': did you mean `dlcli eval`?"),
        ("cnn", "no such command 'cnn': did you mean `dlcli train cnn`?"),
        ("show 3", "no such command 'show': did you mean `dlcli runs show` or `dlcli sweep show`?"),
        (
            "zzz",
            "no such command 'zzz': known are train, resume, sweep, average, prune, eval, predict, explain, export, "
            "generate, gradcheck, profile, check, runs, plot, report, cache, models, datasets, recipes",
        ),
    ],
)
def test_the_nearest_right_thing(words: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "README").write_text("a story")
    done = CliRunner().invoke(app, words.split(), prog_name="dlcli")
    assert (done.exit_code, done.stdout, done.stderr) == (2, "", f"error: {message}\n")
    assert not (tmp_path / "runs").exists()


def test_a_setting_of_another_tool_in_a_file_and_in_the_environment(dlcli: Dlcli, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("learning_rate = 0.1\n")
    done = dlcli("train", "cnn", "--config", "a.toml", check=2)
    assert done.stderr == "error: unknown setting learning_rate: did you mean lr?\n"
    done = dlcli("train", "cnn", check=2, DLCLI_LEARNING_RATE="0.1")
    assert done.stderr == "error: unknown environment variable DLCLI_LEARNING_RATE: did you mean DLCLI_LR?\n"


def test_own_code_of_such_a_name_is_still_own_code(dlcli: Dlcli, tmp_path: Path) -> None:
    (tmp_path / "audio.py").write_text(
        "from dlcli import Source\nfrom dlcli.data.builtin import digits\n\n\n"
        "def load(data_dir) -> Source:\n    return digits(data_dir)\n"
    )
    done = dlcli("train", "mlp", "--data", "audio:load", "--epochs", "1", "--device", "cpu")
    assert "on audio:load (1,294 train" in done.stderr


@pytest.mark.parametrize("place", [0, 1, 2, 3, 4])
def test_debug_works_anywhere_on_the_line(place: int, tmp_path: Path) -> None:
    words = ["eval", "42", "--runs-dir", str(tmp_path)]
    words.insert(place, "--debug")
    if place == 3:  # between an option and its value
        words = ["eval", "42", "--debug", "--runs-dir", str(tmp_path)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 4
    assert done.stderr.startswith("Traceback (most recent call last)")
    assert done.stderr.endswith(f"\nerror: there is no run 42 in {tmp_path}: see `dlcli runs`\n")


def test_debug_behind_two_dashes_is_a_word() -> None:
    done = CliRunner().invoke(app, ["eval", "--", "--debug"])
    assert done.exit_code == 4
    assert (
        done.stderr
        == "error: '--debug' names no run: use a number, runs/NUMBER, latest, best:METRIC, FIRST:LAST or a name\n"
    )
