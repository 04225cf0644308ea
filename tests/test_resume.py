"""A resumed run is bit for bit equal to one that never stopped: in every tensor of its state, not only in losses."""

import json
import random
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from dlcli import TrainConfig, train
from dlcli.analysis.prune.prune import Wish, opened, prune
from dlcli.checkpoints import checkpoint
from dlcli.cli.main import app
from dlcli.core.errors import BusyError, ConfigError, ResourceError, RunError
from dlcli.experiment.build import build
from dlcli.runs.run import Run
from dlcli.training.provenance import differences
from dlcli.training.saver import Saver
from dlcli.training.state import TrainingState
from dlcli.training.train import fit, resume
from tests.conftest import Dlcli
from tests.test_cli import start

TIMES = ("seconds", "samples_per_second")

# Every feature that has a state or draws random numbers.
KINDS: dict[str, dict[str, Any]] = {
    "cnn": {
        "model": "cnn", "model_options": {"dropout": 0.3}, "augment": ("shift=1", "noise=0.1", "mixup=0.3"), "ema": 0.9,
        "schedule": "cosine", "accumulate": 2, "optimizer": "adamw", "weight_decay": 0.1, "batch_size": 100,
    },
    "rnn": {
        "model": "rnn", "data": f"text:{__file__}", "model_options": {"hidden": 16, "dropout": 0.2},
        "data_options": {"length": 24}, "ema": 0.5, "batch_size": 64, "schedule": "one-cycle",
    },
    "words": {
        "model": "attention", "data": f"text:{__file__}", "model_options": {"width": 16, "dropout": 0.2},
        "data_options": {"length": 24, "tokens": "words", "vocabulary": 400}, "batch_size": 64,
    },
    "attention": {
        "model": "attention", "data": "recall", "data_options": {"samples": 600}, "model_options": {"dropout": 0.2},
        "ema": 0.9, "optimizer": "rmsprop", "momentum": 0.5, "schedule": "step", "step_epochs": 1, "batch_size": 64,
    },
    "frozen": {
        "model": "cnn", "freeze": "backbone", "unfreeze_at": 2, "ema": 0.9, "optimizer": "adam", "batch_size": 100,
        "layer_decay": 0.5, "clip_norm": 1.0,
    },
    "linear": {
        "model": "linear", "data": "diabetes", "optimizer": "sgd", "nesterov": True, "augment": ("noise=0.1",),
        "warmup_epochs": 1.5, "ema": 0.8, "l1": 0.01, "batch_size": 32, "lr": 0.01, "eval_every": 1, "log_every": 3,
        "log": "tensorboard",
    },
}  # fmt: skip


def config(kind: str, **changes: Any) -> TrainConfig:
    return TrainConfig(**({"epochs": 3, "device": "cpu", "patience": 0} | KINDS[kind] | changes))


def everything(run: Run) -> tuple[dict[str, torch.Tensor], dict[str, Any], list[dict[str, float | None]]]:
    """All tensors of both checkpoints, all values of the state, and the rows of metrics except times."""
    tensors, values = {}, {}
    for role in ("best", "last"):
        saved = checkpoint.load(run.checkpoints, role, with_training=True)
        tensors |= {f"{role}.{n}": t for n, t in (saved.weights | (saved.training or {})).items()}
        values[role] = json.loads(json.dumps(saved.state))
    for name in ("metrics_bytes", "log_bytes"):
        values["last"]["training"].pop(name)
    rows = [{k: v for k, v in row.items() if k not in TIMES} for row in run.metrics()]
    return tensors, values, rows


def assert_same(one: Run, other: Run) -> None:
    tensors, values, rows = everything(one)
    others, other_values, other_rows = everything(other)
    assert rows == other_rows
    assert values == other_values
    assert tensors.keys() == others.keys()
    assert [name for name in tensors if not torch.equal(tensors[name], others[name])] == []


def stopping_at(step: int) -> Any:
    """A `stop` that returns a reason after that many steps in this process."""
    count = iter(range(1, 10**9))
    return lambda: "SIGINT" if next(count) >= step else None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stops", [(1,), (4,), (2, 1), (2, 1, 3), "last batch", "epoch"], ids=str)
