"""The checks pass if the promise holds, and report what is wrong if it was broken on purpose."""

import dataclasses
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from dlcli import TrainConfig, train
from dlcli.checks import children, determinism, install, snapshot
from dlcli.checks import resume as resume_check
from dlcli.checks.arithmetic import wrong_products
from dlcli.checks.shorten import shorten
from dlcli.cli.main import app
from dlcli.runs.run import Run, all_runs
from tests.conftest import Dlcli

# A model with state outside of its tensors, or one that draws unseeded numbers.
MODEL = '''
import math, os, random, time
import torch
from torch import nn


class Net(nn.Module):
    """kind: what is wrong with it."""

    def __init__(self, spec, *, kind: str = "counter"):
        super().__init__()
        self.kind, self.calls = kind, 0
        self.head = nn.Linear(math.prod(spec.input_shape), spec.outputs)
        if kind == "hash order":
            with torch.no_grad():
                for number, name in enumerate({f"class {i}" for i in range(spec.outputs)}):
                    self.head.bias[number] = int(name.split()[1])

    def forward(self, x):
        y = self.head(x.flatten(1))
        if not self.training:
            return y
        self.calls += 1
        if self.kind == "counter":
            return y * (1 + self.calls / 1000)
        if self.kind == "urandom":
            return y + os.urandom(1)[0] / 256
        if self.kind == "random" and self.calls > 5:
            return y * random.random()
        if self.kind == "gradient":
            y.register_hook(lambda g: g * (1 + time.time_ns() % 1000 / 1000))
        if self.kind == "update":
            with torch.no_grad():
                self.head.bias.add_(os.urandom(1)[0] / 256)
        return y
'''


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The model above, importable from the folder in which the command is given."""
    (tmp_path / "checked_model.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "checked_model:Net"


def check(root: Path, *words: str, code: int = 0) -> tuple[Any, str]:
    """The JSON document of `dlcli check WORDS`, and its stderr."""
    result = CliRunner().invoke(app, ["check", *words, "--json", "--runs-dir", str(root)])
    assert result.exit_code == code, result.output
    return json.loads(result.stdout), result.stderr


def error(stderr: str) -> str:
    return str(json.loads(stderr.splitlines()[-1])["error"])


# resume


def test_a_training_that_is_killed_and_resumed_ends_with_the_same_bits(tmp_path: Path) -> None:
    found, err = check(tmp_path / "runs", "resume", "cnn", "--ema", "0.9", "--kills", "2", "--epochs", "3")
    assert (found["passed"], found["failure"], found["folder"]) == (True, None, None)
    assert found["steps"] == 63
    assert len(found["kills"]) >= 2
    assert any(0 < step < 63 for step in found["resumed_from"])
    assert [c["part"] for c in found["comparisons"]] == [
        "parameters", "average", "optimizer", "random states", "sums", "best weights", "position and best",
        "metrics.csv",
    ]  # fmt: skip
    assert [c["compared"] for c in found["comparisons"][:6]] == [8, 8, 8, 1, 1, 8]
    assert all(c["equal"] for c in found["comparisons"])
    assert err.splitlines()[0] == "cnn on digits: 3 epochs of 21 steps, saved every 3steps"
    assert len(re.findall(r"^killed \d+\.\d\ds after its start, ", err, re.M)) == len(found["kills"])
    assert not (tmp_path / "runs").exists()  # it had been created for the check


@pytest.mark.slow
def test_a_state_that_no_checkpoint_holds_is_found(mine: str, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    found, err = check(tmp_path / "runs", "resume", mine, "--kills", "1", "--epochs", "5", code=7)
    assert found["passed"] is False
    wrong = [c for c in found["comparisons"] if not c["equal"]]
    assert wrong[0]["part"] == "parameters" and wrong[0]["first_difference"] == "head.bias"
    straight, killed = (h[:12] for h in wrong[0]["hashes"])
    sentence = f"parameters: head.bias is {killed} after kills and resumes, but {straight} without"
    assert found["failure"] == sentence == error(err)
    folder = Path(found["folder"])
    assert f"the runs are in {folder}" in err.splitlines()
    assert all_runs(folder / "straight") == [Run(folder / "straight", 1)]
    shown = CliRunner().invoke(app, ["runs", "--runs-dir", str(folder / "killed-1"), "--json"])
    assert json.loads(shown.stdout)[0]["status"] == "finished"


def planted(folder: Path, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run `code` at the start of every further Python process."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(code)
    monkeypatch.syspath_prepend(str(folder))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "forgotten"),
    [
        ("parameters", "[t.zero_() for ts in self.optimizer.state.values() for t in ts]"),
        ("random states", "torch.manual_seed(1)"),
        ("metrics.csv", "self.meter.loss_sum.zero_()"),
        ("position and best", "self.optimizer.steps = 0"),
        ("average", "[t.mul_(1.01) for t in self.average._averages]"),
    ],
    ids=lambda word: word.split("(")[0],
)
def test_a_resume_that_forgets_a_part_of_the_state_is_found(
    part: str, forgotten: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import torch\n"
        "from dlcli.training.state import TrainingState\n"
        "restore = TrainingState.restore\n"
        "@torch.no_grad()\n"
        "def forgetful(self, saved, **how):\n"
        "    restore(self, saved, **how)\n"
        f"    {forgotten}\n"
        "TrainingState.restore = forgetful\n"
    )
    planted(tmp_path / "site", code, monkeypatch)
    words = ("resume", "mlp", "--kills", "2", "--epochs", "5", "--ema", "0.9", "--set", "model.dropout=0.1")
    found, err = check(tmp_path / "runs", *words, code=7)
    assert part in [c["part"] for c in found["comparisons"] if not c["equal"]]
    assert "after kills and resumes, but" in error(err)


@pytest.mark.slow
def test_a_resume_that_fails_is_told_with_its_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sys\n"
        "if 'resume' in sys.orig_argv:\n"
        "    from dlcli.core.errors import RunError\n"
        "    from dlcli.training.state import TrainingState\n"
        "    def restore(self, saved, **how):\n"
        "        raise RunError(f'step {saved.state[\"step\"]} is refused')\n"
        "    TrainingState.restore = restore\n"
    )
    planted(tmp_path / "site", code, monkeypatch)
    found, err = check(tmp_path / "runs", "resume", "mlp", "--kills", "1", "--epochs", "5", code=7)
    run = Path(found["folder"]) / "killed-1" / "1"
    assert re.fullmatch(
        rf"after kill 1, `dlcli resume {run}` ended with exit code 4: step \d+ is refused", found["failure"]
    )
    assert found["comparisons"] == []


@pytest.mark.slow
def test_kills_that_all_come_before_the_first_save_prove_nothing(tmp_path: Path) -> None:
    words = ("resume", "mlp", "--kills", "1", "--epochs", "2", "--checkpoint-every", "9epochs")
    found, err = check(tmp_path / "runs", *words, code=7)
    assert error(err).startswith("nothing is proved: no resume began between the first and the last step in 4 ")
    assert all(c["equal"] for c in found["comparisons"])


@pytest.mark.slow
def test_a_model_that_is_not_deterministic_is_not_held_against_resume(mine: str, tmp_path: Path) -> None:
    _, err = check(tmp_path / "runs", "resume", mine, "--set", "model.kind=urandom", "--kills", "1", code=7)
    assert error(err) == (
        "two trainings without kills already differ, so nothing is proved about resuming: "
        "`dlcli check determinism` shows where"
    )


@pytest.mark.slow
def test_a_check_that_is_ended_takes_its_children_and_its_folder_with_it(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "dlcli", "check", "resume", "mlp", "--epochs", "100000"]
    process = subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, start_new_session=True)
    pattern = "runs/.check-resume-*/straight/1/run.json"
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(pattern)) and time.monotonic() < deadline:
        time.sleep(0.05)
    child = json.loads(next(tmp_path.glob(pattern)).read_text())["pid"]
    os.kill(child, 0)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    assert not (tmp_path / "runs").exists()


def test_the_verdict_of_check_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With prepared runs: 1 and 2 are equal, 3 is different, and the first resume starts at step 0."""
    made = TrainConfig("linear", data="line", epochs=2, device="cpu")
    for seed in (0, 0, 1):
        list(train(made.replace(seed=seed), runs_dir=tmp_path))
    one, same, other = (Run(tmp_path, number) for number in (1, 2, 3))

    def verdict(straight: list[Run], killed: Run, *, resumed: int) -> str | None:
        trained = iter(straight)
        monkeypatch.setattr(
            resume_check, "_train_straight", lambda *words: resume_check._Straight(next(trained), 1.0, 0.25)
        )
        killed.write_info(killed.info() | {"resumes": [{"step": 0}, {"step": resumed}]})
        kill = resume_check.Kill(1, 1.0, "between saves", resumed)
        monkeypatch.setattr(resume_check, "_train_killed", lambda *words: (killed, [kill]))
        report = resume_check.check_resume(made, kills=2, folder=tmp_path)
        assert report.as_dict()["passed"] is (report.failure is None)
        return report.failure

    assert verdict([one], same, resumed=1) is None
    for step in (0, one.info()["step"]):
        assert verdict([one], same, resumed=step) == (
            "nothing is proved: no resume began between the first and the last step in 4 trainings of 0.25s; give more "
            "--epochs or a shorter --checkpoint-every"
        )
    failure = verdict([one, same], other, resumed=1)
    assert failure is not None and re.fullmatch(
        r"parameters: linear.bias is \w{12} after kills and resumes, but \w{12} without", failure
    )
    assert verdict([one, other], other, resumed=1) == (
        "two trainings without kills already differ, so nothing is proved about resuming: "
        "`dlcli check determinism` shows where"
    )


