"""`dlcli prune`: a trained run made smaller, measured, and trained on as a new run."""

import json
import os
import shlex
import shutil
import signal
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from dlcli import TrainConfig, evaluate, resume, train
from dlcli.analysis.prune import figures
from dlcli.analysis.prune.importance import of_weights
from dlcli.checkpoints import checkpoint
from dlcli.cli.main import app
from dlcli.core.errors import ConfigError, RunError
from dlcli.data.batches import shuffled
from dlcli.data.kinds import sample_input
from dlcli.experiment.build import build
from dlcli.experiment.restore import restore
from dlcli.runs.run import Run
from tests.test_cli import start, wait_for


class Careful(nn.Module):
    """A model of a user that refuses what is not finite, in one of its layers, and one channel less, in another."""

    def __init__(self, spec: Any) -> None:
        super().__init__()
        self.first, self.careful = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3)
        self.fixed, self.free = nn.Linear(8, 8), nn.Linear(8, 12)
        self.output = nn.Linear(12, spec.outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.careful(self.first(x).relu()).mean((2, 3))
        if not bool(torch.isfinite(x).all()):
            raise TypeError("not finite")
        x = self.fixed(x).relu()
        if x.shape[1] != 8:
            raise KeyError(x.shape[1])
        return self.output(self.free(x).relu())  # type: ignore[no-any-return]


class Frozen(nn.Module):
    """A model of a user that does not train its first layer."""

    def __init__(self, spec: Any, *, hidden: int = 8, graph: bool = True) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, hidden).requires_grad_(False), nn.Linear(hidden, hidden)
        self.output, self.graph = nn.Linear(hidden, spec.outputs), graph

    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(self.graph and torch.is_grad_enabled()):
            x = self.first(x.flatten(1)).relu()
        return self.output(self.second(x).relu())  # type: ignore[no-any-return]


class Own(nn.Module):
    """A model of a user: batch normalization, a residual connection, layers of which some are never called."""

    def __init__(self, spec: Any) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.inner, self.unused = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(3, 3)
        self.output = nn.Linear(8, spec.outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        return self.output((x + self.inner(x)).mean((2, 3)))  # type: ignore[no-any-return]


CNN: dict[str, Any] = {"model": "cnn", "model_options": {"channels": (8, 12), "hidden": 24}, "optimizer": "adam"}


@pytest.fixture(autouse=True)
def _few_timings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "_SECONDS", 0.0)