def test_the_resume_matrix(kind: str, stops: Any, tmp_path: Path) -> None:
    """Stopped never; after the first step; inside an epoch; two and three times in one; at its last batch; after it."""
    made = config(kind)
    list(train(made, runs_dir=tmp_path))
    straight = Run(tmp_path, 1)
    steps_per_epoch = build(made).steps_per_epoch
    if stops == "last batch":
        stops = (steps_per_epoch,)
    elif stops == "epoch":
        stops = (steps_per_epoch + 1,)
    list(train(made, runs_dir=tmp_path, stop=stopping_at(stops[0])))
    stopped = Run(tmp_path, 2)
    assert stopped.info()["status"] == "interrupted"
    for step in stops[1:]:
        torch.manual_seed(random.randrange(1000))  # earlier work of the process must not matter
        list(resume(stopped, stop=stopping_at(step)))
    list(resume(stopped))
    assert_same(straight, stopped)
    info = stopped.info()
    assert (info["status"], info["epochs_done"], info["step"]) == ("finished", 3, straight.info()["step"])
    assert len(info["resumes"]) == len(stops)
    assert all(resume["not_exact"] == [] for resume in info["resumes"])
    assert info["best"] == straight.info()["best"]
    log = [(run.path / "log.txt").read_text().splitlines() for run in (straight, stopped)]
    assert [line.split("  val")[0] for line in log[0]] == [line.split("  val")[0] for line in log[1]]


