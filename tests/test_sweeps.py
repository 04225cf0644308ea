"""Sweeps through the public door: each trial is a run, and no kill loses one."""

import csv
import io
import json
import math
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from dlcli import TrainConfig, train
from dlcli.checkpoints import checkpoint
from dlcli.runs.run import Run, all_runs
from dlcli.runs.sweeps import Sweep, TrialRun
from dlcli.sweeps.driver import _Driver
from dlcli.sweeps.plan import make
from dlcli.sweeps.workers import Workers
from tests.conftest import Dlcli
from tests.sweeping import SMALL, Sweeping, sweeping, wait_for

needs_optuna = pytest.mark.skipif(
    __import__("importlib.util").util.find_spec("optuna") is None, reason="optuna is not installed"
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def shown(root: Path, number: int = 1) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(sweeping(root, "sweep", "show", str(number), "--json"))
    return found


def weights(run: Run) -> dict[str, torch.Tensor]:
    return dict(checkpoint.load(run.checkpoints, "best").weights)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def finishing(run: Run) -> Run:
    assert run.info()["status"] == "finished", run.info()
    return run


# -------------------------------------------------------------------------------------------------- trials are runs


def test_each_trial_is_the_run_that_train_makes(root: Path, tmp_path: Path, dlcli: Dlcli) -> None:
    done = dlcli(
        "sweep", *SMALL, "--over", "lr=0.1,0.03", "--over", "optimizer=sgd,adam", "--seeds", "2", "--jobs", "2"
    )
    assert done.stderr.startswith(
        "sweep 1 in runs/sweeps/1: 4 trials of lr, optimizer, 2 seeds each, grid, 2 at a time\n"
    )
    assert len(all_runs(root)) == 8
    found = json.loads(dlcli("sweep", "show", "1", "--json").stdout)
    assert found["status"] == "finished" and found["metric"] == "val/accuracy" and len(found["trials"]) == 4
    for trial in found["trials"]:
        for each in trial["runs"]:
            run = finishing(Run(root, each["run"]))
            info = run.info()
            assert (info["sweep"], info["trial"], info["seed"]) == (1, trial["trial"], each["seed"])
            assert run.settings()["lr"] == trial["settings"]["lr"]
            assert run.settings()["seed"] == each["seed"] and each["value"] == info["best"]["value"]
    one = Run(root, found["trials"][0]["runs"][1]["run"])
    config = json.loads((one.path / "config.json").read_text())
    assert sorted(config["given"]) == ["data", "device", "epochs", "lr", "model", "model.hidden", "optimizer", "seed"]
    list(
        train(TrainConfig.from_flat({name: one.settings()[name] for name in config["given"]}), runs_dir=tmp_path / "b")
    )
    assert same(weights(one), weights(Run(tmp_path / "b", 1)))
    assert not any((run.path / "eval").exists() for run in all_runs(root))  # the test split was not looked at


def test_the_command_of_a_trial_makes_its_run_again(root: Path, tmp_path: Path) -> None:
    sweeping(root, "sweep", *SMALL, "--over", "lr=loguniform(0.01,0.2)", "--trials", "2", "--method", "random")
    info = Run(root, 2).info()
    words = info["command"].split()
    assert words[:3] == ["dlcli", "train", "mlp"]
    sweeping(tmp_path / "again", *words[1:])
    assert same(weights(Run(root, 2)), weights(Run(tmp_path / "again", 1)))


def test_seeds_of_one_setting(root: Path, tmp_path: Path) -> None:
    told = sweeping(root, "train", *SMALL, "--seeds", "3", "--seed", "5", "--json")
    found = json.loads(told[told.index("{") :])
    (trial,) = found["trials"]
    values = [run["value"] for run in trial["runs"]]
    assert [run["seed"] for run in trial["runs"]] == [5, 6, 7]
    assert trial["value"]["mean"] == pytest.approx(sum(values) / 3) and trial["value"]["n"] == 3
    for seed in (5, 6, 7):  # the second has another validation split, though the process has kept the data
        sweeping(tmp_path / "alone", "train", *SMALL, "--seed", str(seed))
        assert same(weights(Run(root, seed - 4)), weights(Run(tmp_path / "alone", seed - 4)))
    assert "the mean of 3 (95 % interval " in sweeping(root, "sweep", "show", "latest")


@pytest.mark.slow
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core cannot be divided")
def test_the_threads_are_divided_among_the_jobs(root: Path, dlcli: Dlcli) -> None:
    share = (os.cpu_count() or 1) // 2
    dlcli("train", "cnn", "--data", "digits", "--steps", "2", "--device", "cpu")
    dlcli("sweep", "cnn", "--data", "digits", "--steps", "2", "--device", "cpu", "--over", "lr=0.1,0.2", "--jobs", "2")
    alone = Run(root, 1).info()["threads"]
    assert alone > 1
    for number in (2, 3):
        assert Run(root, number).info()["threads"] == min(alone, share)
        assert Run(root, number).settings()["threads"] == (share if share < alone else "auto")


@pytest.mark.parametrize(
    "option", [["--eval", "test"], ["--name", "a"], ["--plots"], ["--dry-run"], ["--print", "run"]]
)
def test_options_for_one_run_are_refused_beside_seeds(option: list[str], root: Path) -> None:
    told = sweeping(root, "train", *SMALL, "--seeds", "3", *option, code=2)
    assert told.startswith(f"error: {option[0]} is for one run, and --seeds makes several: leave it out")


def test_the_mean_over_the_seeds_decides_and_fresh_seeds_confirm(root: Path) -> None:
    told = sweeping(root, "sweep", *SMALL, "--over", "lr=0.003,0.1", "--seeds", "2", "--confirm", "2")
    found = shown(root)
    best = found["best"]
    assert best["settings"] == {"lr": 0.1} and best == found["trials"][0]
    assert [run["seed"] for run in best["runs"] if run["confirms"]] == [2, 3]
    assert best["confirmed"]["n"] == 2 and best["value"]["n"] == 2
    assert found["trials"][1]["confirmed"] is None and len(all_runs(root)) == 6
    assert "best: trial 2, " in told and " when it was picked from 2; with fresh seeds " in told
    sweeping(root, "sweep", "resume", "1", "--confirm", "3")
    again = shown(root)["best"]
    assert [run["seed"] for run in again["runs"] if run["confirms"]] == [2, 3, 4] and len(all_runs(root)) == 7
    best_run = max((run for run in best["runs"] if not run["confirms"]), key=lambda run: run["value"])["run"]
    assert sweeping(root, "sweep", "best", "1") == f"{best_run}\n"
    assert "lr = 0.1\n" in sweeping(root, "sweep", "best", "1", "--config")


def test_a_sweep_says_that_its_best_is_optimistic(root: Path) -> None:
    told = sweeping(root, "sweep", *SMALL, "--over", "lr=0.1,0.003")
    assert (
        "best: trial 1, picked from 2, so its value is optimistic; measure it with fresh seeds: dlcli sweep resume 1 "
        "--confirm 5\n"
    ) in told


# ------------------------------------------------------------------------------------------------ files in and out


def test_the_toml_file_of_a_sweep_makes_it_again(root: Path, tmp_path: Path) -> None:
    words = [*SMALL, "--over", "lr=loguniform(0.01,0.2)", "--over", "model.hidden=4,8", "--trials", "3", "--seeds", "2"]
    sweeping(root, "sweep", *words, "--method", "random", "--prune", "median")
    sweeping(tmp_path / "b", "sweep", "--config", str(root / "sweeps" / "1" / "sweep.toml"))
    one, other = (json.loads((r / "sweeps" / "1" / "sweep.json").read_text()) for r in (root, tmp_path / "b"))
    for name in ("over", "method", "trials", "seeds", "prune", "confirm"):
        assert one[name] == other[name]
    assert [t["settings"] for t in shown(root)["trials"]] == [t["settings"] for t in shown(tmp_path / "b")["trials"]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[sweep]\nover = 3", "sweep.over = 3 is not a table"),
        ('[sweep]\ntrials = "x"', "sweep.trials = 'x' is not a whole number of at least 1"),
        ('[sweep]\nlisted = ["x"]', "sweep.listed = ['x'] is not a list, each of it a table"),
        ("[sweep]\novr = 3", "unknown setting sweep.ovr: did you mean over?"),
        ("sweep = 3", "sweep must be a table"),
    ],
)
def test_a_sweep_in_a_file_that_cannot_be_is_told(content: str, message: str, root: Path, tmp_path: Path) -> None:
    (file := tmp_path / "s.toml").write_text(
        f'model = {{name = "mlp"}}\n{content}\n' if "[" not in content[:1] else content
    )
    told = sweeping(root, "sweep", "mlp", "--config", str(file), code=2)
    assert told.startswith("error: ") and told.endswith(f"{message}\n") and not root.exists()


