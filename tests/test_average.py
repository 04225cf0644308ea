"""`dlcli average`: the mean of weights as a run that can be measured, applied and exported."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from dlcli import TrainConfig, evaluate, resume, train
from dlcli.checkpoints import checkpoint
from dlcli.cli.main import app
from dlcli.core.errors import RunError
from dlcli.data.batches import shuffled
from dlcli.experiment.build import build
from dlcli.experiment.restore import restore
from dlcli.runs.run import Run
from dlcli.training.average import average
from dlcli.training.normalization import estimate_statistics


class WithNorm(nn.Module):
    def __init__(self, spec: Any, *, width: int = 8) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3),
            nn.Linear(36 * width, spec.outputs),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


def config(**settings: Any) -> TrainConfig:
    given = {"model": "tests.test_average:WithNorm", "device": "cpu", "epochs": 2, "batch_size": 100, "keep_last": 9}
    return TrainConfig(**(given | settings))


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs 1 to 3 that differ in their learning rate, 4 in its seed, 5 in its width, 6 in its data."""
    root = tmp_path_factory.mktemp("runs")
    varied: list[dict[str, Any]] = [
        {}, {"lr": 0.02}, {"lr": 0.005}, {"seed": 1}, {"model_options": {"width": 4}},
        {"data": "random", "data_options": {"shape": (1, 8, 8), "classes": 10}},
    ]  # fmt: skip
    for changes in varied:
        list(train(config(checkpoint_every="4steps", **changes), runs_dir=root))
    return root


@pytest.fixture
def runs(three: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(three, tmp_path / "runs"))


def dlcli(root: Path, *words: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, [*words, "--runs-dir", str(root)])
    return done.exit_code, done.stdout, done.stderr


def test_the_weights_are_the_means_and_the_parents_are_recorded(runs: Path) -> None:
    code, out, told = dlcli(runs, "average", "1:3", "--name", "soup", "--json")
    assert code == 0, told
    members = [checkpoint.load(Run(runs, n).checkpoints, "best") for n in (1, 2, 3)]
    made = checkpoint.load(Run(runs, 7).checkpoints, "best")
    for name, value in made.weights.items():
        if "running" not in name and value.is_floating_point():
            mean = torch.stack([m.weights[name].double() for m in members]).mean(0).float()
            torch.testing.assert_close(value, mean, rtol=1e-7, atol=1e-9)
    info = Run(runs, 7).info()
    assert info["status"] == "finished"
    assert [(p["run"], p["checkpoint"]) for p in info["parents"]] == [
        (str(runs / str(n)), member.path.name) for n, member in zip((1, 2, 3), members, strict=True)
    ]
    for parent, member in zip(info["parents"], members, strict=True):
        assert parent["sha256"] in (member.path / "MANIFEST.json").read_text()
    document = json.loads(out)
    assert (document["run"], document["parents"]) == (7, info["parents"])
    assert "the statistics of 1 batch normalizations were estimated on 1,294 samples" in told


def test_batch_normalization_is_estimated_as_torch_does(runs: Path) -> None:
    """torch.optim.swa_utils.update_bn over the same batches, without dropout."""
    made = average([Run(runs, n) for n in (1, 2, 3)], runs_dir=runs)
    own = restore(made.run).model
    theirs = restore(made.run).model
    built = build(made.run.config())
    theirs.layers[4].p = 0.0  # update_bn is in training mode
    batches = [b.x for b in shuffled(built.dataset.train, built.batch_size, seed=0, epoch=1)]
    torch.optim.swa_utils.update_bn(batches, theirs)
    for name in ("layers.1.running_mean", "layers.1.running_var"):
        assert torch.equal(own.state_dict()[name], theirs.state_dict()[name])
        of_first = checkpoint.load(Run(runs, 1).checkpoints, "best").weights[name]
        assert not torch.allclose(own.state_dict()[name], of_first, rtol=1e-3)


