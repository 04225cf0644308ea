"""The number, lock, status and metrics of a run; and the syntax for naming runs."""

import fcntl
import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest

from dlcli.config.settings import TrainConfig
from dlcli.core.errors import BusyError, ResourceError, RunError
from dlcli.runs import table as summary
from dlcli.runs.names import find, find_one
from dlcli.runs.run import Run, all_runs


def make(root: Path, **info: object) -> Run:
    """A run as after a training, but without training."""
    run = Run.create(root)
    run.write_config(TrainConfig(model="cnn"))
    start = {"status": "finished", "model": "cnn", "data": "digits", "epochs": 3, "epochs_done": 3, "device": "cpu"}
    run.write_info(start | {"started": "2026-01-01T00:00:00Z", "seconds": 1.5, "best": None} | info)
    return run


def _take_number(root: str, barrier: object, queue: object) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    queue.put(Run.create(root).number)  # type: ignore[attr-defined]


@pytest.mark.slow
def test_64_processes_that_start_at_once_get_64_numbers(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(64), context.SimpleQueue()
    processes = [context.Process(target=_take_number, args=(str(tmp_path), barrier, queue)) for _ in range(64)]
    for process in processes:
        process.start()
    numbers = sorted(queue.get() for _ in processes)
    for process in processes:
        process.join()
    assert numbers == list(range(1, 65))


def test_numbers_go_on_from_the_highest_and_strays_are_no_runs(tmp_path: Path) -> None:
    for name in ("7", "007", "42.bak", "abc", "0", "-3"):
        (tmp_path / name).mkdir()
    (tmp_path / "9").write_text("a file")
    (tmp_path / "11").symlink_to(tmp_path / "7")
    assert Run.create(tmp_path).number == 8
    assert [run.number for run in all_runs(tmp_path)] == [8, 7]
    assert Run.create(tmp_path).number == 10  # 9 is taken by the file


def test_config_survives_the_round_trip(tmp_path: Path) -> None:
    config = TrainConfig(model="mlp", data="random", data_options={"shape": (1, 4, 4)}, lr=0.1, augment=("flip",))
    run = Run.create(tmp_path)
    run.write_config(config)
    assert run.config() == config.replace(data_options={"shape": [1, 4, 4]})


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"format": 2}, "{run} has format 2, but this dlcli reads format 1: update dlcli"),
        (
            {"format": 1, "model": "cnn", "lrr": 1},
            "{file} does not fit this version of dlcli (edit it, or use the version that wrote it): "
            "unknown setting lrr: did you mean lr?",
        ),
        (
            {"format": 1, "model": "cnn", "lr": -1},
            "{file} does not fit this version of dlcli (edit it, or use the version that wrote it): "
            "lr = -1.0 is out of range: it must be > 0",
        ),
        ([], "{file} is damaged: it holds no settings"),
    ],
)
def test_a_bad_config_is_named(tmp_path: Path, document: object, message: str) -> None:
    run = Run.create(tmp_path)
    file = run.path / "config.json"
    file.write_text(json.dumps(document))
    with pytest.raises(RunError) as caught:
        run.config()
    assert str(caught.value) == message.format(run=run, file=file)


def test_running_counts_only_while_the_lock_is_held(tmp_path: Path) -> None:
    run = make(tmp_path, status="running")
    assert run.info()["status"] == "dead"
    with run.locked():
        assert run.info()["status"] == "running"
        with pytest.raises(BusyError) as caught, Run(tmp_path, run.number).locked():
            pass
        assert str(caught.value) == f"{run} is being trained by another process"
    assert run.info()["status"] == "dead"


def test_a_run_that_ends_while_it_is_looked_at_is_not_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make(tmp_path, status="running")

    def ends(self: Run) -> bool:
        run.write_info(run._read_info() | {"status": "finished"})
        return False

    monkeypatch.setattr(Run, "is_locked", ends)
    assert run.info()["status"] == "finished"


def test_who_takes_the_lock_clears_away_what_was_half_written(tmp_path: Path) -> None:
    run = make(tmp_path)
    (run.checkpoints / ".tmp-last-1").mkdir()
    (run.checkpoints / ".tmp-last-1" / "state.json").write_text("{")
    (run.path / ".tmp-ab").write_text("{")
    kept = tmp_path / "elsewhere"
    kept.mkdir()
    (kept / "file").write_text("")
    (run.path / ".tmp-link").symlink_to(kept)
    with run.locked():
        assert sorted(path.name for path in run.path.rglob("*")) == ["checkpoints", "config.json", "lock", "run.json"]
    assert (kept / "file").exists()


