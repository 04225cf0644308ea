"""Closed streams, other encodings, a deleted folder, files of other programs: nothing breaks or is lost."""

import codecs
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dlcli.runs.run import Run
from tests.conftest import Dlcli

TRAIN = "train mlp --data iris --epochs 2 --device cpu"
# Without them, Python uses UTF-8 regardless of the locale.
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def bash(script: str, folder: Path, **environment: str) -> "subprocess.CompletedProcess[bytes]":
    """Run a shell script in which `dlcli` stands for the command."""
    line = script.replace("dlcli", f"{sys.executable} -m dlcli")
    return subprocess.run(
        ["bash", "-c", line], cwd=folder, env=os.environ | environment, capture_output=True, timeout=300
    )


@pytest.mark.parametrize(
    "closed",
    [*(pytest.param(one, marks=pytest.mark.slow) for one in (">&-", "2>&-", "<&-", ">&- 2>&-")), "<&- >&- 2>&-"],
)
def test_a_closed_stream_leads_nowhere(closed: str, tmp_path: Path) -> None:
    """No file of the run receives the output that was meant for the stream."""
    open_ = bash(f"dlcli {TRAIN}", tmp_path)
    done = bash(f"dlcli {TRAIN} {closed}", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(b"\n") == (0 if " >&-" in f" {closed}" else open_.stdout.count(b"\n"))
    assert done.stderr.count(b"\n") == (0 if "2>&-" in closed else open_.stderr.count(b"\n"))
    first, second = (Run(tmp_path / "runs", number) for number in (1, 2))
    assert second.info()["status"] == "finished"
    kept = [[{k: v for k, v in row.items() if "second" not in k} for row in run.metrics()] for run in (first, second)]
    assert kept[0] == kept[1]
    logs = [run.log_file.read_text().splitlines() for run in (first, second)]
    assert len(logs[0]) == len(logs[1]) and logs[1][0] == "run 2 in runs/2"
    assert sorted(p.name for p in first.path.iterdir()) == sorted(p.name for p in second.path.iterdir())


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(("words", "code"), [("runs", 0), ("models --json", 0), ("--help", 0), ("eval 7", 4)])
def test_each_command_ends_as_it_would(words: str, code: int, closed: str, tmp_path: Path) -> None:
    done = bash(f"dlcli {words} {closed}", tmp_path)
    assert done.returncode == code
    assert b"Traceback" not in done.stderr


def stranger(folder: Path) -> str:
    """Run 1, whose model has a name with unusual characters; returns the name."""
    model = "modèle \U0001f600 ​x"
    (folder / "runs" / "1").mkdir(parents=True)
    info = {"status": "finished", "model": model, "data": "iris", "epochs": 1, "epochs_done": 1, "best": None}
    info |= {"device": "cpu", "started": "2026-01-01T00:00:00Z", "seconds": 1.0}
    (folder / "runs" / "1" / "run.json").write_text(json.dumps(info))
    return model


@pytest.mark.parametrize(
    "environment", [{}, {"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1"}, {"LC_ALL": "C"}, ASCII], ids=str
)
def test_json_loses_no_character(environment: dict[str, str], tmp_path: Path) -> None:
    model = stranger(tmp_path)
    done = bash("dlcli runs --json", tmp_path, **environment)
    assert json.loads(done.stdout.decode())[0]["model"] == model
    done = bash("dlcli eval 'é-\U0001f600' --json", tmp_path, **environment)
    assert done.returncode == 4
    error = json.loads(done.stderr.decode())["error"]
    if environment != ASCII:  # in ASCII the word itself arrives as bytes
        assert error.startswith("'é-\U0001f600' names no run: use a number")
    assert bash("dlcli runs", tmp_path, **environment).returncode == 0


def test_a_long_error_is_whole_as_json(dlcli: Dlcli) -> None:
    done = dlcli("eval", "," * 2000, "--json", check=4)
    assert json.loads(done.stderr)["exit_code"] == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (f"{TRAIN} --runs-dir $'r\\xff'", b"--runs-dir r?? is not UTF-8 text: name another folder"),
        ("eval 1 --data-dir $'r\\xff'", b"--data-dir r?? is not UTF-8 text: name another folder"),
        (f"{TRAIN} --data-dir $'r\\xff'", b"data_dir = 'r\\udcff' is not text"),
        ("train rnn --data $'text:\\xff.txt'", b"data = 'text:\\udcff.txt' is not text"),
        (
            "eval $'\\xff'",
            b"'\\udcff' names no run: use a number, runs/NUMBER, latest, best:METRIC, FIRST:LAST or a name",
        ),
    ],
    ids=str,
)
def test_a_path_that_is_not_utf8(words: str, message: bytes, tmp_path: Path) -> None:
    done = bash(f"dlcli {words}", tmp_path)
    assert done.stderr.replace(b"\xef\xbf\xbd", b"?").replace(b"r? ", b"r?? ") == b"error: " + message + b"\n"
    assert done.returncode == (4 if "eval $" in words else 2)
    assert not list(tmp_path.iterdir())


def test_a_command_line_that_is_not_utf8_is_recorded(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff.toml")).write_text("epochs = 2\n")
    done = bash(f"dlcli {TRAIN} --quiet --config $'\\xff.toml' && dlcli runs show 1 --json", tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout[done.stdout.index(b"{") :])["info"]["command"].endswith("--config '?.toml'")


@pytest.mark.parametrize(
    "words", [TRAIN, "train mine:Net", "runs", "models", "eval /1", f"{TRAIN} --runs-dir /tmp"], ids=str
)
def test_the_current_folder_was_deleted(words: str, tmp_path: Path) -> None:
    """MKL would end the process at the first matrix product."""
    done = bash(f"mkdir gone && cd gone && rmdir ../gone && dlcli {words}", tmp_path)
    assert (done.returncode, done.stdout) == (6, b"")
    assert done.stderr == b"error: the current folder was deleted: change into another one\n"


@pytest.mark.parametrize("words", ["--help", "--version"])
def test_what_needs_no_folder(words: str, tmp_path: Path) -> None:
    done = bash(f"mkdir gone && cd gone && rmdir ../gone && dlcli {words}", tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(("file", "content"), [("a.toml", "lr = 0.25\n"), ("a.json", '{"lr": 0.25}')])
def test_a_config_with_a_byte_order_mark(file: str, content: str, dlcli: Dlcli, tmp_path: Path) -> None:
    (tmp_path / file).write_bytes(codecs.BOM_UTF8 + content.encode())
    done = dlcli("train", "mlp", "--config", file, "--print-config", "--json")
    assert json.loads(done.stdout)["lr"] == 0.25
    (tmp_path / file).write_bytes(codecs.BOM_UTF16_LE + content.encode("utf-16-le"))
    done = dlcli("train", "mlp", "--config", file, check=2)
    assert done.stderr == f"error: config file {file} cannot be read: it is not UTF-8 text\n"