def test_trials_are_printed_and_read(root: Path, tmp_path: Path) -> None:
    words = ["sweep", *SMALL, "--over", "lr=uniform(0.01,0.2)", "--over", "model.hidden=4,8", "--trials", "2"]
    printed = sweeping(root, *words, "--method", "random", "--print-trials", "--csv")
    rows = list(csv.DictReader(io.StringIO(printed)))
    assert list(rows[0]) == ["trial", "lr", "model.hidden"] and len(rows) == 2 and not root.exists()
    (tmp_path / "trials.csv").write_text(printed)
    sweeping(root, "sweep", *SMALL, "--trials-from", str(tmp_path / "trials.csv"))
    trials = sorted(shown(root)["trials"], key=lambda trial: trial["trial"])
    assert [t["settings"] for t in trials] == [{"lr": float(r["lr"]), "model.hidden": r["model.hidden"]} for r in rows]
    sweeping(root, "sweep", "--config", str(root / "sweeps" / "1" / "sweep.toml"), "--needed")
    assert len(all_runs(root)) == 2  # all of them are there already


def test_what_an_equal_run_answers_is_not_trained_again(root: Path) -> None:
    sweeping(root, "train", *SMALL, "--lr", "0.1")
    told = sweeping(root, "sweep", *SMALL, "--over", "lr=0.1,0.03", "--needed")
    assert "trial 1  run 1  lr=0.1  val/accuracy " in told and "taken from that run" in told
    assert len(all_runs(root)) == 2
    assert {run["run"]: run["needed"] for t in shown(root)["trials"] for run in t["runs"]} == {1: False, 2: True}


