"""Runs are removed in two steps, only runs are ever touched, and an interrupted removal is completed."""

import errno
import json
import os
import pty
import select
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dlcli.cli.main import app
from dlcli.cli.output import byte_size
from dlcli.core.errors import ResourceError, RunError
from dlcli.core.reading import read_json
from dlcli.runs import trash
from dlcli.runs.lock import MARK
from dlcli.runs.run import Run, all_runs
from tests.faults import Call, watched
from tests.test_runs import make

NOT_OURS = "does not prove to be a run of dlcli, so it is left alone"


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """runs/ with the runs 1 to 4, each with 1000 bytes in addition to its records; the current folder contains it."""
    monkeypatch.chdir(tmp_path)
    for number in range(1, 5):
        run = make(Path("runs"), best={"metric": "val/loss", "higher_is_better": False, "value": 1 / number})
        (run.checkpoints / "best-1").mkdir()
        (run.checkpoints / "best-1" / "model.safetensors").write_bytes(bytes(1000))
    return Path("runs")


def invoke(*words: str, code: int = 0) -> tuple[str, str]:
    result = CliRunner().invoke(app, ["runs", *words])
    assert result.exit_code == code, result.output
    return result.stdout, result.stderr


def numbers(root: Path) -> list[int]:
    return [run.number for run in all_runs(root)]


