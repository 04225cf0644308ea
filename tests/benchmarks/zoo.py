"""A network of the zoo on photographs beside other trainers. Run by the Python of an environment that has them:
`make bench-peers`."""

import json
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.benchmarks.noise import Guard
from tests.benchmarks.peers.zoo import CLASSES, LOOPS
from tests.benchmarks.process import output
from tests.benchmarks.report import cells, markdown, run
from tests.benchmarks.rounds import compare

TITLE = "resnet18 at 224"
ROUNDS = 3
ABOUT = """
Samples a second of `resnet18` at 224 pixels in batches of 32: an epoch of 128 JPEG files, each in a process of its own
with its own choice of threads, counted from the end of the first step. *tight*: tensors in memory, channels-last, a
plain loop without augmentation, to be compared with `dlcli`. timm's parts, as its train.py combines them, and Lightning
read the files with two workers, crop and mirror, to be compared with `dlcli augmented`.
"""
_IMAGES = 128
_COMPARED = {"tight": "dlcli", "timm": "dlcli augmented", "lightning": "dlcli augmented"}


def measure(only: str, rounds: int, guard: Guard) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = _photographs(Path(scratch) / "photos")
        for precision in ("fp32", "bf16"):
            if only in precision:
                jobs = {loop: partial(_figures, loop, folder, precision, Path(scratch)) for loop in LOOPS}
                found = compare(jobs, rounds=rounds, guard=guard)
                ratios = {peer: found.ratio(f"{ours} rate", f"{peer} rate") for peer, ours in _COMPARED.items()}
                versions = {package: version(package) for package in ("timm", "lightning")}
                yield {"name": precision, "ratio": ratios, "versions": versions, **found.as_dict()}


def _figures(loop: str, folder: Path, precision: str, scratch: Path) -> dict[str, float]:
    words = ("-m", "tests.benchmarks.peers.zoo", loop, str(folder), precision)
    found = json.loads(output(*words, XDG_CACHE_HOME=str(scratch / "cache")).splitlines()[-1])
    return {name: found[name] for name in ("rate", "peak_mb")}


def _photographs(folder: Path) -> Path:
    """Smooth noise, about as large as photographs of this size."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for number in range(_IMAGES):
        place = folder / f"class-{number % CLASSES}"
        place.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((500, 375), Image.Resampling.BICUBIC).save(place / f"{number}.jpg", quality=90)
    return folder


def table(rows: list[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        for loop in LOOPS:
            rate, peak = row["median"][f"{loop} rate"], row["median"][f"{loop} peak_mb"]
            ratio = row["ratio"].get(loop)
            lines.append([f"{row['name']}, {loop}", *cells(row, [(rate, ".1f"), (ratio, ".2f"), (peak, ".0f")])])
    told = ", ".join(f"{name} {number}" for name, number in rows[-1]["versions"].items()) if rows else ""
    return f"{told}.\n\n" + markdown(["", "samples / s", "dlcli / peer", "peak MB"], lines)


if __name__ == "__main__":
    run(sys.modules[__name__])
