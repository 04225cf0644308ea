"""The processes of one training: whichever fails, all end, nothing is lost, and a restart goes on to the same bits."""

import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from dlcli import TrainConfig, train
from dlcli.core.errors import ConfigError
from tests.conftest import Dlcli
from tests.test_ranks import COMMON, assert_equal_but_for_rounding, record, rows, weights


def assert_same_bits(root: Path) -> None:
    """Runs 1 and 2."""
    assert rows(root, 1) == rows(root, 2)
    assert all(torch.equal(tensor, weights(root, 2)[name]) for name, tensor in weights(root, 1).items())


FAILS = """
import os, signal, time
import torch
from torch import nn

class Fails(nn.Module):
    '''Rank 1 does what DO says in its 30th forward pass, in the first start.'''

    def __init__(self, spec):
        super().__init__()
        self.layer, self.spare, self.count = nn.Linear(64, spec.outputs), nn.Linear(3, 3), 0

    def forward(self, x):
        self.count += self.training
        do, who = os.environ.get("DO"), os.environ.get("WHO", "1")
        if self.count == 30 and do and os.environ.get("RANK") == who and not os.path.exists("done"):
            if os.environ.get("ONCE"):
                open("done", "w").close()
            if do == "raise":
                raise ValueError("a fault of mine")
            if do == "memory":
                torch.empty(1 << 60)
            if do == "sleep":
                time.sleep(1000)
            if do == "exit":
                print("what I said last", flush=True)
                os._exit(3)
            os.kill(os.getpid(), getattr(signal, do))
        return self.layer(x.flatten(1))
"""
SLOW = pytest.mark.slow
TRAIN = (
    "train", "mine:Fails", "--data", "digits", "--batch-size", "50", "--steps", "60", "--eval-every", "25step",
    "--checkpoint-every", "10step", *COMMON, "--processes", "2",
)  # fmt: skip


@pytest.fixture
def failing(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FAILS)


@pytest.mark.parametrize(
    ("do", "who", "told"),
    [
        ("raise", "1", r"rank 1 on \S+ failed: ValueError in mine.py, line \d+: a fault of mine.*"),
        ("SIGKILL", "0", r"rank 0 on \S+ was killed by SIGKILL \(not enough memory\?\).*"),
        ("exit", "1", r"rank 1 on \S+ ended with exit code 3; it printed last: what I said last"),
        pytest.param("raise", "0", r"rank 0 on \S+ failed: ValueError in mine.py, line \d+: a fault.*", marks=SLOW),
        pytest.param("memory", "1", r"rank 1 on \S+ failed: there is not enough memory.*", marks=SLOW),
        pytest.param("SIGKILL", "1", r"rank 1 on \S+ was killed by SIGKILL \(not enough memory\?\).*", marks=SLOW),
    ],
)
@pytest.mark.usefixtures("failing")
def test_a_process_that_fails_ends_all(dlcli: Dlcli, tmp_path: Path, do: str, who: str, told: str) -> None:
    began = time.monotonic()
    done = dlcli(*TRAIN, check=8, DO=do, WHO=who)
    assert time.monotonic() - began < 60
    *_, last = done.stderr.splitlines()
    assert re.fullmatch(f"error: {told}", last)
    found = record(tmp_path, 1)
    assert found["status"] == "failed" and re.fullmatch(told, found["reason"])
    assert not alive(tmp_path)
    dlcli("runs", "verify", "1")
    # The one of step 20 is written beside the training, and need not be there when the first process is killed.
    assert sorted(path.name for path in (tmp_path / "runs/1/checkpoints").iterdir())[-1] in ("last-10", "last-20")


@pytest.mark.slow
@pytest.mark.usefixtures("failing")
def test_a_process_that_hangs_is_named(dlcli: Dlcli, tmp_path: Path) -> None:
    done = dlcli(*TRAIN, "--rank-timeout", "2", check=8, DO="sleep")
    assert re.search(r"error: rank 1 on \S+ has not answered for 2 s\n$", done.stderr)
    assert re.fullmatch(r"rank 1 on \S+ has not answered for 2 s", record(tmp_path, 1)["reason"])
    assert not alive(tmp_path)


