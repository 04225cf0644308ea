"""One training in several processes: the numbers of one, whatever fails, and the run of the first of them."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from dlcli.compute.ranks import Ranks, first_host
from tests.conftest import Dlcli
from tests.test_image_folder import folder

COMMON = ("--device", "cpu", "--threads", "1", "--quiet", "--seed", "3")


def weights(root: Path, number: int) -> dict[str, torch.Tensor]:
    newest = max((root / f"runs/{number}/checkpoints").glob("last-*"), key=lambda path: int(path.name[5:]))
    return load_file(newest / "model.safetensors")


def rows(root: Path, number: int) -> list[dict[str, float]]:
    """metrics.csv without times."""
    header, *lines = (root / f"runs/{number}/metrics.csv").read_text().splitlines()
    names = header.split(",")[:-2]
    return [dict(zip(names, map(float, line.split(",")), strict=False)) for line in lines]


def record(root: Path, number: int) -> dict[str, Any]:
    return json.loads((root / f"runs/{number}/run.json").read_text())  # type: ignore[no-any-return]


def assert_equal_but_for_rounding(root: Path, processes: int, *, atol: float = 1e-5) -> None:
    """Runs 1 and 2."""
    one, several = weights(root, 1), weights(root, 2)
    assert one.keys() == several.keys() and record(root, 2)["processes"] == processes
    for name, tensor in one.items():
        torch.testing.assert_close(
            several[name], tensor, rtol=0, atol=atol, msg=lambda told, name=name: f"{name}: {told}"
        )
    for row, other in zip(rows(root, 1), rows(root, 2), strict=True):
        assert other == pytest.approx(row, rel=1e-4, abs=1e-6)


# What a step must not get wrong. 1,294 samples: in batches of 431 the last one has a single sample.
PHOTOS = ("--data", "images:photos", "--image-size", "12", "--batch-size", "9", "--lr", "0.01")
KINDS = {
    "uneven": ("mlp", "--batch-size", "100"),
    "a last batch of one sample": ("mlp", "--batch-size", "431", "--lr", "0.1"),
    "accumulated": ("mlp", "--batch-size", "50", "--accumulate", "3"),
    "weighted classes": ("mlp", "--data", "breast-cancer", "--class-weights", "0.3,1"),
    "smoothed, averaged, clipped": ("mlp", "--label-smoothing", "0.1", "--ema", "0.9", "--clip-norm", "0.5"),
    "the whole data": ("mlp", "--batch-size", "full"),
    "augmented": ("lenet", "--augment", "shift=1,rotate,erase=0.9,noise"),
    "coloured": ("lenet", "--augment", "color,randaugment", "--lr", "0.01"),
    "cropped": ("lenet", "--augment", "crop,flip", *PHOTOS, "--storage", "memory"),
    "cropped, mapped": ("lenet", "--augment", "crop,flip", *PHOTOS, "--storage", "cache"),
    "cropped, from files": ("lenet", "--augment", "crop,mixup", *PHOTOS, "--storage", "files", "--workers", "1"),
    "mixed": ("mlp", "--augment", "mixup=1,noise", "--batch-size", "101"),
    "cut": ("lenet", "--augment", "cutmix,flip", "--batch-size", "431"),
    "regression": ("mlp", "--data", "diabetes"),
    # Adam would make a step of the rounding of gradients that are zero: those of the biases of the keys.
    "next token": ("attention", "--data", "recall", "--batch-size", "33", "--optimizer", "sgd", "--lr", "0.1"),
}
OFTEN = (
    "uneven",
    "a last batch of one sample",
    "accumulated",
    "smoothed, averaged, clipped",
    "cropped, from files",
    "mixed",
)


@pytest.mark.parametrize("processes", [pytest.param(2, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize("kind", [k if k in OFTEN else pytest.param(k, marks=pytest.mark.slow) for k in KINDS])
def test_the_numbers_are_those_of_one_process(dlcli: Dlcli, tmp_path: Path, kind: str, processes: int) -> None:
    if "images:photos" in KINDS[kind]:
        folder(tmp_path / "photos", count=12)
    words = ("train", *KINDS[kind], "--steps", "9", "--eval-every", "4step", *COMMON)
    dlcli(*words)
    dlcli(*words, "--processes", str(processes))
    assert_equal_but_for_rounding(tmp_path, processes)


BUILT_IN = {
    "linear": (), "logistic": (), "mlp": (), "tabular": ("--set", "model.dropout=0"), "lenet": (), "cnn": (),
    "simple-cnn": (), "rnn": (), "attention": ("--optimizer", "sgd", "--lr", "0.1"), "ngrams": (),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3, 4])
@pytest.mark.parametrize("model", BUILT_IN)
def test_every_model_after_twenty_steps(dlcli: Dlcli, tmp_path: Path, model: str, processes: int) -> None:
    words = ("train", model, *BUILT_IN[model], "--steps", "20", *COMMON)
    dlcli(*words)
    dlcli(*words, "--processes", str(processes))
    assert_equal_but_for_rounding(tmp_path, processes)


@pytest.mark.parametrize(
    ("sizes", "models"), [((2,), ["mlp", "lenet"]), pytest.param((2, 3, 4), list(BUILT_IN), marks=pytest.mark.slow)]
)
def test_gradients_in_float64_differ_by_their_rounding_only(
    tmp_path: Path, sizes: tuple[int, ...], models: list[str]
) -> None:
    for size in (1, *sizes):
        subprocess.run([sys.executable, "-m", "tests.ranked", tmp_path, str(size), *models], check=True)
    for model in models:
        expected = load_file(tmp_path / f"{model}-1.safetensors")
        for size in sizes:
            found = load_file(tmp_path / f"{model}-{size}.safetensors")
            assert found.keys() == expected.keys()
            for name, tensor in expected.items():
                torch.testing.assert_close(found[name], tensor, rtol=1e-9, atol=1e-13 * float(1 + tensor.abs().max()))


def test_an_evaluation_in_several_processes_is_that_of_one_bit_for_bit(dlcli: Dlcli, tmp_path: Path) -> None:
    """Before the first difference in the weights there is none in any metric."""
    words = ("train", "mlp", "--lr", "1e-30", "--steps", "3", "--eval-batch-size", "7", *COMMON)
    dlcli(*words)
    dlcli(*words, "--processes", "3")
    one, several = rows(tmp_path, 1), rows(tmp_path, 2)
    for row in (*one, *several):
        row.pop("train/loss")  # a sum in another order
    assert one == several


NORMED = """
from torch import nn