def test_moments_are_spread_over_the_training_and_come_from_the_seed(tmp_path: Path) -> None:
    straight = resume_check._Straight(Run(tmp_path, 1), start_up=2.0, training=10.0)
    moments = resume_check._moments(10, straight, random.Random(3), hurry=1.0)
    assert moments == resume_check._moments(10, straight, random.Random(3), hurry=1.0)
    assert moments != resume_check._moments(10, straight, random.Random(4), hurry=1.0)
    kinds = [moment.kind for moment in moments]
    assert sorted(kinds) == ["any"] * 4 + ["save"] * 4 + ["start-up"] * 2
    lives = [moment.after for moment in moments if moment.kind != "start-up"]
    assert min(lives) >= 0 and 5 < sum(lives) < 10
    assert all(1 <= moment.after <= 2 for moment in moments if moment.kind == "start-up")
    for seed in range(20):
        assert resume_check._moments(5, straight, random.Random(seed), hurry=1.0)[0].kind == "any"


def test_every_tensor_and_value_is_in_the_snapshot(tmp_path: Path) -> None:
    """Change each in turn, and the comparison must name it; only times may differ."""
    from dlcli.checkpoints import checkpoint
    from dlcli.core.files import MANIFEST, write_folder

    made = TrainConfig("mlp", epochs=2, ema=0.9, device="cpu", schedule="cosine", patience=5)
    for _ in range(2):
        list(train(made, runs_dir=tmp_path))
    run = Run(tmp_path, 2)
    expected = snapshot.snapshot(Run(tmp_path, 1))
    assert all(c.equal for c in snapshot.compare(expected, snapshot.snapshot(run)))
    assert sum(map(len, expected.values())) > 60

    def replace(saved: checkpoint.Checkpoint) -> None:
        import shutil

        from dlcli.core.files import to_json

        contents: dict[str, bytes | Path] = {
            "model.safetensors": checkpoint._serialised(saved.weights),
            "state.json": to_json(saved.state).encode(),
        }
        if saved.training is not None:
            contents["training.safetensors"] = checkpoint._serialised(saved.training)
        shutil.rmtree(saved.path)
        write_folder(saved.path, contents)
        assert (saved.path / MANIFEST).exists()

    def differing() -> set[str]:
        return {f"{c.part}: {c.first}" for c in snapshot.compare(expected, snapshot.snapshot(run)) if not c.equal}

    last = checkpoint.load(run.checkpoints, "last", with_training=True)
    assert last.training is not None
    for name, tensor in last.training.items():
        other = tensor.clone().reshape(-1)
        other[0] = 1 - other[0]
        replace(dataclasses.replace(last, training={**last.training, name: other.reshape(tensor.shape)}))
        assert any(part.endswith(f": {name.removeprefix('model.')}") for part in differing()), name
    for role, part in (("last", "average"), ("best", "best weights")):
        saved = checkpoint.load(run.checkpoints, role, with_training=True)
        original = last if role == "last" else saved
        for name, tensor in original.weights.items():
            replace(dataclasses.replace(original, weights={**original.weights, name: tensor + 1e-6}))
            assert differing() == {f"{part}: {name}"}
        replace(original)
    assert differing() == set()
    told = last.state["training"]
    for name, value in told.items():
        if value is None or name in ("metrics_bytes", "log_bytes"):
            continue
        other = (
            [*value[1:], "another"] if name == "optimizer_names"
            else [number + 1 for number in value] if isinstance(value, list)
            else not value if isinstance(value, bool)
            else {**value, "epoch": 9} if name == "best"
            else value + 1
        )  # fmt: skip
        replace(dataclasses.replace(last, state={**last.state, "training": {**told, name: other}}))
        place = "best.epoch" if name == "best" else name
        assert differing() == {f"position and best: last.training.{place}"}
    replace(last)
    lines = run.metrics_file.read_text().splitlines()
    run.metrics_file.write_text("\n".join([*lines[:2], lines[2].replace("2,", "3,", 1)]) + "\n")
    assert differing() == {"metrics.csv: row 2 epoch"}