def test_trials_with_equal_settings_are_told(root: Path) -> None:
    told = sweeping(root, "sweep", *SMALL, "--optimizer", "sgd", "--over", "momentum=0.9,none")
    assert "trial 2 has the same settings as trial 1\n" in told and len(all_runs(root)) == 1


# ---------------------------------------------------------------------------------------------------------- kills


def deadly(tmp_path: Path, *words: str, times: int = 1) -> list[str]:
    (tmp_path / "marks").mkdir(exist_ok=True)
    return [
        "sweep", "tests.sweeping:Deadly", "--data", "digits", "--epochs", "3", "--device", "cpu", "--checkpoint-every",
        "10steps", "--set", f"model.marks={tmp_path / 'marks'}", "--set", f"model.times={times}", *words,
    ]  # fmt: skip


def test_a_killed_worker_costs_only_the_time_since_the_last_checkpoint(root: Path, tmp_path: Path) -> None:
    told = sweeping(root, *deadly(tmp_path, "--over", "lr=0.1,0.03"))
    assert "goes on: its process was killed by SIGKILL (not enough memory?)\n" in told
    runs = sorted(run.number for run in all_runs(root))
    assert runs == [1, 2]
    infos = [finishing(Run(root, number)).info() for number in runs]
    assert sum(len(info.get("resumes", [])) for info in infos) == 1
    assert len(list((tmp_path / "marks").iterdir())) == 1
    quiet = tmp_path / "quiet"
    sweeping(quiet, *deadly(tmp_path, "--over", "lr=0.1,0.03"))  # its marks say that it has been killed
    for number in runs:
        assert same(weights(Run(root, number)), weights(Run(quiet, number)))


