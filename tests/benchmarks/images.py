"""Folders of images: whole trainings, and loaders alone, against torchvision's ImageFolder in a DataLoader."""

import os
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks.noise import Guard
from tests.benchmarks.process import output
from tests.benchmarks.report import cells, markdown, run
from tests.benchmarks.rounds import compare

TITLE = "Image folders"
ROUNDS = 3
ABOUT = """
*Whole process*: seconds of one epoch of `cnn` on the 50,000 JPEG files of CIFAR-10, with an evaluation at its end.
*Loader*: seconds for an epoch of random resized crops to 224 pixels, mirrored and normalised, in batches of 64, without
a model. Each against torchvision's `ImageFolder` in a `DataLoader` with 2 workers, in a process of its own. *First*:
with an empty cache; *cached*: with what the run before has left.
"""

# An epoch of images as batches; the argument is the folder.
_OURS = """
import os, sys, time
os.environ["GOMP_SPINCOUNT"] = "5000"  # as the command line does
from pathlib import Path
import torch
from dlcli.data import augment, batches
from dlcli.data.images.folder import images
from dlcli.data.prepare import prepare
torch.set_num_threads(2)
start = time.perf_counter()
source = images(Path("."), path=sys.argv[1], size=224, stored_size=256)
official = source.val_x is not None
data = prepare(source, val_fraction=None if official else 0.0, test_fraction=0.0, normalize=True, seed=0)
ways = augment.parse(("crop", "flip"), data.spec)
for batch in batches.shuffled(data.train, 64, seed=0, epoch=1, augmentations=ways, blank=data.blank()):
    batch.x.sum()
print(time.perf_counter() - start)
"""
_THEIRS = """
import os, sys, time
from pathlib import Path
os.environ["GOMP_SPINCOUNT"] = "5000"
import torch
from torchvision import datasets, transforms as T
torch.set_num_threads(2)
normalize = T.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
ways = T.Compose([T.RandomResizedCrop(224), T.RandomHorizontalFlip(), T.ToTensor(), normalize])
start = time.perf_counter()
folder = Path(sys.argv[1])
data = datasets.ImageFolder(str(folder / "train" if (folder / "train").is_dir() else folder), ways)
for x, y in torch.utils.data.DataLoader(data, 64, shuffle=True, num_workers=2):
    x.sum()
print(time.perf_counter() - start)
"""
_TRAINING = """
import sys
import torch
from torchvision import datasets, transforms as T
from dlcli.core.spec import DataSpec
from dlcli.models.cnn import CNN
torch.manual_seed(0)
ways = T.Compose([T.ToTensor(), T.Normalize([0.491, 0.482, 0.447], [0.247, 0.243, 0.262])])
train, test = (datasets.ImageFolder(f"{sys.argv[1]}/{part}", ways) for part in ("train", "test"))
model = CNN(DataSpec("multiclass", "image", (3, 32, 32), 10))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
for x, y in torch.utils.data.DataLoader(train, 64, shuffle=True, num_workers=2):
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
model.eval()
right = 0
with torch.no_grad():
    for x, y in torch.utils.data.DataLoader(test, 1000, num_workers=2):
        right += (model(x).argmax(1) == y).sum().item()
"""


def measure(only: str, rounds: int, guard: Guard) -> Iterator[dict[str, Any]]:
    own = Path(os.environ.get("DLCLI_DATA_DIR", "")) / "own"
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        name = "whole process, CIFAR-10 at 32"
        if only in name and (own / "cifar10-jpeg.zip").exists():
            folder = _unzipped(own / "cifar10-jpeg.zip", place)
            yield _row(name, partial(_train, folder, place), partial(_timed, _TRAINING, folder), rounds, guard)
        for name, make in (("loader, photographs at 224", _as_they_are), ("loader, 1280 x 960 at 224", _enlarged)):
            if only in name and (own / "hymenoptera_data").exists():
                folder = make(own / "hymenoptera_data", place)
                yield _row(name, partial(_load, folder, place), partial(_told, _THEIRS, folder), rounds, guard)


def _row(
    name: str, ours: Callable[[bool], float], theirs: Callable[[], float], rounds: int, guard: Guard
) -> dict[str, Any]:
    jobs = {"first": partial(ours, True), "cached": partial(ours, False), "theirs": theirs}
    found = compare(jobs, rounds=rounds, guard=guard)
    ratios = {job: found.ratio(job, "theirs") for job in ("first", "cached")}
    return {"name": name, "ratios": ratios, **found.as_dict()}


def _train(folder: Path, place: Path, empty: bool) -> float:
    words = ["-m", "dlcli", "train", "cnn", "--data", f"images:{folder}", "--epochs", "1", "--quiet", "--eval", "test"]
    start = time.perf_counter()
    output(*words, "--runs-dir", str(place / "runs"), **_cache(place, empty))
    return time.perf_counter() - start


def _load(folder: Path, place: Path, empty: bool) -> float:
    return float(output("-c", _OURS, str(folder), **_cache(place, empty)))


def _cache(place: Path, empty: bool) -> dict[str, str]:
    """The environment of a process with an empty cache, which then stays for the next."""
    current = place / "cache"
    if empty and current.exists():
        for path in (current / "dlcli" / "images").iterdir():
            path.unlink()
    return {"XDG_CACHE_HOME": str(current)}


def _timed(code: str, folder: Path) -> float:
    start = time.perf_counter()
    output("-c", code, str(folder))
    return time.perf_counter() - start


def _told(code: str, folder: Path) -> float:
    return float(output("-c", code, str(folder)))


def _unzipped(file: Path, place: Path) -> Path:
    with zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            if not name.endswith("/") and ".." not in name:
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                (place / name).write_bytes(archive.read(name))
    return place / "cifar10"


def _as_they_are(folder: Path, place: Path) -> Path:
    """A copy without the GIF that is no photograph, of which every reader makes something else."""
    for path in folder.rglob("*.jp*g"):
        copy = place / "photos" / path.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    return place / "photos"


def _enlarged(folder: Path, place: Path) -> Path:
    from PIL import Image

    for path in folder.rglob("*.jp*g"):
        copy = place / "large" / path.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            image.convert("RGB").resize((1280, 960)).save(copy, quality=90)
    return place / "large"


def table(rows: list[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        median, ratios = row["median"], row["ratios"]
        seconds = [(median[job], ".2f") for job in ("first", "cached", "theirs")]
        values = [*seconds, (ratios["first"], ".2f"), (ratios["cached"], ".2f")]
        lines.append([row["name"], *cells(row, values), f"{row['noise']:.2f}"])
    header = ["", "first", "cached", "ImageFolder", "first / ImageFolder", "cached / ImageFolder", "noise"]
    return markdown(header, lines)


if __name__ == "__main__":
    run(sys.modules[__name__])
