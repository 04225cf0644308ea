"""Moved data, read-only runs, empty folder names."""

import json
import os
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dlcli import TrainConfig, evaluate, train
from dlcli.cli.main import app
from dlcli.core import files
from dlcli.runs.run import Run
from tests.conftest import Dlcli
from tests.test_vision import IDX, idx, some_images, some_labels


@pytest.fixture
def moved(tmp_path: Path) -> tuple[Path, Path]:
    """Run 1, trained on images in the first folder, and the folder to which they were moved."""
    old, new = tmp_path / "old", tmp_path / "new"
    folder = old / "MNIST" / "raw"
    folder.mkdir(parents=True)
    contents = (some_images(60, 28, 28), some_labels(60), some_images(20, 28, 28), some_labels(20))
    for name, content in zip(IDX, contents, strict=True):
        (folder / name).write_bytes(idx(content))
    config = TrainConfig("mlp", data="mnist", data_dir=str(old), epochs=1, device="cpu")
    for _ in train(config, runs_dir=tmp_path / "runs"):
        pass
    old.rename(new)
    return old, new


@pytest.mark.slow
def test_data_that_moved_are_found_by_option_and_environment(
    dlcli: Dlcli, moved: tuple[Path, Path], tmp_path: Path
) -> None:
    old, new = moved
    assert dlcli("eval", "1", "--data-dir", str(new)).stdout.startswith("runs/1: best checkpoint (epoch 1) on test of")
    assert json.loads(dlcli("eval", "1", "--json", DLCLI_DATA_DIR=str(new)).stdout)["samples"] == 20
    done = dlcli("eval", "1", "--data-dir", "new", "--baseline", "1", DLCLI_DATA_DIR=str(old))  # the option wins
    assert done.stderr.endswith("a drop of 0\n")
    export = ("export", "1", "--format", "safetensors")
    dlcli(*export, "--data-dir", str(new))
    dlcli(*export, DLCLI_DATA_DIR=str(new))
    done = dlcli("resume", "1", "--epochs", "2", DLCLI_DATA_DIR=str(new))
    assert "exact: yes" in done.stderr and f"data_dir: {old} -> {new}" in done.stderr
    assert Run(tmp_path / "runs", 1).config().data_dir == str(new)
    new.rename(old)
    assert "exact: yes" in dlcli("resume", "1", "--epochs", "3", "--data-dir", "old", DLCLI_DATA_DIR=str(new)).stderr
    assert evaluate(Run(tmp_path / "runs", 1), data_dir=old).samples == 20


@pytest.mark.slow
def test_other_data_there_are_told(dlcli: Dlcli, moved: tuple[Path, Path]) -> None:
    _, new = moved
    file = new / "MNIST" / "raw" / IDX[2]
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    changed = (
        "error: data mnist has changed since the model was trained on it: restore it, or use it as it is now with "
        "--data mnist\n"
    )
    assert dlcli("eval", "1", "--data-dir", "new", check=3).stderr == changed
    assert dlcli("eval", "1", check=3, DLCLI_DATA_DIR="new").stderr == changed
    assert dlcli("resume", "1", "--epochs", "2", check=3, DLCLI_DATA_DIR="new").stderr == changed
    assert dlcli("export", "1", "--data-dir", "new", check=3).stderr == changed


@pytest.mark.slow
def test_a_folder_of_texts_that_moved_is_the_same_data(
    dlcli: Dlcli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "old").mkdir()
    for name in ("a", "b"):
        (tmp_path / "old" / f"{name}.txt").write_text(f"This is text {name}, which is short.\n" * 30)
    small = ("--set", "data.length=8", "--set", "data.tokens=words", "--set", "model.hidden=8", "--epochs", "1")
    dlcli("train", "rnn", "--data", "text:old", *small)
    (tmp_path / "old").rename(tmp_path / "new")
    assert dlcli("eval", "1", check=3).stderr == (
        f"error: {tmp_path}/old does not exist: if it was moved, name its new place with --data text:PATH\n"
    )
    dlcli("eval", "1", "--data", "text:new")
    named = "text:new/a.txt,new/b.txt"
    dlcli("resume", "1", "--epochs", "2", "--data", named)
    assert Run(tmp_path / "runs", 1).config().data == f"text:{tmp_path}/new/a.txt,{tmp_path}/new/b.txt"
    dlcli("eval", "1")  # the same names and contents
    dlcli("eval", "1", "--data", "text:" + ",".join(f"{tmp_path}/new/../new/{n}.txt" for n in "ab"))
    dlcli("export", "1", "--format", "safetensors")


def test_a_run_that_may_only_be_read_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may write anywhere, so the file system must be read-only here."""
    for _ in train(TrainConfig("mlp", data="iris", epochs=1, device="cpu"), runs_dir=tmp_path):
        pass

    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, os.strerror(30))

    with monkeypatch.context() as patched:
        patched.setattr(files, "_write_and_flush", refuse)
        patched.setattr(Path, "mkdir", refuse)
        done = CliRunner().invoke(app, ["eval", "1", "--runs-dir", str(tmp_path), "--require", "loss<9"])
        told = f"cannot write into {tmp_path}/1/eval: Read-only file system"
        found = evaluate(Run(tmp_path, 1))
    assert done.exit_code == 0
    assert done.stderr.splitlines()[0] == f"warning: {told}: these numbers are not recorded in the run"
    assert "accuracy" in done.stdout
    assert found.unrecorded == told
    assert not (tmp_path / "1" / "eval").exists()
    again = evaluate(Run(tmp_path, 1))
    assert (again.unrecorded, again.metrics) == (None, found.metrics)
    (answers,) = (tmp_path / "1" / "eval").glob("test-*.npz")  # which are written before the record
    (tmp_path / "1" / "eval" / "test.json").unlink()
    with monkeypatch.context() as patched:
        patched.setattr(files, "_write_and_flush", refuse)
        done = CliRunner().invoke(app, ["eval", "1", "--runs-dir", str(tmp_path), "--require", "loss<0"])
    assert done.exit_code == 7  # the gate still applies
    told = f"cannot write {tmp_path}/1/eval/{answers.name}: Read-only file system"
    assert done.stderr.splitlines()[0] == f"warning: {told}: these numbers are not recorded in the run"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_to_write(tmp_path: Path) -> None:
    for _ in train(TrainConfig("mlp", data="iris", epochs=1, device="cpu"), runs_dir=tmp_path):
        pass
    shutil.rmtree(tmp_path / "1" / "eval", ignore_errors=True)
    (tmp_path / "1").chmod(0o555)
    try:
        assert evaluate(Run(tmp_path, 1)).unrecorded == f"cannot write into {tmp_path}/1/eval: Permission denied"
    finally:
        (tmp_path / "1").chmod(0o755)


@pytest.mark.parametrize(
    "words",
    [("train", "mlp"), ("runs",), ("eval", "1"), ("runs", "show", "1"), ("runs", "rm", "1"), ("resume", "1"),
     ("export", "1"), ("check", "install")],
    ids=" ".join,
)  # fmt: skip
def test_a_folder_without_a_name(words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, [*words, "--runs-dir", ""])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == "error: --runs-dir is empty: name a folder, such as . for the current one\n"
    assert not list(tmp_path.iterdir())


def test_an_empty_data_folder(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["eval", "1", "--data-dir", "", "--runs-dir", str(tmp_path)])
    assert (done.exit_code, done.stderr) == (
        2, "error: --data-dir is empty: name a folder, such as . for the current one\n",
    )  # fmt: skip