def config(**settings: Any) -> TrainConfig:
    return TrainConfig(**({"device": "cpu", "epochs": 2, "batch_size": 64, "threads": 1} | CNN | settings))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run 1, a cnn on digits; 2, a linear model; 3, a model of a user; 4, attention to texts."""
    root = tmp_path_factory.mktemp("runs")
    list(train(config(), runs_dir=root))
    list(train(TrainConfig(model="linear", data="line", epochs=1, device="cpu"), runs_dir=root))
    list(train(config(model="tests.test_prune:Own", model_options={}), runs_dir=root))
    list(train(TrainConfig(model="attention", data_options={"samples": 300}, epochs=1, device="cpu"), runs_dir=root))
    return root


@pytest.fixture
def runs(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "runs"))


def dlcli(root: Path, *words: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, [*words, "--runs-dir", str(root)])
    return done.exit_code, done.stdout, done.stderr


def pruned(root: Path, *words: str, code: int = 0) -> Any:
    found, out, told = dlcli(root, "prune", *words, "--json")
    assert found == code, told
    return json.loads(out)


def weights(run: Run, role: str = "best") -> dict[str, Tensor]:
    return checkpoint.load(run.checkpoints, role).weights


# Structured


def test_a_cnn_becomes_narrower_and_is_measured_and_trained(runs: Path) -> None:
    found = pruned(runs, "1", "--amount", "0.5", "--structured", "--epochs", "1", "--split", "test")
    run = Run(runs, found["run"])
    before, cut, after = found["stages"]
    sample = sample_input(build(config()).dataset.spec, 1)
    assert [row["stage"] for row in found["stages"]] == ["before", "cut", "trained"]
    assert found["path"] == str(run.path) and before["run"] == 1 and after["run"] == run.number
    removed = {tuple(row["layers"]): (row["before"], row["after"]) for row in found["removed"]}
    shapes = {name: tuple(tensor.shape) for name, tensor in weights(run).items()}
    first, second = (removed[f"convolutions.{n}",][1] for n in (0, 1))
    hidden = removed["hidden",][1]
    assert first + second + hidden == 22 and min(first, second, hidden) >= 1
    assert shapes["convolutions.1.weight"] == (second, first, 3, 3)
    assert shapes["hidden.weight"] == (hidden, second * 4) and shapes["output.weight"] == (10, hidden)
    for stage, number in ((before, 1), (cut, run.number)):
        model = restore(Run(runs, number)).model
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(sample)
        assert stage["flops"] == counter.get_total_flops()
        assert stage["parameters"] == sum(p.numel() for p in model.parameters())
        saved = next(Run(runs, number).checkpoints.glob("best-*")) / "model.safetensors"
        assert abs(stage["file_bytes"] - saved.stat().st_size) < 300
    for stage, number in ((before, 1), (after, run.number)):
        metrics = evaluate(Run(runs, number), split="test").metrics
        assert (stage["test/accuracy"], stage["test/loss"]) == (metrics["accuracy"], metrics["loss"])
    assert found["left"] == {"output": "they are answers"}
    assert [each["batch"] for each in found["latency"]][0] == 1
    for each in found["latency"]:
        assert 0 < each["low"] <= each["ratio"] <= each["high"] and each["rounds"] >= 11


def test_the_new_run_says_where_it_comes_from(runs: Path) -> None:
    found = pruned(runs, "1", "--amount", "0.3", "--structured", "--epochs", "1", "--name", "small")
    run, parent = Run(runs, found["run"]), Run(runs, 1)
    about = run.info()["pruning"]
    best = next(parent.checkpoints.glob("best-*"))
    assert about["parent"]["run"] == str(parent.path)
    assert about["parent"]["sha256"] in (best / "MANIFEST.json").read_text()
    assert (about["kind"], about["by"], about["amount"], about["trained"]) == ("structured", "magnitude", 0.3, True)
    assert about["cut"]["parameters"] == sum(t.numel() for t in weights(run).values())
    settings = run.config()
    assert (settings.weights, settings.pruned, settings.epochs) == (str(parent.path), "structured", 1)
    assert settings.lr == parent.config().lr
    for words in (("runs",), ("runs", "show", "small"), ("report", "small", "--md"), ("runs", "verify", "small")):
        code, out, told = dlcli(runs, *words)
        assert code == 0, told
    assert "structured" in dlcli(runs, "runs", "show", "small")[1]
    assert "structured, by magnitude, from " in dlcli(runs, "report", "small", "--md")[1]


@pytest.mark.parametrize(
    "words",
    [("--amount", "0.3", "--structured", "--epochs", "1", "--lr", "0.003"), ("--amount", "0.25", "--epochs", "0"),
     ("--flops", "0.6", "--structured", "--by", "gradient", "--epochs", "0")],
)  # fmt: skip
def test_the_report_names_a_command_that_makes_the_same_run(words: tuple[str, ...], runs: Path) -> None:
    first = pruned(runs, "1", *words)
    page = dlcli(runs, "report", str(first["run"]), "--md")[1]
    assert "dlcli train --config" not in page  # which would refuse the weights, that are as wide as the model
    (line,) = (line for line in page.splitlines() if line.startswith("dlcli prune /"))
    again = pruned(runs, *shlex.split(line)[2:])
    one, other = (weights(Run(runs, each["run"])) for each in (first, again))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_the_cut_network_is_stored_before_it_is_trained(runs: Path) -> None:
    found = pruned(runs, "1", "--amount", "0.5", "--structured", "--epochs", "0")
    run = Run(runs, found["run"])
    cut = found["stages"][1]
    assert len(found["stages"]) == 2 and run.info()["status"] == "finished"
    assert evaluate(run, split="val").metrics["accuracy"] == cut["val/accuracy"] == run.info()["best"]["value"]
    code, _, told = dlcli(runs, "resume", str(run.number), "--epochs", "9", "--quiet")
    assert (code, told) == (
        4,
        f"error: {run} was pruned without training: train it in a new run, dlcli train cnn --weights {run} --pruned "
        "structured\n",
    )
    list(train(config(weights=str(run.path), pruned="structured", epochs=1), runs_dir=runs))
    again = Run(runs, run.number + 1)
    assert {n: t.shape for n, t in weights(again).items()} == {n: t.shape for n, t in weights(run).items()}


def test_flops_that_may_be_left_are_reached_with_as_little_as_possible(runs: Path) -> None:
    found = pruned(runs, "1", "--flops", "0.4", "--structured", "--epochs", "0")
    before, cut = found["stages"]
    assert cut["flops"] <= 0.4 * before["flops"]
    gone = sum(row["before"] - row["after"] for row in found["removed"])
    one_less = pruned(runs, "1", "--amount", str((gone - 1) / 44), "--structured", "--epochs", "0")["stages"][1]
    assert one_less["flops"] > 0.4 * before["flops"]


def test_what_is_least_important_goes(runs: Path) -> None:
    """A channel without weights goes first, by either measure."""
    for by in ("magnitude", "gradient"):
        saved = checkpoint.load(Run(runs, 1).checkpoints, "best")
        state = {name: tensor.clone() for name, tensor in saved.weights.items()}
        for name, rows in (("convolutions.0.weight", 3), ("convolutions.0.bias", 3)):
            state[name][rows] = 0.0
        state["convolutions.1.weight"][:, 3] = 0.0
        checkpoint.save(Run(runs, 1).checkpoints, "best", weights=state, state=saved.state)
        found = pruned(runs, "1", "--amount", "0.025", "--structured", "--by", by, "--epochs", "0")
        kept = weights(Run(runs, found["run"]))["convolutions.0.weight"]
        assert torch.equal(kept, state["convolutions.0.weight"][[0, 1, 2, 4, 5, 6, 7]]), by
        assert found["stages"][0]["val/loss"] == pytest.approx(found["stages"][1]["val/loss"], rel=1e-6)


def test_the_first_order_is_the_mean_over_batches_of_weight_times_derivative(runs: Path) -> None:
    built = build(config(weights=str(runs / "1")), runs_dir=runs)
    found = of_weights(built, "gradient")
    model = restore(Run(runs, 1)).model
    wanted = torch.zeros_like(model.output.weight)
    count = 0
    for batch in shuffled(built.dataset.train, 64, seed=0, epoch=1):
        model.zero_grad()
        nn.functional.cross_entropy(model(batch.x), batch.y).backward()
        wanted += (model.output.weight * model.output.weight.grad).abs().detach()
        count += 1
    assert count == 21  # fewer than the most
    torch.testing.assert_close(found["output.weight"], wanted / count, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("structured", [True, False])
def test_what_the_model_itself_froze_matters_as_much(structured: bool, runs: Path) -> None:
    """Its derivatives are those of the same model with nothing frozen."""
    list(train(config(model="tests.test_prune:Frozen", model_options={}, epochs=1), runs_dir=runs))
    built = build(config(model="tests.test_prune:Frozen", model_options={}, weights=str(runs / "5")))
    found = of_weights(built, "gradient")
    assert [name for name, p in built.model.named_parameters() if not p.requires_grad] == ["first.weight", "first.bias"]
    assert built.dataset.train is not None
    free = build(config(model="tests.test_prune:Frozen", model_options={}, weights=str(runs / "5")))
    free.model.requires_grad_(True)
    total = torch.zeros(8, 64)
    data = list(shuffled(free.dataset.train, free.batch_size, seed=0, epoch=1))[:32]
    for batch in data:
        free.model.zero_grad()
        free.task.loss(free.model.eval()(batch.x), batch.y).backward()  # type: ignore[no-untyped-call]
        weight = free.model.get_parameter("first.weight")
        assert weight.grad is not None
        total += (weight * weight.grad).detach().abs() / len(data)
    torch.testing.assert_close(found["first.weight"], total)
    words = ["5", "--amount", "0.4", "--by", "gradient", "--epochs", "0", *(["--structured"] if structured else [])]
    made = pruned(runs, *words)
    if structured:
        removed = {row["layers"][0]: row["after"] for row in made["removed"]}
        assert set(removed) == {"first", "second"} and removed["first"] > 1


def test_what_is_computed_without_derivatives_has_no_first_order(runs: Path) -> None:
    options = {"graph": False}
    list(train(config(model="tests.test_prune:Frozen", model_options=options, epochs=1), runs_dir=runs))
    code, _, told = dlcli(runs, "prune", "5", "--amount", "0.4", "--by", "gradient", "--structured")
    assert (code, told) == (
        2,
        "error: --by gradient needs the derivative of the loss by first.weight, which model tests.test_prune:Frozen "
        "computes without derivatives: take --by magnitude\n",
    )
    assert not (runs / "6").exists()


def test_layers_whose_model_raises_are_left_alone(runs: Path) -> None:
    list(train(config(model="tests.test_prune:Careful", model_options={}, epochs=1), runs_dir=runs))
    found = pruned(runs, "5", "--amount", "0.5", "--structured", "--epochs", "0")
    assert {tuple(row["layers"]) for row in found["removed"]} == {("first",), ("free",)}
    marked = "the model fails when they are marked: TypeError in "
    assert found["left"]["careful"].startswith(marked) and found["left"]["careful"].endswith(": not finite")
    assert found["left"]["fixed"].startswith("without some of them it cannot be computed (KeyError in ")
    assert set(found["left"]) == {"careful", "fixed", "output"}


def test_a_model_that_cannot_be_copied_is_refused(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(model: nn.Module, memo: Any) -> Any:
        raise RuntimeError("no copies")

    monkeypatch.setattr(Own, "__deepcopy__", refuse, raising=False)
    for kind in ((), ("--structured",)):
        code, _, told = dlcli(runs, "prune", "3", "--amount", "0.5", *kind)
        assert code == 2 and told.startswith(
            "error: model tests.test_prune:Own cannot be pruned, since it cannot be copied: RuntimeError in "
        ), told


def test_a_run_that_is_trained_meanwhile_is_pruned_as_it_was_read(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights, and what run.json says of them, are of one checkpoint."""
    parent, real = Run(runs, 1), build
    read = checkpoint.load(parent.checkpoints, "best")
    first, path = read.weights, read.path
    digest = json.loads((path / "MANIFEST.json").read_text())["files"]["model.safetensors"]["sha256"]

    def trained_on(*args: Any, **options: Any) -> Any:
        other = {name: tensor + 1 for name, tensor in first.items()}
        state = read.state | {"step": read.state["step"] + 1}
        made = checkpoint.save(parent.checkpoints, "best", weights=other, state=state)
        shutil.rmtree(path)
        monkeypatch.undo()
        monkeypatch.setattr(figures, "_SECONDS", 0.0)
        assert made.is_dir()
        return real(*args, **options)

    monkeypatch.setattr("dlcli.analysis.prune.prune.build", trained_on)
    found = pruned(runs, "1", "--amount", "0.1", "--epochs", "0")
    assert found["parent"]["sha256"] == digest and found["parent"]["checkpoint"] == path.name
    for name, tensor in weights(Run(runs, found["run"])).items():
        assert bool(((tensor == first[name]) | (tensor == 0)).all()), name


