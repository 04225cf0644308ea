"""The command line through real processes and through CliRunner: exit codes, whole messages, streams."""

import csv
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dlcli.cli.main import COMMANDS, app
from dlcli.runs.run import Run
from tests.conftest import Dlcli

QUICK = ("train", "mlp", "--epochs", "2", "--device", "cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with two trained runs: 1 an mlp on digits, 2 a logistic on iris."""
    folder = tmp_path_factory.mktemp("cli")
    for words in (QUICK, ("train", "logistic", "--data", "iris", "--epochs", "30", "--device", "cpu")):
        result = CliRunner().invoke(app, [*words, "--runs-dir", str(folder), "--quiet"])
        assert result.exit_code == 0, result.output
    yield folder


def invoke(root: Path, *words: str, exit_code: int = 0) -> tuple[str, str]:
    """stdout and stderr of a command in this process."""
    result = CliRunner().invoke(app, [*words, "--runs-dir", str(root)])
    assert result.exit_code == exit_code, result.output
    return result.stdout, result.stderr


def test_every_command_has_its_line_in_the_help_and_its_own_help() -> None:
    listed = CliRunner().invoke(app, ["--help"]).stdout
    for name, (_, line) in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(line[:40])}", listed, re.M)
        own = CliRunner().invoke(app, [name, "--help"])
        assert own.exit_code == 0
        assert line.split(",")[0].split(":")[0].rstrip(".") in " ".join(own.stdout.split())


def test_bare_dlcli_shows_the_help() -> None:
    assert CliRunner().invoke(app, []).stdout == CliRunner().invoke(app, ["--help"]).stdout


def test_every_setting_is_an_option_and_every_option_shows_its_default() -> None:
    from dataclasses import fields

    from dlcli.config.settings import TrainConfig

    text = " ".join(CliRunner().invoke(app, ["train", "--help"]).stdout.split())
    for f in fields(TrainConfig):
        if f.metadata:
            assert f" --{f.name.replace('_', '-')}" in text, f.name
    assert (
        "(default: the model's; sgd 0.01; adam, adamw, rmsprop 0.001; gd 0.1; a tenth for a pretrained network)" in text
    )
    assert "(default: 64)" in text


WITH_A_TABLE = (
    "train mlp", "resume 1", "eval 1", "predict 1 a", "export 1", "gradcheck mlp", "check resume mlp",
    "check determinism mlp", "check install", "runs", "runs show 1", "runs rm 1", "runs restore", "runs purge",
    "cache", "cache clear", "models", "datasets", "recipes",
)  # fmt: skip


@pytest.mark.parametrize("command", WITH_A_TABLE)
def test_each_command_with_a_table_takes_one_of_three_formats(command: str, tmp_path: Path) -> None:
    """Two are refused before anything else is checked; each has its line of help."""
    env = {"DLCLI_RUNS_DIR": str(tmp_path), "COLUMNS": "80"}
    for two in (("--json", "--csv"), ("--csv", "--md")):
        done = CliRunner().invoke(app, [*command.split(), *two], env=env)
        assert (done.exit_code, done.stdout) == (2, "")
        assert "--json, --csv and --md exclude each other: choose one" in done.stderr
    words = [word for word in command.split() if word not in ("1", "a", "mlp")]
    text = " ".join(CliRunner().invoke(app, [*words, "--help"], env=env).stdout.split())
    for line in ("--json Print one JSON document.", "--csv Print CSV.", "--md Print a Markdown table."):
        assert line in text


def test_train_says_what_it_does_on_stderr_and_prints_the_result_on_stdout(dlcli: Dlcli, tmp_path: Path) -> None:
    done = dlcli(*QUICK)
    lines = done.stderr.splitlines()
    assert lines[0] == "run 1 in runs/1"
    assert lines[1] == "mlp (17,226 parameters) on digits (1,294 train, 144 val, 359 test samples); cpu, 1 thread"
    assert [line.split("  ")[0] for line in lines[2:-1]] == ["epoch 1/2", "epoch 2/2"]
    assert re.fullmatch(r"finished: best val/accuracy 0\.\d{4} in epoch 2; measure it: dlcli eval runs/1", lines[-1])
    assert "\x1b" not in done.stderr + done.stdout
    header, row = done.stdout.splitlines()
    assert header.split() == ["run", "status", "model", "data", "epochs", "metric", "best", "at", "epoch"]
    assert row.split()[:6] == ["1", "finished", "mlp", "digits", "2/2", "val/accuracy"]
    log = (tmp_path / "runs" / "1" / "log.txt").read_text().splitlines()
    assert log == [line for line in lines if line]