@pytest.mark.parametrize("who", [pytest.param("0", marks=SLOW), "1"])
@pytest.mark.usefixtures("failing")
def test_a_restart_ends_with_the_bits_of_an_undisturbed_training(dlcli: Dlcli, tmp_path: Path, who: str) -> None:
    dlcli(*TRAIN)
    done = dlcli(*TRAIN, "--max-restarts", "1", DO="SIGKILL", WHO=who, ONCE="1")
    assert "; restart 1 of 1 from the last checkpoint\n" in done.stderr
    assert_same_bits(tmp_path)
    assert record(tmp_path, 2)["status"] == "finished"


@pytest.mark.usefixtures("failing")
def test_parameters_that_nothing_uses_are_named(dlcli: Dlcli) -> None:
    done = dlcli(*TRAIN)
    told = "warning: no gradient reaches spare.weight, spare.bias: the model does not use what it has there\n"
    assert done.stderr.count(told) == 1


def alive(root: Path) -> list[str]:
    """The processes that work in this folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if os.readlink(entry / "cwd") == str(root):
                    found.append((entry / "cmdline").read_text())
            except OSError:
                continue
    return found


def assert_none_is_left(root: Path) -> None:
    deadline = time.monotonic() + 10
    while alive(root) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(root)


@pytest.fixture
def started(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A long training in two processes, after its first checkpoint."""
    words = ["train", "cnn", "--steps", "5000", "--checkpoint-every", "5step", *COMMON, "--processes", "2"]
    with subprocess.Popen(
        [sys.executable, "-m", "dlcli", *words], cwd=tmp_path, text=True, stderr=subprocess.PIPE,
        stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:  # fmt: skip
        while not list(tmp_path.glob("runs/1/checkpoints/last-*")):
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        yield process
        process.kill()


def ranks_of(process: "subprocess.Popen[str]") -> list[int]:
    return sorted(map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()))


@pytest.mark.parametrize(("whom", "number"), [("the launcher", signal.SIGTERM), ("rank 1", signal.SIGTERM)])
def test_a_signal_to_any_process_saves_one_checkpoint(
    started: "subprocess.Popen[str]", tmp_path: Path, dlcli: Dlcli, whom: str, number: int
) -> None:
    os.kill(started.pid if whom == "the launcher" else ranks_of(started)[1], number)
    assert started.wait(30) == 128 + number
    found = record(tmp_path, 1)
    assert (found["status"], found["stop"]) == ("interrupted", signal.Signals(number).name)
    assert (tmp_path / f"runs/1/checkpoints/last-{found['step']}").is_dir()
    assert not alive(tmp_path)
    done = dlcli("resume", "1", "--steps", str(found["step"] + 1))
    assert "exact: yes" in done.stderr


def test_no_process_is_left_when_the_launcher_is_killed(started: "subprocess.Popen[str]", tmp_path: Path) -> None:
    started.kill()
    started.wait()
    assert_none_is_left(tmp_path)


