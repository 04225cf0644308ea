"""A kill before any call, a power failure after any, a disk error at any: files are complete, either old or new."""

import errno
import os
import random
import re
import shutil
import signal
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from dlcli import TrainConfig
from dlcli.analysis.prune.prune import Wish, opened, prune
from dlcli.checkpoints import checkpoint
from dlcli.cli.main import app
from dlcli.core import blame, files, reading
from dlcli.core.errors import ConfigError, ResourceError, RunError
from dlcli.runs import table as summary
from dlcli.runs import trash
from dlcli.runs.run import Run, all_runs
from dlcli.training.average import average
from dlcli.training.train import fit, resume, train
from tests import faults
from tests.faults import ALL, Call, Disk, at_each_call, failing, forked_away, watched
from tests.test_resume import assert_same
from tests.test_runs import make
from tests.test_tensorboard import scalars

KILLED = -signal.SIGKILL

# A training of two steps that writes every kind of file and saves after each step.
SMALL = TrainConfig("linear", data="line", epochs=2, device="cpu", optimizer="adam", batch_size="full", eval_every=1)


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushes have no effect without a power failure; `Disk` checks that they are made, and in time."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr("dlcli.training.saver._LEAST_SECONDS", 0.0)


def undisturbed(config: TrainConfig, folder: Path) -> Run:
    list(train(config, runs_dir=folder / "straight"))
    return Run(folder / "straight", 1)


@pytest.fixture
def straight(tmp_path: Path) -> Run:
    """The training without faults."""
    return undisturbed(SMALL, tmp_path)


def weights(step: int) -> dict[str, torch.Tensor]:
    return {"a": torch.full((40,), float(step)), "b": torch.arange(30) + step}


def state_of(step: int) -> dict[str, Any]:
    place = {"epoch": step, "step": step}
    training = {"batch": 0, "lr": 0.1, "samples": 0, "earlier_samples": 0, "waited": 0, "best_loss": 1 / step}
    training |= {"optimizer_steps": step, "average_steps": None, "scaler": None, **place}
    training["best"] = {"metric": "val/loss", "value": 1 / step, "higher_is_better": False, **place}
    return {**place, "metrics": {"val/loss": 1 / step}, "training": training}


def save(folder: Path, step: int) -> None:
    """Save as a training does: the best checkpoint, and a last one whose weights are the same file."""
    (folder / "checkpoints").mkdir(exist_ok=True)
    state = state_of(step)
    best = checkpoint.save(folder / "checkpoints", "best", weights=weights(step), state=state)
    last = checkpoint.save(folder / "checkpoints", "last", weights=best, state=state, training=weights(-step))
    checkpoint.retain(folder / "checkpoints", last, keep_last=1)


def found(folder: Path, role: str) -> int:
    """The step of the newest intact checkpoint; all its values must be those that were saved at that step."""
    saved = checkpoint.load(folder / "checkpoints", role, with_training=True)
    step = saved.state["step"]
    assert saved.state == state_of(step)
    assert (saved.training is None) == (role == "best")
    for tensors, expected in ((saved.weights, weights(step)), (saved.training or weights(-step), weights(-step))):
        assert tensors.keys() == expected.keys()
        assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    return int(step)


def temporaries(folder: Path) -> list[str]:
    return [str(p.relative_to(folder)) for p in folder.rglob(".tmp-*")]


# ------------------------------------------------------------------------------------------- killed at each call


def old_or_new(folder: Path, code: int) -> None:
    assert code in (0, KILLED)
    steps = found(folder, "best"), found(folder, "last")
    assert steps in ((1, 1), (2, 1), (2, 2))
    if code == 0:
        assert steps == (2, 2)
    save(folder, 3)  # what the kill left does not hinder the next save
    assert (found(folder, "best"), found(folder, "last")) == (3, 3)


def test_a_save(tmp_path: Path) -> None:
    calls = at_each_call(tmp_path, lambda f: save(f, 2), old_or_new, prepare=lambda f: save(f, 1))
    assert calls >= 30


