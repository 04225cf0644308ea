"""Rows: the result of `take`, and that a whole training does not depend on the storage."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dlcli import TrainConfig
from dlcli.checkpoints import checkpoint
from dlcli.core.spec import DataSpec
from dlcli.data import batches, prepare
from dlcli.data.dataset import Dataset, Split
from dlcli.data.preprocessing import Preprocessing
from dlcli.data.rows import Normalised, Rows, Tensors
from dlcli.data.source import Source
from dlcli.evaluation.measure import evaluate
from dlcli.experiment.build import build
from dlcli.experiment.estimate import estimate
from dlcli.export.original import Original
from dlcli.runs.run import Run
from tests.trained import fit_new

IMAGE = DataSpec("multiclass", "image", (3, 4, 5), 7)
ABOUT = Preprocessing(IMAGE, mean=(100.3, 7.7, 201.1), std=(3.3, 77.7, 0.7))


def pixels(count: int = 9) -> Tensor:
    x = torch.randint(256, (count, 3, 4, 5), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    return x.contiguous(memory_format=torch.channels_last)


def normalised(x: Tensor) -> np.ndarray:
    """Computed in numpy, rounded to float32 after each operation."""
    mean, std = (np.array(values, np.float32).reshape(1, -1, 1, 1) for values in (ABOUT.mean, ABOUT.std))
    return (x.numpy().astype(np.float32) - mean) * (np.float32(1) / std)  # type: ignore[no-any-return]


@pytest.mark.parametrize("indices", [slice(2, 5), slice(7, 100), torch.tensor([8, 0, 3, 3])], ids=str)
def test_what_is_taken_is_normalised_and_lies_in_channels_last_memory(indices: Tensor | slice) -> None:
    raw = pixels()
    rows = Normalised(Tensors(raw, torch.arange(9)), ABOUT)
    x, y = rows.take(indices)
    np.testing.assert_array_equal(x.numpy(), normalised(raw[indices]))
    assert x.dtype == torch.float32 and x.is_contiguous(memory_format=torch.channels_last)
    assert y is not None and y.tolist() == torch.arange(9)[indices].tolist()
    assert torch.equal(raw, pixels())


def test_a_slice_of_tensors_is_no_copy() -> None:
    raw = pixels()
    x, y = Tensors(raw, None).take(slice(2, 5))
    assert x.data_ptr() == raw[2].data_ptr() and len(x) == 3 and y is None


@pytest.mark.parametrize(("about", "dtype"), [(Preprocessing(IMAGE), torch.float32), (None, torch.uint8)])
def test_without_normalisation_values_stay_and_tokens_stay_tokens(
    about: Preprocessing | None, dtype: torch.dtype
) -> None:
    tokens = DataSpec("next-token", "tokens", (4,), 50, vocabulary=50)
    rows = Normalised(Tensors(pixels(), None), about or Preprocessing(tokens))
    x, _ = rows.take(torch.tensor([1, 0]))
    assert x.dtype == dtype and torch.equal(x, pixels()[[1, 0]].to(dtype))


def dataset(**more: Any) -> Dataset:
    source = Source(IMAGE, pixels(60), torch.arange(60) % 7, **more)
    return prepare.prepare(source, val_fraction=0.1, test_fraction=None, normalize=True, seed=0)


def test_images_are_held_as_bytes_and_what_splits_share_counts_once() -> None:
    image, label = 3 * 4 * 5, 8
    assert dataset().bytes == 60 * (image + label)
    assert dataset(test_x=pixels(8), test_y=torch.arange(8) % 7).bytes == 68 * (image + label)


@pytest.mark.parametrize("index", [None, torch.tensor([8, 1, 5, 2])])
def test_a_part_of_a_split_is_counted_from_its_own_first_sample(index: Tensor | None) -> None:
    split = Split(Tensors(pixels(), torch.arange(9)), index)
    part = batches.full(split.part(torch.tensor([0, 3])))
    assert part.y.tolist() == ([0, 3] if index is None else [8, 2])
    assert torch.equal(part.x, pixels()[part.y])


# Another storage: every row is read from a memory-mapped file


class OnDisk:
    """Rows in two files, images as (N, H, W, C); it has nothing in common with Tensors except the protocol of Rows."""

    device = torch.device("cpu")
    bytes = 123
    taken = 0

    def __init__(self, folder: Path, x: Tensor, y: Tensor | None) -> None:
        folder.mkdir(parents=True)
        self._image = x.dim() == 4
        self._inputs = self._mapped(folder / "inputs.npy", x.permute(0, 2, 3, 1) if self._image else x)
        self._targets = None if y is None else self._mapped(folder / "targets.npy", y)

    @staticmethod
    def _mapped(file: Path, values: Tensor) -> np.ndarray:
        np.save(file, values.numpy(), allow_pickle=False)
        return np.load(file, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]

    def __len__(self) -> int:
        return len(self._inputs)

    def prefetch(self, indices: Tensor | slice) -> None:
        pass

    def take(self, indices: Tensor | slice) -> tuple[Tensor, Tensor | None]:
        OnDisk.taken += 1
        chosen = range(len(self))[indices] if isinstance(indices, slice) else indices.tolist()
        x = torch.from_numpy(np.stack([self._inputs[i] for i in chosen]))
        y = None if self._targets is None else torch.from_numpy(np.stack([self._targets[i] for i in chosen]))
        return x.permute(0, 3, 1, 2) if self._image else x, y


@pytest.fixture
def on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """After the call, data are stored on the disk."""
    number = itertools.count()

    def store(x: Tensor, y: Tensor | None) -> Rows:
        return OnDisk(tmp_path / f"stored-{next(number)}", x, y)

    monkeypatch.setattr(OnDisk, "taken", 0)
    return lambda: monkeypatch.setattr(prepare, "Tensors", store)


TRAININGS: dict[str, dict[str, Any]] = {
    "images, augmented": {
        "model": "cnn", "data": "digits", "augment": ("shift=1", "rotate", "erase", "noise", "mixup"), "epochs": 1,
        "batch_size": 256,
    },
    "images, mlp": {"model": "mlp", "data": "digits", "epochs": 2},
    "features": {"model": "logistic", "data": "breast-cancer", "epochs": 2},
    "regression, one batch": {
        "model": "linear", "data": "make-regression", "batch_size": "full", "optimizer": "gd", "epochs": 3,
    },
    "all rows are trained on": {
        "model": "mlp", "data": "iris", "val_fraction": 0.0, "test_fraction": 0.0, "epochs": 2,
    },
    "text": {"model": "rnn", "data": f"text:{__file__}", "data_options": {"length": 16}, "epochs": 1},
    "tokens": {"model": "attention", "data": "recall", "data_options": {"samples": 200}, "epochs": 1},
}  # fmt: skip


def all_of(config: TrainConfig, runs_dir: Path) -> dict[str, Any]:
    """Train, evaluate and prepare an export; returns the results."""
    built = build(config)
    fit_new(built, runs_dir)
    run = Run(runs_dir, 1)
    saved = checkpoint.load(run.checkpoints, "last", with_training=True)
    original = Original(run, raw=True, dtype="float32")
    rows = [{k: v for k, v in row.items() if k not in ("seconds", "samples_per_second")} for row in run.metrics()]
    return {
        "weights": saved.weights,
        "metrics": rows,
        "evaluation": evaluate(run, split=original.reference.split, device="cpu").metrics,
        "fingerprint": run.data(),
        "reference": original.reference.x,
        "answer": original.reference.answer,
        "calibration": np.concatenate(list(original.calibration().values())),
        "estimate": estimate(built),
    }


@pytest.mark.parametrize("kind", TRAININGS)
def test_a_training_cannot_tell_one_storage_from_another(kind: str, tmp_path: Path, on_disk: Any) -> None:
    config = TrainConfig(**TRAININGS[kind], device="cpu", threads=1)
    expected = all_of(config, tmp_path / "tensors")
    assert OnDisk.taken == 0
    on_disk()
    found = all_of(config, tmp_path / "disk")
    assert OnDisk.taken > 0
    assert expected["weights"].keys() == found["weights"].keys()
    assert all(torch.equal(weight, found["weights"][name]) for name, weight in expected["weights"].items())
    assert torch.equal(expected["answer"], found["answer"])
    for name in ("reference", "calibration"):
        np.testing.assert_array_equal(expected[name], found[name])
    for name in ("metrics", "evaluation", "fingerprint"):
        assert expected[name] == found[name]
    assert expected["metrics"] and expected["evaluation"]
    assert found["estimate"]["memory of data (bytes)"] == OnDisk.bytes
    assert len(found["calibration"]) > 0