def test_a_lister_that_probes_the_lock_does_not_make_the_run_busy(tmp_path: Path) -> None:
    run = make(tmp_path)
    with run.locked():
        pass
    descriptor = os.open(run.path / "lock", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    try:
        with pytest.raises(BusyError), run.locked():
            pass
    finally:
        os.close(descriptor)
    with run.locked():
        pass


def test_metrics_drop_a_half_written_last_line(tmp_path: Path) -> None:
    run = Run.create(tmp_path)
    assert run.metrics() == []
    columns = ["epoch", "val/loss"]
    run.append_metrics({"epoch": 1, "val/loss": 0.25}, columns)
    run.append_metrics({"epoch": 2, "val/loss": None}, columns)
    with open(run.metrics_file, "a") as file:
        file.write("3,0.1")
    assert run.metrics() == [{"epoch": 1.0, "val/loss": 0.25}, {"epoch": 2.0, "val/loss": None}]


def test_one_grammar_names_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accuracy = {"metric": "val/accuracy", "higher_is_better": True}
    loss = {"metric": "val/loss", "higher_is_better": False}
    make(tmp_path, best=accuracy | {"value": 0.9})
    make(tmp_path, best=accuracy | {"value": 0.95})
    make(tmp_path, best=loss | {"value": 0.3})
    make(tmp_path, best=loss | {"value": 0.2})
    make(tmp_path)
    (tmp_path / "6").mkdir()
    monkeypatch.chdir(tmp_path.parent)

    def numbers(text: str) -> list[int]:
        return [run.number for run in find(text, tmp_path)]

    assert numbers("3") == [3]
    assert numbers(f"{tmp_path.name}/3") == [3]
    assert numbers("latest") == [6]
    assert numbers("2:4") == [2, 3, 4]
    assert numbers("best:accuracy") == [2]
    assert numbers("best:val/accuracy") == [2]
    assert numbers("best:loss") == [4]


def test_best_compares_runs_on_the_same_data_and_split(tmp_path: Path) -> None:
    def watched(value: float, data: str, fingerprint: str, **settings: Any) -> None:
        best = {"metric": "val/accuracy", "higher_is_better": True, "value": value}
        run = make(tmp_path, best=best, data=data, fingerprint=fingerprint)
        run.write_config(TrainConfig(model="cnn", data=data, **settings))

    def found(text: str) -> int | str:
        try:
            return find_one(text, tmp_path).number
        except RunError as error:
            return str(error)

    watched(0.91, "digits", "d")
    watched(0.92, "digits", "d", seed=7)
    assert found("best:accuracy") == 2  # a different seed is not a different data set
    watched(1.00, "iris", "i")
    assert found("best:accuracy") == (
        "best:accuracy finds runs whose data differ: digits (runs 1, 2), iris (run 3); choose with best:accuracy@digits"
    )
    assert found("best:accuracy@digits") == found("best:val/accuracy@digits") == found("best:accuracy@1") == 2
    assert found("best:accuracy@iris") == 3
    assert found("best:accuracy@wine") == (
        f"no run in {tmp_path} has a best accuracy on wine; those that have one are on digits, iris"
    )
    assert found("best:accuracy@77") == f"there is no run 77 in {tmp_path}: see `dlcli runs`"
    watched(0.99, "digits", "d", val_fraction=0.5)
    watched(0.98, "digits", "changed since")
    for _ in range(5):
        watched(0.90, "digits", "d")
    assert found("best:accuracy@digits") == (
        "best:accuracy finds runs whose data or splits differ: digits (runs 1, 2, 6, 7, 8, ...), digits (run 4), "
        "digits (run 5); choose with best:accuracy@1"
    )
    assert [found(f"best:accuracy@{number}") for number in (6, 4, 5, 3)] == [2, 4, 5, 3]
    (tmp_path / "3" / "config.json").write_text("{")  # not comparable, so it is not among them
    assert found("best:accuracy@iris") == (
        f"no run in {tmp_path} has a best accuracy on iris; those that have one are on digits"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("77", "there is no run 77 in {root}: see `dlcli runs`"),
        ("abc", "there is no run named abc in {root}: see `dlcli runs`"),
        ("a,b", "there is no run named a in {root}: see `dlcli runs`"),
        ("1,2", "1,2 names 2 runs, but one is wanted"),
        ("a b", "'a b' names no run: use a number, runs/NUMBER, latest, best:METRIC, FIRST:LAST or a name"),
        ("../1/..", "'../1/..' names no run: use a number, runs/NUMBER, latest, best:METRIC, FIRST:LAST or a name"),
        ("8:9", "there is no run from 8 to 9 in {root}: see `dlcli runs`"),
        ("best:f1", "no run in {root} has a best f1; the runs here watched val/accuracy"),
        ("1:2", "1:2 names 2 runs, but one is wanted"),
    ],
)
def test_a_name_that_names_no_run_says_so(tmp_path: Path, text: str, message: str) -> None:
    for _ in range(2):
        make(tmp_path, best={"metric": "val/accuracy", "value": 0.9, "higher_is_better": True})
    with pytest.raises(RunError) as caught:
        find_one(text, tmp_path)
    assert str(caught.value) == message.format(root=tmp_path)