def test_print_gives_a_script_the_run_that_it_made(dlcli: Dlcli) -> None:
    done = dlcli(*QUICK, "--print", "run")
    assert done.stdout == "1\n"
    done = dlcli(*QUICK, "--print", "path", "--quiet")
    assert (done.stdout, done.stderr) == ("runs/2\n", "")
    done = dlcli(*QUICK, "--print", "id", check=2)
    assert done.stderr == "error: --print id is not one of run, path\n"


def test_eval_prints_metrics_classes_and_confusion(root: Path) -> None:
    out, _ = invoke(root, "eval", "2")
    lines = out.splitlines()
    assert lines[0] == f"{root}/2: best checkpoint (epoch 30) on test of iris, 30 samples"
    assert [line.split()[0] for line in lines[1:5]] == ["metric", "loss", "accuracy", "macro_f1"]
    assert "class       precision  recall      f1  count" in lines
    table = lines[lines.index(next(line for line in lines if line.startswith("actual"))) :]
    assert [line.split()[0] for line in table[1:4]] == ["setosa", "versicolor", "virginica"]
    assert sum(int(n) for line in table[1:4] for n in line.split()[1:]) == 30


def test_eval_as_json_is_one_document_and_the_record_in_the_run(root: Path) -> None:
    out, err = invoke(root, "eval", "1", "--json", "--require", "accuracy>0.1", "--require", "loss < 9")
    document = json.loads(out)
    assert err == ""
    assert document["samples"] == 359
    assert sum(map(sum, document["confusion"])) == 359
    hits = sum(document["confusion"][k][k] for k in range(10))
    assert document["metrics"]["accuracy"] == hits / 359
    assert [r["holds"] for r in document["require"]] == [True, True]
    record = json.loads((root / "1" / "eval" / "test.json").read_text())
    assert record["metrics"] == document["metrics"]


def test_eval_gates_on_a_metric(root: Path) -> None:
    value = json.loads(invoke(root, "eval", "1", "--json")[0])["metrics"]["accuracy"]
    _, err = invoke(root, "eval", "1", "--require", "accuracy>=0.999", "--require", "loss<5", exit_code=7)
    assert err.splitlines() == [
        f"loss<5 holds: the value is {json.loads(invoke(root, 'eval', '1', '--json')[0])['metrics']['loss']:.6g}",
        f"error: accuracy>=0.999 does not hold: the value is {value:.6g}",
    ]
    _, err = invoke(root, "eval", "1", "--require", "acuracy>=0.9", exit_code=2)
    assert (
        err == "error: --require 'acuracy>=0.9': there is no metric acuracy: did you mean accuracy or top5_accuracy "
        "or auc?\n"
    )
    _, err = invoke(root, "eval", "1", "--require", "accuracy", exit_code=2)
    assert err == "error: --require 'accuracy' is no rule such as 'accuracy>=0.98'\n"


@pytest.mark.parametrize(
    ("rule", "holds"),
    [("x>=1", True), ("x<=1", True), ("x==1", True), ("x!=1", False), ("x>1", False), ("x<1", False), ("y<1", False)],
)
def test_all_six_comparisons(rule: str, holds: bool) -> None:
    from dlcli.evaluation.rules import check_rules, parse_rules

    assert check_rules({"x": 1.0, "y": None}, parse_rules([rule]))[0].holds is holds


def test_eval_against_a_baseline(root: Path) -> None:
    worse = Path(invoke(root, *QUICK[:2], "--epochs", "1", "--lr", "0.0001", "--print", "path", "--quiet")[0].strip())
    _, err = invoke(root, "eval", "1", "--baseline", str(worse))
    assert re.fullmatch(rf"accuracy 0\.\d+ against 0\.\d+ of {worse}: a drop of -0\.\d+\n", err)
    _, err = invoke(root, "eval", str(worse), "--baseline", "1", "--max-drop", "0.005", exit_code=7)
    assert re.fullmatch(
        rf"error: accuracy 0\.\d+ against 0\.\d+ of {root}/1: a drop of 0\.\d+, more than the 0.005 that --max-drop "
        r"allows\n",
        err,
    )
    _, err = invoke(root, "eval", "1", "--max-drop", "0.1", exit_code=2)
    assert err == "error: --max-drop needs a --baseline\n"


