"""`make bench`: all parts that need neither another environment nor a GPU, into docs/."""

from importlib import import_module

from tests.benchmarks import report
from tests.benchmarks.noise import Guard


def main() -> None:
    guard = Guard()
    for name in report.PARTS:
        if name in ("sweeps", "trainers", "zoo", "cuda"):
            continue
        part = import_module(f"tests.benchmarks.{name}")
        result = report.measured(part, "", part.ROUNDS, guard)
        print(f"## {part.TITLE}\n\n{part.table(result['rows'])}", flush=True)
        report.save(name, result)


if __name__ == "__main__":
    main()
