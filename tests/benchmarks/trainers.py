"""dlcli beside other trainers. Run by the Python of an environment that has them: `make bench-peers`."""

import sys
from collections.abc import Iterator
from functools import partial
from importlib.metadata import version
from typing import Any

from tests.benchmarks.memory import answer
from tests.benchmarks.noise import Guard
from tests.benchmarks.report import cells, markdown, run
from tests.benchmarks.rounds import compare

TITLE = "Other trainers"
ROUNDS = 2
ABOUT = """
Each trains the same architecture on the same images as its documentation says, in a process of its own with its own
choice of threads: an epoch, then the evaluation of the 10,000 test images. Lightning, Accelerate and Ignite get
torchvision's images through a DataLoader, or *tensors*: normalised ones in memory, in a TensorDataset. Keras and skorch
get arrays. Rates are samples a second of the whole call, first step and all; *first step* is counted from the start
of the process. Each is compared as dlcli / peer: above 1, dlcli is faster.
"""

# model, batch size, images of the epoch
_ROWS = (("cnn", 64, 10_000), ("cnn", 256, 10_000), ("lenet", 64, 10_000), ("lenet", 256, 10_000), ("mlp", 100, 20_000))

# name -> the module in peers/ and what it is told.
PEERS = {
    "dlcli": ("plain", "--loop", "dlcli"),
    "textbook": ("plain", "--loop", "textbook"),
    "lightning": ("lightning",),
    "lightning, tensors": ("lightning", "--tensors"),
    "accelerate": ("accelerate",),
    "accelerate, tensors": ("accelerate", "--tensors"),
    "ignite": ("ignite",),
    "ignite, tensors": ("ignite", "--tensors"),
    "keras": ("keras",),
    "skorch": ("skorch",),
}
_PACKAGES = ("lightning", "accelerate", "pytorch-ignite", "keras", "skorch")


def measure(only: str, rounds: int, guard: Guard) -> Iterator[dict[str, Any]]:
    for model, batch_size, samples in _ROWS:
        name = f"{model} {batch_size}"
        if only not in name:
            continue
        jobs = {peer: partial(_figures, words, model, batch_size, samples) for peer, words in PEERS.items()}
        found = compare(jobs, rounds=rounds, guard=guard)
        sizes = {found.median(f"{peer} parameters") for peer in PEERS}
        if len(sizes) != 1:
            raise RuntimeError(f"{name} is not the same model everywhere: {sorted(sizes)} parameters")
        ratios = {
            peer: {what: found.ratio(f"dlcli {what}", f"{peer} {what}") for what in ("train", "eval")} for peer in PEERS
        }
        versions = {package: version(package) for package in _PACKAGES}
        yield {"name": name, "ratio": ratios, "versions": versions, **found.as_dict()}


def _figures(words: tuple[str, ...], model: str, batch_size: int, samples: int) -> dict[str, float]:
    from tests.benchmarks.data import TEST

    found = answer(words[0], model, batch_size, samples, *words[1:])
    rates = {"train": samples / found["train_seconds"], "eval": TEST / found["eval_seconds"]}
    return rates | {name: found[name] for name in ("first_step", "peak_mb", "accuracy", "parameters")}


def table(rows: list[dict[str, Any]]) -> str:
    parts = []
    for row in rows:
        lines = []
        for peer in PEERS:
            median = {what: row["median"][f"{peer} {what}"] for what in ("train", "eval", "first_step", "peak_mb")}
            values = [
                (median["train"], ",.0f"), (row["ratio"][peer]["train"], ".2f"),
                (median["eval"], ",.0f"), (row["ratio"][peer]["eval"], ".2f"), (median["first_step"], ".1f"),
            ]  # fmt: skip
            accuracy = f"{row['median'][f'{peer} accuracy']:.3f}"
            lines.append([peer, *cells(row, values), f"{median['peak_mb']:.0f}", accuracy])
        header = [f"{row['name']} (noise {row['noise']:.2f})", "train /s", "dlcli / peer", "eval /s", "dlcli / peer",
                  "first step s", "peak MB", "accuracy"]  # fmt: skip
        parts.append(markdown(header, lines))
    told = ", ".join(f"{name} {number}" for name, number in rows[-1]["versions"].items()) if rows else ""
    return f"{told}.\n\n" + "\n".join(parts)


if __name__ == "__main__":
    run(sys.modules[__name__])
