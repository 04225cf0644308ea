"""A process that holds one of the loops and runs it when told to, as it would run alone.

Its own process, because what one loop imports, allocates and asks of OpenMP must not touch another.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.benchmarks.loops import Work

_WARM_UP_STEPS = 5
# An evaluation can take 30 ms, too short to be timed once.
_EVALUATION_SECONDS = 0.5


class Worker:
    """loop: textbook, textbook-2, tight, compute or dlcli (see loops.py).

    spin: GOMP_SPINCOUNT; None leaves it as this loop would find it: dlcli's own choice, or unset.
    bind: whether dlcli may keep its threads on a core each.
    """

    def __init__(self, loop: str, *, spin: str | None = None, bind: bool = True) -> None:
        self.loop = loop
        self._errors = tempfile.TemporaryFile("w+")
        environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
        if not bind:
            environment["OMP_PROC_BIND"] = "false"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.worker", loop, spin or "own"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, env=environment, text=True,
        )  # fmt: skip

    def rate(self, what: str, work: "Work") -> float:
        """Samples a second of one `train`, or of as many `evaluate` as half a second takes."""
        return (work.trained if what == "train" else work.evaluated) / self._ask({"what": what, "work": asdict(work)})

    def job(self, what: str, work: "Work") -> Callable[[], float]:
        return lambda: self.rate(what, work)

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.terminate()
        self._process.communicate()
        self._errors.close()

    def _ask(self, question: dict[str, Any]) -> float:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            self._errors.seek(0)
            raise RuntimeError(f"{self.loop} failed:\n{self._errors.read()}")
        return float(answer)


def main(loop: str, spin: str) -> None:
    if spin not in ("own", "unset"):
        os.environ["GOMP_SPINCOUNT"] = spin
    elif spin == "own" and loop == "dlcli":
        from dlcli.cli.main import _limit_spinning

        _limit_spinning()
    import torch

    from tests.benchmarks.loops import Loop, Work, make

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed goes to stderr
    current: Work | None = None
    made: Loop | None = None
    for line in sys.stdin:
        question = json.loads(line)
        work = Work(**question["work"])
        if work.threads:
            torch.set_num_threads(work.threads)
        if replace(work, threads=0) != current:
            made = None  # its memory goes first
            few = replace(work, samples=min(work.samples, _WARM_UP_STEPS * work.batch_size), epochs=1)
            make(loop, few).train()
            current, made = replace(work, threads=0), make(loop, work)
        assert made is not None
        call = made.train if question["what"] == "train" else made.evaluate
        least = _EVALUATION_SECONDS if question["what"] == "evaluate" else 0.0
        calls, seconds, start = 0, 0.0, time.perf_counter()
        while not calls or seconds < least:
            call()
            calls, seconds = calls + 1, time.perf_counter() - start
        print(seconds / calls, file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