@pytest.mark.slow
def test_an_error_of_all_is_that_of_one_process(dlcli: Dlcli, tmp_path: Path) -> None:
    """Wrong settings are found before there is a run; a training that diverges says where."""
    assert dlcli("train", "mlp", "--data", "nope", "--processes", "2", check=2).stderr == (
        dlcli("train", "mlp", "--data", "nope", check=2).stderr
    )
    words = ("train", "mlp", "--monitor", "nope", *COMMON)
    assert dlcli(*words, "--processes", "2", check=2).stderr == dlcli(*words, check=2).stderr
    assert not (tmp_path / "runs").exists()
    words = ("train", "mlp", "--lr", "1e30", *COMMON)
    one, several = dlcli(*words, check=5), dlcli(*words, "--processes", "2", check=5)
    place = re.search(r"at step \d+ \(epoch \d+, lr \S+, gradient norm", one.stderr)
    assert place is not None and place[0] in several.stderr
    assert record(tmp_path, 2)["status"] == "diverged"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--devices", "0,1"), "--devices 0,1 is for processes that dlcli starts: give --processes above 1"),
        (("--max-restarts", "2"), "--max-restarts 2 is for processes that dlcli starts: give --processes above 1"),
        (("--processes", "2", "--devices", "0"), "--devices names 1 devices for 2 processes: name one for each"),
        (("--processes", "2", "--devices", "a"), "--devices a is not a list of numbers such as 0,1"),
        (("--processes", "2", "--max-restarts", "-1"), "--max-restarts -1 is not a number from 0 on"),
        (("--processes", "0"), "processes = 0 is out of range: it must be in [1, 4097)"),
        (("--processes", "2", "--batch-size", "auto"), "batch_size = auto is measured in one process: give a number"),
        (("--shard",), "shard is for several processes: give processes above 1, or leave it out"),
        (("--processes", "2", "--shard", "--compile"), "shard does not go with compile = True: leave one out"),
        (("--processes", "2", "--shard", "--precision", "fp16"), "shard does not go with precision = fp16: leave one"),
        (("--sync-batch-norm",), "sync_batch_norm is for several processes: give processes above 1, or leave it out"),
    ],
)
def test_options_that_do_not_fit(dlcli: Dlcli, tmp_path: Path, words: tuple[str, ...], told: str) -> None:
    done = dlcli("train", "mlp", *words, "--device", "cpu", check=2)
    assert done.stderr.startswith(f"error: {told}")
    assert not (tmp_path / "runs").exists()


def test_from_python_one_process_is_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        next(train(TrainConfig("mlp", data="iris", device="cpu", processes=2), runs_dir=tmp_path / "runs"))
    assert str(caught.value) == (
        "processes = 2, but this is one process: start the training with dlcli train, dlcli resume or torchrun, or "
        "take processes = 1"
    )
    assert not (tmp_path / "runs").exists()


# ------------------------------------------------------------------------------------------------ sweeps


@pytest.mark.slow
def test_a_run_of_a_sweep_in_several_processes(dlcli: Dlcli, tmp_path: Path) -> None:
    """Is the one of dlcli train, also after one of them was killed."""
    (tmp_path / "mine.py").write_text(FAILS)
    words = TRAIN[1:]
    dlcli("train", *words, "--lr", "0.05")
    dlcli("sweep", *words, "--over", "lr=0.05,0.01", DO="SIGKILL", ONCE="1")
    assert (tmp_path / "done").exists() and len(record(tmp_path, 2)["resumes"]) == 1
    assert [record(tmp_path, number)["status"] for number in (2, 3)] == ["finished"] * 2
    assert [record(tmp_path, number)["processes"] for number in (2, 3)] == [2, 2]
    assert_same_bits(tmp_path)


@pytest.mark.slow
def test_a_run_of_a_sweep_whose_processes_fail(dlcli: Dlcli, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FAILS)
    dlcli("sweep", *TRAIN[1:], "--checkpoint-every", "100step", "--over", "lr=0.05", check=8, DO="raise")
    found = record(tmp_path, 1)
    assert found["status"] == "failed" and re.match(r"rank 1 on \S+ failed: ValueError in mine.py", found["reason"])
    assert re.search(r"rank 1 on \S+ failed: ValueError in mine.py", dlcli("sweep", "show", "1").stdout)
    assert_none_is_left(tmp_path)


@pytest.mark.slow
def test_pruning_stops_all_processes_of_a_run(dlcli: Dlcli, tmp_path: Path) -> None:
    words = ("mlp", "--epochs", "6", *COMMON, "--processes", "2", "--prune", "median")
    dlcli("sweep", *words, "--over", "lr=0.1,0.2,0.15,0.05,0.12,1e-6")
    found = record(tmp_path, 6)
    assert found["status"] == "pruned" and found["epochs_done"] < 6
    assert [record(tmp_path, number)["status"] for number in (1, 2, 3, 4, 5)] == ["finished"] * 5


# ------------------------------------------------------------------------------------------------ other launchers