def test_a_warm_up_that_is_longer_than_the_training_is_shortened(runs: Path) -> None:
    list(train(config(epochs=4, warmup_epochs=2.0), runs_dir=runs))
    code, _, told = dlcli(runs, "prune", "5", "--amount", "0.5", "--epochs", "1", "--quiet")
    settings = Run(runs, 6).config()
    assert (code, settings.epochs, settings.warmup_epochs) == (0, 1, 0.5), told
    assert f"warmup_epochs = 0.5: the 2 of {runs}/5 are more than --epochs 1" in (runs / "6" / "log.txt").read_text()
    kept = pruned(runs, "5", "--amount", "0.5", "--epochs", "3")
    assert Run(runs, kept["run"]).config().warmup_epochs == 2.0


def test_several_rounds_are_runs_in_a_row(runs: Path) -> None:
    found = pruned(runs, "1", "--amount", "0.5", "--structured", "--epochs", "1", "--rounds", "2", "--name", "last")
    assert [(row["run"], row["stage"]) for row in found["stages"]] == [
        (1, "before"), (5, "cut"), (5, "trained"), (6, "cut"), (6, "trained")
    ]  # fmt: skip
    first, second = (Run(runs, number).info()["pruning"] for number in (5, 6))
    assert (first["round"], second["round"], second["rounds"]) == (1, 2, 2)
    assert second["parent"]["run"] == str(runs / "5")
    channels = [sum(row["after"] for row in about["removed"]) for about in (first, second)]
    assert channels == [31, 22]  # 44 * 0.5 ** 0.5, and 44 * 0.5
    assert Run(runs, 6).config().weights == str(runs / "5")
    log = (Run(runs, 5).path / "log.txt").read_text()
    assert "round 1 of 2" in log
    assert (
        "after an interruption: dlcli resume 5, and then dlcli prune 5 --amount 0.2929 --structured --rounds 1 "
        "--epochs 1" in log
    )