@pytest.mark.parametrize(("structured", "kind"), [(True, "cnn"), (False, "cnn"), (True, "attention")])
def test_a_pruned_run(structured: bool, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its layers are as narrow as those in its checkpoint, and its zeros those of its weights: nothing else is kept."""
    monkeypatch.setattr("dlcli.analysis.prune.prune.latencies", lambda before, after: [])
    list(train(config(kind, epochs=1), runs_dir=tmp_path))
    wish = Wish(structured=structured, by="gradient", amount=0.5, flops=None, epochs=2)
    for number, stop in ((2, None), (3, stopping_at(2))):
        pruned = prune(Run(tmp_path, 1), wish, split="val", runs_dir=tmp_path)
        with opened(pruned, runs_dir=tmp_path, name=None, command="") as session:
            list(fit(session, stop=stop))
        assert session.run.number == number
    stopped = Run(tmp_path, 3)
    assert stopped.info()["status"] == "interrupted"
    torch.manual_seed(random.randrange(1000))
    list(resume(stopped, stop=stopping_at(3)))
    list(resume(stopped, exact=True))
    assert_same(Run(tmp_path, 2), stopped)
    assert [resume["not_exact"] for resume in stopped.info()["resumes"]] == [[], []]


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_never_saved_begins_again_in_its_folder(kind: str, tmp_path: Path) -> None:
    made = config(kind)
    list(train(made, runs_dir=tmp_path))
    with pytest.raises(ZeroDivisionError):
        list(train(made, runs_dir=tmp_path, stop=failing_after(2)))
    killed = Run(tmp_path, 2)
    assert list(killed.checkpoints.iterdir()) == []
    list(resume(killed))
    assert_same(Run(tmp_path, 1), killed)
    assert [(r["step"]) for r in killed.info()["resumes"]] == [0]


def damage(folder: Path) -> Path:
    file = folder / "training.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 16
    file.write_bytes(content)
    return file


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_gone_on_from(tmp_path: Path) -> None:
    made = config("linear", epochs=6, checkpoint_every="3steps")
    for _ in range(2):
        list(train(made.replace(epochs=4), runs_dir=tmp_path))
    one, other = Run(tmp_path, 1), Run(tmp_path, 2)
    file = damage(checkpoint.load(other.checkpoints, "last").path)
    result = CliRunner().invoke(app, ["resume", "2", "--runs-dir", str(tmp_path), "--epochs", "6"])
    assert result.exit_code == 0, result.output
    told = result.stderr.splitlines()
    assert told[0] == f"{file} is damaged: its sha256 is not the recorded one: an older checkpoint is used"
    assert told[1] == f"run 2 in {other}, from epoch 4, step 39; exact: yes"
    list(resume(one, epochs=6))
    assert_same(one, other)


def test_the_newest_two_last_checkpoints_are_kept_unless_told_otherwise(tmp_path: Path) -> None:
    made = config("linear", checkpoint_every="3steps")
    for keep, changes in enumerate(({"keep_last": 1}, {}, {"keep_last": 3}), 1):
        list(train(made.replace(**changes), runs_dir=tmp_path))
        names = [p.name for p in Run(tmp_path, keep).checkpoints.iterdir()]
        assert sorted(n for n in names if n.startswith("last")) == ["last-24", "last-27", "last-30"][-keep:]


def test_training_goes_on_while_a_checkpoint_is_written_one_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights in the checkpoint are those at the start of the save, although training continues meanwhile."""
    writing, may_end = threading.Event(), threading.Event()
    original = checkpoint.save
    busy: list[int] = []

    def slow(*given: Any, **named: Any) -> Path:
        busy.append(1)
        assert len(busy) == 1, "two saves at once"
        writing.set()
        assert may_end.wait(60)
        path = original(*given, **named)
        busy.pop()
        return path

    steps = iter(range(1, 10**9))

    def stop() -> None:
        step = next(steps)
        if step == 5:
            assert writing.wait(60)  # the save of step 3 has started and is blocked, while training is at step 5
            may_end.set()

    made = config("linear", epochs=1, warmup_epochs=0, checkpoint_every="3steps", keep_last=99)
    list(train(made, runs_dir=tmp_path))
    monkeypatch.setattr(checkpoint, "save", slow)
    list(train(made, runs_dir=tmp_path, stop=stop))
    one, other = (
        {p.name: load_file(p / "training.safetensors") for p in run.checkpoints.glob("last-*")}
        for run in (Run(tmp_path, 1), Run(tmp_path, 2))
    )
    assert one.keys() == other.keys() == {"last-3", "last-6", "last-9", "last-10"}
    for name in one:
        assert all(torch.equal(one[name][n], other[name][n]) for n in one[name])


def test_run_json_does_not_speak_of_an_epoch_before_its_checkpoint_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[tuple[int, bool]] = []
    original = Run.write_info

    def write_info(self: Run, info: Any) -> None:
        if info["step"]:
            found.append((info["step"], checkpoint.load(self.checkpoints, "last").state["step"] >= info["step"]))
        original(self, info)

    monkeypatch.setattr(Run, "write_info", write_info)
    monkeypatch.setattr("dlcli.training.saver._LEAST_SECONDS", 0.0)
    list(train(config("linear"), runs_dir=tmp_path))
    assert found == [(10, True), (20, True), (30, True), (30, True)]


def test_the_speed_after_a_resume_is_that_of_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10**9))
    monkeypatch.setattr("dlcli.training.meter.time.perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr("dlcli.training.meter._PROGRESS_SECONDS", 1e9)
    made = config("linear", epochs=1, warmup_epochs=0, log_every=0, batch_size=32)
    list(train(made, runs_dir=tmp_path, stop=stopping_at(8)))
    clock = iter(range(10**9))
    list(resume(Run(tmp_path, 1)))
    # This clock advances when it is read: at the start, once per step, at the end. Two of ten batches remain.
    (row,) = Run(tmp_path, 1).metrics()
    assert row["seconds"] == 3
    assert row["samples_per_second"] == round((32 + 31) / 3, 1)


def test_what_a_save_meets_ends_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: Any, **named: Any) -> Path:
        raise ResourceError("no space")

    monkeypatch.setattr(checkpoint, "save", full)
    with pytest.raises(ResourceError, match="no space"):
        list(train(config("linear"), runs_dir=tmp_path))
    assert (Run(tmp_path, 1).info()["status"], Run(tmp_path, 1).info()["reason"]) == ("failed", "no space")


