"""No trainer at all, or dlcli: one of the loops of loops.py as a process, with its own choice of threads."""

import sys


def main() -> None:
    if "dlcli" in sys.argv:
        from dlcli.cli.main import _limit_spinning

        _limit_spinning()  # as `dlcli train` does, before torch is imported
    from tests.benchmarks.loops import make
    from tests.benchmarks.peers.stopwatch import Stopwatch

    watch = Stopwatch()
    made = make(watch.given.loop, watch.work, after_step=watch.first_step)
    watch.run(made.train, made.evaluate, parameters=sum(p.numel() for p in made.model.parameters()))


if __name__ == "__main__":
    main()