def test_an_own_model_and_attention(runs: Path) -> None:
    own = pruned(runs, "3", "--amount", "0.5", "--structured", "--epochs", "1")
    assert [row["layers"] for row in own["removed"]] == [["inner", "norm", "stem"]]
    assert own["left"] == {"output": "they are answers", "unused": "it is not called as a layer"}
    assert weights(Run(runs, own["run"]))["norm.running_var"].shape == (4,)
    attention = pruned(runs, "4", "--amount", "0.5", "--structured", "--epochs", "1")
    assert attention["removed"] == [
        {"layers": ["layers.0.key", "layers.0.query", "layers.0.value"], "before": 4, "after": 2}
    ]
    run = Run(runs, attention["run"])
    assert weights(run)["layers.0.output.weight"].shape == (64, 32)
    assert restore(run).model.layers[0].heads == 2
    code, _, told = dlcli(runs, "explain", str(run.number), "--samples", "0", "--json")
    assert code == 0, told


# Zeros


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 0.1, "l1": 0.01},
        {"optimizer": "adam", "weight_decay": 0.1, "ema": 0.9},
        {"optimizer": "adamw", "weight_decay": 0.1, "clip_norm": 0.5},
        {"optimizer": "rmsprop", "momentum": 0.5, "ema": 0.5, "accumulate": 2},
        {"optimizer": "gd", "decay_all": True, "weight_decay": 0.01},
    ],
    ids=lambda settings: settings["optimizer"],
)
def test_zeros_stay_zero(settings: dict[str, Any], runs: Path) -> None:
    found = pruned(runs, "1", "--amount", "0.7", "--epochs", "0")
    run = Run(runs, found["run"])
    start = {name: tensor for name, tensor in weights(run).items() if tensor.dim() > 1}
    zeros = sum(int((tensor == 0).sum()) for tensor in start.values())
    assert zeros == round(0.7 * sum(tensor.numel() for tensor in start.values()))
    given = (
        {"weights": str(run.path), "epochs": 2}
        | settings
        | ({"batch_size": "full"} if settings["optimizer"] == "gd" else {})
    )
    for kept in ("unstructured", "none"):
        list(train(config(pruned=kept, **given), runs_dir=runs))
        made = Run(runs, run.number + (1 if kept == "unstructured" else 2))
        of_last = load_file(next(made.checkpoints.glob("last-*")) / "training.safetensors")
        for role in ("best", "last"):
            ended = weights(made, role)
            same = all(torch.equal(ended[name] == 0, tensor == 0) for name, tensor in start.items())
            assert same == (kept == "unstructured"), (role, kept)
        if kept == "unstructured" and settings.get("ema"):
            for name, tensor in start.items():
                assert torch.equal(of_last[f"model.{name}"] == 0, tensor == 0)


