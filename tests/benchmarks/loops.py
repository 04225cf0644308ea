"""The loops that are compared. Each trains the same architecture on the same data.

textbook: torchvision, DataLoader, torch.optim, as in an article. tight: tensors in memory, a permutation, a plain
step, no logging at all. compute: one fixed batch again and again. dlcli: what `dlcli train` does once the data is
there: making the run, epochs, progress, metrics, log, and checkpoints until they are on the disk.
"""

import atexit
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dlcli import TrainConfig
from dlcli.compute.devices import autocast, set_precision
from dlcli.experiment.build import build
from tests.benchmarks import data, models

IMAGES = ("cnn", "lenet", "mlp")
_TEXTBOOK_EVAL_BATCH, _EVAL_BATCH = 1000, 500


@dataclass(frozen=True)
class Work:
    """samples: of an epoch. test: images that are evaluated; of rows of tokens the training ones are.

    threads: 0 leaves the choice to the loop. tensors: the textbook gets tensors instead of torchvision's images.
    """

    model: str
    batch_size: int
    samples: int
    epochs: int = 1
    threads: int = 0
    precision: str = "fp32"
    device: str = "cpu"
    test: int = data.TEST
    tensors: bool = False

    @property
    def trained(self) -> int:
        return self.samples * self.epochs

    @property
    def evaluated(self) -> int:
        return self.test if self.model in IMAGES else self.samples


class Loop(NamedTuple):
    """model: to count parameters. evaluate: returns the accuracy."""

    model: nn.Module
    train: Callable[[], None]
    evaluate: Callable[[], float]


def nothing() -> None:
    pass


def make(loop: str, work: Work, after_step: Callable[[], None] = nothing) -> Loop:
    if loop == "dlcli":
        return ours(work, after_step)
    if loop.startswith("textbook"):
        return textbook(work, after_step, workers=2 if loop == "textbook-2" else 0)
    return tight(work, after_step, fixed=loop == "compute")


def textbook(work: Work, after_step: Callable[[], None], workers: int) -> Loop:
    model, train_set, test_set = textbook_parts(work)
    optimizer = _optimizer(model, work)
    train_loader = torch.utils.data.DataLoader(train_set, work.batch_size, shuffle=True, num_workers=workers)
    test_loader = torch.utils.data.DataLoader(test_set, _TEXTBOOK_EVAL_BATCH, num_workers=workers)

    def train() -> None:
        model.train()
        for _ in range(work.epochs):
            running = 0.0
            for x, y in train_loader:
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x).flatten(0, -2), y.flatten())
                loss.backward()
                optimizer.step()
                running += loss.item()
                after_step()

    def evaluate() -> float:
        model.eval()
        loss, correct, count = 0.0, 0, 0
        with torch.no_grad():
            for x, y in test_loader:
                output, y = model(x).flatten(0, -2), y.flatten()
                loss += F.cross_entropy(output, y, reduction="sum").item()
                correct += (output.argmax(1) == y).sum().item()
                count += len(y)
        return correct / count

    return Loop(model, train, evaluate)


def textbook_parts(work: Work) -> tuple[nn.Module, Any, Any]:
    """The model, and training and test set as torchvision, or as a TensorDataset, gives them."""
    if work.model in IMAGES and not work.tensors:
        from torchvision import datasets, transforms

        root = data.folder(work.samples, work.test)
        transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((data.MEAN,), (data.STD,))])
        sets = [datasets.FashionMNIST(str(root), train=train, transform=transform) for train in (True, False)]
        return models.plain(work.model), sets[0], sets[1]
    model, (x, y), (test_x, test_y) = tensors(work)
    return model, torch.utils.data.TensorDataset(x, y), torch.utils.data.TensorDataset(test_x, test_y)