def together(root: Path, environments: list[dict[str, str]], *words: str) -> list["subprocess.CompletedProcess[str]"]:
    """dlcli in several processes at once, each with its variables."""
    base = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "dlcli", *words], cwd=root, env=base | own, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for own in environments
    ]  # fmt: skip
    done = []
    for process in processes:
        out, err = process.communicate(timeout=120)
        done.append(subprocess.CompletedProcess(words, process.returncode, out, err))
    return done


def free_port() -> str:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return str(server.getsockname()[1])


def of_torchrun(rank: int, size: int, port: str) -> dict[str, str]:
    return {
        "RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
    }  # fmt: skip


def of_srun(rank: int, size: int, port: str) -> dict[str, str]:
    return {
        "SLURM_STEP_ID": "0", "SLURM_PROCID": str(rank), "SLURM_NTASKS": str(size), "SLURM_LOCALID": str(rank),
        "SLURM_JOB_ID": "77", "SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_STEP_TASKS_PER_NODE": str(size),
        "MASTER_PORT": port,
    }  # fmt: skip


@pytest.mark.parametrize("variables", [of_torchrun, pytest.param(of_srun, marks=SLOW)])
def test_processes_that_another_launcher_started_are_one_training(dlcli: Dlcli, tmp_path: Path, variables: Any) -> None:
    words = ("train", "mlp", "--steps", "9", *COMMON)
    dlcli(*words)
    port = free_port()
    first, second = together(tmp_path, [variables(rank, 2, port) for rank in range(2)], *words)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert (second.stdout, second.stderr) == ("", "")
    assert_equal_but_for_rounding(tmp_path, 2)


@pytest.mark.slow
def test_a_resume_by_another_launcher_takes_as_many_processes_as_there_are(dlcli: Dlcli, tmp_path: Path) -> None:
    dlcli("train", "mlp", "--epochs", "1", *COMMON, "--processes", "2")
    port = free_port()
    first, *_ = together(tmp_path, [of_torchrun(rank, 3, port) for rank in range(3)], "resume", "1", "--epochs", "2")
    assert first.returncode == 0 and "exact: no (2 processes before, 3 now)\n" in first.stderr
    port = free_port()
    words = ("resume", "1", "--epochs", "3", "--processes", "3")
    first, *_ = together(tmp_path, [of_torchrun(rank, 2, port) for rank in range(2)], *words)
    assert (first.returncode, first.stderr) == (
        2, "error: processes = 3, but 2 were started: leave the setting out\n"
    )  # fmt: skip


DIFFERS = """
import os
import torch
from dlcli import DataSpec, Source
import dlcli.training.joining as joining

def load(data_dir) -> Source:
    differs = float(os.environ["DIFFERS"] == "data " + os.environ["RANK"])
    labels = torch.arange(40) % 2
    return Source(DataSpec("multiclass", "features", (2,), 3), torch.rand(40, 2) + differs, labels)

if os.environ["DIFFERS"] == "version " + os.environ["RANK"]:
    joining.__version__ = "0.0"
"""


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("data 1", r"rank 1 on \S+ has other data mine:load than rank 0: give all machines the same"),
        pytest.param(
            "version 1",
            r"rank 1 on \S+ has dlcli 0\.0 with torch \S+, and rank 0 has dlcli \S+ with torch \S+: install the same "
            r"on all machines",
            marks=SLOW,
        ),
        pytest.param("settings", r"rank 1 on \S+ has other settings than rank 0 \(lr\): give all the same", marks=SLOW),
    ],
)
def test_processes_that_differ_say_in_what(tmp_path: Path, what: str, told: str) -> None:
    (tmp_path / "mine.py").write_text(DIFFERS)
    port = free_port()
    variables = [of_torchrun(rank, 2, port) | {"DIFFERS": what} for rank in range(2)]
    variables[1] |= {"DLCLI_LR": "0.5"} if what == "settings" else {}
    for done in together(tmp_path, variables, "train", "mlp", "--data", "mine:load", "--steps", "9", *COMMON):
        assert done.returncode == (3 if what == "data 1" else 2)
        assert re.fullmatch(f"error: {told}\n", done.stderr)
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_job_that_is_requeued_makes_no_second_run(tmp_path: Path) -> None:
    port = free_port()
    first, _ = together(
        tmp_path, [of_srun(rank, 2, port) for rank in range(2)], "train", "mlp", "--epochs", "1", *COMMON
    )
    assert first.returncode == 0, first.stderr
    port = free_port()
    again = [of_srun(rank, 2, port) | {"SLURM_RESTART_COUNT": "1"} for rank in range(2)]
    first, _ = together(tmp_path, again, "train", "mlp", "--epochs", "1", *COMMON)
    assert first.returncode == 0
    assert first.stderr == "runs/1 has finished before the restart: nothing is left to do\n"
    assert sorted(os.listdir(tmp_path / "runs")) == ["1"]