def test_single_weights_become_zero_wherever_they_are(runs: Path) -> None:
    found = pruned(runs, "1", "--amount", "0.8", "--epochs", "1")
    before, cut, after = found["stages"]
    assert (before["zeros"], before["flops"], before["parameters"]) == (0.0, cut["flops"], cut["parameters"])
    assert cut["zeros"] == pytest.approx(0.8, abs=1e-3) and after["zeros"] == cut["zeros"]
    run, parent = Run(runs, found["run"]), weights(Run(runs, 1))
    large = torch.cat([tensor.abs().flatten() for tensor in parent.values() if tensor.dim() > 1])
    bound = large.sort().values[round(0.8 * len(large))]
    start = {name: tensor for name, tensor in weights(run).items() if tensor.dim() > 1}
    assert all(torch.equal(tensor == 0, parent[name].abs() < bound) for name, tensor in start.items())
    content = (next(run.checkpoints.glob("best-*")) / "model.safetensors").read_bytes()
    assert len(zlib.compress(content)) < 0.45 * len(content)
    assert cut["compressed_bytes"] < 0.45 * before["compressed_bytes"]
    again = pruned(runs, str(run.number), "--amount", "0.5", "--epochs", "0")
    assert again["stages"][1]["zeros"] == pytest.approx(0.9, abs=1e-3)
    code, _, told = dlcli(runs, "prune", str(again["run"]), "--amount", "0.5", "--structured", "--epochs", "0")
    assert code == 0 and f"the zeros of {runs}/{again['run']} are trained from now on" in told


