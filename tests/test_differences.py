"""`dlcli runs` shows the settings that differ and what `dlcli eval` measured; a damaged run still has a row."""

import json
from pathlib import Path
from typing import Any

import pytest
from sklearn.metrics import accuracy_score

from dlcli.config.settings import TrainConfig
from dlcli.runs.run import Run
from tests.conftest import Dlcli

BEST = {"metric": "val/accuracy", "higher_is_better": True, "value": 0.9, "epoch": 3, "step": 60}


def make(root: Path, *, best: dict[str, Any] | None = BEST, **settings: Any) -> Run:
    run = Run.create(root)
    config = TrainConfig(**{"model": "cnn"} | settings)
    run.write_config(config)
    info = {"status": "finished", "model": config.model, "data": config.data, "epochs": 3, "epochs_done": 3}
    run.write_info(info | {"device": "cpu", "started": "2026-01-01T00:00:00Z", "seconds": 1.5, "best": best})
    return run


def measured(run: Run, *, step: int = 60, **metrics: float | None) -> None:
    run.write_record("eval", "test", {"run": str(run), "epoch": 3, "step": step, "data": "digits", "metrics": metrics})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def columns(out: str) -> list[str]:
    return out.splitlines()[0].split()


def test_the_settings_in_which_the_listed_runs_differ_are_columns(dlcli: Dlcli, root: Path) -> None:
    make(root, seed=1, lr=0.1, epochs=3)
    make(root, seed=2, epochs=3)
    make(root, seed=3, lr=0.001, epochs=3, nesterov=True)
    make(root, model="mlp", model_options={"hidden": [32, 16]}, seed=4, epochs=3)
    lines = dlcli("runs").stdout.splitlines()
    assert [line.split("  time")[0].rstrip() for line in lines[:1]] == [
        "run  status    model  data    seed     lr  nesterov  model.hidden  epochs  metric          best",
    ]
    assert [line.split("  1.5s")[0].rstrip() for line in lines[1:]] == [
        "  4  finished  mlp    digits     4   0.01  no        32,16            3/3  val/accuracy  0.9000",
        "  3  finished  cnn    digits     3  0.001  yes       -                3/3  val/accuracy  0.9000",
        "  2  finished  cnn    digits     2   0.01  no        -                3/3  val/accuracy  0.9000",
        "  1  finished  cnn    digits     1    0.1  no        -                3/3  val/accuracy  0.9000",
    ]


def test_what_is_the_same_or_was_not_chosen_is_no_column(dlcli: Dlcli, root: Path) -> None:
    fixed = ["run", "status", "model", "data", "epochs", "metric", "best", "time", "device", "age"]
    make(root, lr=0.1, seed=5)
    make(root, model="linear", lr=0.1, seed=5)  # its optimizer differs, but only because of the model's default
    assert columns(dlcli("runs").stdout) == fixed
    make(root, lr=0.2, seed=5)
    assert columns(dlcli("runs").stdout) == [*fixed[:4], "lr", *fixed[4:]]
    assert columns(dlcli("runs", "-n", "1").stdout) == fixed


def test_every_setting_of_a_run_that_does_not_say_counts_as_chosen(dlcli: Dlcli, root: Path) -> None:
    for lr in (0.1, 0.2):
        file = make(root, lr=lr).path / "config.json"
        config = json.loads(file.read_text())
        del config["given"], config["checksum"]
        file.write_text(json.dumps(config))
    assert columns(dlcli("runs").stdout)[4] == "lr"


