"""Workers on a Ray cluster: Ray says where they run, and starts them again when a node dies; they join as any other."""

import contextlib
from pathlib import Path
from typing import Any

from dlcli.core.errors import ConfigError, ResourceError, RunError
from dlcli.runs.sweeps import Sweep


def check_installed() -> None:
    """ConfigError (exit 2) without Ray."""
    import importlib.util

    if importlib.util.find_spec("ray") is None:
        raise ConfigError("--on ray needs ray: pip install 'dlcli[ray]'")


class OnRay:
    """jobs: workers, each with so many CPUs and GPUs. where: `ray` for this machine or the cluster that RAY_ADDRESS
    names, or ray://HOST:PORT."""

    def __init__(self, where: str, sweep: Sweep, *, jobs: int, cpus: int, gpus: int) -> None:
        import ray

        address = where if where.startswith("ray://") else None
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR", include_dashboard=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ResourceError(f"--on {where} cannot be reached: {' '.join(str(error).split())[:200]}") from None
        self._ray = ray
        runs_dir = str(sweep.root.absolute())
        start = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=-1)(_work)
        self._tasks = [start.remote(runs_dir, sweep.number, cpus) for _ in range(jobs)]

    def check(self) -> None:
        """RunError (exit 4) if a worker could not join: most likely the folder of runs is not shared."""
        done, _ = self._ray.wait(self._tasks, num_returns=len(self._tasks), timeout=0)
        for task in done:
            if message := self._ray.get(task):
                raise RunError(f"a worker on Ray ended: {message}")

    def close(self) -> None:
        with contextlib.suppress(Exception):
            for task in self._tasks:
                self._ray.cancel(task)
        self._ray.shutdown()


def _work(runs_dir: str, number: int, cpus: int) -> str:
    """Runs on a node. Returns why it could not join, or nothing."""
    from dlcli.core.errors import DlcliError
    from dlcli.sweeps.joining import join
    from dlcli.sweeps.worker import work

    try:
        connection: Any = join(Sweep(Path(runs_dir), number))
    except DlcliError as error:
        return str(error)
    work(connection, runs_dir, cpus, alone=False)
    return ""