def content(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def taken(path: Path) -> int:
    return sum(map(len, content(path).values()))


def test_there_and_back(root: Path) -> None:
    before = content(root / "3")
    out, err = invoke("rm", "3")
    size = f"{taken(root / '.trash/3') / 1000:.1f} kB"
    assert out == f"run    size  now in\n  3  {size}  runs/.trash/3\n"
    assert err == f"1 run, {size}: `dlcli runs restore 3` brings it back; `dlcli runs purge` frees the space\n"
    assert (numbers(root), numbers(root / ".trash")) == ([4, 2, 1], [3])
    assert content(root / ".trash/3") == before
    assert invoke("restore", "3") == (f"run    size  now in\n  3  {size}  runs/3\n", "")
    assert (numbers(root), numbers(root / ".trash")) == ([4, 3, 2, 1], [])
    assert content(root / "3") == before


@pytest.mark.parametrize(
    ("words", "gone"),
    [
        (["2"], [2]),
        (["runs/2"], [2]),
        (["latest"], [4]),
        (["best:loss"], [4]),
        (["2:3"], [2, 3]),
        (["3", "runs/3", "./runs/3", "1"], [3, 1]),
        (["4", "latest", "1:2"], [4, 1, 2]),
    ],
)
def test_the_grammar_names_runs_and_what_was_removed(root: Path, words: list[str], gone: list[int]) -> None:
    moved = json.loads(invoke("rm", *words, "--json")[0])
    assert [row["run"] for row in moved] == gone
    assert [row["path"] for row in moved] == [f"runs/.trash/{n}" for n in gone]
    assert [row["bytes"] for row in moved] == [taken(root / ".trash" / str(n)) for n in gone]
    assert numbers(root / ".trash") == sorted(gone, reverse=True)
    restored = json.loads(invoke("restore", *words, "--json")[0])
    assert [row["run"] for row in restored] == gone
    assert numbers(root) == [4, 3, 2, 1]


def test_the_runs_folder_is_that_of_the_option(root: Path, tmp_path: Path) -> None:
    make(tmp_path / "other")
    invoke("rm", "1", "--runs-dir", "other")
    assert (numbers(root), numbers(tmp_path / "other")) == ([4, 3, 2, 1], [])
    _, err = invoke("--runs-dir", "other", "rm", "1", code=2)
    assert err == "error: --runs-dir must follow rm: dlcli runs rm --runs-dir ...\n"
    _, err = invoke("-n", "1", "rm", "1", code=2)  # an option that rm does not have is not suggested
    assert err == "error: --limit is only for `dlcli runs`: leave it out of `dlcli runs rm`\n"
    assert numbers(root) == [4, 3, 2, 1]
    invoke("restore", "other/1")
    assert numbers(tmp_path / "other") == [1]


def test_restore_alone_lists_the_trash(root: Path) -> None:
    assert invoke("restore") == ("", "the trash of runs is empty\n")
    assert invoke("restore", "--json") == ("[]\n", "")
    invoke("rm", "1", "3")
    lines = invoke("restore")[0].splitlines()
    assert lines[0].split() == ["run", "status", "model", "data", "epochs", "metric", "best", "size", "age"]
    assert [line.split()[:7] for line in lines[1:]] == [
        ["3", "finished", "cnn", "digits", "3/3", "val/loss", "0.3333"],
        ["1", "finished", "cnn", "digits", "3/3", "val/loss", "1.0000"],
    ]
    rows = json.loads(invoke("restore", "--json")[0])
    assert [(row["run"], row["bytes"]) for row in rows] == [(n, taken(root / ".trash" / str(n))) for n in (3, 1)]


def test_a_busy_run_is_refused_and_nothing_is_moved(root: Path) -> None:
    with Run(root, 3).locked():
        _, err = invoke("rm", "2:4", code=9)
    assert err == "error: runs/3 is being trained by another process: stop it first\n"
    assert numbers(root) == [4, 3, 2, 1]
    invoke("rm", "2:4")
    with Run(root / ".trash", 3).locked():  # as a process does that resumes it by its path in the trash
        _, err = invoke("purge", "2:3", "--yes", code=9)
        assert err == "error: runs/.trash/3 is being trained by another process\n"
        _, err = invoke("restore", "3", code=9)
    assert numbers(root / ".trash") == [4, 3]


def test_the_lock_is_held_while_a_run_moves(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = []
    original = trash.move_folder

    def move_folder(source: Path, target: Path) -> None:
        held.append(Run(source.parent, int(source.name)).is_locked())
        original(source, target)

    monkeypatch.setattr(trash, "move_folder", move_folder)
    invoke("rm", "1")
    invoke("restore", "1")
    invoke("rm", "1")
    invoke("purge", "--yes")
    assert held == [True] * 4


def test_who_waited_for_the_lock_of_a_run_that_was_moved_does_not_get_it(root: Path) -> None:
    """The lock moves with the folder: holding it does not protect the old path of the folder."""
    run = Run(root, 1)
    original = os.open

    def moved_meanwhile(path: object, *rest: object, **named: object) -> int:
        descriptor = original(path, *rest, **named)  # type: ignore[arg-type]
        if Path(str(path)) == run.path / "lock":
            os.rename(run.path, root / "elsewhere")
        return descriptor

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", moved_meanwhile)
        with pytest.raises(RunError) as caught, run.locked():
            pass
    assert str(caught.value) == "there is no run runs/1 any more: it was moved or deleted"
    with pytest.raises(RunError) as caught, run.locked():
        pass
    assert str(caught.value) == "there is no run runs/1 any more: it was moved or deleted"


def test_no_number_is_given_twice(root: Path) -> None:
    invoke("rm", "3:4")
    assert Run.create(root).number == 5
    invoke("rm", "5")
    invoke("purge", "4:5", "--yes")
    assert Run.create(root).number == 6
    invoke("rm", "1:6")
    invoke("purge", "--yes")
    assert read_json(root / ".trash/purged.json") == {"highest": 6}
    assert Run.create(root).number == 7
    (root / ".trash/purged.json").write_text('{"highest": "many"}')
    assert Run.create(root).number == 8
    shutil.rmtree(root / ".trash")
    assert Run.create(root).number == 9


def test_what_is_in_the_way_is_named_and_nothing_is_lost(root: Path) -> None:
    invoke("rm", "2")
    (root / "2").mkdir()
    assert invoke("restore", "2", code=4)[1] == "error: runs/2 is in the way of runs/.trash/2: move it by hand\n"
    (root / "2").rmdir()
    shutil.copytree(root / "3", root / "2")
    assert invoke("rm", "2", code=4)[1] == "error: runs/.trash/2 is in the way of runs/2: move it by hand\n"
    assert (numbers(root), numbers(root / ".trash")) == ([4, 3, 2, 1], [2])


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["rm", "77"], 4, "there is no run 77 in runs: see `dlcli runs`"),
        (["rm", "1", "77"], 4, "there is no run 77 in runs: see `dlcli runs`"),
        (["rm", "abc"], 4, "there is no run named abc in runs: see `dlcli runs`"),
        (["rm", ".."], 4, "'..' names no run: use a number, runs/NUMBER, latest, best:METRIC, FIRST:LAST or a name"),
        (["rm", "runs/.trash/4"], 4, "runs/.trash/4 is in the trash already: `dlcli runs purge` deletes for good"),
        (["restore", "1"], 4, "there is no run 1 in runs/.trash: see `dlcli runs restore`"),
        (["restore", "1:3"], 4, "there is no run from 1 to 3 in runs/.trash: see `dlcli runs restore`"),
        (["purge", "1"], 4, "there is no run 1 in runs/.trash: see `dlcli runs restore`"),
        (["purge", "nowhere/1"], 4, "the trash of nowhere is empty"),
        (["purge"], 2, "purge deletes for good and there is no terminal to ask on: add --yes"),
        (["purge", "4"], 2, "purge deletes for good and there is no terminal to ask on: add --yes"),
        (["rm"], 2, "no run is named: name some, or select with --status, --older-than or --keep-best"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_moves_nothing(root: Path, words: list[str], code: int, message: str) -> None:
    invoke("rm", "4")
    assert invoke(*words, code=code) == ("", f"error: {message}\n")
    assert (numbers(root), numbers(root / ".trash")) == ([3, 2, 1], [4])


def test_a_folder_of_somebody_else_is_never_touched(root: Path) -> None:
    photos = root / "7"
    photos.mkdir()
    (photos / "sea.jpg").write_bytes(b"sea")
    (photos / "lock").write_bytes(b"mine")
    (photos / "config.json").write_text('{"format": 1}')
    (photos / "run.json").write_text('{"model": "canon"}')
    before = content(photos)
    assert invoke("rm", "6:7", "4", code=4)[1] == f"error: runs/7 {NOT_OURS}: move it by hand\n"
    assert numbers(root) == [7, 4, 3, 2, 1]
    (root / ".trash").mkdir()
    photos.rename(root / ".trash/7")
    shutil.copytree(root / ".trash/7", root / ".trash/.purging-8")
    assert invoke("restore", "7", code=4)[1] == f"error: runs/.trash/7 {NOT_OURS}: move it by hand\n"
    assert invoke("purge", "7", "--yes", code=4)[1] == f"error: runs/.trash/7 {NOT_OURS}: move it by hand\n"
    out, err = invoke("purge", "--yes", code=4)
    assert (out, err.splitlines()) == (
        "",
        [
            f"runs/.trash/7 {NOT_OURS}",
            f"error: runs/.trash/.purging-8 {NOT_OURS}: delete it by hand",
        ],
    )
    shutil.rmtree(root / ".trash/.purging-8")
    assert invoke("purge", "--yes") == ("", f"runs/.trash/7 {NOT_OURS}\nnothing was deleted\n")
    assert content(root / ".trash/7") == before


@pytest.mark.parametrize("proof", ["lock", "config.json", "run.json"])
def test_one_proof_is_enough_and_goes_last(root: Path, proof: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in {"lock", "config.json", "run.json"} - {proof}:
        (root / "4" / name).write_bytes(b"\xff damaged")
    assert trash.is_ours(root / "4")
    (root / "5").mkdir()
    (root / "5" / proof).symlink_to(Path("../4") / proof)
    assert not trash.is_ours(root / "5")
    invoke("rm", "4")
    order = []
    unlink, rmdir = os.unlink, os.rmdir
    monkeypatch.setattr(os, "unlink", lambda p, **kw: (order.append(Path(p).name), unlink(p, **kw)))
    monkeypatch.setattr(os, "rmdir", lambda p, **kw: (order.append(Path(p).name), rmdir(p, **kw)))
    trash.purge([Run(root / ".trash", 4)], root)
    monkeypatch.undo()
    assert order[-2:] == [proof, ".purging-4"]
    assert sorted(order) == [
        ".purging-4", "best-1", "checkpoints", "config.json", "lock", "model.safetensors", "run.json",
    ]  # fmt: skip


def test_links_are_not_followed(root: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("precious")
    (root / "4" / "link").symlink_to(precious)
    (root / "4" / "checkpoints" / "link").symlink_to(precious)
    (root / "4" / "checkpoints" / "file").symlink_to(precious / "file")
    (root / "5").symlink_to(precious)
    (precious / "lock").write_bytes(MARK)
    assert invoke("rm", "5", code=4)[1] == "error: there is no run 5 in runs: see `dlcli runs`\n"
    invoke("rm", "4")
    invoke("purge", "--yes")
    assert (precious / "file").read_text() == "precious"
    (root / ".trash/.purging-9").symlink_to(precious)
    assert invoke("purge", code=4)[1] == f"error: runs/.trash/.purging-9 {NOT_OURS}: delete it by hand\n"
    shutil.rmtree(root / ".trash")
    (root / ".trash").symlink_to(precious)
    message = "error: runs/.trash is a symbolic link, and no run is moved through one: remove it by hand\n"
    assert invoke("rm", "3", code=4)[1] == message
    assert sorted(p.name for p in precious.iterdir()) == ["file", "lock"]


def test_a_purge_frees_what_it_says(root: Path) -> None:
    run = Run(root, 4)
    weights = run.checkpoints / "best-1" / "model.safetensors"
    (run.checkpoints / "last-1").mkdir()
    os.link(weights, run.checkpoints / "last-1" / "model.safetensors")  # two names, one file
    os.link(root / "3/checkpoints/best-1/model.safetensors", run.path / "shared")  # stays: run 3 uses it
    size = taken(run.path) - 2000
    assert trash.size(run.path) == size
    invoke("rm", "4")
    assert json.loads(invoke("purge", "--yes", "--json")[0]) == [{"run": 4, "bytes": size}]
    invoke("rm", "1:2")
    both = sum(trash.size(root / ".trash" / number) for number in "12")
    out, err = invoke("purge", "--yes")
    one = trash.size(root / "3") / 1000
    assert out == f"run    size\n  2  {one:.1f} kB\n  1  {one:.1f} kB\n"
    assert err == f"{byte_size(both)} freed\n"
    assert invoke("purge", "--yes") == ("", "the trash of runs is empty\n")
    assert invoke("purge", "--json") == ("[]\n", "")
    assert sorted(p.name for p in (root / ".trash").iterdir()) == ["lock", "purged.json"]


def answered(tmp_path: Path, answer: bytes) -> tuple[int, str]:
    """Exit code and output of `dlcli runs purge` on a terminal on which the user answers with `answer`."""
    leader, follower = pty.openpty()
    # The new process itself attaches the terminal: after a fork in a process with threads, Python code can hang.
    take_it = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); from dlcli.cli.main import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", take_it, "runs", "purge"], cwd=tmp_path, stdin=follower, stdout=follower,
        stderr=follower, start_new_session=True,
    )  # fmt: skip
    os.close(follower)
    shown, asked = b"", False
    while True:
        # Python may miss an interrupt just before it starts to read, so it is sent again.
        if not select.select([leader], [], [], 1)[0] and asked and answer == b"\x03":
            os.write(leader, answer)
            continue
        try:
            shown += os.read(leader, 65536)
        except OSError:
            break
        if b"[y/N]: " in shown and not asked:
            asked = True
            os.write(leader, answer)
    os.close(leader)
    return process.wait(timeout=60), shown.decode()


def test_on_a_terminal_it_asks(root: Path, tmp_path: Path) -> None:
    invoke("rm", "1:2")
    size = sum(trash.size(root / ".trash" / n) for n in "12") / 1000
    question = f"delete 2 runs (2, 1) for good, {size:.1f} kB? [y/N]: "
    code, shown = answered(tmp_path, b"n\n")
    assert (code, question in shown, "nothing was deleted" in shown) == (0, True, True)
    assert numbers(root / ".trash") == [2, 1]
    code, shown = answered(tmp_path, b"\x03")
    assert code == 130
    assert numbers(root / ".trash") == [2, 1]
    code, shown = answered(tmp_path, b"y\n")
    assert (code, question in shown, f"{size:.1f} kB freed" in shown) == (0, True, True)
    assert numbers(root / ".trash") == []


def test_a_folder_that_cannot_be_deleted_is_told_and_finished_later(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    invoke("rm", "4")
    unlink = os.unlink

    def refuse(path: str, **named: int) -> None:
        if path == "model.safetensors":
            raise PermissionError(13, "Permission denied", path)
        unlink(path, **named)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refuse)
        with pytest.raises(ResourceError) as caught:
            trash.purge([Run(root / ".trash", 4)], root)
    assert str(caught.value) == "cannot delete model.safetensors: Permission denied; purge again to finish"
    assert [p.name for p in (root / ".trash").iterdir() if p.is_dir()] == [".purging-4"]
    assert numbers(root / ".trash") == []
    assert [row["run"] for row in json.loads(invoke("purge", "--json")[0])] == [4]
    assert sorted(p.name for p in (root / ".trash").iterdir()) == ["lock", "purged.json"]


def test_a_disk_on_which_nothing_can_be_written_is_purged_all_the_same(root: Path) -> None:
    """A user must be able to free space on a full disk; the next command records what could not be recorded."""
    invoke("rm", "4")

    def refuse(call: Call) -> None:
        if call.name == "write":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with watched(root, refuse), pytest.raises(ResourceError, match="^cannot write .*: No space left on device "):
        trash.purge([Run(root / ".trash", 4)], root)
    assert list((root / ".trash/.purging-4").iterdir()) == []
    assert Run.create(root).number == 5
    trash.purge([], root)
    assert sorted(p.name for p in (root / ".trash").iterdir()) == ["lock", "purged.json"]
