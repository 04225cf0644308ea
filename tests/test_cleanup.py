"""`dlcli runs rm` by status, age and rank; lists and ranges; a run that is being trained is never removed."""

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dlcli.cli.main import app
from dlcli.runs.names import compact, find
from dlcli.runs.run import Run, all_runs
from tests.test_runs import make


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """runs/ with 1, 4: finished; 2, 5: failed; 3: dead; 6: diverged. An odd one started 10 days ago, others now."""
    monkeypatch.chdir(tmp_path)
    for number, status in enumerate(("finished", "failed", "running", "finished", "failed", "diverged"), start=1):
        started = datetime.now(UTC) - timedelta(days=10 if number % 2 else 0)
        best = {"metric": "val/loss", "value": float(number), "higher_is_better": False, "epoch": 1, "step": 1}
        make(Path("runs"), status=status, started=started.isoformat(timespec="seconds"), best=best)
    return Path("runs")


def rm(*words: str, code: int = 0) -> tuple[str, str]:
    result = CliRunner().invoke(app, ["runs", "rm", *words])
    assert result.exit_code == code, result.output
    return result.stdout, result.stderr


def left(root: Path) -> list[int]:
    return sorted(run.number for run in all_runs(root))


@pytest.mark.parametrize(
    ("words", "gone"),
    [
        (["--status", "failed"], [2, 5]),
        (["--status", "failed,dead"], [2, 3, 5]),
        (["--status", "failed", "--status", "diverged"], [2, 5, 6]),
        (["--older-than", "7d"], [1, 3, 5]),
        (["--older-than", "239h"], [1, 3, 5]),
        (["--older-than", "1.5w"], []),
        (["--status", "failed", "--older-than", "1w"], [5]),
        (["--keep-best", "2"], [3, 4, 5, 6]),
        (["--keep-best", "100"], []),
        (["--status", "finished", "--keep-best", "1"], [4]),
        (["--status", "failed", "--older-than", "7d", "--keep-best", "5"], []),
        (["1:3", "--status", "failed"], [2]),
        (["4,5,6", "--status", "failed", "--keep-best", "4"], [5]),
        (["2,4:6"], [2, 4, 5, 6]),
        (["1,1,latest"], [1, 6]),
    ],
)
def test_what_fits_is_moved_and_nothing_else(root: Path, words: list[str], gone: list[int]) -> None:
    listed = json.loads(rm(*words, "--dry-run", "--json")[0])
    assert left(root) == [1, 2, 3, 4, 5, 6]
    moved = json.loads(rm(*words, "--json")[0])
    assert sorted(row["run"] for row in moved) == sorted(row["run"] for row in listed) == gone
    assert {row["run"]: row["bytes"] for row in moved} == {row["run"]: row["bytes"] for row in listed}
    assert left(root) == [n for n in range(1, 7) if n not in gone]
    assert left(root / ".trash") == gone


def test_the_best_are_those_of_each_data_set_and_metric(root: Path) -> None:
    more = {"metric": "val/accuracy", "higher_is_better": True, "epoch": 1, "step": 1}
    for value in (0.5, 0.9, 0.7):
        make(root, best=more | {"value": value})  # 7, 8, 9
    make(root, data="iris", best=more | {"value": 0.1})  # 10
    make(root, best=None)  # 11
    assert [row["run"] for row in json.loads(rm("--keep-best", "1", "--json")[0])] == [11, 9, 7, 6, 5, 4, 3, 2]
    assert left(root) == [1, 8, 10]


def test_a_run_that_is_being_trained_is_never_removed(root: Path) -> None:
    with Run(root, 2).locked(), Run(root, 3).locked():
        assert [row["run"] for row in json.loads(rm("--older-than", "0s", "--json")[0])] == [6, 5, 4, 1]
        assert left(root) == [2, 3]
        assert rm("--status", "running", code=2)[1] == (
            "error: --status running is not one of finished, interrupted, pruned, diverged, failed, dead, broken\n"
        )
        error = "error: runs/2 is being trained by another process: stop it first\n"
        assert rm("2", "--dry-run", code=9)[1] == error
        assert rm("2", code=9)[1] == error
    assert left(root) == [2, 3]