def test_no_runs_at_all(tmp_path: Path) -> None:
    with pytest.raises(RunError) as caught:
        find("latest", tmp_path)
    assert str(caught.value) == f"there are no runs in {tmp_path}: make one with `dlcli train cnn`"


def test_a_row_a_run_and_broken_folders_are_rows_with_a_reason(tmp_path: Path) -> None:
    make(tmp_path, best={"metric": "val/accuracy", "value": 0.9, "epoch": 2})
    make(tmp_path, status="diverged", epochs_done=1, reason="the loss became nan")
    make(tmp_path, status="running", epochs_done=1, seconds=None)
    (tmp_path / "4").mkdir()
    (tmp_path / "5").mkdir()
    (tmp_path / "5" / "run.json").write_text('{"status": "finished"}')
    (tmp_path / "6").mkdir()
    (tmp_path / "6" / "run.json").write_text("{")
    rows = {row["run"]: row for row in summary.rows(tmp_path)}
    assert list(rows) == [6, 5, 4, 3, 2, 1]
    assert {number: row["status"] for number, row in rows.items()} == {
        1: "finished", 2: "diverged", 3: "dead", 4: "broken", 5: "broken", 6: "broken",
    }  # fmt: skip
    assert (rows[1]["best"], rows[1]["metric"], rows[1]["epochs"]) == (0.9, "val/accuracy", "3/3")
    assert rows[2]["reason"] == "the loss became nan"
    assert rows[4]["reason"] == f"{tmp_path}/4/run.json is missing"
    assert rows[5]["reason"] == f"{tmp_path}/5/run.json is damaged: KeyError('model')"
    assert rows[6]["reason"].startswith(f"{tmp_path}/6/run.json is damaged: Expecting property name")


def test_10_000_runs_are_all_listed(tmp_path: Path) -> None:
    info = json.dumps(
        {"format": 1, "status": "finished", "model": "cnn", "data": "digits", "epochs": 1, "epochs_done": 1}
        | {"device": "cpu", "started": "2026-01-01T00:00:00Z", "seconds": 1.0, "best": None}
    )
    for number in range(1, 10_001):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "run.json").write_text(info)
    rows = summary.rows(tmp_path)
    assert [row["run"] for row in rows] == list(range(10_000, 0, -1))
    assert {row["status"] for row in rows} == {"finished"}


def test_there_is_a_highest_number(tmp_path: Path) -> None:
    (tmp_path / "999999999").mkdir()
    with pytest.raises(RunError) as caught:
        Run.create(tmp_path)
    told = f"{tmp_path} holds, or held, a run of the highest number that there is: choose --runs-dir"
    assert str(caught.value) == told
    assert [path.name for path in tmp_path.iterdir()] == ["999999999"]


def test_a_folder_of_a_run_is_no_link(tmp_path: Path) -> None:
    run = Run.create(tmp_path)
    assert run.folder("eval") == run.path / "eval" == run.folder("eval")
    (tmp_path / "elsewhere").mkdir()
    (run.path / "plots").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ResourceError) as caught:
        run.write_record("plots", "a", {})
    assert str(caught.value) == f"cannot write into {run.path / 'plots'}: it is a symbolic link"
    assert not list((tmp_path / "elsewhere").iterdir())