def test_a_model_without_statistics_is_left_as_it_is() -> None:
    built = build(TrainConfig(model="cnn", device="cpu"))
    before = {name: value.clone() for name, value in built.model.state_dict().items()}
    assert estimate_statistics(built) == 0
    assert all(torch.equal(value, before[name]) for name, value in built.model.state_dict().items())


def test_it_is_measured_applied_exported_and_listed_like_a_trained_run(runs: Path) -> None:
    made = average([Run(runs, n) for n in (1, 2, 3)], runs_dir=runs)
    assert made.monitor == "val/accuracy"
    info = made.run.info()
    assert info["best"]["value"] == made.metrics["val/accuracy"] == info["metrics"]["val/accuracy"]
    assert evaluate(made.run, split="val").metrics["accuracy"] == made.metrics["val/accuracy"]
    assert made.run.metrics()[-1]["val/accuracy"] == made.metrics["val/accuracy"]
    for words in (
        ("export", "7", "--format", "safetensors"),
        ("runs", "show", "7"),
        ("runs",),
        ("runs", "diff", "1", "7"),
    ):
        code, _, told = dlcli(runs, *words)
        assert code == 0, told


def test_checkpoints_of_one_run_are_averaged(runs: Path) -> None:
    code, _, told = dlcli(runs, "average", "1", "--last", "3")
    assert code == 0, told
    steps = checkpoint.steps(Run(runs, 1).checkpoints, "last")[:3]
    members = [checkpoint.load(Run(runs, 1).checkpoints, "last", step=step).weights for step in steps]
    found = checkpoint.load(Run(runs, 7).checkpoints, "best").weights["layers.5.weight"]
    torch.testing.assert_close(found, torch.stack([m["layers.5.weight"] for m in members]).mean(0))
    assert [p["step"] for p in Run(runs, 7).info()["parents"]] == steps


def test_an_average_of_runs_with_other_seeds_says_that_its_validation_is_not_fair(runs: Path) -> None:
    code, _, told = dlcli(runs, "average", "1", "4")
    assert code == 0
    assert "the runs have different seeds: some may have been trained on what validates the average" in told


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("1",), 2, "an average is of at least two: name several runs, or one with --last N of its checkpoints"),
        ((), 2, "an average is of at least two: name several runs, or one with --last N of its checkpoints"),
        (("1", "--last", "1"), 2, "--last 1 must be at least 2"),
        (("1", "2", "--last", "3"), 2, "--last 3 averages checkpoints of one run, but 2 are named: name one"),
        (("1", "--last", "30"), 4, "{1} keeps 7 last checkpoints, but --last is 30: train with --keep-last 30"),
        (
            ("1", "5"), 4,
            "{5} has another architecture than {1} (model.width differs): average runs of one model",
        ),
        (("1", "6"), 4, "{6} was trained on other data than {1}: average runs on the same data"),
        (("1", "99"), 4, "there is no run 99 in {root}: see `dlcli runs`"),
    ],
)  # fmt: skip
def test_what_cannot_be_averaged_is_refused_without_a_new_run(
    words: tuple[str, ...], code: int, message: str, runs: Path
) -> None:
    found, _, told = dlcli(runs, "average", *words)
    places = {str(n): str(runs / str(n)) for n in range(1, 7)}
    for key, place in places.items():
        message = message.replace("{" + key + "}", place)
    assert (found, told.strip()) == (code, f"error: {message.replace('{root}', str(runs))}")
    assert not (runs / "7").exists()


def test_an_average_is_not_resumed(runs: Path) -> None:
    made = average([Run(runs, 1), Run(runs, 2)], runs_dir=runs)
    before = {path: path.read_bytes() for path in made.run.path.rglob("*") if path.is_file()}
    with pytest.raises(RunError) as caught:
        list(resume(made.run, epochs=9))
    assert str(caught.value) == f"{made.run} is an average of 2 checkpoints: it has no training to go on from"
    assert {path: path.read_bytes() for path in before} == before


def test_an_average_can_be_averaged(runs: Path) -> None:
    first = average([Run(runs, 1), Run(runs, 2)], runs_dir=runs)
    assert average([first.run, Run(runs, 3)], runs_dir=runs).run.number == 8