def test_what_is_no_run_of_ours_is_left_alone(root: Path) -> None:
    (root / "7").mkdir()
    (root / "7" / "thesis.tex").write_text("years of work")
    (root / "8").mkdir()
    (root / "8" / "lock").write_bytes(b"a run of dlcli\n")
    os.utime(root / "8", (0, 0))
    out, err = rm("--status", "broken")
    assert err.splitlines()[0] == "runs/7 does not prove to be a run of dlcli, so it is left alone"
    assert out.split()[4:6] == ["8", "15"]
    assert left(root) == [1, 2, 3, 4, 5, 6, 7]


def test_the_space_and_the_way_back_are_told(root: Path) -> None:
    size = sum(f.stat().st_size for n in (4, 5, 6) for f in (root / str(n)).rglob("*") if f.is_file())
    shown = f"{size / 1000:.1f} kB"
    out, err = rm("4:6", "--dry-run")
    assert err == f"3 runs, {shown}: none is moved (--dry-run)\n"
    assert [line.split()[:2] for line in out.splitlines()] == [
        ["run", "status"], ["4", "finished"], ["5", "failed"], ["6", "diverged"],
    ]  # fmt: skip
    assert out.splitlines()[0].split()[-2:] == ["size", "age"]
    assert rm("4:6")[1] == (
        f"3 runs, {shown}: `dlcli runs restore 4:6` brings them back; `dlcli runs purge` frees the space\n"
    )
    assert CliRunner().invoke(app, ["runs", "restore", "4:6"]).exit_code == 0
    assert left(root) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "no run is named: name some, or select with --status, --older-than or --keep-best"),
        (["--dry-run"], 2, "no run is named: name some, or select with --status, --older-than or --keep-best"),
        (["--status", "fialed"], 2,
         "--status fialed is not one of finished, interrupted, pruned, diverged, failed, "
         "dead, broken"),
        (["--older-than", "a week"], 2, "--older-than a week is not of the form 7d, 12h, 30min or 90s"),
        (["--older-than", "-7d"], 2, "--older-than -7d is not of the form 7d, 12h, 30min or 90s"),
        (["--keep-best", "0"], 2, "--keep-best 0 must be at least 1"),
        (["--keep-best", "many"], 2, "--keep-best = 'many' is not a whole number"),
        (["4,44"], 4, "there is no run 44 in runs: see `dlcli runs`"),
        (["4,,5"], 4, "'' names no run: use a number, runs/NUMBER, latest, best:METRIC, FIRST:LAST or a name"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence_and_moves_nothing(root: Path, words: list[str], code: int, message: str) -> None:
    assert rm(*words, code=code) == ("", f"error: {message}\n")
    assert left(root) == [1, 2, 3, 4, 5, 6]


def test_nothing_that_fits_is_no_error(root: Path, tmp_path: Path) -> None:
    assert rm("--older-than", "99w") == ("", "no run in runs matches: nothing is moved\n")
    assert rm("--older-than", "99w", "--dry-run") == ("", "no run in runs matches: nothing is moved\n")
    assert rm("--status", "failed", "--runs-dir", "none") == ("", "no run in none matches: nothing is moved\n")
    assert rm("--older-than", "99w", "--json") == ("[]\n", "")


def test_lists_name_several_runs_wherever_several_may_be_named(root: Path) -> None:
    def invoke(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["runs", *words, "--json"])
        return result.exit_code, result.stderr

    rm("1,3,5:6")
    assert left(root / ".trash") == [1, 3, 5, 6]
    assert invoke("restore", "1,5:6") == (0, "")
    assert left(root) == [1, 2, 4, 5, 6]
    assert invoke("purge", "3,3", "--yes") == (0, "")
    assert left(root / ".trash") == []
    code, error = invoke("show", "1,2")
    assert (code, json.loads(error)["error"]) == (4, "1,2 names 2 runs, but one is wanted")


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([4], "4"), ([5, 4], "4,5"), ([1, 2, 3, 7], "1:3,7"), ([9, 8, 7, 1, 3, 4], "1,3,4,7:9"), ([], "")],
)
def test_numbers_are_written_as_they_are_read(root: Path, numbers: list[int], text: str) -> None:
    assert compact(numbers) == text
    if numbers and max(numbers) <= 6:
        assert [run.number for run in find(text, root)] == sorted(numbers)
