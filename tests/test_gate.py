"""What CI scripts rely on: `train --eval`, `--require`, and reports of damage and unfinished runs."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from dlcli.cli.main import app
from dlcli.core.errors import RunError
from dlcli.evaluation.measure import evaluate
from dlcli.experiment import load
from dlcli.runs.run import Run

QUICK = ("train", "mlp", "--epochs", "2", "--device", "cpu", "--quiet")


def invoke(root: Path, *words: str, exit_code: int = 0) -> tuple[str, str]:
    """stdout and stderr of a command in this process."""
    result = CliRunner().invoke(app, [*words, "--runs-dir", str(root)])
    assert result.exit_code == exit_code, result.output
    return result.stdout, result.stderr


def without_its_hour(record: str) -> str:
    """The text of a stored evaluation without the second it was written in and the checksum, which depends on it."""
    values = json.loads(record)
    return record.replace(values["when"], "").replace(values["checksum"], "")


# train --eval


@pytest.mark.parametrize("split", ["test", "val", "train"])
@pytest.mark.parametrize(
    "words",
    [
        ("mlp", "--epochs", "6", "--lr", "0.5"),  # its best checkpoint is not the last
        ("logistic", "--data", "breast-cancer", "--epochs", "3"),
        ("linear", "--data", "diabetes", "--epochs", "3", "--eval-batch-size", "7"),
    ],
    ids=lambda words: words[0],
)
def test_train_with_eval_has_the_numbers_and_the_file_of_eval(
    words: tuple[str, ...], split: str, tmp_path: Path
) -> None:
    train = ("train", *words, "--device", "cpu", "--quiet", "--json")
    both = json.loads(invoke(tmp_path, *train, "--eval", split)[0])
    record = (tmp_path / "1" / "eval" / f"{split}.json").read_text()
    apart = json.loads(invoke(tmp_path, "eval", "1", "--split", split, "--json")[0])
    assert both["evaluation"] == apart
    assert both["evaluation"]["epoch"] == both["best_epoch"]
    again = (tmp_path / "1" / "eval" / f"{split}.json").read_text()
    assert without_its_hour(record) == without_its_hour(again)
    alone = json.loads(invoke(tmp_path, *train)[0])
    assert "evaluation" not in alone
    differs = ("run", "path", "seconds", "started", "evaluation")
    assert {k: v for k, v in both.items() if k not in differs} == {k: v for k, v in alone.items() if k not in differs}
    if split == "val" and words[0] == "mlp":
        assert both["evaluation"]["metrics"]["accuracy"] == both["best"]
        assert both["best_epoch"] < 6


def test_the_data_are_read_once_and_the_weights_from_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dlcli.checkpoints import checkpoint

    read, loaded = [], []
    real_read, real_load = load.read, checkpoint.load
    monkeypatch.setattr(load, "read", lambda config: read.append(config.data) or real_read(config))
    monkeypatch.setattr(checkpoint, "load", lambda *a, **k: loaded.append(a) or real_load(*a, **k))
    invoke(tmp_path, *QUICK, "--eval", "test")
    assert read == ["digits"]
    assert loaded == [(tmp_path / "1" / "checkpoints", "best")]


def test_train_prints_its_result_and_then_what_eval_prints(tmp_path: Path) -> None:
    out, err = invoke(tmp_path, *QUICK[:-1], "--eval", "test", "--require", "accuracy>0.1")
    lines = out.splitlines()
    assert lines[0].split()[:3] == ["run", "status", "model"]
    assert out.split("\n", 2)[2] == invoke(tmp_path, "eval", "1")[0]
    accuracy = evaluate(Run(tmp_path, 1)).metrics["accuracy"]
    assert err.splitlines()[-2].startswith("finished: best val/accuracy ") and "measure it" not in err
    assert err.splitlines()[-1] == f"accuracy>0.1 holds: the value is {accuracy:.6g}"


def test_csv_and_markdown_have_both_in_one_row(tmp_path: Path) -> None:
    row = next(csv.DictReader(io.StringIO(invoke(tmp_path, *QUICK, "--eval", "test", "--csv")[0])))
    metrics = evaluate(Run(tmp_path, 1)).metrics
    assert row["status"] == "finished"
    assert {name: float(row[f"test/{name}"]) for name in metrics} == metrics
    header, _, cells = invoke(tmp_path, *QUICK, "--eval", "val", "--md")[0].splitlines()
    assert header.endswith(
        "| val/loss | val/accuracy | val/top5_accuracy | val/macro_f1 "
        "| val/balanced_accuracy | val/auc | val/log_loss | val/calibration_error |"
    )
    assert header.count("|") == cells.count("|")


def test_a_rule_that_does_not_hold_is_exit_7_after_the_result(tmp_path: Path) -> None:
    """--require alone measures on the test split; the run stays."""
    out, err = invoke(tmp_path, *QUICK, "--require", "accuracy>=0.999", "--require", "loss<=0", exit_code=7)
    report = evaluate(Run(tmp_path, 1))
    accuracy, loss = report.metrics["accuracy"], report.metrics["loss"]
    assert err == (
        f"error: accuracy>=0.999 does not hold: the value is {accuracy:.6g}; "
        f"loss<=0 does not hold: the value is {loss:.6g}\n"
    )
    assert f"{tmp_path}/1: best checkpoint (epoch 2) on test of digits, 359 samples" in out
    assert Run(tmp_path, 1).info()["status"] == "finished"
    out, err = invoke(tmp_path, *QUICK, "--require", "accuracy>=0.999", "--print", "run", exit_code=7)
    assert (out, err) == ("2\n", f"error: accuracy>=0.999 does not hold: the value is {accuracy:.6g}\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--eval", "tset"], "--eval tset is not one of train, val, test"),
        (["--eval", "val", "--val-fraction", "0"], "there is no val split: val_fraction is 0 in this run"),
        (
            ["--require", "r2>0.5"],
            "--require 'r2>0.5': there is no metric r2: known are loss, accuracy, top5_accuracy, macro_f1, "
            "balanced_accuracy, auc, log_loss, calibration_error",
        ),
        (["--require", "accuracy"], "--require 'accuracy' is no rule such as 'accuracy>=0.98'"),
        (["--require", "accuracy!=nan"], "--require 'accuracy!=nan' compares with nan: take a finite number"),
    ],
)
def test_what_cannot_be_measured_is_told_before_there_is_a_run(words: list[str], message: str, tmp_path: Path) -> None:
    assert invoke(tmp_path / "runs", *QUICK, *words, exit_code=2)[1] == f"error: {message}\n"
    assert not (tmp_path / "runs").exists()


def test_a_training_that_was_stopped_is_not_measured(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "dlcli", "train", "mlp", "--epochs", "100000", "--device", "cpu", "--json",
         "--eval", "test"],
        cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("runs/1/checkpoints/best-*")):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143
    document = json.loads(out)
    assert (document["status"], document["evaluation"]) == ("interrupted", None)
    assert err.splitlines()[-1] == "not measured on test, since the training has not finished"
    assert not (tmp_path / "runs" / "1" / "eval").exists()


@pytest.mark.parametrize(
    ("model", "data"), [("mlp", "digits"), ("mlp", "breast-cancer"), ("linear", "diabetes"), ("rnn", "pydocs")]
)
def test_a_task_names_all_that_an_evaluation_reports(model: str, data: str) -> None:
    """--require is checked against these names before a training."""
    from dlcli import TrainConfig
    from dlcli.data.batches import in_order
    from dlcli.experiment.build import build
    from dlcli.experiment.tasks import make_task

    built = build(TrainConfig(model=model, data=data, device="cpu"))
    batch = next(iter(in_order(built.dataset.split("test"), 8)))
    task = make_task(built.config, built.dataset.preprocessing)
    with torch.inference_mode():
        measures = [task.measure(built.model(batch.x), batch.y, whole=True)]
    assert (*task.metrics(measures), *task.tables(measures).metrics) == (*task.names, *task.table_names)


def test_an_evaluation_computes_as_deterministically_as_the_training(tmp_path: Path) -> None:
    invoke(tmp_path, *QUICK, "--deterministic")
    invoke(tmp_path, *QUICK)
    for number, wanted in ((1, True), (2, False)):
        evaluate(Run(tmp_path, number))
        assert torch.are_deterministic_algorithms_enabled() is wanted


# Rules


def test_a_rule_compares_with_a_finite_number(tmp_path: Path) -> None:
    invoke(tmp_path, *QUICK)
    for rule, bound in (
        ("accuracy!=nan", "nan"),
        ("loss<inf", "inf"),
        ("loss>-Infinity", "-inf"),
        ("loss<1e999", "inf"),
    ):
        _, err = invoke(tmp_path, "eval", "1", "--require", rule, exit_code=2)
        assert err == f"error: --require '{rule}' compares with {bound}: take a finite number\n"
    assert not (tmp_path / "1" / "eval").exists()
    for drop in ("nan", "inf", "-1.0"):
        _, err = invoke(tmp_path, "eval", "1", "--baseline", "1", "--max-drop", drop, exit_code=2)
        assert err == f"error: --max-drop = {drop} is out of range: it must be >= 0\n"
        _, err = invoke(tmp_path, "export", "1", "--tolerance", drop, exit_code=2)
        assert err == f"error: --tolerance = {drop} is out of range: it must be >= 0\n"


@pytest.mark.slow
def test_a_rule_on_a_metric_without_a_value_fails_and_says_why(tmp_path: Path) -> None:
    """Ten samples of one class have no area under the curve; equal targets have no r2."""
    (tmp_path / "one.py").write_text(
        "import torch\n"
        "from dlcli import DataSpec, Source\n\n\n"
        "def binary(data_dir) -> Source:\n"
        "    x = torch.arange(40.0).view(20, 2)\n"
        "    return Source(DataSpec('binary', 'features', (2,), 1), x, torch.ones(20).long(),\n"
        "                  test_x=x, test_y=torch.ones(20).long())\n\n\n"
        "def real(data_dir) -> Source:\n"
        "    x = torch.arange(40.0).view(20, 2)\n"
        "    return Source(DataSpec('regression', 'features', (2,), 1), x, x[:, 0].clone(),\n"
        "                  test_x=x, test_y=torch.full((20,), 3.0))\n"
    )
    for data, rule, metric, model, why in (
        ("binary", "auc!=0.5", "auc", "logistic", "not every class has samples"),
        ("real", "r2<1", "r2", "linear", "all targets are the same"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "dlcli", "train", model, "--data", f"one:{data}", "--epochs", "2", "--device", "cpu",
             "--quiet", "--json", "--monitor", "loss", "--require", rule],
            cwd=tmp_path, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 7, done.stderr
        message = f"{rule} does not hold: {metric} is undefined, since {why}"
        error = json.loads(done.stderr.splitlines()[-1])
        assert (error["error"], error["exit_code"], error["run"]) == (message, 7, 1 if data == "binary" else 2)
        (rule_of_document,) = json.loads(done.stdout)["evaluation"]["require"]
        assert rule_of_document == {"rule": rule, "value": None, "holds": False}


def test_best_does_not_mix_data_sets(tmp_path: Path) -> None:
    """As in the bug report: iris at 1.00 must not win against digits at 0.92."""
    invoke(tmp_path, *QUICK)
    invoke(tmp_path, "train", "mlp", "--data", "iris", "--epochs", "2", "--device", "cpu", "--quiet")
    _, err = invoke(tmp_path, "eval", "best:accuracy", exit_code=4)
    assert err == (
        "error: best:accuracy finds runs whose data differ: digits (run 1), iris (run 2); choose with "
        "best:accuracy@digits\n"
    )
    for data, number in (("digits", 1), ("iris", 2)):
        document = json.loads(invoke(tmp_path, "eval", f"best:accuracy@{data}", "--json")[0])
        assert document["run"] == f"{tmp_path}/{number}"


# Damage, and runs that have not finished


@pytest.fixture(scope="module")
def two_bests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that keeps two best checkpoints."""
    root = tmp_path_factory.mktemp("two")
    invoke(root, *QUICK, "--keep-last", "2", "--checkpoint-every", "1epoch")
    assert len(list((root / "1" / "checkpoints").glob("best-*"))) == 2
    return root