def test_a_trial_that_always_dies_has_failed_and_the_others_go_on(root: Path, tmp_path: Path) -> None:
    told = sweeping(root, *deadly(tmp_path, "--over", "model.at=5,9999", times=99), code=8)
    reason = "its process was killed by SIGKILL (not enough memory?), 3 times"
    assert told.endswith(f"error: 1 of 2 trials failed: trial 1: {reason}\n")
    assert {t["trial"]: t["status"] for t in shown(root)["trials"]} == {1: "failed", 2: "finished"}
    told = sweeping(root, "sweep", "resume", "1", "--failed", code=8)
    assert len(list((tmp_path / "marks").iterdir())) == 6 and len(all_runs(root)) == 2


def test_the_first_failure_can_stop_a_sweep(root: Path, tmp_path: Path) -> None:
    sweeping(root, *deadly(tmp_path, "--over", "model.at=5,9999", "--fail-fast", times=99), code=8)
    assert [t["status"] for t in shown(root)["trials"]] == ["failed"]


def test_a_trial_that_diverges_is_told(root: Path) -> None:
    told = sweeping(root, "sweep", *SMALL, "--over", "lr=0.1,1e30", code=8)
    found = {t["trial"]: t for t in shown(root)["trials"]}
    assert (found[1]["status"], found[2]["status"]) == ("finished", "diverged")
    assert found[2]["reason"] in told and Run(root, 2).info()["status"] == "diverged"


SLOW = (
    "sweep", "tests.sweeping:Slow", "--data", "digits", "--epochs", "3", "--device", "cpu", "--jobs", "2", "--set",
    "model.seconds=0.01", "--over", "lr=0.1,0.03,0.01",
)  # fmt: skip


def started(root: Path, *words: str) -> Sweeping:
    """A sweep whose first run has had an evaluation."""
    process = Sweeping(root, *SLOW, *words)
    wait_for(lambda: (root / "1" / "metrics.csv").exists())
    return process


def by_rate(root: Path) -> dict[float, Run]:
    return {run.settings()["lr"]: run for run in all_runs(root)}


def check_that_it_goes_on(root: Path, tmp_path: Path) -> None:
    told = sweeping(root, "sweep", "resume", "1", "--jobs", "2")
    assert sorted(run.number for run in all_runs(root)) == [1, 2, 3], told
    for run in all_runs(root):
        finishing(run)
    assert Run(root, 1).info()["resumes"]
    sweeping(tmp_path / "undisturbed", *SLOW)
    undisturbed = by_rate(tmp_path / "undisturbed")
    assert all(same(weights(run), weights(undisturbed[rate])) for rate, run in by_rate(root).items())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_all_after_their_checkpoints(number: signal.Signals, root: Path, tmp_path: Path) -> None:
    process = started(root)
    os.kill(process.pid, number)
    assert process.wait() == 128 + number
    assert f"{number.name}: saving checkpoints and stopping; a second one stops at once\n" in process.told
    assert {run.info()["status"] for run in all_runs(root)} == {"interrupted"}
    assert {t["status"] for t in shown(root)["trials"]} == {"interrupted"}
    if number == signal.SIGINT:
        check_that_it_goes_on(root, tmp_path)


def test_a_killed_driver_leaves_workers_that_stop(root: Path, tmp_path: Path) -> None:
    process = started(root)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_for(lambda: not any(run.is_locked() for run in all_runs(root)))
    for run in all_runs(root):
        assert run.info()["status"] == "interrupted"
        assert run.info()["stop"] == "the process that drives the sweep has ended"
    check_that_it_goes_on(root, tmp_path)


def test_a_worker_notices_before_the_next_evaluation_that_its_driver_is_gone(root: Path) -> None:
    process = Sweeping(root, *SLOW, "--epochs", "9999", "--eval-every", "9999epochs", "--checkpoint-every", "5steps")
    wait_for(lambda: any(checkpoint.exists(run.checkpoints, "last") for run in all_runs(root)))
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_for(lambda: not any(run.is_locked() for run in all_runs(root)))
    assert {run.info()["status"] for run in all_runs(root)} == {"interrupted"}