def test_a_digest_sees_a_bit_a_shape_and_a_type_but_not_the_memory() -> None:
    x = torch.arange(24.0).reshape(1, 2, 3, 4)
    same = x.contiguous(memory_format=torch.channels_last)
    assert same.stride() != x.stride() and snapshot.digest(same) == snapshot.digest(x)
    nan = torch.tensor([float("nan")])
    assert snapshot.digest(nan) == snapshot.digest(nan.clone())
    others = [x.reshape(2, 12), x.double(), x.nextafter(x + 1), torch.tensor(0.0), torch.tensor(-0.0), nan]
    assert len({snapshot.digest(t) for t in [x, *others]}) == 7


# determinism


@pytest.mark.slow
def test_a_training_is_the_same_in_another_process(tmp_path: Path) -> None:
    words = ["check", "determinism", "attention", "--set", "data.samples=500", "--set", "model.dropout=0.2"]
    result = CliRunner().invoke(app, [*words, "--epochs", "2", "--runs-dir", str(tmp_path)])
    assert result.exit_code == 0, result.output
    steps = 2 * 6  # 360 samples by 64
    assert result.stdout.splitlines()[-1] == f"{steps} steps, {17 + steps * 35} hashes per training, 2 trainings"
    assert {line.split()[-2] for line in result.stdout.splitlines()[1:-1]} == {"equal"}
    err = result.stderr.splitlines()
    assert err[:3] == [
        "attention on recall: 2 epochs of 6 steps",
        f"training 1 of 2: {steps} steps, {17 + steps * 35} hashes",
        "training 2 of 2: the same",
    ]
    assert list(tmp_path.iterdir()) == []