class Normed(nn.Module):
    def __init__(self, spec):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 8),
            nn.BatchNorm1d(8, momentum=None), nn.ReLU(), nn.Linear(8, spec.outputs),
        )

    def forward(self, x):
        return self.layers(x)
"""


def test_synchronised_batch_normalisation_is_that_of_one_process(dlcli: Dlcli, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(NORMED)
    words = (
        "train",
        "mine:Normed",
        "--data",
        "digits",
        "--batch-size",
        "24",
        "--steps",
        "9",
        *COMMON[:-3],
        "--seed",
        "1",
    )
    dlcli(*words)
    told = dlcli(*words, "--processes", "3", "--sync-batch-norm").stderr
    assert_equal_but_for_rounding(tmp_path, 3, atol=1e-4)
    assert "normalised" not in told
    told = dlcli(*words, "--processes", "3").stderr
    assert "batches are normalised over the 8 samples of a process: --sync-batch-norm takes all 24\n" in told
    apart = weights(tmp_path, 3)["layers.4.weight"] - weights(tmp_path, 1)["layers.4.weight"]
    assert apart.abs().max() > 1e-3


def test_batches_too_small_to_be_normalised_in_each_process(dlcli: Dlcli, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(NORMED)
    done = dlcli(
        "train", "mine:Normed", "--data", "digits", "--batch-size", "5", *COMMON, "--processes", "3", check=2
    )  # fmt: skip
    assert done.stderr == (
        "error: model mine:Normed cannot be trained on one sample at a time in each of 3 processes, as with batch "
        "normalization: take batch_size above 5 (batch_size = 5, 1,294 training samples)\n"
    )
    assert not (tmp_path / "runs").exists()


def test_dropout_differs_between_the_processes(dlcli: Dlcli, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(DROPS)
    dlcli("train", "mine:Drops", "--data", "digits", "--steps", "2", *COMMON, "--processes", "2")
    kept = [json.loads((tmp_path / f"kept-{rank}.json").read_text()) for rank in range(2)]
    assert kept[0] != kept[1] and kept[0][0] != kept[0][1]


DROPS = """
import json, os
import torch
from torch import nn