def test_eval_on_other_data(root: Path) -> None:
    _, err = invoke(root, "eval", "1", "--data", "iris", exit_code=3)
    assert err == (
        "error: data iris (features of 4, 3 outputs, multiclass) does not have the shape that the model was trained on "
        "(image of 1x8x8, 10 outputs, multiclass)\n"
    )


def test_runs_in_every_format(root: Path) -> None:
    rows = json.loads(invoke(root, "runs", "--json")[0])
    assert [row["run"] for row in rows][-2:] == [2, 1]
    assert rows[-1]["status"] == "finished"
    table = list(csv.DictReader(io.StringIO(invoke(root, "runs", "--csv")[0])))
    assert table[-1]["best"] == str(rows[-1]["best"])
    markdown = invoke(root, "runs", "--md")[0].splitlines()
    assert markdown[0].startswith("| run | status | model | data |")
    assert len(markdown) == len(rows) + 2
    assert len(invoke(root, "runs", "--limit", "1")[0].splitlines()) == 2
    _, err = invoke(root, "runs", "--json", "--csv", exit_code=2)
    assert json.loads(err) == {"error": "--json, --csv and --md exclude each other: choose one", "exit_code": 2}


def test_runs_show_tells_all_of_one(root: Path) -> None:
    document = json.loads(invoke(root, "runs", "show", "1", "--json")[0])
    assert sorted(document) == ["config", "files", "info", "metrics", "name", "rows", "run"]
    assert document["config"]["model.hidden"] == [128, 64]
    assert len(document["metrics"]) == 2
    text, _ = invoke(root, "runs", "show", "1")
    for word in ("finished", "model.hidden", "val/accuracy", "metrics.csv"):
        assert word in text


def test_no_runs_is_a_hint_and_an_empty_document(dlcli: Dlcli) -> None:
    done = dlcli("runs")
    assert (done.stdout, done.stderr) == ("", "there are no runs in runs: make one with `dlcli train cnn`\n")
    assert dlcli("runs", "--json").stdout == "[]\n"


@pytest.mark.parametrize("command", ["models", "datasets", "recipes"])
def test_what_is_built_in(command: str) -> None:
    from dlcli.config.recipe import recipes
    from dlcli.config.registry import DATASETS, MODELS

    names = {"models": list(MODELS), "datasets": list(DATASETS), "recipes": list(recipes())}[command]
    found = json.loads(CliRunner().invoke(app, [command, "--json"]).stdout)
    assert [row[next(iter(row))].split(":")[0] for row in found] == names
    text = CliRunner().invoke(app, [command]).stdout
    assert len(text.splitlines()) == len(names) + 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--augment", "shift=1", "--augment", "flip,noise=0.2"), 'augment = ["shift=1", "flip", "noise=0.2"]'),
        (("--augment", "none"), "augment = []"),
        ((), "augment = []"),
    ],
)
def test_a_list_in_one_option_or_in_several(root: Path, words: tuple[str, ...], told: str) -> None:
    assert told in invoke(root, "train", "cnn", *words, "--print-config")[0].splitlines()


def test_print_config_is_taken_back(root: Path, tmp_path: Path) -> None:
    words = ["train", "mlp", "--set", "model.hidden=32,16", "--lr", "0.2", "--augment", "noise=0.1"]
    out, _ = invoke(root, *words, "--print-config")
    assert '[model]\nname = "mlp"\nhidden = [32, 16]' in out
    (tmp_path / "a.toml").write_text(out)
    assert invoke(root, "train", "--config", str(tmp_path / "a.toml"), "--print-config")[0] == out
    document = json.loads(invoke(root, *words, "--print-config", "--json")[0])
    (tmp_path / "a.json").write_text(json.dumps(document))
    assert invoke(root, "train", "--config", str(tmp_path / "a.json"), "--print-config")[0] == out