SLOW = pytest.mark.slow
FORWARD = "the same weights gave a different output: forward draws unseeded numbers, or sums in varying order"
INITIAL = "the weights differ before the first step: the constructor draws unseeded numbers"
BACKWARD = "the same loss gave a different gradient: a backward is not deterministic"
UPDATE = "all gradients were the same: the optimizer, or the model itself, changed it differently"


@pytest.mark.parametrize(
    ("kind", "step", "name", "cause"),
    [
        ("urandom", 1, "output of the step", FORWARD),
        pytest.param("hash order", 0, "head.bias", INITIAL, marks=SLOW),
        pytest.param("random", 5, "output of the step", FORWARD, marks=SLOW),
        pytest.param("gradient", 1, "gradient of head.weight", BACKWARD, marks=SLOW),
        pytest.param("update", 1, "head.bias", UPDATE, marks=SLOW),
    ],
)
def test_the_first_step_and_tensor_that_differ_are_named(
    kind: str, step: int, name: str, cause: str, mine: str, tmp_path: Path
) -> None:
    words = ("determinism", mine, "--set", f"model.kind={kind}", "--epochs", "1")
    found, err = check(tmp_path / "runs", *words, code=7)
    first = found["first_difference"]
    assert (first["training"], first["step"], first["name"], first["cause"]) == (2, step, name, cause)
    one, other = (h[:12] for h in first["hashes"])
    assert one != other
    more = f", and {first['others']} more at that step" if first["others"] else ""
    assert error(err) == f"step {step}: {name} is {one} in training 1, but {other} in training 2{more}: {cause}"
    assert Path(found["folder"], "1.trace").exists()