def test_it_says_that_zeros_save_no_time(runs: Path) -> None:
    code, out, told = dlcli(runs, "prune", "1", "--amount", "0.5", "--epochs", "0")
    assert code == 0, told
    assert "50.0% of the weights are zero, 0.0% before; this saves no time and no memory" in told
    assert out.splitlines()[0].split() == [
        "run", "stage", "parameters", "FLOPs", "file", "compressed", "zeros", "ms", "of", "1", "ms", "of", "144",
        "val/accuracy", "val/loss",
    ] or "zeros" in out  # fmt: skip


# What is refused


def test_require_gates(runs: Path) -> None:
    words = ("prune", "1", "--amount", "0.2", "--structured", "--epochs", "1", "--quiet")
    code, out, told = dlcli(runs, *words, "--require", "val/accuracy>=0.01", "--require", "loss<100")
    assert code == 0 and "accuracy>=0.01 holds: the value is" in told
    code, out, told = dlcli(runs, *words, "--require", "accuracy>=1.5")
    assert code == 7 and "trained" in out
    assert told.splitlines()[-1].startswith("error: accuracy>=1.5 does not hold: the value is 0.")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("1",), 2, "give --amount 0.5, the share that is removed"),
        (("1", "--amount", "0"), 2, "--amount = 0.0 is out of range: it must be in (0, 1)"),
        (("1", "--amount", "1"), 2, "--amount = 1.0 is out of range: it must be in (0, 1)"),
        (("1", "--amount", "half"), 2, "--amount = 'half' is not a number"),
        (("1", "--amount", "0.5", "--flops", "0.5", "--structured"), 2,
         "--amount 0.5 and --flops 0.5 exclude each other: give one of them"),
        (("1", "--flops", "0.5"), 2, "--flops 0.5 needs --structured: without it no FLOPs are saved"),
        (("1", "--flops", "0.001", "--structured"), 2,
         "--flops 0.001 cannot be reached by removing channels: at least 0.03"),
        (("1", "--amount", "0.97", "--structured"), 2,
         "--amount 0.97 is 43 of 44 channels and heads, and one of each layer stays: take at most 0.932"),
        (("1", "--amount", "0.01", "--structured"), 2,
         "--amount 0.01 of 44 channels and heads is none: take a larger amount"),
        (("2", "--amount", "0.5", "--structured"), 2,
         "model linear has no channels that can be removed safely (linear: they are answers): leave out --structured"),
        (("1", "--amount", "0.5", "--epochs", "0", "--lr", "0.1"), 2,
         "--lr 0.1 is for the training, and --epochs 0 leaves it out: leave out one of them"),
        (("1", "--amount", "0.5", "--rounds", "0"), 2, "--rounds = 0 is out of range: it must be >= 1"),
        (("1", "--amount", "0.5", "--epochs", "-1"), 2, "--epochs = -1 is out of range: it must be >= 0"),
        (("1", "--amount", "0.5", "--by", "size"), 2, "--by size is not one of magnitude, gradient"),
        (("1", "--amount", "0.5", "--require", "acuracy>1"), 2,
         "--require 'acuracy>1': there is no metric acuracy: did you mean accuracy or top5_accuracy or auc?"),
        (("9", "--amount", "0.5"), 4, "there is no run 9 in {root}: see `dlcli runs`"),
    ],
)  # fmt: skip
def test_what_cannot_be_pruned_is_refused_without_a_new_run(
    words: tuple[str, ...], code: int, message: str, runs: Path
) -> None:
    found, _, told = dlcli(runs, "prune", *words)
    assert found == code and told.startswith(f"error: {message.replace('{root}', str(runs))}"), told
    assert sorted(path.name for path in runs.iterdir() if path.name.isdigit()) == ["1", "2", "3", "4"]


