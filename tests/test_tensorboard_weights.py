"""`--log-weights` and `runs publish --weights`: histograms and filters, read back by TensorBoard's own classes."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dlcli import TrainConfig, resume, train
from dlcli.compute.histograms import histogram
from dlcli.core.errors import ConfigError
from dlcli.runs import events
from dlcli.runs.run import Run
from tests.test_resume import everything
from tests.test_tensorboard import call, scalars

DIGITS = TrainConfig(
    "cnn", data="digits", epochs=3, device="cpu", batch_size=256, checkpoint_every="1epoch", log="tensorboard",
    log_weights=True,
)  # fmt: skip
ENDLESS = {"scalars": 0, "histograms": 0, "images": 0}


def opened(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder), size_guidance=ENDLESS)
    found.Reload()
    return found


def steps(board: EventAccumulator) -> dict[str, list[int]]:
    found = {tag: [one.step for one in board.Histograms(tag)] for tag in board.Tags()["histograms"]}
    return found | {tag: [one.step for one in board.Images(tag)] for tag in board.Tags()["images"]}


def check_best(board: EventAccumulator, run: Run) -> None:
    """The records at the step of the best checkpoint are of its weights, counted by numpy."""
    (folder,) = newest(run, "best")
    step, file = int(folder.name.removeprefix("best-")), folder / "model.safetensors"
    weights = load_file(file)
    tags = {tag.removeprefix("weights/") for tag in board.Tags()["histograms"]}
    assert tags and tags <= set(weights) and not any("running" in tag for tag in tags)
    for name in tags:
        (found,) = [one.histogram_value for one in board.Histograms(f"weights/{name}") if one.step == step]
        values = weights[name].astype(np.float64)
        assert found.num == values.size and (found.min, found.max) == (values.min(), values.max())
        assert found.sum == pytest.approx(values.sum()) and found.sum_squares == pytest.approx((values**2).sum())
        below = [int((values <= limit).sum()) for limit in found.bucket_limit]
        assert np.abs(np.cumsum(found.bucket) - below).max() <= 1  # a value at the end of a bucket
        assert found.bucket_limit[-1] == values.max() and sum(found.bucket) == values.size
    (tag,) = board.Tags()["images"]
    (image,) = [one for one in board.Images(tag) if one.step == step]
    shown = np.asarray(Image.open(io.BytesIO(image.encoded_image_string)))
    assert shown.shape == (image.height, image.width)
    filters = weights[tag.removeprefix("filters/")]
    size = shown.shape[1] // 8
    scale = (size - 2) // filters.shape[3]
    for number in (0, 9):
        top, left = number // 8 * size + 1, number % 8 * size + 1
        tile = shown[top : top + size - 2 : scale, left : left + size - 2 : scale]
        expected = (filters[number, 0] / np.abs(filters).max() + 1) * 127.5
        np.testing.assert_allclose(tile, expected, atol=0.51)


def test_each_evaluation_has_its_weights_and_nothing_else_changes(tmp_path: Path) -> None:
    list(train(DIGITS, runs_dir=tmp_path))
    list(train(DIGITS.replace(log="none", log_weights=False), runs_dir=tmp_path))
    run, folder = Run(tmp_path, 1), tmp_path / "1" / "tensorboard"
    board = opened(folder)
    evaluated = [int(row["step"] or 0) for row in run.metrics()]
    assert len(evaluated) == 3 and steps(board) and all(found == evaluated for found in steps(board).values())
    check_best(board, run)
    tensors, _, rows = everything(run)
    plain, _, plain_rows = everything(Run(tmp_path, 2))
    assert rows == plain_rows and all(tensors[name].equal(plain[name]) for name in plain)


def test_a_resumed_run_keeps_those_that_still_count(tmp_path: Path) -> None:
    run, folder = Run(tmp_path, 1), tmp_path / "1" / "tensorboard"
    board = None
    with pytest.raises(ZeroDivisionError):
        for record in train(DIGITS, runs_dir=tmp_path):
            board = board or EventAccumulator(str(folder), size_guidance=ENDLESS)
            if record.epoch == 2:
                raise ZeroDivisionError
    list(resume(run, epochs=4))
    assert board is not None
    board.Reload()
    evaluated = [int(row["step"] or 0) for row in run.metrics()]
    assert len(evaluated) == 4
    for each in (board, opened(folder)):
        assert all(found == evaluated for found in steps(each).values())
        check_best(each, run)
    list(resume(run, epochs=5, log_weights=False))
    assert all(found == evaluated for found in steps(opened(folder)).values())
    assert len(scalars(folder)["val/loss"]) == 5


def test_a_damaged_record_and_what_follows_is_left_out(tmp_path: Path) -> None:
    one, two = (events.histograms({"w": histogram(torch.arange(10.0)) or {}}, step=step, time=1.0) for step in (1, 2))
    rest = events.scalars({"loss": 1.0}, step=1, time=1.0)
    assert events.pictorial(rest + one + rest + two, until=2) == one + two
    assert events.pictorial(one + two, until=1) == one
    for damaged in (one + two[:-1], one + two[:20] + b"x" + two[21:], one + b"\xff" * 40, one + rest[:5]):
        assert events.pictorial(damaged, until=9) == one


@pytest.mark.parametrize("values", [[], [float("nan")], [2.0, 2.0], [float("inf"), -1.0, 1.0]])
def test_a_histogram_of_few_or_odd_values(values: list[float]) -> None:
    found = histogram(torch.tensor(values))
    finite = [value for value in values if np.isfinite(value)]
    if not finite:
        assert found is None
    else:
        assert found is not None and sum(found["bucket"]) == found["num"] == len(finite)
        assert len(found["bucket"]) == len(found["bucket_limit"]) and found["bucket_limit"][-1] == max(finite)


@pytest.mark.parametrize("logged", [True, False])
def test_publish_takes_those_of_the_training_else_of_the_checkpoints(
    logged: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    list(train(DIGITS.replace(log_weights=logged), runs_dir="runs"))
    call("runs", "publish", "1", "--to", "tensorboard:plain")
    assert not steps(opened(Path("plain/1")))
    call("runs", "publish", "1", "--to", "tensorboard:board", "--weights")
    board, run = opened(Path("board/1")), Run(Path("runs"), 1)
    kept = sorted({int(path.name.split("-")[1]) for role in ("best", "last") for path in newest(run, role)})
    expected = [int(row["step"] or 0) for row in run.metrics()] if logged else kept
    assert all(found == expected for found in steps(board).values()) and steps(board)
    check_best(board, run)


def newest(run: Run, role: str) -> list[Path]:
    return sorted(run.checkpoints.glob(f"{role}-*"), key=lambda path: int(path.name.split("-")[1]))[-1:]


def test_a_model_without_filters_has_histograms_alone(tmp_path: Path) -> None:
    made: Any = {"epochs": 1, "device": "cpu", "log": "tensorboard", "log_weights": True}
    list(train(TrainConfig("linear", data="line", **made), runs_dir=tmp_path))
    board = opened(tmp_path / "1" / "tensorboard")
    assert len(board.Tags()["histograms"]) == 2 and not board.Tags()["images"]


def test_it_needs_a_log() -> None:
    with pytest.raises(ConfigError, match="^log_weights needs log = tensorboard$"):
        TrainConfig("mlp", log_weights=True)