def test_hashing_does_not_change_the_training(tmp_path: Path) -> None:
    from dlcli.checks.trace import trace

    made = TrainConfig(
        "cnn", epochs=2, device="cpu", accumulate=2, augment=("mixup=0.3",), model_options={"dropout": 0.5}
    )
    list(train(made, runs_dir=tmp_path))
    trace(made, tmp_path, tmp_path / "trace")
    one, other = (snapshot.snapshot(Run(tmp_path, number)) for number in (1, 2))
    assert all(c.equal for c in snapshot.compare(one, other))
    lines = determinism._read(tmp_path / "trace")
    assert len(lines) == 1 + Run(tmp_path, 2).info()["step"]
    batches = ["targets", "output", "loss"]
    assert list(lines[1])[:12] == [f"{n} of part {b}" for b in (1, 2, 3, 4) for n in batches]  # mixup: two losses each
    assert {name: lines[-1][name] for name in one["parameters"]} == one["parameters"]


def test_a_training_that_changes_nothing_proves_nothing() -> None:
    start = {"data": "d", "w": "1"}
    step = {"targets": "t", "output": "o", "loss": "l"}
    assert determinism._failure([start, {**step, "w": "2"}], None, []) is None
    failure = determinism._failure([start, {**step, "w": "1"}], None, [])
    assert failure == "nothing is proved: no weight changed in 1 steps"


def test_traces_of_different_length_differ() -> None:
    difference = determinism._first_difference([{"w": "1"}, {"w": "2"}], [{"w": "1"}], 2)
    assert difference is not None
    assert (difference.step, difference.name, difference.hashes) == (1, "w", ("2", "missing"))
    assert determinism._first_difference([{"w": "1"}], [{"w": "1"}], 2) is None


# install