@pytest.mark.parametrize("part", ["optimizer", "random.cpu", "loss_sum", "model"])
def test_the_comparison_bites(part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If one part of the state is left out of the checkpoint, the matrix above must detect it."""
    from dlcli.training.state import TrainingState

    made = config("cnn", epochs=2)
    list(train(made, runs_dir=tmp_path))
    original = TrainingState.tensors

    def forgetful(self: TrainingState, *, kept: bool) -> dict[str, torch.Tensor]:
        fresh = original(TrainingState(build(made)), kept=kept)
        found = original(self, kept=kept)
        return found | {name: fresh[name] for name in found if name.startswith(part)}

    monkeypatch.setattr(TrainingState, "tensors", forgetful)
    list(train(made, runs_dir=tmp_path, stop=stopping_at(3)))
    monkeypatch.setattr(TrainingState, "tensors", original)
    list(resume(Run(tmp_path, 2)))
    with pytest.raises(AssertionError):
        assert_same(Run(tmp_path, 1), Run(tmp_path, 2))


def test_a_finished_run_is_extended_as_if_it_had_been_longer(tmp_path: Path) -> None:
    made = config("attention", epochs=4)
    list(train(made, runs_dir=tmp_path))
    list(train(made.replace(epochs=2), runs_dir=tmp_path))
    list(resume(Run(tmp_path, 2), epochs=4))
    assert_same(Run(tmp_path, 1), Run(tmp_path, 2))
    assert Run(tmp_path, 2).config().epochs == 4


def test_rows_after_the_checkpoint_are_written_again_not_twice(tmp_path: Path) -> None:
    made = config("linear")
    list(train(made, runs_dir=tmp_path))
    run = Run(tmp_path, 1)
    before = run.metrics_file.read_text()
    list(train(made.replace(epochs=2), runs_dir=tmp_path))
    other = Run(tmp_path, 2)
    with open(other.metrics_file, "a") as file:
        file.write("3,31,0.5\n3,3")
    list(resume(other, epochs=3))
    assert [line.split(",")[:3] for line in other.metrics_file.read_text().splitlines()] == [
        line.split(",")[:3] for line in before.splitlines()
    ]


@pytest.mark.parametrize("every", ["3steps", "1s", "2epochs"])
def test_checkpoints_come_at_the_interval(every: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dlcli.training.saver._LEAST_SECONDS", 0.0)
    clock = iter(range(10**9))
    monkeypatch.setattr("dlcli.training.saver.time.monotonic", lambda: next(clock) * 0.26)
    steps: list[int] = []
    original = Saver.write

    def write(self: Saver, state: Any, **rest: Any) -> None:
        steps.append(state.step)
        original(self, state, **rest)

    monkeypatch.setattr(Saver, "write", write)
    made = config("attention", epochs=4, checkpoint_every=every)
    per_epoch = build(made).steps_per_epoch
    list(train(made, runs_dir=tmp_path))
    last = 4 * per_epoch
    if every == "3steps":
        assert steps == sorted({*range(3, last + 1, 3), last})
    elif every == "2epochs":
        assert steps == [2 * per_epoch, last]
    else:
        assert len(steps) > 4 and steps[-1] == last


def test_epochs_between_checkpoints_do_not_wait_for_an_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is resumed from such a checkpoint is exact."""
    monkeypatch.setattr("dlcli.training.saver._LEAST_SECONDS", 0.0)
    made = config("attention", epochs=5, eval_every=5, checkpoint_every="2epochs")
    per_epoch = build(made).steps_per_epoch
    list(train(made, runs_dir=tmp_path))
    monkeypatch.setattr("dlcli.training.saver.Saver.close", Saver.wait)
    with pytest.raises(ZeroDivisionError):
        list(train(made, runs_dir=tmp_path, stop=failing_after(4 * per_epoch + 2)))
    monkeypatch.undo()
    killed = Run(tmp_path, 2)
    assert checkpoint.load(killed.checkpoints, "last").state["step"] == 4 * per_epoch
    list(resume(killed))
    assert_same(Run(tmp_path, 1), killed)


def failing_after(steps: int) -> Any:
    """A `stop` that raises, as after a bug or a lost machine, without a save."""
    count = iter(range(1, 10**9))
    return lambda: None if next(count) < steps else 1 / 0


def test_a_busy_run_is_refused(tmp_path: Path) -> None:
    list(train(config("linear"), runs_dir=tmp_path))
    run = Run(tmp_path, 1)
    with run.locked(), pytest.raises(BusyError) as caught:
        list(resume(run, epochs=5))
    assert str(caught.value) == f"{run} is being trained by another process"


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    list(train(config("linear"), runs_dir=tmp_path))
    run = Run(tmp_path, 1)
    with pytest.raises(RunError) as caught:
        list(resume(run, epochs=5, data="line", normalize=False, augment=(), data_options={}))
    assert str(caught.value) == (
        "the run's last checkpoint does not fit the model that the run describes (of another shape: linear.weight)"
    )
    assert run.info()["status"] == "finished"


def test_why_a_resume_is_not_exact() -> None:
    before = {"device": "cpu", "threads": 2, "eval_threads": 2, "torch": "2.14", "dlcli": "0.1", "fingerprint": "a"}
    before |= {"processes": 1, "cpu": "Z80", "cpu_capability": "AVX2", "environment": {}}
    settings = {"lr": 0.1, "epochs": 10, "schedule": "constant", "seed": 0}
    same = before | {"config": settings}
    assert differences(same, same) == []
    assert differences(same, same | {"config": settings | {"epochs": 20}}) == []
    after = before | {"threads": 8, "torch": "2.15", "fingerprint": "b", "config": settings | {"lr": 0.2}}
    assert differences(same, after) == ["threads 2 -> 8", "torch 2.14 -> 2.15", "data changed", "lr 0.1 -> 0.2"]
    gpu = same | {"device": "cuda (X)"}
    assert differences(gpu, gpu) == ["cuda without deterministic"]
    exact = gpu | {"config": settings | {"deterministic": True}}
    assert differences(exact, exact) == []
    older = {name: value for name, value in same.items() if name != "cpu"}
    assert differences(older, same | {"environment": {"MKL_CBWR": "COMPATIBLE"}}) == [
        "cpu unknown -> Z80", "environment {} -> {'MKL_CBWR': 'COMPATIBLE'}"
    ]  # fmt: skip
    cosine = settings | {"schedule": "cosine"}
    assert differences(before | {"config": cosine}, before | {"config": cosine | {"epochs": 20}}) == [
        "schedule cosine stretched from 10 epochs to 20 epochs"
    ]
    for schedule, reasons in (("constant", []), ("step", ["schedule step stretched from 50 steps to 80 steps"])):
        in_steps = settings | {"epochs": None, "schedule": schedule, "step_epochs": None}
        configs = [before | {"config": in_steps | {"steps": steps}} for steps in (50, 80)]
        assert differences(*configs) == reasons
    warmer = before | {"config": settings | {"warmup_epochs": 3.0}}
    assert differences(same, warmer) == ["warmup_epochs None -> 3.0"]


def test_the_command(tmp_path: Path) -> None:
    def invoke(*words: str, code: int = 0) -> Any:
        result = CliRunner().invoke(app, [*words, "--runs-dir", str(tmp_path)])
        assert result.exit_code == code, result.output
        return result

    invoke("train", "mlp", "--epochs", "2", "--device", "cpu")
    err = invoke("resume", "1", code=2).stderr
    assert err == f"error: {tmp_path}/1 has done its 2 epochs: extend it with --epochs above 2\n"
    result = invoke("resume", "latest", "--epochs", "4", "--exact")
    lines = result.stderr.splitlines()
    assert lines[:2] == [f"run 1 in {tmp_path}/1, from epoch 3, step 42; exact: yes", "epochs: 2 -> 4"]
    assert lines[2].startswith("epoch 3/4  ")
    assert result.stdout.splitlines()[1].split()[4] == "4/4"
    err = invoke("resume", "1", "--epochs", "5", "--lr", "0.001", "--exact", code=4).stderr
    assert err == "error: exact: no (lr 0.01 -> 0.001); without --exact it continues anyway\n"
    err = invoke("resume", "1", "--epochs", "5", "--lr", "0.001").stderr
    assert err.splitlines()[0].endswith("exact: no (lr 0.01 -> 0.001)")
    assert "lr: 0.01 -> 0.001" in err.splitlines()
    assert [row["lr"] for row in Run(tmp_path, 1).metrics()] == [0.01] * 4 + [0.001]
    with Run(tmp_path, 1).locked():
        info = Run(tmp_path, 1).info()
        Run(tmp_path, 1).write_info(info | {"status": "running"})
        err = invoke("resume", "1", "--epochs", "6", code=9).stderr
        assert err == f"error: {tmp_path}/1 is being trained by process {info['pid']} on {info['host']}\n"


def kill_and_resume(tmp_path: Path, *, kills: int, epochs: int, seed: int) -> None:
    """Train to the end in a series of processes, each of which resumes and is killed while it trains."""
    made = TrainConfig("mlp", epochs=epochs, lr=0.001, device="cpu", checkpoint_every="100steps")
    list(train(made, runs_dir=tmp_path / "straight"))
    killed, generator = Run(tmp_path / "runs", 1), random.Random(seed)
    words: tuple[str, ...] = ("train", "mlp", "--epochs", str(epochs), "--device", "cpu", "--lr", "0.001")
    words += ("--checkpoint-every", "100steps")
    steps = []
    for _ in range(kills):
        process = start(tmp_path, *words, "--quiet")
        while not killed.is_locked():
            assert process.poll() is None, process.communicate()
            time.sleep(0.005)
        time.sleep(generator.uniform(0, 1))
        assert process.poll() is None, "it must be killed while it trains: give it more epochs"
        process.kill()
        process.communicate()
        if (killed.path / "run.json").exists():
            assert killed.info()["status"] == "dead"
            words = ("resume", "1")
        else:  # killed before run.json was written: it cannot be resumed, and the next number is used
            killed = Run(killed.root, killed.number + 1)
        saved = checkpoint.load(killed.checkpoints, "last") if checkpoint.exists(killed.checkpoints, "last") else None
        steps.append(saved.state["step"] if saved else 0)
    process = start(tmp_path, *words, "--quiet")
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert killed.info()["status"] == "finished"
    assert steps == sorted(steps)
    assert_same(Run(tmp_path / "straight", 1), killed)
    print(f"killed {kills} times, with checkpoints of the steps {steps}, and finished with the same bits")


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    kill_and_resume(tmp_path, kills=1, epochs=200, seed=0)


@pytest.mark.slow
def test_thirty_kills(tmp_path: Path) -> None:
    for seed in range(3):
        kill_and_resume(tmp_path / str(seed), kills=10, epochs=900, seed=seed)


def test_a_training_cannot_go_on_from_a_checkpoint_without_training(tmp_path: Path) -> None:
    made = config("linear")
    list(train(made, runs_dir=tmp_path))
    run = Run(tmp_path, 1)
    best = checkpoint.load(run.checkpoints, "best", with_training=True)
    with pytest.raises(RunError) as caught:
        TrainingState(build(made.replace(epochs=9))).restore(best)
    assert str(caught.value) == f"{best.path} holds weights but no training to go on from"
    assert load_file(best.path / "model.safetensors").keys() == best.weights.keys()


def test_the_library_and_the_command_line_resume_by_the_same_rules(tmp_path: Path) -> None:
    list(train(config("linear", epochs=2), runs_dir=tmp_path))
    run = Run(tmp_path, 1)
    refusals = {
        f"{run} has done its 2 epochs: extend it with --epochs above 2": {},
        "exact: no (lr 0.01 -> 0.02); without --exact it continues anyway": {"epochs": 3, "lr": 0.02},
    }
    for sentence, changes in refusals.items():
        with pytest.raises((ConfigError, RunError)) as caught:
            list(resume(run, exact=True, **changes))
        assert str(caught.value) == sentence
        words = [word for name, value in changes.items() for word in (f"--{name}", str(value))]
        told = CliRunner().invoke(app, ["resume", "1", "--exact", *words, "--runs-dir", str(tmp_path)])
        assert (told.exit_code, told.stderr) == (caught.value.exit_code, f"error: {sentence}\n")
    assert (run.info()["status"], run.info()["step"], "resumes" in run.info()) == ("finished", 20, False)


def test_a_training_in_steps_says_so_when_it_is_extended(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        list(train(config("linear", epochs=None, steps=12), runs_dir=tmp_path))
    assert str(caught.value) == "warmup_epochs = 1.5 is 15 steps, more than steps = 12"
    list(train(config("linear", epochs=None, steps=12, warmup_epochs=1), runs_dir=tmp_path))
    run = Run(tmp_path, 1)
    with pytest.raises(ConfigError) as caught:
        list(resume(run))
    assert str(caught.value) == f"{run} has done its 12 steps: extend it with --steps above 12"
    list(resume(run, exact=True, steps=20))
    list(train(config("linear", epochs=2, warmup_epochs=1), runs_dir=tmp_path))
    ours, straight = (load_file(Run(tmp_path, n).checkpoints / "last-20" / "model.safetensors") for n in (1, 2))
    assert all(torch.equal(ours[name], straight[name]) for name in ours)


@pytest.mark.parametrize(
    ("first", "then"),
    [("one-cycle", "cosine"), ("step", "one-cycle"), ("one-cycle", "constant"), ("cosine", "step")],
)
def test_another_schedule_does_not_ask_for_settings_that_nobody_typed(
    dlcli: Dlcli, tmp_path: Path, first: str, then: str
) -> None:
    dlcli("train", "mlp", "--data", "iris", "--epochs", "2", "--schedule", first, "--device", "cpu", "--quiet")
    done = dlcli("resume", "1", "--epochs", "4", "--schedule", then)
    assert f"schedule: {first} -> {then}" in done.stderr.splitlines()
    config = Run(tmp_path / "runs", 1).config()
    fresh = TrainConfig("mlp", data="iris", epochs=4, schedule=then, device="cpu")
    for name in ("schedule", "warmup_epochs", "step_epochs", "step_gamma"):
        assert getattr(config, name) == getattr(fresh, name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--optimizer", "adam"), "optimizer = adam, but runs/1 has the state of sgd: leave it, or train a new run"),
        (("--ema", "0.9"), "ema = 0.9, but runs/1 has no average of its weights: leave it, or train a new run"),
    ],
)
def test_what_would_need_another_state(dlcli: Dlcli, change: tuple[str, str], message: str) -> None:
    dlcli("train", "mlp", "--data", "iris", "--epochs", "1", "--device", "cpu", "--quiet")
    done = dlcli("resume", "1", "--epochs", "2", *change, check=2)
    assert (done.stdout, done.stderr) == ("", f"error: {message}\n")
    dlcli("resume", "1", "--epochs", "2", "--exact")  # nothing of it was written


def test_a_run_is_not_shortened_to_less_than_it_has_done(dlcli: Dlcli, tmp_path: Path) -> None:
    """It once became a finished run of 3/2 epochs, without a step."""
    made = TrainConfig(model="mlp", data="iris", epochs=9, device="cpu")
    steps = iter(range(100))
    list(train(made, runs_dir=tmp_path / "runs", stop=lambda: "enough" if next(steps) == 20 else None))
    info = (tmp_path / "runs/1/run.json").read_text()
    done = dlcli("resume", "1", "--epochs", "2", check=2)
    assert done.stderr == "error: epochs = 2 ends at step 14, but runs/1 has done 21 steps: take a larger --epochs\n"
    assert (tmp_path / "runs/1/run.json").read_text() == info
    dlcli("resume", "1", "--epochs", "3", "--quiet")  # exactly as many: it has finished
    assert Run(tmp_path / "runs", 1).info()["status"] == "finished"


def test_the_help_of_resume_shows_no_defaults_of_train() -> None:
    text = " ".join(CliRunner().invoke(app, ["resume", "--help"], env={"COLUMNS": "200"}).stdout.split())
    assert re.findall(r"\(default: \w+", text) == ["(default: runs"]  # of --runs-dir
    assert "Settings given here replace those of the run" in text