@pytest.mark.parametrize("fault", ["written in place", "old removed first", "not verified"])
def test_a_save_by_a_wrong_protocol_is_seen(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness detects a wrong protocol."""
    right = files.write_folder

    def wrong(path: Path, contents: dict[str, bytes | Path]) -> None:
        if fault == "old removed first":
            for older in path.parent.glob(f"{path.name.split('-')[0]}-*"):
                shutil.rmtree(older)
            right(path, contents)
            return
        right(path.with_name("whole"), contents)
        path = path.with_name(f"{path.name.split('-')[0]}-1") if fault == "written in place" else path
        path.mkdir(exist_ok=True)
        for file in path.with_name("whole").iterdir():
            with open(path / file.name, "wb") as copy:
                copy.write(file.read_bytes())
        shutil.rmtree(path.with_name("whole"))

    if fault == "not verified":
        monkeypatch.setattr(checkpoint, "read_manifest", lambda path: {file.name: "" for file in path.iterdir()})
        monkeypatch.setattr(checkpoint, "verify_digests", lambda path, digests: None)
    with pytest.raises((AssertionError, RunError, OSError)) as caught:
        at_each_call(
            tmp_path,
            lambda folder: (monkeypatch.setattr(checkpoint, "write_folder", wrong), save(folder, 2)),
            old_or_new,
            prepare=lambda folder: save(folder, 1),
        )
    assert caught.value.__notes__[0].startswith("at call ")


def test_a_record_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    def check(folder: Path, code: int) -> None:
        value = reading.read_json(folder / "run.json")
        assert value == {"value": "new" * 100} if code == 0 else value in ({"value": "old"}, {"value": "new" * 100})
        files.sweep(folder)
        assert [path.name for path in folder.iterdir()] == ["run.json"]

    def write(folder: Path, value: str) -> None:
        files.write_json(folder / "run.json", {"value": value})

    calls = at_each_call(tmp_path, lambda f: write(f, "new" * 100), check, prepare=lambda f: write(f, "old"))
    assert calls >= 4

    def in_place(path: Path, content: bytes) -> None:
        with open(path, "wb") as file:
            file.write(content)

    with pytest.MonkeyPatch.context() as patch, pytest.raises((AssertionError, RunError)):
        patch.setattr(files, "write_bytes", in_place)
        at_each_call(tmp_path / "twin", lambda f: write(f, "new" * 100), check, prepare=lambda f: write(f, "old"))


def test_what_a_killed_eval_has_left_is_cleared_away_by_the_next(tmp_path: Path) -> None:
    def write(folder: Path, split: str, value: str) -> None:
        Run(folder, 1).write_record("eval", split, {"value": value})

    def prepare(folder: Path) -> None:
        Run.create(folder)
        write(folder, "test", "old")

    left: set[str] = set()

    def check(folder: Path, code: int) -> None:
        records = Run(folder, 1).path / "eval"
        value = reading.read_json(records / "test.json")["value"]
        assert value == "new" if code == 0 else value in ("old", "new")
        left.update(path.name[:5] for path in records.iterdir())
        write(folder, "val", "next")
        assert sorted(path.name for path in records.iterdir()) == ["test.json", "val.json"]

    assert at_each_call(tmp_path, lambda folder: write(folder, "test", "new"), check, prepare=prepare) >= 4
    assert left == {"test.", ".tmp-"}


def test_a_record_always_has_the_file_that_belongs_to_it(tmp_path: Path) -> None:
    def write(folder: Path, value: bytes) -> None:
        Run(folder, 1).write_record("eval", "test", {"value": value.decode()}, npz=value)

    def prepare(folder: Path) -> None:
        Run.create(folder)
        write(folder, b"old")

    def check(folder: Path, code: int) -> None:
        records = Run(folder, 1).path / "eval"
        record = reading.read_json(records / "test.json")
        assert (records / record["file"]).read_bytes() == record["value"].encode()
        assert record["value"] == "new" if code == 0 else record["value"] in ("old", "new")
        write(folder, b"next")
        assert len(list(records.iterdir())) == 2

    assert at_each_call(tmp_path, lambda folder: write(folder, b"new"), check, prepare=prepare) >= 7


def test_evals_at_once_do_not_clear_away_what_another_writes(tmp_path: Path) -> None:
    run = Run.create(tmp_path)

    def write(split: str) -> None:
        for number in range(100):
            run.write_record("eval", split, {"value": number})

    writers = [forked_away(lambda split=split: write(split)) for split in "abcd"]  # type: ignore[misc]
    assert [os.waitpid(process, 0)[1] for process in writers] == [0] * 4
    assert sorted(path.name for path in (run.path / "eval").iterdir()) == ["a.json", "b.json", "c.json", "d.json"]


def test_a_new_run_has_its_number_or_is_not_there(tmp_path: Path) -> None:
    """At worst an empty folder remains: it is listed with a reason and does no harm."""

    def check(folder: Path, code: int) -> None:
        runs = all_runs(folder)
        assert [row["status"] for row in summary.rows(folder)] == ["broken"] * len(runs)
        if runs and not trash.is_ours(runs[0].path):
            assert sum(path.stat().st_size for path in runs[0].path.iterdir()) < 15 and code == KILLED
        elif runs:
            trash.remove(runs)
        assert Run.create(folder).number == len(runs) + 1

    assert at_each_call(tmp_path, Run.create, check) >= 4


def test_an_average_is_finished_or_it_is_not_taken_for_a_run(tmp_path: Path, straight: Run) -> None:
    """Killed before any call, it has no checkpoint that is not whole, and its parents are as they were."""
    content = {path.name: path.read_bytes() for path in straight.path.glob("*/*/*")}

    def prepare(folder: Path) -> None:
        for number in ("1", "2"):
            shutil.copytree(straight.path, folder / number)

    def mean(folder: Path) -> None:
        average([Run(folder, 1), Run(folder, 2)], runs_dir=folder)

    def check(folder: Path, code: int) -> None:
        assert code in (0, KILLED)
        statuses = {row["run"]: row["status"] for row in summary.rows(folder)}
        assert statuses.pop(1) == statuses.pop(2) == "finished"
        assert statuses in ([{}, {3: "broken"}, {3: "dead"}, {3: "finished"}] if code else [{3: "finished"}])
        if statuses.get(3) == "finished":
            assert torch.equal(
                *(checkpoint.load(Run(folder, n).checkpoints, "best").weights["linear.bias"] for n in (1, 3))
            )
        for number in ("1", "2"):
            assert {path.name: path.read_bytes() for path in (folder / number).glob("*/*/*")} == content

    assert at_each_call(tmp_path, mean, check, prepare=prepare, step=3) >= 20


def test_a_pruned_run_can_be_resumed_or_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before any call: there is no run, or one that resumes to the same, or one that says why it cannot."""
    monkeypatch.setattr("dlcli.analysis.prune.prune.latencies", lambda before, after: [])
    parent = undisturbed(
        TrainConfig("mlp", data="iris", model_options={"hidden": (6,)}, epochs=1, device="cpu", batch_size="full"),
        tmp_path,
    )
    wish = Wish(structured=True, by="magnitude", amount=0.5, flops=None, epochs=2)

    def cut(folder: Path) -> None:
        pruned = prune(Run(folder, 1), wish, split="val", runs_dir=folder)
        with opened(pruned, runs_dir=folder, name=None, command="") as session:
            list(fit(session))

    shutil.copytree(parent.path, tmp_path / "whole" / "1")
    cut(tmp_path / "whole")
    expected = checkpoint.load(Run(tmp_path / "whole", 2).checkpoints, "last").weights
    content = {path.name: path.read_bytes() for path in parent.path.glob("*/*/*")}
    seen: set[str] = set()
    went_on_from: set[int] = set()

    def check(folder: Path, code: int) -> None:
        assert code in (0, KILLED)
        assert {path.name: path.read_bytes() for path in (folder / "1").glob("*/*/*")} == content
        statuses = {row["run"]: row["status"] for row in summary.rows(folder)}
        status = statuses.get(2, "none")
        seen.add(status)
        if status in ("none", "broken"):
            return
        try:
            list(resume(Run(folder, 2)))
        except RunError as error:
            assert "was stopped before the weights that it starts from were saved" in str(error)
            return
        except ConfigError as error:
            assert "has done its 2 epochs" in str(error)
        went_on_from.update(resume["step"] for resume in Run(folder, 2).info().get("resumes", []))
        found = checkpoint.load(Run(folder, 2).checkpoints, "last").weights
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())

    prepared = partial(shutil.copytree, parent.path)
    assert at_each_call(tmp_path, cut, check, prepare=lambda folder: prepared(folder / "1"), step=19) >= 10
    assert {"dead", "finished"} <= seen
    assert 0 in went_on_from, "the weights that it starts from are saved before the first step"