def test_a_sweep_is_stopped_by_a_command_and_has_one_driver(root: Path) -> None:
    process = started(root, "--epochs", "200")
    assert "error: sweep 1 in " in (told := sweeping(root, "sweep", "resume", "1", code=9))
    assert told.endswith("is driven by another process: stop it with dlcli sweep stop 1\n")
    assert shown(root)["status"] == "running"
    told = sweeping(root, "sweep", "stop", "1")
    assert told.endswith("saves its checkpoints and stops; go on with dlcli sweep resume 1\n")
    assert process.wait() == 143 and not (root / "sweeps" / "1" / "stop").exists()
    assert shown(root)["status"] == "stopped"
    told = sweeping(root, "sweep", "stop", "1", code=4)
    assert told.endswith("is not running: see dlcli sweep show 1\n")


def test_a_worker_that_is_asked_to_end_gives_its_run_to_another(root: Path) -> None:
    process = started(root)
    os.kill(Run(root, 1).info()["pid"], signal.SIGTERM)
    assert process.wait() == 0, process.told
    assert "goes on: stopped by SIGTERM\n" in process.told
    assert len(all_runs(root)) == 3 and all(finishing(run) for run in all_runs(root))


# ------------------------------------------------------------------------------------------------------- the log


def test_a_lost_log_is_made_again_of_the_runs(root: Path) -> None:
    sweeping(root, "sweep", *SMALL, "--over", "lr=0.1,0.03", "--seeds", "2", "--confirm", "1")
    before = shown(root)
    (root / "sweeps" / "1" / "log.jsonl").unlink()
    assert shown(root) == before
    sweeping(root, "sweep", "resume", "1")
    assert len(all_runs(root)) == 5 and shown(root) == before


def test_a_lost_log_of_a_sweep_that_goes_on(root: Path) -> None:
    sweeping(root, "sweep", *SMALL, "--over", "lr=uniform(0.1,0.2)", "--trials", "2", "--method", "random")
    (root / "sweeps" / "1" / "log.jsonl").unlink()
    shutil.copytree(root / "1", root / "7")  # a run that says nonsense of its sweep is left out
    info = json.loads((root / "7" / "run.json").read_text())
    del info["checksum"]
    (root / "7" / "run.json").write_text(json.dumps(info | {"trial": "one"}))
    assert sorted(trial["trial"] for trial in shown(root)["trials"]) == [1, 2]
    shutil.rmtree(root / "7")
    sweeping(root, "sweep", "resume", "1", "--trials", "+1")
    assert sorted(trial["trial"] for trial in shown(root)["trials"]) == [1, 2, 3] and len(all_runs(root)) == 3


def test_a_run_that_ended_just_before_a_kill_is_not_trained_again(root: Path) -> None:
    sweeping(root, "sweep", *SMALL, "--over", "lr=0.1,0.03")
    before, log = shown(root), root / "sweeps" / "1" / "log.jsonl"
    lines = log.read_text().splitlines(keepends=True)
    log.write_text("".join(lines[:-1]))  # the driver was killed before it wrote that the last one had ended
    assert {trial["status"] for trial in shown(root)["trials"]} == {"finished", "running"}
    sweeping(root, "sweep", "resume", "1")
    assert shown(root) == before and not Run(root, 2).info().get("resumes")


def test_a_line_that_a_power_failure_cut_off_is_left_out(root: Path) -> None:
    sweeping(root, "sweep", *SMALL, "--over", "lr=0.1,0.03")
    before, log = shown(root), root / "sweeps" / "1" / "log.jsonl"
    with open(log, "ab") as file:
        file.write(b'{"trial": 9, "se')
    assert shown(root) == before
    sweeping(root, "sweep", "resume", "1")
    assert log.read_bytes().endswith(b"}\n") and shown(root) == before


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("log.jsonl", b'{"trial": 0}\n', "log.jsonl is damaged: trial = 0 is not a whole number of at least 1"),
        ("log.jsonl", b"nonsense\n", "log.jsonl is damaged: "),
        ("sweep.json", b"[]", "sweep.json is damaged: it holds no sweep"),
        ("sweep.json", b'{"format": 2}', "sweep.json is damaged: it has no base"),
    ],
)
def test_a_damaged_sweep_is_told(name: str, content: bytes, message: str, root: Path) -> None:
    made = Sweep.create(root)
    made.write_plan({"format": 1}, "")
    (made.path / name).write_bytes(content)
    if name == "log.jsonl":
        plan = {"base": {"model": "mlp"}, "over": {"lr": "1,2"}, "method": "grid", "trials": None, "seeds": 1}
        made.write_plan({"format": 1, **plan, "prune": "off", "confirm": 0, "listed": None}, "")
    assert message in sweeping(root, "sweep", "show", "1", code=4)


