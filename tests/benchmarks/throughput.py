"""`make bench`: dlcli against the loops that a person would write, side by side in one process.

textbook: torchvision, DataLoader, torch.optim, as in an article. tight: tensors in memory, a permutation, a
plain step, no logging at all. dlcli: a whole epoch of `fit`, with progress, metrics and checkpoints; its
evaluation is counted apart. All three train the same architecture on the same number of images, in turn,
several times; a ratio compares the medians.

    python -m tests.benchmarks.throughput [--rounds 3] [--samples 10000] [--json FILE]
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from dlcli import TrainConfig, experiment
from dlcli.data import dataset
from dlcli.runs import Run
from dlcli.training.loop import Epoch, fit


def plain_model(name: str, side: int) -> nn.Module:
    """The architectures of dlcli as an article writes them: NCHW memory, ReLU before pooling."""
    if name == "cnn":
        layers: list[nn.Module] = [nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        layers += [nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
        layers += [nn.Linear(64 * (side // 4) ** 2, 128), nn.ReLU(), nn.Linear(128, 10)]
    elif name == "lenet":
        layers = [nn.ZeroPad2d((32 - side) // 2), nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2)]
        layers += [nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(400, 120), nn.ReLU()]
        layers += [nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)]
    else:
        layers = [nn.Flatten(), nn.Linear(side * side, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU()]
        layers += [nn.Linear(64, 10)]
    return nn.Sequential(*layers)


class Images(torch.utils.data.Dataset[Any]):
    """Images as torchvision hands them out: PIL, then to a normalised tensor, one by one."""

    def __init__(self, pixels: torch.Tensor, labels: torch.Tensor) -> None:
        from torchvision import transforms

        self.pixels, self.labels = pixels.numpy(), labels.tolist()
        self.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.286,), (0.353,))])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> Any:
        from PIL import Image

        return self.transform(Image.fromarray(self.pixels[i])), self.labels[i]


def textbook(name: str, batch_size: int, pixels: torch.Tensor, labels: torch.Tensor) -> Callable[[], float]:
    model = plain_model(name, pixels.shape[-1])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    loader = torch.utils.data.DataLoader(Images(pixels, labels), batch_size=batch_size, shuffle=True)

    def epoch() -> float:
        start, running = time.perf_counter(), 0.0
        for x, y in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            running += loss.item()
        return time.perf_counter() - start

    return epoch


def tight(name: str, batch_size: int, pixels: torch.Tensor, labels: torch.Tensor) -> Callable[[], float]:
    model = plain_model(name, pixels.shape[-1])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    inputs = ((pixels.float() / 255 - 0.286) / 0.353)[:, None]

    def epoch() -> float:
        start = time.perf_counter()
        order = torch.randperm(len(inputs))
        for i in range(0, len(inputs), batch_size):
            rows = order[i : i + batch_size]
            loss = F.cross_entropy(model(inputs[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return time.perf_counter() - start

    return epoch


def ours(built: experiment.Experiment, folder: str) -> Callable[[], float]:
    def epoch() -> float:
        records = fit(built, Run.create(folder))
        return sum(r.seconds for r in records if isinstance(r, Epoch))

    return epoch


def start_up() -> dict[str, float]:
    """Median seconds of three whole processes each."""
    commands = {
        "import typer, rich": [sys.executable, "-c", "import typer, rich"],
        "dlcli --help": [sys.executable, "-m", "dlcli", "--help"],
        "dlcli runs": [sys.executable, "-m", "dlcli", "runs", "--runs-dir", tempfile.mkdtemp()],
        "import torch": [sys.executable, "-c", "import torch"],
        "dlcli train cnn --dry-run": [sys.executable, "-m", "dlcli", "train", "cnn", "--dry-run"],
    }
    found = {}
    for name, command in commands.items():
        times = []
        for _ in range(3):
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            times.append(time.perf_counter() - start)
        found[name] = statistics.median(times)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--json", default="")
    arguments = parser.parse_args()

    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (arguments.samples, 28, 28), generator=generator, dtype=torch.uint8)
    labels = torch.randint(10, (arguments.samples,), generator=generator)
    results: list[dict[str, Any]] = []
    print(f"{platform.machine()}, {torch.get_num_threads()} cores, Python {platform.python_version()}, "
          f"torch {torch.__version__}; {arguments.samples} images of 28x28, {arguments.rounds} rounds")  # fmt: skip
    print("| model | batch | threads | textbook /s | tight /s | dlcli /s | dlcli to textbook | dlcli to tight |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, batch_size in (("cnn", 64), ("cnn", 256), ("lenet", 64), ("mlp", 100)):
        config = TrainConfig(
            model=name, data="random", data_options={"samples": 100, "shape": (1, 28, 28)}, batch_size=batch_size,
            epochs=1, val_fraction=0.0, test_fraction=0.0,
        )  # fmt: skip
        built = experiment.build(config)
        source = dataset.Source(built.dataset.spec, pixels[:, None], labels)
        data = dataset.prepare(source, val_fraction=0.0, test_fraction=0.0, normalize=True, seed=0)
        built = experiment.with_data(built, data)
        torch.set_num_threads(built.threads)
        with tempfile.TemporaryDirectory() as folder:
            loops = {
                "textbook": textbook(name, batch_size, pixels, labels),
                "tight": tight(name, batch_size, pixels, labels),
                "dlcli": ours(built, folder),
            }
            seconds: dict[str, list[float]] = {loop: [] for loop in loops}
            for _ in range(arguments.rounds):
                for loop, epoch in loops.items():
                    seconds[loop].append(epoch())
        rate = {loop: arguments.samples / statistics.median(times) for loop, times in seconds.items()}
        row = {"model": name, "batch_size": batch_size, "threads": built.threads, **rate}
        results.append(row)
        print(
            f"| {name} | {batch_size} | {built.threads} | {rate['textbook']:,.0f} | {rate['tight']:,.0f} | "
            f"{rate['dlcli']:,.0f} | {rate['dlcli'] / rate['textbook']:.2f} | {rate['dlcli'] / rate['tight']:.2f} |",
            flush=True,
        )
    seconds_of = start_up()
    print("\n| process | seconds |\n| --- | ---: |")
    for name, value in seconds_of.items():
        print(f"| `{name}` | {value:.2f} |")
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"throughput": results, "start_up": seconds_of}, file, indent=2)


if __name__ == "__main__":
    main()
