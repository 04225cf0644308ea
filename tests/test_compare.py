"""`dlcli runs compare`: groups of runs by one metric, against scipy; what is left out, refused and said."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from scipy import stats
from typer.testing import CliRunner

from dlcli.cli.main import app
from dlcli.runs.run import Run
from tests import test_differences

SLOW_RATE = [0.91, 0.92, 0.90, 0.93, 0.915]
FAST_RATE = [0.93, 0.94, 0.935, 0.945, 0.92]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path("runs")


def make(root: Path, value: float | None, *, seed: int, info: dict[str, Any] | None = None, **settings: Any) -> Run:
    best = None if value is None else test_differences.BEST | {"value": value}
    run = test_differences.make(root, best=best, seed=seed, **settings)
    run.write_info(run.info() | {"fingerprint": "a"} | (info or {}))
    return run


def two_rates(root: Path) -> None:
    """Runs 1 to 5 with lr 0.1, runs 6 to 10 with lr 0.2; seeds 0 to 4."""
    for lr, values in ((0.1, SLOW_RATE), (0.2, FAST_RATE)):
        for seed, value in enumerate(values):
            make(root, value, seed=seed, lr=lr)


def call(*words: str, code: int = 0) -> tuple[str, str]:
    result = CliRunner().invoke(app, ["runs", "compare", *words])
    assert result.exit_code == code, result.output
    return result.stdout, result.stderr


def test_two_settings_over_five_seeds(root: Path) -> None:
    two_rates(root)
    out, err = call("1:5", "6:10")
    assert out.splitlines() == [
        "val/accuracy",
        "runs  n    mean     std  median    from      to  difference     from       to       p",
        "1:5   5  0.9150  0.0112  0.9150  0.9011  0.9289           -        -        -       -",
        "6:10  5  0.9340  0.0096  0.9350  0.9221  0.9459     +0.0190  +0.0055  +0.0325  0.0625",
        "",
    ]
    assert err.splitlines() == [
        "runs with the same seed are compared in pairs; p is that of the exact sign-flip test",
        "with so few seeds p cannot be below 0.0625: add seeds to tell small differences",
    ]
    found = json.loads(call("1:5", "6:10", "--json")[0])
    expected = stats.ttest_rel(FAST_RATE, SLOW_RATE).confidence_interval()
    difference = found["groups"][1]["difference"]
    assert difference["interval"] == pytest.approx([expected.low, expected.high])
    assert (difference["p"], difference["adjusted_p"], difference["test"]) == (0.0625, 0.0625, "sign-flip")
    assert (found["metric"], found["left_out"], found["groups"][0]["runs"]) == ("val/accuracy", [], [1, 2, 3, 4, 5])


def test_groups_by_config_are_the_same_groups(root: Path) -> None:
    two_rates(root)
    make(root, 0.5, seed=0, lr=0.3)
    named = json.loads(call("1:5", "6:10", "11", "--json")[0])["groups"]
    by_config = json.loads(call("1:11", "--group-by", "config", "--json")[0])["groups"]
    assert [group.pop("group") for group in by_config] == ["lr=0.1", "lr=0.2", "lr=0.3"]
    assert [group.pop("group") for group in named] == ["1:5", "6:10", "11"]
    assert by_config == named
    other = json.loads(call("1:11", "--group-by", "config", "--baseline", "7", "--json")[0])["groups"]
    assert [group["group"] for group in other] == ["lr=0.2", "lr=0.1", "lr=0.3"]
    assert other[1]["difference"]["mean"] == pytest.approx(-named[1]["difference"]["mean"])


def test_a_group_is_not_named_by_options_that_its_model_does_not_have(root: Path) -> None:
    make(root, 0.9, seed=0, model="mlp", model_options={"hidden": [9]})
    make(root, 0.8, seed=0, model="mlp", model_options={"hidden": [8]})
    make(root, 0.7, seed=0, model="logistic", data="digits", optimizer="sgd", batch_size=64)
    groups = json.loads(call("1:3", "--group-by", "config", "--json")[0])["groups"]
    names = [group["group"] for group in groups]
    assert names[0].startswith("model=mlp, ") and "model.hidden=9" in names[0] and "model.hidden=8" in names[1]
    assert names[2].startswith("model=logistic") and "None" not in "".join(names) and "hidden" not in names[2]


def test_other_seeds_are_no_pairs_and_several_comparisons_are_adjusted(root: Path) -> None:
    two_rates(root)
    for seed, value in enumerate([0.8, 0.81, 0.79, 0.82, 0.8], start=7):
        make(root, value, seed=seed, lr=0.3)
    out, err = call("1:5", "6:10", "11:15", "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    welch = stats.ttest_ind([0.8, 0.81, 0.79, 0.82, 0.8], SLOW_RATE, equal_var=False)
    assert float(rows[2]["p"]) == pytest.approx(2 * welch.pvalue)
    assert float(rows[1]["p"]) == 0.0625
    assert float(rows[2]["difference_low"]) == pytest.approx(welch.confidence_interval().low)
    assert call("1:5", "6:10", "11:15")[1].splitlines()[-2:] == [
        "runs that do not have the same seeds are compared by Welch's t-test",
        "p is adjusted for 2 comparisons (Holm)",
    ]


def test_a_metric_by_name_at_the_best_checkpoint_and_on_the_test_split(root: Path) -> None:
    for seed, value in enumerate([0.5, 0.6]):
        run = make(root, 0.9, seed=seed)
        for step, loss in ((20, 9.0), (60, value), (80, 8.0)):
            run.append_metrics({"step": step, "val/loss": loss}, ["step", "val/loss"])
        test_differences.measured(run, accuracy=value, auc=None)
    assert json.loads(call("1:2", "--metric", "val/loss", "--json")[0])["groups"][0]["values"] == [0.5, 0.6]
    assert json.loads(call("1:2", "--metric", "test/accuracy", "--json")[0])["groups"][0]["values"] == [0.5, 0.6]
    make(root, 0.9, seed=2)
    assert call("1:3", "--metric", "test/accuracy")[1].splitlines()[0] == (
        "left out: runs/3 cannot be used: it was not measured: dlcli eval runs/3"
    )
    assert call("1:3", "--metric", "val/los", code=4)[1].splitlines()[-1] == (
        "error: no run to compare has val/los: runs/1 cannot be used: it has no val/los: did you mean val/loss?; "
        "runs/2 cannot be used: it has no val/los: did you mean val/loss?; runs/3 cannot be used: it has no val/los: "
        "there are none"
    )


def test_what_cannot_be_compared_is_left_out_and_said(root: Path) -> None:
    two_rates(root)
    make(root, 0.9, seed=5, lr=0.1, info={"status": "interrupted"})
    make(root, None, seed=6, lr=0.1)
    broken = make(root, 0.9, seed=7, lr=0.1)
    (broken.path / "run.json").write_text("{")
    out, err = call("1:5,11:13", "6:10", "--json")
    assert [(one["run"], one["reason"]) for one in json.loads(out)["left_out"]] == [
        (11, "is interrupted, not finished"),
        (12, "cannot be used: it has no val/accuracy: there are none"),
        (
            13,
            "cannot be used: runs/13/run.json is damaged: Expecting property name enclosed in double quotes: line 1 "
            "column 2 (char 1)",
        ),
    ]
    assert err.splitlines()[0] == "left out: runs/11 is interrupted, not finished"
    assert json.loads(out)["groups"][1]["difference"]["p"] == 0.0625


def test_other_data_is_refused_unless_told(root: Path) -> None:
    two_rates(root)
    make(root, 0.9, seed=0, info={"fingerprint": "b"})
    make(root, 0.9, seed=0, val_fraction=0.3)
    for other in ("11", "12"):
        assert call("1:5", other, code=4)[1] == (
            f"error: runs/1 and runs/{other} have different data or splits, so their results cannot be compared: name "
            "runs on the same data, or add --any-data\n"
        )
        assert json.loads(call("1:5", other, "--any-data", "--json")[0])["groups"][1]["values"] == [0.9]


def test_one_run_against_one_gives_no_p(root: Path) -> None:
    make(root, 0.9, seed=0)
    make(root, 0.8, seed=0)
    out, err = call("1", "2", "--json")
    difference = json.loads(out)["groups"][1]["difference"]
    assert (difference["mean"], difference["interval"], difference["p"]) == (pytest.approx(-0.1), None, None)
    assert call("1", "2")[1].splitlines()[-1] == "no p where a group has fewer than 3 runs, or no spread"
    assert call(code=2)[1] == "error: name the runs to compare: dlcli runs compare 1:5 6:10\n"
    assert call("7", code=4)[1] == "error: there is no run 7 in runs: see `dlcli runs`\n"
    assert call("1", "--group-by", "model", code=2)[1] == "error: --group-by model is not one of config\n"


def test_diff_shows_what_differs_and_nothing_else(root: Path) -> None:
    make(root, 0.9, seed=0, lr=0.1, info={"torch": "2.10", "environment": {"OMP_NUM_THREADS": "1"}})
    make(root, 0.8, seed=0, lr=0.2, model="mlp", model_options={"hidden": [32, 16]}, info={"torch": "2.15"})
    done = CliRunner().invoke(app, ["runs", "diff", "1", "latest"])
    assert done.stdout.splitlines() == [
        "kind         name              runs/1  runs/2",
        "settings     model             cnn     mlp",
        "settings     lr                0.1     0.2",
        "settings     model.hidden      -       32,16",
        "metrics      val/accuracy      0.9     0.8",
        "environment  torch             2.10    2.15",
        "environment  $OMP_NUM_THREADS  1       -",
    ]
    rows = json.loads(CliRunner().invoke(app, ["runs", "diff", "1", "2", "--json"]).stdout)
    assert rows[2] == {"kind": "settings", "name": "model.hidden", "first": None, "second": [32, 16]}
    same = CliRunner().invoke(app, ["runs", "diff", "1", "1"])
    assert (same.exit_code, same.stdout, same.stderr) == (0, "", "runs/1 and runs/1 do not differ\n")
    assert CliRunner().invoke(app, ["runs", "diff", "1", "1:2"]).stderr == (
        "error: 1:2 names 2 runs, but one is wanted\n"
    )
