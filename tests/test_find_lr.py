"""dlcli train MODEL --find-lr: the real steps at a rising rate, a suggestion near the best, and nothing left behind."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from dlcli import TrainConfig, train
from dlcli.cli.main import app
from dlcli.core.errors import ConfigError, DivergedError
from dlcli.core.seeds import derive
from dlcli.data import batches
from dlcli.experiment.build import build
from dlcli.training.find_lr import Search, find_lr, smooth


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def config(**settings: Any) -> TrainConfig:
    return TrainConfig("mlp", **{"device": "cpu", "threads": 1, **settings})


def test_the_losses_are_those_of_torchs_sgd_at_the_same_rates() -> None:
    found = find_lr(build(config()), lowest=1e-3, highest=0.1, steps=30)
    assert found.rates == pytest.approx([1e-3 * 100 ** (n / 29) for n in range(30)])
    built = build(config())
    torch.manual_seed(derive(0, "training"))
    optimizer = torch.optim.SGD(built.model.parameters(), lr=1.0, momentum=0.9)
    stream = batches.endless(built.dataset.train, 64, seed=0, epoch=1, count=built.batches_per_epoch)
    expected = []
    for rate, batch in zip(found.rates, stream, strict=False):
        optimizer.param_groups[0]["lr"] = rate
        loss = torch.nn.functional.cross_entropy(built.model(batch.x), batch.y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        expected.append(float(loss.detach()))
    assert found.losses == pytest.approx(expected, rel=1e-4)
    assert not found.diverged


def test_the_ramp_ends_when_the_loss_is_four_times_its_lowest() -> None:
    found = find_lr(build(config()))
    assert found.diverged and found.rates[-1] < 10
    assert found.smoothed[-1] > 4 * min(found.smoothed)
    assert all(s <= 4 * min(found.smoothed[: n + 1]) for n, s in enumerate(found.smoothed[:-1]) if n >= 10)
    assert found.steepest < found.lowest


@pytest.mark.parametrize(("lowest", "falls"), [(99, True), (90, True), (88, False), (40, False)])
def test_a_loss_that_falls_to_the_end_is_a_lower_bound(lowest: int, falls: bool) -> None:
    """Not where it grows a little and stays there, as with batch norm, which does not diverge."""
    losses = [2.0 if step > lowest else 3.0 - step / 100 for step in range(100)]
    losses[lowest] = 1.0
    assert Search([1.0] * 100, losses, losses, False).falls_to_the_end is falls


def test_the_mean_is_that_of_adam() -> None:
    losses = [4.0, 2.0, 3.0]
    weighted = [4.0, (0.9 * 4 + 2) / 1.9, (0.81 * 4 + 0.9 * 2 + 3) / 2.71]
    assert smooth(losses) == pytest.approx(weighted)


def test_a_suggestion_makes_no_run(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["train", "mlp", "--device", "cpu", "--threads", "1", "--find-lr", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert 0.03 < found["suggestion"] < 0.3  # of mlp on digits
    assert len(found["rates"]) == len(found["losses"]) == len(found["smoothed"])
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"model": "mlp", "epochs": 5},
        {"model": "cnn", "epochs": 5},
        {"model": "rnn", "steps": 40, "val_fraction": 0.02},
        {"model": "resnet18", "data": "digits", "model_options": {"stem": "small"}, "steps": 40},
    ],
    ids=lambda settings: settings["model"],
)
def test_the_suggestion_is_within_a_factor_of_3_of_the_best_of_a_grid(settings: dict[str, Any], tmp_path: Path) -> None:
    base = TrainConfig(device="cpu", threads=1, **settings)
    suggestion = find_lr(build(base)).suggestion
    losses = {}
    for rate in (10 ** (exponent / 2) for exponent in range(-7, 2)):
        try:
            *_, last = train(base.replace(lr=rate), runs_dir=tmp_path / "runs")
            losses[rate] = last.metrics["val/loss"] or math.inf
        except DivergedError:
            losses[rate] = math.inf
    best = min(losses, key=losses.__getitem__)
    assert best / 3 <= suggestion <= best * 3


def test_a_training_afterwards_is_not_changed(tmp_path: Path) -> None:
    before = list(train(config(epochs=1), runs_dir=tmp_path / "a"))
    find_lr(build(config()), steps=20, lowest=1e-3, highest=0.1)
    after = list(train(config(epochs=1), runs_dir=tmp_path / "b"))
    assert [row.metrics for row in after] == [row.metrics for row in before]


def test_the_curve_is_drawn_or_written(tmp_path: Path) -> None:
    words = ["train", "mlp", "--device", "cpu", "--threads", "1", "--find-lr"]
    drawn = CliRunner().invoke(app, words).stdout
    assert "mlp on digits: loss while the learning rate rises" in drawn
    assert drawn.splitlines()[-2].split() == "suggested --lr now lowest loss at steepest at lowest loss steps".split()
    done = CliRunner().invoke(app, [*words, "-o", "lr.csv", "--csv"])
    lines = (tmp_path / "lr.csv").read_text().splitlines()
    rows = done.stdout.splitlines()
    assert rows[0] == "step,rate,loss,smoothed" and done.stderr == "written: lr.csv\n"
    assert len(lines) == 1 + 2 * (len(rows) - 1) + 1  # loss and mean of each step, and the suggestion


def test_a_loss_that_never_falls_has_no_suggestion(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError) as caught:
        find_lr(build(config()), lowest=50.0, highest=1000.0, steps=40)
    assert "the loss never falls from" in str(caught.value) or "no longer finite after" in str(caught.value)


def test_the_lowest_and_the_steepest_of_a_curve() -> None:
    found = Search([0.1, 0.2, 0.4, 0.8], [9, 5, 4, 8], [9, 5, 4, 8], True)
    assert (found.lowest, found.steepest) == (0.4, 0.2)
    assert found.suggestion == 0.08


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--find-lr", "--name", "a"), "--name is for a training, and --find-lr makes no run: leave one of them out"),
        (("--find-lr", "--plots"), "--plots is for a training, and --find-lr makes no run: leave one of them out"),
        (("-o", "a.svg"), "--output a.svg is for --find-lr: add it, or draw a run with dlcli plot"),
        (("--find-lr", "-o", "a.txt"), "--output a.txt must end in .svg, .png, .html or .csv"),
        (("--find-lr", "-o", "old.svg"), "--output old.svg exists: choose another file"),
    ],
    ids=str,
)
def test_a_mistake_is_told_in_a_sentence(words: tuple[str, ...], error: str, tmp_path: Path) -> None:
    (tmp_path / "old.svg").write_text("mine")
    done = CliRunner().invoke(app, ["train", "mlp", *words])
    assert (done.exit_code, done.stderr) == (2, f"error: {error}\n")
    assert [file.name for file in tmp_path.iterdir()] == ["old.svg"] and (tmp_path / "old.svg").read_text() == "mine"