def damaged(root: Path, tmp_path: Path) -> Path:
    """A copy of that folder in which a bit of the newest best weights has flipped."""
    copy = tmp_path / "runs"
    shutil.copytree(root, copy)
    weights = copy / "1" / "checkpoints" / "best-42" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    return copy


def test_a_damaged_checkpoint_is_exit_4_and_no_number(two_bests: Path, tmp_path: Path) -> None:
    root = damaged(two_bests, tmp_path)
    weights = root / "1" / "checkpoints" / "best-42" / "model.safetensors"
    sentence = f"{weights} is damaged: its sha256 is not the recorded one"
    message = f"{sentence}; the previous checkpoint, of epoch 1, is measured only with --allow-fallback"
    for words in ((), ("--require", "accuracy>=0"), ("--baseline", "1")):
        out, err = invoke(root, "eval", "1", *words, exit_code=4)
        assert (out, err) == ("", f"error: {message}\n")
    out, err = invoke(root, "eval", "1", "--json", exit_code=4)
    assert (out, json.loads(err)) == ("", {"error": message, "exit_code": 4})
    with pytest.raises(RunError) as caught:
        evaluate(Run(root, 1))
    assert str(caught.value) == message
    assert not (root / "1" / "eval").exists()

    out, err = invoke(root, "eval", "1", "--json", "--allow-fallback", "--require", "accuracy>=0.999", exit_code=7)
    document = json.loads(out)
    assert (document["epoch"], document["step"], document["damage"]) == (1, 21, [sentence])
    assert err.splitlines()[0] == f"{sentence}: an older checkpoint is used"
    assert evaluate(Run(root, 1), allow_fallback=True).metrics == document["metrics"]
    assert invoke(root, "eval", "1", "--checkpoint", "last")[1] == ""


