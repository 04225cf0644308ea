"""The disk space and memory of a training are estimated before it starts."""

import json
import re
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dlcli import TrainConfig, train
from dlcli.cli.main import app
from dlcli.compute import devices
from dlcli.core.errors import ResourceError
from dlcli.experiment.build import build
from dlcli.experiment.estimate import check_space, estimate
from dlcli.runs.run import Run


@pytest.mark.parametrize(
    "settings",
    [{}, {"optimizer": "adamw", "ema": 0.9, "keep_last": 3}, {"optimizer": "gd", "batch_size": "full"}],
    ids=str,
)
def test_the_checkpoints_of_a_run_fit_in_what_was_estimated(settings: dict[str, object], tmp_path: Path) -> None:
    config = TrainConfig(model="mlp", epochs=4, device="cpu", **settings)  # type: ignore[arg-type]
    if config.batch_size != "full":
        config = config.replace(checkpoint_every="11steps")
    built = build(config)
    list(train(config, runs_dir=tmp_path))
    files = list(Run(tmp_path, 1).checkpoints.rglob("*.safetensors"))
    size = sum({f.stat().st_ino: f.stat().st_size for f in files}.values())
    estimated = estimate(built)["checkpoints (bytes)"]
    assert 0.4 * estimated < size < estimated + 20_000 * len(files)  # random states and headers are small


def test_a_disk_that_is_too_small_is_told_before_a_run_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 300_000))
    config = TrainConfig(model="mlp", device="cpu")  # 17,226 parameters with momentum
    with pytest.raises(ResourceError) as caught:
        list(train(config, runs_dir=tmp_path / "new" / "runs"))
    assert str(caught.value) == (
        f"runs_dir = {tmp_path / 'new' / 'runs'} has 0.3 MB free, but the checkpoints of this training take 0.6 MB: "
        "free some, choose another --runs-dir or a smaller --keep-last"
    )
    assert not (tmp_path / "new").exists()
    check_space(build(config.replace(keep_last=1, optimizer="gd", batch_size="full", momentum=None)), "runs")


MLP = 64 * 128 + 128 + 128 * 64 + 64 + 64 * 10 + 10  # parameters, on digits
LAYERS = 128 + 128 + 64 + 64 + 10  # number of values in the outputs of its layers; Flatten returns a view


def taken(*, batch: int, optimizer: int) -> tuple[str, int]:
    """The start of the error message for a training that is too large, and its bytes.

    optimizer: number of values that the optimizer keeps for each parameter.
    """
    weights, activations, data = 4 * MLP * (2 + optimizer), 4 * LAYERS * batch, 1797 * (64 + 8)  # images stay bytes
    parts = [f"{part / 1e6:,.3f} MB" for part in (weights + activations + data, weights, activations, data)]
    told = (
        "this training takes at least {} of memory (weights and optimizer {}, a batch of {:,} {}, data {}), and cpu "
        "has "
    ).format(parts[0], parts[1], batch, *parts[2:])
    return told, weights + activations + data


@pytest.mark.parametrize(
    ("words", "batch", "optimizer", "mend"),
    [
        ((), 64, 1, "model"),
        (("--optimizer", "adam", "--batch-size", "100"), 100, 2, "model"),
        (("--batch-size", "full"), 1294, 1, "--batch-size"),
    ],
    ids=str,
)
def test_a_training_that_is_too_large_for_the_memory(
    words: tuple[str, ...], batch: int, optimizer: int, mend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, needed = taken(batch=batch, optimizer=optimizer)
    command = ["train", "mlp", "--device", "cpu", "--epochs", "1", "--runs-dir", str(tmp_path / "runs"), *words]
    monkeypatch.setattr(devices, "memory", lambda device=None: 300_000)
    done = CliRunner().invoke(app, command)
    assert (done.exit_code, done.stdout) == (6, "")
    assert done.stderr == f"error: {told}0.300 MB: take a smaller {mend}\n"
    assert not (tmp_path / "runs").exists()
    done = CliRunner().invoke(app, [*command, "--dry-run", "--json"])
    found = json.loads(done.stdout)
    assert (done.exit_code, found["memory (bytes)"], found["memory of the device (bytes)"]) == (6, needed, 300_000)
    assert json.loads(done.stderr)["error"] == f"{told}0.300 MB: take a smaller {mend}"
    monkeypatch.setattr(devices, "memory", lambda device=None: needed)
    assert CliRunner().invoke(app, command).exit_code == 0


def test_a_batch_of_a_resume_may_be_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    list(train(TrainConfig("mlp", device="cpu", epochs=1), runs_dir=tmp_path))
    told, needed = taken(batch=640, optimizer=1)
    monkeypatch.setattr(devices, "memory", lambda device=None: needed - 1)
    done = CliRunner().invoke(
        app, ["resume", "1", "--runs-dir", str(tmp_path), "--epochs", "20", "--batch-size", "640"]
    )
    assert done.exit_code == 6
    assert done.stderr.startswith(f"error: {told}")
    assert Run(tmp_path, 1).info()["status"] == "finished"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("mlp", "--set", "model.hidden=1000000,1000000"),
            r"there is not enough memory for another 4000\.0 GB: this machine has [\d.]+ GB",
        ),
        (
            ("mlp", "--data", "random", "--set", "data.samples=1000000000000"),
            r"data random does not fit into memory for another [\d.]+ GB: this machine has [\d.]+ GB; take a smaller "
            "part of it",
        ),
    ],
    ids=str,
)
def test_what_no_machine_has(words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    for more in ((), ("--dry-run",)):
        done = CliRunner().invoke(
            app, ["train", *words, "--device", "cpu", "--runs-dir", str(tmp_path / "runs"), *more]
        )
        assert done.exit_code == 6
        assert re.fullmatch(f"error: {message}\n", done.stderr)
        assert not (tmp_path / "runs").exists()


def test_a_model_beyond_the_memory_is_stopped_while_it_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "memory", lambda device=None: 120_000_000)
    done = CliRunner().invoke(app, ["train", "mlp", "--set", "model.hidden=4000,4000", "--device", "cpu"])
    assert done.exit_code == 6
    assert re.fullmatch(
        r"error: model mlp with hidden=\(4000, 4000\), .* takes more than 0\.2 GB of memory, and this machine has "
        r"0\.1 GB: take a smaller one\n",
        done.stderr,
    )