# ------------------------------------------------------------------------------------------- pruning and samplers


def test_a_pruned_run_has_its_status_and_can_be_resumed(root: Path, tmp_path: Path) -> None:
    words = ["sweep", *SMALL[:4], "6", *SMALL[5:], "--over", "lr=0.1,0.2,0.15,0.05,0.12,1e-6", "--prune", "median"]
    told = sweeping(root, *words)
    assert "trial 6  run 6  lr=1e-06  val/accuracy 0" in told and "pruned  worse than the median of 5 others" in told
    run = Run(root, 6)
    info = run.info()
    assert info["status"] == "pruned" and info["epochs_done"] < 6
    assert "pruned" in sweeping(root, "runs", "--status", "pruned")
    assert {t["trial"]: t["status"] for t in shown(root)["trials"]}[6] == "pruned"
    sweeping(root, "resume", "6")
    sweeping(tmp_path / "whole", "train", *SMALL[:4], "6", *SMALL[5:], "--lr", "1e-6")
    assert finishing(run).info()["epochs_done"] == 6 and same(weights(run), weights(Run(tmp_path / "whole", 1)))


def test_an_extended_sweep_still_knows_what_its_pruner_saw(root: Path) -> None:
    words = ["sweep", *SMALL[:4], "6", *SMALL[5:], "--method", "random", "--prune", "median"]
    sweeping(root, *words, "--over", "lr=loguniform(0.05,0.2)", "--trials", "5")
    log, plan = root / "sweeps" / "1" / "log.jsonl", root / "sweeps" / "1" / "sweep.json"
    document = json.loads(plan.read_text())
    document["over"]["lr"] = "loguniform(1e-6,2e-6)"
    del document["checksum"]
    plan.write_text(json.dumps(document))
    sweeping(root, "sweep", "resume", "1", "--trials", "+1")
    assert json.loads(log.read_text().splitlines()[-1])["status"] == "pruned"


@needs_optuna
@pytest.mark.parametrize("method", ["tpe", "cmaes", "qmc"])
def test_a_sampler_suggests_within_the_space_and_goes_on(method: str, root: Path) -> None:
    words = ["--over", "lr=loguniform(0.01,0.5)", "--over", "batch_size=logint(16,128)", "--method", method]
    sweeping(root, "sweep", *SMALL, *words, "--trials", "4")
    sweeping(root, "sweep", "resume", "1", "--trials", "+2")
    settings = [t["settings"] for t in shown(root)["trials"]]
    assert len(settings) == 6 and len({repr(one) for one in settings}) == 6
    assert all(0.01 <= one["lr"] <= 0.5 and 16 <= one["batch_size"] <= 128 for one in settings)
    assert all(finishing(run) for run in all_runs(root))


@needs_optuna
def test_tpe_finds_the_minimum_of_a_function_better_than_random() -> None:
    from dlcli.sweeps.methods import Randomly
    from dlcli.sweeps.samplers import Sampled
    from dlcli.sweeps.space import parse

    axes = parse(["lr=loguniform(1e-5,1)", "weight_decay=uniform(0,1)", "optimizer=adam,sgd"])

    def loss(settings: dict[str, Any]) -> float:
        away = (math.log10(settings["lr"]) + 2) ** 2 + (settings["weight_decay"] - 0.3) ** 2
        return away + (settings["optimizer"] == "adam")

    wins = 0
    for seed in range(5):
        found = []
        for method in (Sampled("tpe", axes, seed=seed, jobs=1, earlier=0), Randomly(axes, seed=seed)):
            losses = []
            for trial in range(1, 61):
                settings = method.suggest(trial)
                assert settings is not None
                losses.append(loss(settings))
                method.tell(trial, settings, loss=losses[-1], pruned=False)
            found.append(min(losses))
        wins += found[0] < found[1]
    assert wins >= 4