def test_a_launcher_without_its_variables(dlcli: Dlcli, tmp_path: Path) -> None:
    done = dlcli("train", "mlp", *COMMON, check=2, WORLD_SIZE="2")
    assert done.stderr == ("error: WORLD_SIZE = 2, but RANK is not set: start dlcli with torchrun or --processes\n")
    dlcli("train", "mlp", "--epochs", "1", *COMMON, WORLD_SIZE="1")
    dlcli("eval", "1", WORLD_SIZE="2")  # is one process


def test_ranks_that_do_not_come(dlcli: Dlcli, tmp_path: Path) -> None:
    done = dlcli(
        "train", "mlp", *COMMON, "--rank-timeout", "2", check=8, **of_torchrun(0, 2, free_port())
    )  # fmt: skip
    assert re.match(r"error: rank 0 of 2 cannot reach the others at 127.0.0.1:\d+: ", done.stderr)


def test_a_port_that_is_taken(dlcli: Dlcli) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        done = dlcli("train", "mlp", *COMMON, "--rank-timeout", "2", check=8, **of_torchrun(0, 2, port))
    assert re.match(
        rf"error: rank 0 of 2 cannot reach the others at 127.0.0.1:{port}: .*address already in use", done.stderr
    )


WAITS = """
import time
from torch import nn

class Net(nn.Module):
    def __init__(self, spec):
        open("there", "w").close()
        time.sleep(100)
"""


def test_a_signal_before_the_processes_are_ready(tmp_path: Path) -> None:
    """Ends them, and is no failure of one of them."""
    (tmp_path / "mine.py").write_text(WAITS)
    words = [sys.executable, "-m", "dlcli", "train", "mine:Net", "--data", "digits", *COMMON, "--processes", "2"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(words, cwd=tmp_path, text=True, stderr=subprocess.PIPE, env=environment) as process:
        wait_for((tmp_path / "there").exists, seconds=60)
        process.terminate()
        assert process.wait(30) == 143
    assert not alive(tmp_path) and not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_torchrun_starts_a_failed_training_anew(dlcli: Dlcli, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FAILS)
    words = TRAIN[:-2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    subprocess.run([*run, "-m", "dlcli", *words], cwd=tmp_path, env=environment, check=True, capture_output=True)
    environment |= {"WHO": "1", "DO": "SIGKILL", "ONCE": "1"}
    done = subprocess.run(
        [*run, "--max-restarts", "2", "-m", "dlcli", *words],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(os.listdir(tmp_path / "runs")) == ["1", "2"]
    assert_same_bits(tmp_path)


@pytest.mark.slow
def test_two_agents_of_torchrun_are_two_machines(dlcli: Dlcli, tmp_path: Path) -> None:
    words = ("train", "mlp", "--steps", "9", *COMMON)
    dlcli(*words)
    port = free_port()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    agents = [
        subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", "--node-rank",
             str(node), "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "pair", "-m",
             "dlcli", *words],
            cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True,
        )
        for node in range(2)
    ]  # fmt: skip
    for agent in agents:
        _, told = agent.communicate(timeout=300)
        assert agent.returncode == 0, told
    assert_equal_but_for_rounding(tmp_path, 2)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="the daemons of SLURM need root")
