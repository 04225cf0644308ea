"""A SLURM of one node for the tests."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A SLURM of one node, without systemd; the environment in which srun finds it."""
    for name in ("munged", "slurmctld", "slurmd", "srun"):
        if shutil.which(name) is None:
            pytest.skip(f"{name} is not installed")
    place, host = tmp_path / "slurm", socket.gethostname().split(".")[0]
    for name in ("spool", "state", "munge"):
        (place / name).mkdir(parents=True)
    place.chmod(0o755)
    key = place / "munge" / "key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    settings = {
        "ClusterName": "one", "SlurmctldHost": f"{host}(127.0.0.1)", "AuthType": "auth/munge",
        "AuthInfo": f"socket={place}/munge/socket", "CredType": "cred/munge", "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none", "SlurmUser": "root", "StateSaveLocation": place / "state",
        "SlurmdSpoolDir": place / "spool", "SlurmctldPidFile": place / "ctld.pid", "SlurmdPidFile": place / "d.pid",
        "SlurmctldLogFile": place / "ctld.log", "SlurmdLogFile": place / "d.log", "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_CPU", "MpiDefault": "none", "SlurmctldPort": 26917, "SlurmdPort": 26918,
        "ReturnToService": 2,
    }  # fmt: skip
    lines = [f"{name}={value}" for name, value in settings.items()]
    lines += [f"NodeName={host} NodeAddr=127.0.0.1 CPUs=2", "PartitionName=p Nodes=ALL Default=YES State=UP"]
    (place / "slurm.conf").write_text("\n".join(lines) + "\n")
    environment = {**os.environ, "SLURM_CONF": str(place / "slurm.conf"), "OMP_NUM_THREADS": "1"}
    munge = place / "munge"
    started = [
        subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for words in (
            ["munged", "-F", "--force", f"--socket={munge}/socket", f"--key-file={key}", f"--pid-file={munge}/pid",
             f"--log-file={munge}/log", f"--seed-file={munge}/seed"],
            ["slurmctld", "-D", "-c"], ["slurmd", "-D", "-c"],
        )
    ]  # fmt: skip
    try:
        end = time.monotonic() + 60
        while subprocess.run(["srun", "true"], env=environment, capture_output=True, timeout=60).returncode:
            assert time.monotonic() < end, (place / "ctld.log").read_text()
            time.sleep(1)
        yield environment
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.wait(20)