def test_rm_restore_and_purge(tmp_path: Path) -> None:
    """The run is in the runs folder, in the trash or gone, never in part or twice; a repeated command completes it."""
    content: dict[str, bytes] = {}

    def prepare(folder: Path) -> None:
        run = make(folder)
        save(run.path, 1)
        content.update({str(p.relative_to(run.path)): p.read_bytes() for p in run.path.rglob("*") if p.is_file()})

    def whole(run: Run) -> bool:
        return {str(p.relative_to(run.path)): p.read_bytes() for p in run.path.rglob("*") if p.is_file()} == content

    def remove(folder: Path) -> None:
        trash.remove(all_runs(folder))

    def restore(folder: Path) -> None:
        trash.restore(all_runs(folder / ".trash"))

    def purge(folder: Path) -> None:
        trash.purge(all_runs(folder / ".trash"), folder)

    def check(command: Callable[[Path], None]) -> Callable[[Path, int], None]:
        def check(folder: Path, code: int) -> None:
            assert code in (0, KILLED)
            here, there = all_runs(folder), all_runs(folder / ".trash")
            left = [whole(run) for run in here + there]
            assert left in ([True], []) if command is purge else left == [True]
            assert Run.create(folder).number == 2
            (folder / "2").rename(folder / "not a run")
            command(folder)
            assert [run.number for run in all_runs(folder)] == ([1] if command is restore else [])
            assert [run.number for run in all_runs(folder / ".trash")] == ([1] if command is remove else [])
            if command is purge:
                assert sorted(path.name for path in (folder / ".trash").iterdir()) == ["lock", "purged.json"]
            assert Run.create(folder).number == 2

        return check

    def removed(folder: Path) -> None:
        prepare(folder)
        remove(folder)

    assert at_each_call(tmp_path / "rm", remove, check(remove), prepare=prepare) >= 2
    assert at_each_call(tmp_path / "restore", restore, check(restore), prepare=removed) >= 1
    assert at_each_call(tmp_path / "purge", purge, check(purge), prepare=removed) >= 20
    with pytest.MonkeyPatch.context() as patch, pytest.raises(AssertionError):
        patch.setattr(
            trash, "move_folder", lambda source, target: (shutil.copytree(source, target), shutil.rmtree(source))
        )
        at_each_call(tmp_path / "twin", remove, check(remove), prepare=prepare)


