"""What is explained: samples in files, or samples of a split of the run's own data."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dlcli.analysis.explain.subject import Subject
from dlcli.core.errors import ConfigError, DataError
from dlcli.data.batches import in_order
from dlcli.data.dataset import Dataset
from dlcli.evaluation.predict import read_inputs

MOST = 500  # samples at a time


@dataclass(frozen=True)
class Sample:
    """x: (1, ...) model input, on the device of the model. target: in words; empty if it is not known."""

    name: str
    x: Tensor
    target: str = ""


def from_files(subject: Subject, inputs: Sequence[str], *, tell: Callable[[str], None]) -> list[Sample]:
    """The samples in files, as `dlcli predict` reads them. DataError (exit 3) for a file that does not suit the run,
    and if there is no sample or more than 500."""
    found: list[Sample] = []
    for samples in read_inputs(inputs, subject.about, keep=(), tell=tell):
        if samples.note:
            tell(samples.note)
        for name, raw in zip(samples.names, samples.raw, strict=True):
            if len(found) == MOST:
                raise DataError(f"there are more than {MOST} samples in the input: explain some of them")
            found.append(Sample(name, subject.about.apply(raw[None].to(subject.device))))
    if not found:
        raise DataError("there is no sample in the input")
    return found


def parse_places(text: str) -> list[int]:
    """`0,5,7` -> the places of samples in a split. ConfigError (exit 2) for anything else."""
    cells = [cell.strip() for cell in text.split(",")]
    if not all(cell.isascii() and cell.isdecimal() and len(cell) < 12 for cell in cells):
        raise ConfigError(f"--samples {text} must name samples by their places in the split, as in --samples 0,5,7")
    places = [int(cell) for cell in cells]
    if len(set(places)) < len(places):
        raise ConfigError(f"--samples {text} names a sample twice: once is enough")
    if len(places) > MOST:
        raise ConfigError(f"--samples names {len(places):,} samples: at most {MOST} are explained at a time")
    return places


def from_split(subject: Subject, data: Dataset, split: str, places: Sequence[int]) -> list[Sample]:
    """ConfigError (exit 2) if the split does not have these samples."""
    whole = data.split(split)
    if (last := max(places)) >= len(whole):
        raise ConfigError(f"--samples {last} is not in the {split} split: its samples are 0 to {len(whole) - 1:,}")
    batches = in_order(whole.part(torch.tensor(places)), 1)
    return [
        Sample(f"{split}:{place}", batch.x, target=_told(subject, batch.y))
        for place, batch in zip(places, batches, strict=True)
    ]


def _told(subject: Subject, target: Tensor) -> str:
    about = subject.about
    if subject.spec.task == "next-token":
        return ""
    if subject.spec.task == "regression":
        return f"{float(target) * about.target_std + about.target_mean:.6g}"
    return subject.names[int(target)]
