"""Identification of runs: the id for scripts, the run that an error names, and names given by the user."""

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dlcli import TrainConfig, evaluate, train
from dlcli.core.errors import ConfigError, RunError
from dlcli.runs import given_names, trash
from dlcli.runs.given_names import check_free, create, name_of
from dlcli.runs.names import find, find_one
from dlcli.runs.run import Run
from tests.conftest import Dlcli

IRIS = ("--data", "iris", "--epochs", "2", "--device", "cpu", "--quiet")
DIVERGES = ("train", "mlp", *IRIS, "--lr", "1e20")
LETTERS = "use a letter, then up to 63 letters, digits, dots, dashes and underscores, but not latest or best"


def test_a_script_has_the_id_of_a_training_that_diverged(dlcli: Dlcli) -> None:
    dlcli("train", "mlp", *IRIS)
    done = dlcli(*DIVERGES, "--print", "run", check=5)
    assert done.stdout == "2\n"
    done = dlcli("resume", "2", "--epochs", "3", "--quiet", "--print", "path", check=5)
    assert done.stdout == "runs/2\n"
    done = dlcli("resume", "1", "--epochs", "4", "--quiet", "--print", "run")
    assert (done.stdout, done.stderr) == ("1\n", "")


def test_a_script_has_the_id_of_a_training_that_was_killed(tmp_path: Path) -> None:
    words = ["train", "mlp", "--epochs", "100000", "--device", "cpu", "--quiet", "--print", "run"]
    process = subprocess.Popen([sys.executable, "-m", "dlcli", *words], cwd=tmp_path, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"1\n"  # it is printed during the training
    assert process.poll() is None
    process.kill()
    assert process.communicate(timeout=60)[0] == b""


def test_a_reader_that_has_gone_away_does_not_stop_the_training(tmp_path: Path) -> None:
    words = f"{sys.executable} -m dlcli train mlp {' '.join(IRIS)} --print run"
    done = subprocess.run(
        ["bash", "-c", f"{words} | true; echo ${{PIPESTATUS[0]}}"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("0\n", "")
    assert Run(tmp_path / "runs", 1).info()["status"] == "finished"


def test_an_error_as_json_names_the_run_that_it_happened_in(dlcli: Dlcli, tmp_path: Path) -> None:
    error = json.loads(dlcli(*DIVERGES, "--json", check=5).stderr)
    assert (error["exit_code"], error["run"], error["path"]) == (5, 1, "runs/1")
    assert error["error"].startswith("the loss became nan at step ")
    error = json.loads(dlcli("resume", "1", "--quiet", "--json", check=5).stderr)
    assert (error["exit_code"], error["run"], error["path"]) == (5, 1, "runs/1")
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n\n\n"
        "class Net(nn.Linear):\n"
        "    def __init__(self, spec):\n        super().__init__(4, 3)\n        self.calls = 0\n\n"
        "    def forward(self, x):\n        self.calls += 1\n        return self.missing if self.calls > 9 else "
        "super().forward(x)\n"
    )
    error = json.loads(dlcli("train", "mine:Net", *IRIS, "--json", check=2).stderr)
    assert (error["exit_code"], error["run"], error["path"]) == (2, 2, "runs/2")
    error = json.loads(dlcli("train", "ccnn", "--json", check=2).stderr)
    assert error == {"error": "unknown model 'ccnn': did you mean cnn?", "exit_code": 2}


@pytest.mark.slow
def test_a_name_finds_its_run_in_every_command(dlcli: Dlcli, tmp_path: Path) -> None:
    done = dlcli("train", "mlp", "--data", "iris", "--epochs", "1", "--device", "cpu", "--name", "base-1.0")
    assert done.stderr.splitlines()[0] == "run 1 in runs/1, named base-1.0"
    assert [line.split()[:3] for line in done.stdout.splitlines()] == [
        ["run", "name", "status"], ["1", "base-1.0", "finished"],
    ]  # fmt: skip
    dlcli("train", "mlp", *IRIS)
    (tmp_path / "rows.csv").write_text("5.1,3.5,1.4,0.2\n")
    assert dlcli("eval", "base-1.0").stdout.startswith("runs/1: best checkpoint (epoch 1)")
    assert dlcli("eval", "runs/base-1.0", "--baseline", "base-1.0").stderr.endswith("of runs/1: a drop of 0\n")
    assert dlcli("predict", "base-1.0", "rows.csv").stdout.count("\n") == 2
    assert dlcli("resume", "base-1.0", "--epochs", "2", "--print", "run", "--quiet").stdout == "1\n"
    assert dlcli("export", "base-1.0", "--format", "safetensors").stderr.startswith("safetensors: wrote runs/1/export/")
    assert dlcli("runs", "show", "base-1.0").stdout.startswith("runs/1, named base-1.0\n")
    assert json.loads(dlcli("runs", "show", "1", "--json").stdout)["name"] == "base-1.0"
    rows = json.loads(dlcli("runs", "--json").stdout)
    assert [(row["run"], row["name"]) for row in rows] == [(2, None), (1, "base-1.0")]
    assert "name" not in json.loads((tmp_path / "runs" / "1" / "run.json").read_text())
    assert (tmp_path / "runs" / "1" / "name.txt").read_text() == "base-1.0\n"
    assert dlcli("runs", "rm", "base-1.0").stdout.splitlines()[1].split()[0] == "1"
    assert "name" not in dlcli("runs").stdout  # the column appears only if a run has a name
    assert dlcli("runs", "restore").stdout.splitlines()[1].split()[:2] == ["1", "base-1.0"]
    done = dlcli("train", "mlp", *IRIS, "--name", "base-1.0", check=2)
    told = "error: --name base-1.0 is the name of run 1 in runs, which is in the trash: choose another\n"
    assert (done.stdout, done.stderr) == ("", told)
    dlcli("runs", "restore", "runs/base-1.0")
    assert dlcli("eval", "base-1.o", check=4).stderr == (
        "error: there is no run named base-1.o in runs: did you mean base-1.0?\n"
    )
    assert dlcli("eval", "other", check=4).stderr == ("error: there is no run named other in runs: see `dlcli runs`\n")
    done = dlcli("train", "mlp", *IRIS, "--name", "base-1.0", check=2)
    assert done.stderr == "error: --name base-1.0 is the name of run 1 in runs: choose another\n"
    assert not (tmp_path / "runs" / "3").exists()


@pytest.mark.parametrize(
    "name",
    ["", "3", "3a", "-x", "latest", "Latest", "best", "best:loss", "1:2", "a,b", "a/b", "..", ".x", "a b", "x" * 65,
     "é", "a\n", "\x1b[31m"],
)  # fmt: skip
def test_a_name_is_nothing_else_of_the_grammar(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        list(train(TrainConfig("mlp", data="iris", device="cpu"), runs_dir=tmp_path / "runs", name=name))
    assert str(caught.value) == f"--name {name} cannot be the name of a run: {LETTERS}"
    assert not list((tmp_path / "runs").glob("*"))


def test_from_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in train(TrainConfig("mlp", data="iris", device="cpu", epochs=1), name="base"):
        pass
    assert evaluate("base").run == Run(Path("runs"), 1)
    assert str(find_one("base", "runs")) == "runs/1"


def test_a_folder_that_was_copied_has_no_name_of_its_own(tmp_path: Path) -> None:
    create(tmp_path, name="base")
    shutil.copytree(tmp_path / "1", tmp_path / "4")
    with pytest.raises(RunError) as caught:
        find("base", tmp_path)
    assert str(caught.value) == f"base names the runs 4, 1 in {tmp_path}: use the number"
    assert [run.number for run in find("4", tmp_path)] == [4]


@pytest.mark.parametrize("content", [b"", b"\n", b"3\n", b"latest", b"a\nb", b"\xff", b"x" * 200, b"\x1b[31m"])
def test_a_name_that_nobody_can_give_is_none(content: bytes, tmp_path: Path) -> None:
    run = create(tmp_path, name="base")
    (run.path / "name.txt").write_bytes(content)
    assert name_of(run) is None


def test_what_is_no_file_is_no_name(tmp_path: Path) -> None:
    run = create(tmp_path, name="base")
    assert name_of(run) == "base"
    (tmp_path / "outside").write_text("base\n")
    for make in (
        lambda path: path.symlink_to(tmp_path / "outside"),
        lambda path: os.mkfifo(path),
        lambda path: path.mkdir(),
    ):
        shutil.move(run.path / "name.txt", tmp_path / f"aside-{time.monotonic_ns()}")
        make(run.path / "name.txt")
        assert name_of(run) is None


def _create(root: str, barrier: object, queue: object) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    try:
        queue.put(create(root, name="base").number)  # type: ignore[attr-defined]
    except ConfigError:
        queue.put(None)  # type: ignore[attr-defined]


def test_of_16_processes_that_start_at_once_one_gets_the_name(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(16), context.SimpleQueue()
    processes = [context.Process(target=_create, args=(str(tmp_path / "runs"), barrier, queue)) for _ in range(16)]
    for process in processes:
        process.start()
    found = [queue.get() for _ in processes]
    for process in processes:
        process.join()
    assert sorted(number for number in found if number) == [1]
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["1"]


def test_a_restored_run_has_its_name(tmp_path: Path) -> None:
    run = create(tmp_path, name="base")
    trash.remove([run])
    assert trash.find("base", tmp_path) == trash.find("runs/base".replace("runs", str(tmp_path)), "elsewhere")
    with pytest.raises(ConfigError):
        check_free("base", tmp_path)
    trash.restore(trash.find("base", tmp_path))
    assert find("base", tmp_path) == [run]
    assert given_names.is_name("base")