def tensors(work: Work) -> tuple[nn.Module, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    if work.model == "rnn":
        x, y, vocabulary = data.text(work.samples)
        return models.plain("rnn", vocabulary=vocabulary), (x, y), (x, y)
    if work.model == "attention":
        x, y, vocabulary, classes = data.recall(work.samples)
        model = models.plain("attention", vocabulary=vocabulary, steps=x.shape[1], outputs=classes)
        return model, (x, y), (x, y)
    root = data.folder(work.samples, work.test)
    (x, y), (test_x, test_y) = data.images(root, "train"), data.images(root, "t10k")
    return models.plain(work.model), (data.inputs(x), y), (data.inputs(test_x), test_y)


def tight(work: Work, after_step: Callable[[], None], fixed: bool) -> Loop:
    device = torch.device(work.device)
    set_precision(work.precision)
    model, *parts = tensors(work)
    model.to(device)
    (x, y), (test_x, test_y) = [(a.to(device), b.to(device)) for a, b in parts]
    optimizer = _optimizer(model, work)
    context = autocast(work.precision, device)

    def step(inputs: Tensor, targets: Tensor) -> None:
        with context:
            loss = F.cross_entropy(model(inputs).flatten(0, -2), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        after_step()

    def train() -> None:
        model.train()
        for _ in range(work.epochs):
            order = torch.randperm(len(x), device=device)
            for start in range(0, len(x), work.batch_size):
                rows = order[start : start + work.batch_size]
                step(x[rows], y[rows])
        _wait(device)

    def repeat() -> None:
        model.train()
        inputs, targets = x[: work.batch_size], y[: work.batch_size]
        for _ in range(work.epochs * -(-len(x) // work.batch_size)):
            step(inputs, targets)
        _wait(device)

    @torch.inference_mode()
    def evaluate() -> float:
        model.eval()
        correct = torch.zeros((), device=device)
        with context:
            for start in range(0, len(test_x), _EVAL_BATCH):
                rows = slice(start, start + _EVAL_BATCH)
                correct += (model(test_x[rows]).argmax(-1) == test_y[rows]).sum()
        return float(correct) / test_y.numel()

    return Loop(model, repeat if fixed else train, evaluate)


def ours(work: Work, after_step: Callable[[], None] = nothing) -> Loop:
    from dlcli.cli.progress import Reporter
    from dlcli.cli.training import follow
    from dlcli.evaluation.measure import measure
    from dlcli.training.session import begun

    built = build(config(work))
    part = built.dataset.test if work.model in IMAGES else built.dataset.train
    assert len(built.dataset.train) == work.samples and part is not None and len(part) == work.evaluated
    runs = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, runs)

    def train() -> None:
        with Reporter(quiet=False) as reporter, begun(built, runs_dir=runs) as session:
            follow(session, reporter, after_step)
        _wait(built.device)

    def evaluate() -> float:
        measures = measure(
            built.model, part, built.task,
            batch_size=built.eval_batch_size, threads=built.eval_threads, precision=work.precision,
            device=built.device,
        )  # fmt: skip
        return float(built.task.metrics(measures)["accuracy"] or 0.0)

    return Loop(built.model, train, evaluate)


def config(work: Work) -> TrainConfig:
    """What dlcli calls this work."""
    settings: dict[str, Any] = {"data": "fashion-mnist", "val_fraction": 0.0}
    if work.model in IMAGES:
        settings["data_dir"] = str(data.folder(work.samples, work.test))
    elif work.model == "rnn":
        settings |= {"data": "pydocs", "test_fraction": 1 - work.samples / data.text_rows()}
    else:
        settings |= {"data": "recall", "data_options": {"samples": work.samples}, "test_fraction": 0.0}
    return TrainConfig(
        model=work.model, batch_size=work.batch_size, epochs=work.epochs, precision=work.precision, device=work.device,
        optimizer="sgd" if work.model in IMAGES else "adam", threads=work.threads or "auto", **settings,
    )  # fmt: skip


class Threads(NamedTuple):
    train: int
    evaluate: int


def auto_threads(model: str, batch_size: int) -> Threads:
    """How many threads dlcli takes on this machine by itself."""
    built = build(config(Work(model, batch_size, samples=batch_size)))
    return Threads(built.threads, built.eval_threads)


def _optimizer(model: nn.Module, work: Work) -> torch.optim.Optimizer:
    if work.model in IMAGES:
        return torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    return torch.optim.Adam(model.parameters(), lr=0.001)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
