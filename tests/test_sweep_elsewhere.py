"""Workers that share nothing with the driver of a sweep but the folder of runs: other processes, SLURM, Ray."""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client
from pathlib import Path

import pytest

from dlcli.runs.run import Run, all_runs
from tests.sweeping import SMALL, Sweeping, sweeping, wait_for
from tests.test_sweeps import SLOW, by_rate, finishing, same, shown, weights

NO_RAY = importlib.util.find_spec("ray") is None


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def waiting(root: Path, *words: str) -> Sweeping:
    """A sweep that waits for workers."""
    process = Sweeping(root, *words, "--on", "workers")
    wait_for(lambda: (root / "sweeps" / "1" / "workers.json").exists())
    return process


def test_workers_join_a_sweep(root: Path, tmp_path: Path) -> None:
    driver = waiting(root, *SLOW)
    workers = [Sweeping(root, "sweep", "work", "1") for _ in range(2)]
    assert driver.wait() == 0, driver.told
    assert "workers join with: dlcli sweep work 1\n" in driver.told
    assert [worker.wait() for worker in workers] == [0, 0]
    assert {finishing(run).info()["pid"] for run in all_runs(root)} == {worker.pid for worker in workers}
    assert not (root / "sweeps" / "1" / "workers.json").exists()
    sweeping(tmp_path / "here", *SLOW)
    here = by_rate(tmp_path / "here")
    assert all(same(weights(run), weights(here[rate])) for rate, run in by_rate(root).items())


def test_a_worker_that_is_lost_or_leaves_costs_only_time(root: Path) -> None:
    driver = waiting(root, *SLOW)
    lost, leaving = (Sweeping(root, "sweep", "work", "latest") for _ in range(2))
    wait_for(lambda: len([run for run in all_runs(root) if (run.path / "metrics.csv").exists()]) == 2)
    os.kill(lost.pid, signal.SIGKILL)
    os.kill(leaving.pid, signal.SIGINT)
    assert leaving.wait() == 130 and lost.wait() == -signal.SIGKILL
    assert Sweeping(root, "sweep", "work", "1").wait() == 0 and driver.wait() == 0
    assert "goes on: the connection to its worker ended\n" in driver.told
    assert "goes on: stopped by SIGINT\n" in driver.told
    assert len(all_runs(root)) == 3 and all(finishing(run) for run in all_runs(root))


def test_only_who_can_read_the_folder_joins(root: Path) -> None:
    driver = waiting(root, *SLOW)
    file = root / "sweeps" / "1" / "workers.json"
    assert file.stat().st_mode & 0o777 == 0o600
    port = json.loads(file.read_text())["port"]
    with pytest.raises(AuthenticationError):
        Client(("localhost", port), authkey=b"guessed")
    with socket.create_connection(("localhost", port)) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
    assert Sweeping(root, "sweep", "work", "1").wait() == 0 and driver.wait() == 0, driver.told


def test_a_killed_driver_leaves_a_worker_that_stops(root: Path) -> None:
    driver = waiting(root, *SLOW)
    worker = Sweeping(root, "sweep", "work", "1")
    wait_for(lambda: (root / "1" / "metrics.csv").exists())
    os.kill(driver.pid, signal.SIGKILL)
    assert worker.wait() == 0 and driver.wait() == -signal.SIGKILL
    assert Run(root, 1).info()["stop"] == "the process that drives the sweep has ended"
    told = sweeping(root, "sweep", "work", "1", code=6)
    assert f"error: sweep 1 in {root} is driven on {socket.gethostname()}, port " in told
    sweeping(root, "sweep", "resume", "1")
    assert shown(root)["status"] == "finished" and len(all_runs(root)) == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--on", "slurm"], "--on slurm is not one of local, workers, ray, ray://HOST:PORT"),
        (["--on", "workers", "--devices", "0"], "--devices 0 is for this machine, and --on is workers: leave it out"),
        pytest.param(["--on", "ray"], "--on ray needs ray: pip install 'dlcli[ray]'",
                     marks=pytest.mark.skipif(not NO_RAY, reason="ray is installed")),
    ],
)  # fmt: skip
def test_where_runs_cannot_be_trained(words: list[str], message: str, root: Path) -> None:
    told = sweeping(root, "sweep", *SMALL, "--over", "lr=0.1,0.2", *words, code=2)
    assert told == f"error: {message}\n" and not root.exists()


def test_a_sweep_that_waits_for_no_workers(root: Path) -> None:
    sweeping(root, "sweep", *SMALL, "--over", "lr=0.1,0.2")
    assert sweeping(root, "sweep", "work", "1", code=4) == (
        f"error: sweep 1 in {root} waits for no workers: start or resume it with --on workers, in a folder of runs "
        "that is shared with this machine\n"
    )


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "dlcli", *words]


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="the daemons of SLURM need root")
def test_tasks_of_slurm_join_a_sweep(slurm: dict[str, str], root: Path) -> None:
    driver = waiting(root, *SLOW)
    subprocess.run(["srun", "-n", "2", *command("sweep", "work", "1", "--runs-dir", str(root))], env=slurm, check=True)
    assert driver.wait() == 0, driver.told
    assert len(all_runs(root)) == 3 and all(finishing(run) for run in all_runs(root))
    assert len({run.info()["pid"] for run in all_runs(root)}) == 2


@pytest.mark.slow
@pytest.mark.skipif(NO_RAY, reason="ray is not installed")
def test_a_node_of_ray_that_dies_costs_only_time(root: Path, tmp_path: Path) -> None:
    """A cluster of two nodes on this machine, one of which is killed."""
    ray, port = [sys.executable, "-m", "ray.scripts.scripts"], "6398"
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64, "OMP_NUM_THREADS": "1",
                   "RAY_USAGE_STATS_ENABLED": "0"}  # fmt: skip
    try:
        for words in (["--head", f"--port={port}", "--ray-client-server-port=10001"], [f"--address=127.0.0.1:{port}"]):
            line = [*ray, "start", *words, "--num-cpus=1"]
            subprocess.run(line, env=environment, check=True, capture_output=True, timeout=120)
        words = [*SLOW, "--epochs", "20", "--on", "ray://127.0.0.1:10001", "--runs-dir", str(root)]
        driver = subprocess.Popen(command(*words), env=environment, stderr=subprocess.PIPE, text=True)
        wait_for(lambda: len([run for run in all_runs(root) if (run.path / "metrics.csv").exists()]) == 2, seconds=120)
        found = subprocess.run(["pgrep", "-f", "raylet/raylet"], capture_output=True, text=True, check=True)
        os.kill(int(found.stdout.split()[-1]), signal.SIGKILL)
        told = driver.communicate(timeout=300)[1]
        assert driver.returncode == 0 and "goes on: the connection to its worker ended\n" in told, told
        assert len(all_runs(root)) == 3 and all(finishing(run) for run in all_runs(root))
    finally:
        subprocess.run([*ray, "stop", "--force"], env=environment, capture_output=True, timeout=60)