def test_a_run_without_a_checkpoint(runs: Path) -> None:
    shutil.rmtree(runs / "1" / "checkpoints")
    code, _, told = dlcli(runs, "prune", "1", "--amount", "0.5")
    assert (code, told) == (4, f"error: {runs}/1 has no checkpoint: there is nothing to prune\n")


def test_a_network_that_does_not_answer_as_the_masked_one_is_not_kept(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dlcli.analysis.prune.prune.differs", lambda *args, made=None: "" if made is None else "no")
    code, _, told = dlcli(runs, "prune", "1", "--amount", "0.5", "--structured")
    assert (code, told) == (7, "error: the narrower network of cnn is not kept: no\n")
    assert not (runs / "5").exists()


def test_the_setting_needs_weights_and_stays_in_a_run(runs: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        config(pruned="structured")
    assert str(caught.value) == ("pruned = structured needs the weights of a pruned run to start from: weights = RUN")
    made = Run(runs, pruned(runs, "1", "--amount", "0.5", "--structured", "--epochs", "1")["run"])
    with pytest.raises(ConfigError) as caught:
        list(resume(made, epochs=3, pruned="none"))
    assert str(caught.value) == f"pruned = none, but {made} has started already: train a new run"
    list(resume(made, epochs=2))
    assert made.info()["status"] == "finished" and made.info()["pruning"]["kind"] == "structured"


@pytest.mark.parametrize(
    ("kind", "why"), [("structured", "are as wide as the model"), ("unstructured", "have no zeros")]
)
def test_a_start_that_was_not_pruned_is_refused(runs: Path, kind: str, why: str) -> None:
    """As with `dlcli train --config` of a pruned run, whose start is the whole network."""
    with pytest.raises(ConfigError) as caught:
        list(train(config(weights=str(runs / "1"), pruned=kind), runs_dir=runs))
    assert str(caught.value) == (
        f"pruned = {kind}, but the weights of {runs}/1 (best checkpoint, epoch 2) {why}: name a pruned run as weights, "
        "or leave pruned out"
    )


def test_an_embedding_has_as_many_rows_as_the_data_has_tokens(runs: Path) -> None:
    made = pruned(runs, "4", "--amount", "0.5", "--structured", "--epochs", "0")["run"]
    more = TrainConfig(
        "attention", data_options={"samples": 300, "values": 30}, epochs=1, device="cpu",
        weights=str(runs / str(made)), pruned="structured", partial=True,
    )  # fmt: skip
    list(train(more, runs_dir=runs))
    before, after = (len(weights(Run(runs, number))["embedding.weight"]) for number in (made, made + 1))
    assert after > before + 10


def test_too_little_to_be_opened_again_is_refused(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dlcli.experiment.guard._MOST_CUT", 2)
    monkeypatch.setattr("dlcli.experiment.guard._SPARE_VALUES", 0)
    code, _, told = dlcli(runs, "prune", "1", "--amount", "0.5", "--structured")
    assert code == 2 and told.endswith("values would be left, and at least 1 in 2 has to be: remove less\n")
    assert not (runs / "5").exists()


def test_an_untrained_run_is_profiled_as_it_is(runs: Path) -> None:
    made = pruned(runs, "1", "--amount", "0.5", "--structured", "--epochs", "0")
    assert (
        json.loads(dlcli(runs, "profile", str(made["run"]), "--steps", "2", "--json")[1])["flops"]
        < 0.6 * (json.loads(dlcli(runs, "profile", "1", "--steps", "2", "--json")[1])["flops"])
    )


def test_channels_and_single_weights_are_not_mixed(runs: Path) -> None:
    number = pruned(runs, "1", "--amount", "0.5", "--structured", "--epochs", "0")["run"]
    code, _, told = dlcli(runs, "prune", str(number), "--amount", "0.5")
    assert (code, told) == (
        2,
        f"error: {runs}/{number} was pruned by channels: removing single weights of it would forget that; add "
        "--structured\n",
    )
    again = pruned(runs, str(number), "--amount", "0.5", "--structured", "--epochs", "0")
    assert sum(row["after"] for row in again["removed"]) == 11


def test_weights_of_other_shapes_are_refused(runs: Path) -> None:
    number = pruned(runs, "1", "--amount", "0.5", "--structured", "--epochs", "0")["run"]
    saved = checkpoint.load(Run(runs, number).checkpoints, "best")
    state = dict(saved.weights) | {"output.weight": saved.weights["output.weight"][:, :-1].contiguous()}
    folder = checkpoint.save(Run(runs, number).checkpoints, "best", weights=state, state=saved.state)
    with pytest.raises(RunError) as caught:
        restore(Run(runs, number))
    assert str(caught.value).startswith(
        f"{folder} does not fit the model that the run describes (its layers do not fit each other: "
    )


def test_ctrl_c_saves_the_training_and_resume_goes_on(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "runs")
    process = start(tmp_path, "prune", "1", "--amount", "0.5", "--structured", "--epochs", "100000")
    wait_for(tmp_path / "runs" / "5" / "metrics.csv", "\n2,", process)
    os.killpg(process.pid, signal.SIGINT)
    out, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    run = Run(tmp_path / "runs", 5)
    assert (run.info()["status"], run.info()["stop"]) == ("interrupted", "SIGINT")
    assert "interrupted" in out and "trained" not in out
    assert "continue with: dlcli resume runs/5" in told
    done = run.info()["epochs_done"]
    list(resume(run, epochs=done + 1))
    assert (run.info()["status"], run.info()["epochs_done"]) == ("finished", done + 1)
