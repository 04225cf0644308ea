"""A metrics.csv of more rows than are read whole is shown and published thinned, and its peaks stay."""

import csv
import io
import json
import random
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typer.testing import CliRunner

from dlcli.cli.main import app
from dlcli.core.errors import RunError
from dlcli.runs import metrics
from dlcli.runs.run import Run
from tests import test_differences

ROWS = 30_000
HEADER = "epoch,step,train/loss,val/loss,lr,seconds,samples_per_second"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run 1 of 30,000 rows, of which more than 2000 count as many; each 100th is an evaluation.
    train/loss has a peak at
    step 12,345, val/loss a valley at 20,100."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(metrics, "_MOST_ROWS", 2000)
    draw = random.Random(0)
    run = test_differences.make(Path("runs"), log_every=1)
    lines = [HEADER]
    for k in range(1, ROWS + 1):
        train = 99.5 if k == 12_345 else 1 + draw.random()
        val = (-7.25 if k == 20_100 else draw.random()) if k % 100 == 0 else ""
        lines.append(f"{k / 1000},{k},{train},{val},0.1,{(k % 100 or 100) / 100},100.0")
    run.metrics_file.write_text("\n".join(lines) + "\n")
    return run


def show(*words: str, code: int = 0) -> Any:
    done = CliRunner().invoke(app, ["runs", "show", "1", *words])
    assert done.exit_code == code, done.output
    return done


def test_the_table_has_the_first_and_the_last_rows(run: Run) -> None:
    out = show().stdout
    assert "metrics (20 of 30000 rows; all are in metrics.csv)" in out
    history = out.split("metrics.csv)\n")[1].split("\n\n")[0].splitlines()
    assert [line.split()[1] for line in history[1:21]] == [
        *map(str, range(1, 6)), *map(str, range(ROWS - 14, ROWS + 1)),
    ]  # fmt: skip


@pytest.mark.parametrize("format", ["--csv", "--json", "--md"])
def test_other_formats_have_the_highest_and_lowest_of_each_stretch(run: Run, format: str) -> None:
    done = show(format)
    if format == "--csv":
        rows: list[Any] = list(csv.DictReader(io.StringIO(done.stdout)))
    elif format == "--json":
        document = json.loads(done.stdout)
        rows = document["metrics"]
        assert document["rows"] == ROWS
    else:
        names, _, *lines = ([cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines())
        rows = [dict(zip(names, line, strict=True)) for line in lines]
    assert done.stderr == f"{len(rows):,} of {ROWS:,} rows, with the lowest and highest values of each column\n"
    assert 600 < len(rows) < 6000
    steps = [int(float(row["step"])) for row in rows]
    assert steps == sorted(set(steps)) and steps[0] == 1 and steps[-1] == ROWS
    assert {12_345: 99.5}.items() <= {int(float(row["step"])): float(row["train/loss"]) for row in rows}.items()
    (valley,) = [row for row in rows if int(float(row["step"])) == 20_100]
    assert float(valley["val/loss"]) == -7.25 and float(valley["lr"]) == 0.1


def test_each_stretch_has_its_extremes_of_each_column(run: Run) -> None:
    """Against a search of our own in the file."""
    everything = list(csv.DictReader(io.StringIO(run.metrics_file.read_text())))
    start = 0
    for stretch in metrics.thinned(run.metrics_file):
        rows, shown = everything[start : start + len(stretch)], list(stretch.rows())
        for name in ("train/loss", "val/loss", "seconds"):
            found = [float(row[name]) for row in rows if row[name]]
            kept = [row[name] for row in shown if row[name] is not None]
            assert (min(found), max(found)) == (min(kept), max(kept)) if found else not kept
        start += len(stretch)
    assert start == ROWS


def test_tensorboard_gets_the_same_rows_at_their_times(run: Run) -> None:
    done = CliRunner().invoke(app, ["runs", "publish", "1", "--to", "tensorboard:board"])
    assert done.exit_code == 0, done.output
    board = EventAccumulator("board/1", size_guidance={"scalars": 0})
    board.Reload()
    shown = [row for stretch in metrics.thinned(run.metrics_file) for row in stretch.rows()]
    for name in ("train/loss", "val/loss"):
        expected = [(row["step"], pytest.approx(row[name])) for row in shown if row[name] is not None]
        assert [(one.step, one.value) for one in board.Scalars(name)] == expected
    losses = board.Scalars("train/loss")
    start = losses[0].wall_time - 0.01
    assert [one.wall_time - start for one in losses] == pytest.approx([one.step / 100 for one in losses], abs=1e-3)


def test_the_metric_of_a_comparison_is_found(run: Run) -> None:
    done = CliRunner().invoke(app, ["runs", "compare", "1", "1", "--metric", "train/loss", "--json"])
    best = (run.info()["best"] or {})["step"]
    row = run.metrics_file.read_text().splitlines()[best].split(",")
    assert json.loads(done.stdout)["groups"][0]["mean"] == float(row[2]) and int(row[1]) == best


def test_the_library_refuses_to_read_it_whole_and_says_what_does(run: Run) -> None:
    with pytest.raises(RunError) as caught:
        run.metrics()
    assert str(caught.value) == ("runs/1/metrics.csv has more than 2,000 rows or 5,000,000 values: read it with pandas")


def test_damage_in_the_middle_is_told(run: Run) -> None:
    text = run.metrics_file.read_text()
    run.metrics_file.write_text(text.replace("99.5", "9x"))
    assert show("--csv", code=4).stderr == "error: runs/1/metrics.csv is damaged: a value is no number\n"
    run.metrics_file.write_text(text + "1" * 100_000 + "\n")
    assert show(code=4).stderr == "error: runs/1/metrics.csv is damaged: one of its last lines is too long\n"
    assert show("--csv", code=4).stderr == (f"error: runs/1/metrics.csv is damaged: line {ROWS + 2} is too long\n")