def test_machines_get_the_values(dlcli: Dlcli, root: Path) -> None:
    measured(make(root, lr=0.1, augment=("flip",)), loss=0.5, accuracy=0.875)
    make(root, lr=0.2)
    rows = json.loads(dlcli("runs", "--json").stdout)
    assert [row["settings"] for row in rows] == [{"lr": 0.2, "augment": []}, {"lr": 0.1, "augment": ["flip"]}]
    assert [row["test"] for row in rows] == [None, {"metric": "accuracy", "value": 0.875, "step": 60}]
    header, second, first = dlcli("runs", "--csv").stdout.splitlines()
    assert header == (
        "run,name,status,model,data,fingerprint,epochs,metric,higher_is_better,best,best_epoch,best_step,seconds,device,"
        "started,tags,note,reason,sweep,trial,test,test_metric,test_step,lr,augment"
    )
    assert second == (
        "2,,finished,cnn,digits,,3/3,val/accuracy,True,0.9,3,60,1.5,cpu,2026-01-01T00:00:00Z,,,,,,,,,0.2,[]"
    )
    assert first.endswith(",,0.875,accuracy,60,0.1,['flip']")


@pytest.mark.parametrize(
    ("best", "step", "metrics", "cell"),
    [
        (BEST, 60, {"loss": 0.5, "accuracy": 0.875}, "0.8750"),
        (BEST, 40, {"loss": 0.5, "accuracy": 0.875}, "0.8750 at step 40"),
        (BEST, 60, {"loss": 0.5, "accuracy": None}, None),
        (BEST | {"metric": "val/loss"}, 60, {"loss": 0.5, "accuracy": 0.875}, "0.5000"),
        (BEST | {"metric": None}, 60, {"loss": 0.5, "accuracy": 0.875}, "accuracy 0.8750"),
        (BEST | {"metric": None}, 60, {"loss": 0.5, "mse": 0.5, "r2": -1e-9}, "r2 -1e-09"),
    ],
)
def test_the_result_of_eval_is_told_with_what_it_is(
    dlcli: Dlcli, root: Path, best: dict[str, Any], step: int, metrics: dict[str, float | None], cell: str | None
) -> None:
    measured(make(root, best=best), step=step, **metrics)
    header, line = dlcli("runs").stdout.splitlines()
    if cell is None:
        assert "test" not in header
    else:
        end = header.index(" test ") + len(" test")
        assert line[:end].endswith(f"  {cell}"), line


def test_what_eval_measures_stands_in_the_table(dlcli: Dlcli, tmp_path: Path) -> None:
    dlcli("train", "logistic", "--data", "digits", "--epochs", "2", "--device", "cpu", "--quiet")
    assert json.loads(dlcli("runs", "--json").stdout)[0]["test"] is None
    found = json.loads(dlcli("eval", "1", "--json").stdout)
    test = json.loads(dlcli("runs", "--json").stdout)[0]["test"]
    confusion = found["confusion"]
    predicted = [(row, column) for row, line in enumerate(confusion) for column, n in enumerate(line) for _ in range(n)]
    assert test["value"] == pytest.approx(accuracy_score(*zip(*predicted, strict=True)), abs=1e-12)
    assert (test["metric"], test["step"]) == ("accuracy", found["step"])


def test_what_is_damaged_is_a_row_with_its_reason(dlcli: Dlcli, root: Path, tmp_path: Path) -> None:
    good = make(root, lr=0.1)
    (make(root, lr=0.2).path / "config.json").write_text("{")
    (make(root, lr=0.3).path / "config.json").unlink()
    measured(run := make(root, lr=0.4), accuracy=0.5)
    (run.path / "eval" / "test.json").write_text("[]")
    measured(run := make(root, lr=0.5), accuracy=0.5)
    (run.path / "eval").rename(tmp_path / "elsewhere")
    (run.path / "eval").symlink_to(tmp_path / "elsewhere")
    (make(root, lr=0.6).path / "run.json").write_text("{}")
    measured(good, accuracy=0.5)
    rows = {row["run"]: row for row in json.loads(dlcli("runs", "--json").stdout)}
    assert {n: (row["status"], row["reason"]) for n, row in rows.items()} == {
        1: ("finished", None),
        2: ("finished", "runs/2/config.json is damaged: Expecting property name enclosed in double quotes: "
            "line 1 column 2 (char 1)"),
        3: ("finished", "runs/3/config.json is missing"),
        4: ("finished", "runs/4/eval/test.json is damaged: it holds no metrics"),
        5: ("finished", "runs/5/eval/test.json cannot be read: runs/5/eval is a symbolic link"),
        6: ("broken", "runs/6/run.json is damaged: it has no status"),
    }  # fmt: skip
    assert [rows[n]["settings"]["lr"] for n in rows] == [None, 0.5, 0.4, None, None, 0.1]
    assert [rows[n]["test"] is not None for n in rows] == [False, False, False, False, False, True]