def test_a_job_of_slurm_that_is_requeued_in_the_middle(slurm: dict[str, str], dlcli: Dlcli, tmp_path: Path) -> None:
    words = (*LONG, "--checkpoint-every", "20step")
    dlcli(*words, "--processes", "2")
    line = " ".join([sys.executable, "-m", "dlcli", *words])
    (tmp_path / "job.sh").write_text(f"#!/bin/sh\ncd {tmp_path}\nexec srun -n 2 {line}\n")
    environment = slurm | {"PYTHONPATH": os.pathsep.join(sys.path)}

    def ask(*command: str) -> str:
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout

    told = ask("sbatch", "--parsable", "--requeue", "-n", "2", "-o", str(tmp_path / "out"), "--open-mode=append",
               str(tmp_path / "job.sh"))  # fmt: skip
    job = told.strip()
    wait_for(lambda: list(tmp_path.glob("runs/2/checkpoints/last-*")), seconds=120)
    ask("scontrol", "requeue", job)
    wait_for(lambda: record(tmp_path, 2)["status"] == "interrupted", seconds=60)
    assert record(tmp_path, 2)["stop"] == "SIGTERM"
    ask("scontrol", "update", f"JobId={job}", "StartTime=now")
    wait_for(lambda: record(tmp_path, 2)["status"] == "finished", seconds=240)
    wait_for(lambda: not ask("squeue", "-h", "-t", "running", "-j", job), seconds=60)
    assert sorted(os.listdir(tmp_path / "runs")) == ["1", "2"]
    assert [one["not_exact"] for one in record(tmp_path, 2)["resumes"]] == [[]]
    assert_same_bits(tmp_path)


def wait_for(what: Any, *, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.1)


# ------------------------------------------------------------------------------------------------ chaos

LONG = ("train", "cnn", "--batch-size", "32", "--epochs", "24", "--eval-every", "100step", *COMMON)


def killed_at_random(root: Path, words: Sequence[str], draw: random.Random, *, kills: int) -> "tuple[int, int]":
    """Run dlcli, and kill a random process of it at random moments; how many were killed, and its exit code."""
    process = subprocess.Popen(
        [sys.executable, "-m", "dlcli", *words], cwd=root, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    done = 0
    while process.poll() is None and done < kills:
        time.sleep(draw.uniform(0, 2))
        there = ranks_of(process) if process.poll() is None else []
        if there:
            os.kill(draw.choice(there), signal.SIGKILL)
            done += 1
    return done, process.wait(600)


@pytest.mark.slow
def test_fifty_kills_that_are_restarted(dlcli: Dlcli, tmp_path: Path) -> None:
    dlcli(*LONG, "--processes", "2")
    words = (*LONG, "--processes", "2", "--checkpoint-every", "1step", "--max-restarts", "1000")
    killed, code = killed_at_random(tmp_path, words, random.Random(0), kills=50)
    assert code == 0 and killed >= 40
    assert_same_bits(tmp_path)
    assert not alive(tmp_path)


@pytest.mark.slow
def test_fifty_kills_that_are_resumed_by_hand(dlcli: Dlcli, tmp_path: Path) -> None:
    dlcli(*LONG, "--processes", "2")
    draw, total, words = random.Random(1), 0, (*LONG, "--processes", "2", "--checkpoint-every", "1step")
    code = -1
    while code != 0:
        began = time.monotonic()
        killed, code = killed_at_random(tmp_path, words, draw, kills=1 if total < 50 else 0)
        total += killed
        assert code == (8 if killed and code else 0) and time.monotonic() - began < 60
        assert not alive(tmp_path)
        if (tmp_path / "runs/2/checkpoints").is_dir() and any((tmp_path / "runs/2/checkpoints").iterdir()):
            dlcli("runs", "verify", "2")
            words = ("resume", "2", "--exact")
        elif (tmp_path / "runs/2").is_dir():
            words = ("resume", "2")
    assert total >= 10
    assert_same_bits(tmp_path)