IDX = [f"{name}-ubyte" for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")]
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"


def verdicts(document: Any) -> dict[str, str]:
    return {line["what"]: line["verdict"] for line in document["lines"]}


def test_a_sound_installation(tmp_path: Path) -> None:
    found, err = check(tmp_path / "runs", "install", "--data-dir", str(tmp_path / "none"))
    assert found["passed"] is True
    lines = {line["what"]: line for line in found["lines"]}
    assert set(verdicts(found).values()) <= {"ok", "warn"}
    assert {"dlcli", "python", "torch", "numpy", "typer", "runs folder", "lock", "free disk", "cpu", "cuda"} < set(
        lines
    )
    assert lines["torch"]["value"] == torch.__version__.partition("+")[0]
    assert lines["products on cpu"]["value"] == "exact"
    assert (lines["lock"]["value"], lines["flush of a folder"]["value"]) == ("yes", "yes")
    assert lines["mnist"]["value"] == "not there"
    assert lines["known result"]["value"] == "weight 47.1332, bias 2.33023, mse 312.217"
    assert re.fullmatch(r"\d+\.\ds", lines["time to the first step"]["value"])
    assert not (tmp_path / "none").exists() and not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_what_is_wrong_with_an_installation_is_told_line_by_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file instead of the runs folder, a damaged data set, and a torch whose linear layers are slightly wrong."""
    (tmp_path / "runs").write_text("")
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in IDX:
        (raw / name).write_bytes(b"\0\0\x08\x01\0\0\0\x05abc")
    play = tmp_path / "data" / "tinyshakespeare" / "input.txt"
    play.parent.mkdir()
    play.write_text("To be, or not to be. " * 100)
    (tmp_path / "data" / "KMNIST" / "raw").mkdir(parents=True)
    (tmp_path / "data" / "KMNIST" / "raw" / IDX[0]).write_bytes(b"")
    code = (
        "import torch.nn.functional as F\nlinear = F.linear\nF.linear = lambda x, w, b=None: linear(x, w, b) * 1.01\n"
    )
    planted(tmp_path / "site", code, monkeypatch)
    linear = torch.nn.functional.linear
    monkeypatch.setattr(torch.nn.functional, "linear", lambda x, w, b=None: linear(x, w, b) * 1.01)
    found, err = check(tmp_path / "runs", "install", "--data-dir", str(tmp_path / "data"), code=7)
    assert found["passed"] is False
    lines = {line["what"]: line for line in found["lines"]}
    wrong = {what: line["note"] for what, line in lines.items() if line["verdict"] == "fail"}
    assert wrong == {
        "runs folder": f"cannot write in {tmp_path / 'runs'}: File exists; choose --runs-dir",
        "products on cpu": "1x1 times 1x1 in float32: 1 of 1 values are wrong",
        "mnist": f"{raw / IDX[0]} is damaged: 3 of 5 bytes; delete it to download it again",
        "tinyshakespeare": f"{play} is not tinyshakespeare, or damaged: its sha256 is not {SHA256}; delete it to "
        f"download it again, or train on it as --data text:{play}",
        "known result": "the weight of recipe linear-make-regression must be 47.1332: this torch computes wrongly",
    }
    assert error(err) == "; ".join(f"{what}: {note}" for what, note in wrong.items())
    missing = tmp_path / "data/KMNIST/raw" / IDX[1]
    assert (lines["kmnist"]["verdict"], lines["kmnist"]["note"]) == (
        "warn",
        f"{missing} is missing: it is downloaded when needed",
    )


def test_a_file_system_without_flush_of_folders_or_locks_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def no_folders(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(22, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", no_folders)
    monkeypatch.setattr(install.fcntl, "flock", lambda file, how: None)  # as on a network mount without locks
    lines = {line.what: line for line in install._runs_folder(tmp_path, "runs")}
    assert [lines[what].verdict for what in ("runs folder", "flush of a folder", "lock")] == ["ok", "warn", "warn"]
    assert lines["lock"].note == (
        "two machines would not see each other's: set DLCLI_LOCKS=files if they share this folder"
    )

    def unsupported(file: object, how: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(install.fcntl, "flock", unsupported)
    line = install._lock(tmp_path)
    assert (line.verdict, line.note) == ("ok", "Operation not supported: the lock of a run is a file that is renewed")


def test_versions_are_held_against_what_dlcli_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    requirements = ["torch>=2.10", "rich>=13", "gone>=1.5", "onnx>=1.16; extra == 'onnx'", "mypy; extra == 'dev'"]
    versions = {"torch": "2.9.1+cu128", "rich": "13.0"}

    def version(name: str) -> str:
        if name not in versions:
            raise install.importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(install.importlib.metadata, "requires", lambda name: requirements)
    monkeypatch.setattr(install.importlib.metadata, "version", version)
    assert [(line.what, line.value, line.verdict, line.note) for line in install._versions()][2:] == [
        ("torch", "2.9.1+cu128", "fail", "too old: pip install 'torch>=2.10'"),
        ("rich", "13.0", "ok", ""),
        ("gone", "not installed", "fail", "pip install 'gone>=1.5'"),
        ("onnx", "not installed", "ok", "only needed for dlcli[onnx]"),
    ]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_products_on_cuda_are_exact() -> None:
    assert wrong_products(torch.device("cuda")) == []


# common to all checks


@pytest.mark.parametrize("which", ["resume", "determinism"])
def test_settings_are_those_of_train(which: str, tmp_path: Path) -> None:
    invoke = CliRunner().invoke
    help = invoke(app, ["check", which, "--help"], env={"COLUMNS": "200"}).stdout
    for option in ("--epochs", "--set", "--device", "--seed", "--config", "--keep", "--json", "--data"):
        assert f"{option} " in help
    for words, code, message in (
        (["ccnn"], 2, "unknown model 'ccnn': did you mean cnn?"),
        (["cnn", "--data", "iris"], 2, "model cnn is for images, but the data is features of 4"),
        (["cnn", "--device", "cuda:99"], 6, "device = cuda:99, but this machine has"),
        (["cnn", "--epochs", "0"], 2, "epochs = 0 is out of range: it must be >= 1"),
    ):
        result = invoke(app, ["check", which, *words, "--runs-dir", str(tmp_path / "runs")])
        assert result.exit_code == code, result.output
        assert result.stderr.splitlines()[-1].startswith(f"error: {message}")
        assert not (tmp_path / "runs").exists()
    (tmp_path / "file").write_text("")
    result = invoke(app, ["check", which, "mlp", "--runs-dir", str(tmp_path / "file")])
    assert result.exit_code == 6
    assert result.stderr.splitlines()[-1] == (
        f"error: cannot write in {tmp_path / 'file'}: File exists; choose --runs-dir"
    )


def test_a_training_that_fails_by_itself_ends_the_check_with_its_code(tmp_path: Path) -> None:
    words = ["check", "determinism", "mlp", "--lr", "1e9", "--epochs", "2", "--runs-dir", str(tmp_path)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 5
    assert re.match(r"error: the loss became \w+ at step \d+ \(epoch 1, lr 1e\+09", result.stderr.splitlines()[-1])
    assert list(tmp_path.iterdir()) == []


def test_a_child_takes_its_settings_from_its_words_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLCLI_EPOCHS", "7")
    monkeypatch.setenv("SOMETHING", "else")
    program = ("-c", "import os, sys; print('DLCLI_EPOCHS' in os.environ, os.environ['SOMETHING'], sys.argv[1:])")
    with children.Child(["a", Path("b")], program=program, log=tmp_path / "log") as child:
        assert child.ends_within(60)
    assert child.sentence() == "False else ['a', 'b']"
    with children.Child([], program=("-c", "import time; time.sleep(60)"), log=tmp_path / "log") as child:
        assert not child.ends_within(0.1)
    assert child.process.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_the_commands_as_processes(dlcli: Dlcli, tmp_path: Path) -> None:
    """From a shell, in a folder with a user's own model, with settings from a file and a folder that is kept."""
    (tmp_path / "checked_model.py").write_text(MODEL)
    (tmp_path / "a.toml").write_text('epochs = 2\n[model]\nname = "checked_model:Net"\nkind = "none"\n')
    done = dlcli("check", "determinism", "--config", "a.toml", "--keep", "--times", "3")
    assert done.stderr.splitlines()[3] == "training 3 of 3: the same"
    folder = next(Path(line.split()[-1]) for line in done.stderr.splitlines() if line.startswith("the runs are in "))
    assert Run(folder / "3", 1).config().model_options == {"kind": "none"}
    done = dlcli("check", "resume", "--config", "a.toml", "--kills", "2", "--seed", "3")
    assert done.stdout.splitlines()[-1].startswith("2 kills, ")
    done = dlcli("check", "install", "--md", DLCLI_DATA_DIR=str(tmp_path))
    assert f"| data folder | {tmp_path} | ok |  |" in done.stdout.splitlines()


@pytest.mark.parametrize(
    ("given", "saves", "epochs", "every", "line"),
    [
        ({}, True, 10, "10steps", "mlp on digits: 10 epochs of 21 steps, saved every 10steps"),
        ({}, False, 10, "1epoch", "mlp on digits: 10 epochs of 21 steps"),
        ({"batch_size": "full"}, True, 20, "1step", "mlp on digits: 20 epochs of 1 step, saved every 1step"),
        ({"batch_size": "1"}, False, 2, "1epoch", "mlp on digits: 2 epochs of 1294 steps"),
        ({"epochs": "30"}, True, 30, "31steps", "mlp on digits: 30 epochs of 21 steps, saved every 31steps"),
        ({"steps": "400"}, True, None, "20steps", "mlp on digits: 400 steps, saved every 20steps"),
        ({"checkpoint_every": "2s"}, True, 10, "2s", "mlp on digits: 10 epochs of 21 steps, saved every 2s"),
    ],
)
def test_a_training_is_made_short_where_its_length_is_not_given(
    given: dict[str, str], saves: bool, epochs: int | None, every: str, line: str
) -> None:
    told: list[str] = []
    config = shorten(TrainConfig.from_flat({"model": "mlp", "data": "digits", **given}), saves=saves, tell=told.append)
    assert (config.epochs, config.checkpoint_every, told) == (epochs, every, [line])