@pytest.mark.parametrize(
    ("config", "shown"),
    [
        ({"lr": "\x1b[31mred", "given": ["lr"]}, "\N{REPLACEMENT CHARACTER}[31mred"),
        ({"lr": {"deep": [1]}, "given": ["lr"]}, "-"),
        ({"lr": [1, [2, None]], "given": ["lr"]}, "1,2,-"),
        ({"lr": 7, "given": ["lr", "model", "run", "status"]}, "7"),
    ],
)
def test_a_strangers_settings_are_shown_as_text(dlcli: Dlcli, root: Path, config: dict[str, Any], shown: str) -> None:
    make(root, lr=0.1)
    (make(root).path / "config.json").write_text(json.dumps({"format": 1, "model": "cnn", **config}))
    header, line, _ = dlcli("runs").stdout.splitlines()
    assert header.split()[4] == "lr"
    assert shown in line.split() and "\x1b" not in line
    assert line.split()[:2] == ["2", "finished"]
    json.loads(dlcli("runs", "--json").stdout)


def test_a_stranger_adds_no_thousand_columns(dlcli: Dlcli, root: Path) -> None:
    make(root, lr=0.1)
    names = {f"name{n}": n for n in range(1000)}
    (make(root).path / "config.json").write_text(json.dumps({"format": 1, "model": "cnn", **names}))
    assert len(json.loads(dlcli("runs", "--json").stdout)[0]["settings"]) == 12


def test_given_that_is_no_list_is_damage(dlcli: Dlcli, root: Path) -> None:
    (make(root).path / "config.json").write_text('{"format": 1, "model": "cnn", "given": 7}')
    assert json.loads(dlcli("runs", "--json").stdout)[0]["reason"] == (
        "runs/1/config.json is damaged: given = 7 is not a list, each of it text, or null"
    )


def test_only_changed_leaves_out_what_all_listed_runs_share(dlcli: Dlcli, root: Path) -> None:
    make(root, lr=0.1, seed=5)
    make(root, lr=0.2, seed=5)
    make(root, model="mlp", lr=0.2, seed=5)
    assert columns(dlcli("runs", "--only-changed").stdout) == ["run", "model", "lr", "metric", "best"]
    assert columns(dlcli("runs", "--only-changed", "--where", "model = cnn").stdout) == ["run", "lr", "metric", "best"]
    assert columns(dlcli("runs", "--only-changed", "--limit", "1").stdout) == ["run", "metric", "best"]
    shown = dlcli("runs", "--only-changed", "--columns", "+seed,-lr,-device", "--csv").stdout.splitlines()
    assert shown[0] == "run,model,metric,best,seed" and shown[1] == "3,mlp,val/accuracy,0.9,5"
    for words, told in (
        (("--json",), "--only-changed leaves out columns of a table, and JSON has none: leave out one of them"),
        (("--group-by", "config"), "--group-by shows a fixed table: leave out --columns, --only-changed, --sort, "
         "--limit and --watch"),
    ):  # fmt: skip
        message = dlcli("runs", "--only-changed", *words, check=2).stderr.rstrip("\n")
        assert message == (json.dumps({"error": told, "exit_code": 2}) if "--json" in words else f"error: {told}")