class Drops(nn.Module):
    def __init__(self, spec):
        super().__init__()
        self.layer, self.drop, self.kept = nn.Linear(64, spec.outputs), nn.Dropout(0.5), []

    def forward(self, x):
        x = x.flatten(1)
        if self.training and "RANK" in os.environ and len(x) > 10:
            self.kept.append(self.drop(torch.ones(30)).tolist())
            with open(f"kept-{os.environ['RANK']}.json", "w") as file:
                json.dump(self.kept, file)
        return self.layer(self.drop(x))
"""


def test_compressed_gradients_are_rounded(dlcli: Dlcli, tmp_path: Path) -> None:
    """To the 8 bits of bfloat16: the first step of one process, to a relative error of 2**-8 in each gradient."""
    words = ("train", "mlp", "--steps", "1", "--lr", "0.1", *COMMON)
    dlcli(*words, "--lr", "1e-30")
    dlcli(*words)
    dlcli(*words, "--processes", "2", "--compress-gradients")
    start, one, several = (weights(tmp_path, number) for number in (1, 2, 3))
    for name in start:
        step, other = one[name] - start[name], several[name] - start[name]
        torch.testing.assert_close(other, step, rtol=2**-7, atol=2e-6)
    assert not all(torch.equal(one[name], several[name]) for name in one)


def test_a_parameter_that_only_one_process_uses(dlcli: Dlcli, tmp_path: Path) -> None:
    """Gets the gradient of that one, at each step: 32 of 64 samples have a gradient of 1."""
    (tmp_path / "mine.py").write_text(USES)
    words = (
        "train",
        "mine:Uses",
        "--data",
        "digits",
        "--batch-size",
        "64",
        "--set",
        "momentum=0",
        "--lr",
        "0.1",
        *COMMON,
    )
    dlcli(*words, "--steps", "3", "--processes", "2")
    assert weights(tmp_path, 1)["spare"].tolist() == pytest.approx([-0.15] * 5)


USES = """
import os
import torch
from torch import nn

class Uses(nn.Module):
    def __init__(self, spec):
        super().__init__()
        self.layer, self.spare = nn.Linear(64, spec.outputs), nn.Parameter(torch.zeros(5))

    def forward(self, x):
        x = self.layer(x.flatten(1))
        if os.environ.get("RANK") != "0" or not self.training:
            return x
        return Added.apply(x, self.spare)

class Added(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, spare):
        ctx.samples = len(x)
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient, torch.full((5,), ctx.samples / 64)
"""


def test_buffers_are_those_of_the_first_process_in_each_step(dlcli: Dlcli, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(REMEMBERS)
    dlcli("train", "mine:Remembers", "--data", "digits", "--steps", "3", *COMMON, "--processes", "2")
    seen = [json.loads((tmp_path / f"seen-{rank}.json").read_text()) for rank in range(2)]
    assert seen == [[0.0, 1.0, 2.0]] * 2


REMEMBERS = """
import json, os
import torch
from torch import nn

class Remembers(nn.Module):
    def __init__(self, spec):
        super().__init__()
        self.layer, self.seen = nn.Linear(64, spec.outputs), []
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x):
        rank = os.environ.get("RANK")
        if self.training and rank is not None and len(x) > 10:
            self.seen.append(self.count.item())
            self.count += 1 + 10 * int(rank)
            with open(f"seen-{rank}.json", "w") as file:
                json.dump(self.seen, file)
        return self.layer(x.flatten(1))