def test_settings_by_precedence(dlcli: Dlcli, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('epochs = 3\nlr = 0.3\nbatch_size = 3\nseed = 3\n[model]\nname = "mlp"\n')
    (tmp_path / "b.toml").write_text("epochs = 4\nlr = 0.4\nbatch_size = 4\n")
    done = dlcli(
        "train", "--config", "a.toml", "--config", "b.toml", "--epochs", "6", "--print-config", "--json",
        DLCLI_EPOCHS="5", DLCLI_LR="0.5",
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert [found[k] for k in ("epochs", "lr", "batch_size", "seed")] == [6, 0.5, 4, 3]
    done = dlcli("train", "mlp", check=2, DLCLI_EPOCH="5")
    assert done.stderr == ("error: unknown environment variable DLCLI_EPOCH: did you mean DLCLI_EPOCHS?\n")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["train", "ccnn"], 2, "unknown model 'ccnn': did you mean cnn?"),
        (["train", "cnn", "--data", "diggits"], 2, "unknown data 'diggits': did you mean digits?"),
        (["train", "cnn", "--lr", "fast"], 2, "lr = 'fast' is not a number"),
        (["train", "cnn", "--lr", "-1"], 2, "lr = -1.0 is out of range: it must be > 0"),
        (["train", "cnn", "--epochs", "0"], 2, "epochs = 0 is out of range: it must be >= 1"),
        (["train", "cnn", "--epochs", "1.5"], 2, "epochs = '1.5' is not a whole number"),
        (["train", "cnn", "--optimizer", "sdg"], 2, "optimizer = 'sdg' is not one of gd, sgd, adam, adamw, rmsprop"),
        (["train", "cnn", "--set", "model.hiden=3"], 2, "unknown setting model.hiden: did you mean hidden?"),
        (["train", "cnn", "--set", "hidden=3"], 2, "unknown setting hidden: known are model, data, model_options"),
        (["train", "cnn", "--set", "lr"], 2, "--set lr is not of the form name=value"),
        (["train", "cnn", "--config", "recipe:cnn-mnst"], 2, "unknown recipe 'cnn-mnst': did you mean cnn-mnist"),
        (["train", "cnn", "--config", "no.toml"], 2, "config file no.toml cannot be read: No such file or directory"),
        (["train"], 2, "no model is given: name one, as in `dlcli train cnn`"),
        (["train", "nowhere:Net"], 2, "no module 'nowhere' on the Python path, needed for 'nowhere:Net'"),
        (["train", "rnn", "--data", "text:no.txt"], 3, "{cwd}/no.txt does not exist"),
        (["train", "cnn", "--device", "cuda:99"], 6, "device = cuda:99, but this machine has"),
        (["train", "cnn", "--device", "gpu"], 2, "unknown device 'gpu': use auto, cpu, cuda, cuda:N or mps"),
        (["eval", "42"], 4, "there is no run 42 in runs: see `dlcli runs`"),
        (["eval", "latest"], 4, "there are no runs in runs: make one with `dlcli train cnn`"),
        (["eval", "1", "--split", "tset"], 2, "--split tset is not one of train, val, test"),
        (["trian"], 2, "no such command 'trian': did you mean `dlcli train`?"),
        (["train", "cnn", "--data", "x" * 500], 2, f"no file can have a name of 500 characters: {'x' * 40}..."),
        (["train", "cnn", "--epoks", "3"], 2, "no such option --epoks: did you mean --epochs"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_with_its_exit_code_and_makes_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, words)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: " + message.format(cwd=tmp_path))
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_an_error_as_json_and_with_a_traceback(dlcli: Dlcli) -> None:
    done = dlcli("eval", "42", "--json", check=4)
    assert json.loads(done.stderr) == {"error": "there is no run 42 in runs: see `dlcli runs`", "exit_code": 4}
    assert "Traceback" not in done.stderr
    assert "Traceback (most recent call last)" in dlcli("--debug", "eval", "42", check=4).stderr
    assert "Traceback" in dlcli("eval", "42", check=4, DLCLI_DEBUG="1").stderr


def test_a_diverged_run_is_exit_5_and_a_row_with_its_reason(dlcli: Dlcli) -> None:
    done = dlcli("train", "cnn", "--lr", "1e6", "--device", "cpu", check=5)
    row = json.loads(dlcli("runs", "--json").stdout)[0]
    message = row["reason"]
    assert message.startswith("the loss became nan at step 3 (epoch 1, lr 1e+06, gradient norm ")
    assert done.stderr.splitlines()[-1] == f"error: {message}"
    assert (row["status"], row["reason"]) == ("diverged", message)


def wait_for(path: Path, text: str, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if path.exists() and text in path.read_text():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError(f"{text!r} did not appear in {path}")


def start(tmp_path: Path, *words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "dlcli", *words], cwd=tmp_path, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_saves_and_marks_the_run_interrupted(tmp_path: Path, number: signal.Signals, code: int) -> None:
    process = start(tmp_path, "train", "mlp", "--epochs", "100000", "--device", "cpu")
    wait_for(tmp_path / "runs" / "1" / "metrics.csv", "\n2,", process)
    assert Run(tmp_path / "runs", 1).info()["status"] == "running"
    os.killpg(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert f"{number.name}: saving a checkpoint and stopping; a second one stops at once" in err
    run = Run(tmp_path / "runs", 1)
    assert (run.info()["status"], run.info()["stop"]) == ("interrupted", number.name)
    result = CliRunner().invoke(app, ["eval", str(run.path), "--checkpoint", "last", "--json"])
    assert json.loads(result.stdout)["step"] == run.info()["step"]


def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    process = start(tmp_path, "train", "cnn", "--batch-size", "full", "--epochs", "100000", "--device", "cpu")
    wait_for(tmp_path / "runs" / "1" / "metrics.csv", "\n2,", process)
    process.send_signal(signal.SIGSTOP)  # both are pending when it continues
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGCONT)
    process.communicate(timeout=60)
    assert process.returncode in (130, 143)
    info = Run(tmp_path / "runs", 1).info()
    assert (info["status"], info["stop"]) == ("interrupted", "stopped at once (SystemExit)")
    assert not list((tmp_path / "runs" / "1" / "checkpoints").glob(".tmp-*"))


def test_a_killed_process_leaves_a_dead_run_that_can_be_measured(tmp_path: Path) -> None:
    process = start(tmp_path, "train", "mlp", "--epochs", "100000", "--device", "cpu")
    wait_for(tmp_path / "runs" / "1" / "run.json", '"epoch"', process)
    process.kill()
    process.communicate(timeout=60)
    run = Run(tmp_path / "runs", 1)
    assert run.info()["status"] == "dead"
    result = CliRunner().invoke(app, ["eval", str(run.path), "--json"])
    assert result.exit_code == 0, result.output


def test_a_closed_pipe_is_no_error_and_does_not_stop_a_training(tmp_path: Path) -> None:
    done = subprocess.run(
        f"{sys.executable} -m dlcli datasets | head -1; echo ${{PIPESTATUS[0]}}", shell=True, executable="/bin/bash",
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.stdout.splitlines()[-1], done.stderr) == ("0", "")
    done = subprocess.run(
        f"{sys.executable} -m dlcli train mlp --epochs 3 --device cpu 2>&1 | head -1; echo ${{PIPESTATUS[0]}}",
        shell=True, executable="/bin/bash", cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["run 1 in runs/1", "0"]
    assert Run(tmp_path / "runs", 1).info()["status"] == "finished"


def test_an_unwritable_runs_folder_is_exit_6_with_the_mend(dlcli: Dlcli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = dlcli(*QUICK, "--runs-dir", "file/runs", check=6)
    assert done.stderr == "error: cannot make a run in file/runs: Not a directory; choose --runs-dir\n"


def test_a_full_disk_is_exit_6_and_leaves_no_half_file(tmp_path: Path) -> None:
    """A limit on the size of files simulates the disk: config and logs fit, weights do not."""
    done = subprocess.run(
        ["bash", "-c", f"ulimit -f 60; exec {sys.executable} -m dlcli train cnn --epochs 2 --device cpu --quiet"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.stderr == "error: cannot write runs/1/checkpoints/best-21: File too large\n"
    assert done.returncode == 6
    run = Run(tmp_path / "runs", 1)
    assert list(run.checkpoints.iterdir()) == []
    assert (run.info()["status"], run.info()["reason"]) == (
        "failed", "cannot write runs/1/checkpoints/best-21: File too large",
    )  # fmt: skip


def test_an_ascii_terminal_gets_text_not_a_traceback(dlcli: Dlcli) -> None:
    done = dlcli("datasets", PYTHONIOENCODING="ascii")
    assert done.stdout.isascii()


def test_names_from_files_are_shown_as_text(dlcli: Dlcli, tmp_path: Path) -> None:
    """An untrusted run folder cannot colour, move or break the terminal."""
    folder = tmp_path / "runs" / "1"
    folder.mkdir(parents=True)
    info = {"status": "finished", "model": "\x1b[31m[/x]red", "data": "=1+1", "epochs": 1, "epochs_done": 1}
    info |= {"device": "cpu", "started": "2026-01-01T00:00:00Z", "seconds": 1.0, "best": None}
    (folder / "run.json").write_text(json.dumps(info))
    done = dlcli("runs")
    assert "\x1b" not in done.stdout
    assert "[31m[/x]red" in done.stdout
    assert ",'=1+1," in dlcli("runs", "--csv").stdout


def in_terminal(tmp_path: Path, *words: str, columns: int) -> str:
    """The output of a command on a terminal with that width."""
    leader, follower = pty.openpty()
    import fcntl
    import struct
    import termios

    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color"}
    environment.pop("COLUMNS", None)
    process = subprocess.Popen(
        [sys.executable, "-m", "dlcli", *words], cwd=tmp_path, stdin=follower, stdout=follower, stderr=follower,
        env=environment,
    )  # fmt: skip
    os.close(follower)
    content = b""
    while True:
        try:
            chunk = os.read(leader, 65536)
        except OSError:
            break
        if not chunk:
            break
        content += chunk
    os.close(leader)
    assert process.wait(timeout=60) == 0, content
    return content.decode()


@pytest.mark.slow
def test_a_terminal_gets_a_bar_and_a_narrow_one_keeps_ids_whole(tmp_path: Path) -> None:
    shown = in_terminal(tmp_path, "train", "mlp", "--epochs", "200", "--device", "cpu", columns=100)
    assert "━" in shown and re.search(r"loss [\d.]+  val/accuracy [\d.]+  [\d,]+/s", shown)
    assert "epoch 200/200" in shown
    for number in range(2, 12):
        Run.create(tmp_path / "runs")
        assert (tmp_path / "runs" / str(number)).is_dir()
    narrow = re.sub(r"\x1b\[[0-9;]*m", "", in_terminal(tmp_path, "runs", columns=40))
    assert max(len(line.rstrip()) for line in narrow.splitlines()) <= 40
    assert [n for n in range(1, 12) if re.search(rf"^ +{n} ", narrow, re.M)] == list(range(1, 12))


def test_dry_run_tells_size_and_work_and_makes_no_run(dlcli: Dlcli, tmp_path: Path) -> None:
    done = dlcli("train", "cnn", "--dry-run", "--json", "--device", "cpu")
    found = json.loads(done.stdout)
    assert found["parameters"] == 53_002
    assert found["steps"] == 20 * found["steps per epoch"] == 420
    convolutions = 2 * 8 * 8 * 32 * 9 + 2 * 4 * 4 * 64 * 32 * 9
    linear = 2 * (64 * 2 * 2 * 128 + 128 * 10)
    assert found["flops per step"] == 3 * 64 * (convolutions + linear)
    assert found["memory of weights (bytes)"] == 4 * 53_002 * 3
    assert found["memory of data (bytes)"] == 1797 * (64 + 8)
    assert not (tmp_path / "runs").exists()


def test_a_model_of_ones_own(dlcli: Dlcli, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import math\n"
        "from torch import nn\n\n\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, spec, *, width: int = 8):\n"
        "        super().__init__()\n"
        "        self.net = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(spec.input_shape), width),\n"
        "                                 nn.Tanh(), nn.Linear(width, spec.outputs))\n\n"
        "    def forward(self, x):\n"
        "        return self.net(x)\n\n\n"
        "def helper():\n"
        "    raise SystemExit('called')\n"
    )
    done = dlcli("train", "mine:Net", "--set", "model.width=16", "--epochs", "2", "--device", "cpu")
    assert "mine:Net (1,210 parameters) on digits" in done.stderr
    dlcli("eval", "1")
    assert dlcli("train", "mine:helper", check=2).stderr == (
        "error: model 'mine:helper' is no torch.nn.Module class: see mine.py, line 15\n"
    )
    assert dlcli("train", "mine:Nett", check=2).stderr == ("error: module 'mine' has no 'Nett': did you mean Net?\n")


def test_predict_and_generate(dlcli: Dlcli, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("abcdefgh " * 400)
    small = ("--set", "data.length=16", "--set", "model.hidden=32", "--epochs", "20", "--device", "cpu", "--quiet")
    dlcli("train", "rnn", "--data", "text:book.txt", *small)
    text = dlcli("generate", "1", "--prompt", "abc", "--length", "15", "--temperature", "0").stdout
    assert text == "abcdefgh abcdefgh \n"
    row = json.loads(dlcli("predict", "1", "book.txt", "--json").stdout)[0]
    assert (row["input"], row["characters"], row["next"]) == ("book.txt", 3600, "a")
    assert row["bits_per_char"] < 1
    done = dlcli("generate", "1", "--prompt", "abcx", "--length", "15", "--temperature", "0")
    assert done.stdout == "abcxdefgh abcdefgh \n"
    assert done.stderr == (
        "--prompt: unknown characters, which the training text has not, or too rarely for the vocabulary: 1, "
        "such as 'x' (1); they are left out\n"
    )