def test_a_damaged_baseline_is_no_baseline(two_bests: Path, tmp_path: Path) -> None:
    root = damaged(two_bests, tmp_path)
    shutil.copytree(two_bests / "1", root / "2")
    _, err = invoke(root, "eval", "2", "--baseline", "1", exit_code=4)
    assert err.endswith("the previous checkpoint, of epoch 1, is measured only with --allow-fallback\n")
    _, err = invoke(root, "eval", "2", "--baseline", "1", "--allow-fallback")
    assert (
        "best-42/model.safetensors is damaged: its sha256 is not the recorded one: an older checkpoint is used" in err
    )


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ({"status": "running"}, "dead"),
        ({"status": "interrupted", "stop": "SIGTERM"}, "interrupted: SIGTERM"),
        ({"status": "failed", "reason": "cannot write it"}, "failed: cannot write it"),
        (
            {"status": "diverged", "reason": "the loss became nan"},
            "diverged: the loss became nan",
        ),
    ],
    ids=lambda value: value["status"] if isinstance(value, dict) else "",
)
def test_eval_of_a_run_that_has_not_finished_says_so_first(
    change: dict[str, str], state: str, two_bests: Path, tmp_path: Path
) -> None:
    root = tmp_path / "runs"
    shutil.copytree(two_bests, root)
    run = Run(root, 1)
    run.write_info(run.info() | change)
    out, err = invoke(root, "eval", "1", "--json", "--require", "accuracy>=0.999", exit_code=7)
    assert err.splitlines()[0] == f"{run} has not finished ({state}): its best checkpoint, of epoch 2, is measured"
    document = json.loads(out)
    status, _, reason = state.partition(": ")
    assert (document["status"], document["reason"]) == (status, reason or None)
    record = json.loads((run.path / "eval" / "test.json").read_text())
    assert (record["status"], record["reason"]) == (status, reason or None)
    assert invoke(two_bests, "eval", "1")[1] == ""


@pytest.mark.parametrize("command", ["eval", "export"])
def test_what_a_killed_command_left_half_written_goes_with_the_next(
    command: str, two_bests: Path, tmp_path: Path
) -> None:
    root = tmp_path / "runs"
    shutil.copytree(two_bests, root)
    folder = root / "1" / command
    folder.mkdir(exist_ok=True)
    (folder / ".tmp-0123").write_text("{")
    invoke(root, command, "1", *(["--format", "safetensors"] if command == "export" else []))
    found = {path.name for path in folder.iterdir()}
    if command == "eval":
        assert found == {"test.json", json.loads((folder / "test.json").read_text())["file"]}
    else:
        assert found == {"model.safetensors", "safetensors.json"}