"""


def test_what_is_written_and_told(dlcli: Dlcli, tmp_path: Path) -> None:
    done = dlcli("train", "mlp", "--epochs", "2", "--device", "cpu", "--processes", "2", "--json")
    document = json.loads(done.stdout)
    assert document["status"] == "finished" and document["run"] == 1
    lines = done.stderr.splitlines()
    assert lines[0] == "run 1 in runs/1" and len([line for line in lines if line.startswith("finished")]) == 1
    assert re.fullmatch(r"2 processes on \S+; samples of a step: 64 = 2 x 32", lines[2])
    assert lines[3] == "on one processor, one process with 2 threads may be as fast"
    found = record(tmp_path, 1)
    ranks = found["ranks"]
    assert found["processes"] == 2 and len(ranks["hosts"]) == 2 and 0 <= ranks["waiting"] <= 1
    assert ranks["samples_per_second"] == pytest.approx(2 * ranks["samples_per_second_of_one"], rel=0.01)
    assert json.loads((tmp_path / "runs/1/config.json").read_text())["processes"] == 2
    assert sorted(os.listdir(tmp_path / "runs")) == ["1"]
    dlcli("eval", "1")


def test_a_resume_is_exact(dlcli: Dlcli, tmp_path: Path) -> None:
    words = ("train", "cnn", "--batch-size", "50", *COMMON, "--processes", "3", "--augment", "shift=1")
    dlcli(*words, "--epochs", "3")
    dlcli(*words, "--epochs", "1")
    done = dlcli("resume", "2", "--epochs", "3", "--exact")
    assert "from epoch 2, step 26; exact: yes" in done.stderr
    assert rows(tmp_path, 1) == rows(tmp_path, 2)
    assert all(torch.equal(tensor, weights(tmp_path, 2)[name]) for name, tensor in weights(tmp_path, 1).items())


@pytest.mark.parametrize("kind", ["structured", "unstructured"])
def test_a_pruned_network_is_trained_as_by_one_process(dlcli: Dlcli, tmp_path: Path, kind: str) -> None:
    """A new training from its weights, and a resume: the numbers of one process, and zeros that stay zero."""
    dlcli("train", "mlp", "--epochs", "1", *COMMON)
    dlcli("prune", "1", "--amount", "0.5", *(["--structured"] if kind == "structured" else []), "--epochs", "1", "-q")
    start = ("train", "mlp", "--weights", "2", "--pruned", kind, "--epochs", "1", *COMMON)
    dlcli(*start)
    dlcli(*start, "--processes", "2")
    shutil.copytree(tmp_path / "runs/2", tmp_path / "runs/5")
    dlcli("resume", "2", "--epochs", "2", "--quiet")
    dlcli("resume", "5", "--epochs", "2", "--processes", "2", "--quiet")
    before = weights(tmp_path, 1)
    for one, several in ((3, 4), (2, 5)):
        found, other = weights(tmp_path, one), weights(tmp_path, several)
        assert record(tmp_path, several)["processes"] == 2
        for name, tensor in found.items():
            torch.testing.assert_close(other[name], tensor, rtol=0, atol=1e-5)
        if kind == "structured":
            assert sum(t.numel() for t in other.values()) < 0.7 * sum(t.numel() for t in before.values())
        else:
            matrices = [name for name, tensor in other.items() if tensor.dim() == 2]
            zeros = sum(int((other[name] == 0).sum()) for name in matrices)
            assert zeros >= 0.5 * sum(other[name].numel() for name in matrices)
            assert all(torch.equal(other[name] == 0, found[name] == 0) for name in matrices)


def test_a_resume_with_another_number_of_processes(dlcli: Dlcli, tmp_path: Path) -> None:
    """Goes on at the same sample, and says that its sums are rounded otherwise."""
    words = ("train", "mlp", "--batch-size", "50", *COMMON)
    dlcli(*words, "--epochs", "2")
    dlcli(*words, "--epochs", "1", "--processes", "2")
    done = dlcli("resume", "2", "--epochs", "2", "--processes", "3")
    assert "exact: no (2 processes before, 3 now)\n" in done.stderr
    assert_equal_but_for_rounding(tmp_path, 3)
    done = dlcli("resume", "2", "--epochs", "3", "--processes", "1", "--exact", check=4)
    assert done.stderr == "error: exact: no (3 processes before, 1 now); without --exact it continues anyway\n"


# ------------------------------------------------------------------------------------------------ parts


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [0, 1, 2, 6, 7, 64, 101])
def test_the_parts_of_a_batch_are_all_of_it(size: int, count: int) -> None:
    parts = [Ranks(rank, size).part_of(10, 10 + count) for rank in range(size)]
    assert [place for start, stop in parts for place in range(start, stop)] == list(range(10, 10 + count))
    assert max(stop - start for start, stop in parts) - min(stop - start for start, stop in parts) <= 1


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("n1", "n1"),
        ("n1,n2", "n1"),
        ("gpu[07-09,12],cpu1", "gpu07"),
        ("a[3,5]-x,b", "a3-x"),
        ("c-[1-2]", "c-1"),
        ("", ""),
    ],
)
def test_the_first_host_of_a_list_of_slurm(nodes: str, first: str) -> None:
    assert first_host(nodes) == first