def goes_on(folder: Path, straight: Run) -> None:
    """Whatever remains of a training, `resume` gives the result of one without faults."""
    run = Run(folder, 1)
    if not (run.path / "config.json").exists():
        assert not run.path.exists() or [row["status"] for row in summary.rows(folder)] == ["broken"]
        return
    if summary.row(run)["status"] != "finished":
        list(resume(run))
    assert_same(straight, run)
    assert temporaries(folder) == []
    told = ("status", "epochs_done", "step", "best", "metrics", "stopped_early", "stop", "reason")
    assert [run.info().get(name) for name in told] == [straight.info().get(name) for name in told]
    if straight.settings()["log"] == "tensorboard" and run.info().get("resumes"):
        assert scalars(run.path / "tensorboard") == scalars(straight.path / "tensorboard")


@pytest.mark.parametrize(
    "changes",
    [{}, {"patience": 1, "epochs": 9, "lr": 30.0}, {"weights": "start.safetensors"}, {"log": "tensorboard"}],
    ids=["", "that stops early", "that starts from weights", "that logs for TensorBoard"],
)
@pytest.mark.parametrize("step", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_a_whole_training(step: int, changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    start = tmp_path / "start.safetensors"
    save_file({"linear.weight": torch.full((1, 1), 5.0), "linear.bias": torch.ones(1)}, start)
    content = start.read_bytes()
    config = SMALL.replace(**changes)
    straight = undisturbed(config, tmp_path)
    if "patience" in changes:
        assert straight.info()["stopped_early"] < 9

    def check(folder: Path, code: int) -> None:
        assert code in (0, KILLED)
        assert {row["status"] for row in summary.rows(folder)} <= {"dead", "broken", "finished"}
        start.unlink()  # a run does not need the file that it started from, once it has a checkpoint
        run = Run(folder, 1)
        if config.weights and run.path.exists() and not any(run.checkpoints.glob("[!.]*/MANIFEST.json")):
            with pytest.raises(RunError):
                list(resume(run))
        else:
            goes_on(folder, straight)
        start.write_bytes(content)

    calls = at_each_call(tmp_path, lambda folder: list(train(config, runs_dir=folder)), check, step=step)
    print(f"a training of {calls} calls, killed before every {step}. of them")
    assert calls >= 90


def test_a_run_that_was_killed_when_all_was_done_is_finished_by_resume(tmp_path: Path, straight: Run) -> None:
    list(train(SMALL, runs_dir=tmp_path))
    run = Run(tmp_path, 1)
    run.write_info(run.info() | {"status": "running", "epochs_done": 1, "ended": None})
    words = ["resume", "1", "--runs-dir", str(tmp_path)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert result.stderr.splitlines()[0] == f"run 1 in {run.path}, from epoch 3, step 2; exact: yes"
    assert_same(straight, run)
    assert (run.info()["status"], run.info()["epochs_done"]) == ("finished", 2)
    assert [(r["after"], r["step"]) for r in run.info()["resumes"]] == [("dead", 2)]
    result = CliRunner().invoke(app, words)
    assert result.stderr == f"error: {run} has done its 2 epochs: extend it with --epochs above 2\n"


# ------------------------------------------------------------------------------------------------ out of power


def recorded(folder: Path, action: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """The calls of `action`; a call "saved" marks where a checkpoint was reported as saved."""
    calls: list[Call] = []
    original = checkpoint.save

    def save(place: Path, role: str, **rest: Any) -> Path:
        path = original(place, role, **rest)
        calls.append(Call("saved", path, size=rest["state"]["step"]))
        return path

    with monkeypatch.context() as patch, watched(folder, calls.append):
        patch.setattr(checkpoint, "save", save)
        action()
    return calls


def after_each_call(disk: Disk, calls: list[Call], target: Path, check: Callable[[Path, int], object]) -> None:
    """`check` what may remain after a power failure after each call, with and without names that were not flushed."""
    for number in range(len(calls) + 1):
        for names in (False, True) if number == len(calls) or calls[number].name not in ("read", "close") else ():
            disk.lose_power(target, names=names)
            try:
                check(target, number)
            except BaseException as error:
                error.add_note(
                    f"after {number} calls, names={names}: {[(c.name, c.path.name) for c in calls[:number]]}"
                )
                raise
            shutil.rmtree(target)
        if number < len(calls):
            disk.apply(calls[number])


TO_BE_SAFE = ("flush_folder", "_write_and_flush", "flushed_size")


@pytest.mark.parametrize("left_out", ["nothing", *TO_BE_SAFE])
def test_a_training_that_loses_power(
    left_out: str, tmp_path: Path, straight: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was reported as saved exists, and a resume gives the result of a training without faults.

    Each flush is needed: without one of them, this fails.
    """
    folder = tmp_path / "disk"
    folder.mkdir()
    disk = Disk(folder)
    with monkeypatch.context() as patch:
        if left_out != "nothing":
            leave_out(left_out, patch)
        calls = recorded(folder, lambda: list(train(SMALL, runs_dir=folder / "runs")), monkeypatch)
    saved = [number for number, call in enumerate(calls, 1) if call.name == "saved"]
    assert len(saved) == 4

    def check(left: Path, number: int) -> None:
        assert {row["status"] for row in summary.rows(left / "runs")} <= {"dead", "broken", "finished"}
        for role in ("best", "last"):
            steps = [call.size for call in calls[:number] if call.name == "saved" and call.path.name.startswith(role)]
            if steps:
                assert checkpoint.load(left / "runs/1/checkpoints", role).state["step"] >= max(steps)
        if number in saved[1::2] or number == len(calls):
            goes_on(left / "runs", straight)

    if left_out == "nothing":
        after_each_call(disk, calls, tmp_path / "left", check)
    else:
        with pytest.raises((AssertionError, RunError)) as caught:
            after_each_call(disk, calls, tmp_path / "left", check)
        assert caught.value.__notes__[0].startswith("after ")


def leave_out(name: str, patch: pytest.MonkeyPatch) -> None:
    """Leave out the flushes in this function of files.py."""
    if name == "flushed_size":
        patch.setattr("dlcli.runs.run.flushed_size", lambda path: path.stat().st_size if path.exists() else 0)
    elif name == "_write_and_flush":
        patch.setattr(files, name, lambda path, content: path.write_bytes(content))
    else:
        patch.setattr(files, name, lambda path: None)


def test_rm_restore_and_purge_when_power_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "disk"
    run = make(folder)
    save(run.path, 1)
    (folder / ".trash").mkdir()

    def content(run: Run) -> dict[str, bytes]:
        return {str(p.relative_to(run.path)): p.read_bytes() for p in run.path.rglob("*") if p.is_file()}

    before = content(run)
    for command in ("remove", "restore", "remove", "purge"):
        disk = Disk(folder)
        listed = all_runs(folder if command == "remove" else folder / ".trash")
        rest = (folder,) if command == "purge" else ()
        calls = recorded(folder, partial(getattr(trash, command), listed, *rest), monkeypatch)

        def check(left: Path, number: int, command: str = command, calls: list[Call] = calls) -> None:
            here, there = all_runs(left), all_runs(left / ".trash")
            whole = {run.root.name for run in here + there if content(run) == before}
            if command != "purge":
                assert whole
            if number == len(calls):
                assert whole == {"remove": {".trash"}, "restore": {"left"}, "purge": set()}[command]

        after_each_call(disk, calls, tmp_path / "left", check)


# --------------------------------------------------------------------------------------------- failed by the disk


@pytest.mark.parametrize(("number", "for_good"), [(errno.ENOSPC, False), (errno.EDQUOT, True), (errno.EIO, False)])
@pytest.mark.parametrize("step", [20, pytest.param(1, marks=pytest.mark.slow)])
def test_a_training_on_a_disk_that_fails(step: int, number: int, for_good: bool, tmp_path: Path, straight: Run) -> None:
    """Exit code 6 with a message, unless the call did not matter; no partial file remains; the run can be resumed."""
    words = ["--data", "line", "--epochs", "2", "--device", "cpu", "--optimizer", "adam", "--batch-size", "full"]
    words += ["--eval-every", "1"]
    kinds = [kind for kind in ALL if kind != "read" or number == errno.EIO]

    def action(folder: Path) -> None:
        own = blame._is_own
        blame._is_own = lambda file: own(file) and file != faults.__file__  # in a child process: it is no user's code
        with open(folder.with_name("told"), "w") as told, redirect_stdout(told), redirect_stderr(told):
            app(["train", "linear", *words, "--runs-dir", str(folder)])

    def check(folder: Path, code: int) -> None:
        told = folder.with_name("told").read_text()
        assert "Traceback" not in told
        if code:
            space = r"( \([\d.]+ MB needed, [\d.]+ MB free\))?"
            sentence = rf"^error: .*cannot .*: {os.strerror(number)}{space}(; choose --runs-dir)?$"
            assert re.search(sentence, told.splitlines()[-1]), told
            assert code == 6 or (code == 4 and "run.json cannot be read" in told)
            assert temporaries(folder) == []
        else:
            assert Run(folder, 1).info()["status"] == "finished", told
        goes_on(folder, straight)

    calls = at_each_call(
        tmp_path, action, check, act=failing(number), kinds=kinds, first=number % step, step=step,
        also=lambda call: for_good and call.name in ("open", "write", "mkdir", "link", "rename", "fsync"),
    )  # fmt: skip
    print(f"a training of {calls} calls, failed at every {step}. of them: {os.strerror(number)}")


def test_a_run_that_cannot_write_that_it_finished_has_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Run.write_info

    def write_info(self: Run, info: Mapping[str, Any]) -> None:
        if info["status"] == "finished":
            raise ResourceError("cannot write run.json: No space left on device")
        original(self, info)

    monkeypatch.setattr(Run, "write_info", write_info)
    with pytest.raises(ResourceError, match="^cannot write run.json: No space left on device$"):
        list(train(SMALL, runs_dir=tmp_path))
    assert Run(tmp_path, 1).info()["status"] == "dead"


# ------------------------------------------------------------------------------------------------------ damaged


FILES = ("model.safetensors", "training.safetensors", "state.json", "MANIFEST.json")


@pytest.fixture
def newest(tmp_path: Path) -> Path:
    """A last checkpoint of step 2, and one of step 1 beside it."""
    save(tmp_path, 1)
    shutil.copytree(tmp_path / "checkpoints", tmp_path / "older")
    save(tmp_path, 2)
    for path in (tmp_path / "older").iterdir():
        path.rename(tmp_path / "checkpoints" / path.name)
    assert found(tmp_path, "last") == 2
    return tmp_path / "checkpoints/last-2"


@pytest.mark.parametrize("name", FILES)
def test_of_100_flipped_bits_none_is_taken_for_what_was_saved(name: str, newest: Path, tmp_path: Path) -> None:
    """The older one is read instead, or correct values: a flip in the manifest need not matter."""
    file, generator = newest / name, random.Random(name)
    content = file.read_bytes()
    passed_over = 0
    for bit in generator.sample(range(8 * len(content)), 100):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        file.write_bytes(flipped)
        step = found(tmp_path, "last")
        passed_over += step == 1
        damaged = [str(error) for error in checkpoint.load(newest.parent, "last").damage]
        assert bool(damaged) == (step == 1)
        if step == 1:
            with pytest.raises(RunError) as caught:
                files.verify_folder(newest)
            assert len(damaged) == 1 and damaged[0].startswith(f"{newest}/") and str(newest) in str(caught.value)
    assert passed_over == 100 if name != "MANIFEST.json" else passed_over > 80
    print(f"{passed_over} of 100 flips in {name} were seen as damage; the others changed nothing")


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_cut_off_is_passed_over(name: str, newest: Path, tmp_path: Path) -> None:
    file = newest / name
    content = file.read_bytes()
    for size in (0, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:size])
        # The last byte of a manifest only ends its line.
        assert found(tmp_path, "last") == (2 if name == "MANIFEST.json" and size == len(content) - 1 else 1)
    shutil.rmtree(newest.parent / "last-1")
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(RunError, match=f"^no intact last checkpoint in {newest.parent}: {file} is damaged: "):
        checkpoint.load(newest.parent, "last")
