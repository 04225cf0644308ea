"""resnet18 on a folder of photographs at 224 pixels, by one of five loops, as a process: samples a second, peak memory.

tight: tensors in memory, normalised before, channels-last, no augmentation, no logging. dlcli: an epoch without
augmentation, and `dlcli augmented` with random crops and mirrored. timm: what its train.py does by default with the
parts of its package (the script is not in the package). lightning: as its documentation trains. timm and lightning read
the files with two workers, crop and mirror.
"""

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

BATCH, CLASSES, SIZE = 32, 4, 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Clock:
    """Counts from the end of the first step, with which everything is warm."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def step(self, *ignored: Any, **also: Any) -> None:
        self.times.append(time.perf_counter())

    @property
    def rate(self) -> float:
        return BATCH * (len(self.times) - 1) / (self.times[-1] - self.times[0])


def steps(model: Any, optimizer: Any, batches: Iterable[Any], precision: str, clock: Clock) -> None:
    """A plain loop."""
    import torch

    model.train()
    for x, y in batches:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = torch.nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        clock.step()


def tight(folder: Path, precision: str, clock: Clock) -> None:
    import torch
    from torchvision import datasets, models
    from torchvision import transforms as T

    ways = T.Compose([T.Resize(SIZE), T.CenterCrop(SIZE), T.ToTensor(), T.Normalize(MEAN, STD)])
    read = list(datasets.ImageFolder(str(folder), ways))
    x = torch.stack([image for image, _ in read]).contiguous(memory_format=torch.channels_last)
    y = torch.tensor([label for _, label in read])
    model = models.resnet18(num_classes=CLASSES).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    order = torch.randperm(len(x)).split(BATCH)
    steps(model, optimizer, ((x[rows], y[rows]) for rows in order), precision, clock)


def dlcli(folder: Path, precision: str, clock: Clock, augment: tuple[str, ...] = ()) -> None:
    from dlcli import TrainConfig, train

    config = TrainConfig(
        "resnet18", data=f"images:{folder}", data_options={"size": SIZE}, batch_size=BATCH, epochs=1, device="cpu",
        val_fraction=0.0, test_fraction=0.0, precision=precision, optimizer="sgd", augment=augment, log_every=1,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as runs:
        for _ in train(config, runs_dir=runs, stop=clock.step):
            pass


def timm(folder: Path, precision: str, clock: Clock) -> None:
    import timm.data
    import timm.optim
    import torch

    model = timm.create_model("resnet18", num_classes=CLASSES)
    optimizer = timm.optim.create_optimizer_v2(model, "sgd", lr=0.01, weight_decay=2e-5, momentum=0.9)
    loader = timm.data.create_loader(
        timm.data.create_dataset("", root=str(folder), split=".", is_training=True), (3, SIZE, SIZE), BATCH,
        is_training=True, num_workers=2, use_prefetcher=False, device=torch.device("cpu"),
    )  # fmt: skip
    steps(model, optimizer, loader, precision, clock)


def lightning(folder: Path, precision: str, clock: Clock) -> None:
    import lightning as pl
    import torch
    from torchvision import datasets, models
    from torchvision import transforms as T

    class Classifier(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = models.resnet18(num_classes=CLASSES)

        def training_step(self, batch: Any, _: int) -> Any:
            x, y = batch
            return torch.nn.functional.cross_entropy(self.model(x), y)

        def on_train_batch_end(self, *_: Any) -> None:
            clock.step()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)

    ways = T.Compose([T.RandomResizedCrop(SIZE), T.RandomHorizontalFlip(), T.ToTensor(), T.Normalize(MEAN, STD)])
    loader = torch.utils.data.DataLoader(datasets.ImageFolder(str(folder), ways), BATCH, shuffle=True, num_workers=2)
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, precision={"fp32": "32-true", "bf16": "bf16-mixed"}[precision],
    )  # fmt: skip
    trainer.fit(Classifier(), loader)


LOOPS: dict[str, Callable[[Path, str, Clock], None]] = {
    "tight": tight,
    "dlcli": dlcli,
    "dlcli augmented": lambda *given: dlcli(*given, augment=("crop", "flip")),
    "timm": timm,
    "lightning": lightning,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("loop", choices=LOOPS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("precision", choices=("fp32", "bf16"))
    given = parser.parse_args()
    if given.loop.startswith("dlcli"):
        from dlcli.cli.main import _limit_spinning

        _limit_spinning()  # as `dlcli train` does, before torch is imported
    clock = Clock()
    with contextlib.redirect_stdout(sys.stderr):
        LOOPS[given.loop](given.folder, given.precision, clock)
    from tests.benchmarks.peers.stopwatch import peak_mb

    print(json.dumps({"rate": clock.rate, "steps": len(clock.times), "peak_mb": peak_mb()}))


if __name__ == "__main__":
    main()