@needs_optuna
def test_a_resumed_sampler_knows_the_trials_of_earlier_processes() -> None:
    from dlcli.sweeps.samplers import Sampled
    from dlcli.sweeps.space import parse

    axes = parse(["lr=loguniform(1e-5,1)", "optimizer=adam,sgd"])
    rates = [10 ** (-5 * place / 40) for place in range(40)]
    away = []
    for known in (True, False):
        resumed = Sampled("tpe", axes, seed=0, jobs=1, earlier=40)
        for trial, rate in enumerate(rates if known else (), start=1):
            loss = abs(math.log10(rate) + 3) if trial != 7 else None  # one has failed
            resumed.tell(trial, {"lr": rate, "optimizer": "sgd"}, loss=loss, pruned=trial % 5 == 0)
        suggested = [resumed.suggest(41 + number) for number in range(20)]
        away.append(sum(abs(math.log10(one["lr"]) + 3) for one in suggested if one) / 20)
    assert away[0] < 0.5 < away[1]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--over", "lrr=1,2"], 2, "unknown setting lrr: did you mean lr"),
        (["--over", "model.hiden=1,2"], 2, "unknown setting model.hiden: did you mean hidden?"),
        (["--over", "model.hidden=8,a"], 2, "model.hidden = 'a' is not a list of whole numbers"),
        (["--over", "lr=loguniform(0,1)"], 2, "--over lr=loguniform(0,1) goes through zero, where there is no "
         "logarithm: LOW must be above 0"),
        (["--over", "lr=uniform(0.1,1)", "--over", "model.hidden=4,8", "--method", "cmaes"], 2, "--method cmaes "),
        (["--over", "lr=0.1,0.2", "--monitor", "acuracy"], 2, "trial 1 (lr=0.1): monitor = acuracy is no metric of "),
        (["--over", "lr=0.1,0.2", "--data", "table:none.csv", "--target", "y"], 3, "none.csv"),
        (["--over", "lr=0.1,0.2", "--devices", "a"], 2, "--devices a is not a list of numbers such as 0,1"),
        (["--over", "lr=0.1,0.2", "--epochs", "0"], 2, "epochs = 0 is out of range"),
        (["--over", "lr=0.1,0.2", "--val-fraction", "0"], 2, "trial 1 (lr=0.1): nothing is held out for validation, by "
         "which a sweep chooses: take val_fraction above 0"),
    ],
)  # fmt: skip
def test_bad_input_leaves_nothing(words: list[str], code: int, message: str, root: Path) -> None:
    told = sweeping(root, "sweep", *SMALL, *words, code=code)
    assert message in told and told.count("error: ") == 1 and "Traceback" not in told
    assert all_runs(root) == [] and not list(root.glob("sweeps/*"))


def test_a_result_in_another_metric_is_not_compared(root: Path) -> None:
    made = Sweep.create(root)
    plan = make(
        base={"model": "mlp"}, over=["lr=0.1,0.2,0.3"], method=None, trials=None, seeds=1, prune="off", confirm=0
    )
    driver = _Driver(made, plan, Workers(runs_dir=root, jobs=1), 1, lambda: None, lambda: None, False, False)
    runs = [TrialRun(k, 0, {"lr": k / 10}, "running", k, m, v, True) for k, m, v in
            [(1, "val/auc", 0.9), (2, "val/loss", 0.1), (3, None, None)]]  # fmt: skip
    driver._known.update({(one.trial, one.seed): one for one in runs})
    driver._settings.update({one.trial: dict(one.settings) for one in runs})
    for one in runs:
        list(driver._close(one, "finished", None))
    assert [(one.status, one.reason) for one in made.trials()] == [
        ("finished", None),
        ("failed", "its result is in val/loss, that of the others in val/auc"),
        ("failed", "the metric that decides was never defined"),
    ]


