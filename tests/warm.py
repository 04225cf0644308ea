"""Runs `dlcli WORDS` as a process of its own that need not import torch: it is forked from one that has.

A test run starts several hundred of them, and each would import torch for two seconds.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

# What is read when the interpreter starts or a library is loaded is too late in a forked process.
_READ_AT_START = ("PYTHON", "OMP_", "MKL_", "KMP_", "OPENBLAS_", "CUDA_", "TORCH", "LD_")


class Warm:
    """A process that has imported what dlcli needs, and forks one that runs a command whenever it is asked to."""

    def __init__(self) -> None:
        self._server: subprocess.Popen[str] | None = None
        self._start = _read_at_start(os.environ)

    def run(
        self, words: Sequence[str], *, cwd: Path, environment: Mapping[str, str], timeout: float
    ) -> "subprocess.CompletedProcess[str]":
        """As subprocess.run([python, "-m", "dlcli", *words]) with captured text. environment: what is added to ours."""
        environment = {**os.environ, **environment}
        if _read_at_start(environment) != self._start or not hasattr(os, "pidfd_open"):
            return subprocess.run(
                [sys.executable, "-m", "dlcli", *words], cwd=cwd, env=environment,
                stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout,
            )  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            out, err = Path(folder, "out"), Path(folder, "err")
            request = {
                "words": list(words), "cwd": str(cwd), "env": environment, "out": str(out), "err": str(err),
                "timeout": timeout,
            }  # fmt: skip
            code = self._ask(request)
            if code is None:
                raise subprocess.TimeoutExpired(list(words), timeout, out.read_text(), err.read_text())
            return subprocess.CompletedProcess(list(words), code, out.read_text(), err.read_text())

    def _ask(self, request: Mapping[str, object]) -> int | None:
        if self._server is None:
            self._server = subprocess.Popen(
                [sys.executable, "-m", "tests.warm"], cwd=Path(__file__).parent.parent, stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, text=True, env={**os.environ, "GOMP_SPINCOUNT": "5000"},  # see cli/main.py
            )  # fmt: skip
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        answer = json.loads(self._server.stdout.readline())
        assert answer is None or isinstance(answer, int)
        return answer

    def close(self) -> None:
        if self._server is not None:
            # Not by the end of its input: a process that a test forked from this one may hold that open.
            self._server.communicate("null\n", timeout=60)


def _read_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(_READ_AT_START)}


def _serve() -> dict[str, object] | None:
    """Fork for each request and tell its exit code; returns the request in the forked process, at "null" None."""
    for line in sys.stdin:
        request = json.loads(line)
        if request is None:
            return None
        pid = os.fork()
        if pid == 0:
            return request
        print(json.dumps(_waited(pid, request["timeout"])), flush=True)
    return None


def _waited(pid: int, timeout: float) -> int | None:
    """The exit code of this child; None, and it is killed, if it takes longer than that."""
    import select
    import signal

    ended = os.pidfd_open(pid)
    there, _, _ = select.select([ended], [], [], timeout)
    os.close(ended)
    if not there:
        os.kill(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code if there else None


def _become(request: dict[str, object]) -> None:
    """Streams, folder, environment and arguments as those of `python -m dlcli`."""
    null = os.open(os.devnull, os.O_RDONLY)
    out, err = (os.open(str(request[name]), os.O_WRONLY | os.O_CREAT, 0o600) for name in ("out", "err"))
    for number, new in enumerate((null, out, err)):
        os.dup2(new, number)
        os.close(new)
    sys.stdin = open(0)
    os.chdir(str(request["cwd"]))
    os.environ.clear()
    os.environ.update(request["env"])  # type: ignore[call-overload]
    sys.argv = [str(Path(__file__).parent.parent / "dlcli" / "__main__.py"), *request["words"]]  # type: ignore[misc]
    del sys.path[0]  # the folder of the server, as __main__.py deletes that of the process


if __name__ == "__main__":
    import pandas  # noqa: F401
    import rich.console  # noqa: F401
    import safetensors.torch  # noqa: F401
    import sklearn.datasets  # noqa: F401
    import torch  # noqa: F401
    import typer  # noqa: F401

    asked = _serve()
    if asked is not None:
        _become(asked)
        from dlcli.cli.main import main

        main()