def test_sweeps_that_there_are_not(root: Path) -> None:
    for word in ("show", "resume", "stop", "best"):
        assert sweeping(root, "sweep", word, "3", code=4) == f"error: there is no sweep 3 in {root}: there is none\n"
    sweeping(root, "sweep", *SMALL, "--over", "lr=0.1,0.2")
    assert sweeping(root, "sweep", "show", "3", code=4).endswith("there are 1\n")
    assert sweeping(root, "sweep", "resume", "1", "--trials", "+2", code=2).endswith(
        "error: --trials +2: this sweep tries all of a fixed list; make a new one\n"
    )


# --------------------------------------------------------------------------------------------------------- pictures


def test_a_sweep_is_drawn(root: Path, tmp_path: Path) -> None:
    words = ["--over", "lr=0.1,0.003", "--over", "optimizer=sgd,adam", "--seeds", "2"]
    sweeping(root, "sweep", *SMALL, *words)
    told = sweeping(root, "plot", "--sweep", "1", "-o", str(tmp_path / "s.csv"))
    assert told == f"optimizer: 0 is adam, 1 is sgd\nwritten: {tmp_path / 's.csv'}\n"
    rows = list(csv.DictReader((tmp_path / "s.csv").read_text().splitlines()))
    means = {trial["settings"]["lr"]: [] for trial in shown(root)["trials"]}  # type: ignore[var-annotated]
    for trial in shown(root)["trials"]:
        means[trial["settings"]["lr"]].append(trial["value"]["mean"])
    drawn = [row for row in rows if row["panel"] == "lr" and row["line"] == "trials"]
    for rate, values in means.items():
        found = [float(row["y"]) for row in drawn if math.isclose(float(row["x"]), math.log10(rate))]
        assert sorted(found) == pytest.approx(sorted(values))
    assert {row["panel"] for row in rows} == {"lr", "optimizer", "lr and optimizer"}
    assert sum(row["line"] == "best third" for row in rows) == 2
    told = sweeping(root, "plot", "--sweep", "1", "--x", "step", code=2)
    assert told == "error: --sweep 1 draws a sweep: leave out runs, and options for pictures of runs\n"


def test_importance_needs_trials(root: Path) -> None:
    sweeping(root, "sweep", *SMALL, "--over", "lr=0.1,0.003")
    told = sweeping(root, "sweep", "show", "1", "--importance", code=4)
    assert told == "error: importances need 10 finished trials of several settings, and there are 2\n"


def test_the_runs_of_a_sweep_are_listed_and_selected(root: Path) -> None:
    sweeping(root, "train", *SMALL)
    sweeping(root, "sweep", *SMALL, "--over", "lr=0.1,0.003")
    rows = json.loads(sweeping(root, "runs", "--sweep", "1", "--json"))
    assert [(row["run"], row["sweep"], row["trial"]) for row in rows] == [(3, 1, 2), (2, 1, 1)]
    assert [row["sweep"] for row in json.loads(sweeping(root, "runs", "--json"))] == [1, 1, None]
    assert sweeping(root, "runs", "select", "best:val/accuracy", "--sweep", "1") == "2\n"
    assert sweeping(root, "runs", "select", "best:val/accuracy", "--where", "trial = 2") == "3\n"


def test_a_sweep_is_reported(root: Path, tmp_path: Path) -> None:
    sweeping(root, "sweep", *SMALL, "--over", "lr=0.1,0.003", "--seeds", "2", "--confirm", "2")
    sweeping(root, "report", "--sweep", "1", "-o", str(tmp_path / "r.html"))
    page = (tmp_path / "r.html").read_text()
    best = shown(root)["best"]
    assert (
        f"The best is trial 1: val/accuracy {best['value']['mean']:.4f}, the mean of 2 seeds. With 2 fresh seeds"
        in page
    )
    assert "Trials, the best first" in page and "share of its range" in page
    assert "Importances need 10 finished trials of several settings, and there are 2." in page
    told = sweeping(root, "report", "1", "--sweep", "1", "--md", code=2)
    assert told == "error: --sweep 1 reports its runs: leave out 1\n"


def test_a_worker_that_has_just_ended_is_not_started_again_to_be_told(root: Path) -> None:
    workers = Workers(runs_dir=root, jobs=0)
    workers.tell(3, "stop", reason="SIGINT")
    assert workers.free(()) is None
